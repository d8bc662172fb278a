"""From the arguments of a run to its inputs, lazily and in a stable order; nothing is opened here.

Folders are walked in the byte order of their names, one sorted folder of each depth in memory. One that cannot be read
is an input too, which fails when it is opened: nobody knows what is in it. Names that are not UTF-8 travel as surrogate
escapes (PEP 383). Neighbours: `audio` opens what this finds, `results` shows its paths.
"""

from __future__ import annotations

import codecs
import errno
import fnmatch
import glob
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from io import FileIO
from pathlib import Path, PurePath
from typing import BinaryIO, TypeVar

from audiotag.errors import UsageError

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

# Longer than any path that a system takes: what has no end before this is no list of names.
MAX_NAME_BYTES = 1 << 16
_READ_BYTES = 1 << 16
_KIND_OF = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


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
_AnyFound = TypeVar("_AnyFound", bound=Found)


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count` of any set of inputs, for job arrays: `Shard(2, 8)` is written `2/8`.

    A path's own bytes say where it belongs, so that neither the other inputs nor their order nor the machine matter.
    """

    number: int  # 1 to count
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ValueError(f"a shard's number goes from 1 to {self.count}, not {self.number}")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def __contains__(self, path: str) -> bool:
        digest = hashlib.sha256(path.encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.number - 1


def parse_shard(text: str) -> Shard:
    """The shard that `I/N` stands for.

    >>> parse_shard("2/8")
    Shard(number=2, count=8)

    Raises:
        ValueError: it is not of this form, or I is not 1 to N.
    """
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
    if match is None:
        raise ValueError(f"{text!r} is not a shard; write I/N, such as 2/8")
    return Shard(int(match[1]), int(match[2]))


def in_shard(found: Iterable[_AnyFound], shard: Shard | None) -> Iterator[_AnyFound]:
    """What of `found` belongs to a shard; everything where there is none."""
    return (item for item in found if shard is None or item.path in shard)


def sources_of(found: Iterable[Found]) -> Iterator[Path]:
    """The files among what was found."""
    return (item.source for item in found if isinstance(item, Input) and item.source is not None)


def is_read_once(given: Input) -> bool:
    """Whether it is stdin or a pipe, whose audio is gone once it has been read."""
    status = None if given.source is None else _status(given.source)
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
    written = None if out is None else _status(out)
    if written is None or not stat.S_ISREG(written.st_mode):
        return
    for path in inputs:
        read = _status(path)
        if read is not None and os.path.samestat(read, written):
            raise UsageError(f"{out}: is an input and would be overwritten. Choose another file to write")


def _status(path: str | os.PathLike[str]) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (OSError, ValueError):
        return None


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
    choice = _Choice(_Globs(include), _Globs(exclude))
    return _without_repetition(_find(arguments, choice, files_from, null=null))


def _find(arguments: Sequence[str], choice: _Choice, files_from: str | None, *, null: bool) -> Iterator[Found]:
    if "" in arguments:
        raise UsageError("an input's name is empty. Is a variable of the shell not set?")
    if "-" in arguments and files_from == "-":
        raise UsageError("stdin cannot be both a list of files and audio. Leave out one of the two -")
    with _opened(files_from) as file:
        for argument in arguments:
            if argument == "-":
                yield Input("-", None)
            else:
                for path in _expand(argument):
                    yield from _inputs_at(path, choice)
        if files_from is not None and file is not None:
            for path in _names_in_list(file, files_from, null=null):
                yield from _inputs_at(path, choice)


def _without_repetition(found: Iterable[Found]) -> Iterator[Found]:
    # Hashes instead of paths: 60 MB for a million. Two of a million are equal by chance in 1 of 30 million runs.
    seen: set[int] = set()
    for item in found:
        is_stdin = isinstance(item, Input) and item.source is None
        key = hash((type(item), is_stdin, PurePath(item.path)))
        if key not in seen:
            seen.add(key)
            yield item


# --- globs and lists ---


class _Globs:
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
class _Choice:
    """Which files of a folder become inputs."""

    include: _Globs
    exclude: _Globs

    def refusal(self, relative: str) -> str | None:
        """Why a file is not taken, or None."""
        if self.exclude.match(relative):
            return "excluded"
        if self.include:
            return None if self.include.match(relative) else "not included"
        suffix = os.path.splitext(relative)[1]
        return None if suffix.lower() in KNOWN_SUFFIXES else f"not a suffix of audio or video: {suffix or 'none'}"


def _expand(argument: str) -> Iterator[str]:
    """The paths that a glob stands for where the shell did not expand it; else the argument itself."""
    if os.path.lexists(argument) or not glob.has_magic(argument):
        yield argument
        return
    matches = sorted(
        (path for path in glob.iglob(argument, recursive=True) if not _runs_in_a_loop(path)), key=path_order
    )
    yield from matches or [argument]


def path_order(path: str) -> tuple[bytes, ...]:
    """What the files of a folder are sorted by as it is walked."""
    return tuple(map(os.fsencode, PurePath(path).parts))


def _runs_in_a_loop(path: str) -> bool:
    """Whether a path passes through a link to a folder above that link, as `**` does again and again."""
    for parent in PurePath(path).parents:
        if os.path.islink(parent):
            above = os.path.realpath(parent.parent)
            target = os.path.realpath(parent)
            if above == target or above.startswith(os.path.join(target, "")):
                return True
    return False


def _opened(files_from: str | None) -> AbstractContextManager[BinaryIO | None]:
    """The list, open before anything is tagged: its name may be wrong. Unbuffered, each name is there when it comes."""
    if files_from is None:
        return nullcontext(None)
    try:
        return open_stdin() if files_from == "-" else open(files_from, "rb", buffering=0)
    except OSError as error:
        raise _unreadable_list(files_from, error) from error


def _names_in_list(file: BinaryIO, files_from: str, *, null: bool) -> Iterator[str]:
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


# --- folders ---


def _inputs_at(path: str, choice: _Choice) -> Iterator[Found]:
    """What a path stands for: a folder's files, or itself, whatever it is."""
    status = _status(path)
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

    def __init__(self, root: str, choice: _Choice) -> None:
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
