"""Resume: what is done, under which parameters, up to which byte.

Beside FILE lies FILE.journal, lines of JSON. The first is the fingerprint of the run; each other one vouches for an
input: its path, size and time of change, and where its record lies in the output, with a checksum. Bytes that nobody
vouches for do not count, so a death at any moment costs the inputs it interrupted and nothing else.

    lines --> fingerprint --+--> journaled_file: the output of a run, and its journal
    disk  --> places -------+--> finished: an output whose journal has been taken away

Neighbours: `writers` writes the records, `run` asks what is done and vouches, `merge` joins what belongs together.
"""

from audiotag.journal.disk import explained, open_locked, write_beside
from audiotag.journal.fingerprint import differences, settings_of, short_json
from audiotag.journal.finished import quoted_rows, read_finished
from audiotag.journal.journaled_file import JournaledFile
from audiotag.journal.lines import Entry
from audiotag.journal.places import (
    Mode,
    check_output,
    forget_run,
    journal_path,
    provenance_path,
    side_path,
    write_provenance,
)

__all__ = [
    "Entry",
    "JournaledFile",
    "Mode",
    "check_output",
    "differences",
    "explained",
    "forget_run",
    "journal_path",
    "open_locked",
    "provenance_path",
    "quoted_rows",
    "read_finished",
    "settings_of",
    "short_json",
    "side_path",
    "write_beside",
    "write_provenance",
]
