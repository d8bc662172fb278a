"""A fused network made ready for int8: its channels are scaled to the same range, and its biases make up for rounding.

After Nagel et al.: "Data-free quantization through weight equalization and bias correction", ICCV 2019. There the
ranges of the weights are equalised, and what is expected of an activation comes from BatchNorm. Here weights have a
scale for each channel anyway, while one scale serves all channels of an activation, so the activations are equalised;
and ranges and means are those of log-mels of real sound.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from audiotag.engines import FloatArray
from audiotag.network import AudioRepInceptionNeXt, Block

WEIGHT_LEVELS = 64  # on each side of 0: 7 bits, as `export.quantise_int8` asks for

# Convolutions of a block with a ReLU between them, and how much of the difference between the channels is taken out
# there. A depth-wise convolution takes all of it at no cost; a dense one rounds the weights of all its inputs with one
# scale, and half leaves as much to them as to the activations.
PAIRS = (("reduce", "time", 1.0), ("time", "frequency", 1.0), ("frequency", "expand", 0.5), ("expand", "project", 0.5))
PEAK_QUANTILE = 0.98  # of the windows' largest values: a click does not set a channel's range
LEAST_SHARE = 0.01  # of the largest channel's range that a channel is taken to have


def ready_for_int8(network: AudioRepInceptionNeXt, log_mels: Sequence[FloatArray]) -> AudioRepInceptionNeXt:
    """A copy of a fused network that loses less by rounding; before rounding it computes nearly the same.

    Shape: each of `log_mels` `[n, 1, frame, mel]`.
    """
    ready = copy.deepcopy(network)
    _equalise(ready, _observe(ready, log_mels))
    _correct_biases(ready, _observe(ready, log_mels))
    return ready


@dataclass
class _Seen:
    """What went through a convolution: peaks `[window, channel]` after its ReLU, and the sum of its inputs."""

    peaks: list[Tensor] = field(default_factory=list)
    inputs: Tensor | None = None  # [1, channel, frame, mel]
    n_windows: int = 0

    def take(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.peaks.append(output.relu().amax(dim=(2, 3)))
        summed = inputs[0].sum(dim=0, keepdim=True)
        self.inputs = summed if self.inputs is None else self.inputs + summed
        self.n_windows += len(output)


@torch.no_grad()
def _observe(network: AudioRepInceptionNeXt, log_mels: Sequence[FloatArray]) -> dict[nn.Module, _Seen]:
    seen: dict[nn.Module, _Seen] = {module: _Seen() for module in network.modules() if isinstance(module, nn.Conv2d)}
    hooks = [module.register_forward_hook(each.take) for module, each in seen.items()]
    for batch in log_mels:
        network(torch.from_numpy(batch))
    for hook in hooks:
        hook.remove()
    return seen


@torch.no_grad()
def _equalise(network: AudioRepInceptionNeXt, seen: dict[nn.Module, _Seen]) -> None:
    """ReLU(s x) = s ReLU(x) for a positive s: what divides an output channel multiplies the next layer's input."""
    for block in (module for module in network.modules() if isinstance(module, Block)):
        for name, name_of_next, share in PAIRS:
            conv, following = getattr(block, name), getattr(block, name_of_next)
            peaks = torch.cat(seen[conv].peaks).quantile(PEAK_QUANTILE, dim=0)
            if not peaks.max() > 0:
                continue
            scale = (peaks / peaks.max()).clamp_min(LEAST_SHARE) ** share
            conv.weight /= scale[:, None, None, None]
            conv.bias /= scale
            is_depthwise = following.groups > 1
            following.weight *= scale[:, None, None, None] if is_depthwise else scale[None, :, None, None]


@torch.no_grad()
def _correct_biases(network: AudioRepInceptionNeXt, seen: dict[nn.Module, _Seen]) -> None:
    """Adds what the rounding of the weights takes from a mean output: (w - rounded w) over the mean input.

    The mean input is a map, not a number of each channel, for long kernels meet the zeros around a small one.
    """
    for conv, each in seen.items():
        if conv is network.stem:  # stays float32
            continue
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        assert each.inputs is not None
        # The least normal number: after training, which has denormals flushed, a smaller one would be 0.
        step = (conv.weight.abs().amax(dim=(1, 2, 3), keepdim=True) / WEIGHT_LEVELS).clamp_min(torch.finfo().tiny)
        lost = conv.weight - torch.round(conv.weight / step) * step
        shift = functional.conv2d(
            each.inputs / each.n_windows, lost, None, conv.stride, conv.padding, conv.dilation, conv.groups
        )  # fmt: skip
        conv.bias += shift.mean(dim=(0, 2, 3))
