"""How good scores are: ranking measures over labels and clips. One definition for training and `evaluate`.

Shapes: scores and targets are `[clip, class]`; a target is 1 where the label is heard (a positive), else 0. At least
one must be 1, unless a docstring says what is returned without a positive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.special

Array = npt.NDArray[np.floating]

# Both chosen on two halves (by groups) of a validation fold: thresholds from one half, F1 on the other. Over all pairs
# 0.511 (the common threshold alone gives 0.506, each label's own 0.299), mean of labels 0.297 (0.284 and 0.321).
PRIOR_POSITIVES = 20.0  # that the threshold of all labels counts as, beside a label's own positives
FEWEST_POSITIVES = 3  # that a label's own best threshold takes
N_BINS = 15  # of scores, for the calibration error
RESAMPLED_AT_ONCE = 2_000_000  # clips, all samples together, for bounded memory


def average_precision(scores: Array, targets: Array) -> float:
    """Area under one label's precision-recall curve as a step function; NaN without a positive.

    AP = sum over thresholds of (recall_n - recall_(n-1)) * precision_n (Manning et al., Introduction to Information
    Retrieval, 2008, section 8.4). Equal scores are one threshold, so the order of equal clips does not matter.

    >>> average_precision(np.array([0.9, 0.8, 0.1]), np.array([1, 0, 1]))
    0.8333333333333333
    """
    n_positives = targets.sum()
    if not n_positives:
        return float("nan")
    order, ranks = _ranked(scores)
    hits = np.cumsum(targets[order])[ranks - 1]
    gained = np.diff(hits, prepend=0)
    return float(np.sum(gained * hits / ranks) / n_positives)


def _ranked(scores: Array) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The clips by falling score, and how many there are down to each distinct score. `[clip]`, `[threshold]`."""
    order = np.argsort(-scores, kind="stable")
    is_last_of_tie = np.append(np.diff(scores[order]) != 0, True)
    return order, np.flatnonzero(is_last_of_tie) + 1


def average_precisions(scores: Array, targets: Array) -> npt.NDArray[np.float64]:
    """`average_precision` of every label. Shape: `[class]`, NaN where no clip has the label."""
    return np.array([average_precision(scores[:, index], targets[:, index]) for index in range(scores.shape[1])])


def macro_map(scores: Array, targets: Array) -> float:
    """Mean over the labels with a positive of their average precision, 0 to 1 (AudioSet's mAP)."""
    return float(np.nanmean(average_precisions(scores, targets)))


def micro_map(scores: Array, targets: Array) -> float:
    """Average precision of all (clip, label) pairs in one list."""
    return average_precision(scores.ravel(), targets.ravel())


def hit_rate(scores: Array, targets: Array, *, k: int) -> float:
    """Share of the clips with a label at all whose `k` best labels hold one of theirs."""
    labelled = targets.any(axis=1)
    best = np.argsort(-scores[labelled], axis=1, kind="stable")[:, :k]
    return float(np.take_along_axis(targets[labelled], best, axis=1).any(axis=1).mean())


@dataclass(frozen=True)
class AtThreshold:
    """What showing a label from `threshold` on gives; shares are 0 to 1, precision 1 where nothing is shown."""

    threshold: float
    precision: float
    recall: float
    f1: float


def at_threshold(scores: Array, targets: Array, threshold: float | Array) -> AtThreshold:
    """Precision, recall and F1 of all pairs together, shown from `threshold` on (one, or one of each column).

    F1 = 2 * true positives / (shown + positives).
    """
    shown = scores >= threshold
    hits, n_shown, n_positives = float(targets[shown].sum()), float(shown.sum()), float(targets.sum())
    return AtThreshold(
        float(np.mean(threshold)),
        precision=hits / n_shown if n_shown else 1.0,
        recall=hits / n_positives,
        f1=2 * hits / (n_shown + n_positives),
    )


def best_f1_threshold(scores: Array, targets: Array) -> AtThreshold:
    """The threshold with the best F1, midway between two neighbouring scores; 1 without a positive.

    >>> best_f1_threshold(np.array([0.9, 0.5, 0.1]), np.array([1, 1, 0]))
    AtThreshold(threshold=0.3, precision=1.0, recall=1.0, f1=1.0)
    """
    n_positives = targets.sum()
    if not n_positives:
        return AtThreshold(1.0, precision=1.0, recall=0.0, f1=0.0)
    order = np.argsort(-scores, kind="stable")
    ranked = np.append(scores[order], 0.0)
    f1 = 2 * np.cumsum(targets[order]) / (np.arange(1, len(order) + 1) + n_positives)
    f1[ranked[:-1] == ranked[1:]] = 0.0  # a threshold cannot separate equal scores
    f1[-1] = 2 * n_positives / (len(order) + n_positives)  # everything is shown from 0 on
    best = int(np.argmax(f1))
    return at_threshold(scores, targets, float(ranked[best] + ranked[best + 1]) / 2)


def f1_thresholds(scores: Array, targets: Array) -> npt.NDArray[np.float64]:
    """A threshold of each label for a good F1 on other clips too. Shape: `[class]`.

    The best threshold of a label rests on its positives alone, and with few of them it is mostly chance. So it is drawn
    towards t, the best one of all labels together, on the logit scale, where scores lie evenly:

        logit(threshold) = (n * logit(best of the label) + k * logit(t)) / (n + k)

    n being the label's positives and k = `PRIOR_POSITIVES`. That is the mean of two estimates, each weighed by one over
    its variance, if labels differ as much from each other as chance moves the best threshold of k positives. A label
    with fewer than `FEWEST_POSITIVES` gets t.
    """
    pooled = best_f1_threshold(scores.ravel(), targets.ravel()).threshold
    best = [best_f1_threshold(scores[:, index], targets[:, index]).threshold for index in range(scores.shape[1])]
    n_positives = targets.sum(axis=0)
    weights = np.where(n_positives >= FEWEST_POSITIVES, n_positives / (n_positives + PRIOR_POSITIVES), 0.0)
    return np.asarray(scipy.special.expit(weights * _logit(best) + (1 - weights) * _logit(pooled)))


def _logit(scores: Any) -> Any:
    return scipy.special.logit(np.clip(scores, 1e-6, 1 - 1e-6))


def precision_recall_curve(scores: Array, targets: Array) -> npt.NDArray[np.float64]:
    """Recall, precision and threshold at every distinct score, highest first. Shape: `[3, threshold]`."""
    order, ranks = _ranked(scores)
    hits = np.cumsum(targets[order])[ranks - 1]
    return np.stack([hits / hits[-1], hits / ranks, scores[order][ranks - 1]])


def bootstrap(
    statistic: Callable[[Array], Array], groups: Sequence[str], *, n_resamples: int, seed: int
) -> npt.NDArray[np.float64]:
    """`statistic` of samples of the groups, drawn with replacement; all clips of a group come with it.

    Clips of one group (a recording, a performer) resemble each other, so they are not drawn one by one (Davison,
    Hinkley: "Bootstrap methods and their application", 1997, section 3.8).

    Shape: `statistic` takes how often each clip was drawn, `[clip, sample]`, and gives `[sample, ...]`.
    """
    names, group_of_clip = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)
    rng = np.random.default_rng(seed)
    block = max(1, RESAMPLED_AT_ONCE // len(groups))
    sizes = [min(block, n_resamples - start) for start in range(0, n_resamples, block)] or [0]
    draws = (rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=size) for size in sizes)
    return np.concatenate([statistic(drawn.T[group_of_clip].astype(np.float64)) for drawn in draws])


def weighted_average_precisions(scores: Array, targets: Array, times: Array) -> npt.NDArray[np.float64]:
    """`average_precision` of every label with each clip counted `times`; NaN where no clip with the label counts.

    Shape: `[clip, class]`, `[clip, class]`, `[clip, sample]` -> `[sample, class]`.
    """
    each = [_weighted_ap(scores[:, index], targets[:, index], times) for index in range(scores.shape[1])]
    return np.stack(each, axis=1)


def _weighted_ap(scores: Array, targets: Array, times: Array) -> npt.NDArray[np.float64]:
    """Shape: `[clip]`, `[clip]`, `[clip, sample]` -> `[sample]`."""
    order, ranks = _ranked(scores)
    gains = np.diff(np.cumsum(targets[order])[ranks - 1], prepend=0) > 0
    ends = ranks[gains]  # only there precision counts: where a positive is newly shown
    starts = np.append(0, ends[:-1])
    ranked = times[order[: ends[-1]]]
    shown = np.cumsum(np.add.reduceat(ranked, starts), axis=0)
    gained = np.add.reduceat(ranked * targets[order[: ends[-1]], None], starts)
    hits = np.cumsum(gained, axis=0)
    with np.errstate(invalid="ignore"):
        return np.asarray((gained * hits / np.maximum(shown, 1)).sum(axis=0) / hits[-1])


def expected_calibration_error(scores: Array, targets: Array) -> float:
    """How far scores are from shares, on average over all (clip, label) pairs; 0 is perfect.

    Pairs are sorted into `N_BINS` equally wide bins of the score; each bin weighs as many as it holds and adds the
    distance of its mean score from the share of pairs that are true (Guo et al., "On calibration of modern neural
    networks", ICML 2017, equation 3). Most pairs are absent labels with scores near 0, which keeps the figure small.
    """
    bins = np.minimum((scores.ravel() * N_BINS).astype(np.intp), N_BINS - 1)
    excess = np.bincount(bins, weights=scores.ravel() - targets.ravel(), minlength=N_BINS)
    return float(np.abs(excess).sum() / scores.size)
