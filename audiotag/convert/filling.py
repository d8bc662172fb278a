"""From tensors with names to a network that has them all, and nothing else; the same for both kinds of checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from audiotag.config import ModelConfig, NetworkConfig
from audiotag.errors import CheckpointError
from audiotag.network import AudioRepInceptionNeXt, check_tensors


@dataclass(frozen=True)
class Converted:
    """A checkpoint's fused network, in evaluation mode, and what it is."""

    network: AudioRepInceptionNeXt
    config: ModelConfig


def checked_tensors(tensors: Any, path: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint, each one a plain tensor.

    Raises:
        CheckpointError: there are none, or one is something else, or holds values that are not finite.
    """
    if not isinstance(tensors, dict) or not tensors:
        raise CheckpointError(f"{path}: holds no weights. Fetch it again")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            raise CheckpointError(f"{path}: its entry {name!r} is no plain tensor. Fetch it again")
        if tensor.is_complex() or not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: tensor {name!r} holds values that are not finite numbers. Fetch it again")
    return tensors


def empty_network(config: NetworkConfig) -> AudioRepInceptionNeXt:
    """A multi-branch network without memory for its weights: none of them can stay random."""
    with torch.device("meta"):
        return AudioRepInceptionNeXt(config).eval()


def fill_network(network: nn.Module, tensors: Mapping[str, Tensor], names: Mapping[str, str], path: Path) -> None:
    """Gives a network its tensors, by our name -> name in the file, with float64 for exact sums.

    Raises:
        CheckpointError: one is missing, unknown or misshapen.
    """
    expected = {names[name]: tensor for name, tensor in network.state_dict().items()}
    check_tensors(tensors, expected, where=str(path), error=CheckpointError)
    found = {name: tensors[names[name]] for name in names}
    network.load_state_dict(
        {name: tensor.detach().double() if tensor.is_floating_point() else tensor for name, tensor in found.items()},
        assign=True,
    )
