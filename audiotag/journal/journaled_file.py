"""The file of a run: an output that is appended to, and the journal that vouches for its bytes.

Records are appended in the order in which inputs are done. Where inputs were added, changed or removed between two
sessions, that is not their order; then `finish` writes the file once more, in order, from the vouched records. Formats
that cannot be appended to (JSON, Parquet) are made then too, from FILE.journal.ndjson.
"""

from __future__ import annotations

import json
import logging
import os
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from audiotag.errors import OutputError
from audiotag.inputs import Input
from audiotag.journal.disk import (
    REMOVES_OPEN_FILES,
    Tracked,
    crc_of,
    explained,
    is_gone,
    lines_of,
    open_locked,
    open_work,
    pieces_of,
    write_beside,
)
from audiotag.journal.fingerprint import fingerprint_of, refuse_changes, utc_now
from audiotag.journal.lines import VERSION, Entry, whole_lines
from audiotag.journal.places import Mode, journal_path, refuse_existing, side_path, write_provenance
from audiotag.results import Status, result_from_dict
from audiotag.writers import FORMATS, Output, Writer, open_writer

logger = logging.getLogger(__name__)

SYNC_SECONDS = 5.0  # a power cut costs no more work than this


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
        self._fingerprint = fingerprint_of(form, header, with_header)
        self._journal = open_locked(journal_path(path), path)
        self._reader: BinaryIO | None = None
        self._ranges = array("Q")  # begin, end, begin, end, ...: records in the order of the inputs
        self._index: dict[int, int] = {}  # hash of a path: where its line begins in the journal
        self._named: set[int] = set()  # those of them that are inputs again
        self._provenance: dict[str, Any] | None = None  # of an earlier session, which died while it cleaned up
        is_ours = not os.fstat(self._journal.fileno()).st_size
        try:
            if mode == "new":  # since `check_output` the model was opened, and another run may have ended here
                refuse_existing(path)
            self._begin(mode)
        except BaseException:
            is_empty = not os.fstat(self._journal.fileno()).st_size
            self.close()
            if (mode == "new" and is_ours) or is_empty:
                journal_path(path).unlink(missing_ok=True)
            raise

    def _begin(self, mode: Mode) -> None:
        try:
            end, journal_end = self._take_over() if mode == "resume" else (0, 0)
        except (KeyError, TypeError, AttributeError) as error:  # JSON, but not of ours
            where = journal_path(self.path)
            raise OutputError(f"{where}: is not as it was written. Begin anew with --overwrite") from error
        if self._provenance is not None:
            return
        head = self._head()
        self._output = Tracked(open_work(self._work_path, end if journal_end else 0), str(self.path))
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
        lines = whole_lines(self._journal)
        _, was = next(lines, (0, None))
        if was is None or not self._work_path.exists():
            return 0, 0
        if was["audiotag_journal"] != VERSION:
            raise OutputError(f"{self.path}: was begun by another version of audiotag. "
                              "Resume with that, or begin anew with --overwrite")  # fmt: skip
        refuse_changes(was, self._fingerprint, self.path)
        self._fingerprint = was
        with open(self._work_path, "rb") as work:
            head = self._head()
            found = work.read(len(head))
            if found == head:
                return self._read_entries(lines, work, len(head))
            if head.startswith(found.rstrip(b"\0")):  # a power cut kept the rest from the disk
                return 0, 0
            raise OutputError(f"{self._work_path}: was changed by another program while it was unfinished. "
                              "Keep that under another name, or begin anew with --overwrite")  # fmt: skip

    def _read_entries(
        self, lines: Iterator[tuple[int, dict[str, Any]]], work: BinaryIO, head_end: int
    ) -> tuple[int, int]:
        end, size = head_end, os.fstat(work.fileno()).st_size
        for begin, line in lines:
            if "sorted" in line:
                if line["sorted"] == size and line["crc32"] == crc_of(work, 0, size):
                    self._provenance = line["provenance"]
                    return size, begin
            elif line["end"] <= size:
                self._index[hash(line["path"])] = begin
                end = max(end, line["end"])
        self._drop_torn(work)
        return end, self._journal.seek(0, os.SEEK_END)

    def _drop_torn(self, work: BinaryIO) -> None:
        """Forgets entries whose bytes a power cut kept from the disk, or another program changed."""
        n_before = len(self._index)
        for key, begin in list(self._index.items()):
            entry = self._entry_at(begin)
            if crc_of(work, entry.begin, entry.end) != entry.crc32:
                del self._index[key]
        if n_torn := n_before - len(self._index):
            logger.warning("%s: results of %d inputs are not as written; those are done again", self.path, n_torn)

    def _entry_at(self, begin: int) -> Entry:
        # A handle of its own: the decode threads ask for entries, one at a time, while the caller appends.
        if self._reader is None:
            self._reader = open(journal_path(self.path), "rb")  # noqa: SIM115 - `close` closes it
        self._reader.seek(begin)
        return Entry(**json.loads(self._reader.readline()))

    def find(self, given: Input) -> Entry | None:
        """What an earlier session did of an input that has not changed since; what failed is to be tried again.

        What is not there now has not changed: its drive may be elsewhere.
        """
        key = hash(given.path)
        entry = self._entry_at(self._index[key]) if key in self._index else None
        if entry is None or entry.path != given.path:
            return None
        self._named.add(key)
        if given.mtime_ns is not None and (entry.size, entry.mtime_ns) != (given.size, given.mtime_ns):
            logger.warning("%s: has changed since it was tagged; it is done again", given.path)
            return None
        return None if entry.status == "failed" or given.source is None else entry

    def check_inputs(self, paths: Iterable[str], *, was_finished: bool = False) -> None:
        """Looks, before anything is tagged, whether all that is done is among the inputs again.

        Raises:
            OutputError: something is not, although it is still there; an output that `was_finished` is so again.
        """
        if not self._index:  # folders need not be walked
            return
        try:
            self._count_unnamed({key for path in paths if (key := hash(path)) in self._index})
        except OutputError:
            if was_finished:
                self._remove_journal()
            raise

    def _count_unnamed(self, named: set[int]) -> int:
        """Results of files that are gone; those of files that may still be there are not thrown away."""
        entries = (self._entry_at(begin) for key, begin in self._index.items() if key not in named)
        unnamed = [entry.path for entry in entries if entry.status != "failed"]
        kept = [path for path in unnamed if not is_gone(path)] if named else unnamed
        if kept:
            folder = os.path.dirname(kept[0]) or os.curdir
            is_there = os.path.isdir(folder)
            way_out = "Name them too" if is_there else f"Bring back their folder {folder}, empty to leave them out,"
            raise OutputError(
                f"{self.path}: holds results of {len(kept):,} inputs that are not named now, such as {kept[0]}. "
                f"{way_out} and resume again, or begin anew with --overwrite"
            )
        return len(unnamed)

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
        with explained(self.path):
            self._journal.write(json.dumps(value).encode("ascii") + b"\n")
            self._journal.flush()

    def sync(self) -> None:
        """Everything so far survives a power cut.

        Raises:
            OutputError: the disk refused it, or somebody has taken the file away.
        """
        with explained(self.path):
            for file, path in ((self._output.file, self._work_path), (self._journal, journal_path(self.path))):
                file.flush()
                os.fsync(file.fileno())
                if not os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                    raise OutputError(f"{path}: has been replaced while it was written. Run again with --overwrite")
        self._synced = time.monotonic()

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Puts the records in order where they are not, makes JSON and Parquet, and takes the journal away.

        `facts` go into the provenance beside the output.

        Raises:
            OutputError: it cannot be written, or what is done was not named again although it is still there.
        """
        self.sync()
        n_gone = self._count_unnamed(self._named)
        if n_gone:
            logger.warning("%s: results of %d inputs that are gone are left out", self.path, n_gone)
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
        self._remove_journal()

    def _remove_journal(self) -> None:
        if not REMOVES_OPEN_FILES:
            self.close()
        with explained(self.path):
            journal_path(self.path).unlink()
            side_path(self.path).unlink(missing_ok=True)

    def _is_in_order(self) -> bool:
        return tuple(self._ranges) == (self._head_end, self._output.n_bytes)

    def _sort(self, provenance: Mapping[str, Any]) -> None:
        self._output.file.close()  # it is replaced

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
            for line in lines_of(self._records()):
                writer.write(result_from_dict(json.loads(line)))
            writer.end()

        write_beside(self.path, write)

    def _records(self) -> Iterator[bytes]:
        with open(self._work_path, "rb") as work:
            for begin, end in zip(self._ranges[::2], self._ranges[1::2], strict=True):
                yield from pieces_of(work, begin, end)

    def _describe(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        was = self._fingerprint
        return {
            "audiotag": was["header"], "format": was["format"], "with_header": was["with_header"],
            "started": was["started"], "finished": utc_now(), **facts,
        }  # fmt: skip

    def close(self) -> None:
        """Lets go of the files; what was not vouched for is not looked at again."""
        output = self._output.file if hasattr(self, "_output") else None
        for file in (output, self._reader, self._journal):
            if file is not None:
                with suppress(OSError):
                    file.close()
