"""The one table of formats: name -> writer, suffixes and what it is good for; and the choice of one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from audiotag.errors import OutputError, UsageError, install_line
from audiotag.writers.json_lines import JsonWriter, NdjsonWriter
from audiotag.writers.output import Output
from audiotag.writers.parquet import ParquetWriter
from audiotag.writers.separated import SeparatedWriter, TsvWriter
from audiotag.writers.table import TableWriter
from audiotag.writers.tracks import AudacityWriter, RavenWriter
from audiotag.writers.writer import Header, Writer


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format of results: how it is written, the suffixes of its files, and what it is for."""

    make: Callable[..., Writer]  # (out: Output, *, header: Header | None)
    suffixes: tuple[str, ...]
    description: str
    header: Literal["never", "if asked", "always"] = "never"  # whether it tells of the run
    is_appended: bool = True  # no record depends on those before; else a file is made from NDJSON at the end
    is_of_one_input: bool = False
    package: str | None = None  # what has to be installed

    def has_header(self, *, asked: bool) -> bool:
        """Whether a file of this format opens with what it tells of the run."""
        return self.header == "always" or (asked and self.header == "if asked")


FORMATS: dict[str, Format] = {
    "table": Format(make=TableWriter, suffixes=(".txt",), description="for people", is_appended=False),
    "json": Format(make=JsonWriter, suffixes=(".json",), description="one object", header="always", is_appended=False),
    "ndjson": Format(
        make=NdjsonWriter, suffixes=(".ndjson", ".jsonl"), description="a JSON object a line", header="if asked"
    ),
    "csv": Format(make=SeparatedWriter, suffixes=(".csv",), description="a row a tag"),
    "tsv": Format(make=TsvWriter, suffixes=(".tsv",), description="a row a tag, tabs"),
    "audacity": Format(
        make=AudacityWriter, suffixes=(".labels.txt",), description="label track of one recording", is_of_one_input=True
    ),
    "raven": Format(
        make=RavenWriter, suffixes=(".selections.txt",), description="selection table", is_appended=False
    ),
    "parquet": Format(
        make=ParquetWriter, suffixes=(".parquet",), description="columns with types", header="always",
        is_appended=False, package="pyarrow",
    ),
}  # fmt: skip


def pick_format(name: str | None, out: Path | None, *, header: bool = False) -> str:
    """The format asked for, else that of the suffix of `out`, else a table for a terminal and NDJSON for a pipe.

    Raises:
        UsageError: no format has this name or suffix, or it has no room for a header.
        OutputError: its package is not installed.
    """
    if name is None and out is not None:
        name = name_of_suffix(out, {suffix: name for name, each in FORMATS.items() for suffix in each.suffixes})
    elif name is None:
        name = "table" if sys.stdout.isatty() else "ndjson"
    if name not in FORMATS:
        raise UsageError(f"format {name!r}: not known. Use one of {', '.join(FORMATS)}")
    package = FORMATS[name].package
    if package is not None and find_spec(package) is None:
        raise OutputError(f"format {name}: {package} is not installed. {install_line(package)}")
    if header and FORMATS[name].header == "never":
        able = [each for each, form in FORMATS.items() if form.header != "never"]
        raise UsageError(f"header: {name} has no place for it. Use {', '.join(able[:-1])} or {able[-1]}")
    return name


def name_of_suffix(out: Path, suffixes: Mapping[str, str]) -> str:
    """The name that belongs to the suffix of `out`, in upper or lower case; where several fit, to the longest.

    Raises:
        UsageError: none fits.
    """
    for suffix in sorted(suffixes, key=len, reverse=True):
        if out.name.lower().endswith(suffix):
            return suffixes[suffix]
    known = ", ".join(sorted(suffixes))
    has = f"no format has the suffix {out.suffix!r}" if out.suffix else "has no suffix to tell the format"
    raise UsageError(f"{out}: {has}. Add --format, or use one of {known}")


def open_writer(name: str, out: Output, *, header: Header, asked_for_header: bool = False) -> Writer:
    """The writer of a format; NDJSON gets the header only if it was asked for."""
    chosen = FORMATS[name]
    return chosen.make(out, header=header if chosen.has_header(asked=asked_for_header) else None)
