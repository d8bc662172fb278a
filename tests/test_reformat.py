"""`audiotag reformat`: what is written from finished results is what the run itself would have written."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import Ran, noise, tone

from audiotag.journal import open_locked

RunAudiotag = Callable[..., Ran]
WriteWav = Callable[..., Path]


@pytest.fixture(autouse=True)
def _sounds(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, write_wav: WriteWav
) -> None:
    monkeypatch.setenv("AUDIOTAG_MODEL", str(tiny_model_folder))
    monkeypatch.chdir(tmp_path)
    write_wav("in/a, b.wav", noise(seconds=2.5))
    (tmp_path / "in" / os.fsdecode(b"not utf-8 \xff.wav")).write_bytes(write_wav("in/c.wav", tone()).read_bytes())
    (tmp_path / "in/empty.wav").touch()
    (tmp_path / "in/text.wav").write_text("no sound")


@pytest.mark.parametrize("source", ["all.ndjson", "all.json"])
@pytest.mark.parametrize("target", ["csv", "tsv", "json", "ndjson", "selections.txt"])
@pytest.mark.parametrize("windows", [(), ("--windows",)])
def test_the_file_is_that_of_a_run_in_the_other_format(
    run_audiotag: RunAudiotag, tmp_path: Path, source: str, target: str, windows: tuple[str, ...]
) -> None:
    run_audiotag("batch", "in", "--out", source, *windows)
    run_audiotag("batch", "in", "--out", f"expected.{target}", *windows)
    done = run_audiotag("reformat", source, "--out", f"got.{target}", "--quiet")
    assert (done.code, done.stderr) == (0, "")
    expected, got = ((tmp_path / f"{name}.{target}").read_bytes() for name in ("expected", "got"))
    if target == "json" and source == "all.ndjson":  # without --header nothing tells of the run
        expected, got = (data.split(b"\n", maxsplit=1)[1] for data in (expected, got))
    assert got == expected


def test_a_header_goes_along(run_audiotag: RunAudiotag, tmp_path: Path) -> None:
    run_audiotag("batch", "in", "--out", "all.ndjson", "--header")
    run_audiotag("reformat", "all.ndjson", "--out", "again.json")
    run_audiotag("reformat", "again.json", "--out", "back.ndjson", "--header")
    assert (tmp_path / "back.ndjson").read_bytes() == (tmp_path / "all.ndjson").read_bytes()


def test_a_pipe_that_does_not_block_is_read_to_its_end(run_audiotag: RunAudiotag, tmp_path: Path) -> None:
    run_audiotag("batch", "in", "--out", "all.ndjson")
    lines = (tmp_path / "all.ndjson").read_bytes().splitlines(keepends=True)
    reading, writing = os.pipe()
    os.set_blocking(reading, False)  # as ssh and Node leave it to who shares it
    command = [sys.executable, "-m", "audiotag", "reformat", "-", "-f", "ndjson"]
    with subprocess.Popen(command, stdin=reading, stdout=subprocess.PIPE) as process:
        os.close(reading)
        assert process.stdout is not None
        with suppress(BrokenPipeError):
            for line in lines:
                os.write(writing, line)
                time.sleep(0.5)  # else all is there before it is read
        os.close(writing)
        written = process.stdout.read()
    assert written == b"".join(lines)


LAYOUTS: dict[str, Callable[[Any], str]] = {
    "json.dump": json.dumps,
    "jq -c": lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False) + "\n",
    "jq": lambda value: json.dumps(value, indent=2) + "\n",
    "--tab": lambda value: "\n" + json.dumps(value, indent="\t"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("source", ["all.json", "all.ndjson"])
def test_json_that_another_program_laid_out_is_read(
    run_audiotag: RunAudiotag, tmp_path: Path, source: str, layout: str
) -> None:
    run_audiotag("batch", "in", "--out", source, "--header", "--windows")
    text = (tmp_path / source).read_text()
    values = [json.loads(text)] if source == "all.json" else list(map(json.loads, text.splitlines()))
    (tmp_path / "other").write_bytes("\n".join(map(LAYOUTS[layout], values)).encode("utf-8", "backslashreplace"))
    for out in ("expected.json", "got.json"):
        done = run_audiotag("reformat", source if out == "expected.json" else "other", "--out", out)
        assert done.stderr == f"audiotag: 5 results in {out}\n"
    assert (tmp_path / "got.json").read_bytes() == (tmp_path / "expected.json").read_bytes()


def test_results_without_their_header_are_read(run_audiotag: RunAudiotag, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"results": [{"path": "a.wav", "status": "failed", "error": "no"}]}')
    assert run_audiotag("reformat", "a.json", "-f", "csv").stdout.endswith("\na.wav,failed,,,,,,,no\n")


def test_null_is_what_a_result_does_not_have(run_audiotag: RunAudiotag, tmp_path: Path) -> None:
    shown = {"path": "a.wav", "status": "empty", "duration": 1.0, "start": None, "tags": [], "warning": None}
    (tmp_path / "a.ndjson").write_text(json.dumps(shown) + "\n")
    assert run_audiotag("reformat", "a.ndjson", "-f", "csv").stdout.endswith("\na.wav,empty,0.000,1.000,,,,,\n")


def test_it_is_a_filter(run_audiotag: RunAudiotag) -> None:
    made = run_audiotag("predict", "in/c.wav", "-f", "ndjson")
    shown = subprocess.run(
        [sys.executable, "-m", "audiotag", "reformat", "-", "-f", "csv"], input=made.stdout.encode(),
        capture_output=True, check=True,
    )  # fmt: skip
    assert shown.stdout.decode() == run_audiotag("predict", "in/c.wav", "-f", "csv").stdout


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("path,label\n", "line 1 is no result"),
        ('{"path": "a.wav"}\n', "line 1 is no result"),
        ("{}\n", "line 1 is no result"),
        ("[1]\n", "line 1 is no result"),
        ("\n7\n", "result 1 is no result"),
        ('{"path": "a.wav", "status": "failed", "error": "no"}\nrubbish\n', "line 2 is no result"),
        ('{"audiotag": {},\n"results": [\n', "in the midst of its results"),
        ('{"audiotag": {}, "results": [{"path": "a.wav"', "line 1 is no result"),
        ('{\n  "audiotag": {},\n  "results": [\n', "line 4 is no result"),
        ('{"audiotag": {}, "results": [{"path": "a.wav"}]}', "result 1 is no result"),
        ('{"results": [7]}', "result 1 is no result"),
        ('{"audiotag": {}, "results": 7}', "result 1 is no result"),
        ('{\n"path": "\udcff"}', "is not UTF-8"),
        ('{"path": 7, "status": "ok", "duration": 1.0, "tags": []}\n', "line 1 is no result"),
        ('{"path": "a.wav", "status": "ok", "duration": "1 s", "tags": []}\n', "line 1 is no result"),
        ('{"path": "a.wav", "status": "ok", "duration": Infinity, "tags": []}\n', "line 1 is no result"),
        ('{"path": "a.wav", "status": "ok", "duration": 1.0, "tags": ["Dog"]}\n', "line 1 is no result"),
        ('{"path": "a", "status": "ok", "duration": 1, "tags": [{"label": "Dog", "score": true}]}\n', "no result"),
        ('{"path": "a", "status": "ok", "duration": 1, "tags": [{"label": "Dog", "score": 1.5}]}\n', "no result"),
        ('{"path": "a.wav", "status": "failed", "error": null}\n', "line 1 is no result"),
        ("[" * 100_000 + "\n", "line 1 is no result"),
        ('{"path":\n' + "[" * 100_000, "is no result"),
        ('{"path":\n' + "9" * 5000, "is no result"),
    ],
)
def test_what_is_no_result_is_one_line_and_no_file(
    run_audiotag: RunAudiotag, tmp_path: Path, text: str, complaint: str
) -> None:
    (tmp_path / "bad.ndjson").write_text(text, encoding="utf-8", errors="surrogateescape")
    done = run_audiotag("reformat", "bad.ndjson", "--out", "out.csv")
    assert done.code == 1
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out.csv").exists()


def test_missing_existing_and_unfinished_files_are_refused(run_audiotag: RunAudiotag, tmp_path: Path) -> None:
    assert "No such file" in run_audiotag("reformat", "none.ndjson", "--out", "a.csv").stderr
    run_audiotag("batch", "in", "--out", "all.ndjson")
    run_audiotag("reformat", "all.ndjson", "--out", "a.csv")
    assert "exists" in run_audiotag("reformat", "all.ndjson", "--out", "a.csv").stderr
    assert run_audiotag("reformat", "all.ndjson", "--out", "a.csv", "--overwrite").code == 0
    (tmp_path / "all.ndjson.journal").touch()
    assert "unfinished" in run_audiotag("reformat", "all.ndjson", "--out", "b.csv").stderr


def test_a_folder_that_may_not_be_entered_is_not_taken_for_the_results(
    run_audiotag: RunAudiotag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(path: Path, mode: str) -> None:  # root may enter every folder
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    (tmp_path / "all.ndjson").touch()
    monkeypatch.setattr("audiotag.journal.check_output", forbidden)
    told = "audiotag: error: shut/a.csv: Permission denied. Check that it is there and may be used\n"
    assert run_audiotag("reformat", "all.ndjson", "--out", "shut/a.csv").stderr == told


def test_an_unfinished_run_is_replaced_if_told_so_but_not_while_it_is_written(
    run_audiotag: RunAudiotag, tmp_path: Path
) -> None:
    run_audiotag("batch", "in", "--out", "all.ndjson")
    assert run_audiotag("batch", "in", "--out", "tags.csv", "--strict", "-q").code == 1
    before = (tmp_path / "tags.csv").read_bytes()
    assert "holds an unfinished run" in run_audiotag("reformat", "all.ndjson", "--out", "tags.csv").stderr
    with closing(open_locked(tmp_path / "tags.csv.journal", tmp_path / "tags.csv")):
        done = run_audiotag("reformat", "all.ndjson", "--out", "tags.csv", "--overwrite")
    assert (done.code, (tmp_path / "tags.csv").read_bytes()) == (1, before)
    assert "tags.csv: another run is writing it" in done.stderr
    for out in ("tags.csv", "tags.json"):
        run_audiotag("batch", "in", "--out", out, "--strict", "-q")
        assert run_audiotag("reformat", "all.ndjson", "--out", out, "--overwrite").code == 0
        assert [path.name for path in tmp_path.glob(f"{out}*")] == [out]


def test_what_made_the_file_that_is_replaced_is_not_told_of_the_new_one(
    run_audiotag: RunAudiotag, tmp_path: Path
) -> None:
    run_audiotag("batch", "in", "--out", "all.ndjson")
    run_audiotag("batch", "in", "--out", "tags.csv", "-k", "1")
    (tmp_path / "bad.ndjson").write_text("no results")
    assert run_audiotag("reformat", "bad.ndjson", "--out", "tags.csv", "--overwrite").code == 1
    assert (tmp_path / "tags.csv.run.json").exists()
    assert run_audiotag("reformat", "all.ndjson", "--out", "tags.csv", "--overwrite").code == 0
    assert not (tmp_path / "tags.csv.run.json").exists()
    assert (tmp_path / "all.ndjson.run.json").exists()
