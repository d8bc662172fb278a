"""The CPU's engine: ONNX Runtime, float32 or int8, without importing torch.

A call runs on the thread that makes it, and several threads call at once: one network a core is faster than one
network over all cores (no barrier after each layer), and threads that never spin leave the cores to decoding.
A window's logits are the same to the last bit in every batch.
"""

from __future__ import annotations

from pathlib import Path

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as runtime_errors

from audiotag.config import ModelConfig
from audiotag.engines import FloatArray
from audiotag.errors import EngineError, ModelError
from audiotag.machine import core_count
from audiotag.model_folder import ONNX, ONNX_INT8

FILE_OF_PRECISION = {"fp32": ONNX, "int8": ONNX_INT8}

# Work of a call, and its windows at most. They are computed one after the other, so a larger batch only spares the
# call's own cost: on 2 cores with AVX-512 a window of 0.06 GMAC takes 2.4 ms alone, 1.9 in twos, 1.7 in fours and 1.6
# in eights or sixteens; one of 2.5 GMAC takes 46 ms in every batch. `tuning` measures where that is not good enough.
GMACS_OF_CALL = 0.5
MAX_BATCH_SIZE = 8

RUNTIME_ERRORS = (
    runtime_errors.Fail, runtime_errors.InvalidArgument, runtime_errors.InvalidGraph, runtime_errors.InvalidProtobuf,
    runtime_errors.NoSuchFile, runtime_errors.NotImplemented, runtime_errors.RuntimeException,
)  # fmt: skip
_FATAL_ONLY = 4  # onnxruntime's log level; what matters comes as an exception
# It lets the pool behind the stem take int8, for which there is no vectorised kernel: that pool alone then takes a
# third of the network's time. The logits are the same.
_DISABLED_OPTIMISERS = ("QDQPropagationTransformer",)


class OnnxEngine:
    """A graph of a model folder in a session of ONNX Runtime.

    Raises:
        ModelError: the file is no graph, or its input or output does not fit the configuration.
    """

    name = "onnx"
    device = "cpu"

    def __init__(self, path: Path, config: ModelConfig, *, precision: str, threads: int | None = None) -> None:
        self.precision = precision
        self.concurrency = threads or core_count()
        self.batch_size = max(1, min(MAX_BATCH_SIZE, round(GMACS_OF_CALL / config.gmacs_per_window)))
        self._session = open_session(path)
        self._check_shapes(path, config)
        self._input = self._session.get_inputs()[0].name
        self._n_labels = len(config.labels)

    def __call__(self, log_mels: FloatArray) -> FloatArray:
        """Logits of a batch; see `Engine`."""
        try:
            logits: FloatArray = self._session.run(None, {self._input: log_mels})[0]
        except RUNTIME_ERRORS as error:
            if "allocate memory" in str(error) or "bad_alloc" in str(error):
                raise MemoryError(str(error)) from error
            raise EngineError(f"engine onnx: {error}. Try --engine torch") from error
        if logits.shape != (len(log_mels), self._n_labels):  # what a graph declares, it need not keep
            raise EngineError(f"engine onnx: gives {logits.shape} for {len(log_mels)} windows. Try --engine torch")
        return logits

    def _check_shapes(self, path: Path, config: ModelConfig) -> None:
        expected = [[1, config.window.n_frames, config.frontend.n_mels]], [[len(config.labels)]]
        sides = self._session.get_inputs(), self._session.get_outputs()
        found = tuple([tensor.shape[1:] for tensor in side] for side in sides)
        if found != expected:
            raise ModelError(
                f"{path}: takes {found[0]} and gives {found[1]}, but the configuration says {expected[0]} and "
                f"{expected[1]}. Run `audiotag export` on the folder"
            )


def open_session(path: Path, optimised: Path | None = None) -> onnxruntime.InferenceSession:
    """A graph on one thread of the CPU; `optimised` gets the graph as it is run.

    Raises:
        ModelError: the file is no graph.
    """
    # For Windows, whose builds do not heed ORT_DISABLE_TELEMETRY.
    onnxruntime.disable_telemetry_events()
    onnxruntime.set_default_logger_severity(_FATAL_ONLY)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL_ONLY
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    try:
        return onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"], disabled_optimizers=_DISABLED_OPTIMISERS
        )
    except RUNTIME_ERRORS as error:
        raise ModelError(f"{path}: not a graph that runs: {error}. Run `audiotag export` on the folder") from error
