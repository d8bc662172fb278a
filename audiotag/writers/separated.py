"""Rows as separated text: CSV and TSV."""

from __future__ import annotations

from audiotag.results import SCORE_DIGITS, SECONDS_DIGITS, Result
from audiotag.writers.output import Output, raw_bytes
from audiotag.writers.rows import Row, rows_of
from audiotag.writers.writer import Header


class SeparatedWriter:
    """Rows under a line of column names, quoted as RFC 4180 says, lines ending in a newline."""

    separator = ","

    def __init__(self, out: Output, *, header: Header | None) -> None:
        self._out = out

    def begin(self) -> None:
        """Writes the column names."""
        self._out.write(self._line(Row._fields))
        self._out.flush()

    def write(self, result: Result) -> None:
        """Writes the rows of a result."""
        self._out.write(b"".join(self._line(_cells(row)) for row in rows_of(result)))
        self._out.flush()

    def end(self) -> None:
        """Nothing comes after the last row."""

    def _line(self, cells: tuple[str, ...]) -> bytes:
        return raw_bytes(self.separator.join(self._quoted(cell) for cell in cells) + "\n")

    def _quoted(self, cell: str) -> str:
        if any(character in cell for character in (self.separator, '"', "\n", "\r")):
            return '"' + cell.replace('"', '""') + '"'
        return cell


class TsvWriter(SeparatedWriter):
    """The same with tabs."""

    separator = "\t"


def _cells(row: Row) -> tuple[str, ...]:
    def seconds(value: float | None) -> str:
        return "" if value is None else f"{value:.{SECONDS_DIGITS}f}"

    def whole(value: int | None) -> str:
        return "" if value is None else str(value)

    score = "" if row.score is None else f"{row.score:.{SCORE_DIGITS}f}"
    return (
        row.path, row.status, seconds(row.start), seconds(row.end), whole(row.channel), whole(row.rank),
        row.label or "", score, row.error or "",
    )  # fmt: skip
