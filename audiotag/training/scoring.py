"""Labelled clips and what a model says of them, through the same pipeline that users run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from audiotag.config import ModelConfig
from audiotag.errors import DataError, listed
from audiotag.labels import LabelSet
from audiotag.options import TagOptions
from audiotag.results import ClipResult, Failure
from audiotag.scores import ScoreArray
from audiotag.tagger import Tagger
from audiotag.training.dataset import LabelledClip, name_of

logger = logging.getLogger(__name__)


def with_known_labels(clips: Iterable[LabelledClip], labels: LabelSet) -> tuple[LabelledClip, ...]:
    """The clips with their labels as the model writes them: upper and lower case are alike."""

    def known(label: str) -> str:
        position = labels.position(label)
        return label if position is None else labels[position]

    return tuple(replace(clip, labels=tuple(dict.fromkeys(map(known, clip.labels)))) for clip in clips)


def tell_unknown_labels(clips: Iterable[LabelledClip], labels: LabelSet) -> None:
    """Warns of labels that the model does not know, before anything is scored.

    Raises:
        DataError: it knows none of them.
    """

    def suggested(label: str) -> str:
        near = labels.nearest(label)
        return f"{label!r} (did you mean {near[0]!r}?)" if near else repr(label)

    of_data = {label for clip in clips for label in clip.labels}
    unknown = sorted(of_data.difference(labels))
    if len(unknown) == len(of_data):
        shown = f": {listed(unknown, show=suggested)}" if unknown else ""
        raise DataError(f"no clip has a label that the model knows{shown}. `audiotag labels` lists them")
    if unknown:
        logger.warning("labels that the model does not know do not count: %s", listed(unknown, show=suggested))


def tell_learnt_clips(model: ModelConfig, data: Path, all_clips: Sequence[LabelledClip], *, fold: str | None) -> None:
    """Warns where the model seems to have learnt from clips that are to be measured, which makes its figures too good.

    Its data are told by their name and number of clips, with or without those that the training could not read. A
    refitted model has learnt from every fold.
    """
    made = model.provenance
    if made.get("data") != name_of(data):
        return
    n_read = made.get("n_clips", 0)
    if len(all_clips) not in (n_read, n_read + made.get("n_clips_unreadable", 0)):
        return
    if "refit" in made:
        logger.warning("the model has learnt from all of these clips: expect less on others")
    elif fold != (held_out := made.get("recipe", {}).get("fold")):
        logger.warning("the model has learnt from these clips but for a fold: --fold %s measures on that", held_out)


def score_clips(
    tagger: Tagger, clips: Sequence[LabelledClip], *, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[ScoreArray, list[LabelledClip]]:
    """Scores `[clip, class]` of the clips that could be read and had a sample at least, and those clips.

    Raises:
        DataError: there is no such clip.
    """
    options = TagOptions(top_k=0, threshold=0.0)
    position = {label: index for index, label in enumerate(tagger.config.labels)}
    rows, read = [], []
    results = tagger.tag_many((clip.path for clip in clips), options=options)
    for done, (clip, result) in enumerate(zip(clips, results, strict=True), start=1):
        if isinstance(result, ClipResult) and result.tags:
            row = np.zeros(len(position))
            row[[position[tag.label] for tag in result.tags]] = [tag.score for tag in result.tags]
            rows.append(row)
            read.append(clip)
        else:
            why = result.error if isinstance(result, Failure) else "holds no sound"
            logger.warning("left out: %s: %s", clip.path, why)
        on_progress(done, len(clips))
    if not rows:
        raise DataError("none of the clips could be read. `audiotag doctor FILE` says why")
    return np.stack(rows), read
