"""What a journal promises: nothing twice, nothing lost, and the bytes of an uninterrupted run."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from audiotag.errors import OutputError
from audiotag.inputs import Input
from audiotag.journal import (
    JournaledFile,
    Mode,
    check_output,
    journal_path,
    provenance_path,
    read_finished,
    side_path,
    write_beside,
)
from audiotag.results import ClipResult, Failure, Tag
from audiotag.writers import Output, run_header

FORMATS = ("csv", "tsv", "ndjson", "json", "raven", "table")


def header(**parameters: Any) -> dict[str, Any]:
    return run_header(model="tiny", revision=None, sha256="ab12", parameters={"top_k": 2, "labels": (), **parameters})


def given(name: str, *, size: int = 1) -> Input:
    return Input(name, Path(name), size, 5)


INPUTS = tuple(given(f"{letter}.wav") for letter in "abcdef")


def open_file(out: Path, mode: Mode, **parameters: Any) -> JournaledFile:
    name = out.suffix[1:]
    return JournaledFile(out, form=name, header=header(**parameters), with_header=False, mode=mode)


def tag(file: JournaledFile, inputs: Iterable[Input], *, stop_after: int | None = None) -> list[str]:
    """Tags what is not done, as a run does; gives the paths that were."""
    done: list[str] = []
    for each in inputs:
        entry = file.find(each)
        if entry is not None:
            file.keep(entry.begin, entry.end)
        elif len(done) == stop_after:
            return done
        else:
            file.writer.write(ClipResult(path=each.path, duration=1.0, tags=(Tag("Dog", (each.size or 0) / 10),)))
            file.vouch(each, "ok", 1.0)
            done.append(each.path)
    return done


def finish(out: Path, inputs: Iterable[Input], mode: Mode = "resume") -> list[str]:
    with closing(open_file(out, mode)) as file:
        done = tag(file, inputs)
        file.finish({"inputs": {}})
        return done


def interrupt(out: Path, inputs: Iterable[Input], *, after: int, mode: Mode = "resume") -> None:
    with closing(open_file(out, mode)) as file:
        tag(file, inputs, stop_after=after)


def whole(tmp_path: Path, suffix: str, inputs: Iterable[Input] = INPUTS) -> bytes:
    out = tmp_path / f"whole.{suffix}"
    finish(out, inputs, "overwrite")
    return out.read_bytes()


@pytest.fixture(params=FORMATS)
def out(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return tmp_path / f"out.{request.param}"


def left_beside(out: Path) -> set[str]:
    return {path.name for path in out.parent.glob(out.name + "?*")}


def test_a_finished_run_leaves_its_provenance_and_no_journal(out: Path) -> None:
    finish(out, INPUTS, "new")
    assert left_beside(out) == {provenance_path(out).name}
    assert json.loads(provenance_path(out).read_text())["audiotag"] == json.loads(json.dumps(header()))


def test_a_resumed_run_does_nothing_twice_and_writes_the_same_bytes(out: Path, tmp_path: Path) -> None:
    interrupt(out, INPUTS, after=2, mode="new")
    interrupt(out, INPUTS, after=1)
    assert finish(out, INPUTS) == ["d.wav", "e.wav", "f.wav"]
    assert out.read_bytes() == whole(tmp_path, out.suffix[1:])


def test_bytes_that_nobody_vouches_for_are_written_again(out: Path, tmp_path: Path) -> None:
    interrupt(out, INPUTS, after=3, mode="new")
    work = out if out.exists() else side_path(out)
    with work.open("ab") as file:
        file.write(b"d.wav,ok,half a rec")
    with journal_path(out).open("ab") as file:
        file.write(b'{"path": "d.wav", "si')
    assert finish(out, INPUTS) == ["d.wav", "e.wav", "f.wav"]
    assert out.read_bytes() == whole(tmp_path, out.suffix[1:])


@pytest.mark.parametrize("n_bytes", [0, 1, 10, 60, 200])
def test_an_output_that_lost_its_end_in_a_power_cut_is_mended(out: Path, tmp_path: Path, n_bytes: int) -> None:
    interrupt(out, INPUTS, after=4, mode="new")
    work = out if out.exists() else side_path(out)
    os.truncate(work, min(n_bytes, work.stat().st_size))
    finish(out, INPUTS)
    assert out.read_bytes() == whole(tmp_path, out.suffix[1:])


def test_bytes_that_a_power_cut_left_as_zeros_are_written_again(
    out: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    interrupt(out, INPUTS, after=4, mode="new")
    work = out if out.exists() else side_path(out)
    data = work.read_bytes()
    work.write_bytes(data[:-20] + bytes(20))
    assert finish(out, INPUTS) == ["d.wav", "e.wav", "f.wav"]
    assert [each.message for each in caplog.records] == [
        f"{out}: results of 1 inputs are not as written; those are done again"
    ]
    assert out.read_bytes() == whole(tmp_path, out.suffix[1:])
    interrupt(out, INPUTS, after=4, mode="overwrite")
    work.write_bytes(bytes(len(data)))
    finish(out, INPUTS)
    assert out.read_bytes() == whole(tmp_path, out.suffix[1:])


def test_an_unfinished_output_that_another_program_saved_is_not_thrown_away(tmp_path: Path) -> None:
    out = tmp_path / "tags.csv"
    interrupt(out, INPUTS, after=4, mode="new")
    saved = out.read_bytes().replace(b"\n", b"\r\n")  # as a spreadsheet does
    out.write_bytes(saved)
    with pytest.raises(OutputError, match=r"tags\.csv: was changed by another program while it was unfinished\. Keep"):
        finish(out, INPUTS)
    assert out.read_bytes() == saved
    assert journal_path(out).exists()
    finish(out, INPUTS, "overwrite")
    assert out.read_bytes() == whole(tmp_path, "csv")


def test_an_output_that_another_version_began_is_not_thrown_away(out: Path) -> None:
    interrupt(out, INPUTS, after=4, mode="new")
    journal, work = journal_path(out).read_bytes(), out if out.exists() else side_path(out)
    before = work.read_bytes()
    journal_path(out).write_bytes(journal.replace(b'{"audiotag_journal": 1', b'{"audiotag_journal": 2', 1))
    with pytest.raises(OutputError, match="was begun by another version of audiotag"):
        finish(out, INPUTS)
    assert work.read_bytes() == before


@pytest.mark.parametrize("n_bytes", [0, 1, 50, 400, 450, 600])
def test_a_journal_may_end_anywhere(out: Path, tmp_path: Path, n_bytes: int) -> None:
    interrupt(out, INPUTS, after=4, mode="new")
    os.truncate(journal_path(out), min(n_bytes, journal_path(out).stat().st_size))
    finish(out, INPUTS)
    assert out.read_bytes() == whole(tmp_path, out.suffix[1:])


@pytest.mark.parametrize(
    "line", [{}, {"path": 5, "end": 1}, {"path": "x", "end": "1"}, {"path": "x", "end": 1}, {"path": [], "end": 1}]
)
def test_a_journal_of_somebody_else_s_making_is_refused(out: Path, line: dict[str, object]) -> None:
    interrupt(out, INPUTS, after=4, mode="new")
    with journal_path(out).open("a") as journal:
        journal.write(json.dumps(line) + "\n")
    with pytest.raises(OutputError, match=r"\.journal: is not as it was written\. Begin anew with --overwrite"):
        finish(out, INPUTS)


def test_added_inputs_are_picked_up_in_their_place(out: Path, tmp_path: Path) -> None:
    interrupt(out, [INPUTS[1], INPUTS[4]], after=2, mode="new")
    assert finish(out, INPUTS) == ["a.wav", "c.wav", "d.wav", "f.wav"]
    assert out.read_bytes() == whole(tmp_path, out.suffix[1:])


def test_removed_inputs_are_left_out(out: Path, tmp_path: Path) -> None:
    interrupt(out, INPUTS, after=5, mode="new")
    assert finish(out, INPUTS[2:]) == ["f.wav"]
    assert out.read_bytes() == whole(tmp_path, out.suffix[1:], INPUTS[2:])


def test_changed_inputs_are_done_again_and_reported(
    out: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "audiotag")
    interrupt(out, INPUTS, after=5, mode="new")
    now = (INPUTS[0], given("b.wav", size=7), *INPUTS[2:])
    assert finish(out, now) == ["b.wav", "f.wav"]
    assert out.read_bytes() == whole(tmp_path, out.suffix[1:], now)
    assert caplog.messages == ["b.wav: has changed since it was tagged; it is done again"]


def test_removed_inputs_are_told(out: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "audiotag")
    interrupt(out, INPUTS, after=5, mode="new")
    finish(out, INPUTS[2:])
    assert caplog.messages == [f"{out}: results of 2 inputs that are gone are left out"]


def test_results_of_inputs_that_are_there_but_not_named_are_not_thrown_away(out: Path, tmp_path: Path) -> None:
    there = [given(str(tmp_path / each.path)) for each in INPUTS]
    for each in there:
        Path(each.path).touch()
    interrupt(out, there[:4], after=4, mode="new")
    with closing(open_file(out, "resume")) as file:
        file.check_inputs(each.path for each in there)
        with pytest.raises(OutputError, match=r"results of 3 inputs that are not named now, such as .*b\.wav\. Name"):
            file.check_inputs([there[0].path])
    with pytest.raises(OutputError, match=r"results of 2 inputs that are not named now, such as .*c\.wav"):
        finish(out, there[:2])  # as with a list on stdin, which cannot be looked at before
    assert finish(out, there) == [each.path for each in there[4:]]
    assert out.read_bytes() == whole(tmp_path, out.suffix[1:], there)


def test_results_of_inputs_that_cannot_be_reached_are_not_thrown_away(out: Path, tmp_path: Path) -> None:
    away = given(str(tmp_path / "drive" / "a.wav"))
    interrupt(out, [away, INPUTS[1]], after=2, mode="new")
    with pytest.raises(OutputError, match="results of 1 inputs that are not named now"):
        finish(out, INPUTS[1:])
    (tmp_path / "drive").mkdir()  # it is there, without the file
    assert finish(out, INPUTS[1:]) == []


def test_results_of_named_inputs_that_are_not_there_now_are_kept(out: Path, tmp_path: Path) -> None:
    interrupt(out, INPUTS, after=4, mode="new")
    away = tuple(Input(each.path, each.source) for each in INPUTS[:2])  # in a list of files of which a drive is out
    assert finish(out, (*away, *INPUTS[2:])) == ["e.wav", "f.wav"]
    assert out.read_bytes() == whole(tmp_path, out.suffix[1:])


def test_results_are_not_thrown_away_where_none_is_named_again(out: Path) -> None:
    interrupt(out, INPUTS[:2], after=2, mode="new")
    with pytest.raises(OutputError, match="results of 2 inputs that are not named now"):
        finish(out, [given("elsewhere/a.wav")])


def test_what_failed_and_what_came_from_stdin_is_done_again(out: Path, tmp_path: Path) -> None:
    stdin = Input("-", None)
    with closing(open_file(out, "new")) as file:
        for each, status in ((INPUTS[0], "failed"), (stdin, "ok"), (INPUTS[1], "ok")):
            file.writer.write(ClipResult(path=each.path, duration=1.0, tags=()))
            file.vouch(each, status, 1.0)  # type: ignore[arg-type]
    assert finish(out, [INPUTS[0], stdin]) == ["a.wav", "-"]
    assert out.read_bytes() == whole(tmp_path, out.suffix[1:], [INPUTS[0], stdin])


def test_a_failure_that_is_not_named_again_is_no_loss(out: Path, tmp_path: Path) -> None:
    with closing(open_file(out, "new")) as file:
        file.writer.write(Failure(path=str(tmp_path), error="permission denied"))
        file.vouch(Input(str(tmp_path), tmp_path), "failed", 0.0)
    assert finish(out, INPUTS[:1]) == ["a.wav"]


def test_nothing_is_replaced_or_removed_while_it_is_open(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, which refuses both."""
    for module in ("journaled_file", "disk"):
        monkeypatch.setattr(f"audiotag.journal.{module}.REMOVES_OPEN_FILES", False)
    replace, unlink = os.replace, Path.unlink

    def is_open(path: Path) -> bool:
        links = [Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd")]
        return str(path) in [os.readlink(link) for link in links if os.path.lexists(link)]

    def refusing_replace(source: Path, target: Path) -> None:
        assert not any(map(is_open, (source, target))), target
        replace(source, target)

    def refusing_unlink(path: Path, *, missing_ok: bool = False) -> None:
        assert not is_open(path), path
        unlink(path, missing_ok=missing_ok)

    interrupt(out, [INPUTS[1], INPUTS[4]], after=2, mode="new")
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", refusing_replace)
        patched.setattr(Path, "unlink", refusing_unlink)
        assert finish(out, INPUTS) == ["a.wav", "c.wav", "d.wav", "f.wav"]
    assert out.read_bytes() == whole(tmp_path, out.suffix[1:])


def test_a_death_between_sorting_and_cleaning_up_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.csv"
    interrupt(out, INPUTS[3:], after=2, mode="new")

    def die(file: JournaledFile, provenance: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(JournaledFile, "_clean_up", die)
        with pytest.raises(KeyboardInterrupt):
            finish(out, INPUTS)
    assert journal_path(out).exists()
    with closing(open_file(out, "resume")) as file:
        assert file.finish_earlier() is not None
    assert out.read_bytes() == whole(tmp_path, "csv")
    assert left_beside(out) == {provenance_path(out).name}


def test_a_death_in_the_midst_of_cleaning_up_leaves_nothing_in_the_end(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    finish(out, INPUTS, "new")
    side_path(out).touch()  # the journal goes before it
    assert read_finished(out, form="json", header=header(), with_header=False) is not None
    assert left_beside(out) == {provenance_path(out).name}


def test_other_parameters_are_refused_with_what_changed(out: Path) -> None:
    interrupt(out, INPUTS, after=2, mode="new")
    before = journal_path(out).read_bytes()
    with pytest.raises(OutputError, match=r"begun with other settings: top_k was 2, is 3\. Resume with those"):
        open_file(out, "resume", top_k=3)
    assert journal_path(out).read_bytes() == before


def test_another_model_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    interrupt(out, INPUTS, after=2, mode="new")
    other = {**header(), "sha256": "cd34"}
    with pytest.raises(OutputError, match='sha256 was "ab12", is "cd34"'):
        JournaledFile(out, form="csv", header=other, with_header=False, mode="resume")


def test_the_same_model_under_another_name_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    interrupt(out, INPUTS, after=2, mode="new")
    JournaledFile(out, form="csv", header={**header(), "model": "x"}, with_header=False, mode="resume").close()


def test_a_second_run_into_the_same_file_is_refused(out: Path) -> None:
    file = open_file(out, "new")
    with pytest.raises(OutputError, match="another run is writing it"):
        open_file(out, "resume")
    file.close()


def test_what_another_run_wrote_after_the_first_look_is_kept(out: Path) -> None:
    check_output(out, "new")
    finish(out, INPUTS, "new")
    before = out.read_bytes()
    with pytest.raises(OutputError, match=r"exists\. Choose another name"):
        open_file(out, "new")
    assert (out.read_bytes(), left_beside(out)) == (before, {provenance_path(out).name})


@pytest.mark.parametrize("mode", ["new", "overwrite", "resume"])
def test_an_output_that_is_being_written_is_refused_before_a_model_is_opened(tmp_path: Path, mode: Mode) -> None:
    out = tmp_path / "out.csv"
    with closing(open_file(out, "new")), pytest.raises(OutputError, match="another run is writing it"):
        check_output(out, mode)


def test_what_a_run_left_unfinished_may_be_overwritten(out: Path) -> None:
    interrupt(out, INPUTS, after=1, mode="new")
    check_output(out, "overwrite")


def test_a_file_that_is_being_written_whole_is_not_written_by_another_run(tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    (tmp_path / "page.html.partial").write_bytes(b"what a killed run left behind, which is longer")

    def write(output: Output) -> None:
        output.write(b"from the first ")
        with pytest.raises(OutputError, match=r"page\.html: another run is writing it"):
            write_beside(out, lambda other: other.write(b"second"))
        output.write(b"to the last")

    write_beside(out, write)
    assert (out.read_bytes(), os.listdir(tmp_path)) == (b"from the first to the last", ["page.html"])


def refusing_lock(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(file: object, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)


def test_a_file_system_without_locks_is_written_all_the_same(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing_lock(monkeypatch, errno.ENOLCK)
    assert len(finish(out, INPUTS, "new")) == len(INPUTS)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EACCES])
def test_a_lock_is_taken_whatever_the_file_system_calls_it(
    out: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refusing_lock(monkeypatch, number)
    with pytest.raises(OutputError, match="another run is writing it"):
        open_file(out, "new")


def test_an_output_that_cannot_be_opened_leaves_no_journal(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    out.symlink_to(tmp_path / "no folder" / "out.csv")
    with pytest.raises(OutputError, match="cannot be written"):
        open_file(out, "overwrite")
    assert not journal_path(out).exists()


@pytest.mark.parametrize("mode", ["new", "overwrite", "resume"])
def test_a_pipe_or_a_device_is_no_output(tmp_path: Path, mode: Mode) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(OutputError, match=r"is a device or a pipe\. Leave out --out to write to stdout"):
        check_output(tmp_path / "pipe.csv", mode)


def test_a_name_too_long_for_what_lies_beside_it_is_told_before_anything_is_tagged(tmp_path: Path) -> None:
    longest = os.pathconf(tmp_path, "PC_NAME_MAX") - len(".run.json.partial")
    check_output(tmp_path / ("a" * longest), "new")
    write_beside(provenance_path(tmp_path / ("a" * longest)), lambda output: output.write(b"{}"))
    with pytest.raises(OutputError, match=r"too long a name for \.run\.json\.partial to be added\. Choose a shorter"):
        check_output(tmp_path / ("a" * (longest + 1)), "new")


def test_a_file_that_exists_needs_a_decision(out: Path) -> None:
    out.write_text("precious")
    with pytest.raises(OutputError, match=r"exists\. Choose another name, or replace it with --overwrite"):
        check_output(out, "new")
    for mode in ("resume", "overwrite"):
        check_output(out, mode)  # type: ignore[arg-type]


def test_an_unfinished_run_is_named_as_such(out: Path) -> None:
    interrupt(out, INPUTS, after=1, mode="new")
    with pytest.raises(OutputError, match=r"holds an unfinished run.* Go on with --resume"):
        check_output(out, "new")


def test_a_file_that_no_run_wrote_cannot_be_resumed(out: Path) -> None:
    out.write_text("precious")
    with pytest.raises(OutputError, match="has no journal to go on from"):
        read_finished(out, form=out.suffix[1:], header=header(), with_header=False)
    provenance_path(out).write_text("{")
    with pytest.raises(OutputError, match="has no journal to go on from"):
        read_finished(out, form=out.suffix[1:], header=header(), with_header=False)
    assert out.read_text() == "precious"


def test_a_file_that_was_taken_away_is_noticed(out: Path) -> None:
    file = open_file(out, "new")
    tag(file, INPUTS)
    for path in list(out.parent.iterdir()):
        path.unlink()
    with pytest.raises(OutputError, match="cannot be written: No such file or directory"):
        file.finish({})
    file.close()
    finish(out, INPUTS)
