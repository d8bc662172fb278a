"""A training that begins with a finished model: the same outputs, in the form that is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from audiotag.config import TrainConfig
from audiotag.model_folder import ModelFolder, open_model_folder, write_configs
from audiotag.network import AudioRepInceptionNeXt, MultiBranchConv, fuse, initialise, load_fused, save_fused
from audiotag.training.recipe import model_config
from audiotag.training.start import start_from

RECIPE = TrainConfig(width=4, depths=(2, 1), kernel_sizes=(7, 5, 3), n_frames=33, n_mels=16, dropout=0.0)


@pytest.fixture
def source(tmp_path: Path) -> ModelFolder:
    """A finished model: random weights, and norms that are not as they were initialised."""
    torch.manual_seed(0)
    model = model_config(("Bark", "Meow", "Moo"), RECIPE)
    network = AudioRepInceptionNeXt(model.network)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for values in (module.weight, module.bias, module.running_mean, module.running_var):
                assert values is not None
                torch.nn.init.uniform_(values, 0.5, 1.5)
    write_configs(tmp_path, model)
    save_fused(fuse(network), tmp_path / "model.safetensors")
    return open_model_folder(tmp_path)


def begun(source: ModelFolder, labels: tuple[str, ...], log_mels: torch.Tensor) -> AudioRepInceptionNeXt:
    network = AudioRepInceptionNeXt(replace(source.config.network, n_labels=len(labels)))
    initialise(network)
    start_from(network, labels, source, log_mels)
    return network


@torch.no_grad()
def logits_of(source: ModelFolder, log_mels: torch.Tensor) -> torch.Tensor:
    fused = load_fused(source.file("model.safetensors"), source.config.network)
    return fused(log_mels)  # type: ignore[no-any-return]


@torch.no_grad()
@pytest.mark.parametrize("shape", [(33, 16), (50, 20)])
def test_the_multi_branch_form_gives_what_the_model_gives(source: ModelFolder, shape: tuple[int, int]) -> None:
    network = begun(source, source.config.labels, torch.randn(8, 1, *shape) - 2)
    for log_mels in (torch.randn(3, 1, 33, 16), torch.randn(2, 1, *shape) * 5):
        expected = logits_of(source, log_mels)
        tolerance = 1e-5 * float(expected.abs().max())
        assert torch.allclose(network.eval()(log_mels), expected, atol=tolerance)
        assert torch.allclose(fuse(network)(log_mels), expected, atol=tolerance)


@torch.no_grad()
def test_training_mode_begins_where_evaluation_mode_does(source: ModelFolder) -> None:
    log_mels = torch.randn(8, 1, 33, 16) - 2
    network = begun(source, source.config.labels, log_mels)
    expected = logits_of(source, log_mels)
    assert torch.allclose(network.train()(log_mels), expected, atol=1e-4 * float(expected.abs().max()))


def test_every_branch_learns(source: ModelFolder) -> None:
    log_mels = torch.randn(8, 1, 33, 16)
    network = begun(source, source.config.labels, log_mels).train()
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-3)
    for _ in range(2):  # the gain of a smaller branch moves first, its kernel after it
        optimiser.zero_grad()
        network(log_mels).square().sum().backward()
        optimiser.step()
    for module in network.modules():
        if isinstance(module, MultiBranchConv):
            for branch in module.branches:
                assert branch.conv.weight.grad.abs().max() > 0  # type: ignore[union-attr, operator]


def test_labels_are_matched_by_name(source: ModelFolder) -> None:
    log_mels = torch.randn(8, 1, 33, 16)
    network = begun(source, ("Moo", "Neigh", "Bark"), log_mels)
    with torch.no_grad():
        logits = network.eval()(log_mels)
    expected = logits_of(source, log_mels)
    assert torch.allclose(logits[:, [2, 0]], expected[:, [0, 2]], rtol=1e-4, atol=1e-4)
    assert network.head.bias[1].item() == 0
    assert network.head.weight[1].std().item() == pytest.approx(0.01, rel=1), "as `initialise` left it"
