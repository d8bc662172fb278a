"""Scores that mean what they say: Platt scaling of each label, folded into the network's last layer.

A clip's score is the mean of its windows' sigmoids, so that is what is fitted: logit' = scale * logit + offset of each
window, such that the pooled scores make the labels of held-out clips likeliest. Most labels have few positives; each
is therefore drawn towards one scale and offset that all labels share, and that towards no change at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.optimize
import scipy.sparse
import scipy.special
import torch

from audiotag.network import AudioRepInceptionNeXt
from audiotag.training.metrics import expected_calibration_error

DoubleArray = npt.NDArray[np.float64]

# Standard deviations of the normal priors: of a label around what all share, and of that around the identity. Chosen
# on the groups of a validation fold in five parts, where log loss is flat between half and twice as much.
LOG_SCALE_DEVIATION = 0.5  # a scale within 0.4 and 2.7 times the shared one, 19 times in 20
OFFSET_DEVIATION = 1.0  # logits
MOST_WEIGHT = 4.0  # that `prevalence` gives or takes
BOUNDS = ((-3.0, 3.0), (-20.0, 20.0))  # of log scale and offset: a line search must not try what overflows
N_PARTS = 5  # of the groups, for an honest error


@dataclass(frozen=True)
class Platt:
    """What calibrates a logit of each label: scale * logit + offset. `scale` is positive: the order of windows stays.

    Shape: `[class]` each.
    """

    scale: DoubleArray
    offset: DoubleArray


def fit_platt(
    window_logits: npt.NDArray[np.floating],
    owners: npt.NDArray[np.integer],
    targets: npt.NDArray[np.floating],
    *,
    prevalence: npt.NDArray[np.floating] | None = None,
) -> Platt:
    """The scale and offset of each label that make held-out labels likeliest, given the priors.

    Platt: "Probabilistic outputs for support vector machines", 1999, with its targets: N+ positives are wanted at
    (N+ + 1) / (N+ + 2) and N- negatives at 1 / (N- + 2), so that few clips never ask for certainty. A label that no
    clip has gets what all labels share: nothing tells how its scores lie where it is heard.

    `prevalence` is the share of clips with each label where the model will be used. A fold of whole groups can have a
    label three times as often as the rest of the data; its clips are then weighed as if it had not (Saerens et al.,
    "Adjusting the outputs of a classifier to new a priori probabilities", 2002).

    Shape: logits `[window, class]`, owners `[window]` (the clip of each window), targets `[clip, class]`, prevalence
    `[class]`.
    """
    has_windows = np.bincount(owners, minlength=len(targets)) > 0
    logits, mean = window_logits.astype(np.float64), _mean_over_windows(owners, len(targets))[has_windows]
    heard = targets[has_windows] > 0
    weights = np.ones(heard.shape) if prevalence is None else _weights(heard, prevalence)
    shared = _fit(logits, _Clips(mean, _wanted(heard), weights), prior=np.zeros(2))

    def of_label(index: int) -> DoubleArray:
        column = heard[:, [index]]
        clips = _Clips(mean, _wanted(column), weights[:, [index]])
        return _fit(logits[:, [index]], clips, prior=shared) if column.any() else shared

    each = np.stack([of_label(index) for index in range(heard.shape[1])])
    return Platt(np.exp(each[:, 0]), each[:, 1])


def pooled_scores(
    window_logits: npt.NDArray[np.floating],
    owners: npt.NDArray[np.integer],
    *,
    n_clips: int,
    platt: Platt | None = None,
) -> DoubleArray:
    """Mean over each clip's windows of the (calibrated) sigmoid; zeros for a clip without windows.

    Shape: `[window, class]`, `[window]` -> `[n_clips, class]`.
    """
    logits = window_logits.astype(np.float64)
    if platt is not None:
        logits = platt.scale * logits + platt.offset
    return np.asarray(_mean_over_windows(owners, n_clips) @ scipy.special.expit(logits))


def calibration_errors(
    window_logits: npt.NDArray[np.floating],
    owners: npt.NDArray[np.integer],
    targets: npt.NDArray[np.floating],
    *,
    groups: Sequence[str],
    prevalence: npt.NDArray[np.floating] | None = None,
) -> dict[str, float]:
    """The expected calibration error of the clip scores before and after, as `ece_before` and `ece_after`.

    The groups are dealt into `N_PARTS` parts, and each is calibrated by a fit on the others: on the clips that it was
    fitted on, any calibration looks better than it is.
    """
    names, group_of_clip = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)
    part_of_clip = (np.random.default_rng(0).permutation(len(names)) % N_PARTS)[group_of_clip]
    before = pooled_scores(window_logits, owners, n_clips=len(targets))
    after = before.copy()
    for part in range(N_PARTS):
        others = part_of_clip != part
        if others.any() and not others.all():
            kept, position = others[owners], np.cumsum(others) - 1  # of the fitted clips among themselves
            platt = fit_platt(window_logits[kept], position[owners[kept]], targets[others], prevalence=prevalence)
            calibrated = pooled_scores(window_logits, owners, n_clips=len(targets), platt=platt)
            after[~others] = calibrated[~others]
    return {
        "ece_before": round(expected_calibration_error(before, targets), 6),
        "ece_after": round(expected_calibration_error(after, targets), 6),
    }


@torch.no_grad()
def fold_into_head(network: AudioRepInceptionNeXt, platt: Platt) -> None:
    """Changes the network's head in place, so that its logits come out calibrated.

    scale * (w x + c) + offset = (scale * w) x + (scale * c + offset)
    """
    head = network.head
    scale, offset = (torch.from_numpy(values).to(head.weight.device) for values in (platt.scale, platt.offset))
    head.weight.copy_(head.weight.double() * scale[:, None])
    head.bias.copy_(head.bias.double() * scale + offset)


def _mean_over_windows(owners: npt.NDArray[np.integer], n_clips: int) -> scipy.sparse.csr_matrix:
    """The matrix `[clip, window]` that takes the mean of each clip's windows."""
    counts = np.bincount(owners)
    return scipy.sparse.csr_matrix((1 / counts[owners], (owners, np.arange(len(owners)))), (n_clips, len(owners)))


def _wanted(heard: npt.NDArray[np.bool_]) -> DoubleArray:
    n_positives = heard.sum()
    return np.asarray(np.where(heard, (n_positives + 1) / (n_positives + 2), 1 / (heard.size - n_positives + 2)))


def _weights(heard: npt.NDArray[np.bool_], prevalence: npt.NDArray[np.floating]) -> DoubleArray:
    """What each pair counts, so that each label is there as often as `prevalence` says; 1 for a label without clips."""
    here = heard.mean(axis=0)
    usual = np.where(here > 0, prevalence, here)
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.where(heard, usual / here, (1 - usual) / (1 - here))
    return np.asarray(np.clip(weights, 1 / MOST_WEIGHT, MOST_WEIGHT))


class _Clips(NamedTuple):
    """What is to be made likely: `mean` pools windows `[clip, window]`, the others are `[clip, column]`."""

    mean: scipy.sparse.csr_matrix
    wanted: DoubleArray
    weights: DoubleArray


def _fit(logits: DoubleArray, clips: _Clips, *, prior: DoubleArray) -> DoubleArray:
    """Logarithm of the scale, and the offset, that are likeliest for all columns together. Shape: `[2]`."""
    found = scipy.optimize.minimize(_loss, prior, (logits, clips, prior), method="L-BFGS-B", jac=True, bounds=BOUNDS)
    return np.asarray(found.x)


def _loss(parameters: DoubleArray, logits: DoubleArray, clips: _Clips, prior: DoubleArray) -> tuple[float, DoubleArray]:
    """Negative log posterior and its gradient in (log scale, offset)."""
    scaled = np.exp(parameters[0]) * logits
    scores = scipy.special.expit(scaled + parameters[1])
    others = scipy.special.expit(-scaled - parameters[1])  # 1 - scores, without rounding where scores are near 1
    present, absent = (np.maximum(clips.mean @ each, np.finfo(float).tiny) for each in (scores, others))
    misses = (parameters - prior) / (LOG_SCALE_DEVIATION, OFFSET_DEVIATION)
    losses = -clips.wanted * np.log(present) - (1 - clips.wanted) * np.log(absent)
    loss = np.sum(clips.weights * losses) + np.square(misses).sum() / 2
    by_present = clips.weights * ((1 - clips.wanted) / absent - clips.wanted / present)
    slope = scores * others
    gradient = [np.sum(by_present * (clips.mean @ each)) for each in (slope * scaled, slope)]
    return float(loss), gradient + misses / (LOG_SCALE_DEVIATION, OFFSET_DEVIATION)
