"""Which files lie beside an output, and whether a run may begin to write it."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from audiotag.errors import OutputError
from audiotag.journal.disk import open_locked, partial_path, write_beside

Mode = Literal["new", "overwrite", "resume"]


def journal_path(path: Path) -> Path:
    """Where the journal of an output lies."""
    return path.with_name(path.name + ".journal")


def provenance_path(path: Path) -> Path:
    """Where a finished run says what made the output."""
    return path.with_name(path.name + ".run.json")


def side_path(path: Path) -> Path:
    """Where the records of a format that cannot be appended to are gathered."""
    return path.with_name(path.name + ".journal.ndjson")


def check_output(path: Path, mode: Mode) -> None:
    """Looks whether a run may begin to write here, before anything is loaded.

    Raises:
        OutputError: it may not.
    """
    if path.is_dir():
        raise OutputError(f"{path}: is a folder. Choose a file")
    if path.exists() and not path.is_file():
        raise OutputError(f"{path}: is a device or a pipe. Leave out --out to write to stdout, or choose a file")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent}. Make it first")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path}: its folder may not be written to. Choose another place")
    _check_name(path)
    if side_path(path).is_symlink():  # as none that we made
        raise OutputError(f"{side_path(path)}: is a link, whose target would be overwritten. Remove it")
    if journal_path(path).exists():
        open_locked(journal_path(path), path).close()
        if mode == "new":
            raise OutputError(f"{path}: holds an unfinished run. Go on with --resume, or begin anew with --overwrite")
    if mode == "new":
        refuse_existing(path)


def _check_name(path: Path) -> None:
    longest = partial_path(provenance_path(path))
    try:
        os.lstat(longest)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            added = longest.name.removeprefix(path.name)
            raise OutputError(f"{path}: is too long a name for {added} to be added. Choose a shorter one") from error


def refuse_existing(path: Path) -> None:
    """Keeps what nobody has asked to replace.

    Raises:
        OutputError: there is something.
    """
    if os.path.lexists(path):
        raise OutputError(f"{path}: exists. Choose another name, or replace it with --overwrite")


def forget_run(path: Path) -> None:
    """Takes away what tells of an output's bytes before they are replaced."""
    for beside in (provenance_path(path), journal_path(path), side_path(path)):
        beside.unlink(missing_ok=True)


def write_provenance(path: Path, provenance: Mapping[str, Any]) -> None:
    """Puts what made an output beside it."""
    text = json.dumps(provenance, indent=2) + "\n"
    write_beside(provenance_path(path), lambda output: output.write(text.encode("ascii")))
