"""From logits to tags: activation, pooling over a clip's windows, top-k and thresholds.

The activation is applied here and nowhere else. Everything is float64 and summed in window order, so that a clip's
scores do not depend on the batches its windows travelled in.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from audiotag.config import Aggregate, ModelConfig
from audiotag.labels import LabelSet
from audiotag.options import TagOptions
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
        self._aggregate = aggregate
        self._pooled: ScoreArray | None = None
        self._n_windows = 0

    def add(self, scores: ScoreArray) -> None:
        """Takes the scores of one window. Shape: `[class]`."""
        self._n_windows += 1
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
        return self._pooled / self._n_windows


def least_scores_of(config: ModelConfig, options: TagOptions) -> ScoreArray:
    """The score from which on each label counts; infinite for one that was not chosen. Shape: `[class]`.

    Raises:
        UsageError: an option names a label that the model does not know.
    """
    labels = LabelSet(config.labels)
    of_all = config.thresholds if options.threshold is None else (options.threshold,) * len(labels)
    least = np.array(labels.fill(options.thresholds or {}, of_all), dtype=np.float64)
    chosen = labels.select(options.include_labels, options.exclude_labels)
    least[~np.isin(np.arange(len(labels)), chosen)] = np.inf
    return least


def top_tags(scores: ScoreArray, config: ModelConfig, *, least_scores: ScoreArray, top_k: int) -> tuple[Tag, ...]:
    """The labels of a row of scores that count, highest first (equal scores in label order), head by head.

    Shape: `[class]` -> at most `top_k` tags a head; all for 0.
    """
    reached = scores >= least_scores
    tags: list[Tag] = []
    for head, outputs in config.head_slices:
        positions = outputs.start + np.flatnonzero(reached[outputs])
        order = positions[np.argsort(-scores[positions], kind="stable")]
        best = order[:top_k] if top_k else order
        tags.extend(Tag(config.labels[index], float(scores[index]), head) for index in best)
    return tuple(tags)
