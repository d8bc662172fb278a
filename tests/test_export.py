"""A network as ONNX: the same logits, the same bytes every time, and nothing left where something is wrong."""

from __future__ import annotations

import copy
import errno
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import soundfile
import torch
from conftest import TINY_RATE, Ran, chirp, make_tiny_network, noise, siren, tone

from audiotag.config import ModelConfig, NetworkConfig
from audiotag.engines.onnx import open_session
from audiotag.errors import DataError, ModelError, OutputError
from audiotag.export import (
    FP32_TOLERANCE,
    N_CALIBRATION_WINDOWS,
    calibration_log_mels,
    export_folder,
    export_onnx,
    quantise_int8,
    verify_folder,
    verify_onnx,
)
from audiotag.frontend import WindowLogMel
from audiotag.model_folder import ONNX, ONNX_INT8, WEIGHTS, open_model_folder, write_configs
from audiotag.network import AudioRepInceptionNeXt, fuse, round_to_half, save_fused

Run = Callable[..., Ran]


@pytest.fixture
def folder(tiny_config: ModelConfig, tiny_network: Any, tmp_path: Path) -> Path:
    """A model folder without ONNX files, as some Hub repositories are."""
    write_configs(tmp_path / "model", tiny_config)
    save_fused(fuse(tiny_network), tmp_path / "model" / WEIGHTS)
    return tmp_path / "model"


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """A folder of audio, with something that is none."""
    (tmp_path / "sounds").mkdir()
    for name, samples in {"chirp": chirp(seconds=2.0), "noise": noise(seconds=2.0), "siren": siren()}.items():
        soundfile.write(tmp_path / "sounds" / f"{name}.wav", samples, 8000)
    (tmp_path / "sounds" / "broken.wav").write_bytes(b"RIFF")
    return tmp_path / "sounds"


def logits_of(path: Path, log_mels: Any) -> Any:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"log_mel": log_mels})[0]


@pytest.mark.parametrize("config", [
    NetworkConfig(n_labels=3, width=4, depths=(1, 1, 1, 1), kernel_sizes=(7, 3)),
    NetworkConfig(n_labels=2, width=2, depths=(2, 1), kernel_sizes=(5,)),
], ids=["tiny", "two stages"])  # fmt: skip
@pytest.mark.parametrize("size", [(33, 16), (20, 21)])
def test_onnx_gives_torchs_logits_for_any_batch(config: NetworkConfig, size: tuple[int, int], tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = fuse(AudioRepInceptionNeXt(config))
    export_onnx(network, tmp_path / "model.onnx", n_frames=size[0], n_mels=size[1])
    for n in (1, 5):
        log_mels = np.random.default_rng(n).normal(size=(n, 1, *size)).astype(np.float32)
        with torch.no_grad():
            expected = network(torch.from_numpy(log_mels)).numpy()
        np.testing.assert_allclose(logits_of(tmp_path / "model.onnx", log_mels), expected, rtol=1e-4, atol=1e-5)


def test_the_file_is_the_same_every_time_and_holds_nothing_but_the_network(tiny_network: Any, tmp_path: Path) -> None:
    fused = fuse(tiny_network)
    for name in ("a.onnx", "b.onnx"):
        export_onnx(fused, tmp_path / name, n_frames=40, n_mels=16)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a.onnx", "b.onnx"]
    kinds = {node.op_type for node in onnx.load(tmp_path / "a.onnx").graph.node}
    assert kinds == {"Conv", "Relu", "Add", "MaxPool", "GlobalAveragePool", "Flatten", "Gemm"}


def test_rounded_weights_take_half_the_bytes_and_are_computed_with_in_float32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = fuse(AudioRepInceptionNeXt(NetworkConfig(n_labels=3, width=8)))
    export_onnx(network, tmp_path / "exact.onnx", n_frames=40, n_mels=16)
    round_to_half(network)
    export_onnx(network, tmp_path / "rounded.onnx", n_frames=40, n_mels=16)
    exact, rounded = ((tmp_path / f"{name}.onnx").stat().st_size for name in ("exact", "rounded"))
    assert rounded < 0.55 * exact
    log_mels = np.random.default_rng(0).normal(size=(2, 1, 40, 16)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(log_mels)).numpy()
    np.testing.assert_allclose(logits_of(tmp_path / "rounded.onnx", log_mels), expected, rtol=1e-4, atol=1e-5)
    open_session(tmp_path / "rounded.onnx", tmp_path / "optimised.onnx")  # as it is run: nothing is left to be cast
    assert "Cast" not in {node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node}


def test_int8_quantises_rounded_weights_as_it_does_exact_ones(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = fuse(AudioRepInceptionNeXt(NetworkConfig(n_labels=3, width=8)))
    round_to_half(network)
    log_mels = np.random.default_rng(0).normal(size=(8, 1, 40, 16)).astype(np.float32)
    quantise_int8(network, tmp_path / "int8.onnx", [log_mels])
    stored = {tensor.name: tensor for tensor in onnx.load(tmp_path / "int8.onnx").graph.initializer}
    n_bytes = {kind: sum(len(each.raw_data) for each in stored.values() if each.data_type == kind)
               for kind in (onnx.TensorProto.INT8, onnx.TensorProto.FLOAT)}  # fmt: skip
    assert n_bytes[onnx.TensorProto.INT8] > 0.9 * sum(tensor.numel() for tensor in network.parameters())
    assert n_bytes[onnx.TensorProto.FLOAT] < n_bytes[onnx.TensorProto.INT8]


def test_a_file_that_is_another_network_is_not_verified(tiny_network: Any, tmp_path: Path) -> None:
    fused = fuse(tiny_network)
    export_onnx(fused, tmp_path / "model.onnx", n_frames=40, n_mels=16)
    assert verify_onnx(fused, tmp_path / "model.onnx", n_frames=40, n_mels=16) <= FP32_TOLERANCE
    with torch.no_grad():
        fused.head.bias += 10.0
    with pytest.raises(ModelError, match="differ from torch's"):
        verify_onnx(fused, tmp_path / "model.onnx", n_frames=40, n_mels=16)


def test_a_disk_that_is_full_is_told_of_by_the_folders_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(OutputError, match=r"model: cannot be written: No space left on device\. Free some space"):
        export_folder(open_model_folder(folder))


def test_weights_that_are_no_numbers_leave_no_file(tiny_network: Any, tmp_path: Path) -> None:
    fused = fuse(tiny_network)
    with torch.no_grad():
        fused.head.bias += torch.nan
    with pytest.raises(ModelError):
        export_onnx(fused, tmp_path / "model.onnx", n_frames=40, n_mels=16)
    assert os.listdir(tmp_path) == []


def test_an_int8_file_that_does_not_follow_its_network_is_refused_and_not_left(
    tiny_network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quantise_another(source: Path, path: Path, batches: list[Any]) -> None:
        export_onnx(fuse(make_tiny_network(seed=1)), source, n_frames=40, n_mels=16)
        source.rename(path)

    monkeypatch.setattr("audiotag.export._quantise", quantise_another)
    log_mels = np.random.default_rng(0).normal(size=(8, 1, 40, 16)).astype(np.float32)
    with pytest.raises(ModelError, match=r"model\.onnx: int8 logits follow .* Calibrate with more varied sound"):
        quantise_int8(fuse(tiny_network), tmp_path / "model.onnx", [log_mels])
    assert os.listdir(tmp_path) == []


def test_an_int8_file_that_follows_its_network_less_than_usual_is_written_with_a_warning(
    tiny_network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A training of few clips that are alike ended without a model, after its last step."""
    network, rng = fuse(tiny_network), np.random.default_rng(0)
    log_mels = rng.normal(size=(8, 1, 40, 16)).astype(np.float32)
    logits = network(torch.from_numpy(log_mels))

    def quantise_badly(source: Path, path: Path, batches: list[Any]) -> None:
        other = copy.deepcopy(network)
        with torch.no_grad():
            other.head.bias -= 1.5 * float(logits.std()) * torch.linspace(-0.5, 0.5, logits.shape[1])
        export_onnx(other, source, n_frames=40, n_mels=16)
        source.rename(path)

    monkeypatch.setattr("audiotag.export._quantise", quantise_badly)
    quantise_int8(network, tmp_path / "model.onnx", [log_mels])
    assert os.listdir(tmp_path) == ["model.onnx"]
    assert re.search(r"with a correlation of 0\.[5-8]\d only\. .* measure what int8 costs", caplog.text)


def test_one_window_of_a_model_with_one_label_is_enough_for_int8(tmp_path: Path) -> None:
    network = fuse(AudioRepInceptionNeXt(NetworkConfig(n_labels=1, width=2, depths=(1,), kernel_sizes=(3,))))
    log_mels = np.random.default_rng(0).normal(size=(1, 1, 20, 16)).astype(np.float32)
    quantise_int8(network, tmp_path / "model.onnx", [log_mels])  # a single logit correlates with nothing
    assert os.listdir(tmp_path) == ["model.onnx"]


def test_export_writes_and_verifies_both_files(
    folder: Path, sounds: Path, run_audiotag: Run, caplog: pytest.LogCaptureFixture
) -> None:
    ran = run_audiotag("export", folder, "--int8", "--calibrate", sounds)
    assert (ran.code, ran.stdout) == (0, ""), ran.stderr
    assert "root" not in {record.name for record in caplog.records}, "ONNX Runtime's advice"
    assert "left out of the calibration" in ran.stderr
    assert verify_folder(open_model_folder(folder)) <= FP32_TOLERANCE
    assert run_audiotag("export", folder, "--verify").code == 0
    batches = calibration_log_mels(sounds, open_model_folder(folder).config)
    exact, quantised = (np.concatenate([logits_of(folder / name, batch) for batch in batches])
                        for name in (ONNX, ONNX_INT8))  # fmt: skip
    assert np.corrcoef(exact.ravel(), quantised.ravel())[0, 1] > 0.98


def test_a_place_that_cannot_be_written_is_one_line(folder: Path, run_audiotag: Run) -> None:
    (folder / "onnx" / "model.partial").mkdir(parents=True)
    ran = run_audiotag("export", folder)
    assert (ran.code, ran.stderr.count("\n")) == (1, 1)
    assert "model.partial: cannot be written: Is a directory. Choose a place where you may write" in ran.stderr


def test_int8_weights_have_7_bits_and_a_scale_for_each_channel_and_those_of_the_float_nodes_stay_as_they_are(
    folder: Path, sounds: Path, run_audiotag: Run
) -> None:
    run_audiotag("export", folder, "--int8", "--calibrate", sounds)
    weights = {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(folder / ONNX_INT8).graph.initializer}
    scales = [weight for name, weight in weights.items() if name.endswith("time.weight_scale")]
    assert scales
    assert all(len(weight) > 1 for weight in scales)
    quantised = [weight for weight in weights.values() if weight.dtype == np.int8 and weight.ndim == 4]
    assert max(int(np.abs(weight).max()) for weight in quantised) <= 64, "8 bits overflow on CPUs without VNNI"
    assert {"stem.weight", "stages.0.0.reduce.weight", "head.weight"} <= set(weights)


def test_a_new_int8_file_is_not_the_default_by_what_the_old_one_cost(
    folder: Path, sounds: Path, tiny_config: ModelConfig, run_audiotag: Run
) -> None:
    write_configs(folder, replace(tiny_config, int8_map_loss=0.1))
    run_audiotag("export", folder)
    assert open_model_folder(folder).config.int8_map_loss == 0.1, "there is no new int8 file"
    ran = run_audiotag("export", folder, "--int8", "--calibrate", sounds)
    assert (ran.code, open_model_folder(folder).config.int8_map_loss) == (0, None)
    assert "what the new int8 file costs is not known, so float32 is the default" in ran.stderr
    assert "costs" not in run_audiotag("export", folder, "--int8", "--calibrate", sounds).stderr


def test_verify_writes_nothing(folder: Path, run_audiotag: Run) -> None:
    ran = run_audiotag("export", folder, "--verify")
    assert ran.code == 1
    assert "onnx/model.onnx is missing. Run `audiotag export" in ran.stderr
    assert not (folder / ONNX).exists()


def _take_two(model: Any) -> None:
    model.graph.input.append(onnx.helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, [1]))


def _give_nothing(model: Any) -> None:
    del model.graph.output[:]


def _keep_weights_elsewhere(model: Any) -> None:
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../weights.bin")


def _take_one_window(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


@pytest.mark.parametrize(
    ("change", "verified", "run"),
    [
        (_take_two, "but the configuration says", "but the configuration says"),
        (_give_nothing, "but the configuration says", "but the configuration says"),
        (_keep_weights_elsewhere, "not a graph that runs", "not a graph that runs"),
        (_take_one_window, "not a graph that runs", "Got invalid dimensions"),
    ],
)
def test_a_graph_of_somebody_else_s_making_is_one_line(
    tiny_model_folder: Path, sounds: Path, tmp_path: Path, run_audiotag: Run, change: Any, verified: str, run: str
) -> None:
    own = Path(shutil.copytree(tiny_model_folder, tmp_path / "own"))
    model = onnx.load(own / ONNX)
    change(model)
    (own / ONNX).write_bytes(model.SerializeToString())
    ran = run_audiotag("export", own, "--verify")
    assert (ran.code, ran.stderr.count("\n")) == (1, 1)
    assert f"{own / ONNX}: " in ran.stderr
    assert verified in ran.stderr
    ran = run_audiotag("predict", sounds / "chirp.wav", "--model", own, "--precision", "fp32")
    assert (ran.code, ran.stderr.count("\n")) == (1, 1)
    assert run in ran.stderr


@pytest.mark.parametrize(("arguments", "code"), [
    (["--int8"], 2), (["--calibrate", "."], 2), (["--int8", "--calibrate", "nowhere"], 1),
    (["--verify", "--int8", "--calibrate", "."], 2),
])  # fmt: skip
def test_options_that_do_not_go_together_are_refused(
    arguments: list[str], code: int, folder: Path, run_audiotag: Run
) -> None:
    ran = run_audiotag("export", folder, *arguments)
    assert (ran.code, ran.stderr.count("\n")) == (code, 1)


def test_int8_without_sound_is_refused(
    folder: Path, tiny_config: ModelConfig, tiny_network: Any, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no audio"):
        calibration_log_mels(tmp_path / "empty", tiny_config)
    with pytest.raises(ModelError, match="needs log-mels of real sound"):
        quantise_int8(fuse(tiny_network), folder / ONNX_INT8, [])


@pytest.mark.parametrize("n_files", [1, 50, 65, 100, 191, 400])
def test_int8_is_calibrated_on_files_from_all_over_the_folder(
    n_files: int, tiny_config: ModelConfig, tmp_path: Path
) -> None:
    seconds = 60.0 if n_files == 1 else 1.0
    for number in range(n_files):
        louder = np.float32((number + 1) / n_files)
        soundfile.write(tmp_path / f"{number:03}.wav", louder * tone(seconds=seconds), TINY_RATE, subtype="FLOAT")
    peaks = np.concatenate(calibration_log_mels(tmp_path, tiny_config)).max(axis=(1, 2, 3))
    n_samples = tiny_config.window.n_samples
    loudest = WindowLogMel(tiny_config.frontend, tiny_config.window)([tone()[:n_samples]]).max()
    numbers = sorted({round(float(ratio) * n_files) - 1 for ratio in np.exp(peaks - loudest)})
    assert len(peaks) == N_CALIBRATION_WINDOWS
    assert len(numbers) == min(n_files, N_CALIBRATION_WINDOWS)
    assert np.diff([-1, *numbers, n_files]).max() <= -(-n_files // N_CALIBRATION_WINDOWS)
