"""The figures that a model folder says of itself: measured, and written into its configuration and its card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from audiotag.config import ModelConfig
from audiotag.errors import DataError
from audiotag.labels import LabelSet
from audiotag.model_card import write_model_card
from audiotag.model_folder import open_model_folder, write_configs
from audiotag.options import EngineOptions, PrecisionName
from audiotag.scores import ScoreArray
from audiotag.tagger import Tagger
from audiotag.training.dataset import LabelledClip, label_matrix
from audiotag.training.evaluation import Evaluation
from audiotag.training.measuring import N_RESAMPLES, measure
from audiotag.training.metrics import f1_thresholds
from audiotag.training.negatives import negative_scores, negatives_tagged
from audiotag.training.scoring import score_clips

LEAST_DEFAULT_THRESHOLD = 0.35  # a tag shown without being asked for is not to be wrong two times in three
MOST_DEFAULT_THRESHOLD = 0.9  # that a sound without anything to name can ask for: every label can still be shown
NEGATIVE_MARGIN = 0.01  # of a default threshold above every such sound
MOST_OUTSIDE_TAGGED = 0.05  # share of the clips with no label of the model that may get a tag
LEAST_OUTSIDE_CLIPS = 20  # from where one of them is not more than that share
# Of the sounds that thresholds are raised above; how many are tagged is measured on others.
SEED_OF_NEGATIVES: dict[PrecisionName, int] = {"fp32": 1, "int8": 2}
THRESHOLD_DIGITS = 3
PRECISIONS: tuple[PrecisionName, ...] = ("fp32", "int8")


@dataclass(frozen=True, kw_only=True)
class Subset:
    """A known task within the data: choosing among `labels` on the clips of `sources` (empty: of all)."""

    name: str
    labels: tuple[str, ...]
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Scored:
    """Scores `[clip, class]` of one precision, the clips they are of, and how many clips could not be read."""

    scores: ScoreArray
    clips: list[LabelledClip]
    n_failed: int


def measure_model(
    folder: Path, model: ModelConfig, clips: Sequence[LabelledClip], *, subsets: Sequence[Subset] = ()
) -> ModelConfig:
    """Measures the float32 and the int8 file of a model folder on held-out clips, and writes what was found.

    The figures, the default thresholds, what int8 costs, and how often sounds without anything to name get a tag go
    into `config.json`; the model card is written from them. A subset that the clips or the model do not have is left
    out.
    """
    scored = {precision: _score(_tagger(folder, precision), clips) for precision in PRECISIONS}
    negatives = _negative_scores(folder)
    thresholds = default_thresholds(scored["fp32"].scores, scored["fp32"].clips, model.labels, negatives)
    model = replace(model, thresholds=thresholds)
    exact, quantised = (
        _measure(scored[precision], model, n_resamples=N_RESAMPLES if precision == "fp32" else 0)
        for precision in PRECISIONS
    )
    loss = round(100 * max(0.0, exact.macro_map - quantised.macro_map), 3)
    write_configs(folder, model)  # for the thresholds that the negatives meet
    metrics = {
        **model.metrics,
        "fp32": exact.figures(),
        "int8": {name: value for name, value in quantised.figures().items() if name != "per_label"},
        "subsets": [found for subset in subsets if (found := _measure_subset(subset, scored, model)) is not None],
        "outside": _outside_tagged(scored, model),
        "negatives": _negatives_tagged(folder),
    }
    model = replace(model, int8_map_loss=loss, metrics=metrics)
    write_configs(folder, model)
    write_model_card(folder, model)
    return model


def measure_negatives(folder: Path, model: ModelConfig) -> ModelConfig:
    """Measures a model folder on sounds without anything to name only, and keeps its other figures.

    Default thresholds are raised above such sounds, as `measure_model` does. Configuration and card are written.
    """
    write_configs(folder, model)
    thresholds = _rounded(_above_negatives(np.array(model.thresholds), _negative_scores(folder)))
    write_configs(folder, replace(model, thresholds=thresholds))
    metrics = {**model.metrics, "negatives": _negatives_tagged(folder)}
    model = replace(model, thresholds=thresholds, metrics=metrics)
    write_configs(folder, model)
    write_model_card(folder, model)
    return model


def default_thresholds(
    scores: ScoreArray, clips: Sequence[LabelledClip], labels: Sequence[str], negatives: ScoreArray
) -> tuple[float, ...]:
    """The threshold of each label that is shown without being asked for.

    The one for F1, but none below `LEAST_DEFAULT_THRESHOLD`; raised above what sounds without anything to name reach,
    and to where at most `MOST_OUTSIDE_TAGGED` of the clips with no label of the model get a tag. Neither has a place in
    F1 on labelled clips, but people have both.

    Shape: scores `[clip, class]`, negatives `[sound, class]`.
    """
    targets = label_matrix(clips, labels)
    thresholds = np.maximum(f1_thresholds(scores, targets), LEAST_DEFAULT_THRESHOLD)
    thresholds = _above_negatives(thresholds, negatives)
    outside = scores[~targets.any(axis=1)]
    if len(outside) >= LEAST_OUTSIDE_CLIPS:
        thresholds = np.maximum(thresholds, _least_for_outside(outside, thresholds))
    return _rounded(thresholds)


def _least_for_outside(outside: ScoreArray, thresholds: ScoreArray) -> float:
    """The least threshold of all labels for `MOST_OUTSIDE_TAGGED`: one number, because few clips cannot choose many."""
    strongest_tags = np.sort(np.where(outside >= thresholds, outside, 0.0).max(axis=1))[::-1]
    least = strongest_tags[int(MOST_OUTSIDE_TAGGED * len(outside))] + NEGATIVE_MARGIN
    return float(min(least, MOST_DEFAULT_THRESHOLD))


def _above_negatives(thresholds: ScoreArray, negatives: ScoreArray) -> ScoreArray:
    return np.asarray(
        np.maximum(thresholds, np.minimum(negatives.max(axis=0) + NEGATIVE_MARGIN, MOST_DEFAULT_THRESHOLD))
    )


def _rounded(thresholds: ScoreArray) -> tuple[float, ...]:
    return tuple(round(float(value), THRESHOLD_DIGITS) for value in thresholds)


def _outside_tagged(scored: dict[PrecisionName, _Scored], model: ModelConfig) -> dict[str, Any]:
    """Share (0 to 1) of the clips with no label of the model that get a tag by default, and how many they are."""
    found: dict[str, Any] = {}
    for precision, each in scored.items():
        is_outside = ~label_matrix(each.clips, model.labels).any(axis=1)
        found["n_clips"] = int(is_outside.sum())
        if found["n_clips"]:
            tagged = (each.scores[is_outside] >= model.thresholds).any(axis=1)
            found[precision] = round(float(tagged.mean()), 6)
    return found


def _negative_scores(folder: Path) -> ScoreArray:
    """Scores `[sound, class]` that thresholds are raised above."""
    found = [negative_scores(_tagger(folder, precision), seed=seed) for precision, seed in SEED_OF_NEGATIVES.items()]
    return np.concatenate(found)


def _negatives_tagged(folder: Path) -> dict[str, dict[str, float]]:
    return negatives_tagged({precision: _tagger(folder, precision) for precision in PRECISIONS})


def _score(tagger: Tagger, clips: Sequence[LabelledClip]) -> _Scored:
    scores, read = score_clips(tagger, clips)
    return _Scored(scores, read, n_failed=len(clips) - len(read))


def _measure(scored: _Scored, model: ModelConfig, *, n_resamples: int) -> Evaluation:
    return measure(scored.scores, scored.clips, model, n_failed=scored.n_failed, n_resamples=n_resamples)


def _measure_subset(subset: Subset, scored: dict[PrecisionName, _Scored], model: ModelConfig) -> dict[str, Any] | None:
    if not set(subset.labels) <= set(model.labels):
        return None
    among = LabelSet(model.labels).select(subset.labels)
    found: dict[str, Any] = {"name": subset.name, "labels": list(subset.labels)}
    for precision, each in scored.items():
        rows = [
            row for row, clip in enumerate(each.clips) if not subset.sources or clip.credit.source in subset.sources
        ]
        try:
            measured = measure(each.scores[rows], [each.clips[row] for row in rows], model, among=among)
        except DataError:
            return None
        choice = measured.to_dict()["among"]
        found |= {
            "n_clips": choice["n_clips"],
            precision: {"top1": choice["top1"], "top1_interval": choice["interval"]},
        }
    return found


def _tagger(folder: Path, precision: PrecisionName) -> Tagger:
    return Tagger(open_model_folder(folder), options=EngineOptions(device="cpu", engine="onnx", precision=precision))
