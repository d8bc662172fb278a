"""What a run finds: inputs, and what it skips; and what else can be asked of a path before it is opened."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from audiotag.errors import UsageError


@dataclass(frozen=True)
class Input:
    """One thing to tag.

    `path` is shown in results: as given, or below a folder as given. `source` None is stdin. `size` (bytes) and
    `mtime_ns` are None for what is missing or not a regular file.
    """

    path: str
    source: Path | None
    size: int | None = None
    mtime_ns: int | None = None


@dataclass(frozen=True)
class Skipped:
    """Something that was met on the way and is not tagged, and why."""

    path: str
    reason: str


Found = Input | Skipped


def sources_of(found: Iterable[Found]) -> Iterator[Path]:
    """The files among what was found."""
    return (item.source for item in found if isinstance(item, Input) and item.source is not None)


def is_read_once(given: Input) -> bool:
    """Whether it is stdin or a pipe, whose audio is gone once it has been read."""
    status = None if given.source is None else status_of(given.source)
    return given.source is None or (status is not None and stat.S_ISFIFO(status.st_mode))


def open_stdin() -> FileIO:
    """Unbuffered: a thread that blocks in a read of the buffered `sys.stdin` holds its lock, and Python cannot end."""
    if os.name == "posix":  # ssh, Node and others leave a pipe that does not block: what is not there yet was its end
        os.set_blocking(0, True)
    return open(0, "rb", buffering=0, closefd=False)


def refuse_input_as_output(out: Path | None, inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Looks whether what is written to `out` would destroy an input; the inputs are asked for only where it might.

    Raises:
        UsageError: it is the same file as one of them, whatever its name.
    """
    written = None if out is None else status_of(out)
    if written is None or not stat.S_ISREG(written.st_mode):
        return
    for path in inputs:
        read = status_of(path)
        if read is not None and os.path.samestat(read, written):
            raise UsageError(f"{out}: is an input and would be overwritten. Choose another file to write")


def status_of(path: str | os.PathLike[str]) -> os.stat_result | None:
    """The status of what a path leads to, through links; None where nothing can be found out."""
    try:
        return os.stat(path)
    except (OSError, ValueError):
        return None
