"""Parquet: rows with types, in groups. pyarrow is imported only when one is written."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from audiotag.results import SCORE_DIGITS, SECONDS_DIGITS, Result
from audiotag.writers.json_lines import json_bytes
from audiotag.writers.output import Output
from audiotag.writers.rows import Row, rows_of
from audiotag.writers.writer import Header

ROWS_IN_GROUP = 65_536  # of a Parquet file: what is held in memory


class ParquetWriter:
    """The columns of CSV with types, and the header as the metadata `audiotag`."""

    def __init__(self, out: Output, *, header: Header | None) -> None:
        self._out, self._header = out, header
        self._rows: list[Row] = []
        # pyarrow writes the end of a file also where an error has thrown its writer away. In memory that does no harm.
        self._memory = BytesIO()
        self._file: Any = None

    def begin(self) -> None:
        """Writes the beginning of the file."""
        import pyarrow
        from pyarrow import parquet

        text, real, whole = pyarrow.string(), pyarrow.float64(), pyarrow.int32()
        types = (text, text, real, real, whole, whole, text, real, text)
        metadata = {"audiotag": json_bytes(self._header or {})}
        self._schema = pyarrow.schema(list(zip(Row._fields, types, strict=True)), metadata=metadata)
        self._file = parquet.ParquetWriter(pyarrow.PythonFile(self._memory, mode="w"), self._schema)
        self._hand_on()

    def write(self, result: Result) -> None:
        """Keeps the rows until a group is full."""
        self._rows += map(_storable, rows_of(result))
        if len(self._rows) >= ROWS_IN_GROUP:
            self._write_group()

    def end(self) -> None:
        """Writes the last rows and the end of the file."""
        self._write_group()
        self._file.close()
        self._hand_on()
        self._out.flush()

    def _write_group(self) -> None:
        import pyarrow

        if self._rows:
            columns = [list(column) for column in zip(*self._rows, strict=True)]
            self._file.write_table(pyarrow.table(columns, schema=self._schema))
            self._rows = []
            self._hand_on()

    def _hand_on(self) -> None:
        self._out.write(self._memory.getvalue())
        self._memory.seek(0)
        self._memory.truncate()


def _storable(row: Row) -> Row:
    def text(value: str | None) -> str | None:
        return None if value is None else value.encode("utf-8", "backslashreplace").decode("utf-8")

    def real(value: float | None, digits: int) -> float | None:
        return None if value is None else round(value, digits)

    return row._replace(
        path=text(row.path) or "", label=text(row.label), error=text(row.error), score=real(row.score, SCORE_DIGITS),
        start=real(row.start, SECONDS_DIGITS), end=real(row.end, SECONDS_DIGITS),
    )  # fmt: skip
