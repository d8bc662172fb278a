"""The network in its two forms: the same function, with nothing of training left in the fused one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from audiotag.config import NetworkConfig
from audiotag.errors import ModelError
from audiotag.network import (
    AudioRepInceptionNeXt,
    MultiBranchConv,
    fuse,
    initialise,
    load_fused,
    round_to_half,
    save_fused,
    stored_type,
)

PUBLISHED = NetworkConfig(n_labels=309)
TINY = NetworkConfig(n_labels=5, width=4, depths=(1, 2, 1, 1), kernel_sizes=(7, 5, 3))

# Rounding of one dtype, relative to the largest logit; fusing reorders sums and nothing else.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5}


def randomised(config: NetworkConfig, *, seed: int = 0) -> AudioRepInceptionNeXt:
    """A network whose BatchNorms are far from the identity; `initialise` alone would switch the blocks off."""
    torch.manual_seed(seed)
    network = AudioRepInceptionNeXt(config).eval()
    initialise(network)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.2, 0.6)
            nn.init.uniform_(module.bias, -0.3, 0.3)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 1.5)
    return network


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(("config", "frames", "mels"), [(TINY, 75, 33), (PUBLISHED, 96, 64)], ids=["tiny", "published"])
def test_fused_form_is_the_same_function(config: NetworkConfig, frames: int, mels: int, dtype: torch.dtype) -> None:
    network = randomised(config).to(dtype)
    x = torch.randn(2, 1, frames, mels, dtype=dtype)
    with torch.no_grad():
        expected, found = network(x), fuse(network)(x)
    assert expected.std() > 0
    assert (found - expected).abs().max() <= TOLERANCES[dtype] * expected.abs().max()


def test_nothing_of_training_is_left_in_the_fused_form() -> None:
    fused = fuse(randomised(TINY))
    assert not any(isinstance(module, nn.BatchNorm2d | MultiBranchConv) for module in fused.modules())
    assert all(module.bias is not None for module in fused.modules() if isinstance(module, nn.Conv2d))
    n_convolutions = sum(isinstance(module, nn.Conv2d) for module in fused.modules())
    assert n_convolutions == 1 + 5 * sum(TINY.depths) + 3  # stem, blocks, a shortcut where a stage changes shape


def test_fusing_leaves_the_network_as_it_was_and_a_fused_one_alone() -> None:
    network = randomised(TINY)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fused = fuse(network)
    torch.testing.assert_close(dict(network.state_dict()), before, rtol=0, atol=0)
    torch.testing.assert_close(dict(fuse(fused).state_dict()), dict(fused.state_dict()), rtol=0, atol=0)


def test_published_size_has_the_published_parameters() -> None:
    with torch.device("meta"):
        network = AudioRepInceptionNeXt(PUBLISHED)
    fused = fuse(network)
    assert sum(p.numel() for p in network.parameters()) == 11_834_869
    assert sum(p.numel() for p in fused.parameters()) == PUBLISHED.n_parameters == 11_667_765


def test_published_size_costs_the_published_operations() -> None:
    # The authors' 2.5285 GMACs of their merged form, which is what remains of ours: the identities cost no product.
    assert PUBLISHED.n_macs(512, 128) / 1e9 == pytest.approx(2.5285, abs=1e-4)


@pytest.mark.parametrize("shape", [(53, 31), (217, 56)])
def test_operations_are_those_of_the_layers_also_where_halves_are_rounded_up(shape: tuple[int, int]) -> None:
    network, counts = fuse(randomised(TINY)), []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(lambda layer, _, out: counts.append(out.numel() * layer.weight[0].numel()))
    network(torch.zeros(1, 1, *shape))
    assert TINY.n_macs(*shape) == sum(counts)


def test_an_untrained_block_is_its_shortcut() -> None:
    network = AudioRepInceptionNeXt(TINY).eval()
    initialise(network)
    block = network.stages[0][0]  # type: ignore[index]
    x = torch.rand(2, 4, 9, 7)
    torch.testing.assert_close(block(x), x)


def test_weights_survive_a_file(tmp_path: Path) -> None:
    fused = fuse(randomised(TINY))
    save_fused(fused, tmp_path / "model.safetensors")
    loaded = load_fused(tmp_path / "model.safetensors", TINY)
    torch.testing.assert_close(dict(loaded.state_dict()), dict(fused.state_dict()), rtol=0, atol=0)


def test_rounded_weights_take_half_the_bytes_and_lose_nothing_in_a_file(tmp_path: Path) -> None:
    exact, rounded = fuse(randomised(TINY)), fuse(randomised(TINY))
    round_to_half(rounded)
    for name, network in {"exact": exact, "rounded": rounded}.items():
        save_fused(network, tmp_path / name)
        loaded = load_fused(tmp_path / name, TINY)
        torch.testing.assert_close(dict(loaded.state_dict()), dict(network.state_dict()), rtol=0, atol=0)
    x = torch.rand(2, 1, 33, 16)
    torch.testing.assert_close(rounded(x), exact(x), rtol=5e-3, atol=5e-3)
    saved = {name: safetensors.torch.load_file(tmp_path / name) for name in ("exact", "rounded")}
    assert {tensor.dtype for tensor in saved["exact"].values()} == {torch.float32}
    assert {tensor.dtype for tensor in saved["rounded"].values()} == {torch.float16}


@torch.no_grad()
def test_weights_beyond_half_precisions_range_are_not_rounded() -> None:
    network = fuse(randomised(TINY))
    network.head.bias[0] = 70_000.0
    kept = network.head.bias.clone()
    round_to_half(network)
    assert torch.equal(network.head.bias, kept)
    assert stored_type(network) == torch.float32


def test_a_file_that_does_not_fit_names_the_tensor(tmp_path: Path) -> None:
    save_fused(fuse(randomised(TINY)), tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"'head.weight' has shape \[5, 32\], the configuration wants \[6, 32\]"):
        load_fused(tmp_path / "model.safetensors", NetworkConfig(n_labels=6, width=4, depths=(1, 2, 1, 1),
                                                                 kernel_sizes=(7, 5, 3)))  # fmt: skip


def test_a_network_that_the_file_does_not_hold_takes_no_memory(tmp_path: Path) -> None:
    save_fused(fuse(randomised(TINY)), tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"the configuration wants \[100000000000000, 32\]"):
        load_fused(tmp_path / "model.safetensors", replace(TINY, n_labels=10**14))


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\xff" * 64])
def test_a_file_that_is_no_safetensors_is_a_model_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        load_fused(tmp_path / "model.safetensors", TINY)
