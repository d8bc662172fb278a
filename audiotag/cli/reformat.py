"""`audiotag reformat`: the results of a finished run in another format."""

from __future__ import annotations

from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Annotated

import typer

from audiotag.cli import options
from audiotag.cli.status import counted, say
from audiotag.errors import DataError
from audiotag.inputs import open_stdin
from audiotag.writers import open_output, pick_format


def reformat(
    results: Annotated[str, typer.Argument(metavar="RESULTS", help="What --format ndjson or json wrote; - for stdin.")],
    out: options.Out = None,
    form: options.Format = None,
    header: options.Header = False,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Write finished results in another format. Nothing is tagged again.

    Example: audiotag reformat tags.ndjson --out tags.csv
    """
    name = pick_format(form, out, header=header)
    from audiotag.journal import check_output, forget_run, journal_path, write_beside
    from audiotag.reformat import reformat as run

    path = None if results == "-" else Path(results)
    if path is not None and journal_path(path).exists():
        raise DataError(f"{path}: holds an unfinished run. Finish it with --resume first")
    if out is not None:
        check_output(out, "overwrite" if overwrite else "new")
    try:
        with BufferedReader(open_stdin()) if path is None else path.open("rb") as lines:
            write = partial(run, lines, "stdin" if path is None else str(path), form=name, with_header=header)
            if out is None:
                with open_output(None) as output:
                    write(output)
                return
            counts: list[int] = []
            write_beside(out, lambda output: counts.append(write(output)), before_replacing=lambda *_: forget_run(out))
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise DataError(f"{results}: {error.strerror}. Give a file that audiotag wrote") from error
    if not quiet:
        say(f"audiotag: {counted(counts[0], 'result')} in {out}")
