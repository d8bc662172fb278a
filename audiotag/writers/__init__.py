"""Results as text or Parquet: one writer for each format, all into an `Output`.

    result --rows--> rows --separated, tracks, parquet, table--> bytes --output--> file or stdout
    result --json_lines--> bytes --output--> file or stdout

A writer takes `results` one by one and flushes each, so that a reader of the pipe or of the file sees it at once;
`writer` says what one is, and `formats` holds the one table of them. Rich and pyarrow are imported only where the table
and Parquet are written. Neighbours: `results` are what is written, `journal` vouches for written bytes.
"""

from audiotag.writers.formats import FORMATS, name_of_suffix, open_writer, pick_format
from audiotag.writers.output import Output, open_output, output_error
from audiotag.writers.table import visible
from audiotag.writers.writer import Writer, run_header

__all__ = [
    "FORMATS",
    "Output",
    "Writer",
    "name_of_suffix",
    "open_output",
    "open_writer",
    "output_error",
    "pick_format",
    "run_header",
    "visible",
]
