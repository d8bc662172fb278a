"""What a command says on stderr: a line, numbers in words, and the one line that says how far it is."""

from __future__ import annotations

import sys
import time
from contextlib import suppress

import typer

from audiotag.writers import visible

SECONDS_BETWEEN_LINES = 10.0


def say(line: str) -> None:
    """Writes a line to stderr; where it cannot be written (a closed pipe, a full disk) the command goes on."""
    with suppress(OSError):
        typer.echo(visible(line).encode(), err=True)


def length_of(seconds: float) -> str:
    """An amount of audio in the unit that suits it.

    >>> length_of(12240), length_of(630), length_of(36)
    ('3.4 h', '10.5 min', '36.0 s')
    """
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"


def counted(number: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "input"), counted(2000, "input")
    ('1 input', '2,000 inputs')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def real_time(seconds: float, elapsed: float) -> str:
    """How many times faster than listening."""
    factor = seconds / max(elapsed, 1e-9)
    return f"{factor:,.0f} x real time" if factor >= 10 else f"{factor:.1f} x real time"


class StatusLine:
    """A line every 10 s and whenever one is to stay; on a terminal each is written over the last."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet, self._is_terminal, self._last = quiet, sys.stderr.isatty(), 0.0

    def show(self, line: str, *, keep: bool = False) -> None:
        """Shows the line, unless it is too early for another one; one to `keep` is always shown, and stays."""
        is_due = keep or self._is_terminal or time.monotonic() - self._last >= SECONDS_BETWEEN_LINES
        if self._quiet or not is_due:
            return
        self._last = time.monotonic()
        over, end = ("\r\033[K", "\n" if keep else "") if self._is_terminal else ("", "\n")
        with suppress(OSError):  # as in `say`
            sys.stderr.write(f"{over}{line}{end}")
            sys.stderr.flush()
