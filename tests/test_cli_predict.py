"""`audiotag predict` as a person and a pipe see it."""

from __future__ import annotations

import json
import os
import pty
import resource
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY_RATE, Ran, chirp, siren, stereo, tone

from audiotag.model_folder import ONNX
from audiotag.pipeline import MAX_CLIPS_AHEAD

RunAudiotag = Callable[..., Ran]
WriteWav = Callable[..., Path]

AUDIOTAG = (sys.executable, "-m", "audiotag")


pytestmark = pytest.mark.usefixtures("in_folder_with_tiny_model")


@pytest.fixture
def broken(tmp_path: Path) -> str:
    (tmp_path / "notes.mp3").write_text("these are notes, not sound\n" * 50)
    return "notes.mp3"


def records_of(ran: Ran) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_a_pipe_gets_a_json_object_a_line(run_audiotag: RunAudiotag, write_wav: WriteWav, broken: str) -> None:
    write_wav("a.wav", tone())
    write_wav("b.wav", chirp())
    ran = run_audiotag("predict", "a.wav", broken, "b.wav", "-k", "2")
    assert ran.code == 3
    first, second, third = records_of(ran)
    assert list(first) == ["path", "status", "duration", "tags"]
    assert (first["path"], first["status"], first["duration"]) == ("a.wav", "ok", 1.0)
    assert [set(tag) for tag in first["tags"]] == [{"label", "score"}] * 2
    assert list(second) == ["path", "status", "error"]
    assert (second["path"], second["status"]) == ("notes.mp3", "failed")
    assert third["path"] == "b.wav"
    assert ran.stderr == f"audiotag: warning: notes.mp3: {second['error']}\n"


def test_quiet_says_nothing_of_a_failure_but_its_exit_code(run_audiotag: RunAudiotag, broken: str) -> None:
    ran = run_audiotag("predict", broken, "--quiet")
    assert (ran.code, ran.stderr) == (3, "")


def test_verbose_names_the_model_and_the_engine(
    run_audiotag: RunAudiotag, write_wav: WriteWav, tiny_model_folder: Path
) -> None:
    ran = run_audiotag("predict", write_wav("a.wav", tone()), "-v", "--device", "cpu")
    assert ran.stderr == f"audiotag: model tiny at {tiny_model_folder}, engine onnx on cpu, precision fp32\n"


def test_json_is_one_object_with_the_run_and_the_results(
    run_audiotag: RunAudiotag, write_wav: WriteWav, tiny_model_folder: Path
) -> None:
    write_wav("a.wav", tone())
    shown = json.loads(run_audiotag("predict", "a.wav", "-f", "json", "-t", "0", "--precision", "int8").stdout)
    assert list(shown) == ["audiotag", "results"]
    header = shown["audiotag"]
    assert (header["model"], header["revision"], header["schema"]) == ("tiny", None, 1)
    assert header["parameters"] == {
        "hop": None, "max_windows": None, "channels": "mix", "start": 0.0, "duration": None, "aggregate": None,
        "top_k": 5, "threshold": 0.0, "thresholds": None, "include_labels": [], "exclude_labels": [], "windows": False,
        "events": None, "engine": "onnx", "device": "cpu", "precision": "int8",
    }  # fmt: skip
    assert len(header["sha256"]) == 64
    assert [result["path"] for result in shown["results"]] == ["a.wav"]


def test_out_infers_its_format_from_the_suffix(
    run_audiotag: RunAudiotag, write_wav: WriteWav, tmp_path: Path
) -> None:
    write_wav("a.wav", tone())
    ran = run_audiotag("predict", "a.wav", "-o", "tags.csv", "-k", "1", "-t", "0")
    assert (ran.code, ran.stdout, ran.stderr) == (0, "", "")
    head, row = (tmp_path / "tags.csv").read_text().splitlines()
    assert head == "path,status,start,end,channel,rank,label,score,error"
    assert row.startswith("a.wav,ok,0.000,1.000,,1,")


@pytest.mark.parametrize("named", ["in/a.flac", "in", "link.flac", "in/*.flac"])
@pytest.mark.parametrize("out", ["in/a.flac", "./in/../in/a.flac", "hard.flac"])
def test_an_output_on_top_of_an_input_is_refused_and_the_recording_stays(
    run_audiotag: RunAudiotag, write_wav: WriteWav, tmp_path: Path, named: str, out: str
) -> None:
    recording = write_wav("in/a.flac", tone(), subtype="PCM_16")
    (tmp_path / "hard.flac").hardlink_to(recording)
    (tmp_path / "link.flac").symlink_to(recording)
    before = recording.read_bytes()
    ran = run_audiotag("predict", named, "-f", "csv", "-o", out)
    assert (ran.code, ran.stdout) == (2, "")
    message = "is an input and would be overwritten. Choose another file to write"
    assert ran.stderr == f"audiotag: error: {Path(out)}: {message}\n"
    assert recording.read_bytes() == before


def test_another_file_that_exists_is_overwritten(run_audiotag: RunAudiotag, write_wav: WriteWav) -> None:
    Path("tags.csv").write_text("old" * 1000)
    assert run_audiotag("predict", write_wav("a.wav", tone()), "-o", "tags.csv").code == 0
    assert Path("tags.csv").read_text().startswith("path,status,")
    assert "old" not in Path("tags.csv").read_text()


def test_a_model_that_does_not_open_leaves_earlier_results_alone_and_no_empty_file(
    run_audiotag: RunAudiotag, write_wav: WriteWav, tiny_model_folder: Path
) -> None:
    Path("tags.csv").write_text("old")
    shutil.copytree(tiny_model_folder, "broken")
    Path("broken", ONNX).write_bytes(b"no graph")
    ran = run_audiotag("predict", write_wav("a.wav", tone()), "-o", "tags.csv", "--model", "broken")
    assert (ran.code, Path("tags.csv").read_text()) == (1, "old")
    assert run_audiotag("predict", "a.wav", "-o", "new.csv", "--model", "broken").code == 1
    assert not Path("new.csv").exists()


def test_windows_start_duration_and_channels_reach_the_result(run_audiotag: RunAudiotag, write_wav: WriteWav) -> None:
    write_wav("a.wav", stereo(tone(seconds=2.0), siren(seconds=2.0)))
    ran = run_audiotag(
        "predict", "a.wav", "--channels", "each", "--windows", "--start", "0:00:00.5", "--duration", "1", "-t", "0"
    )
    left, right = records_of(ran)
    assert (left["channel"], right["channel"]) == (0, 1)
    assert (left["start"], left["duration"]) == (0.5, 1.0)
    assert [(window["start"], window["end"]) for window in left["windows"]] == [(0.5, 1.0), (1.0, 1.5), (1.0, 1.5)]
    assert left["tags"] != right["tags"]


def test_skimming_tells_of_a_file_that_was_cut_short_too(run_audiotag: RunAudiotag, write_wav: WriteWav) -> None:
    path = write_wav("a.wav", tone())
    path.write_bytes(path.read_bytes()[:-8000])
    ran = run_audiotag("predict", path, "--max-windows", "2")
    assert ran.code == 0
    assert records_of(ran)[0]["warning"] == "cut short: 8000 bytes are missing"


def test_an_empty_folder_is_exit_4(run_audiotag: RunAudiotag, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ran = run_audiotag("predict", "empty")
    assert (ran.code, ran.stdout) == (4, "")
    assert ran.stderr.startswith("audiotag: error: no inputs: ")


def test_an_output_that_cannot_be_written_is_exit_1(run_audiotag: RunAudiotag, write_wav: WriteWav) -> None:
    ran = run_audiotag("predict", write_wav("a.wav", tone()), "-o", "nowhere/tags.csv")
    assert (ran.code, ran.stdout) == (1, "")
    assert ran.stderr.startswith("audiotag: error: nowhere/tags.csv: cannot be written: ")


def test_a_device_that_is_not_here_is_exit_1_and_no_fallback(run_audiotag: RunAudiotag, write_wav: WriteWav) -> None:
    import torch

    if torch.backends.mps.is_available():
        pytest.skip("this machine has an Apple GPU")
    ran = run_audiotag("predict", write_wav("a.wav", tone()), "--device", "mps")
    assert (ran.code, ran.stdout) == (1, "")
    assert ran.stderr.startswith("audiotag: error: device mps: ")


def test_half_precision_where_no_gpu_is_is_exit_1(
    run_audiotag: RunAudiotag, write_wav: WriteWav, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audiotag.tagger.has_gpu", lambda: False)
    ran = run_audiotag("predict", write_wav("a.wav", tone()), "--precision", "fp16")
    assert (ran.code, ran.stdout) == (1, "")
    assert ran.stderr.startswith("audiotag: error: precision fp16: needs a GPU that torch can use. Use fp32 or int8")


def test_more_workers_than_clips_may_be_open_come_to_an_end(write_wav: WriteWav) -> None:
    command = [*AUDIOTAG, "predict", str(write_wav("a.wav", tone())), "--workers", str(2 * MAX_CLIPS_AHEAD)]
    assert subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0


def test_a_terminal_gets_a_table(write_wav: WriteWav, broken: str) -> None:
    write_wav("a.wav", tone())
    master, slave = pty.openpty()
    with subprocess.Popen(
        [*AUDIOTAG, "predict", "a.wav", broken, "-t", "0", "-k", "1"], stdout=slave, stderr=subprocess.PIPE,
        env={**os.environ, "TERM": "dumb"},
    ) as process:  # fmt: skip
        os.close(slave)
        shown = b""
        while chunk := _read(master):
            shown += chunk
        assert process.stderr is not None
        complaint = process.stderr.read()
    os.close(master)
    lines = shown.decode().splitlines()
    assert lines[0] == "a.wav  1.000 s"
    assert lines[1].split()[0].startswith("0.")
    assert lines[2].startswith("notes.mp3  failed: not decodable")
    assert (process.returncode, complaint) == (3, b"")


def test_a_table_says_how_to_see_more_where_nothing_is_shown(run_audiotag: RunAudiotag, write_wav: WriteWav) -> None:
    write_wav("a.wav", tone())
    write_wav("b.wav", chirp())
    arguments = ("predict", "a.wav", "b.wav", "-t", "1", "-f", "table")
    ran = run_audiotag(*arguments)
    assert ran.stderr == (
        "audiotag: no label reached its threshold in 2 of 2 inputs. -t 0 shows the likeliest labels; "
        "`audiotag events` finds short sounds in long recordings\n"
    )
    assert run_audiotag(*arguments, "--quiet").stderr == ""
    assert run_audiotag(*arguments[:-1], "csv").stderr == ""
    assert run_audiotag("predict", "a.wav", "-t", "0", "-f", "table").stderr == ""


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # what Linux answers when the other side is closed
        return b""


def test_stdin_is_tagged_from_a_pipe(write_wav: WriteWav) -> None:
    path = write_wav("a.wav", tone(seconds=1.2))
    direct, piped, skimmed = (
        subprocess.run(
            [*AUDIOTAG, "predict", source, *more, "-t", "0"], input=path.read_bytes(), capture_output=True, timeout=60
        )
        for source, more in ((str(path), ()), ("-", ()), ("-", ("--max-windows", "2")))
    )
    from_file, from_pipe, from_views = (json.loads(done.stdout) for done in (direct, piped, skimmed))
    assert (piped.returncode, piped.stderr) == (0, b"")
    assert from_pipe == {**from_file, "path": "-"}
    assert (skimmed.returncode, from_views["status"], from_views["duration"]) == (0, "ok", 1.2)


def test_stdin_that_cannot_be_stored_for_seeking_fails_alone(write_wav: WriteWav) -> None:
    path = write_wav("a.wav", tone(seconds=1.2))
    done = subprocess.run(
        [*AUDIOTAG, "predict", "-", str(path), "--max-windows", "2", "-t", "0", "-q"],
        input=path.read_bytes(), capture_output=True, timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)),  # as a full disk
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},  # Python would keep what does not fit cut off
    )  # fmt: skip
    failed, tagged = map(json.loads, done.stdout.splitlines())
    reason = "cannot be stored for seeking: File too large"
    assert failed == {"path": "-", "status": "failed", "error": reason}
    assert (done.returncode, tagged["status"]) == (3, "ok")


def test_a_named_pipe_is_skimmed_as_its_file_is(tmp_path: Path, write_wav: WriteWav) -> None:
    path = write_wav("a.wav", tone(seconds=1.2))
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(path.read_bytes(),), daemon=True)
    writer.start()
    from_pipe, from_file = (
        subprocess.run(
            [*AUDIOTAG, "predict", source, "--max-windows", "2", "-t", "0"], capture_output=True, timeout=60, check=True
        )
        for source in (str(tmp_path / "pipe"), str(path))
    )
    assert json.loads(from_pipe.stdout)["tags"] == json.loads(from_file.stdout)["tags"]


def test_a_closed_pipe_is_a_quiet_success(write_wav: WriteWav) -> None:
    names = [write_wav(f"{number}.wav", tone()).name for number in range(40)]
    with subprocess.Popen(
        [*AUDIOTAG, "predict", *names], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        complaint = process.stderr.read()
    assert (process.returncode, complaint) == (0, b"")


def test_ctrl_c_ends_within_two_seconds_in_the_middle_of_a_long_clip(tmp_path: Path) -> None:
    n_bytes = 2 * 36_000 * TINY_RATE
    header = b"RIFF" + struct.pack("<I", 36 + n_bytes) + b"WAVEfmt " + struct.pack(
        "<IHHIIHH", 16, 1, 1, TINY_RATE, 2 * TINY_RATE, 2, 16
    ) + b"data" + struct.pack("<I", n_bytes)  # fmt: skip
    (tmp_path / "long.wav").write_bytes(header)
    os.truncate(tmp_path / "long.wav", 44 + n_bytes)
    interrupted_after(["predict", "long.wav", "--verbose"])


def test_ctrl_c_ends_while_stdin_is_waited_for() -> None:
    interrupted_after(["predict", "-", "--verbose"])


def test_ctrl_c_ends_while_the_rest_of_a_list_is_waited_for() -> None:
    block = b"a.wav".ljust(1 << 16, b"\n")  # as much as is read at once
    interrupted_after(["batch", "--files-from", "-", "--verbose"], given=block)


def interrupted_after(arguments: list[str], *, given: bytes = b"") -> None:
    """Presses Ctrl-C when the engine is up, and a little later; stdin holds what is `given`, and stays open."""
    with subprocess.Popen(
        [*AUDIOTAG, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(given)
        process.stdin.flush()
        assert process.stderr.readline().startswith(b"audiotag: model tiny at ")
        time.sleep(0.5)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)
        assert time.monotonic() - begun < 2.0
        assert process.returncode == 130
        assert b"Traceback" not in process.stderr.read()
