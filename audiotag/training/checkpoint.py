"""The state of a training: how it is told apart from other files, read again, and compared with a recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from audiotag.config import NetworkConfig, TrainConfig, record_from_dict
from audiotag.convert import CHECKPOINT_FORMAT, load_archive
from audiotag.errors import CheckpointError
from audiotag.network import AudioRepInceptionNeXt, fuse

CHECKPOINT_VERSION = 4  # goes up when what a checkpoint holds changes


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A training checkpoint of ours, tensors on the CPU.

    Raises:
        CheckpointError: there is none, or it is not one of ours, or one of another layout.
    """
    saved = load_archive(path)
    if saved.get("format") != CHECKPOINT_FORMAT:
        raise CheckpointError(f"{path}: is not a checkpoint of `audiotag train`")
    if saved.get("version") != CHECKPOINT_VERSION:
        raise CheckpointError(f"{path}: was written by another version of audiotag. Go on with that, or train again")
    return saved


def fused_network(weights: Mapping[str, Tensor], config: NetworkConfig) -> AudioRepInceptionNeXt:
    """The network of a checkpoint's averaged weights, fused and in evaluation mode."""
    network = AudioRepInceptionNeXt(config)
    network.load_state_dict(weights)
    return fuse(network)


def comparable(config: TrainConfig) -> dict[str, Any]:
    """The recipe as a checkpoint keeps it: JSON values, for tuples do not survive weights-only loading as such."""
    recipe: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return recipe


def recipe_of(values: dict[str, Any], *, where: Path) -> TrainConfig:
    """The recipe that `comparable` has turned into JSON values; what a newer version added is at its default.

    Raises:
        CheckpointError: this version does not know a part of it; the message begins with `where`.
    """
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    try:
        return record_from_dict(TrainConfig, fields, where=f"{where}: its recipe")
    except ValueError as error:
        raise CheckpointError(f"{error}. Go on with the version of audiotag that trained it, or train again") from error
