"""For people: a small table for each result, and text that is safe to show. Rich is imported only when one is shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from audiotag.results import SCORE_DIGITS, SECONDS_DIGITS, ClipResult, Failure, Result
from audiotag.writers.output import Output
from audiotag.writers.rows import Row, rows_of
from audiotag.writers.writer import Header

if TYPE_CHECKING:
    from rich.text import Text

BAR_WIDTH = 20  # characters for a score of 1
LEAST_LABEL_WIDTH = 8
ENDLESS = 1 << 30  # characters
GAP = "  "  # before each column


def visible(text: str) -> str:
    r"""Text with what a terminal would obey, or not show, escaped as in Python: `\n`, `\x1b`, `\udcff`."""
    joiner = "\u200d"  # of emoji

    def shown(character: str) -> str:
        is_plain = character.isprintable() or character == joiner
        return character if is_plain else character.encode("unicode_escape").decode("ascii")

    return "".join(map(shown, text))


class TableWriter:
    """A small table for each result; colours only on a terminal, never markup from a name.

    In a file or a pipe, lines are as long as they have to be. On a narrow terminal the bars give way, then labels are
    folded; numbers stay whole.
    """

    def __init__(self, out: Output, *, header: Header | None) -> None:
        self._out = out

    def begin(self) -> None:
        """Finds out what the terminal can show."""
        from rich.console import Console

        self._console = Console(file=_AsText(self._out))  # type: ignore[arg-type]

    def write(self, result: Result) -> None:
        """Prints a result."""
        is_seen = self._out.isatty()
        self._console.print(self._heading(result), overflow="fold" if is_seen else None, soft_wrap=not is_seen)
        rows = [row for row in rows_of(result) if row.label is not None]
        has_times = isinstance(result, ClipResult) and (result.windows is not None or result.events is not None)
        for line in self._lines(rows, has_times=has_times):
            self._console.print(line, soft_wrap=True)
        self._out.flush()

    def end(self) -> None:
        """Nothing comes after the last result."""

    def _heading(self, result: Result) -> Text:
        from rich.text import Text

        if isinstance(result, Failure):
            return Text.assemble((visible(result.path), "bold"), "  ", (f"failed: {visible(result.error)}", "red"))
        channel = "" if result.channel is None else f"  channel {result.channel}"
        nothing = "  no tag" if result.events is None else "  no event"
        notes = f"  {result.duration:.{SECONDS_DIGITS}f} s{channel}" + ("" if result.tags else nothing)
        warning = "" if result.warning is None else f"  warning: {visible(result.warning)}"
        return Text.assemble((visible(result.path), "bold"), (notes, "dim"), (warning, "yellow"))

    def _lines(self, rows: Sequence[Row], *, has_times: bool) -> Iterator[Text]:
        """Times, score, bar and label of each row; what is left of a label goes below its beginning."""
        from rich.text import Text

        labels, bars = [Text(visible(row.label or "")) for row in rows], _bars(rows)
        times = _times(rows) if has_times else [""] * len(rows)
        room = self._width() - _longest(times) - len(f"{GAP}{0:.{SCORE_DIGITS}f}{GAP}")
        if max((label.cell_len for label in labels), default=0) <= room - _longest(bars):
            room -= _longest(bars)
        else:
            bars = [""] * len(rows)
        for row, time, bar, label in zip(rows, times, bars, labels, strict=True):
            before = Text.assemble((time, "dim"), f"{GAP}{row.score:.{SCORE_DIGITS}f}", (bar, "cyan"), GAP)
            for part in label.wrap(self._console, max(room, LEAST_LABEL_WIDTH), overflow="fold"):
                part.rstrip()
                yield before + part
                before = Text(" " * before.cell_len)

    def _width(self) -> int:
        return self._console.width if self._out.isatty() else ENDLESS


def _times(rows: Sequence[Row]) -> list[str]:
    begins = [f"{row.start:.{SECONDS_DIGITS}f}" for row in rows]
    ends = [f"{row.end:.{SECONDS_DIGITS}f}" for row in rows]
    widths = _longest(begins), _longest(ends)
    return [f"{GAP}{begin:>{widths[0]}}{GAP}{end:>{widths[1]}}" for begin, end in zip(begins, ends, strict=True)]


def _bars(rows: Sequence[Row]) -> list[str]:
    bars = ["#" * round((row.score or 0.0) * BAR_WIDTH) for row in rows]
    return [GAP + bar.ljust(_longest(bars)) for bar in bars]


def _longest(texts: Sequence[str]) -> int:
    return max(map(len, texts), default=0)


class _AsText:
    """An `Output` as Rich writes to it."""

    encoding = "utf-8"

    def __init__(self, out: Output) -> None:
        self._out = out

    def write(self, text: str) -> int:
        self._out.write(text.encode("utf-8", "backslashreplace"))
        return len(text)

    def flush(self) -> None:
        self._out.flush()

    def isatty(self) -> bool:
        return self._out.isatty()

    def fileno(self) -> int:
        return self._out.file.fileno()
