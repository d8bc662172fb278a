"""Where the bytes go, what an error means there, and how text becomes bytes."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from audiotag.errors import OutputError

_NOT_ABOUT_SPACE = (errno.EPERM, errno.EACCES, errno.ENOTDIR, errno.EISDIR, errno.EROFS)


class Output:
    """A binary file that is written to, whose failures are `OutputError`; a closed pipe stays a BrokenPipeError."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.file = file
        self.name = name

    def write(self, data: bytes) -> int:
        """Writes all of `data`; a file without a buffer (stdout under PYTHONUNBUFFERED) may take a part at a time."""
        n_written = 0
        with self._explained():
            while n_written < len(data):
                taken = self.file.write(data[n_written:])
                if taken is None:  # a pipe that does not block and is full
                    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
                n_written += taken
        return n_written

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


class _Replacing(Output):
    """A file whose content stays until there is something to replace it with: a model may yet fail to open."""

    is_emptied = False

    def write(self, data: bytes) -> int:
        self.empty()
        return super().write(data)

    def empty(self) -> None:
        """Throws away what it held before, once; a pipe or a device holds nothing."""
        if not self.is_emptied and stat.S_ISREG(os.fstat(self.file.fileno()).st_mode):
            with self._explained():
                self.file.truncate(0)
        self.is_emptied = True


def _open_as_it_is(path: str, flags: int) -> int:
    return os.open(path, flags & ~os.O_TRUNC, 0o666)


def output_error(name: str | os.PathLike[str], error: OSError) -> OutputError:
    """What a failed write means, in one line."""
    way_out = "Free some space or choose another place"
    if isinstance(error, FileNotFoundError):
        way_out = "Make its folder first, or choose another place"
    elif error.errno in _NOT_ABOUT_SPACE:
        way_out = "Choose a place where you may write"
    return OutputError(f"{os.fspath(name)}: cannot be written: {error.strerror or error}. {way_out}")


@contextmanager
def open_output(path: Path | None) -> Iterator[Output]:
    """The file at `path`, empty when the first byte is written or nothing is to be written; stdout for None.

    A new file that nothing was written to goes away again when an error ends the block.

    Raises:
        OutputError: it cannot be written.
    """
    if path is None:
        yield Output(sys.stdout.buffer, "stdout")
        return
    was_there = os.path.lexists(path)
    try:
        file = open(path, "wb", opener=_open_as_it_is)  # noqa: SIM115 - closed below, where its failure is explained too
    except OSError as error:
        raise output_error(path, error) from error
    output = _Replacing(file, str(path))
    try:
        yield output
        output.empty()
        output.flush()
    finally:
        _close(file)
        if not (was_there or output.is_emptied):
            with suppress(OSError):
                path.unlink()


def _close(file: BinaryIO) -> None:
    with suppress(OSError):  # the flush before has raised the same, with a name
        file.close()


def raw_bytes(text: str) -> bytes:
    """UTF-8, in which the bytes of a file name that are not UTF-8 come out as they were (PEP 383)."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a lone surrogate of another origin, such as a label in a model's JSON
        return text.encode("utf-8", "backslashreplace")
