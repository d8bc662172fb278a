"""`audiotag batch` as a person, a script and a pipe see it."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import select
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from conftest import TINY_RATE, Ran, chirp, noise, siren, stereo, tone
from sounds import write_audio

from audiotag.cli.interruption import resume_command
from audiotag.journal import JournaledFile
from audiotag.model_folder import open_model_folder, write_configs

RunAudiotag = Callable[..., Ran]
WriteWav = Callable[..., Path]

AUDIOTAG = f"{shlex.quote(sys.executable)} -m audiotag"
SUMMARY = re.compile(r"(\d+) ok, (\d+) empty, (\d+) failed; [\d.]+ s of audio, [\d,.]+ x real time")


pytestmark = pytest.mark.usefixtures("in_folder_with_tiny_model")


@pytest.fixture
def sounds(write_wav: WriteWav, tmp_path: Path) -> Path:
    """Four inputs in two folders with two names, of which one is broken."""
    write_wav("in/a.wav", tone())
    write_wav("in/sub/a.wav", chirp())
    write_wav("in/sub/z.wav", siren())
    (tmp_path / "in" / "broken.mp3").write_text("these are notes, not sound\n" * 50)
    return tmp_path / "in"


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command.replace("audiotag", AUDIOTAG)],
        capture_output=True, text=True, timeout=120, env={**os.environ, **environment},
    )  # fmt: skip


def last_line(ran: Ran) -> str:
    return ran.stderr.splitlines()[-1]


# --- accounting and exit codes ---


def test_a_folder_is_tagged_in_order_and_every_input_counted(
    run_audiotag: RunAudiotag, sounds: Path, tmp_path: Path
) -> None:
    ran = run_audiotag("batch", "in", "--out", "out.ndjson", "-t", "0")
    assert (ran.code, ran.stdout) == (3, "")
    records = [json.loads(line) for line in (tmp_path / "out.ndjson").read_text().splitlines()]
    assert [(record["path"], record["status"]) for record in records] == [
        ("in/a.wav", "ok"), ("in/broken.mp3", "failed"), ("in/sub/a.wav", "ok"), ("in/sub/z.wav", "ok"),
    ]  # fmt: skip
    summary = SUMMARY.fullmatch(last_line(ran))
    assert summary is not None
    assert summary.groups() == ("3", "0", "1")


def test_without_failures_the_exit_code_is_0(run_audiotag: RunAudiotag, sounds: Path) -> None:
    ran = run_audiotag("batch", "in/a.wav", "in/sub", "-t", "1")
    assert ran.code == 0
    assert [json.loads(line)["status"] for line in ran.stdout.splitlines()] == ["empty"] * 3
    assert last_line(ran).startswith("0 ok, 3 empty, 0 failed; 3.0 s of audio, ")


def test_a_run_into_a_file_says_how_to_see_more_where_it_found_nothing(
    run_audiotag: RunAudiotag, sounds: Path
) -> None:
    ran = run_audiotag("batch", "in/a.wav", "in/sub", "-t", "1", "--out", "out.csv")
    assert "no label reached its threshold in 3 of 3 inputs. -t 0 shows the likeliest labels" in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["in", "--model", "nowhere", "--offline"], 1, "nowhere"),
        (["in", "--out", "missing/out.csv"], 1, "there is no folder missing. Make it first"),
        (["in", "--out", "in", "-f", "csv"], 1, "in: is a folder. Choose a file"),
        (["in", "--strict"], 1, "in/broken.mp3: not decodable"),
        ([], 2, "no INPUT was given"),
        (["in", "--out", "out.xyz"], 2, "no format has the suffix"),
        (["in", "--resume"], 2, "there is no file without --out"),
        (["in", "--overwrite", "--resume", "-o", "a.csv"], 2, "contradict each other"),
        (["in", "--include-labels", "Sirn"], 2, "Did you mean 'Siren'?"),
        (["--files-from", "no list"], 2, "list of files no list"),
        (["in", "--include", "*.ogg"], 4, "no inputs"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_run_is_one_line_and_its_exit_code(
    run_audiotag: RunAudiotag, sounds: Path, arguments: list[str], code: int, complaint: str
) -> None:
    ran = run_audiotag("batch", *arguments)
    assert ran.code == code
    assert ran.stderr.startswith("audiotag: error: ")
    assert complaint in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_strict_stops_at_the_first_failure_and_can_be_resumed(
    run_audiotag: RunAudiotag, sounds: Path, tmp_path: Path
) -> None:
    assert run_audiotag("batch", "in", "--out", "out.csv", "--strict").code == 1
    assert "broken" not in (tmp_path / "out.csv").read_text()
    assert run_audiotag("batch", "in", "--out", "out.csv", "--resume").code == 3
    assert run_audiotag("batch", "in", "--out", "whole.csv").code == 3
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_failures_are_told_with_their_path_and_quiet_tells_nothing(run_audiotag: RunAudiotag, sounds: Path) -> None:
    ran = run_audiotag("batch", "in")
    assert ran.stderr.startswith("audiotag: warning: in/broken.mp3: not decodable")
    assert run_audiotag("batch", "in", "-q").stderr == ""


def test_each_channel_has_its_record_and_the_input_counts_once(
    run_audiotag: RunAudiotag, write_wav: WriteWav, tmp_path: Path
) -> None:
    write_wav("in/one.wav", tone())
    write_wav("in/two.wav", stereo(tone(), siren()))
    ran = run_audiotag("batch", "in", "--channels", "each", "-t", "0", "--out", "out.ndjson")
    assert last_line(ran).startswith("2 ok, 0 empty, 0 failed;")
    records = [json.loads(line) for line in (tmp_path / "out.ndjson").read_text().splitlines()]
    assert [(record["path"], record["channel"]) for record in records] == [
        ("in/one.wav", 0), ("in/two.wav", 0), ("in/two.wav", 1),
    ]  # fmt: skip
    _, left, right = (record["tags"][0]["score"] for record in records)
    ran = run_audiotag("batch", "in/two.wav", "--channels", "each", "-t", str((left + right) / 2))
    assert last_line(ran).startswith("1 ok, 0 empty, 0 failed;"), "a tag in one of the channels is enough"


def test_all_channels_of_an_input_are_out_before_the_next_one_is_named(write_wav: WriteWav) -> None:
    write_wav("both.wav", stereo(tone(), siren()))
    arguments = ["batch", "--files-from", "-", "--channels", "each", "-f", "ndjson", "-q"]
    command = [sys.executable, "-m", "audiotag", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"both.wav\n")
        process.stdin.flush()
        came = select.select([process.stdout], [], [], 20)[0]
        records = process.communicate(timeout=20)[0].splitlines()
    assert came, "a power cut would take it"
    assert [json.loads(record)["channel"] for record in records] == [0, 1]


def test_a_list_in_a_pipe_that_does_not_block_is_read_to_its_end(write_wav: WriteWav) -> None:
    write_wav("a.wav", tone())
    write_wav("b.wav", tone())
    reading, writing = os.pipe()
    os.set_blocking(reading, False)  # as ssh and Node leave it to who shares it
    command = [sys.executable, "-m", "audiotag", "batch", "--files-from", "-", "-f", "ndjson", "-q"]
    with subprocess.Popen(command, stdin=reading, stdout=subprocess.PIPE) as process:
        os.close(reading)
        assert process.stdout is not None
        os.write(writing, b"a.wav\n")
        first = process.stdout.readline()
        with suppress(BrokenPipeError):
            os.write(writing, b"b.wav\n")
        os.close(writing)
        rest = process.communicate(timeout=20)[0]
    assert [json.loads(record)["path"] for record in (first + rest).splitlines()] == ["a.wav", "b.wav"]


def test_a_run_that_ends_while_a_list_is_open_says_one_line(write_wav: WriteWav) -> None:
    write_wav("other.wav", tone(sample_rate=3 * TINY_RATE), sample_rate=3 * TINY_RATE)  # is resampled
    command = [sys.executable, "-m", "audiotag", "batch", "--files-from", "-", "--strict", "--no-progress"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(b"other.wav\nmissing.wav\n")
        process.stdin.flush()
        said = process.stderr.read()
    assert said == b"audiotag: error: missing.wav: does not exist. Leave out --strict to go on after a failure\n"
    assert process.returncode == 1


def test_no_speed_is_told_where_nothing_was_left_to_tag(run_audiotag: RunAudiotag, sounds: Path) -> None:
    arguments = ("batch", "in/a.wav", "in/sub", "-t", "0", "--out", "out.csv")
    for path in sounds.rglob("*.wav"):
        os.utime(path, (0, 0))
    assert SUMMARY.fullmatch(last_line(run_audiotag(*arguments)))
    assert last_line(run_audiotag(*arguments, "--resume")) == "3 ok, 0 empty, 0 failed; 3.0 s of audio"


# --- the file ---


@pytest.mark.parametrize("name", ["out.csv", "out.json", "out.parquet"])
def test_a_file_that_exists_is_kept_unless_told_otherwise(
    run_audiotag: RunAudiotag, sounds: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("precious")
    ran = run_audiotag("batch", "in", "--out", name)
    assert (ran.code, (tmp_path / name).read_text()) == (1, "precious")
    assert run_audiotag("batch", "in", "--out", name, "--resume").code == 1
    assert (tmp_path / name).read_text() == "precious"
    assert run_audiotag("batch", "in", "--out", name, "--overwrite").code == 3
    assert b"broken.mp3" in (tmp_path / name).read_bytes()
    assert {path.name for path in tmp_path.glob("out*")} == {name, f"{name}.run.json"}


@pytest.mark.parametrize("out", ["in/a.wav", "in/sub/../a.wav"])
@pytest.mark.parametrize("named", [["in"], ["in/a.wav"], ["missing", "in/a.wav", "--files-from", "list"]])
def test_an_input_is_not_overwritten(
    run_audiotag: RunAudiotag, sounds: Path, tmp_path: Path, named: list[str], out: str
) -> None:
    (tmp_path / "list").write_text("in/sub/z.wav\n")
    before = (sounds / "a.wav").read_bytes()
    ran = run_audiotag("batch", *named, "--out", out, "-f", "csv", "--overwrite")
    assert (ran.code, (sounds / "a.wav").read_bytes()) == (2, before)
    assert f"{out}: is an input and would be overwritten. Choose another file" in ran.stderr
    assert not list(sounds.glob("*.journal"))


@pytest.mark.parametrize("out", ["in/a.wav", "list.csv"])
def test_a_listed_input_and_the_list_are_not_overwritten(
    run_audiotag: RunAudiotag, sounds: Path, tmp_path: Path, out: str
) -> None:
    (tmp_path / "list.csv").write_text("in/sub/z.wav\nin/a.wav\n")
    before = (tmp_path / out).read_bytes()
    ran = run_audiotag("batch", "--files-from", "list.csv", "--out", out, "-f", "csv", "--overwrite")
    assert (ran.code, (tmp_path / out).read_bytes()) == (2, before)


def test_resume_with_other_inputs_is_refused_before_anything_is_tagged(
    run_audiotag: RunAudiotag, sounds: Path, tmp_path: Path
) -> None:
    run_audiotag("batch", "in", "--out", "out.ndjson", "-q")
    before = (tmp_path / "out.ndjson").read_bytes()
    ran = run_audiotag("batch", str(sounds), "--out", "out.ndjson", "--resume")
    assert (ran.code, (tmp_path / "out.ndjson").read_bytes()) == (1, before)
    assert not list(tmp_path.glob("*.journal*")), "it is finished as it is"
    assert re.fullmatch(
        r"audiotag: error: out\.ndjson: holds results of 3 inputs that are not named now, such as in/a\.wav\. .*\n",
        ran.stderr,
    )
    assert run_audiotag("batch", "in", "--out", "out.ndjson", "--resume").code == 3
    assert (tmp_path / "out.ndjson").read_bytes() == before


def test_resume_after_a_folder_was_renamed_tells_how_to_go_on(
    run_audiotag: RunAudiotag, sounds: Path, tmp_path: Path
) -> None:
    run_audiotag("batch", "in", "--out", "out.csv", "-q")
    (sounds / "sub").rename(sounds / "sub 2")
    ran = run_audiotag("batch", "in", "--out", "out.csv", "--resume")
    assert (ran.code, "such as in/sub/a.wav. Bring back their folder in/sub, empty to leave" in ran.stderr) == (1, True)
    (sounds / "sub").mkdir()
    assert run_audiotag("batch", "in", "--out", "out.csv", "--resume").code == 3
    run_audiotag("batch", "in", "--out", "whole.csv", "-q")
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_what_is_excluded_now_is_not_named(
    run_audiotag: RunAudiotag, sounds: Path, tmp_path: Path, write_wav: WriteWav
) -> None:
    run_audiotag("batch", "in", "--out", "out.csv", "-q")
    before = (tmp_path / "out.csv").read_bytes()
    write_wav("in/b.wav", tone())
    ran = run_audiotag("batch", "in", "--exclude", "sub/*", "--out", "out.csv", "--resume")
    assert (ran.code, (tmp_path / "out.csv").read_bytes()) == (1, before)
    assert "holds results of 2 inputs that are not named now, such as in/sub/a.wav" in ran.stderr
    assert not list(tmp_path.glob("*.journal*")), "it is finished as it is"


def test_a_list_that_lacks_what_is_done_is_refused_before_anything_is_tagged(
    run_audiotag: RunAudiotag, sounds: Path, tmp_path: Path
) -> None:
    run_audiotag("batch", "in/a.wav", "--out", "out.csv", "-q")
    before = (tmp_path / "out.csv").read_bytes()
    (tmp_path / "list").write_text("in/sub/a.wav\nin/sub/z.wav\n")
    ran = run_audiotag("batch", "--files-from", "list", "--out", "out.csv", "--resume")
    assert (ran.code, (tmp_path / "out.csv").read_bytes()) == (1, before)
    assert "holds results of 1 inputs that are not named now, such as in/a.wav" in ran.stderr
    assert not list(tmp_path.glob("*.journal*")), "it is finished as it is"


def test_what_was_added_after_a_death_in_the_cleaning_up_is_tagged(
    run_audiotag: RunAudiotag, sounds: Path, tmp_path: Path, write_wav: WriteWav, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_audiotag("batch", "in", "--out", "out.csv", "--strict").code == 1
    write_wav("in/0.wav", tone())

    def die(file: JournaledFile, provenance: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(JournaledFile, "_clean_up", die)
        run_audiotag("batch", "in", "--out", "out.csv", "--resume")
    write_wav("in/1.wav", tone())
    assert run_audiotag("batch", "in", "--out", "out.csv", "--resume").code == 3
    run_audiotag("batch", "in", "--out", "whole.csv")
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_provenance_says_what_made_the_file(run_audiotag: RunAudiotag, sounds: Path, tmp_path: Path) -> None:
    run_audiotag("batch", "in", "--out", "out.csv", "--hop", "0.25")
    told = json.loads((tmp_path / "out.csv.run.json").read_text())
    assert list(told) == [
        "audiotag", "format", "with_header", "started", "finished", "inputs", "seconds_of_audio", "bytes"
    ]  # fmt: skip
    assert told["inputs"] == {"ok": 3, "empty": 0, "failed": 1}
    assert told["audiotag"]["parameters"]["hop"] == 0.25
    assert {"engine", "device", "precision"} < set(told["audiotag"]["parameters"])


def test_the_envelope_and_the_header_are_the_provenance_s(
    run_audiotag: RunAudiotag, sounds: Path, tmp_path: Path
) -> None:
    run_audiotag("batch", "in", "--out", "out.json")
    run_audiotag("batch", "in", "--out", "out.ndjson", "--header")
    told = json.loads((tmp_path / "out.json.run.json").read_text())["audiotag"]
    assert json.loads((tmp_path / "out.json").read_text())["audiotag"] == told
    assert json.loads((tmp_path / "out.ndjson").read_text().splitlines()[0]) == {"audiotag": told}


def test_resume_of_a_finished_run_does_nothing_and_says_so(
    run_audiotag: RunAudiotag, sounds: Path, tmp_path: Path
) -> None:
    for path in sounds.rglob("*.*"):
        os.utime(path, (1e9, 1e9))
    run_audiotag("batch", "in", "--out", "out.csv")
    before = (tmp_path / "out.csv").read_bytes()
    ran = run_audiotag("batch", "in", "--out", "out.csv", "--resume")
    assert (ran.code, (tmp_path / "out.csv").read_bytes()) == (3, before)
    assert ran.stderr.count("warning") == 1, "only what failed is tried again"
    assert last_line(ran).startswith("3 ok, 0 empty, 1 failed; 3.0 s of audio")
    ran = run_audiotag("batch", "in", "--out", "out.csv", "--resume", "-k", "1")
    assert (ran.code, "top_k was 5, is 1" in ran.stderr) == (1, True)


def test_resume_with_other_thresholds_in_the_model_s_configuration_is_refused(
    run_audiotag: RunAudiotag, sounds: Path, tmp_path: Path, write_wav: WriteWav, tiny_model_folder: Path
) -> None:
    shutil.copytree(tiny_model_folder, tmp_path / "model")
    arguments = ("batch", "in", "--model", "model", "--out", "out.csv")
    run_audiotag(*arguments, "-q")
    config = open_model_folder(tmp_path / "model").config
    write_configs(tmp_path / "model", replace(config, metrics={"fp32": {}}))  # nothing that changes a result
    assert run_audiotag(*arguments, "--resume").code == 3
    write_wav("in/b.wav", tone())
    write_configs(tmp_path / "model", replace(config, thresholds=(0.9,) * len(config.labels)))
    before = (tmp_path / "out.csv").read_bytes()
    ran = run_audiotag(*arguments, "--resume")
    assert (ran.code, (tmp_path / "out.csv").read_bytes()) == (1, before)
    assert "was begun with other settings: config_sha256 was" in ran.stderr


@pytest.mark.parametrize("suffix", ["csv", "tsv", "ndjson"])
def test_resume_of_a_finished_run_picks_up_what_was_added_changed_and_removed(
    run_audiotag: RunAudiotag, sounds: Path, tmp_path: Path, write_wav: WriteWav, suffix: str
) -> None:
    for name in ('odd\n"name".wav', "o.wav", "oa.wav"):
        (sounds / name).write_bytes((sounds / "a.wav").read_bytes())
    for path in sounds.rglob("*.*"):
        os.utime(path, (1e9, 1e9))
    run_audiotag("batch", "in", "--out", f"out.{suffix}", "-q")
    write_wav("in/b.wav", noise())
    write_wav("in/sub/a.wav", noise(seed=2))
    (sounds / "oa.wav").unlink()  # between two that are kept
    ran = run_audiotag("batch", "in", "--out", f"out.{suffix}", "--resume", "--no-progress")
    told = "audiotag: warning: in/sub/a.wav: has changed since it was tagged; it is done again"
    assert told in ran.stderr.splitlines()
    assert last_line(ran).startswith("6 ok, 0 empty, 1 failed;")
    assert [line for line in ran.stderr.splitlines() if "broken" in line], "what failed is tried again"
    run_audiotag("batch", "in", "--out", f"whole.{suffix}", "-q")
    assert (tmp_path / f"out.{suffix}").read_bytes() == (tmp_path / f"whole.{suffix}").read_bytes()


def test_what_was_added_to_a_finished_run_is_not_taken_for_changed_by_the_next_resume(
    run_audiotag: RunAudiotag, sounds: Path, tmp_path: Path, write_wav: WriteWav
) -> None:
    for path in sounds.rglob("*.*"):
        os.utime(path, (1e9, 1e9))
    run_audiotag("batch", "in", "--out", "out.csv", "-q")
    os.utime(write_wav("in/b.wav", noise()), (1.2e9, 1.2e9))
    provenance = tmp_path / "out.csv.run.json"
    began = {"started": "2004-01-01T00:00:00+00:00"}  # after the others were recorded, and before this one
    provenance.write_text(json.dumps({**json.loads(provenance.read_text()), **began}))
    assert last_line(run_audiotag("batch", "in", "--out", "out.csv", "--resume")).startswith("4 ok")
    ran = run_audiotag("batch", "in", "--out", "out.csv", "--resume")
    assert (ran.code, "has changed" in ran.stderr) == (3, False)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "ndjson", "json"])
@pytest.mark.parametrize("change", [lambda data: data[:-10], lambda data: data + b"\n"])
def test_a_finished_file_that_was_altered_is_not_gone_on_from(
    run_audiotag: RunAudiotag, sounds: Path, tmp_path: Path, suffix: str, change: Callable[[bytes], bytes]
) -> None:
    run_audiotag("batch", "in", "--out", f"out.{suffix}", "-q")
    out = tmp_path / f"out.{suffix}"
    altered = change(out.read_bytes())
    out.write_bytes(altered)
    ran = run_audiotag("batch", "in", "--out", out.name, "--resume")
    assert (ran.code, out.read_bytes()) == (1, altered)
    assert re.fullmatch(
        rf"audiotag: error: {out.name}: has [\d,]+ bytes, was finished with [\d,]+\. Bring back .*\n", ran.stderr
    )


@pytest.mark.parametrize("suffix", ["csv", "ndjson"])
def test_a_finished_file_of_the_same_size_that_is_no_output_is_told(
    run_audiotag: RunAudiotag, sounds: Path, tmp_path: Path, suffix: str
) -> None:
    run_audiotag("batch", "in", "--out", f"out.{suffix}", "-q")
    out = tmp_path / f"out.{suffix}"
    out.write_bytes(b"\n" * out.stat().st_size)
    ran = run_audiotag("batch", "in", "--out", out.name, "--resume")
    assert (ran.code, ran.stderr.count("\n")) == (1, 1)
    assert f"{out.name}: is not as it was written. Bring back" in ran.stderr


@pytest.mark.parametrize("suffix", ["csv", "ndjson"])
def test_resume_of_a_finished_run_counts_inputs_and_seconds_as_the_run_did(
    run_audiotag: RunAudiotag, write_wav: WriteWav, tmp_path: Path, suffix: str
) -> None:
    write_wav("in/one.wav", stereo(0 * tone(seconds=2.0), siren(seconds=2.0)))
    write_wav("in/two.wav", tone(seconds=2.0))
    os.utime(tmp_path / "in" / "one.wav", (1e9, 1e9))
    os.utime(tmp_path / "in" / "two.wav", (1e9, 1e9))
    arguments = ["batch", "in", "--channels", "each", "--windows", "-t", "0.3", "--start", "0.5"]
    arguments += ["--out", f"out.{suffix}"]
    run_audiotag(*arguments)
    told = tmp_path / f"out.{suffix}.run.json"
    before = json.loads(told.read_text())
    assert run_audiotag(*arguments, "--resume").code == 0
    after = json.loads(told.read_text())
    assert {name: after[name] for name in ("inputs", "seconds_of_audio")} == {
        name: before[name] for name in ("inputs", "seconds_of_audio")
    }


@pytest.mark.parametrize("suffix", ["csv", "ndjson", "json"])
def test_a_full_disk_is_one_line_and_the_run_goes_on_later(
    run_audiotag: RunAudiotag, sounds: Path, tmp_path: Path, write_wav: WriteWav, suffix: str
) -> None:
    for number in range(20):
        write_wav(f"in/more/{number}.wav", tone(seconds=0.1))
    # A limit on the size of files stands for the disk: the same write fails in the same place.
    limited = shell(f"ulimit -f 2; trap '' XFSZ; audiotag batch in --out out.{suffix} -q -t 0")
    assert limited.returncode == 1
    assert re.fullmatch(r"audiotag: error: out\.\w+: cannot be written: File too large\. Free .*\n", limited.stderr)
    assert run_audiotag("batch", "in", "--out", f"out.{suffix}", "-t", "0", "--resume").code == 3
    assert run_audiotag("batch", "in", "--out", f"whole.{suffix}", "-t", "0").code == 3
    assert (tmp_path / f"out.{suffix}").read_bytes() == (tmp_path / f"whole.{suffix}").read_bytes()


# --- lists and pipes ---


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_a_movie_whose_index_asks_for_all_memory_fails_alone_under_a_limit(sounds: Path) -> None:
    content = bytearray(write_audio(sounds / "c.m4a", noise(), TINY_RATE).read_bytes())
    n_packets = struct.pack(">I", 80_000_000)  # FFmpeg would take 3 GB and 7 s
    for box, at in ((b"stsz", 12), (b"stsc", 16), (b"stts", 12)):  # ISO 14496-12, 8.7.3, 8.7.4 and 8.6.1
        begin = content.index(box) + at
        content[begin : begin + 4] = n_packets
    size_of_each = content.index(b"stsz") + 8
    content[size_of_each : size_of_each + 4] = struct.pack(">I", 1)
    (sounds / "c.m4a").write_bytes(content)
    done = shell("ulimit -v 3000000; audiotag batch in -q -f csv")
    assert done.returncode == 3
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert {row["path"] for row in rows if row["status"] == "failed"} == {"in/broken.mp3", "in/c.m4a"}
    assert len({row["path"] for row in rows if row["status"] == "ok"}) == 3


def test_find_print0_to_batch_to_jq(sounds: Path) -> None:
    done = shell("find in -name '*.wav' -print0 | sort -z | audiotag batch --files-from - -0 -f ndjson | jq -r .path")
    assert (done.returncode, done.stdout) == (0, "in/a.wav\nin/sub/a.wav\nin/sub/z.wav\n")


def test_a_list_from_a_pipe_is_read_once_also_where_an_output_is_replaced(sounds: Path) -> None:
    command = "audiotag batch --files-from <(find in -name '*.wav') --out out.csv -q"
    assert [shell(command).returncode, shell(f"{command} --overwrite").returncode] == [0, 0]


def test_head_is_a_quiet_success(sounds: Path) -> None:
    done = shell("audiotag batch in -f csv -q | head -1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "path,status,start,end,channel,rank,label,score,error\n"


def test_streams_that_the_caller_has_closed_are_empty_or_unheard(sounds: Path) -> None:
    done = shell("audiotag batch in --files-from - -f csv <&- 2>&- | wc -l; audiotag batch in --out t.csv <&- >&- 2>&-")
    assert (done.returncode, done.stdout.split()) == (3, [str(len(Path("t.csv").read_text().splitlines()))])
    done = shell("audiotag predict - <&-; audiotag labels >&-")
    complaint = "audiotag: warning: -: holds nothing (0 bytes). Copy or download it again\n"
    assert (done.returncode, done.stderr) == (0, complaint)


def test_a_dash_for_out_is_stdout(run_audiotag: RunAudiotag, sounds: Path) -> None:
    ran = run_audiotag("batch", "in", "--out", "-", "-f", "csv")
    assert ran.code == 3
    assert ran.stdout.startswith("path,status,")
    assert not Path("-").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_stdout_is_one_line(unbuffered: str) -> None:
    done = shell("audiotag labels >/dev/full", PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 1
    assert done.stderr.startswith("audiotag: error: stdout: cannot be written: No space left on device. ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "environment", [{}, {"NO_COLOR": "1", "FORCE_COLOR": ""}, {"TERM": "dumb"}], ids=["pipe", "NO_COLOR", "dumb"]
)
def test_no_colour_and_no_bar_off_a_terminal(sounds: Path, environment: dict[str, str]) -> None:
    done = shell("audiotag batch in -f table", **environment)
    assert done.returncode == 3
    assert "\x1b" not in done.stdout + done.stderr
    assert "\r" not in done.stderr


def test_force_color_colours_the_table_of_a_pipe(sounds: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    done = subprocess.run(
        [sys.executable, "-m", "audiotag", "batch", "in", "-f", "table", "-q"],
        capture_output=True, text=True, timeout=60, env={**environment, "FORCE_COLOR": "1", "TERM": "xterm"},
    )  # fmt: skip
    assert "\x1b[" in done.stdout
    assert done.stderr == ""


def on_a_terminal(*arguments: str, with_stdout: bool = False, **environment: str) -> tuple[int, str]:
    """Exit code of a run whose stderr is a terminal, and what the terminal was sent."""
    master, slave = pty.openpty()
    stdout = slave if with_stdout else subprocess.DEVNULL
    process = subprocess.Popen(
        [sys.executable, "-m", "audiotag", *arguments], stdout=stdout, stderr=slave,
        env={**os.environ, "TERM": "xterm", **environment},
    )  # fmt: skip
    os.close(slave)
    sent = b""
    try:
        while block := os.read(master, 4096):
            sent += block
    except OSError:  # Linux says so when the other end is closed
        pass
    os.close(master)
    return process.wait(timeout=60), sent.decode()


def test_a_terminal_gets_a_bar_and_the_summary_last(sounds: Path) -> None:
    code, sent = on_a_terminal("batch", "in", "--out", "out.csv")
    assert code == 3
    assert "x real time" in sent
    assert "\x1b[?25l" in sent, "the bar hides the cursor"
    assert SUMMARY.fullmatch(sent.splitlines()[-1].removeprefix("\x1b[?25h"))


def test_a_terminal_that_gets_the_results_gets_no_bar_in_their_midst(sounds: Path) -> None:
    code, sent = on_a_terminal("batch", "in", "-t", "0", "-k", "1", with_stdout=True)
    assert code == 3
    assert "\x1b[?25l" not in sent
    lines = re.sub(r"\x1b\[[\d;]*m", "", sent).splitlines()
    inputs = ["in/a.wav", "in/broken.mp3", "in/sub/a.wav", "in/sub/z.wav"]
    assert [line.split("  ")[0] for line in lines if line.startswith("in/")] == inputs
    assert SUMMARY.fullmatch(lines[-1])


@pytest.mark.parametrize(("arguments", "term"), [(["--no-progress"], "xterm"), (["-q"], "xterm"), ([], "dumb")])
def test_a_terminal_gets_no_bar_where_none_is_wanted(sounds: Path, arguments: list[str], term: str) -> None:
    _, sent = on_a_terminal("batch", "in", "--out", "out.csv", *arguments, TERM=term)
    assert "\x1b" not in sent


def test_a_run_goes_on_although_nobody_reads_its_stderr_any_more(sounds: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "audiotag", "batch", "in", "--out", "out.csv"]
    code = subprocess.run(command, stderr=writer, timeout=60).returncode
    os.close(writer)
    assert code == 3, "not the quiet success of a closed stdout"


def test_a_run_goes_on_although_its_terminal_is_gone(sounds: Path) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen([sys.executable, "-m", "audiotag", "batch", "in", "--out", "out.csv"], stderr=slave,
                               env={**os.environ, "TERM": "xterm"})  # fmt: skip
    os.close(slave)
    os.read(master, 1)  # the bar has begun
    os.close(master)
    assert process.wait(timeout=60) == 3
    assert Path("out.csv.run.json").exists()


def test_dry_run_shows_inputs_lengths_and_what_is_skipped(
    run_audiotag: RunAudiotag, sounds: Path, tmp_path: Path
) -> None:
    (sounds / "notes.txt").write_text("notes")
    (tmp_path / "out.csv").write_text("of another run")
    ran = run_audiotag("batch", "in", "--dry-run", "--out", "out.csv")
    *lines, total = ran.stdout.splitlines()
    assert ran.code == 0
    assert lines[0] == "tag   in/a.wav  1.000 s"
    assert lines[1].startswith("tag   in/broken.mp3  cannot be read: not decodable")
    assert lines[2] == "skip  in/notes.txt  not a suffix of audio or video: .txt"
    assert re.fullmatch(r"4 inputs, 3\.0 s, 0\.1 MB; 1 skipped; about 0:00:0[1-9] to tag", total)
    assert (tmp_path / "out.csv").read_text() == "of another run"


def test_dry_run_shows_every_name_also_where_stdout_is_not_utf_8(sounds: Path) -> None:
    (sounds / "日本.wav").write_text("")
    (sounds / os.fsdecode(b"text.\xff\n")).write_text("")  # a name that is no UTF-8, of no known suffix
    done = shell("audiotag batch in --dry-run", PYTHONIOENCODING="latin-1")
    assert (done.returncode, done.stderr) == (0, "")
    assert r"skip  in/text.\udcff\n  not a suffix of audio or video: .\udcff\n" in done.stdout.splitlines()
    told = "tag   in/日本.wav  cannot be read: holds nothing (0 bytes). Copy or download it again"
    assert told in done.stdout.splitlines()


@pytest.mark.parametrize(
    "name",
    ["tags.json.journal", "tags.json.journal.ndjson", "tags.json.partial", "tags.json.run.json.partial"],
)
def test_a_link_where_our_files_lie_does_not_overwrite_what_it_leads_to(
    run_audiotag: RunAudiotag, write_wav: WriteWav, tmp_path: Path, name: str
) -> None:
    write_wav("in/a.wav", tone())
    (tmp_path / "precious").write_text("keys")
    (tmp_path / name).symlink_to("precious")
    ran = run_audiotag("batch", "in", "--out", "tags.json", "--overwrite")
    assert (ran.code, (tmp_path / "precious").read_text()) == (1, "keys")
    assert last_line(ran).startswith(f"audiotag: error: {name}: ")


def test_names_of_strangers_reach_the_terminal_as_text_on_stderr_and_in_plans(
    run_audiotag: RunAudiotag, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    title, turned = "\x1b]0;gone\x07", "\u202egnp"
    (tmp_path / "in" / f"{title}{turned}.wav").write_text("no sound")
    (tmp_path / "in" / f"notes.{title}").write_text("no sound")
    (tmp_path / f"{title}.csv").mkdir()
    warned = run_audiotag("batch", "in", "--out", "out.csv")
    planned = run_audiotag("batch", "in", "--dry-run")
    refused = run_audiotag("batch", "in", "--out", f"{title}.csv")
    assert "in/\\x1b]0;gone\\x07\\u202egnp.wav: not decodable" in warned.stderr
    assert "suffix of audio or video: .\\x1b]0;gone\\x07\n" in planned.stdout
    assert refused.stderr.startswith("audiotag: error: \\x1b]0;gone\\x07.csv: is a folder")
    shown = warned.stderr + planned.stdout + refused.stderr
    assert all(character.isprintable() or character == "\n" for character in shown)


@pytest.mark.parametrize(
    ("arguments", "n_windows"),
    [([], 22), (["--max-windows", "3"], 4), (["--duration", "2"], 6), (["--start", "9.5"], 2), (["--hop", "1"], 12)],
)
def test_dry_run_tells_the_time_of_the_windows_that_are_heard(
    run_audiotag: RunAudiotag,
    write_wav: WriteWav,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    n_windows: int,
) -> None:
    write_wav("in/long.wav", noise(seconds=10.0))  # the model's windows are a little less than 0.5 s
    write_wav("in/short.wav", noise(seconds=0.1))  # fills one too
    monkeypatch.setattr("audiotag.cli.plan._seconds_per_window", lambda tagger: 3600.0)
    ran = run_audiotag("batch", "in", "--dry-run", *arguments)
    assert ran.stdout.endswith(f"; about {timedelta(hours=n_windows)} to tag\n")


def test_dry_run_takes_nothing_out_of_a_pipe(run_audiotag: RunAudiotag, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDWR)  # opening the pipe to read waits for nobody then
    os.write(reader, b"RIFF")
    ran = run_audiotag("batch", "pipe", "--dry-run")
    assert ran.stdout.startswith("tag   pipe  a pipe\n")
    assert os.read(reader, 4) == b"RIFF"
    os.close(reader)
    ran = run_audiotag("batch", "-", "--dry-run")
    assert ran.stdout == "tag   -  stdin\n1 input, 0.0 s, 0.0 MB; 0 skipped\n"


def test_dry_run_of_nothing_is_exit_4(run_audiotag: RunAudiotag, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ran = run_audiotag("batch", "empty", "--dry-run")
    assert (ran.code, ran.stdout) == (4, "0 inputs, 0.0 s, 0.0 MB; 0 skipped\n")


@pytest.mark.parametrize("command", ["batch", "predict"])
def test_a_label_track_of_several_inputs_is_refused_before_the_first_is_tagged(
    run_audiotag: RunAudiotag, sounds: Path, tmp_path: Path, command: str
) -> None:
    # A later --resume knew nothing of the first input, and wrote the others below it.
    named = sorted(sounds.iterdir())[:2]
    ran = run_audiotag(command, *named, "--out", "out.labels.txt")
    assert (ran.code, ran.stdout) == (2, "")
    assert "format audacity: a file of it belongs to one input" in ran.stderr
    assert not list(tmp_path.glob("out.*"))


@pytest.mark.parametrize(
    ("arguments", "length"),
    [
        (["--hop", "0.1"], "3.0 s"),
        (["--hop", "0.1", "--channels", "each"], "3.0 s"),
        (["--hop", "0.1", "--start", "0.8", "--duration", "0.4"], "0.6 s"),
        (["--max-windows", "2"], "3.0 s"),
    ],
)
def test_the_plan_counts_the_windows_that_the_run_then_tags(
    arguments: list[str],
    length: str,
    run_audiotag: RunAudiotag,
    write_wav: WriteWav,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("audiotag.cli.plan._seconds_per_window", lambda tagger: 60.0)
    write_wav("in/a.wav", tone())
    write_wav("in/b.wav", stereo(tone(), chirp()))
    write_wav("in/c.wav", siren())
    told = run_audiotag("batch", "in", "--dry-run", *arguments).stdout.splitlines()[-1]
    ran = run_audiotag("batch", "in", "--windows", "-t", "0", "-f", "ndjson", *arguments)
    minutes = sum(len(json.loads(line)["windows"]) for line in ran.stdout.splitlines())
    assert told == f"3 inputs, {length}, 0.1 MB; 0 skipped; about 0:{minutes:02d}:00 to tag"


# --- Ctrl-C ---


def test_ctrl_c_ends_within_2_seconds_with_the_line_that_resumes(write_wav: WriteWav, tmp_path: Path) -> None:
    for number in range(20):
        write_wav(f"in/{number:02d} x.wav", noise(seconds=0.5, seed=number))
    write_wav("in/99 long.wav", noise(seconds=1200.0), subtype="PCM_16")
    process = subprocess.Popen(
        [sys.executable, "-m", "audiotag", "batch", "in", "--out", "my tags.csv", "--workers", "1"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    journal = tmp_path / "my tags.csv.journal"
    while not journal.exists() or journal.read_bytes().count(b"\n") < 6:
        assert process.poll() is None
        time.sleep(0.005)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=10)
    assert time.monotonic() - begun < 2.0
    assert process.returncode == 130
    assert "Traceback" not in stderr
    command = next(line for line in stderr.splitlines() if "Go on with: " in line).partition("Go on with: ")[2]
    assert command == "audiotag batch in --out 'my tags.csv' --workers 1 --resume"
    assert len(set(paths_in((tmp_path / "my tags.csv").read_bytes(), "csv"))) >= 5
    (tmp_path / "in" / "99 long.wav").unlink()
    assert shell(command).returncode == 0
    assert shell("audiotag batch in --out whole.csv").returncode == 0
    assert (tmp_path / "my tags.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["batch", "a", "-o", "b.csv"], b"audiotag batch a -o b.csv --resume"),
        (["batch", "a", "--overwrite", "-o", "b.csv"], b"audiotag batch a -o b.csv --resume"),
        (["batch", "-o", "b.csv", "--resume", "--", "-a"], b"audiotag batch -o b.csv --resume -- -a"),
        (["batch", "a b\udcff", "-o", "b"], b"audiotag batch 'a b\xff' -o b --resume"),
    ],
)
def test_the_command_that_resumes(arguments: list[str], command: bytes) -> None:
    assert resume_command(arguments) == command


# --- odd names ---

GOOD_NAMES = (
    b"with space.wav", b"new\nline.wav", b'quo"te.wav', b"it's.wav", b"com,ma.wav", b"ta\tb.wav", b"-dash.wav",
    "\N{DOG FACE}.wav".encode(), b"not utf-8 \xff\xfe.wav", b"[red].wav", b"10 ms.wav", b"silent.wav",
)  # fmt: skip
BAD_NAMES = (b"empty.wav", b"header only.wav", b"text.wav", b"locked.wav")


@pytest.fixture
def odd_folder(write_wav: WriteWav, tmp_path: Path) -> Path:
    """Everything that a folder of months of recordings may hold; the loop and the links are below it."""
    folder = tmp_path / "odd"
    whole = write_wav("sound.wav", tone(seconds=0.2), subtype="PCM_16").read_bytes()
    short = write_wav("short.wav", tone(seconds=0.01), subtype="PCM_16").read_bytes()
    silent = write_wav("silent.wav", 0 * tone(seconds=0.2), subtype="PCM_16").read_bytes()
    folder.mkdir()
    contents = dict.fromkeys(GOOD_NAMES, whole) | {
        b"10 ms.wav": short, b"silent.wav": silent, b"truncated.wav": whole[: len(whole) // 2], b"empty.wav": b"",
        b"header only.wav": whole[:44], b"text.wav": b"no sound\n" * 30, b"locked.wav": whole,
    }  # fmt: skip
    for name, content in contents.items():
        (folder / os.fsdecode(name)).write_bytes(content)
    (folder / "locked.wav").chmod(0)
    os.mkfifo(folder / "pipe.wav")
    (folder / "dangling.wav").symlink_to("nowhere.wav")
    (folder / "loop").symlink_to(".")
    (folder / "loop.wav").symlink_to("loop.wav")
    return folder


def paths_in(data: bytes, name: str) -> list[str]:
    """The path of each result of an output, once for neighbouring rows."""
    if name == "json":
        return [result["path"] for result in json.loads(data)["results"]]
    if name == "ndjson":
        return [json.loads(line)["path"] for line in data.splitlines()]
    text = io.StringIO(data.decode("utf-8", "surrogateescape"), newline="")
    rows = csv.DictReader(text, delimiter="," if name == "csv" else "\t")
    return list(dict.fromkeys(row["path"] for row in rows))


@pytest.mark.parametrize("name", ["csv", "tsv", "json", "ndjson"])
def test_an_odd_folder_is_accounted_for_name_by_name(
    run_audiotag: RunAudiotag, odd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(odd_folder)
    out = tmp_path / f"out.{name}"
    ran = run_audiotag("batch", ".", "dangling.wav", "loop.wav", "nowhere.wav", "--out", out)
    assert ran.code == 3
    expected = {os.fsdecode(each) for each in (*GOOD_NAMES, *BAD_NAMES, b"truncated.wav")}
    expected |= {"dangling.wav", "loop.wav", "nowhere.wav"}  # named outright; the pipe is skipped
    data = out.read_bytes()
    assert Counter(paths_in(data, name)) == Counter(expected)
    n_failed = len(BAD_NAMES) + 3 - (os.geteuid() == 0)  # nothing is locked for root
    assert last_line(ran).startswith(f"{len(expected) - n_failed} ok, 0 empty, {n_failed} failed;")
    if "json" in name:
        subprocess.run(["jq", "-e", "."], input=data, check=True, capture_output=True, timeout=30)
    elif name == "csv":
        assert b"\nnot utf-8 \xff\xfe.wav,ok," in data
