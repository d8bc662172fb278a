"""The run of `batch` and `events`: its inputs, its output, its summary."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from audiotag.cli import options
from audiotag.cli.interruption import interruptible
from audiotag.cli.options import record_of
from audiotag.cli.plan import seconds_to_tag, show_plan
from audiotag.cli.progress import Progress
from audiotag.cli.tagging import (
    InputOptions,
    as_many_as_fit,
    at_least_one,
    check_labels,
    explain_empty,
    say_summary,
    tag_all,
)
from audiotag.errors import UsageError
from audiotag.hub import resolve_model
from audiotag.inputs import Found, Input, Shard, in_shard, refuse_input_as_output
from audiotag.journal import JournaledFile, Mode, check_output, journal_path, read_finished
from audiotag.options import EngineOptions, TagOptions
from audiotag.writers import open_output, open_writer, pick_format

if TYPE_CHECKING:
    from audiotag.run import Sink, Tally
    from audiotag.tagger import Tagger

logger = logging.getLogger(__name__)


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
