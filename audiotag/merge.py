"""From the outputs of all shards of a run to one output, as if it had not been split.

What made a shard's output stands beside it in FILE.run.json. Records are copied byte for byte, a block at a time, in
the order of their paths as a folder is walked: the shards of a folder give the file that one run over it writes.
Neighbours: `inputs` splits, `journal` writes the files and the provenance.
"""

from __future__ import annotations

import csv
import heapq
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from audiotag.errors import OutputError, UsageError, listed
from audiotag.inputs import Shard, parse_shard, path_order
from audiotag.journal import (
    Mode,
    check_output,
    differences,
    forget_run,
    journal_path,
    provenance_path,
    quoted_rows,
    settings_of,
    short_json,
    write_beside,
    write_provenance,
)
from audiotag.results import outcome_of
from audiotag.writers import Output, open_writer, pick_format

_BLOCK_BYTES = 1 << 16  # of each shard in memory


class _Record(NamedTuple):
    """A result as it stands in a file: all of it, or a row of it."""

    path: str
    status: str
    data: bytes


def merge(paths: Sequence[Path], out: Path, *, mode: Mode = "new") -> dict[str, Any]:
    """Joins the outputs of all shards of a run into `out`, with its provenance beside it, which is given.

    Raises:
        UsageError: the shards' format cannot be joined, or `out` stands for another one.
        OutputError: a shard is missing, doubled, unfinished, changed or of another run, or `out` cannot be written.
    """
    check_output(out, mode)
    parts = _parts_of_one_run(paths)
    if any(part.path.resolve() == out.resolve() for part in parts):
        raise UsageError(f"{out}: is one of the shards. Choose another name")
    provenance = _joined_provenance(parts)
    _check_format(provenance["format"], out)
    n_bytes, _ = write_beside(out, partial(_write_all, parts, provenance), before_replacing=lambda *_: forget_run(out))
    write_provenance(out, {**provenance, "bytes": n_bytes})
    return provenance


def _write_all(parts: Sequence[_Part], provenance: Mapping[str, Any], output: Output) -> None:
    form = provenance["format"]
    writer = open_writer(form, output, header=provenance["audiotag"], asked_for_header=provenance["with_header"])
    writer.begin()
    separator = b"\n" if form == "json" else b""
    for record in heapq.merge(*map(_checked, parts), key=lambda record: path_order(record.path)):
        output.write(separator + record.data)
        separator = b",\n" if form == "json" else b""
    writer.end()


# --- what belongs together ---


@dataclass(frozen=True)
class _Part:
    """The finished output of a shard."""

    path: Path
    shard: Shard
    provenance: dict[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """All that has to be the same in every shard of a run."""
        header = {name: value for name, value in self.provenance["audiotag"].items() if name != "shard"}
        return settings_of({**self.provenance, "header": header})


def _parts_of_one_run(paths: Sequence[Path]) -> list[_Part]:
    """Every shard of one run, by its number."""
    parts = sorted((_open_part(path) for path in paths), key=lambda part: part.shard.number)
    for first, second in pairwise(parts):
        _check_together(first, second)
    count = parts[0].shard.count
    missing = [f"shard {number}/{count}" for number in _missing_numbers(parts)]
    if missing:
        shown = f"{listed(missing)} of its run {_are(missing)}"
        raise OutputError(f"{parts[0].path}: {shown} missing. Name every shard's output")
    return parts


def _are(things: Sequence[object]) -> str:
    return "is" if len(things) == 1 else "are"


def _missing_numbers(parts: Sequence[_Part]) -> list[int]:
    there = {part.shard.number for part in parts}
    return [number for number in range(1, parts[0].shard.count + 1) if number not in there]


def _check_together(first: _Part, second: _Part) -> None:
    if first.shard.count != second.shard.count:
        shards = f"shard {first.shard}, {second.path} is {second.shard}"
        raise OutputError(f"{first.path}: is {shards}. Name the shards of one split")
    if first.shard == second.shard:
        raise OutputError(f"{first.path}: is shard {first.shard}, and so is {second.path}. Name each shard once")
    changes = [
        f"{name} is {short_json(one)} in {first.path}, {short_json(other)} in {second.path}"
        for name, one, other in differences(first.settings, second.settings)
    ]
    if changes:
        raise OutputError(f"{second.path}: was made with other settings: {'; '.join(changes)}. Tag the shard again")


def _open_part(path: Path) -> _Part:
    if journal_path(path).exists():
        raise OutputError(f"{path}: is not finished. Go on with `audiotag batch --resume`")
    try:
        provenance = json.loads(provenance_path(path).read_text(encoding="utf-8"))
        name = provenance["audiotag"].get("shard")
        shard = None if name is None else parse_shard(name)
        _ = settings_of({**provenance, "header": provenance["audiotag"]}), _counts(provenance)
        n_bytes, told_bytes = path.stat().st_size, int(provenance["bytes"])
    except OSError as error:
        raise OutputError(
            f"{error.filename}: {error.strerror}. An output and its .run.json are merged together; bring both"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutputError(f"{provenance_path(path)}: is damaged. Tag the shard again") from error
    if shard is None:
        raise OutputError(f"{path}: is the output of a whole run, not of a shard. Leave it out")
    if n_bytes != told_bytes:
        raise OutputError(f"{path}: has {n_bytes:,} bytes, was finished with {told_bytes:,}. Tag the shard again")
    return _Part(path, shard, provenance)


def _check_format(form: str, out: Path) -> None:
    if form not in _RECORDS_OF:
        raise UsageError(f"format {form}: shards of it cannot be joined. Use one of {', '.join(_RECORDS_OF)}")
    try:
        meant = pick_format(None, out)
    except UsageError:  # a suffix that stands for no format may hold any
        return
    if meant != form:
        raise UsageError(f"{out}: stands for {meant}, but the shards are {form}. Choose another suffix")


def _joined_provenance(parts: Sequence[_Part]) -> dict[str, Any]:
    """The provenance of the whole; a file that changed since the first shard began counts as changed."""
    first = parts[0].provenance
    told = [part.provenance for part in parts]
    counts: Counter[str] = sum((_counts(each) for each in told), Counter())
    return {
        "audiotag": {name: value for name, value in first["audiotag"].items() if name != "shard"},
        "format": first["format"],
        "with_header": first["with_header"],
        "started": min(each["started"] for each in told),
        "finished": max(each["finished"] for each in told),
        "inputs": {status: counts[status] for status in ("ok", "empty", "failed")},
        "seconds_of_audio": round(sum(each["seconds_of_audio"] for each in told), 3),
    }


def _counts(provenance: Mapping[str, Any]) -> Counter[str]:
    return Counter(provenance["inputs"])


# --- the records of a shard ---


def _checked(part: _Part) -> Iterator[_Record]:
    """The records of a shard, held to what its provenance says: where they belong, and how many ended how."""
    ended: Counter[str] = Counter()
    path, statuses = None, set[str]()
    try:
        for record in _RECORDS_OF[part.provenance["format"]](part.path, part.provenance["with_header"]):
            if record.path != path:
                if path is not None:
                    ended[outcome_of(statuses)] += 1
                path, statuses = record.path, set()
                _check_place(part, record.path)
            statuses.add(record.status)
            yield record
        if path is not None:
            ended[outcome_of(statuses)] += 1
    except OSError as error:
        raise OutputError(f"{part.path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, IndexError, csv.Error) as error:
        raise OutputError(f"{part.path}: is not as it was written. Tag the shard again") from error
    if +ended != +_counts(part.provenance):
        held, told = ended.total(), _counts(part.provenance).total()
        raise OutputError(f"{part.path}: holds {held} inputs, was finished with {told}. Tag the shard again")


def _check_place(part: _Part, path: str) -> None:
    if path not in part.shard:
        raise OutputError(f"{part.path}: holds {path!r}, which is not of shard {part.shard}. Tag the shard again")


def _separated_records(separator: str, path: Path, with_header: bool) -> Iterator[_Record]:
    rows = quoted_rows(_lines(path))
    next(rows, None)  # the column names
    for row in rows:
        text = row.decode("utf-8", "surrogateescape")
        cells = next(csv.reader(StringIO(text, newline=""), delimiter=separator))
        yield _Record(cells[0], cells[1], row)


def _ndjson_records(path: Path, with_header: bool) -> Iterator[_Record]:
    lines = _lines(path)
    if with_header:
        next(lines, None)
    return map(_json_record, lines)


def _json_records(path: Path, with_header: bool) -> Iterator[_Record]:
    """The lines between the opening of the list and its end, as `JsonWriter` lays them out."""
    lines = _lines(path)
    if [next(lines, b"")[:13], next(lines, b"")] != [b'{"audiotag": ', b'"results": [\n']:
        raise ValueError("the envelope")
    for line in lines:
        if line == b"]}\n":
            return
        yield _json_record(line.rstrip(b",\n"))
    raise ValueError("the end of the list")


def _json_record(data: bytes) -> _Record:
    shown = json.loads(data)
    return _Record(shown["path"], shown["status"], data)


_RECORDS_OF: dict[str, Callable[[Path, bool], Iterator[_Record]]] = {
    "csv": partial(_separated_records, ","),
    "tsv": partial(_separated_records, "\t"),
    "ndjson": _ndjson_records,
    "json": _json_records,
}


def _lines(path: Path) -> Iterator[bytes]:
    """Lines with their ends. The file is open only for a block: there may be more shards than a process may open."""
    at, rest = 0, b""
    while block := _block(path, at):
        at += len(block)
        *whole, rest = (rest + block).split(b"\n")
        yield from (line + b"\n" for line in whole)
    if rest:
        raise ValueError("torn")


def _block(path: Path, at: int) -> bytes:
    with path.open("rb") as file:
        file.seek(at)
        return file.read(_BLOCK_BYTES)
