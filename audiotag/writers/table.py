"""For people: a small table for each result, and text that is safe to show. Rich is imported only when one is shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from audiotag.results import SCORE_DIGITS, SECONDS_DIGITS, Failure, Result
from audiotag.writers.output import Output
from audiotag.writers.rows import Row, rows_of
from audiotag.writers.writer import Header

if TYPE_CHECKING:
    from rich.text import Text

BAR_WIDTH = 20  # characters for a score of 1


def visible(text: str) -> str:
    r"""Text with what a terminal would obey, or not show, escaped as in Python: `\n`, `\x1b`, `\udcff`."""
    joiner = "\u200d"  # of emoji

    def shown(character: str) -> str:
        is_plain = character.isprintable() or character == joiner
        return character if is_plain else character.encode("unicode_escape").decode("ascii")

    return "".join(map(shown, text))


class TableWriter:
    """A small table for each result; colours only on a terminal, never markup from a name."""

    def __init__(self, out: Output, *, header: Header | None) -> None:
        self._out = out

    def begin(self) -> None:
        """Finds out what the terminal can show."""
        from rich.console import Console

        self._console = Console(file=_AsText(self._out), highlight=False, markup=False, emoji=False)  # type: ignore[arg-type]

    def write(self, result: Result) -> None:
        """Prints a result."""
        from rich.padding import Padding
        from rich.table import Table

        self._console.print(self._heading(result), overflow="fold")
        table = Table.grid(padding=(0, 2))
        for row in rows_of(result):
            if row.label is not None:
                table.add_row(*self._shown(row, has_windows=getattr(result, "windows", None) is not None))
        if table.row_count:
            self._console.print(Padding(table, (0, 0, 0, 2)))
        self._out.flush()

    def end(self) -> None:
        """Nothing comes after the last result."""

    def _heading(self, result: Result) -> Text:
        from rich.text import Text

        if isinstance(result, Failure):
            return Text.assemble((visible(result.path), "bold"), "  ", (f"failed: {visible(result.error)}", "red"))
        channel = "" if result.channel is None else f"  channel {result.channel}"
        notes = f"  {result.duration:.{SECONDS_DIGITS}f} s{channel}" + ("" if result.tags else "  no tag")
        warning = "" if result.warning is None else f"  warning: {visible(result.warning)}"
        return Text.assemble((visible(result.path), "bold"), (notes, "dim"), (warning, "yellow"))

    def _shown(self, row: Row, *, has_windows: bool) -> Iterator[Text]:
        from rich.text import Text

        if has_windows:
            yield Text(f"{row.start:.{SECONDS_DIGITS}f}", "dim", justify="right")
            yield Text(f"{row.end:.{SECONDS_DIGITS}f}", "dim", justify="right")
        score = row.score or 0.0
        yield Text(f"{score:.{SCORE_DIGITS}f}")
        yield Text("#" * round(score * BAR_WIDTH), "cyan")
        yield Text(visible(row.label or ""))


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
