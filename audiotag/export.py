"""A fused network as ONNX: float32, and int8 quantised on real log-mels. Each file is verified when it is written.

The graph is built node by node: a fused network is nothing but convolutions, ReLUs, additions, one pooling and one
matrix product, and so the file is the same with every release of torch.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from torch import nn

from audiotag import __version__
from audiotag.audio import open_audio
from audiotag.config import ModelConfig
from audiotag.engines.onnx import RUNTIME_ERRORS, OnnxEngine, open_session
from audiotag.equalise import ready_for_int8
from audiotag.errors import AudioError, DataError, ModelError
from audiotag.frontend import WindowLogMel
from audiotag.inputs import Input, find_inputs
from audiotag.model_card import write_model_card
from audiotag.model_folder import ONNX, ONNX_INT8, WEIGHTS, ModelFolder, write_configs
from audiotag.network import AudioRepInceptionNeXt, Block, load_fused, save_fused, stored_type
from audiotag.windows import cut_windows
from audiotag.writers import output_error

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]

N_CALIBRATION_WINDOWS = 96
CALIBRATION_BATCH = 8  # windows; the activations of one batch are held at a time

OPSET = 17  # ONNX 1.12: every ONNX Runtime that audiotag allows reads it
IR_VERSION = 8
INPUT, OUTPUT = "log_mel", "logits"
STEM = "stem"  # the first convolution; `OUTPUT` is also the name of the last node
# Nodes that int8 leaves in float32: 8 bits are coarse for log-mels and what the stem makes of them, and for logits that
# differ by hundredths. With only stem and output left out, the default model lost 0.5 to 0.7 points of mAP; with all
# four it loses 0.1 to 0.5, at 0.99 times the speed on the published size.
FLOAT_NODES = (STEM, "pool", "stages.0.0.reduce", OUTPUT)

# Largest difference of a logit from torch's, relative to the largest logit: float32 in another order of summation.
FP32_TOLERANCE = 1e-4
# Least correlation of int8 logits with the float32 ones over the first calibration batch. Below the lower one something
# is broken. Between the two, clips that are few and alike may be the reason, at the end of hours of training: the file
# is written, and what it costs is measured on labelled clips.
LEAST_INT8_CORRELATION, USUAL_INT8_CORRELATION = 0.5, 0.9


class _Graph:
    """Nodes and weights of a graph under construction; every method takes and gives the name of a tensor."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype  # what weights are stored in; they are cast to float32 where the session is opened
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def weight(self, tensor: torch.Tensor, name: str) -> str:
        is_exact = self.dtype == torch.float32
        stored = name if is_exact else f"{name}.stored"
        self.weights.append(numpy_helper.from_array(tensor.detach().to(self.dtype).cpu().numpy(), stored))
        return name if is_exact else self.add("Cast", [stored], name, to=TensorProto.FLOAT)

    def conv(self, module: nn.Module, x: str, name: str) -> str:
        assert isinstance(module, nn.Conv2d)
        assert module.bias is not None
        rows, columns = module.kernel_size[0] // 2, module.kernel_size[1] // 2
        inputs = [x, self.weight(module.weight, f"{name}.weight"), self.weight(module.bias, f"{name}.bias")]
        return self.add(
            "Conv", inputs, name, kernel_shape=list(module.kernel_size), strides=list(module.stride),
            pads=[rows, columns, rows, columns], group=module.groups,
        )  # fmt: skip

    def conv_relu(self, module: nn.Module, x: str, name: str) -> str:
        return self.add("Relu", [self.conv(module, x, name)], f"{name}.relu")

    def block(self, module: Block, x: str, name: str) -> str:
        y = self.conv_relu(module.reduce, x, f"{name}.reduce")
        y = self.conv_relu(module.time, y, f"{name}.time")
        y = self.conv_relu(module.frequency, y, f"{name}.frequency")
        y = self.conv_relu(module.expand, y, f"{name}.expand")
        y = self.conv(module.project, y, f"{name}.project")
        shortcut = x if isinstance(module.shortcut, nn.Identity) else self.conv(module.shortcut, x, f"{name}.shortcut")
        return self.add("Relu", [self.add("Add", [shortcut, y], f"{name}.sum")], f"{name}.relu")

    def network(self, module: AudioRepInceptionNeXt) -> str:
        x = self.conv_relu(module.stem, INPUT, STEM)
        x = self.add("MaxPool", [x], "pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        for number, stage in enumerate(module.stages):
            assert isinstance(stage, nn.Sequential)
            for position, block in enumerate(stage):
                assert isinstance(block, Block)
                x = self.block(block, x, f"stages.{number}.{position}")
        x = self.add("Flatten", [self.add("GlobalAveragePool", [x], "average")], "features")
        head = [self.weight(module.head.weight, "head.weight"), self.weight(module.head.bias, "head.bias")]
        return self.add("Gemm", [x, *head], OUTPUT, transB=1)


def export_onnx(
    network: AudioRepInceptionNeXt, path: Path, *, n_frames: int, n_mels: int, dtype: torch.dtype | None = None
) -> None:
    """Writes a fused network as float32 ONNX: `log_mel [batch, 1, n_frames, n_mels]` -> `logits [batch, class]`.

    The weights are stored as `dtype`, or as safetensors would store them.

    Raises:
        ModelError: ONNX Runtime's logits are not torch's; nothing is left behind.
    """
    graph = _Graph(dtype or stored_type(network))
    graph.network(network)
    n_labels = network.config.n_labels
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "AudioRepInceptionNeXt",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", 1, n_frames, n_mels])],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", n_labels])],
            graph.weights,
        ),
        producer_name="audiotag",
        producer_version=__version__,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(model)
    partial = path.with_suffix(".partial")
    partial.write_bytes(model.SerializeToString(deterministic=True))
    try:
        verify_onnx(network, partial, n_frames=n_frames, n_mels=n_mels)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def verify_onnx(network: AudioRepInceptionNeXt, path: Path, *, n_frames: int, n_mels: int) -> float:
    """Compares ONNX Runtime with torch on log-mels of noise, and gives the largest relative difference.

    Raises:
        ModelError: it is above `FP32_TOLERANCE`.
    """
    log_mels = np.random.default_rng(0).normal(-4.0, 3.0, (3, 1, n_frames, n_mels)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(log_mels)).numpy()
    difference = float(np.abs(_run(path, log_mels) - expected).max() / np.abs(expected).max())
    if not difference <= FP32_TOLERANCE:
        raise ModelError(f"{path}: ONNX Runtime's logits differ from torch's by {difference:.1e}. Report this")
    return difference


def _run(path: Path, log_mels: FloatArray) -> FloatArray:
    session = open_session(path)
    try:
        (logits,) = session.run(None, {session.get_inputs()[0].name: log_mels})
    except RUNTIME_ERRORS as error:
        raise ModelError(f"{path}: not a graph that runs: {error}. Run `audiotag export` on the folder") from error
    return np.asarray(logits)


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Hands calibration batches to ONNX Runtime; a range of them where it asks for one (`CalibStridedMinMax`)."""

    def __init__(self, batches: Sequence[FloatArray]) -> None:
        self._all = batches
        self._batches: Iterator[FloatArray] = iter(batches)

    def __len__(self) -> int:
        return len(self._all)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._batches = iter(self._all[start_index:end_index])

    def get_next(self) -> dict[str, FloatArray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def quantise_int8(network: AudioRepInceptionNeXt, path: Path, calibration: Iterable[FloatArray]) -> None:
    """Writes the int8 form (QDQ) of a fused network: weights per channel, activations per tensor.

    `calibration` gives log-mels `[n, 1, frame, mel]` of real sound; the ranges of the activations come from them.
    Weights use 7 bits: the 16-bit sums of CPUs without VNNI would overflow with 8
    (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html, "reduce_range").

    Raises:
        ModelError: there is no calibration window, or the result does not follow the network; nothing is left.
    """
    batches = list(calibration)
    if not sum(map(len, batches)):
        raise ModelError(f"{path}: int8 needs log-mels of real sound to find its ranges. Give a folder to --calibrate")
    exact, partial = path.with_suffix(".ready"), path.with_suffix(".partial")
    _, _, n_frames, n_mels = batches[0].shape
    try:
        # Weights behind a cast would not be quantised.
        ready = ready_for_int8(network, batches)
        export_onnx(ready, exact, n_frames=n_frames, n_mels=n_mels, dtype=torch.float32)
        _quantise(exact, partial, batches)
        _verify_int8(network, partial, batches[0], path)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
        exact.unlink(missing_ok=True)


def _quantise(source: Path, path: Path, batches: list[FloatArray]) -> None:
    # Percentiles (99.999) instead of extremes: on the first default model int8 lost 0.04 points of mAP against 0.3.
    with _silence():
        quantize_static(
            str(source), str(path), _Reader(batches), quant_format=QuantFormat.QDQ, per_channel=True,
            reduce_range=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.Percentile, nodes_to_exclude=list(FLOAT_NODES),
            # One batch at a time, whatever the method: all activations of all batches would be held otherwise.
            extra_options={"CalibStridedMinMax": 1},
        )  # fmt: skip


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """The calibration prints its progress to stdout, which carries data only, and advises through the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _verify_int8(network: AudioRepInceptionNeXt, path: Path, log_mels: FloatArray, shown: Path) -> None:
    with torch.no_grad():
        exact = network(torch.from_numpy(log_mels)).numpy().ravel()
    quantised = _run(path, log_mels).ravel()
    if exact.std() == 0:
        return
    correlation = float(np.corrcoef(exact, quantised)[0, 1])
    told = f"int8 logits follow the float32 ones with a correlation of {correlation:.2f} only"
    if not correlation >= LEAST_INT8_CORRELATION:
        raise ModelError(f"{shown}: {told}. Calibrate with more varied sound")
    if correlation < USUAL_INT8_CORRELATION:
        logger.warning("%s: %s. Calibrate with more varied sound, or measure what int8 costs", shown, told)


def write_weights(
    folder: Path, network: AudioRepInceptionNeXt, config: ModelConfig, calibration: Iterable[FloatArray] | None = None
) -> None:
    """Writes the files of a model folder that hold a fused network: safetensors, ONNX, and with `calibration` int8.

    Raises:
        ModelError: a file is not what it should be; then it is not written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_fused(network, folder / WEIGHTS)
    _write_onnx(folder, network, config, calibration)


def _write_onnx(
    folder: Path, network: AudioRepInceptionNeXt, config: ModelConfig, calibration: Iterable[FloatArray] | None
) -> None:
    (folder / ONNX).parent.mkdir(exist_ok=True)
    export_onnx(network, folder / ONNX, n_frames=config.window.n_frames, n_mels=config.frontend.n_mels)
    if calibration is not None:
        quantise_int8(network, folder / ONNX_INT8, calibration)


def export_folder(folder: ModelFolder, *, calibrate: Path | None = None) -> None:
    """Writes a model folder's `onnx/model.onnx` anew from its weights, and the int8 form with audio to calibrate on.

    The figures of another int8 file tell nothing about the new one, which is not the default until its own are known:
    they are taken out of the configuration and the card.

    Raises:
        ModelError: the weights do not fit, or a file is not what it should be; then it is not written.
        DataError: `calibrate` holds no audio.
        OutputError: the folder cannot be written to.
    """
    network = load_fused(folder.file(WEIGHTS), folder.config.network)
    calibration = None if calibrate is None else calibration_log_mels(calibrate, folder.config)
    try:
        if calibration is not None and folder.config.int8_map_loss is not None:
            logger.warning("%s: what the new int8 file costs is not known, so float32 is the default", folder.path)
            _forget_int8(folder)
        _write_onnx(folder.path, network, folder.config, calibration)
    except OSError as error:
        raise output_error(error.filename or folder.path, error) from error


def _forget_int8(folder: ModelFolder) -> None:
    """Takes the figures of an int8 file out of the configuration, and out of the card that a training made of it."""
    config = replace(folder.config, int8_map_loss=None, metrics=_without_int8(folder.config.metrics))
    write_configs(folder.path, config)
    if "fp32" in config.metrics:
        write_model_card(folder.path, config)


def _without_int8(found: Any) -> Any:
    if isinstance(found, dict):
        return {name: _without_int8(value) for name, value in found.items() if name != "int8"}
    return [_without_int8(each) for each in found] if isinstance(found, list) else found


def verify_folder(folder: ModelFolder) -> float:
    """Holds a model folder's `onnx/model.onnx` to its weights; the largest difference relative to the largest logit.

    Raises:
        ModelError: a file is missing or does not fit, or the difference is above `FP32_TOLERANCE`.
    """
    OnnxEngine(folder.file(ONNX), folder.config, precision="fp32")  # holds its shapes to the configuration
    network = load_fused(folder.file(WEIGHTS), folder.config.network)
    window, frontend = folder.config.window, folder.config.frontend
    return verify_onnx(network, folder.file(ONNX), n_frames=window.n_frames, n_mels=frontend.n_mels)


def calibration_log_mels(folder: Path, config: ModelConfig) -> list[FloatArray]:
    """Batches of log-mels of the audio in a folder: `N_CALIBRATION_WINDOWS` at most, from files spread evenly over it.

    Raises:
        DataError: no audio in it can be read.
    """
    inputs = [found for found in find_inputs([str(folder)]) if isinstance(found, Input)]
    n_files = min(len(inputs), N_CALIBRATION_WINDOWS)
    chosen = [inputs[number * len(inputs) // n_files] for number in range(n_files)]
    per_file = -(-N_CALIBRATION_WINDOWS // max(1, n_files))
    # The first windows of all files, then the second ones: what is too much comes from no file alone.
    rounds = zip_longest(*(_first_windows(given, config, per_file) for given in chosen))
    windows = [window for each in rounds for window in each if window is not None]
    if not windows:
        raise DataError(f"{folder}: holds no audio that can be read. Give another folder to --calibrate")
    log_mel = WindowLogMel(config.frontend, config.window)
    kept = windows[:N_CALIBRATION_WINDOWS]
    return [log_mel(kept[first : first + CALIBRATION_BATCH]) for first in range(0, len(kept), CALIBRATION_BATCH)]


def _first_windows(given: Input, config: ModelConfig, n_windows: int) -> list[FloatArray]:
    assert given.source is not None
    window = config.window
    try:
        with open_audio(given.source, sample_rate=config.frontend.sample_rate) as stream:
            cut = cut_windows(stream, window=window, hop=window.n_samples)
            return [each.samples[0] for each in islice(cut, n_windows)]
    except AudioError as error:
        logger.warning("%s: left out of the calibration: %s", given.path, error)
        return []
