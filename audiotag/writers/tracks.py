"""The label tracks of other programs, Audacity and Raven; inputs without tags leave no trace in them."""

from __future__ import annotations

from audiotag.errors import UsageError
from audiotag.results import SCORE_DIGITS, SECONDS_DIGITS, Result
from audiotag.writers.output import Output, raw_bytes
from audiotag.writers.rows import Row, rows_of
from audiotag.writers.writer import Header


class AudacityWriter:
    """A label track: start, end and label, separated by tabs. It belongs to one recording."""

    def __init__(self, out: Output, *, header: Header | None) -> None:
        self._out = out
        self._path: str | None = None

    def begin(self) -> None:
        """A label track has no head."""

    def write(self, result: Result) -> None:
        """Writes a line for each tag."""
        if self._path not in (None, result.path):
            raise UsageError("format audacity: a label track belongs to one input. Use raven or csv for several")
        self._path = result.path
        self._out.write(raw_bytes("".join(self._line(row) for row in rows_of(result) if row.label is not None)))
        self._out.flush()

    def _line(self, row: Row) -> str:
        channel = "" if row.channel is None else f" channel {row.channel}"
        return f"{row.start:.3f}\t{row.end:.3f}\t{_one_cell(row.label)} {row.score:.3f}{channel}\n"

    def end(self) -> None:
        """Nothing comes after the last line."""


class RavenWriter:
    """A selection table of Raven, https://ravensoundsoftware.com; its channels count from 1."""

    COLUMNS = (
        "Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Begin Path", "File Offset (s)", "Label",
        "Score",
    )  # fmt: skip

    def __init__(self, out: Output, *, header: Header | None) -> None:
        self._out = out
        self._n_selections = 0

    def begin(self) -> None:
        """Writes the column names."""
        self._out.write(raw_bytes("\t".join(self.COLUMNS) + "\n"))
        self._out.flush()

    def write(self, result: Result) -> None:
        """Writes a selection for each tag."""
        for row in rows_of(result):
            if row.label is not None:
                self._n_selections += 1
                self._out.write(raw_bytes("\t".join(map(_one_cell, self._selection(row))) + "\n"))
        self._out.flush()

    def _selection(self, row: Row) -> tuple[str, ...]:
        begin, end = f"{row.start:.{SECONDS_DIGITS}f}", f"{row.end:.{SECONDS_DIGITS}f}"
        channel = str((row.channel or 0) + 1)
        score = f"{row.score:.{SCORE_DIGITS}f}"
        view = "Spectrogram 1"
        return str(self._n_selections), view, channel, begin, end, row.path, begin, row.label or "", score

    def end(self) -> None:
        """Nothing comes after the last selection."""


def _one_cell(text: str | None) -> str:
    """Text without the tabs and newlines that neither program can read in a cell."""
    return " ".join((text or "").replace("\t", " ").splitlines())
