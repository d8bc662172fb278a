"""How good a model is on labelled clips, measured through the same pipeline that users run."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from audiotag.config import ModelConfig
from audiotag.errors import DataError, listed
from audiotag.labels import LabelSet
from audiotag.options import TagOptions
from audiotag.results import SCORE_DIGITS, ClipResult, Failure
from audiotag.scores import ScoreArray
from audiotag.tagger import Tagger
from audiotag.training.dataset import LabelledClip, label_matrix, name_of
from audiotag.training.hierarchy import ancestors_of_labels
from audiotag.training.metrics import (
    at_threshold,
    average_precisions,
    best_f1_threshold,
    bootstrap,
    expected_calibration_error,
    f1_thresholds,
    hit_rate,
    micro_map,
    weighted_average_precisions,
)

logger = logging.getLogger(__name__)

Interval = tuple[float, float]

N_RESAMPLES = 1000  # bootstrap samples
RESAMPLING_SEED = 0
NORMAL_QUANTILE = 1.96  # deviations on each side of a 95 % interval
FEWEST_GROUPS = 3  # that a label needs for an interval: two can be drawn in three ways only
N_CONFUSIONS = 30
N_WORST = 20
N_SAID = 3  # labels that a worst clip's entry shows


@dataclass(frozen=True, kw_only=True)
class LabelMeasure:
    """What was measured of one label; shares are 0 to 1.

    `precision`, `recall` and `f1` are those at `threshold`, the best one on these very clips; `suggested_threshold` is
    the one that holds for others too (`metrics.f1_thresholds`). No interval is given for fewer than three groups.
    """

    label: str
    average_precision: float
    interval: Interval | None  # of average_precision, 95 %, by resampling groups
    n_clips: int  # that have the label
    n_groups: int  # independent ones among them
    threshold: float
    precision: float
    recall: float
    f1: float
    suggested_threshold: float


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """On how many clips of `label` the highest score of a wrong leaf label, that of `said`, is above its own."""

    label: str
    said: str
    n_clips: int


@dataclass(frozen=True, kw_only=True)
class WorstClip:
    """A clip whose best wrong label beats its best true one by `gap` (a difference of scores)."""

    path: str
    labels: tuple[str, ...]
    said: tuple[tuple[str, float], ...]
    gap: float


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How often the best of some labels is right, on the clips that have one of them; `among` names them."""

    among: tuple[str, ...]
    n_clips: int
    top1: float
    interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class AtDefaults:
    """What the model's own thresholds give: precision, recall and F1 of all labels that a clip has, together."""

    precision: float
    recall: float
    f1: float
    macro_f1: float  # mean over labels
    empty: float  # share of clips that get no tag


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured on a set of clips; shares and precisions are 0 to 1, intervals 95 % by resampling groups.

    Labels of the data that the model does not know are left out and named in `unknown_labels`. Labels of the model that
    no clip has are left out of means, thresholds and calibration, but compete with the others in hit rates, confusions
    and worst clips. Hit rates are over the clips with at least one label that the model knows.
    """

    n_clips: int
    n_groups: int
    n_failed: int
    n_labels: int  # that the means are over
    macro_map: float
    macro_map_interval: Interval | None
    micro_map: float
    group_weighted_map: float  # each label weighs as many independent groups as it is heard in
    top1: float
    top1_interval: Interval | None
    top5: float
    ece: float  # expected calibration error
    threshold: float  # the one for all of these labels with the best F1
    micro_f1: float  # at that threshold
    at_defaults: AtDefaults
    among: Choice | None
    per_label: tuple[LabelMeasure, ...]
    unknown_labels: tuple[str, ...]
    confusions: tuple[Confusion, ...]
    worst_clips: tuple[WorstClip, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON values, numbers with six digits."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)), parse_float=_rounded)  # lists for tuples
        return values

    def figures(self) -> dict[str, Any]:
        """What a model's configuration keeps of `to_dict`: nothing that names a clip."""
        left_out = ("confusions", "worst_clips", "unknown_labels", "among")
        return {name: value for name, value in self.to_dict().items() if name not in left_out}

    def suggested_thresholds(self) -> dict[str, float]:
        """The suggested threshold of each label that a clip has; of the others nothing was measured."""
        return {each.label: each.suggested_threshold for each in self.per_label}


def _rounded(number: str) -> float:
    return round(float(number), SCORE_DIGITS)


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


def measure(
    scores: ScoreArray,
    clips: Sequence[LabelledClip],
    model: ModelConfig,
    *,
    n_failed: int = 0,
    among: Sequence[int] = (),
    all_clips: Iterable[LabelledClip] = (),
    n_resamples: int = N_RESAMPLES,
) -> Evaluation:
    """The measures of scores `[clip, class]`, columns in the order of the model's labels.

    `among` are positions of labels for `Choice`; `all_clips` are those that tell which labels stand above which, where
    there are more than the measured ones. Without resampling there are no intervals.

    Raises:
        DataError: no clip has a label of the model, or one of `among`.
    """
    targets = label_matrix(clips, model.labels)
    heard = np.flatnonzero(targets.any(axis=0))
    if not len(heard):
        raise DataError("no clip has a label that the model knows. `audiotag labels` lists them")
    groups = [clip.group for clip in clips]
    of_heard = scores[:, heard], targets[:, heard]
    precisions_of = partial(weighted_average_precisions, *of_heard)
    resampled = bootstrap(precisions_of, groups, n_resamples=n_resamples, seed=RESAMPLING_SEED)
    per_label = _measure_labels(scores, targets, groups, heard, model.labels, resampled)
    best = best_f1_threshold(*(each.ravel() for each in of_heard))
    each_ap = [each.average_precision for each in per_label]
    macro_map, n_labelled = float(np.mean(each_ap)), _n_groups(groups, np.asarray(targets.any(axis=1)))
    return Evaluation(
        n_clips=len(clips), n_groups=len(set(groups)), n_failed=n_failed, n_labels=len(heard),
        macro_map=macro_map,
        macro_map_interval=_interval(macro_map, _nanmean(resampled), n_groups=n_labelled),
        micro_map=micro_map(*of_heard),
        group_weighted_map=float(np.average(each_ap, weights=[each.n_groups for each in per_label])),
        top1=hit_rate(scores, targets, k=1), top1_interval=_top1_interval(scores, targets, groups, n_resamples),
        top5=hit_rate(scores, targets, k=5),
        ece=expected_calibration_error(*of_heard), threshold=best.threshold, micro_f1=best.f1,
        at_defaults=_at_defaults(scores, targets, heard, model), 
        among=_choose(scores, targets, groups, among, model, n_resamples),
        per_label=per_label,
        unknown_labels=tuple(sorted({label for clip in clips for label in clip.labels} - set(model.labels))),
        confusions=_confusions(scores, clips, all_clips or clips, model.labels),
        worst_clips=_worst_clips(scores, targets, clips, model.labels),
    )  # fmt: skip


def _measure_labels(
    scores: ScoreArray,
    targets: npt.NDArray[np.float32],
    groups: Sequence[str],
    heard: npt.NDArray[np.intp],
    labels: Sequence[str],
    resampled: ScoreArray,
) -> tuple[LabelMeasure, ...]:
    of_heard = scores[:, heard], targets[:, heard]
    suggested, precisions = f1_thresholds(*of_heard), average_precisions(*of_heard)

    def of_label(column: int, index: int) -> LabelMeasure:
        best = best_f1_threshold(scores[:, index], targets[:, index])
        n_groups = _n_groups(groups, targets[:, index] > 0)
        return LabelMeasure(
            label=labels[index], average_precision=float(precisions[column]),
            interval=_interval(float(precisions[column]), resampled[:, column], n_groups=n_groups),
            n_clips=int(targets[:, index].sum()), n_groups=n_groups, suggested_threshold=float(suggested[column]),
            **asdict(best),
        )  # fmt: skip

    return tuple(of_label(column, int(index)) for column, index in enumerate(heard))


def _n_groups(groups: Sequence[str], is_counted: npt.NDArray[np.bool_]) -> int:
    """Independent groups among the clips that count. Shape: `[clip]`."""
    return len({group for group, counts in zip(groups, is_counted, strict=True) if counts})


def _interval(estimate: float, resampled: ScoreArray, *, n_groups: int) -> Interval | None:
    """The estimate and 1.96 bootstrap deviations on each side, within 0 to 1; None for too few groups.

    Not the percentiles: a group that is drawn twice ranks beside itself, which lifts resampled average precisions.
    Where a label is ranked perfectly the interval is a point: no resampling shows a mistake that was never made.
    (Efron, Tibshirani: "An introduction to the bootstrap", 1993, chapter 12, on standard intervals.)
    """
    if n_groups < FEWEST_GROUPS or not len(resampled):
        return None
    reach = NORMAL_QUANTILE * float(np.nanstd(resampled))
    return max(0.0, estimate - reach), min(1.0, estimate + reach)


def _nanmean(resampled: ScoreArray) -> ScoreArray:
    """Mean over the labels that a sample has at all, NaN where it has none. Shape: `[sample, class]` -> `[sample]`."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(resampled, axis=1) / np.isfinite(resampled).sum(axis=1))


def _top1_interval(
    scores: ScoreArray, targets: npt.NDArray[np.floating], groups: Sequence[str], n_resamples: int
) -> Interval | None:
    """Interval of the top-1 hit rate over the clips with a label."""
    labelled = np.asarray(targets.any(axis=1))
    hits = np.take_along_axis(targets, scores.argmax(axis=1)[:, None], axis=1)[:, 0]

    def top1(times: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        with np.errstate(invalid="ignore"):
            return (hits @ times) / (labelled @ times)

    resampled = bootstrap(top1, groups, n_resamples=n_resamples, seed=RESAMPLING_SEED)
    return _interval(float(hits[labelled].mean()), resampled, n_groups=_n_groups(groups, labelled))


def _at_defaults(
    scores: ScoreArray, targets: npt.NDArray[np.float32], heard: npt.NDArray[np.intp], model: ModelConfig
) -> AtDefaults:
    thresholds = np.asarray(model.thresholds)
    pooled = at_threshold(scores[:, heard], targets[:, heard], thresholds[heard])
    each = [at_threshold(scores[:, index], targets[:, index], thresholds[index]).f1 for index in heard]
    empty = float((~(scores >= thresholds).any(axis=1)).mean())
    return AtDefaults(
        precision=pooled.precision, recall=pooled.recall, f1=pooled.f1, macro_f1=float(np.mean(each)), empty=empty
    )


def _choose(
    scores: ScoreArray,
    targets: npt.NDArray[np.float32],
    groups: Sequence[str],
    among: Sequence[int],
    model: ModelConfig,
    n_resamples: int,
) -> Choice | None:
    if not among:
        return None
    chosen = list(among)
    labelled = targets[:, chosen].any(axis=1)
    if not labelled.any():
        raise DataError("no clip has one of the labels to choose among. Check --among")
    return Choice(
        among=tuple(model.labels[index] for index in chosen), n_clips=int(labelled.sum()),
        top1=hit_rate(scores[:, chosen], targets[:, chosen], k=1),
        interval=_top1_interval(scores[:, chosen], targets[:, chosen], groups, n_resamples),
    )  # fmt: skip


def _confusions(
    scores: ScoreArray, clips: Sequence[LabelledClip], all_clips: Iterable[LabelledClip], labels: Sequence[str]
) -> tuple[Confusion, ...]:
    """Which leaf label outranks a clip's own most often, most frequent first.

    A leaf stands above no other label; of a clip, the labels count that stand above none of its others. A label below
    one of those is no mistake: a dog may well bark.
    """
    ancestors = ancestors_of_labels(clip.labels for clip in all_clips)
    above_another = frozenset[str]().union(*ancestors.values())
    leaves = np.array([label not in above_another for label in labels])
    position = {label: index for index, label in enumerate(labels)}
    counts: Counter[tuple[str, str]] = Counter()
    for row, clip in zip(scores, clips, strict=True):
        own = frozenset(clip.labels) - frozenset[str]().union(*(ancestors.get(label, ()) for label in clip.labels))
        is_below = np.array([not own.isdisjoint(ancestors.get(label, ())) for label in labels])
        rivals = np.where(leaves & ~is_below & ~np.isin(labels, clip.labels), row, -np.inf)
        said = int(rivals.argmax())
        for label in own & position.keys():
            if rivals[said] > row[position[label]]:
                counts[label, labels[said]] += 1
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Confusion(label=pair[0], said=pair[1], n_clips=count) for pair, count in ranked[:N_CONFUSIONS])


def _worst_clips(
    scores: ScoreArray, targets: npt.NDArray[np.float32], clips: Sequence[LabelledClip], labels: Sequence[str]
) -> tuple[WorstClip, ...]:
    true_best = np.where(targets > 0, scores, -np.inf).max(axis=1)
    gaps = np.where(targets > 0, -np.inf, scores).max(axis=1) - true_best
    gaps[~targets.any(axis=1)] = -np.inf  # nothing is known to be right

    def shown(index: int) -> WorstClip:
        best = np.argsort(-scores[index], kind="stable")[:N_SAID]
        said = tuple((labels[label], float(scores[index, label])) for label in best)
        return WorstClip(path=str(clips[index].path), labels=clips[index].labels, said=said, gap=float(gaps[index]))

    worst = np.argsort(-gaps, kind="stable")[:N_WORST]
    return tuple(shown(int(index)) for index in worst if gaps[index] > 0)
