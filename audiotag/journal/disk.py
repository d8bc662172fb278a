"""Files that a death or a power cut may meet at any moment: locked, checked by a checksum, replaced only when whole.

Nothing here knows what a journal says. Failures to write are `OutputError`.
"""

from __future__ import annotations

import errno
import logging
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from audiotag.errors import OutputError
from audiotag.writers import Output, output_error

try:
    import fcntl
except ImportError:  # Windows: two runs into one file are not kept apart there
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

# Windows neither removes nor replaces an open file. Elsewhere a journal is removed before its lock is let go.
REMOVES_OPEN_FILES = os.name != "nt"
_HAS_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)  # a file system
_COPY_BYTES = 1 << 20
# In a folder of strangers the names that we give files beside an output may be links to files of the user.
_FOLLOWS_NO_LINK: int = getattr(os, "O_NOFOLLOW", 0)


class Tracked(Output):
    """An output that knows how long it is, and the checksum of what came since the last record."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        super().__init__(file, name)
        self.n_bytes = file.tell()
        self._begin, self._crc32 = self.n_bytes, 0

    def write(self, data: bytes) -> int:
        """Writes all of `data`, and counts it."""
        written = super().write(data)
        self.n_bytes += written
        self._crc32 = zlib.crc32(data, self._crc32)
        return written

    def end_record(self) -> tuple[int, int, int]:
        """Begin, end and checksum of what came since the last call."""
        ended = (self._begin, self.n_bytes, self._crc32)
        self._begin, self._crc32 = self.n_bytes, 0
        return ended


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Failures to write become `OutputError`."""
    try:
        yield
    except OSError as error:
        raise output_error(path, error) from error


def open_locked(path: Path, output: Path) -> BinaryIO:
    """A journal or an unfinished file, which only one run has open."""
    flags = os.O_RDWR | os.O_CREAT | _FOLLOWS_NO_LINK
    while True:
        with explained(path):
            file = open(os.open(path, flags, 0o666), "r+b")  # noqa: SIM115 - a run closes it
        try:
            _lock(file)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        except FileNotFoundError:
            pass  # another run has just finished, and removed it or given it another name
        except BlockingIOError as error:
            file.close()
            raise OutputError(f"{output}: another run is writing it. Wait for it, or choose another name") from error
        file.close()


def _lock(file: BinaryIO) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _HAS_NO_LOCKS:  # taken: EAGAIN, or EACCES where the file lies on an SMB share
            raise BlockingIOError(error.errno, error.strerror) from error
        logger.debug("%s: cannot be locked: %s", file.name, error)


def is_gone(path: str) -> bool:
    """Whether a file was removed: its folder is there and can be asked, which that of a drive elsewhere cannot."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return os.access(os.path.dirname(path) or os.curdir, os.R_OK | os.X_OK)
    except (OSError, ValueError):
        return False
    return False


def open_work(path: Path, end: int) -> BinaryIO:
    """A file to go on writing at `end`; what lay beyond it is cut off."""
    with explained(path):
        file = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")  # noqa: SIM115 - a run closes it
        file.truncate(end)
        file.seek(end)
        return file


def crc_of(file: BinaryIO, begin: int, end: int) -> int:
    """The checksum of a range of a file, or of as much of it as there is."""
    crc32 = 0
    for piece in pieces_of(file, begin, end):
        crc32 = zlib.crc32(piece, crc32)
    return crc32


def pieces_of(file: BinaryIO, begin: int, end: int) -> Iterator[bytes]:
    """A range of a file, never much of it in memory."""
    file.seek(begin)
    while begin < end and (piece := file.read(min(_COPY_BYTES, end - begin))):
        begin += len(piece)
        yield piece


def lines_of(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Pieces cut anew, at their newlines, which are left out."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole
    assert not rest, "records end with a newline"


def partial_path(path: Path) -> Path:
    """The name of a file until it is whole."""
    return path.with_name(path.name + ".partial")


def write_beside(
    path: Path, write: Callable[[Output], object], *, before_replacing: Callable[[int, int], None] | None = None
) -> tuple[int, int]:
    """Writes a file under another name and gives it its own when it is whole; its size and checksum.

    Raises:
        OutputError: it cannot be written, or another run is just doing so.
    """
    partial = partial_path(path)
    file = open_locked(partial, path)
    try:
        with explained(path):
            file.truncate()
            output = Tracked(file, str(path))
            write(output)
            output.flush()
            os.fsync(file.fileno())
        _, size, crc32 = output.end_record()
        if before_replacing is not None:
            before_replacing(size, crc32)
        if not REMOVES_OPEN_FILES:
            file.close()
        with explained(path):
            os.replace(partial, path)
    except BaseException:
        with suppress(OSError):  # the flush before has raised the same
            file.close()
        partial.unlink(missing_ok=True)
        raise
    file.close()
    return size, crc32
