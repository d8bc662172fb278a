"""What the commands that tag share, and the run of `batch` and `events`: its inputs, its output, its summary."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from audiotag.cli import options
from audiotag.cli.interruption import interruptible
from audiotag.cli.options import record_of
from audiotag.cli.plan import seconds_to_tag, show_plan
from audiotag.cli.progress import Progress
from audiotag.cli.status import counted, length_of, real_time, say
from audiotag.errors import NoInputsError, UsageError
from audiotag.hub import resolve_model
from audiotag.inputs import Found, Input, Shard, find_inputs, in_shard, refuse_input_as_output, sources_of
from audiotag.journal import JournaledFile, Mode, check_output, journal_path, read_finished
from audiotag.labels import LabelSet
from audiotag.model_folder import ModelFolder
from audiotag.options import EngineOptions, TagOptions
from audiotag.results import Failure, Result
from audiotag.writers import FORMATS, open_output, open_writer, pick_format

if TYPE_CHECKING:
    from audiotag.run import Sink, Tally
    from audiotag.tagger import Tagger

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class InputOptions:
    """Where a run gets its inputs; each field is a parameter of the command."""

    inputs: tuple[str, ...] | None
    files_from: str | None
    null: bool
    include: tuple[str, ...]
    exclude: tuple[str, ...]

    def check(self) -> None:
        """Refuses a command line without inputs.

        Raises:
            UsageError: it has none.
        """
        if not self.inputs and self.files_from is None:
            raise UsageError("no INPUT was given. Name files or folders, or a list with --files-from")

    def find(self) -> Iterator[Found]:
        """The inputs, and what is skipped."""
        return self._find(self.files_from)

    def lists(self) -> tuple[Path, ...]:
        """The file of --files-from, unless there is none or it is stdin."""
        return () if self.files_from in (None, "-") else (Path(self.files_from),)

    @property
    def can_be_found_again(self) -> bool:
        """Whether they can be told beforehand: a list in a pipe can be read only once."""
        return self.files_from is None or any(map(Path.is_file, self.lists()))

    def sources(self) -> Iterator[Path]:
        """The files that are read, as far as they can be told beforehand."""
        return chain(self.lists(), sources_of(self._find(self.files_from if self.can_be_found_again else None)))

    def _find(self, files_from: str | None) -> Iterator[Found]:
        return find_inputs(
            self.inputs or (), include=self.include, exclude=self.exclude, files_from=files_from, null=self.null
        )


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What becomes of a run's results, and how it behaves; each field is a parameter of the command."""

    shard: Shard | None
    out: Path | None
    form: str | None
    header: bool
    resume: bool
    overwrite: bool
    strict: bool
    dry_run: bool
    progress: bool
    model: str | None
    offline: bool
    update: bool
    quiet: bool
    verbose: bool

    @property
    def mode(self) -> Mode:
        """What becomes of an output that exists.

        Raises:
            UsageError: the options contradict each other.
        """
        if self.resume and self.overwrite:
            raise UsageError("resume and overwrite: contradict each other. Leave out one of the two")
        if self.out is None and (self.resume or self.overwrite):
            name = "resume" if self.resume else "overwrite"
            raise UsageError(f"{name}: there is no file without --out. Add --out FILE")
        return "resume" if self.resume else "overwrite" if self.overwrite else "new"


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


def _without_skipped(found: Iterator[Found]) -> Iterator[Input]:
    for item in found:
        if isinstance(item, Input):
            yield item
        else:
            logger.info("%s: skipped: %s", item.path, item.reason)


def as_many_as_fit(name: str, inputs: Iterator[Input]) -> Iterator[Input]:
    """The inputs, if the format `name` can hold them all: a writer would refuse the second when the first is tagged.

    Raises:
        UsageError: it holds one, and there are several.
    """
    if not FORMATS[name].is_of_one_input:
        return inputs
    first_two = list(islice(inputs, 2))
    if len(first_two) > 1:
        raise UsageError(f"format {name}: a file of it belongs to one input. Use raven or csv for several")
    return iter(first_two)


def run_batch(context: typer.Context, tag_options: TagOptions) -> int:
    """Tags as the command line says that `context` holds; gives the exit code."""
    run, inputs = record_of(RunOptions, context), record_of(InputOptions, context)
    engine_options = record_of(EngineOptions, context)
    options.set_verbosity(quiet=run.quiet, verbose=run.verbose)
    form = pick_format(run.form, run.out, header=run.header)
    inputs.check()
    mode = run.mode
    if run.out is not None and not run.dry_run:
        check_output(run.out, mode)
    folder = resolve_model(run.model, update=run.update, offline=run.offline, engine=engine_options)
    check_labels(tag_options, folder)
    if run.dry_run:
        return show_plan(inputs.find(), folder, tag_options, engine_options, shard=run.shard)
    if mode == "overwrite":
        refuse_input_as_output(run.out, inputs.sources())
    found = as_many_as_fit(form, in_shard(at_least_one(inputs.find()), run.shard))
    from audiotag.tagger import Tagger

    tagger = Tagger(folder, options=engine_options)
    session = _prepare(run, inputs, form=form, tag_options=tag_options, tagger=tagger)
    with interruptible(session.tally, run.out), session.progress:
        session.tag(found)
    if not run.quiet:
        explain_empty(session.tally.n_empty, session.tally.n_inputs, tag_options)
        say_summary(session.tally, session.progress)
    return session.tally.exit_code


@dataclass(frozen=True, kw_only=True)
class _Session:
    """A run that is ready to begin."""

    run: RunOptions
    form: str  # the output's, also where it was not named
    tag_options: TagOptions
    tagger: Tagger
    tally: Tally
    progress: Progress
    count: Callable[[], Iterable[Found]] | None  # finds the inputs once more; None where that cannot be done

    def tag(self, found: Iterable[Input]) -> None:
        """Tags what was found, into the file of --out or to stdout."""
        header = self.tagger.run_header(self.tag_options)
        if self.run.shard is not None:
            header["shard"] = str(self.run.shard)
        if self.run.out is None:
            self._to_stdout(found, header)
        else:
            self._to_file(found, self.run.out, header)

    def _to_stdout(self, found: Iterable[Input], header: dict[str, Any]) -> None:
        from audiotag.run import Stream

        with open_output(None) as output:
            writer = open_writer(self.form, output, header=header, asked_for_header=self.run.header)
            writer.begin()
            self._tag(found, Stream(writer))
            writer.end()

    def _to_file(self, found: Iterable[Input], out: Path, header: dict[str, Any]) -> None:
        mode, with_header = self.run.mode, self.run.header
        was_finished = mode == "resume" and out.exists() and not journal_path(out).exists()
        if was_finished:
            was = read_finished(out, form=self.form, header=header, with_header=with_header)
            if was is not None:
                self._take_counts(was, out)
                return
        with closing(JournaledFile(out, form=self.form, header=header, with_header=with_header, mode=mode)) as file:
            if file.finish_earlier() is None:
                if self.count is not None:
                    named = (item.path for item in self.count() if isinstance(item, Input))
                    file.check_inputs(named, was_finished=was_finished)
                self._tag(found, file)
                file.finish(self.tally.to_dict())
                return
        # It is a finished one now, which may be added to.
        self._to_file(found, out, header)

    def _take_counts(self, was: dict[str, Any], out: Path) -> None:
        logger.warning("%s: is finished already; nothing was done. Inputs added since need --overwrite", out)
        counts = was["inputs"]
        self.tally.n_ok, self.tally.n_empty, self.tally.n_failed = counts["ok"], counts["empty"], counts["failed"]
        self.tally.seconds = was["seconds_of_audio"]

    def _tag(self, found: Iterable[Input], sink: Sink) -> None:
        tag_all(
            self.tagger, found, sink,
            tag_options=self.tag_options, tally=self.tally, progress=self.progress, strict=self.run.strict,
        )  # fmt: skip


def _prepare(
    run: RunOptions, inputs: InputOptions, *, form: str, tag_options: TagOptions, tagger: Tagger
) -> _Session:
    from audiotag.run import Tally

    tally, count = Tally(), (lambda: in_shard(inputs.find(), run.shard)) if inputs.can_be_found_again else None
    progress = Progress(
        tally, count, to_tag=partial(seconds_to_tag, tag_options=tag_options),
        shown=run.progress and not run.quiet, among_results=run.out is None and sys.stdout.isatty(),
    )  # fmt: skip
    return _Session(
        run=run, form=form, tag_options=tag_options, tagger=tagger, tally=tally, progress=progress, count=count
    )


def tag_all(
    tagger: Tagger,
    found: Iterable[Input],
    sink: Sink,
    *,
    tag_options: TagOptions,
    tally: Tally,
    progress: Progress,
    strict: bool = False,
) -> None:
    """Tags what was found; stderr tells of progress and of trouble."""
    from audiotag.run import run

    def on_input(given: Input, results: tuple[Result, ...]) -> None:
        warn_of_trouble(results[0])
        progress.add_input(given)

    run(
        tagger, found, sink, options=tag_options, tally=tally, strict=strict,
        on_seconds=progress.add_seconds, on_input=on_input,
    )  # fmt: skip


def warn_of_trouble(result: Result) -> None:
    """Says what was wrong with an input."""
    trouble = result.error if isinstance(result, Failure) else result.warning
    if trouble is not None:
        logger.warning("%s: %s", result.path, trouble)


def explain_empty(n_empty: int, n_inputs: int, tag_options: TagOptions) -> None:
    """Tells people why there is nothing to see, and what to do."""
    if not n_empty:
        return
    how_many = f"{n_empty:,} of {counted(n_inputs, 'input')}"
    # The mean of many windows hides a short sound. With -t 0 all of an input would be one event.
    weaker, short = "-t 0 shows the likeliest labels", "`audiotag events` finds short sounds in long recordings"
    way_out = "A lower -t shows weaker ones" if tag_options.events is not None else f"{weaker}; {short}"
    say(f"audiotag: no label reached its threshold in {how_many}. {way_out}")


def say_summary(tally: Tally, progress: Progress) -> None:
    """The last line of a run: how its inputs ended, and how fast."""
    counts = f"{tally.n_ok:,} ok, {tally.n_empty:,} empty, {tally.n_failed:,} failed"
    # An earlier session may have done everything, and what failed has no seconds.
    speed = f", {real_time(progress.seconds, progress.elapsed)}" if progress.seconds else ""
    say(f"{counts}; {length_of(tally.seconds)} of audio{speed}")
