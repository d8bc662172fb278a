"""`audiotag report`: the events of a few inputs or of folders as one page to look at and to listen to."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from audiotag.cli import options
from audiotag.cli.options import ENGINE, EVENT, TAG, record_of
from audiotag.cli.plan import seconds_to_tag
from audiotag.cli.progress import Progress
from audiotag.cli.status import StatusLine
from audiotag.cli.tagging import InputOptions, at_least_one, check_labels, explain_empty, say_summary, tag_all
from audiotag.errors import UsageError
from audiotag.hub import resolve_model
from audiotag.inputs import Input, is_read_once, refuse_input_as_output, sources_of
from audiotag.journal import check_output, write_beside
from audiotag.options import EngineOptions, EventOptions, TagOptions
from audiotag.results import Result
from audiotag.writers import Output, open_output

if TYPE_CHECKING:
    from audiotag.tagger import Tagger

_Drawn = TypeVar("_Drawn")

SUFFIXES = (".html", ".htm")
MOST_EXCERPTS = 200  # in one page; with sound about 12 kB a second


def report(
    context: typer.Context,
    inputs: options.SomeFiles = None,
    out: options.Out = None,
    overwrite: options.Overwrite = False,
    max_excerpts: Annotated[
        int, typer.Option("--max-excerpts", metavar="N", min=1, help="Show the N likeliest excerpts, at most.")
    ] = MOST_EXCERPTS,
    sound: Annotated[bool, typer.Option("--sound/--no-sound", help="Put the sound of excerpts into the page.")] = True,
    threshold: options.Threshold = TAG.threshold,
    thresholds: options.Thresholds = None,
    include_labels: options.IncludeLabels = options.NO_NAMES,
    exclude_labels: options.ExcludeLabels = options.NO_NAMES,
    min_duration: options.MinDuration = EVENT.min_duration,
    max_gap: options.MaxGap = EVENT.max_gap,
    hop: options.EventHop = TAG.hop,
    channels: options.Channels = TAG.channels,
    start: options.Start = TAG.start,
    duration: options.Duration = TAG.duration,
    progress: options.ShowProgress = True,
    files_from: options.FilesFrom = None,
    null: options.Null = False,
    include: options.Include = options.NO_NAMES,
    exclude: options.Exclude = options.NO_NAMES,
    model: options.Model = None,
    device: options.Device = ENGINE.device,
    engine: options.Engine = ENGINE.engine,
    precision: options.Precision = ENGINE.precision,
    batch_size: options.BatchSize = ENGINE.batch_size,
    workers: options.Workers = ENGINE.workers,
    threads: options.Threads = ENGINE.threads,
    offline: options.Offline = False,
    update: options.Update = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Make one page to look at and to listen to. It holds pictures and sound of the events in recordings.

    Example: audiotag report recordings --out night.html
    """
    options.set_verbosity(quiet=quiet, verbose=verbose)
    tag_options = replace(record_of(TagOptions, context), events=record_of(EventOptions, context))
    engine_options = record_of(EngineOptions, context)
    _check_output(out, overwrite=overwrite)
    named = record_of(InputOptions, context)
    named.check()
    found = list(at_least_one(named.find()))
    _check_inputs(found, channels)
    refuse_input_as_output(out, chain(named.lists(), sources_of(found)))
    folder = resolve_model(model, update=update, offline=offline, engine=engine_options)
    check_labels(tag_options, folder)
    from audiotag.run import Stream, Tally
    from audiotag.tagger import Tagger

    tagger, tally, kept = Tagger(folder, options=engine_options), Tally(), _Kept()
    to_tag = partial(seconds_to_tag, tag_options=tag_options)
    with Progress(tally, lambda: found, to_tag=to_tag, shown=progress and not quiet) as shown:
        tag_all(tagger, found, Stream(kept), tag_options=tag_options, tally=tally, progress=shown)
    status = StatusLine(quiet=quiet or not progress)
    _write(_page(tagger, found, tag_options, kept.results, status, most=max_excerpts, sound=sound), out)
    if not quiet:
        explain_empty(tally.n_empty, tally.n_inputs, tag_options)
        say_summary(tally, shown)
    return tally.exit_code


def _check_output(out: Path | None, *, overwrite: bool) -> None:
    if out is not None and out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{out}: a report is a page for a browser. Give --out a name that ends in .html")
    if out is not None:
        check_output(out, "overwrite" if overwrite else "new")
    elif overwrite:
        raise UsageError("overwrite: there is no file without --out. Add --out FILE")
    elif sys.stdout.isatty():
        raise UsageError("a report is a page for a browser, not for a terminal. Add --out FILE.html")


def _check_inputs(found: list[Input], channels: str) -> None:
    given = next(filter(is_read_once, found), None)
    if given is not None:
        name = "stdin" if given.source is None else given.path
        raise UsageError(f"{name}: can be read only once, and a report needs its audio twice. Save it to a file first")
    if channels == "each":
        raise UsageError("channels 'each' gives several results. Make a report of each channel: --channels 0, 1, ...")


def _page(
    tagger: Tagger,
    found: list[Input],
    tag_options: TagOptions,
    results: list[Result],
    status: StatusLine,
    *,
    most: int,
    sound: bool,
) -> Iterator[str]:
    from audiotag.report import excerpts_of, page_of, render

    excerpts, count = excerpts_of(results, most=most)
    sources = {given.path: given.source for given in found if given.source is not None}
    rendered = render(
        excerpts, sources, tagger.config.frontend,
        channels=tag_options.channels, sound=sound, workers=tagger.options.workers,
    )  # fmt: skip
    told = _told(rendered, len(excerpts), status)
    n_excerpts = (len(excerpts), count)
    return page_of(results, told, header=tagger.run_header(tag_options), n_excerpts=n_excerpts, sound=sound)


def _told(rendered: Iterator[_Drawn], count: int, status: StatusLine) -> Iterator[_Drawn]:
    """What passes, with a line that says how many have."""
    for number, drawn in enumerate(rendered, start=1):
        status.show(f"excerpts {number}/{count}", keep=number == count)
        yield drawn


@dataclass
class _Kept:
    """A writer that keeps what it gets."""

    results: list[Result] = field(default_factory=list)

    def begin(self) -> None:
        """Nothing comes before the first result."""

    def write(self, result: Result) -> None:
        """Keeps a result."""
        self.results.append(result)

    def end(self) -> None:
        """Nothing comes after the last result."""


def _write(page: Iterator[str], out: Path | None) -> None:
    def write(output: Output) -> None:
        for piece in page:
            output.write(piece.encode())

    if out is not None:
        write_beside(out, write)
        return
    with open_output(None) as output:
        write(output)
