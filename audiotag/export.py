"""A fused network as ONNX: float32, and int8 quantised on real log-mels. Each file is verified when it is written.

The graph is built node by node: a fused network is nothing but convolutions, ReLUs, additions, one pooling and one
matrix product, and so the file is the same with every release of torch.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
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
from audiotag.errors import ModelError
from audiotag.network import AudioRepInceptionNeXt, Block

FloatArray = npt.NDArray[np.float32]

OPSET = 17  # ONNX 1.12: every ONNX Runtime that audiotag allows reads it
IR_VERSION = 8
INPUT, OUTPUT = "log_mel", "logits"

# Largest difference of a logit from torch's, relative to the largest logit: float32 in another order of summation.
FP32_TOLERANCE = 1e-4
# Least correlation of int8 logits with the float32 ones over the calibration windows. Below it something is broken;
# what int8 costs is measured on labelled clips.
LEAST_INT8_CORRELATION = 0.9


class _Graph:
    """Nodes and weights of a graph under construction; every method takes and gives the name of a tensor."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def weight(self, tensor: torch.Tensor, name: str) -> str:
        self.weights.append(numpy_helper.from_array(tensor.detach().float().cpu().numpy(), name))
        return name

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
        x = self.conv_relu(module.stem, INPUT, "stem")
        x = self.add("MaxPool", [x], "pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        for number, stage in enumerate(module.stages):
            assert isinstance(stage, nn.Sequential)
            for position, block in enumerate(stage):
                assert isinstance(block, Block)
                x = self.block(block, x, f"stages.{number}.{position}")
        x = self.add("Flatten", [self.add("GlobalAveragePool", [x], "average")], "features")
        head = [self.weight(module.head.weight, "head.weight"), self.weight(module.head.bias, "head.bias")]
        return self.add("Gemm", [x, *head], OUTPUT, transB=1)


def export_onnx(network: AudioRepInceptionNeXt, path: Path, *, n_frames: int, n_mels: int) -> None:
    """Writes a fused network as float32 ONNX: `log_mel [batch, 1, n_frames, n_mels]` -> `logits [batch, class]`.

    Raises:
        ModelError: ONNX Runtime's logits are not torch's; nothing is left behind.
    """
    graph = _Graph()
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
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    (logits,) = session.run([OUTPUT], {INPUT: log_mels})
    return np.asarray(logits)


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Hands calibration batches to ONNX Runtime."""

    def __init__(self, batches: Iterable[FloatArray]) -> None:
        self._batches: Iterator[FloatArray] = iter(batches)

    def get_next(self) -> dict[str, FloatArray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def quantise_int8(source: Path, path: Path, calibration: Iterable[FloatArray]) -> None:
    """Writes the int8 form (QDQ) of a float32 ONNX file: weights per channel, activations per tensor.

    `calibration` gives log-mels `[n, 1, frame, mel]` of real sound; the ranges of the activations come from them.
    Weights use 7 bits: the 16-bit sums of CPUs without VNNI would overflow with 8
    (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html, "reduce_range").

    Raises:
        ModelError: there is no calibration window, or the result does not follow the float32 file; nothing is left.
    """
    batches = list(calibration)
    if not sum(map(len, batches)):
        raise ModelError(f"{path}: int8 needs log-mels of real sound to find its ranges. Give a folder to --calibrate")
    partial = path.with_suffix(".partial")
    try:
        _quantise(source, partial, batches)
        _verify_int8(source, partial, batches[0], path)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _quantise(source: Path, path: Path, batches: list[FloatArray]) -> None:
    # Percentiles (99.999) instead of extremes: on the first default model int8 lost 0.04 points of mAP against 0.3.
    with _silence():
        quantize_static(
            str(source), str(path), _Reader(batches), quant_format=QuantFormat.QDQ, per_channel=True,
            reduce_range=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.Percentile,
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


def _verify_int8(source: Path, path: Path, log_mels: FloatArray, shown: Path) -> None:
    exact, quantised = _run(source, log_mels).ravel(), _run(path, log_mels).ravel()
    if exact.std() == 0:
        return
    correlation = float(np.corrcoef(exact, quantised)[0, 1])
    if not correlation >= LEAST_INT8_CORRELATION:
        raise ModelError(
            f"{shown}: int8 logits follow the float32 ones with a correlation of {correlation:.2f} only. "
            "Calibrate with more varied sound"
        )
