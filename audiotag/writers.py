"""The one table of output formats: name -> writer, suffixes and what it is good for.

A writer takes `results` one by one and flushes each, so that a reader of the pipe or of the file sees it at once. Rich
and pyarrow are imported only where the table and Parquet are written. Neighbours: `journal` vouches for written bytes.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Protocol

from audiotag import __version__
from audiotag.errors import OutputError, UsageError
from audiotag.results import SCHEMA_VERSION, SCORE_DIGITS, SECONDS_DIGITS, Failure, Result

if TYPE_CHECKING:
    from rich.text import Text

Header = Mapping[str, Any]

ROWS_IN_GROUP = 65_536  # of a Parquet file: what is held in memory
BAR_WIDTH = 20  # characters for a score of 1


class Writer(Protocol):
    """Takes the results of a run: `begin`, then `write` for each, then `end`."""

    def begin(self) -> None:
        """Writes what comes before the first result."""

    def write(self, result: Result) -> None:
        """Writes a result and flushes it."""

    def end(self) -> None:
        """Writes what comes after the last result."""


# --- where the bytes go ---


class Output:
    """A binary file that is written to, whose failures are `OutputError`; a closed pipe stays a BrokenPipeError."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.file = file
        self.name = name

    def write(self, data: bytes) -> int:
        """Writes all of `data`."""
        with self._explained():
            return self.file.write(data)

    def flush(self) -> None:
        """Hands everything to the operating system."""
        with self._explained():
            self.file.flush()

    def isatty(self) -> bool:
        """Whether a person reads along."""
        return self.file.isatty()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            raise output_error(self.name, error) from error


def output_error(name: str | os.PathLike[str], error: OSError) -> OutputError:
    """What a failed write means, in one line."""
    way_out = "Free some space or choose another place"
    if not isinstance(error, FileNotFoundError) and error.errno is not None and error.errno in _NOT_ABOUT_SPACE:
        way_out = "Choose a place where you may write"
    return OutputError(f"{os.fspath(name)}: cannot be written: {error.strerror or error}. {way_out}")


_NOT_ABOUT_SPACE = frozenset((1, 13, 20, 21, 30))  # EPERM, EACCES, ENOTDIR, EISDIR, EROFS


@contextmanager
def open_output(path: Path | None) -> Iterator[Output]:
    """The file at `path`, new and empty; stdout for None.

    Raises:
        OutputError: it cannot be written.
    """
    if path is None:
        yield Output(sys.stdout.buffer, "stdout")
        return
    try:
        file = open(path, "wb")  # noqa: SIM115 - closed below, where its failure is explained too
    except OSError as error:
        raise output_error(path, error) from error
    output = Output(file, str(path))
    try:
        yield output
        output.flush()
    finally:
        _close(file)


def _close(file: BinaryIO) -> None:
    with suppress(OSError):  # the flush before has raised the same, with a name
        file.close()


def run_header(*, model: str, revision: str | None, sha256: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What a result says about its run: program, schema, model and parameters."""
    return {
        "version": __version__,
        "schema": SCHEMA_VERSION,
        "model": model,
        "revision": revision,
        "sha256": sha256,
        "parameters": dict(parameters),
    }


# --- rows: a result as a table sees it ---


class Row(NamedTuple):
    """A tag, or the one row of an input without any. Times in seconds; `rank` counts from 1."""

    path: str
    status: str
    start: float | None = None
    end: float | None = None
    channel: int | None = None
    rank: int | None = None
    label: str | None = None
    score: float | None = None
    error: str | None = None


def rows_of(result: Result) -> Iterator[Row]:
    """One row a tag, of every window where a result has them; at least one row. `error` holds a warning too."""
    if isinstance(result, Failure):
        yield Row(result.path, result.status, error=result.error)
        return
    clip = Row(
        result.path, result.status, result.start, result.start + result.duration, result.channel, error=result.warning
    )
    parts = [(clip, result.tags)]
    if any(window.tags for window in result.windows or ()):
        parts = [(clip._replace(start=each.start, end=each.end), each.tags) for each in result.windows or ()]
    for row, tags in parts:
        for rank, tag in enumerate(tags, start=1):
            yield row._replace(rank=rank, label=tag.label, score=tag.score)
    if not any(tags for _, tags in parts):
        yield clip


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


# --- JSON ---


def json_bytes(value: Any) -> bytes:
    r"""One line of JSON in UTF-8; what no UTF-8 can hold (bytes of a file name, PEP 383) is escaped, as `\udcff`."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")


class NdjsonWriter:
    """A line of JSON for each result, after one for the header where there is one."""

    def __init__(self, out: Output, *, header: Header | None) -> None:
        self._out, self._header = out, header

    def begin(self) -> None:
        """Writes the header."""
        if self._header is not None:
            self._line({"audiotag": self._header})

    def write(self, result: Result) -> None:
        """Writes a line."""
        self._line(result.to_dict())

    def end(self) -> None:
        """Nothing comes after the last line."""

    def _line(self, value: Any) -> None:
        self._out.write(json_bytes(value) + b"\n")
        self._out.flush()


class JsonWriter:
    """One object, `{"audiotag": header, "results": [...]}`, a line for each result."""

    def __init__(self, out: Output, *, header: Header | None) -> None:
        self._out, self._header = out, header or {}
        self._separator = b"\n"

    def begin(self) -> None:
        """Opens the object and its list."""
        self._out.write(b'{"audiotag": ' + json_bytes(self._header) + b',\n"results": [')
        self._out.flush()

    def write(self, result: Result) -> None:
        """Writes an item of the list."""
        self._out.write(self._separator + json_bytes(result.to_dict()))
        self._out.flush()
        self._separator = b",\n"

    def end(self) -> None:
        """Closes the list and the object."""
        self._out.write(b"\n]}\n")
        self._out.flush()


# --- separated values ---


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


def raw_bytes(text: str) -> bytes:
    """UTF-8, in which the bytes of a file name that are not UTF-8 come out as they were (PEP 383)."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a lone surrogate of another origin, such as a label in a model's JSON
        return text.encode("utf-8", "backslashreplace")


# --- the label tracks of other programs; inputs without tags leave no trace in them ---


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
        tagged = (row for row in rows_of(result) if row.label is not None)
        lines = (f"{row.start:.3f}\t{row.end:.3f}\t{_one_cell(row.label)} {row.score:.3f}\n" for row in tagged)
        self._out.write(raw_bytes("".join(lines)))
        self._out.flush()

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


# --- Parquet ---


class ParquetWriter:
    """The columns of CSV with types, and the header as the metadata `audiotag`."""

    def __init__(self, out: Output, *, header: Header | None) -> None:
        self._out, self._header = out, header
        self._rows: list[Row] = []
        self._file: Any = None

    def begin(self) -> None:
        """Writes the beginning of the file."""
        import pyarrow
        from pyarrow import parquet

        text, real, whole = pyarrow.string(), pyarrow.float64(), pyarrow.int32()
        types = (text, text, real, real, whole, whole, text, real, text)
        metadata = {"audiotag": json_bytes(self._header or {})}
        self._schema = pyarrow.schema(list(zip(Row._fields, types, strict=True)), metadata=metadata)
        self._file = parquet.ParquetWriter(pyarrow.PythonFile(_ForArrow(self._out), mode="w"), self._schema)

    def write(self, result: Result) -> None:
        """Keeps the rows until a group is full."""
        self._rows += map(_storable, rows_of(result))
        if len(self._rows) >= ROWS_IN_GROUP:
            self._write_group()

    def end(self) -> None:
        """Writes the last rows and the end of the file."""
        self._write_group()
        self._file.close()
        self._out.flush()

    def _write_group(self) -> None:
        import pyarrow

        if self._rows:
            columns = [list(column) for column in zip(*self._rows, strict=True)]
            self._file.write_table(pyarrow.table(columns, schema=self._schema))
            self._rows = []


def _storable(row: Row) -> Row:
    def text(value: str | None) -> str | None:
        return None if value is None else value.encode("utf-8", "backslashreplace").decode("utf-8")

    def real(value: float | None, digits: int) -> float | None:
        return None if value is None else round(value, digits)

    return row._replace(
        path=text(row.path) or "", label=text(row.label), error=text(row.error), score=real(row.score, SCORE_DIGITS),
        start=real(row.start, SECONDS_DIGITS), end=real(row.end, SECONDS_DIGITS),
    )  # fmt: skip


class _ForArrow:
    """What pyarrow asks of a file."""

    closed = False

    def __init__(self, out: Output) -> None:
        self._out = out
        self._n_bytes = 0

    def write(self, data: Any) -> int:
        self._n_bytes += self._out.write(bytes(data))
        return self._n_bytes

    def tell(self) -> int:
        return self._n_bytes

    def flush(self) -> None:
        self._out.flush()

    def close(self) -> None:
        pass

    def writable(self) -> bool:
        return True


# --- for people ---


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


# --- the table of formats ---


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format of results: how it is written, the suffixes of its files, and what it is for."""

    make: Callable[..., Writer]  # (out: Output, *, header: Header | None)
    suffixes: tuple[str, ...]
    description: str
    header_if_asked: bool = False  # it can open with the header, but does so only for --header
    is_appended: bool = True  # no record depends on those before; else a file is made from NDJSON at the end
    package: str | None = None  # what has to be installed, the extra's name being the format's


FORMATS: dict[str, Format] = {
    "table": Format(make=TableWriter, suffixes=(".txt",), description="for people", is_appended=False),
    "json": Format(make=JsonWriter, suffixes=(".json",), description="one object", is_appended=False),
    "ndjson": Format(
        make=NdjsonWriter, suffixes=(".ndjson", ".jsonl"), description="a JSON object a line", header_if_asked=True
    ),
    "csv": Format(make=SeparatedWriter, suffixes=(".csv",), description="a row a tag"),
    "tsv": Format(make=TsvWriter, suffixes=(".tsv",), description="a row a tag, tabs"),
    "audacity": Format(make=AudacityWriter, suffixes=(".labels.txt",), description="label track of one recording"),
    "raven": Format(
        make=RavenWriter, suffixes=(".selections.txt",), description="selection table", is_appended=False
    ),
    "parquet": Format(
        make=ParquetWriter, suffixes=(".parquet",), description="columns with types", is_appended=False,
        package="pyarrow",
    ),
}  # fmt: skip


def pick_format(name: str | None, out: Path | None, *, header: bool = False) -> str:
    """The format asked for, else that of the suffix of `out`, else a table for a terminal and NDJSON for a pipe.

    Raises:
        UsageError: no format has this name or suffix, or it has no room for a header.
        OutputError: its package is not installed.
    """
    if name is None and out is None:
        name = "table" if sys.stdout.isatty() else "ndjson"
    elif name is None and out is not None:
        name = _format_of_suffix(out)
    if name not in FORMATS:
        raise UsageError(f"format {name!r}: not known. Use one of {', '.join(FORMATS)}")
    package = FORMATS[name].package
    if package is not None and find_spec(package) is None:
        raise OutputError(f"format {name}: {package} is not installed. pip install 'audiotag-cli[{name}]'")
    if header and name not in ("ndjson", "json", "parquet"):
        raise UsageError(f"header: {name} has no place for it. Use ndjson, json or parquet")
    return name


def _format_of_suffix(out: Path) -> str:
    suffixes = {suffix: name for name, each in FORMATS.items() for suffix in each.suffixes}
    for suffix in sorted(suffixes, key=len, reverse=True):
        if out.name.lower().endswith(suffix):
            return suffixes[suffix]
    known = ", ".join(sorted(suffixes))
    raise UsageError(f"{out}: no format has the suffix {out.suffix or '(none)'!r}. Add --format, or use one of {known}")


def open_writer(name: str, out: Output, *, header: Header, asked_for_header: bool = False) -> Writer:
    """The writer of a format; NDJSON gets the header only if it was asked for."""
    chosen = FORMATS[name]
    return chosen.make(out, header=header if asked_for_header or not chosen.header_if_asked else None)
