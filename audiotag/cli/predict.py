"""`audiotag predict`: tags a few inputs, the answer on stdout."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import chain, islice

import typer

from audiotag.cli import options
from audiotag.cli.options import ENGINE, TAG, record_of
from audiotag.cli.status import counted, say
from audiotag.errors import ExitCode, NoInputsError, UsageError
from audiotag.hub import resolve_model
from audiotag.inputs import Found, Input, find_inputs, refuse_input_as_output, sources_of
from audiotag.labels import LabelSet
from audiotag.model_folder import ModelFolder
from audiotag.options import EngineOptions, TagOptions
from audiotag.results import Failure, Result, Status
from audiotag.writers import FORMATS, Writer, open_output, open_writer, pick_format

logger = logging.getLogger(__name__)


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


def explain_empty(n_empty: int, n_inputs: int, tag_options: TagOptions) -> None:
    """Tells people why there is nothing to see, and what to do."""
    if not n_empty:
        return
    how_many = f"{n_empty:,} of {counted(n_inputs, 'input')}"
    # The mean of many windows hides a short sound. With -t 0 all of an input would be one event.
    weaker, short = "-t 0 shows the likeliest labels", "`audiotag events` finds short sounds in long recordings"
    way_out = "A lower -t shows weaker ones" if tag_options.events is not None else f"{weaker}; {short}"
    say(f"audiotag: no label reached its threshold in {how_many}. {way_out}")


def check_labels(tag_options: TagOptions, folder: ModelFolder) -> None:
    """Refuses an option that names a label which the model does not know, before anything heavy is imported.

    Raises:
        UsageError: there is one.
    """
    labels = LabelSet(folder.config.labels)
    labels.select(tag_options.include_labels, tag_options.exclude_labels)
    labels.fill(tag_options.thresholds or {}, folder.config.thresholds)


def at_least_one(found: Iterator[Found]) -> Iterator[Input]:
    """The inputs among what was found; what was skipped is noted.

    Raises:
        NoInputsError: there is none.
    """
    inputs = _without_skipped(found)
    first = next(inputs, None)
    if first is None:
        raise NoInputsError("no inputs: there is no audio or video in what was named. Check it, or see why with -v")
    return chain([first], inputs)


def as_many_as_fit(name: str, inputs: Iterator[Input]) -> Iterator[Input]:
    """The inputs, if an output of the format `name` can hold them all. A writer would refuse the second one only then.

    Raises:
        UsageError: it holds one, and there are several.
    """
    if not FORMATS[name].is_of_one_input:
        return inputs
    first_two = list(islice(inputs, 2))
    if len(first_two) > 1:
        raise UsageError(f"format {name}: a file of it belongs to one input. Use raven or csv for several")
    return iter(first_two)


def _without_skipped(found: Iterator[Found]) -> Iterator[Input]:
    for item in found:
        if isinstance(item, Input):
            yield item
        else:
            logger.info("%s: skipped: %s", item.path, item.reason)


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


def warn_of_trouble(result: Result) -> None:
    """Says what was wrong with an input."""
    trouble = result.error if isinstance(result, Failure) else result.warning
    if trouble is not None:
        logger.warning("%s: %s", result.path, trouble)
