"""The files below a folder that are to be tagged."""

from __future__ import annotations

import errno
import fnmatch
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from audiotag.inputs.found import Found, Input, Skipped, status_of

# ruff: noqa: SIM905 - suffixes as lists of strings would be a page
# Suffixes that are picked in folders. Left out, because other files bear them more often: .ts, .iff, .sf, .raw.
AUDIO_SUFFIXES = frozenset(
    ".8svx .aac .ac3 .adts .aif .aifc .aiff .amr .ape .au .avr .awb .bwf .caf .dsf .dts .eac3 .ec3 .flac .ircam .m4a "
    ".m4b .m4r .mka .mp1 .mp2 .mp3 .mpa .mpc .mpga .nist .oga .ogg .oma .opus .paf .pvf .qcp .ra .rf64 .sds .shn .snd "
    ".sph .spx .svx .tak .tta .voc .w64 .wav .wave .wma .wv .xwma".split()
)
VIDEO_SUFFIXES = frozenset(
    ".3g2 .3gp .asf .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogv .ogx .rm .vob .webm .wmv".split()
)
KNOWN_SUFFIXES = AUDIO_SUFFIXES | VIDEO_SUFFIXES

_KIND_OF = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Globs:
    """Patterns over names, or over paths below a folder where they have a slash. Case matters."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._matchers = tuple(
            ("/" in pattern, re.compile(fnmatch.translate(pattern.removeprefix("./"))))
            for pattern in (given.rstrip("/") for given in patterns)
        )

    def __bool__(self) -> bool:
        return bool(self._matchers)

    def match(self, relative: str) -> bool:
        """Whether one of them matches a path, whose folders are separated as the system does."""
        path = relative.replace(os.sep, "/")
        name = path.rpartition("/")[2]
        return any(matcher.match(path if has_slash else name) for has_slash, matcher in self._matchers)


@dataclass(frozen=True)
class Choice:
    """Which files of a folder become inputs."""

    include: Globs
    exclude: Globs

    def refusal(self, relative: str) -> str | None:
        """Why a file is not taken, or None."""
        if self.exclude.match(relative):
            return "excluded"
        if self.include:
            return None if self.include.match(relative) else "not included"
        suffix = os.path.splitext(relative)[1]
        return None if suffix.lower() in KNOWN_SUFFIXES else f"not a suffix of audio or video: {suffix or 'none'}"


def inputs_at(path: str, choice: Choice) -> Iterator[Found]:
    """What a path stands for: a folder's files, or itself, whatever it is."""
    status = status_of(path)
    if status is None:
        yield Input(path, Path(path))
    elif stat.S_ISDIR(status.st_mode):
        yield from _Walk(path, choice)
    else:
        yield _input(path, status)


def _input(path: str, status: os.stat_result) -> Input:
    if not stat.S_ISREG(status.st_mode):
        return Input(path, Path(path))
    return Input(path, Path(path), status.st_size, status.st_mtime_ns)


class _Walk:
    """The files below a folder, in the byte order of their path's components.

    Links to folders are followed, but no folder is walked twice: not if a link leads to where the walk is, was or will
    be anyway, nor if it leads above, so loops end. Where the walk comes to what a link has led to, it does not go in.
    """

    def __init__(self, root: str, choice: Choice) -> None:
        self._root = root
        self._prefix = "" if root in (".", "./") else os.path.join(root, "")
        self._choice = choice
        self._walked = [os.path.realpath(root)]  # each of them with all that is below

    def __iter__(self) -> Iterator[Found]:
        open_folders = [iter(("",))]  # of each depth, the root first; a loop instead of recursion, for any depth
        while open_folders:
            relative = next(open_folders[-1], None)
            if relative is None:
                open_folders.pop()
            elif relative and (found := self._look_at(relative)) is not None:
                yield found
            elif isinstance(names := self._names(relative), Input):
                yield names
            else:
                open_folders.append(names)

    def _names(self, folder: str) -> Iterator[str] | Input:
        """Paths, relative to the root, of what is in a folder; the folder itself if it cannot be read."""
        path = self._prefix + folder
        try:
            names = os.listdir(os.fsencode(path or "."))  # bytes take a third of the memory of DirEntry objects
        except OSError:
            shown = path if folder else self._root
            return Input(shown, Path(shown))
        names.sort()
        return (os.path.join(folder, os.fsdecode(name)) for name in names)

    def _look_at(self, relative: str) -> Found | None:
        """An input, or why it is none; None for a folder that is walked next."""
        path = self._prefix + relative
        if os.path.basename(relative).startswith("."):
            return Skipped(path, "hidden")
        try:
            status = os.stat(path)
        except OSError as error:
            return self._look_at_unknown(path, relative, error)
        if stat.S_ISDIR(status.st_mode):
            return self._look_at_folder(path, relative)
        refusal = self._choice.refusal(relative)
        if refusal is None and not stat.S_ISREG(status.st_mode):
            refusal = f"{_KIND_OF.get(stat.S_IFMT(status.st_mode), 'something else')}, not a file"
        return _input(path, status) if refusal is None else Skipped(path, refusal)

    def _look_at_unknown(self, path: str, relative: str, error: OSError) -> Found:
        """What cannot be looked at may be a recording or a folder full of them.

        Also what is gone since it was listed, as when a drive is; but files that nobody would have taken may go.
        """
        if error.errno in (errno.ENOENT, errno.ELOOP) and os.path.islink(path):
            return Skipped(path, "a link that leads nowhere")
        if error.errno == errno.ENOENT and os.path.splitext(relative)[1]:
            refusal = self._choice.refusal(relative)
        else:
            refusal = "excluded" if self._choice.exclude.match(relative) else None
        return Input(path, Path(path)) if refusal is None else Skipped(path, refusal)

    def _look_at_folder(self, path: str, relative: str) -> Skipped | None:
        if self._choice.exclude.match(relative):
            return Skipped(path, "excluded")
        if not os.path.islink(path):
            is_met_again = len(self._walked) > 1 and os.path.realpath(path) in self._walked
            return Skipped(path, "walked already, through a link") if is_met_again else None
        target = os.path.realpath(path)
        if any(_comes_to(walked, target) for walked in self._walked):
            return Skipped(path, "a link to a folder that is walked anyway")
        if any(_holds(target, folder) for folder in (self._walked[0], os.path.realpath(os.path.dirname(path)))):
            return Skipped(path, "a link to a folder above")
        self._walked.append(target)
        return None


def _comes_to(walked: str, target: str) -> bool:
    """Whether the walk of a folder comes to another: not if that is hidden in it."""
    if not _holds(walked, target):
        return False
    return not any(name.startswith(".") for name in PurePath(target).relative_to(walked).parts)


def _holds(folder: str, other: str) -> bool:
    return os.path.join(other, "").startswith(os.path.join(folder, ""))
