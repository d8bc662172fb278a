"""The optimiser of a training: Muon for the convolutions that mix channels, AdamW for everything else.

A BatchNorm follows every convolution, so that the norm of its weights says nothing. Muon keeps it as it is: a step is
then always the same share of the weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from audiotag.config import TrainConfig
from audiotag.network import AudioRepInceptionNeXt, ConvNorm

MUON_RATE = 5.0  # learning rate of Muon over AdamW's
MOMENTUM = 0.9
# Of the polynomial a x + b x^3 + c x^5 that brings singular values close to 1 (Jordan et al., see `Muon`).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
N_ITERATIONS = 5


class Optimiser:
    """Both optimisers as one; what a step needs of a checkpoint is `state_dict`."""

    def __init__(self, network: AudioRepInceptionNeXt, config: TrainConfig) -> None:
        mixing = [part.conv.weight for part in _mixing(network)]
        others = [p for p in network.parameters() if not any(p is weight for weight in mixing)]
        decayed = [p for p in others if p.ndim >= 2]
        plain = [p for p in others if p.ndim < 2]  # BatchNorm and biases
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self._adamw = torch.optim.AdamW(groups, fused=True)
        self._muon = Muon(mixing)

    def step(self, learning_rate: float) -> None:
        """A step along the gradients, which are gone then; `learning_rate` is AdamW's."""
        for optimiser, rate in ((self._adamw, learning_rate), (self._muon, MUON_RATE * learning_rate)):
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """What is remembered of earlier steps."""
        return {"adamw": self._adamw.state_dict(), "muon": self._muon.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict`."""
        self._adamw.load_state_dict(state["adamw"])
        self._muon.load_state_dict(state["muon"])


class Muon(torch.optim.Optimizer):
    """Steps along the momentum of a gradient, made orthogonal, on weights `[n_out, ...]` of norm sqrt(n_out).

    Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; that the norm is kept is from
    Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024. torch.optim.Muon does not keep the norm, and its
    products are in bfloat16: a CPU without instructions for it takes longer for them than for the rest of a step.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__(weights, {"lr": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """A step of the group's `lr` along the gradients."""
        for group in self.param_groups:
            for weight in group["params"]:
                self._step(weight, group["lr"])

    def _step(self, weight: Tensor, rate: float) -> None:
        assert weight.grad is not None
        gradient = weight.grad.flatten(1)
        momentum = self.state[weight].setdefault("momentum", torch.zeros_like(gradient))
        momentum.lerp_(gradient, 1 - MOMENTUM)
        ahead = gradient.lerp(momentum, MOMENTUM)  # Nesterov's
        weight.mul_(_scale(weight)).add_(orthogonal(ahead).view_as(weight), alpha=-rate)


def orthogonal(matrix: Tensor) -> Tensor:
    """The matrix with singular values between about 0.7 and 1.2, singular vectors kept, but for the smallest values."""
    a, b, c = COEFFICIENTS
    is_tall = len(matrix) > matrix.shape[1]
    x = matrix.t() if is_tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(N_ITERATIONS):
        gram = x @ x.t()
        x = a * x + torch.addmm(gram, gram, gram, beta=b, alpha=c) @ x
    return cast(Tensor, x.t() if is_tall else x)


@torch.no_grad()
def normalise(network: AudioRepInceptionNeXt) -> None:
    """Gives the weights that Muon trains their norm; the BatchNorms behind them keep the output as it is."""
    for part in _mixing(network):
        scale, variance = _scale(part.conv.weight), cast(Tensor, part.norm.running_var)
        part.norm.weight.div_(torch.sqrt(variance + part.norm.eps))
        part.conv.weight.mul_(scale)
        cast(Tensor, part.norm.running_mean).mul_(scale)
        variance.mul_(scale.square())
        part.norm.weight.mul_(torch.sqrt(variance + part.norm.eps) / scale)


def _mixing(network: nn.Module) -> list[ConvNorm]:
    """The convolutions that mix channels."""
    return [part for part in network.modules() if isinstance(part, ConvNorm) and part.conv.groups == 1]


def _scale(weight: Tensor) -> Tensor:
    """What brings a weight `[n_out, ...]` to the norm sqrt(n_out)."""
    return cast(Tensor, len(weight) ** 0.5 / weight.norm())
