"""Resume: what is done, under which parameters, up to which byte."""

from audiotag.journal.journaled_file import (
    Entry,
    JournaledFile,
    Mode,
    check_output,
    differences,
    journal_path,
    provenance_path,
    quoted_rows,
    read_finished,
    settings_of,
    short_json,
    side_path,
    write_beside,
    write_provenance,
)

__all__ = [
    "Entry",
    "JournaledFile",
    "Mode",
    "check_output",
    "differences",
    "journal_path",
    "provenance_path",
    "quoted_rows",
    "read_finished",
    "settings_of",
    "short_json",
    "side_path",
    "write_beside",
    "write_provenance",
]
