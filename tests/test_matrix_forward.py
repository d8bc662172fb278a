"""The CPU's training forward is the network's own: same logits, same gradients, same running statistics."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from audiotag.config import NetworkConfig
from audiotag.network import AudioRepInceptionNeXt, initialise
from audiotag.training.matrix_forward import training_logits


def _network(kernel_sizes: tuple[int, ...] = (21, 11, 3), dropout: float = 0.0) -> AudioRepInceptionNeXt:
    """In float64 with every BatchNorm away from where it starts, so that no path is silent."""
    torch.manual_seed(0)
    config = NetworkConfig(n_labels=5, width=4, depths=(2, 1, 2, 1), kernel_sizes=kernel_sizes, dropout=dropout)
    network = AudioRepInceptionNeXt(config)
    initialise(network)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
    return network.double().train()


@pytest.mark.parametrize("kernel_sizes", [(21, 11, 3), (21,), (3,), (5, 3)])
@pytest.mark.parametrize(("n_frames", "n_mels"), [(160, 64), (97, 40), (33, 128)])
def test_logits_gradients_and_statistics_are_the_networks(
    kernel_sizes: tuple[int, ...], n_frames: int, n_mels: int
) -> None:
    network = _network(kernel_sizes)
    other = copy.deepcopy(network)
    log_mels = torch.randn(3, 1, n_frames, n_mels, dtype=torch.float64)
    weights = torch.randn(3, 5, dtype=torch.float64)
    expected, got = network(log_mels), training_logits(other, log_mels)
    assert torch.allclose(got, expected, rtol=0, atol=1e-10)

    (expected * weights).sum().backward()
    (got * weights).sum().backward()
    for (name, ours), theirs in zip(other.named_parameters(), network.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, rtol=1e-7, atol=1e-9), name
    for (name, ours), theirs in zip(other.named_buffers(), network.buffers(), strict=True):
        assert torch.allclose(ours.double(), theirs.double(), rtol=0, atol=1e-10), name


def test_float32_is_as_close_to_float64_as_the_network_is() -> None:
    exact = _network()
    network = copy.deepcopy(exact).float()
    other = copy.deepcopy(network)
    log_mels = 3.0 * torch.randn(4, 1, 160, 64) - 2.0
    expected = exact(log_mels.double())
    error = (training_logits(other, log_mels) - expected).abs().max()
    assert error < max(3 * (network(log_mels) - expected).abs().max(), 1e-4)


def test_dropout_is_applied_while_training() -> None:
    network = _network(dropout=0.5)
    log_mels = torch.randn(2, 1, 64, 64, dtype=torch.float64)
    assert not torch.equal(training_logits(network, log_mels), training_logits(network, log_mels))


def test_steps_of_an_optimiser_follow_the_same_path() -> None:
    network = _network()
    other = copy.deepcopy(network)
    batches = torch.randn(5, 3, 1, 64, 32, dtype=torch.float64)
    for model, forward in ((network, network), (other, lambda x: training_logits(other, x))):
        optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
        for batch in batches:
            optimiser.zero_grad()
            forward(batch).square().sum().backward()
            optimiser.step()
    difference = max((a - b).abs().max().item() for a, b in zip(network.parameters(), other.parameters(), strict=True))
    assert difference < 1e-9
