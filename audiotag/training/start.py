"""A training that begins with what a finished model has learnt, instead of at random.

A finished model is fused. Its convolutions become the largest branches of the multi-branch form, the smaller branches
begin with a BatchNorm weight of 0 and so add nothing, and every other BatchNorm is set so that the network gives what
the model gives.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from audiotag.config import NetworkConfig
from audiotag.errors import DataError
from audiotag.model_folder import WEIGHTS, ModelFolder
from audiotag.network import AudioRepInceptionNeXt, ConvNorm, MultiBranchConv, load_fused


def check_start(wanted: NetworkConfig, source: ModelFolder) -> None:
    """Raises `DataError` unless a training of the network `wanted` can begin with the weights of `source`."""
    found = source.config.network
    for name, ours, theirs in (
        ("width", wanted.width, found.width),
        ("depths", wanted.depths, found.depths),
        ("largest kernel", wanted.kernel_sizes[0], found.kernel_sizes[0]),
    ):
        if ours != theirs:
            raise DataError(
                f"{source.name}: its {name} is {theirs}, that of the network to train {ours}. Make them alike"
            )


@torch.no_grad()
def start_from(network: AudioRepInceptionNeXt, labels: Sequence[str], source: ModelFolder, log_mels: Tensor) -> None:
    """Gives the multi-branch `network`, whose outputs are `labels`, the weights of `source`, of the same shape.

    The outputs of labels that `source` does not have stay as they are. The front-ends may differ. `log_mels`
    `[batch, 1, frame, mel]` is what the statistics of the BatchNorms are taken from.

    Raises:
        ModelError: the weights cannot be read.
    """
    fused = load_fused(source.file(WEIGHTS), source.config.network).to(log_mels.device)
    for name, module in network.named_modules():
        if isinstance(module, MultiBranchConv):
            _spread(fused.get_submodule(name), module)
        elif isinstance(module, ConvNorm) and ".branches." not in name:
            _take(fused.get_submodule(name), module)
    _set_statistics(network, log_mels)
    position = {label: row for row, label in enumerate(source.config.labels)}
    for row, label in enumerate(labels):
        if label in position:
            network.head.weight[row] = fused.head.weight[position[label]]
            network.head.bias[row] = fused.head.bias[position[label]]


def _take(conv: nn.Module, into: ConvNorm) -> None:
    """Weights and bias of a plain convolution; the norm changes nothing yet, for `_set_statistics`."""
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    into.conv.weight.copy_(conv.weight)
    into.norm.weight.fill_(1.0)
    into.norm.bias.copy_(conv.bias)


def _spread(conv: nn.Module, into: MultiBranchConv) -> None:
    """A depth-wise convolution as the sum of its largest branch, of smaller ones that add nothing, and the identity."""
    largest, *smaller = into.branches
    assert isinstance(largest, ConvNorm)
    _take(conv, largest)
    rows, columns = largest.conv.kernel_size
    largest.conv.weight[:, 0, rows // 2, columns // 2] -= 1.0
    for branch in smaller:
        assert isinstance(branch, ConvNorm)
        branch.norm.weight.zero_()


def _set_statistics(network: AudioRepInceptionNeXt, log_mels: Tensor) -> None:
    """Runs `log_mels` through: each norm is set to add its bias to what it is given, whatever its mode.

    Inverse of the fusion: with mean m and variance v of the input, gamma = sqrt(v + eps) and beta = bias + m.
    """

    def set_to_identity(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        variance, mean = torch.var_mean(given[0], dim=(0, 2, 3), correction=0)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        if norm.weight.any():  # a branch that adds nothing stays so
            norm.weight.copy_(torch.sqrt(variance + norm.eps))
            norm.bias.add_(mean)

    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(set_to_identity) for norm in norms]
    network.eval()
    network(log_mels)
    for hook in hooks:
        hook.remove()
