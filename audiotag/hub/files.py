"""The files of a model on the Hub: which are ever asked for, and which of them an engine reads."""

from __future__ import annotations

from importlib.util import find_spec

from audiotag.config import ModelConfig
from audiotag.machine import has_gpu
from audiotag.model_folder import CARD, CONFIG, ONNX, ONNX_INT8, PREPROCESSOR, WEIGHTS, ModelFolder
from audiotag.options import EngineOptions

# Nothing else is ever asked for, whatever a repository holds: no pickle, no code, no name that leads elsewhere.
DOWNLOADED = (CONFIG, PREPROCESSOR, CARD, WEIGHTS, ONNX, ONNX_INT8)


def files_needed(config: ModelConfig, engine: EngineOptions) -> tuple[tuple[str, ...], ...]:
    """What an engine reads: of each tuple one file, the first by preference."""
    is_on_gpu = engine.device not in ("auto", "cpu") or engine.precision in ("fp16", "bf16")
    if engine.engine == "torch" or is_on_gpu:
        return ((WEIGHTS,),)
    if engine.precision == "int8":
        return ((ONNX_INT8,),)
    onnx = (ONNX_INT8, ONNX) if engine.precision == "auto" and config.prefers_int8 else (ONNX,)
    may_use_gpu = engine.device == "auto" and engine.engine == "auto" and has_gpu() and find_spec("torch") is not None
    return ((WEIGHTS,), onnx) if may_use_gpu else (onnx,)


def has_needed(folder: ModelFolder, engine: EngineOptions) -> bool:
    """Whether a folder holds all that an engine reads."""
    return all(any(folder.has(name) for name in names) for names in files_needed(folder.config, engine))
