"""`audiotag predict`: tags a few inputs, the answer on stdout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import typer

from audiotag.cli import options
from audiotag.cli.options import ENGINE, TAG, record_of
from audiotag.cli.tagging import as_many_as_fit, at_least_one, check_labels, explain_empty, warn_of_trouble
from audiotag.errors import ExitCode
from audiotag.hub import resolve_model
from audiotag.inputs import find_inputs, refuse_input_as_output, sources_of
from audiotag.options import EngineOptions, TagOptions
from audiotag.results import Result, Status
from audiotag.writers import FORMATS, Writer, open_output, open_writer, pick_format


def predict(
    context: typer.Context,
    inputs: options.Inputs,
    model: options.Model = None,
    top_k: options.TopK = TAG.top_k,
    threshold: options.Threshold = TAG.threshold,
    thresholds: options.Thresholds = None,
    include_labels: options.IncludeLabels = options.NO_NAMES,
    exclude_labels: options.ExcludeLabels = options.NO_NAMES,
    windows: options.Windows = TAG.windows,
    hop: options.Hop = TAG.hop,
    max_windows: options.MaxWindows = TAG.max_windows,
    aggregate: options.Aggregate = TAG.aggregate,
    channels: options.Channels = TAG.channels,
    start: options.Start = TAG.start,
    duration: options.Duration = TAG.duration,
    device: options.Device = ENGINE.device,
    engine: options.Engine = ENGINE.engine,
    precision: options.Precision = ENGINE.precision,
    batch_size: options.BatchSize = ENGINE.batch_size,
    workers: options.Workers = ENGINE.workers,
    threads: options.Threads = ENGINE.threads,
    form: options.Format = None,
    out: options.Out = None,
    header: options.Header = False,
    offline: options.Offline = False,
    update: options.Update = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Tag a few files or folders; the answer goes to stdout.

    Example: audiotag predict dog.wav --top-k 3
    """
    options.set_verbosity(quiet=quiet, verbose=verbose)
    tag_options, engine_options = record_of(TagOptions, context), record_of(EngineOptions, context)
    name = pick_format(form, out, header=header)
    refuse_input_as_output(out, sources_of(find_inputs(inputs)))
    folder = resolve_model(model, update=update, offline=offline, engine=engine_options)
    check_labels(tag_options, folder)
    found = as_many_as_fit(name, at_least_one(find_inputs(inputs)))
    with open_output(out) as output:
        from audiotag.tagger import Tagger

        tagger = Tagger(folder, options=engine_options)
        needs_header = FORMATS[name].has_header(asked=header)
        writer = open_writer(
            name, output, header=tagger.run_header(tag_options) if needs_header else {}, asked_for_header=header
        )
        with closing(tagger.tag_many(found, options=tag_options)) as results:
            counts = _write(results, writer, tells=name != "table")
    if name == "table" and not quiet:
        explain_empty(counts["empty"], counts.total(), tag_options)
    return ExitCode.SOME_FAILED if counts["failed"] else ExitCode.OK


def _write(results: Iterator[Result], writer: Writer, *, tells: bool) -> Counter[Status]:
    """Writes the results and counts how they ended; with `tells` stderr gets a line about each trouble too."""
    counts: Counter[Status] = Counter()
    writer.begin()
    for result in results:
        writer.write(result)
        counts[result.status] += 1
        if tells:
            warn_of_trouble(result)
    writer.end()
    return counts
