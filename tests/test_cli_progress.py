"""What the progress of a run says is left."""

from __future__ import annotations

import errno
import io
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from audiotag.cli.progress import Progress
from audiotag.cli.status import StatusLine
from audiotag.cli.train import _TrainingLines
from audiotag.errors import UsageError
from audiotag.inputs import Input
from audiotag.run import Tally
from audiotag.training.trainer import Progress as TrainingProgress

INPUTS = [Input(f"{number}.wav", Path(f"{number}.wav"), size=1000, mtime_ns=0) for number in range(100)]  # of 60 s


@contextmanager
def progress_over(
    tally: Tally, find: Callable[[], Iterable[Input]] = lambda: INPUTS, *, headers_tell: bool = False
) -> Iterator[Progress]:
    """A progress that has counted all inputs; the first one's header tells nothing."""
    lengths = dict.fromkeys(INPUTS[1:], 50.0) if headers_tell else {}
    with Progress(tally, find, to_tag=lambda given: lengths.get(given, 0.0), shown=True) as progress:
        for thread in threading.enumerate():
            if thread.name == "audiotag-count":
                thread.join()
        yield progress


def tag(progress: Progress, tally: Tally, given: Input) -> None:
    tally.add("ok", 60.0)
    progress.add_input(given)


def test_the_whole_is_estimated_from_the_bytes_of_the_inputs() -> None:
    tally = Tally()
    with progress_over(tally) as progress:
        assert progress.total_seconds() is None
        progress.add_seconds(60.0)
        tag(progress, tally, INPUTS[0])
        assert progress.total_seconds() == pytest.approx(6000.0)


def test_until_an_input_is_done_a_header_tells_how_long_all_are() -> None:
    tally = Tally()
    with progress_over(tally, headers_tell=True) as progress:
        progress.add_seconds(1.0)
        assert progress.total_seconds() == pytest.approx(5000.0)
        progress.add_seconds(59.0)
        tag(progress, tally, INPUTS[0])
        assert progress.total_seconds() == pytest.approx(6000.0)


def test_a_list_that_breaks_off_is_told_of_by_the_run_and_not_where_it_is_counted() -> None:
    def broken() -> Iterator[Input]:
        yield INPUTS[0]
        raise UsageError("list of files list: Input/output error. Check its name")

    tally = Tally()
    with progress_over(tally, broken) as progress:
        progress.add_seconds(60.0)
        tag(progress, tally, INPUTS[0])
        assert progress.total_seconds() is None


def test_what_an_earlier_session_did_is_not_left_to_do() -> None:
    tally = Tally(n_ok=90, seconds=90 * 60.0)
    with progress_over(tally) as progress:
        progress.add_seconds(60.0)
        tag(progress, tally, INPUTS[90])
        assert progress.total_seconds() == pytest.approx(600.0)


def test_what_an_earlier_session_did_is_not_left_to_do_until_an_input_is_done_either() -> None:
    with progress_over(Tally(n_ok=90, seconds=90 * 50.0), headers_tell=True) as progress:
        progress.add_seconds(1.0)
        progress.add_seconds(1.0)
        assert progress.total_seconds() == pytest.approx(500.0)


def test_clips_ahead_of_the_tally_do_not_make_the_rest_longer_for_good() -> None:
    tally = Tally(n_ok=90, seconds=90 * 60.0)
    with progress_over(tally) as progress:
        progress.add_seconds(5 * 60.0)
        for given in INPUTS[90:95]:
            tag(progress, tally, given)
        progress.add_seconds(3 * 60.0)
        tag(progress, tally, INPUTS[95])
        progress.add_seconds(60.0)
        tag(progress, tally, INPUTS[96])
        tag(progress, tally, INPUTS[97])
        tag(progress, tally, INPUTS[98])
        assert progress.total_seconds() == pytest.approx(600.0)


def test_nothing_is_said_of_what_is_left_where_a_file_is_longer_than_its_bytes_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("audiotag.cli.progress.SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(Progress, "elapsed", 10.0)
    tally = Tally()
    with progress_over(tally) as progress:
        progress.add_seconds(60.0)
        tag(progress, tally, INPUTS[0])
        line = "audiotag: 1 input; 1.0 min of audio, 6.0 x real time, about 0:16:30 left\n"
        assert capsys.readouterr().err.endswith(line)
        progress.add_seconds(3 * 3600.0)
        assert "x real time\n" in capsys.readouterr().err


class FullDisk(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_behind_stderr_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audiotag.cli.progress.SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(sys, "stderr", FullDisk())
    with progress_over(Tally()) as progress:
        progress.add_seconds(60.0)
    StatusLine(quiet=False).show("step 1", keep=True)


def test_a_training_says_what_is_left_by_the_steps_of_this_session(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    lines = _TrainingLines(quiet=False)
    lines.step(TrainingProgress(step=510, steps=1000, loss=0.25))  # goes on with a training
    now += 15.0
    lines.step(TrainingProgress(step=520, steps=1000, loss=0.25))
    now += 5.0
    lines.step(TrainingProgress(step=525, steps=1000, loss=0.25))  # too early for another line
    lines.step(TrainingProgress(
        step=550, steps=1000, loss=0.5, validation_map=0.75, validation_top1=0.5, best_map=0.875
    ))  # fmt: skip
    assert capsys.readouterr().err == (
        "step 510/1000  loss 0.250  --:-- left\n"
        "step 520/1000  loss 0.250  12:00 left\n"
        "step 550/1000  loss 0.500  3:45 left  validation mAP 0.7500 (best 0.8750)  top-1 0.500\n"
    )
