"""How far a run is: a bar on a terminal, a line every 10 seconds elsewhere; all of it on stderr."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any

from audiotag.cli.status import SECONDS_BETWEEN_LINES, counted, length_of, real_time, say
from audiotag.errors import UsageError
from audiotag.inputs import Found, Input

if TYPE_CHECKING:
    from audiotag.run import Tally


class Progress:
    """Counts the seconds of audio that this session has tagged, and estimates the total from the inputs' bytes.

    `find` walks the inputs once more, on a thread, to learn how many bytes there are; None where that cannot be done.
    Until an input is done, the seconds that `to_tag` finds in the first one stand for all. With `among_results`, these
    go to the same terminal: a bar would be drawn into the midst of them.
    """

    def __init__(
        self,
        tally: Tally,
        find: Callable[[], Iterable[Found]] | None,
        *,
        to_tag: Callable[[Input], float],
        shown: bool,
        among_results: bool = False,
    ) -> None:
        self.seconds = 0.0  # of audio, in this session
        self._tally, self._find, self._shown, self._among_results = tally, find, shown, among_results
        self._to_tag = to_tag
        self._bytes_done, self._bytes_total, self._seconds_of_done = 0, 0, 0.0
        self._seconds_per_byte = 0.0  # of an input that is not done
        self._seconds_kept = 0.0  # of inputs that an earlier session did
        self._is_counted = False
        self._begun = self._last = time.monotonic()
        self._bar: Any = None

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._begun

    def __enter__(self) -> Progress:
        if self._shown and self._find is not None:
            threading.Thread(target=self._count, name="audiotag-count", daemon=True).start()
        takes_bar = sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not self._among_results
        if self._shown and takes_bar:
            self._bar = _open_bar()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            with suppress(OSError):  # the terminal is gone
                self._bar.stop()
            _log_to(sys.stderr)

    def _count(self) -> None:
        assert self._find is not None
        with suppress(UsageError):  # of a list, which the run tells when it comes there
            for found in self._find():
                if isinstance(found, Input) and found.size:
                    if not (self._seconds_per_byte or self._bytes_done):
                        self._seconds_per_byte = self._to_tag(found) / found.size
                    self._bytes_total += found.size
            self._is_counted = True

    def add_seconds(self, seconds: float) -> None:
        """Counts audio that was tagged."""
        # The tally counts kept inputs too, which are not tagged here. The difference lacks what is tagged but not
        # counted yet, now more, now less; so the largest is nearest.
        self._seconds_kept = max(self._seconds_kept, self._tally.seconds - self.seconds)
        self.seconds += seconds
        self._show()

    def add_input(self, given: Input) -> None:
        """Counts an input whose result was written."""
        self._bytes_done += given.size or 0
        self._seconds_of_done = self.seconds
        self._show()

    def total_seconds(self) -> float | None:
        """Estimated seconds of audio that this session tags in all; None while too little is known.

        Inputs that are not done are taken to have as many seconds a byte as those that are. What an earlier session
        did is left out.
        """
        seconds_per_byte = self._seconds_of_done / self._bytes_done if self._bytes_done else self._seconds_per_byte
        if not (self._is_counted and seconds_per_byte):
            return None
        return max(self.seconds, seconds_per_byte * self._bytes_total - self._seconds_kept)

    def _show(self) -> None:
        if self._bar is not None:
            self._bar.update(
                self._bar.task_ids[0], completed=self.seconds, total=self.total_seconds(), tail=self._tail()
            )
        elif self._shown and time.monotonic() - self._last >= SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            say(f"audiotag: {self._tail()}{self._left()}")

    def _tail(self) -> str:
        failed = f", {self._tally.n_failed:,} failed" if self._tally.n_failed else ""
        speed = real_time(self.seconds, self.elapsed)
        return f"{counted(self._tally.n_inputs, 'input')}{failed}; {length_of(self.seconds)} of audio, {speed}"

    def _left(self) -> str:
        total = self.total_seconds()
        if total is None or total <= self.seconds:  # overtaken: a long file in few bytes is still being read
            return ""
        left = (total - self.seconds) * self.elapsed / self.seconds
        return f", about {timedelta(seconds=round(left))} left"


def _open_bar() -> Any:
    from rich import progress
    from rich.console import Console

    columns = (progress.BarColumn(), progress.TimeRemainingColumn(), progress.TextColumn("{task.fields[tail]}"))
    bar = progress.Progress(*columns, console=Console(stderr=True), redirect_stdout=False)
    bar.add_task("", total=None, tail="")
    with suppress(OSError):
        bar.start()
    _log_to(sys.stderr)  # which Rich has replaced: lines appear above the bar
    return bar


def _log_to(stream: Any) -> None:
    for handler in logging.getLogger("audiotag").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(stream)
