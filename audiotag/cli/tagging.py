"""What the commands that tag share: their inputs, what is refused beforehand, tagging with progress, the last lines."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from audiotag.cli.progress import Progress
from audiotag.cli.status import counted, length_of, real_time, say
from audiotag.errors import NoInputsError, UsageError
from audiotag.inputs import Found, Input, find_inputs, sources_of
from audiotag.labels import LabelSet
from audiotag.model_folder import ModelFolder
from audiotag.options import TagOptions
from audiotag.results import Failure, Result
from audiotag.writers import FORMATS

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
