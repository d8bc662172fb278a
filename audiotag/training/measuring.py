"""How good the scores of labelled clips are: an `Evaluation` of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial

import numpy as np
import numpy.typing as npt

from audiotag.config import ModelConfig
from audiotag.errors import DataError
from audiotag.scores import ScoreArray
from audiotag.training.dataset import LabelledClip, label_matrix
from audiotag.training.evaluation import AtDefaults, Choice, Confusion, Evaluation, Interval, LabelMeasure, WorstClip
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

N_RESAMPLES = 1000  # bootstrap samples
RESAMPLING_SEED = 0
NORMAL_QUANTILE = 1.96  # deviations on each side of a 95 % interval
FEWEST_GROUPS = 3  # that a label needs for an interval: two can be drawn in three ways only
N_CONFUSIONS = 30
N_WORST = 20
N_SAID = 3  # labels that a worst clip's entry shows


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
