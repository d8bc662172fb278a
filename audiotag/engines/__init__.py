"""Engines turn log-mel batches into logits; all of them keep the protocol that stands here.

`onnx` is the CPU's, `torch` the GPU's and the reference. An engine is chosen in `tagger`.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


class Engine(Protocol):
    """A network that is loaded on a device; the last two are its own choice, and may be set."""

    name: str  # 'onnx' or 'torch'
    device: str  # 'cpu', 'cuda:0', 'mps'
    precision: str  # 'fp32', 'int8', 'fp16', 'bf16'
    concurrency: int  # how many threads may call at once, and must, to use the whole device
    batch_size: int  # windows of a call that use the device well; more only cost memory

    def __call__(self, log_mels: FloatArray) -> FloatArray:
        """Logits of a batch.

        Shape: `[batch, 1, frame, mel]` -> `[batch, class]`, float32 on both sides.

        Raises:
            MemoryError: the batch is too large for the device; a smaller one may fit.
            EngineError: the engine failed.
        """
        ...


def facts_of(engine: Engine) -> dict[str, str]:
    """What an engine is, for results, tables and notes: 'engine', 'device' and 'precision'."""
    return {"engine": engine.name, "device": engine.device, "precision": engine.precision}
