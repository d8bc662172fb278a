"""What a step of the training's optimiser does to the weights, and what it leaves alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from audiotag.config import NetworkConfig, TrainConfig
from audiotag.network import AudioRepInceptionNeXt, initialise
from audiotag.training.optimiser import Muon, Optimiser, normalise, orthogonal


def _network() -> AudioRepInceptionNeXt:
    torch.manual_seed(0)
    network = AudioRepInceptionNeXt(NetworkConfig(n_labels=5, width=4, depths=(2, 1), dropout=0.0))
    initialise(network)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.3)
    return network


def _learn(network: AudioRepInceptionNeXt, optimiser: Optimiser, *, step: int) -> float:
    generator = torch.Generator().manual_seed(step % 2)
    log_mels = torch.randn(8, 1, 32, 16, generator=generator)
    wanted = (torch.rand(8, 5, generator=generator) > 0.5).float()
    loss = nn.functional.binary_cross_entropy_with_logits(network.train()(log_mels), wanted)
    loss.backward()
    optimiser.step(3e-3)
    return loss.item()


@pytest.mark.parametrize("shape", [(24, 24), (96, 24), (24, 96), (24, 35), (1, 7), (7, 1)])
def test_an_orthogonal_step_goes_as_far_along_every_direction(shape: tuple[int, int]) -> None:
    torch.manual_seed(1)
    u, _, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    values = torch.logspace(0, -1.5, len(v))  # of a gradient: one direction has thirty times what another has
    got = u.t() @ orthogonal(1000 * u @ torch.diag(values) @ v) @ v.t()
    assert ((got.diag() > 0.6) & (got.diag() < 1.3)).all()
    assert (got - torch.diag(got.diag())).abs().max() < 1e-3


def test_normalising_changes_no_output() -> None:
    network = _network().eval()
    network.stem.norm.running_var.fill_(1e-7)  # a constant channel: less than what a BatchNorm adds to its variance
    log_mels = torch.randn(2, 1, 64, 32)
    before = network(log_mels)
    normalise(network)
    assert torch.allclose(network(log_mels), before, atol=1e-5 * before.abs().max().item())
    weight = network.stages[1][0].expand.conv.weight
    assert weight.norm().item() == pytest.approx(len(weight) ** 0.5)


def test_a_step_of_muon_keeps_the_norm_and_asks_only_for_the_gradients_direction() -> None:
    torch.manual_seed(2)
    start, gradient = torch.randn(12, 3, 5, 7), torch.randn(12, 3, 5, 7)
    start *= 12**0.5 / start.norm()
    ends = []
    for factor in (1e-6, 1.0, 1e6):
        weight = nn.Parameter(start.clone())
        optimiser = Muon([weight])
        optimiser.param_groups[0]["lr"] = 0.05
        weight.grad = factor * gradient
        optimiser.step()
        ends.append(weight.detach())
    assert torch.allclose(ends[0], ends[1], atol=1e-3)
    assert torch.allclose(ends[1], ends[2], atol=1e-5)
    step = (ends[1] - start).norm()
    assert 0.7 < step / (0.05 * 12**0.5) < 1.2
    assert ((ends[1] - start) * gradient).sum() < 0


def test_both_optimisers_lower_the_loss_and_leave_no_weight_alone() -> None:
    network = _network()
    normalise(network)
    before = copy.deepcopy(network.state_dict())
    optimiser = Optimiser(network, TrainConfig())
    losses = [_learn(network, optimiser, step=step) for step in range(40)]
    assert sum(losses[-2:]) < 0.8 * sum(losses[:2])
    assert not [name for name, value in network.named_parameters() if torch.equal(value, before[name])]
    for part in (network.stem, network.stages[0][0].reduce, network.stages[1][0].shortcut):
        assert part.conv.weight.norm().item() == pytest.approx(len(part.conv.weight) ** 0.5, rel=0.02)


def test_no_gradient_is_left_for_the_next_step() -> None:
    network = _network()
    _learn(network, Optimiser(network, TrainConfig()), step=0)
    assert all(value.grad is None for value in network.parameters())


def test_what_is_kept_of_earlier_steps_is_enough_to_go_on() -> None:
    network = _network()
    optimiser = Optimiser(network, TrainConfig())
    for step in range(3):
        _learn(network, optimiser, step=step)
    other = copy.deepcopy(network)
    resumed = Optimiser(other, TrainConfig())
    resumed.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    _learn(network, optimiser, step=3)
    _learn(other, resumed, step=3)
    for (name, value), again in zip(network.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(value, again), name
