"""Labels that are too rare for the model, taught beside its own.

A label of few clips can be neither learnt well nor measured, but its clips tell the network what to listen for: a train
is no surf. While a network learns, it has an output for each of them behind those of the model's labels (Caruana:
"Multitask learning", Machine Learning 28, 1997); what is validated and shipped goes without.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from audiotag.training.dataset import LabelledClip

_HEAD = ("head.weight", "head.bias")  # `[class, feature]` and `[class]`


def taught_labels(clips: Iterable[LabelledClip], labels: tuple[str, ...], *, min_clips: int) -> tuple[str, ...]:
    """The model's labels, then those others that so many clips have, in alphabetical order; no others for 0."""
    n_clips = Counter(label for clip in clips for label in clip.labels)
    others = (label for label, count in n_clips.items() if 0 < min_clips <= count and label not in labels)
    return (*labels, *sorted(others))


def split_outputs(weights: Mapping[str, Tensor], n_labels: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of a network with its first outputs only, and those of the other outputs."""
    first, others = dict(weights), {}
    for name in _HEAD:
        first[name], others[name] = weights[name][:n_labels].clone(), weights[name][n_labels:].clone()
    return first, others


def join_outputs(first: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `split_outputs` took apart."""
    return {**first, **{name: torch.cat([first[name], others[name]]) for name in _HEAD}}
