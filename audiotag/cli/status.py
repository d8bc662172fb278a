"""What a command says on stderr, and the one line there that says how far it is."""

from __future__ import annotations

import sys
import time
from contextlib import suppress

import typer

from audiotag.writers import visible

SECONDS_BETWEEN_LINES = 10.0


def say(line: str) -> None:
    """Says a line; where nobody hears (a reader or a terminal that is gone, a full disk) the command goes on."""
    with suppress(OSError):
        typer.echo(visible(line).encode(), err=True)


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
