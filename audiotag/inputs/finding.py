"""From the arguments of a run to its inputs: paths, globs, folders, and a list."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePath

from audiotag.errors import UsageError
from audiotag.inputs.found import Found, Input
from audiotag.inputs.lists import names_in_list, open_list
from audiotag.inputs.walking import Choice, Globs, inputs_at


def find_inputs(
    arguments: Sequence[str],
    *,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    files_from: str | None = None,
    null: bool = False,
) -> Iterator[Found]:
    """The inputs that the arguments name, then those of the list `files_from` ("-": stdin; `null`: ends are NUL bytes).

    A folder gives the files below it that have a known suffix or match `include`, and do not match `exclude`; both are
    globs over a name, or with a slash over the path below the folder. Any other argument is an input, "-" being stdin;
    if nothing bears its name and it is a glob, all that match are. A path comes once, however often it is named.

    Raises:
        UsageError: a name is empty, the list cannot be read, or stdin is named as a list and as audio.
    """
    choice = Choice(Globs(include), Globs(exclude))
    return _without_repetition(_find(arguments, choice, files_from, null=null))


def _find(arguments: Sequence[str], choice: Choice, files_from: str | None, *, null: bool) -> Iterator[Found]:
    if "" in arguments:
        raise UsageError("an input's name is empty. Is a variable of the shell not set?")
    if "-" in arguments and files_from == "-":
        raise UsageError("stdin cannot be both a list of files and audio. Leave out one of the two -")
    with open_list(files_from) as file:
        for argument in arguments:
            if argument == "-":
                yield Input("-", None)
            else:
                for path in _expand(argument):
                    yield from inputs_at(path, choice)
        if files_from is not None and file is not None:
            for path in names_in_list(file, files_from, null=null):
                yield from inputs_at(path, choice)


def _without_repetition(found: Iterable[Found]) -> Iterator[Found]:
    # Hashes instead of paths: 60 MB for a million. Two of a million are equal by chance in 1 of 30 million runs.
    seen: set[int] = set()
    for item in found:
        is_stdin = isinstance(item, Input) and item.source is None
        key = hash((type(item), is_stdin, PurePath(item.path)))
        if key not in seen:
            seen.add(key)
            yield item


def _expand(argument: str) -> Iterator[str]:
    """The paths that a glob stands for where the shell did not expand it; else the argument itself."""
    if os.path.lexists(argument) or not glob.has_magic(argument):
        yield argument
        return
    matches = sorted(
        (path for path in glob.iglob(argument, recursive=True) if not _runs_in_a_loop(path)), key=path_order
    )
    yield from matches or [argument]


def _runs_in_a_loop(path: str) -> bool:
    """Whether a path passes through a link to a folder above that link, as `**` does again and again."""
    for parent in PurePath(path).parents:
        if os.path.islink(parent):
            above = os.path.realpath(parent.parent)
            target = os.path.realpath(parent)
            if above == target or above.startswith(os.path.join(target, "")):
                return True
    return False


def path_order(path: str) -> tuple[bytes, ...]:
    """What the files of a folder are sorted by as it is walked."""
    return tuple(map(os.fsencode, PurePath(path).parts))
