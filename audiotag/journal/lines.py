"""The lines of a journal: what one says of an input, and which are whole after a death."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from audiotag.results import Status

VERSION = 1  # of the journal's lines


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An input that is done: `begin` to `end` are the bytes of its record in the output."""

    path: str
    size: int | None
    mtime_ns: int | None
    begin: int
    end: int
    crc32: int
    status: Status
    seconds: float  # of audio


def whole_lines(file: BinaryIO) -> Iterator[tuple[int, dict[str, Any]]]:
    """Where each line begins, and what it says; the file is cut off before one that is torn."""
    begin = 0
    for line in file:
        try:
            value = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            value = None
        if not isinstance(value, dict):
            file.seek(begin)
            file.truncate()
            return
        yield begin, value
        begin += len(line)
