"""torch as an engine: CUDA and MPS in full or half precision, and the CPU as the reference.

Activations lie channels-last, which halves the time of this network on a CPU; on a GPU it was not measured.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from audiotag.engines import FloatArray
from audiotag.errors import EngineError, install_line

try:
    import torch
    from torch import Tensor
except (ImportError, OSError) as error:  # it is there, but a library of CUDA is not
    raise EngineError(f"engine torch: torch does not import: {error}. {install_line('torch')}") from error

from audiotag.network import AudioRepInceptionNeXt

DTYPE_OF_PRECISION = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# What torch says in a plain RuntimeError: on a CPU, and on an Apple GPU (https://github.com/pytorch/pytorch/issues/130112).
_OUT_OF_MEMORY = ("can't allocate memory", "MPS backend out of memory")
BATCH_SIZE_OF_DEVICE = {"cpu": 4, "cuda": 64, "mps": 32}
# Where a process keeps the precision of convolutions on CUDA, and the value without TF32. torch 2.9 has renamed it, and
# raises where a process uses both names (https://github.com/pytorch/pytorch/issues/179445).
_PRECISION, _NAME, _IEEE = (
    (torch.backends.cudnn.conv, "fp32_precision", "ieee")
    if hasattr(torch.backends.cudnn, "conv")
    else (torch.backends.cudnn, "allow_tf32", False)
)
_precision_lock = threading.Lock()


def check_device(device: str) -> torch.device:
    """The device that `device` names ('cpu', 'cuda', 'cuda:1', 'mps').

    Raises:
        EngineError: it is not there, or this torch was built without it.
    """
    asked = torch.device(device)
    if asked.type == "cuda":
        _check_cuda(asked)
    elif asked.type == "mps" and not torch.backends.mps.is_available():
        raise EngineError("device mps: torch finds no Apple GPU here. Use --device cpu")
    return asked


def devices_here() -> tuple[str, ...]:
    """The GPUs that torch can use, by kind."""
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return tuple(device for device, is_here in found.items() if is_here)


def device_name(device: str) -> str:
    """What a GPU calls itself."""
    kind = torch.device(device)
    return torch.cuda.get_device_name(kind) if kind.type == "cuda" else kind.type


def _check_cuda(asked: torch.device) -> None:
    if torch.version.cuda is None and torch.version.hip is None:
        raise EngineError(
            f"device {asked}: this torch ({torch.__version__}) has no CUDA. Install one that has, or use --device cpu"
        )
    if not torch.cuda.is_available():
        raise EngineError(f"device {asked}: torch finds no working GPU and driver. Use --device cpu")
    n_devices = torch.cuda.device_count()
    if asked.index is not None and asked.index >= n_devices:
        raise EngineError(f"device {asked}: there are {n_devices} GPUs, counted from 0. Choose one of them")


class TorchEngine:
    """A fused network on a device of torch.

    Raises:
        EngineError: the device is not available.
    """

    name = "torch"
    concurrency = 1

    def __init__(
        self, network: AudioRepInceptionNeXt, *, device: str, precision: str, threads: int | None = None
    ) -> None:
        self._device = check_device(device)
        self._dtype = DTYPE_OF_PRECISION[precision]
        self.device = str(self._device)
        self.precision = precision
        self.batch_size = BATCH_SIZE_OF_DEVICE[self._device.type]
        if threads is not None:
            torch.set_num_threads(threads)
        is_cuda_float32 = self._device.type == "cuda" and self._dtype is torch.float32
        self._full_precision = _without_tf32 if is_cuda_float32 else nullcontext
        network = network.eval().to(self._device, self._dtype)
        self._network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def __call__(self, log_mels: FloatArray) -> FloatArray:
        """Logits of a batch; see `Engine`."""
        with self._full_precision():
            try:
                batch = torch.from_numpy(log_mels).to(self._device)
                logits: Tensor = self._network(batch.to(self._dtype, memory_format=torch.channels_last))
                return logits.float().cpu().numpy()
            except torch.OutOfMemoryError as error:
                torch.cuda.empty_cache()
                raise MemoryError(str(error)) from error
            except RuntimeError as error:
                if any(words in str(error) for words in _OUT_OF_MEMORY):
                    raise MemoryError(str(error)) from error
                raise EngineError(f"engine torch on {self.device}: {error}. Try --device cpu --engine onnx") from error


@contextmanager
def _without_tf32() -> Iterator[None]:
    """TF32 keeps 10 bits of the mantissa: with it, float32 on a GPU would not agree with the CPU to 1e-5.

    One thread at a time, or one would give back what another has set.
    """
    with _precision_lock:
        before = getattr(_PRECISION, _NAME)
        setattr(_PRECISION, _NAME, _IEEE)
        try:
            yield
        finally:
            setattr(_PRECISION, _NAME, before)
