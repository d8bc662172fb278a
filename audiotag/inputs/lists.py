"""The names in a list of files, read from a file or from stdin as they come."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import BinaryIO

from audiotag.errors import UsageError
from audiotag.inputs.found import open_stdin

# Longer than any path that a system takes: what has no end before this is no list of names.
MAX_NAME_BYTES = 1 << 16
_READ_BYTES = 1 << 16


def open_list(files_from: str | None) -> AbstractContextManager[BinaryIO | None]:
    """The list, open before anything is tagged: its name may be wrong. Unbuffered, each name is there when it comes.

    Raises:
        UsageError: it cannot be opened.
    """
    if files_from is None:
        return nullcontext(None)
    try:
        return open_stdin() if files_from == "-" else open(files_from, "rb", buffering=0)
    except OSError as error:
        raise _unreadable_list(files_from, error) from error


def names_in_list(file: BinaryIO, files_from: str, *, null: bool) -> Iterator[str]:
    """The names in it; with `null`, NUL bytes end them.

    Raises:
        UsageError: it is no list of names, or cannot be read further.
    """
    mark = b"" if null else codecs.BOM_UTF8  # which some editors put before text
    try:
        for number, name in enumerate(_pieces(file, b"\0" if null else b"\n")):
            stripped = name if null else name.removeprefix(b"" if number else mark).removesuffix(b"\r")
            if b"\0" in stripped and number == 0:  # further down it is one name that is damaged
                raise UsageError(f"list of files {files_from}: holds NUL bytes. Add -0, or save the list as UTF-8")
            if stripped:
                yield os.fsdecode(stripped)
    except OSError as error:
        raise _unreadable_list(files_from, error) from error


def _unreadable_list(files_from: str, error: OSError) -> UsageError:
    return UsageError(f"list of files {files_from}: {error.strerror or error}. Check its name")


def _pieces(file: BinaryIO, separator: bytes) -> Iterator[bytes]:
    rest = b""
    while block := file.read(_READ_BYTES):
        *whole, rest = (rest + block).split(separator)
        yield from whole
        if len(rest) > MAX_NAME_BYTES:
            raise UsageError(f"list of files: a name of more than {MAX_NAME_BYTES} bytes. Is it NUL-separated?")
    if rest:
        yield rest
