"""A finished output that `--resume` meets: its records tell what its journal said, where they can be added to."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from io import StringIO
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from audiotag.errors import OutputError
from audiotag.journal.disk import crc_of, write_beside
from audiotag.journal.fingerprint import fingerprint_of, refuse_changes
from audiotag.journal.lines import Entry
from audiotag.journal.places import journal_path, provenance_path, side_path
from audiotag.results import outcome_of
from audiotag.writers import Output


def read_finished(path: Path, *, form: str, header: Mapping[str, Any], with_header: bool) -> dict[str, Any] | None:
    """The provenance of an output without a journal that cannot be added to, or None.

    What can be added to gets a journal again, made from its records; an input that was changed after the run began is
    done again, for nobody knows which of its versions was read.

    Raises:
        OutputError: it was made by something else, or with other parameters.
    """
    try:
        was = json.loads(provenance_path(path).read_text(encoding="utf-8"))
        # It starts now: what is changed is read again by this run, and all else was read before.
        fingerprint = fingerprint_of(form, was["audiotag"], was["with_header"])
        refuse_changes({**fingerprint, "format": was["format"]}, fingerprint_of(form, header, with_header), path)
        began_ns = int(datetime.fromisoformat(was["started"]).timestamp() * 1e9)
        n_bytes, told_bytes = path.stat().st_size, int(was["bytes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{path}: has no journal to go on from. Replace it with --overwrite") from error
    if n_bytes != told_bytes:
        raise _not_as_finished(path, f"has {n_bytes:,} bytes, was finished with {told_bytes:,}")
    if form not in ("csv", "tsv", "ndjson"):
        side_path(path).unlink(missing_ok=True)
        return dict(was)

    def write(output: Output) -> None:
        for value in (fingerprint, *map(asdict, _entries_of(path, form, began_ns))):
            output.write(json.dumps(value).encode("ascii") + b"\n")

    try:
        write_beside(journal_path(path), write)
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise _not_as_finished(path, "is not as it was written") from error
    return None


def _not_as_finished(path: Path, what: str) -> OutputError:
    return OutputError(f"{path}: {what}. Bring back the file that was written, or begin anew with --overwrite")


class _Row(NamedTuple):
    """A row of an output: the bytes `begin` to `end` of the file, about `start` to `stop` seconds of an input."""

    path: str
    begin: int
    end: int
    status: str
    start: float
    stop: float


def _entries_of(path: Path, form: str, began_ns: int) -> Iterator[Entry]:
    """What a journal would say of an output in order; files changed since `began_ns` count as changed.

    Separated values with windows or events do not tell how long an input was, only from where to where it has some.
    """
    with open(path, "rb") as file:
        for name, rows in groupby(_rows_in(file, form), key=lambda row: row.path):
            group = list(rows)
            begin, end = group[0].begin, group[-1].end
            size, mtime_ns = _state_before(name, began_ns)
            with open(path, "rb") as again:
                crc32 = crc_of(again, begin, end)
            yield Entry(
                path=name, size=size, mtime_ns=mtime_ns, begin=begin, end=end, crc32=crc32,
                status=outcome_of({row.status for row in group}),
                seconds=max(row.stop for row in group) - min(row.start for row in group),
            )  # fmt: skip


def _rows_in(file: BinaryIO, form: str) -> Iterator[_Row]:
    """All rows but the head."""
    begin = 0
    for row in file if form == "ndjson" else quoted_rows(file):
        end = begin + len(row)
        if form == "ndjson":
            shown = json.loads(row)
            if "audiotag" not in shown:
                yield _Row(shown["path"], begin, end, shown["status"], 0.0, shown.get("duration", 0.0))
        elif begin:
            text = row.decode("utf-8", "surrogateescape")
            path, status, start, stop, *_ = next(
                csv.reader(StringIO(text, newline=""), delimiter="," if form == "csv" else "\t")
            )
            yield _Row(path, begin, end, status, float(start or 0.0), float(stop or 0.0))
        begin = end


def quoted_rows(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Rows of separated values; a newline between quotes does not end one."""
    row = b""
    for line in lines:
        row += line
        if row.count(b'"') % 2 == 0:
            yield row
            row = b""


def _state_before(name: str, began_ns: int) -> tuple[int | None, int | None]:
    """Size and time of change of a file as inputs have them (a pipe's never count), or what none has if it is newer."""
    try:
        found = os.stat(name)
    except (OSError, ValueError):
        return None, None
    return (found.st_size, found.st_mtime_ns) if found.st_mtime_ns < began_ns else (-1, -1)
