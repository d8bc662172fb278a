"""A model on an engine: the library's front door. What runs inside is `pipeline`.

    tagger = load("org/name")
    for result in tagger.tag_many(["a.wav", "b.mp3"]):
        print(result.path, result.status)
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

from audiotag.audio import Source, Waveform
from audiotag.config import ModelConfig
from audiotag.engines import Engine, facts_of
from audiotag.errors import AudioError, EngineError, UsageError, install_line
from audiotag.hub import resolve_model
from audiotag.inputs import Input
from audiotag.labels import LabelSet
from audiotag.machine import has_gpu
from audiotag.model_folder import ONNX_INT8, WEIGHTS, ModelFolder
from audiotag.options import EngineOptions, TagOptions
from audiotag.pipeline import Given, Pipeline
from audiotag.results import ClipResult, Failure, Result
from audiotag.tuning import recall
from audiotag.writers import run_header

logger = logging.getLogger(__name__)


def load(model: str | os.PathLike[str] | None = None, *, device: str = "auto") -> Tagger:
    """A tagger with a model: None (the embedded default), a folder, or `org/name[@revision]` on the Hub.

    Raises:
        ModelError: there is no such model, or it cannot be read.
        EngineError: the device is not available.
        UsageError: `device` is none of auto, cpu, cuda, cuda:N and mps.
    """
    options = EngineOptions(device=device)
    return Tagger(resolve_model(model, engine=options), options=options)


class Tagger:
    """A model on an engine, ready to tag; threads may share it.

    `load` makes one. `Tagger(tagger.model, options=...)` makes another of the same model, on an engine told otherwise.

    Raises:
        ModelError, EngineError: as `load` does.
    """

    def __init__(self, folder: ModelFolder, *, options: EngineOptions | None = None) -> None:
        self.options = options or EngineOptions()
        self.model = folder
        self.engine = open_engine(folder, self.options)
        where = (folder.name, folder.path, self.engine.name, self.engine.device, self.engine.precision)
        logger.info("model %s at %s, engine %s on %s, precision %s", *where)

    @property
    def config(self) -> ModelConfig:
        """The model's configuration."""
        return self.model.config

    @cached_property
    def labels(self) -> LabelSet:
        """The labels that the model knows, in its order."""
        return LabelSet(self.config.labels)

    def run_header(self, options: TagOptions) -> dict[str, Any]:
        """What an output records of its run: version, model, options, and which engine `auto` chose."""
        model, parameters = self.model, {**asdict(options), **facts_of(self.engine)}
        header = run_header(model=model.name, revision=model.revision, sha256=model.sha256, parameters=parameters)
        # Labels and thresholds may change where the weights do not.
        return {**header, "config_sha256": model.config_sha256}

    def tag(
        self,
        source: Source,
        *,
        top_k: int | None = None,
        threshold: float | None = None,
        options: TagOptions | None = None,
    ) -> ClipResult:
        """What is heard in a file, in an open one, or in samples in memory.

        `top_k` and `threshold` replace those of `options`.

        Raises:
            AudioError: it could not be read.
            UsageError: an option is out of its range or does not fit the model, or would give several results.
        """
        options = options or TagOptions()
        if options.channels == "each":
            raise UsageError("channels 'each' gives several results. Use tag_many")
        if top_k is not None:
            options = replace(options, top_k=top_k)
        if threshold is not None:
            options = replace(options, threshold=threshold)
        (result,) = self.tag_many([source], options=options)
        if isinstance(result, Failure):
            raise AudioError(f"{result.path}: {result.error}")
        return result

    def tag_many(
        self,
        inputs: Iterable[Source | Input],
        *,
        options: TagOptions | None = None,
        on_progress: Callable[[float], None] | None = None,
    ) -> Generator[Result, None, None]:
        """A result for each input, in their order; one for each channel with `channels="each"`.

        Open files are binary, and read from their beginning. The `path` of a result is the path as given, the name of
        an open file, or "waveform".

        `inputs` may be endless: it is read a bounded number ahead. `on_progress` gets seconds of audio newly done, on
        the caller's thread. Closing the generator stops its threads.

        Raises:
            UsageError: an option does not fit the model (before the first input is read).
            TypeError: `inputs` is only one.
        """
        return _one_by_one(self.tag_by_input(inputs, options=options, on_progress=on_progress))

    def tag_by_input(
        self,
        inputs: Iterable[Source | Input],
        *,
        options: TagOptions | None = None,
        on_progress: Callable[[float], None] | None = None,
    ) -> Generator[tuple[Result, ...], None, None]:
        """As `tag_many`, with the results of an input together: several with `channels="each"`, else one."""
        if isinstance(inputs, str | bytes | os.PathLike | io.IOBase | Waveform):
            raise TypeError(f"tag_many takes several inputs, not one: write tag({inputs!r}) or tag_many([{inputs!r}])")
        pipeline = Pipeline(
            self.engine, self.config, options or TagOptions(),
            batch_size=self.options.batch_size, workers=self.options.workers,
        )  # fmt: skip
        return pipeline.run(map(_as_given, inputs), on_progress=on_progress)


def _one_by_one(groups: Generator[tuple[Result, ...], None, None]) -> Generator[Result, None, None]:
    with closing(groups):
        for group in groups:
            yield from group


@dataclass(frozen=True)
class _InMemory:
    """Something to tag that has no path."""

    path: str
    source: BinaryIO | Waveform


def _as_given(source: Source | Input) -> Given:
    if isinstance(source, Input):
        return source
    if isinstance(source, Waveform):
        return _InMemory("waveform", source)
    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        return Input(path, Path(path))
    if not hasattr(source, "read") or isinstance(source, io.TextIOBase):
        kind = type(source).__name__
        raise TypeError(f"a path, a file that is open in mode 'rb', or a Waveform can be tagged, not {kind}")
    return _InMemory(str(getattr(source, "name", "open file")), source)


# --- the choice of an engine ---


def open_engine(folder: ModelFolder, options: EngineOptions) -> Engine:
    """The engine that `options` ask for, or the best one that works here, as this machine was tuned.

    Raises:
        EngineError: what was asked for is not available here.
        ModelError: the model has no file for it.
    """
    device = choose_device(options)
    if options.engine == "torch" or device != "cpu":
        engine = _open_torch(folder, device, options)
    else:
        engine = _open_onnx(folder, options)
    tuning = recall(engine, folder.config)
    if tuning is not None:
        engine.batch_size = tuning.batch_size
        if options.threads is None:
            engine.concurrency = tuning.concurrency
        logger.info("as `bench --tune` found here: batch %d, %d calls at once", engine.batch_size, engine.concurrency)
    return engine


def choose_device(options: EngineOptions) -> str:
    """The device asked for; for 'auto' a GPU that torch can use, else the CPU.

    torch costs seconds to import, so it is asked only where a cheap look finds a GPU and an installed torch.
    """
    if options.device != "auto":
        return options.device
    if options.engine == "onnx" or options.precision == "int8" or not has_gpu():
        return "cpu"
    if find_spec("torch") is None:
        logger.info("there is a GPU here, but torch is not installed: %s to use it", install_line("torch"))
        return "cpu"
    try:
        from audiotag.engines.torch import devices_here
    except EngineError as error:
        logger.warning("the CPU is used: %s", error)
        return "cpu"
    return next(iter(devices_here()), "cpu")


def choose_cpu_precision(folder: ModelFolder, options: EngineOptions) -> str:
    """int8 for 'auto' where the model has it and it pays."""
    if options.precision != "auto":
        return options.precision
    return "int8" if folder.config.prefers_int8 and folder.has(ONNX_INT8) else "fp32"


def _open_onnx(folder: ModelFolder, options: EngineOptions) -> Engine:
    from audiotag.engines.onnx import FILE_OF_PRECISION, OnnxEngine

    precision = choose_cpu_precision(folder, options)
    if precision not in FILE_OF_PRECISION:
        raise EngineError(f"precision {precision}: needs a GPU that torch can use. Use fp32 or int8 on the CPU")
    path = folder.file(FILE_OF_PRECISION[precision])
    return OnnxEngine(path, folder.config, precision=precision, threads=options.threads)


def _open_torch(folder: ModelFolder, device: str, options: EngineOptions) -> Engine:
    if find_spec("torch") is None:
        raise EngineError(f"engine torch on {device}: torch is not installed. {install_line('torch')}")
    from audiotag.engines.torch import TorchEngine
    from audiotag.network import load_fused

    network = load_fused(folder.file(WEIGHTS), folder.config.network)
    precision = "fp32" if options.precision == "auto" else options.precision
    return TorchEngine(network, device=device, precision=precision, threads=options.threads)
