"""How fast this machine tags, stage by stage, on synthetic audio; `audiotag bench` shows it.

A run's floor is the engine's time on all cores plus that of decoding, resampling and log-mels, measured alone on one
core, divided by the cores. What a run takes beyond its floor is the pipeline's own cost.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from audiotag.audio import open_audio
from audiotag.config import ModelConfig
from audiotag.engines import Engine
from audiotag.frontend import WindowLogMel
from audiotag.model_folder import ModelFolder
from audiotag.options import EngineOptions, core_count
from audiotag.selftest import engines_here, synthetic_clips, write_wav
from audiotag.tagger import Tagger, open_engine
from audiotag.windows import window_starts

CLIP_SECONDS = 5.0
CLIP_RATE = 44100  # Hz
CLIPS_OF_A_RUN = 48
SECONDS_PER_MEASURE = 0.5  # the shorter, the noisier


@dataclass(frozen=True, kw_only=True)
class Measure:
    """How long a clip of `CLIP_SECONDS` takes at one stage."""

    stage: str
    detail: str
    milliseconds: float  # a clip
    share: float | None = None  # of the machine's matrix-product rate (engines), or of the floor in it (whole runs)

    @property
    def x_real_time(self) -> float:
        """Seconds of audio a second."""
        return 1000.0 * CLIP_SECONDS / self.milliseconds

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "stage": self.stage, "detail": self.detail, "milliseconds": round(self.milliseconds, 3),
            "x_real_time": round(self.x_real_time, 1), "share": None if self.share is None else round(self.share, 3),
        }  # fmt: skip


def measure(folder: ModelFolder) -> Iterator[Measure]:
    """Every stage alone, every engine here, then whole runs against their floors."""
    config = folder.config
    n_windows = len(_starts(config))
    peak = matrix_product_gflops()
    gflop = 2 * config.gmacs_per_window
    detail = f"the network's {gflop:.2f} GFLOP a window at {peak:.0f} GFLOP/s"
    yield Measure(stage="matrix product", detail=detail, milliseconds=1e3 * n_windows * gflop / peak, share=1.0)
    with tempfile.TemporaryDirectory(prefix="audiotag-bench-") as scratch:
        path = Path(scratch, "clip.wav")
        samples = synthetic_clips(CLIP_RATE, CLIP_SECONDS)
        write_wav(path, samples["chirp"] + samples["noise"], CLIP_RATE)
        stages = list(_stages(config, path))
        yield from stages
        for options in engines_here(folder):
            engines = list(_engine_measures(folder, options, n_windows, gflop, peak))
            yield from engines
            if options.engine == "onnx":
                yield _whole_run(folder, options, path, [*stages[1:], min(engines, key=lambda each: each.milliseconds)])


def _starts(config: ModelConfig) -> tuple[int, ...]:
    n_samples = round(CLIP_SECONDS * config.frontend.sample_rate)
    return window_starts(n_samples, window=config.window, hop=config.window.n_samples)


def seconds_of(work: Callable[[], object]) -> float:
    """Seconds that `work` takes: the fastest third of as many calls as fit into half a second, after one to warm up."""
    work()
    times: list[float] = []
    while sum(times) < SECONDS_PER_MEASURE or len(times) < 3:
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return float(np.mean(sorted(times)[: max(1, len(times) // 3)]))


def matrix_product_gflops(size: int = 1024) -> float:
    """What numpy's float32 matrix product reaches on all cores, in 1e9 floating-point operations a second."""
    left = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
    return 2 * size**3 / seconds_of(lambda: left @ left) / 1e9


def _stages(config: ModelConfig, path: Path) -> Iterator[Measure]:
    """Alone, on one core: decoding, decoding with resampling, log-mels."""
    rate = config.frontend.sample_rate
    for stage, target in (("decode", CLIP_RATE), ("decode, resample", rate)):
        milliseconds = 1e3 * seconds_of(lambda target=target: _read(path, target))  # type: ignore[misc]
        yield Measure(stage=stage, detail=f"{CLIP_RATE} Hz WAV to {target} Hz, one core", milliseconds=milliseconds)
    windows = [np.zeros(config.window.n_samples, dtype=np.float32) for _ in _starts(config)]
    log_mel = WindowLogMel(config.frontend, config.window)
    detail = f"n_fft {config.frontend.n_fft}, {config.frontend.n_mels} bands, one core"
    yield Measure(stage="log-mel", detail=detail, milliseconds=1e3 * seconds_of(lambda: log_mel(windows)))


def _read(path: Path, sample_rate: int) -> int:
    with open_audio(path, sample_rate=sample_rate) as stream:
        return sum(block.shape[1] for block in stream)


def _engine_measures(
    folder: ModelFolder, options: EngineOptions, n_windows: int, gflop_per_window: float, peak: float
) -> Iterator[Measure]:
    """On the whole device: one window a call, then as many as the engine likes."""
    engine = open_engine(folder, options)
    for batch_size in (1, engine.batch_size):
        seconds = engine_seconds(engine, folder.config, batch_size)
        share = gflop_per_window / seconds / peak if engine.device == "cpu" else None
        detail = f"{engine.device} {engine.precision}, batch {batch_size}"
        yield Measure(
            stage=f"engine {engine.name}", detail=detail, milliseconds=1e3 * seconds * n_windows, share=share
        )


def engine_seconds(engine: Engine, config: ModelConfig, batch_size: int) -> float:
    """Seconds a window, with as many calls at once as the engine wants."""
    shape = (batch_size, 1, config.window.n_frames, config.frontend.n_mels)
    log_mels = np.random.default_rng(0).normal(-4.0, 2.0, shape).astype(np.float32)
    with ThreadPoolExecutor(engine.concurrency) as executor:
        calls = [log_mels] * (2 * engine.concurrency)
        return seconds_of(lambda: list(executor.map(engine, calls))) / (batch_size * len(calls))


def _whole_run(folder: ModelFolder, options: EngineOptions, path: Path, parts: list[Measure]) -> Measure:
    tagger = Tagger(folder, options=options)
    clips = [path] * CLIPS_OF_A_RUN
    milliseconds = 1e3 * seconds_of(lambda: list(tagger.tag_many(clips))) / len(clips)
    alone, log_mel, engine = parts
    part_of = {
        alone.stage: alone.milliseconds / core_count(), log_mel.stage: log_mel.milliseconds / core_count(),
        "engine": engine.milliseconds,
    }  # fmt: skip
    floor, bottleneck = sum(part_of.values()), max(part_of, key=lambda stage: part_of[stage])
    detail = f"cpu {options.precision}, {milliseconds / floor:.2f} x its floor, mostly {bottleneck}"
    return Measure(stage="end to end", detail=detail, milliseconds=milliseconds, share=floor / milliseconds)


# --- the first clip ---

_LAPS = """
import json, sys, time
laps, last = {}, time.perf_counter()
def lap(name):
    global last
    now = time.perf_counter(); laps[name] = 1e3 * (now - last); last = now
import audiotag.cli; lap("command line")
import numpy; lap("numpy")
import audiotag.frontend; lap("front-end")
import audiotag.audio; lap("decoders")
import onnxruntime; lap("onnxruntime")
import audiotag.tagger; lap("the rest")
tagger = audiotag.tagger.load(sys.argv[1], device="cpu"); lap("model")
tagger.tag(sys.argv[2]); lap("first clip")
print(json.dumps(laps))
"""


def measure_startup(folder: ModelFolder) -> Iterator[Measure]:
    """From a cold process to the tags of one clip, part by part, then `predict` and `--help` as a shell sees them."""
    with tempfile.TemporaryDirectory(prefix="audiotag-bench-") as scratch:
        path = Path(scratch, "clip.wav")
        write_wav(path, synthetic_clips(CLIP_RATE, CLIP_SECONDS)["chirp"], CLIP_RATE)
        bare = seconds_of(lambda: _python("-c", ""))
        yield Measure(stage="startup", detail="python itself", milliseconds=1e3 * bare)
        runs = [json.loads(_python("-c", _LAPS, str(folder.path), str(path))) for _ in range(3)]
        for name in runs[0]:
            yield Measure(stage="startup", detail=name, milliseconds=min(run[name] for run in runs))
        for arguments in (["predict", str(path), "--model", str(folder.path)], ["--help"]):
            whole = seconds_of(lambda arguments=arguments: _python("-m", "audiotag", *arguments))  # type: ignore[misc]
            yield Measure(stage="whole command", detail=f"audiotag {arguments[0]}", milliseconds=1e3 * whole)


def _python(*arguments: str) -> str:
    return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True).stdout
