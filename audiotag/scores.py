"""From logits to tags: activation, pooling over a clip's windows, top-k and thresholds.

The activation is applied here and nowhere else. Everything is float64 and summed in window order, so that a clip's
scores do not depend on the batches its windows travelled in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from audiotag.config import Aggregate, ModelConfig
from audiotag.results import Tag

ScoreArray = npt.NDArray[np.float64]


def to_scores(logits: npt.NDArray[np.floating], config: ModelConfig) -> ScoreArray:
    """Scores in 0 to 1: sigmoid, or softmax over each head by itself.

    Shape: `[n, class]` -> `[n, class]`.
    """
    exact = logits.astype(np.float64)
    if config.activation == "sigmoid":
        return _sigmoid(exact)
    return np.concatenate([_softmax(exact[:, outputs]) for _, outputs in config.head_slices], axis=1)


def _sigmoid(logits: ScoreArray) -> ScoreArray:
    small = np.exp(-np.abs(logits))  # at most 1: nothing overflows
    return np.asarray(np.where(logits < 0, small, 1.0) / (1.0 + small))


def _softmax(logits: ScoreArray) -> ScoreArray:
    """Over the last axis."""
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


class ScorePool:
    """The running mean or maximum of a clip's window scores; holds one row whatever the length of the clip."""

    def __init__(self, aggregate: Aggregate) -> None:
        if aggregate not in ("mean", "max"):
            raise ValueError(f"aggregate must be 'mean' or 'max', not {aggregate!r}")
        self._aggregate = aggregate
        self._pooled: ScoreArray | None = None
        self.n_windows = 0

    def add(self, scores: ScoreArray) -> None:
        """Takes the scores of one window. Shape: `[class]`."""
        self.n_windows += 1
        if self._pooled is None:
            self._pooled = scores.copy()
        elif self._aggregate == "mean":
            self._pooled += scores
        else:
            np.maximum(self._pooled, scores, out=self._pooled)

    def result(self) -> ScoreArray | None:
        """Clip scores `[class]`, or None where there was no window."""
        if self._pooled is None or self._aggregate == "max":
            return self._pooled
        return self._pooled / self.n_windows


@dataclass(frozen=True, kw_only=True)
class TagSelection:
    """Which scores become tags."""

    top_k: int = 5  # tags of each head, at most; 0: all
    thresholds: tuple[float, ...] | None = None  # least score of each label; None: the model's
    labels: tuple[int, ...] | None = None  # positions of the labels to choose from; None: all


def least_scores(config: ModelConfig, selection: TagSelection) -> ScoreArray:
    """The score from which on each label counts; infinite for one that was not chosen. Shape: `[class]`."""
    of_all = config.thresholds if selection.thresholds is None else selection.thresholds
    thresholds = np.array(of_all, dtype=np.float64)
    if selection.labels is not None:
        thresholds[~np.isin(np.arange(len(thresholds)), selection.labels)] = np.inf
    return thresholds


def top_tags(scores: ScoreArray, config: ModelConfig, selection: TagSelection) -> tuple[Tag, ...]:
    """The best labels of a row of scores, highest first (equal scores in label order), head by head.

    Shape: `[class]` -> at most `top_k` tags a head.
    """
    reached = scores >= least_scores(config, selection)
    tags: list[Tag] = []
    for head, outputs in config.head_slices:
        positions = outputs.start + np.flatnonzero(reached[outputs])
        order = positions[np.argsort(-scores[positions], kind="stable")]
        best = order[: selection.top_k] if selection.top_k else order
        tags.extend(Tag(config.labels[index], float(scores[index]), head) for index in best)
    return tuple(tags)
