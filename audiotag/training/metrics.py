"""How good scores are: ranking measures over labels and clips. numpy only, one definition for training and `evaluate`.

Shapes: scores and targets are `[clip, class]`; a target is 1 where the label is heard.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]


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
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(targets[order])
    last_of_tie = np.append(np.diff(scores[order]) != 0, True)
    ranks = np.flatnonzero(last_of_tie) + 1
    hits = hits[last_of_tie]
    gained = np.diff(hits, prepend=0)
    return float(np.sum(gained * hits / ranks) / n_positives)


def average_precisions(scores: Array, targets: Array) -> npt.NDArray[np.float64]:
    """`average_precision` of every label. Shape: `[class]`, NaN where no clip has the label."""
    return np.array([average_precision(scores[:, index], targets[:, index]) for index in range(scores.shape[1])])


def macro_map(scores: Array, targets: Array) -> float:
    """Mean over the labels with a positive of their average precision, 0 to 1 (AudioSet's mAP)."""
    each = average_precisions(scores, targets)
    return float(np.nanmean(each)) if np.isfinite(each).any() else float("nan")


def micro_map(scores: Array, targets: Array) -> float:
    """Average precision of all (clip, label) pairs in one list."""
    return average_precision(scores.ravel(), targets.ravel())


def hit_rate(scores: Array, targets: Array, *, k: int) -> float:
    """Share of the clips with a label at all whose `k` best labels hold one of theirs."""
    labelled = targets.any(axis=1)
    if not labelled.any():
        return float("nan")
    best = np.argsort(-scores[labelled], axis=1, kind="stable")[:, :k]
    return float(np.take_along_axis(targets[labelled], best, axis=1).any(axis=1).mean())


def best_f1_threshold(scores: Array, targets: Array) -> tuple[float, float]:
    """The score from which on a label should be shown for the best F1, and that F1; (1, 0) without a positive.

    F1 = 2 * true positives / (shown + positives).
    """
    n_positives = targets.sum()
    if not n_positives:
        return 1.0, 0.0
    order = np.argsort(-scores, kind="stable")
    f1 = 2 * np.cumsum(targets[order]) / (np.arange(1, len(order) + 1) + n_positives)
    f1[:-1][np.diff(scores[order]) == 0] = 0.0  # a threshold cannot separate equal scores
    best = int(np.argmax(f1))
    return float(scores[order][best]), float(f1[best])


def expected_calibration_error(scores: Array, targets: Array, *, n_bins: int = 15) -> float:
    """How far scores are from shares, on average over all (clip, label) pairs; 0 is perfect.

    Pairs are sorted into `n_bins` equally wide bins of the score; each bin weighs as many as it holds and adds the
    distance of its mean score from the share of pairs that are true (Guo et al., "On calibration of modern neural
    networks", ICML 2017, equation 3). Most pairs are absent labels with scores near 0, which keeps the figure small.
    """
    bins = np.minimum((scores.ravel() * n_bins).astype(np.intp), n_bins - 1)
    excess = np.bincount(bins, weights=scores.ravel() - targets.ravel(), minlength=n_bins)
    return float(np.abs(excess).sum() / scores.size)
