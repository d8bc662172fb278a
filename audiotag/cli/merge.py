"""`audiotag merge`: the outputs of all shards of a run into one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from audiotag.cli import options
from audiotag.cli.status import counted, length_of, say


def merge(
    outputs: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="What `batch` or `events` wrote with --shard I/N.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="Write to this file; its suffix is the shards'.")
    ],
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Join the outputs of all shards of a run. They are CSV, TSV, NDJSON or JSON, with FILE.run.json beside each.

    A missing, doubled, unfinished or changed shard, or one of another model or other options, is refused.

    Example: audiotag merge tags.1.csv tags.2.csv --out tags.csv
    """
    from audiotag.merge import merge as merge_outputs

    whole = merge_outputs(outputs, out, mode="overwrite" if overwrite else "new")
    if not quiet:
        counts = ", ".join(f"{number:,} {status}" for status, number in whole["inputs"].items())
        n_shards, length = counted(len(outputs), "shard"), length_of(whole["seconds_of_audio"])
        say(f"{n_shards}: {counts}; {length} of audio")
