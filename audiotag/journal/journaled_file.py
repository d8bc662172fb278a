"""Resume: what is done, under which parameters, up to which byte.

Beside FILE lies FILE.journal, lines of JSON. The first is the fingerprint of the run; each other one vouches for an
input: its path, size and time of change, and where its record lies in the output, with a checksum. Bytes that nobody
vouches for do not count, so a death at any moment costs the inputs it interrupted and nothing else.

Records are appended in the order in which inputs are done. Where inputs were added, changed or removed between two
sessions, that is not their order; then `finish` writes the file once more, in order, from the vouched records. Formats
that cannot be appended to (JSON, Parquet) are made then too, from FILE.journal.ndjson.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import stat
import time
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from io import BytesIO, StringIO
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, Literal

from audiotag.errors import OutputError
from audiotag.inputs import Input
from audiotag.results import Status, result_from_dict
from audiotag.writers import FORMATS, Output, Writer, open_writer, output_error

try:
    import fcntl
except ImportError:  # Windows: two runs into one file are not kept apart there
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

Mode = Literal["new", "overwrite", "resume"]

VERSION = 1  # of the journal's lines
SYNC_SECONDS = 5.0  # a power cut costs no more work than this
_COPY_BYTES = 1 << 20
# Names of the same model may differ between two sessions; its checksum may not.
_NOT_COMPARED = ("model", "revision")


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
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent}. Make it first")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path}: its folder may not be written to. Choose another place")
    if mode != "new":
        return
    if journal_path(path).exists():
        raise OutputError(f"{path}: holds an unfinished run. Go on with --resume, or begin anew with --overwrite")
    if os.path.lexists(path):
        raise OutputError(f"{path}: exists. Choose another name, or replace it with --overwrite")


# --- the file of a run ---


class JournaledFile:
    """An output that is appended to, and its journal, locked against a second run.

    Write records through `writer`, and after each input's last one call `vouch`; `keep` takes what an earlier session
    did. Both are called in the order of the inputs. `finish` leaves the output alone, whole.

    Raises:
        OutputError: it cannot be written, another run writes it, or the journal is of other parameters.
    """

    def __init__(self, path: Path, *, form: str, header: Mapping[str, Any], with_header: bool, mode: Mode) -> None:
        self.path = path
        self._form = form
        self._is_appended = FORMATS[form].is_appended
        self._work_path = path if self._is_appended else side_path(path)
        self._fingerprint = _fingerprint(form, header, with_header)
        self._journal = _open_locked(journal_path(path), path)
        self._reader: BinaryIO | None = None
        self._ranges = array("Q")  # begin, end, begin, end, ...: records in the order of the inputs
        self._index: dict[int, int] = {}  # hash of a path: where its line begins in the journal
        self._provenance: dict[str, Any] | None = None  # of an earlier session, which died while it cleaned up
        try:
            self._begin(mode)
        except BaseException:
            self.close()
            if mode == "new":
                journal_path(path).unlink(missing_ok=True)
            raise

    def _begin(self, mode: Mode) -> None:
        end, journal_end = self._take_over() if mode == "resume" else (0, 0)
        if self._provenance is not None:
            return
        head = self._head()
        self._output = _Tracked(_open_work(self._work_path, end if journal_end else 0), str(self.path))
        self._journal.seek(journal_end)
        self._journal.truncate()
        if not journal_end:
            self._line(self._fingerprint)
            self._output.write(head)
        self._output.end_record()
        self.writer = self._new_writer(self._output)
        self._synced = time.monotonic()
        self._head_end = len(head)

    def _new_writer(self, output: Output) -> Writer:
        form = self._form if self._is_appended else "ndjson"
        asked = bool(self._fingerprint["with_header"]) and self._is_appended
        return open_writer(form, output, header=self._fingerprint["header"], asked_for_header=asked)

    def _head(self) -> bytes:
        memory = BytesIO()
        self._new_writer(Output(memory, "memory")).begin()
        return memory.getvalue()

    # --- what an earlier session left ---

    def _take_over(self) -> tuple[int, int]:
        """Reads the journal; gives where the vouched output and the journal end, (0, 0) to begin anew."""
        self._journal.seek(0)
        lines = _whole_lines(self._journal)
        _, was = next(lines, (0, None))
        if was is None or was.get("audiotag_journal") != VERSION or not self._work_path.exists():
            return 0, 0
        _refuse_changes(was, self._fingerprint, self.path)
        self._fingerprint = was
        with open(self._work_path, "rb") as work:
            head = self._head()
            if work.read(len(head)) != head:
                return 0, 0
            return self._read_entries(lines, work, len(head))

    def _read_entries(
        self, lines: Iterator[tuple[int, dict[str, Any]]], work: BinaryIO, head_end: int
    ) -> tuple[int, int]:
        end, size = head_end, os.fstat(work.fileno()).st_size
        for begin, line in lines:
            if "sorted" in line:
                if line["sorted"] == size and line["crc32"] == _crc_of(work, 0, size):
                    self._provenance = line["provenance"]
                    return size, begin
            elif line["end"] <= size:
                self._index[hash(line["path"])] = begin
                end = max(end, line["end"])
        self._drop_torn(work)
        return end, self._journal.seek(0, os.SEEK_END)

    def _drop_torn(self, work: BinaryIO) -> None:
        """Forgets entries whose bytes a power cut kept from the disk."""
        for key, begin in list(self._index.items()):
            entry = self._entry_at(begin)
            if _crc_of(work, entry.begin, entry.end) != entry.crc32:
                del self._index[key]

    def _entry_at(self, begin: int) -> Entry:
        # A handle of its own: the decode threads ask for entries, one at a time, while the caller appends.
        if self._reader is None:
            self._reader = open(journal_path(self.path), "rb")  # noqa: SIM115 - `close` closes it
        self._reader.seek(begin)
        return Entry(**json.loads(self._reader.readline()))

    def find(self, given: Input) -> Entry | None:
        """What an earlier session did of an input that has not changed since."""
        begin = self._index.get(hash(given.path))
        if begin is None:
            return None
        entry = self._entry_at(begin)
        if (entry.path, entry.size, entry.mtime_ns) == (given.path, given.size, given.mtime_ns):
            return entry
        if entry.path == given.path:
            logger.warning("%s: has changed since it was tagged; it is done again", given.path)
        return None

    # --- the run ---

    def keep(self, begin: int, end: int) -> None:
        """The next inputs' records are these bytes."""
        if self._ranges and self._ranges[-1] == begin:
            self._ranges[-1] = end
        else:
            self._ranges.extend((begin, end))

    def vouch(self, given: Input, status: Status, seconds: float) -> None:
        """What was written since the last call is the whole record of `given`."""
        self._output.flush()
        begin, end, crc32 = self._output.end_record()
        entry = Entry(
            path=given.path, size=given.size, mtime_ns=given.mtime_ns, begin=begin, end=end, crc32=crc32,
            status=status, seconds=seconds,
        )  # fmt: skip
        self._line(asdict(entry))
        self.keep(begin, end)
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self.sync()

    def _line(self, value: Mapping[str, Any]) -> None:
        with _explained(self.path):
            self._journal.write(json.dumps(value).encode("ascii") + b"\n")
            self._journal.flush()

    def sync(self) -> None:
        """Everything so far survives a power cut.

        Raises:
            OutputError: the disk refused it, or somebody has taken the file away.
        """
        with _explained(self.path):
            for file, path in ((self._output.file, self._work_path), (self._journal, journal_path(self.path))):
                file.flush()
                os.fsync(file.fileno())
                if not os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                    raise OutputError(f"{path}: has been replaced while it was written. Run again with --overwrite")
        self._synced = time.monotonic()

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Puts the records in order where they are not, makes JSON and Parquet, and takes the journal away.

        `facts` go into the provenance beside the output.
        """
        self.sync()
        provenance = self._describe(facts)
        if not self._is_appended:
            self._convert()
        elif not self._is_in_order():
            self._sort(provenance)
        self._clean_up(provenance)

    def finish_earlier(self) -> dict[str, Any] | None:
        """The provenance of an earlier session that died after the last record; its cleaning up is done now."""
        if self._provenance is not None:
            self._clean_up(self._provenance)
        return self._provenance

    def _clean_up(self, provenance: Mapping[str, Any]) -> None:
        write_provenance(self.path, {**provenance, "bytes": self.path.stat().st_size})
        with _explained(self.path):
            journal_path(self.path).unlink()
            side_path(self.path).unlink(missing_ok=True)

    def _is_in_order(self) -> bool:
        ends = (self._head_end, self._output.n_bytes)
        return tuple(self._ranges) == ends or (not self._ranges and ends[0] == ends[1])

    def _sort(self, provenance: Mapping[str, Any]) -> None:
        def write(output: Output) -> None:
            output.write(self._head())
            for data in self._records():
                output.write(data)

        # From here on the entries' bytes are others'; this line, if the output has its checksum, says: all is done.
        def vouch(size: int, crc32: int) -> None:
            self._line({"sorted": size, "crc32": crc32, "provenance": provenance})
            os.fsync(self._journal.fileno())

        write_beside(self.path, write, before_replacing=vouch)

    def _convert(self) -> None:
        def write(output: Output) -> None:
            writer = open_writer(self._form, output, header=self._fingerprint["header"])
            writer.begin()
            for line in _lines_of(self._records()):
                writer.write(result_from_dict(json.loads(line)))
            writer.end()

        write_beside(self.path, write)

    def _records(self) -> Iterator[bytes]:
        with open(self._work_path, "rb") as work:
            for begin, end in zip(self._ranges[::2], self._ranges[1::2], strict=True):
                yield from _pieces(work, begin, end)

    def _describe(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        was = self._fingerprint
        return {
            "audiotag": was["header"], "format": was["format"], "with_header": was["with_header"],
            "started": was["started"], "finished": _now(), **facts,
        }  # fmt: skip

    def close(self) -> None:
        """Lets go of the files; what was not vouched for is not looked at again."""
        output = self._output.file if hasattr(self, "_output") else None
        for file in (output, self._reader, self._journal):
            if file is not None:
                with suppress(OSError):
                    file.close()


def read_finished(path: Path, *, form: str, header: Mapping[str, Any], with_header: bool) -> dict[str, Any] | None:
    """The provenance of an output that is finished and cannot be added to, or None.

    What can be added to gets a journal again, made from its records; an input that was changed after the run began is
    done again, for nobody knows which of its versions was read.

    Raises:
        OutputError: it was made by something else, or with other parameters.
    """
    if journal_path(path).exists() or not path.exists():
        return None
    try:
        was = json.loads(provenance_path(path).read_text(encoding="utf-8"))
        fingerprint = {**_fingerprint(form, was["audiotag"], was["with_header"]), "started": was["started"]}
        _refuse_changes({**fingerprint, "format": was["format"]}, _fingerprint(form, header, with_header), path)
        began_ns = int(datetime.fromisoformat(was["started"]).timestamp() * 1e9)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{path}: has no journal to go on from. Replace it with --overwrite") from error
    if form not in ("csv", "tsv", "ndjson"):
        side_path(path).unlink(missing_ok=True)
        return dict(was)

    def write(output: Output) -> None:
        for value in (fingerprint, *map(asdict, _entries_of(path, form, began_ns))):
            output.write(json.dumps(value).encode("ascii") + b"\n")

    write_beside(journal_path(path), write)
    return None


# --- the records of a finished output ---


def _entries_of(path: Path, form: str, began_ns: int) -> Iterator[Entry]:
    """What a journal would say of an output in order; files changed since `began_ns` count as changed."""
    with open(path, "rb") as file:
        for name, rows in groupby(_rows_in(file, form), key=lambda row: row[0]):
            group = list(rows)
            begin, end = group[0][1], group[-1][2]
            size, mtime_ns = _state_before(name, began_ns)
            with open(path, "rb") as again:
                crc32 = _crc_of(again, begin, end)
            yield Entry(
                path=name, size=size, mtime_ns=mtime_ns, begin=begin, end=end, crc32=crc32,
                status=group[0][3], seconds=max(row[4] for row in group),
            )  # fmt: skip


def _rows_in(file: BinaryIO, form: str) -> Iterator[tuple[str, int, int, Status, float]]:
    """Path, first and last byte, status and seconds of each row; the head is left out."""
    begin = 0
    for row in file if form == "ndjson" else quoted_rows(file):
        end = begin + len(row)
        if form == "ndjson":
            shown = json.loads(row)
            if "audiotag" not in shown:
                yield shown["path"], begin, end, shown["status"], shown.get("duration", 0.0)
        elif begin:
            text = row.decode("utf-8", "surrogateescape")
            cells = next(csv.reader(StringIO(text, newline=""), delimiter="," if form == "csv" else "\t"))
            seconds = float(cells[3]) - float(cells[2]) if cells[3] else 0.0
            yield cells[0], begin, end, cells[1], seconds  # type: ignore[misc]
        begin = end


def quoted_rows(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Rows of separated values; a newline between quotes does not end one."""
    row = b""
    for line in lines:
        row += line
        if row.count(b'"') % 2 == 0:
            yield row
            row = b""


def _state_before(name: str, began_ns: int) -> tuple[int | None, int | None]:
    """Size and time of change of a file as inputs have them, or what no input has if it is newer."""
    try:
        found = os.stat(name)
    except (OSError, ValueError):
        return None, None
    if not stat.S_ISREG(found.st_mode):
        return None, None
    return (found.st_size, found.st_mtime_ns) if found.st_mtime_ns < began_ns else (-1, -1)


# --- fingerprints ---


def _fingerprint(form: str, header: Mapping[str, Any], with_header: bool) -> dict[str, Any]:
    shown = {"audiotag_journal": VERSION, "format": form, "with_header": with_header, "header": dict(header)}
    # Through JSON, so that tuples compare equal to the lists that are read back.
    return {**json.loads(json.dumps(shown)), "started": _now()}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _refuse_changes(was: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    changes = [
        f"{name} was {short_json(before)}, is {short_json(after)}"
        for name, before, after in differences(settings_of(was), settings_of(now))
    ]
    if changes:
        raise OutputError(
            f"{path}: was begun with other settings: {'; '.join(changes)}. "
            "Resume with those it was begun with, or begin anew with --overwrite"
        )


def settings_of(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be the same for two outputs to belong together, flat; names of models do not count."""
    header = {name: value for name, value in fingerprint["header"].items() if name not in _NOT_COMPARED}
    parameters = header.pop("parameters", {})
    return {**header, **parameters, "format": fingerprint["format"], "header": fingerprint["with_header"]}


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Name, earlier and present value of what is not the same."""
    for name in dict.fromkeys((*was, *now)):
        if was.get(name) != now.get(name):
            yield name, was.get(name), now.get(name)


def short_json(value: Any) -> str:
    """A value as an error message shows it."""
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


# --- files ---


class _Tracked(Output):
    """An output that knows how long it is, and the checksum of what came since the last record."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        super().__init__(file, name)
        self.n_bytes = file.tell()
        self._begin, self._crc32 = self.n_bytes, 0

    def write(self, data: bytes) -> int:
        written = super().write(data)
        self.n_bytes += written
        self._crc32 = zlib.crc32(data, self._crc32)
        return written

    def end_record(self) -> tuple[int, int, int]:
        """Begin, end and checksum of what came since the last call."""
        ended = (self._begin, self.n_bytes, self._crc32)
        self._begin, self._crc32 = self.n_bytes, 0
        return ended


class _explained:
    """Failures to write become `OutputError`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise output_error(self._path, error) from error


def _open_locked(path: Path, output: Path) -> BinaryIO:
    """The journal, which only one run has open."""
    while True:
        with _explained(path):
            file = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")  # noqa: SIM115 - a run closes it
        try:
            _lock(file)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        except FileNotFoundError:
            pass  # another run has just finished and removed it
        except BlockingIOError as error:
            file.close()
            raise OutputError(f"{output}: another run is writing it. Wait for it, or choose another name") from error
        file.close()


def _lock(file: BinaryIO) -> None:
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _open_work(path: Path, end: int) -> BinaryIO:
    with _explained(path):
        file = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")  # noqa: SIM115 - a run closes it
        file.truncate(end)
        file.seek(end)
        return file


def _whole_lines(file: BinaryIO) -> Iterator[tuple[int, dict[str, Any]]]:
    """Where each line begins, and what it says; ends before one that is torn."""
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


def _crc_of(file: BinaryIO, begin: int, end: int) -> int:
    crc32 = 0
    for piece in _pieces(file, begin, end):
        crc32 = zlib.crc32(piece, crc32)
    return crc32


def _pieces(file: BinaryIO, begin: int, end: int) -> Iterator[bytes]:
    file.seek(begin)
    while begin < end and (piece := file.read(min(_COPY_BYTES, end - begin))):
        begin += len(piece)
        yield piece


def _lines_of(pieces: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole
    assert not rest, "records end with a newline"


def write_provenance(path: Path, provenance: Mapping[str, Any]) -> None:
    """Puts what made an output beside it."""
    text = json.dumps(provenance, indent=2) + "\n"
    write_beside(provenance_path(path), lambda output: _ignore(output.write(text.encode("ascii"))))


def write_beside(
    path: Path, write: Callable[[Output], None], *, before_replacing: Callable[[int, int], None] | None = None
) -> tuple[int, int]:
    """Writes a file under another name and gives it its own when it is whole; its size and checksum."""
    partial = path.with_name(path.name + ".partial")
    try:
        with _explained(path), open(partial, "wb") as file:
            output = _Tracked(file, str(path))
            write(output)
            output.flush()
            os.fsync(file.fileno())
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _, size, crc32 = output.end_record()
    if before_replacing is not None:
        before_replacing(size, crc32)
    with _explained(path):
        os.replace(partial, path)
    return size, crc32


def _ignore(value: object) -> None:
    pass
