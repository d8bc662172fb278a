"""From the arguments of a run to its inputs, lazily and in a stable order; nothing is opened here.

Folders are walked in the byte order of their names, one sorted folder of each depth in memory. One that cannot be read
is an input too, which fails when it is opened: nobody knows what is in it. Names that are not UTF-8 travel as surrogate
escapes (PEP 383). Neighbours: `audio` opens what this finds, `results` shows its paths.
"""

from audiotag.inputs.finding import find_inputs, path_order
from audiotag.inputs.found import (
    Found,
    Input,
    Skipped,
    is_read_once,
    open_stdin,
    refuse_input_as_output,
    sources_of,
)
from audiotag.inputs.shards import Shard, in_shard, parse_shard

__all__ = [
    "Found",
    "Input",
    "Shard",
    "Skipped",
    "find_inputs",
    "in_shard",
    "is_read_once",
    "open_stdin",
    "parse_shard",
    "path_order",
    "refuse_input_as_output",
    "sources_of",
]
