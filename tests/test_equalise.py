"""Making a network ready for int8: the same function before rounding, less lost by it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from audiotag import equalise
from audiotag.config import NetworkConfig
from audiotag.equalise import PEAK_QUANTILE, ready_for_int8
from audiotag.network import AudioRepInceptionNeXt, Block, fuse, initialise


@pytest.fixture
def network() -> AudioRepInceptionNeXt:
    """A fused network whose channels differ tenfold and more in range, as depth-wise ones do."""
    torch.manual_seed(0)
    network = AudioRepInceptionNeXt(NetworkConfig(n_labels=5, width=8, depths=(1, 1, 1, 1)))
    initialise(network)
    network = fuse(network)
    with torch.no_grad():
        for block in (module for module in network.modules() if isinstance(module, Block)):
            for conv in (block.reduce, block.time, block.frequency):
                conv.weight *= torch.logspace(-0.3, 0.3, len(conv.weight))[:, None, None, None]
            block.project.weight.normal_(0.0, 0.05)
    return network


@pytest.fixture
def log_mels() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(0.0, 1.0, (4, 1, 32, 16)).astype(np.float32) for _ in range(2)]


def logits(network: AudioRepInceptionNeXt, log_mels: list[np.ndarray]) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([network(torch.from_numpy(batch)) for batch in log_mels])


def rounded(network: AudioRepInceptionNeXt) -> AudioRepInceptionNeXt:
    """The same network with its weights rounded as int8 has them."""
    with torch.no_grad():
        for conv in (module for module in network.modules() if isinstance(module, torch.nn.Conv2d)):
            if conv is not network.stem:
                step = conv.weight.abs().amax(dim=(1, 2, 3), keepdim=True) / equalise.WEIGHT_LEVELS
                conv.weight.copy_(torch.round(conv.weight / step) * step)
    return network


def test_scaling_channels_does_not_change_what_is_computed(
    network: AudioRepInceptionNeXt, log_mels: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(equalise, "_correct_biases", lambda network, seen: None)
    expected = logits(network, log_mels)
    found = logits(ready_for_int8(network, log_mels), log_mels)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_the_channels_of_depth_wise_convolutions_get_one_range(
    network: AudioRepInceptionNeXt, log_mels: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(equalise, "_correct_biases", lambda network, seen: None)

    def spread(network: AudioRepInceptionNeXt) -> float:
        """Largest over smallest peak of the channels that are heard at all."""
        seen = equalise._observe(network, log_mels)
        block = next(module for module in network.modules() if isinstance(module, Block))
        peaks = torch.cat(seen[block.time].peaks).quantile(PEAK_QUANTILE, dim=0)
        return float(peaks.max() / peaks[peaks > 0].min())

    assert spread(network) > 10
    assert spread(ready_for_int8(network, log_mels)) < 1.01


def test_corrected_biases_take_the_shift_out_of_rounded_weights(
    network: AudioRepInceptionNeXt, log_mels: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(equalise, "WEIGHT_LEVELS", 8)  # so coarse that the shift stands out
    expected = logits(network, log_mels).mean(dim=0)
    corrected = logits(rounded(ready_for_int8(network, log_mels)), log_mels).mean(dim=0)
    monkeypatch.setattr(equalise, "_correct_biases", lambda network, seen: None)
    plain = logits(rounded(ready_for_int8(network, log_mels)), log_mels).mean(dim=0)
    assert (corrected - expected).norm() < 0.6 * (plain - expected).norm()


def test_the_network_itself_is_left_alone(network: AudioRepInceptionNeXt, log_mels: list[np.ndarray]) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    ready_for_int8(network, log_mels)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


@pytest.fixture(params=[False, True], ids=["", "denormals flushed"])
def _denormals(request: pytest.FixtureRequest) -> Iterator[None]:
    torch.set_flush_denormal(request.param)  # as training does
    yield
    torch.set_flush_denormal(False)


@pytest.mark.usefixtures("_denormals")
def test_silent_channels_and_a_silent_network_are_no_problem(
    network: AudioRepInceptionNeXt, log_mels: list[np.ndarray]
) -> None:
    with torch.no_grad():
        for conv in (module for module in network.modules() if isinstance(module, torch.nn.Conv2d)):
            conv.weight.zero_()
            conv.bias.fill_(-1.0)
    assert torch.isfinite(logits(ready_for_int8(network, log_mels), log_mels)).all()
