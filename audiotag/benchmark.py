"""How fast this machine tags, stage by stage, on synthetic audio, and with which batches; `audiotag bench` shows it.

A run's floor is the engine's time on all cores plus that of decoding, resampling and log-mels, measured alone on one
core, divided by the cores. What a run takes beyond its floor is the pipeline's own cost, and that of cores that share
their units with one another.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from audiotag.audio import FloatArray, Waveform, open_audio, read_audio, resample, write_audio
from audiotag.config import ModelConfig
from audiotag.engines import Engine, facts_of
from audiotag.errors import AudioError
from audiotag.frontend import WindowLogMel
from audiotag.machine import core_count, cpu_name
from audiotag.model_folder import ModelFolder
from audiotag.options import EngineOptions
from audiotag.selftest import engines_here, synthetic_clips
from audiotag.tagger import Tagger, open_engine
from audiotag.tuning import Tuning, quickest, remember
from audiotag.windows import cut_windows, window_starts

CLIP_SECONDS = 5.0
CLIP_RATE = 44100  # Hz
CONTAINERS = ("WAV", "FLAC", "Ogg", "MP3")
CONTAINERS_OF_A_RUN = ("WAV", "MP3")
SECONDS_PER_MEASURE = 0.5  # the shorter, the noisier
# A whole run is measured over as many clips as its floor allows in this time; it begins with the first clip's way
# through the stages, when the engine has nothing to do yet.
SECONDS_PER_RUN = 1.2
MIN_CLIPS, MAX_CLIPS = 16, 240
# Windows of a call that an engine is tried with.
BATCHES_ON_CPU = (1, 2, 4, 8, 16)
BATCHES_ON_GPU = (8, 16, 32, 64, 128, 256, 512)


@dataclass(frozen=True, kw_only=True)
class Measure:
    """How long a clip of `CLIP_SECONDS` takes at one stage."""

    stage: str
    detail: str  # for people
    milliseconds: float  # a clip
    share: float | None = None  # of the machine's matrix-product rate (engines), or of the floor in it (whole runs)
    facts: dict[str, Any] = field(default_factory=dict)  # what was measured, for programs

    @property
    def x_real_time(self) -> float:
        """Seconds of audio a second."""
        return 1000.0 * CLIP_SECONDS / self.milliseconds

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "stage": self.stage, "detail": self.detail, "milliseconds": round(self.milliseconds, 3),
            "x_real_time": round(self.x_real_time, 1), "share": None if self.share is None else round(self.share, 3),
            **self.facts,
        }  # fmt: skip


def machine() -> dict[str, Any]:
    """What the figures were measured on, with which versions, and when."""
    packages = ("numpy", "onnxruntime", "soundfile", "soxr", "av")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu_name(),
        "cores": core_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }


def measure(folder: ModelFolder) -> Iterator[Measure]:
    """Every stage alone, every engine here, then whole runs against their floors."""
    peak = matrix_product_gflops()
    yield _matrix_product(folder.config, peak)
    with tempfile.TemporaryDirectory(prefix="audiotag-bench-") as scratch:
        clips = write_clips(Path(scratch))
        alone: dict[str, float] = {}  # milliseconds
        for found in _stages(folder.config, clips):
            yield found
            alone[found.facts.get("container", found.stage)] = found.milliseconds
        engines = {options: list(_engine_measures(folder, options, peak)) for options in engines_here(folder)}
        for measures in engines.values():
            yield from measures
        for options, measures in engines.items():
            if options.engine == "onnx":
                for container in (name for name in CONTAINERS_OF_A_RUN if name in clips):
                    parts = parts_of_floor(alone, container, measures[-1].milliseconds)
                    yield _whole_run(folder, options, clips[container], container, parts)


def windows_of_clip(config: ModelConfig) -> int:
    """Windows that the model cuts a clip into."""
    n_samples = round(CLIP_SECONDS * config.frontend.sample_rate)
    return len(window_starts(n_samples, window=config.window, hop=config.window.n_samples))


def parts_of_floor(alone: Mapping[str, float], container: str, engine: float) -> dict[str, float]:
    """The time of each stage that a run over files of this container cannot do without; their sum is its floor.

    In milliseconds a clip: `alone` are times on one core, named as in `work_of_stages`, `engine` is the engine's on all
    cores.
    """
    one_core = {"decode": alone[container]} | {name: alone[name] for name in ("resample", "log-mel") if name in alone}
    return {name: time / core_count() for name, time in one_core.items()} | {"engine": engine}


def seconds_of(work: Callable[[], object]) -> float:
    """Seconds that `work` takes: the median of as many calls as fit into half a second, after one to warm up."""
    work()
    times: list[float] = []
    while sum(times) < SECONDS_PER_MEASURE or len(times) < 3:
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return median(times)


def matrix_product_gflops() -> float:
    """What numpy's float32 matrix product reaches on all cores, in 1e9 floating-point operations a second."""
    size = 1024  # rows and columns
    left = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
    return 2 * size**3 / seconds_of(lambda: left @ left) / 1e9


def _matrix_product(config: ModelConfig, peak: float) -> Measure:
    gflop = 2 * config.gmacs_per_window
    return Measure(
        stage="matrix product", detail=f"the network's {gflop:.2f} GFLOP a window at {peak:.0f} GFLOP/s, all cores",
        milliseconds=1e3 * windows_of_clip(config) * gflop / peak, share=1.0, facts={"gflops": round(peak, 1)},
    )  # fmt: skip


# --- stages alone, on one core ---


def write_clips(folder: Path) -> dict[str, Path]:
    """The same clip in every container that this machine writes."""
    sounds = synthetic_clips(CLIP_RATE, CLIP_SECONDS)
    waveform = Waveform(sounds["chirp"] + sounds["noise"], CLIP_RATE)
    paths = {name: folder / f"clip.{name.lower()}" for name in CONTAINERS}
    return {name: path for name, path in paths.items() if _is_written(path, waveform)}


def _is_written(path: Path, waveform: Waveform) -> bool:
    try:
        write_audio(path, waveform)
    except AudioError:  # an old libsndfile writes no MP3
        return False
    return True


def work_of_stages(config: ModelConfig, clips: Mapping[str, Path]) -> dict[str, Callable[[], object]]:
    """What one core does with a clip before the engine: decoding by container, "resample" if need be, "log-mel"."""
    work: dict[str, Callable[[], object]] = {container: partial(_decode, path) for container, path in clips.items()}
    rate = config.frontend.sample_rate
    if rate != CLIP_RATE:
        blocks = _decode(clips["WAV"])
        work["resample"] = lambda: list(resample(blocks, CLIP_RATE, rate, 1))
    samples = read_audio(clips["WAV"], sample_rate=rate).samples
    windows = [window.samples for window in cut_windows([samples], window=config.window, hop=config.window.n_samples)]
    return {**work, "log-mel": partial(WindowLogMel(config.frontend, config.window), windows)}


def _stages(config: ModelConfig, clips: Mapping[str, Path]) -> Iterator[Measure]:
    frontend = config.frontend
    details = {container: f"{container}, {CLIP_RATE} Hz" for container in clips} | {
        "resample": f"{CLIP_RATE} to {frontend.sample_rate} Hz",
        "log-mel": f"n_fft {frontend.n_fft}, {frontend.n_mels} bands",
    }
    for name, work in work_of_stages(config, clips).items():
        yield Measure(
            stage="decode" if name in clips else name,
            detail=f"{details[name]}, one core",
            milliseconds=1e3 * seconds_of(work),
            facts={"container": name} if name in clips else {},
        )


def _decode(path: Path) -> list[FloatArray]:
    """Blocks `[frame, row]` at the file's rate."""
    with open_audio(path, sample_rate=None) as stream:
        return [block.T for block in stream]


# --- engines, on the whole device ---


def _engine_measures(folder: ModelFolder, options: EngineOptions, peak: float) -> Iterator[Measure]:
    """One window a call, then as many as the engine likes."""
    engine, config = open_engine(folder, options), folder.config
    for batch_size in sorted({1, engine.batch_size}):
        seconds = engine_seconds(engine, config, batch_size)
        facts = facts_of(engine)
        yield Measure(
            stage="engine",
            detail=f"{' '.join(facts.values())}, batch {batch_size}",
            milliseconds=1e3 * seconds * windows_of_clip(config),
            share=2 * config.gmacs_per_window / seconds / peak if engine.device == "cpu" else None,
            facts={**facts, "batch_size": batch_size},
        )


def engine_seconds(engine: Engine, config: ModelConfig, batch_size: int) -> float:
    """Seconds a window, with as many calls at once as the engine wants."""
    shape = (batch_size, 1, config.window.n_frames, config.frontend.n_mels)
    log_mels = np.random.default_rng(0).normal(-4.0, 2.0, shape).astype(np.float32)
    with ThreadPoolExecutor(engine.concurrency) as executor:
        calls = [log_mels] * (2 * engine.concurrency)
        return seconds_of(lambda: list(executor.map(engine, calls))) / (batch_size * len(calls))


# --- the best batch ---


def tune(folder: ModelFolder) -> Iterator[Measure]:
    """Every engine here with each way to call it that it chooses from; the quickest is remembered for later runs.

    Raises:
        OutputError: it cannot be written to the cache.
    """
    for options in engines_here(folder):
        # Not what was remembered, but all cores to begin with; torch counts for itself.
        engine = open_engine(folder, replace(options, threads=core_count()) if options.engine == "onnx" else options)
        seconds = _seconds_of_tunings(engine, folder.config)
        chosen = quickest(seconds)
        remember(chosen, engine, folder.config)
        for tuning, taken in seconds.items():
            yield _tuning_measure(engine, folder.config, tuning, taken, is_chosen=tuning == chosen)


def _seconds_of_tunings(engine: Engine, config: ModelConfig) -> dict[Tuning, float]:
    """Seconds a window: batches on the whole device while they fit, then the best of them with fewer calls at once."""
    seconds: dict[Tuning, float] = {}

    def try_out(tuning: Tuning) -> None:
        engine.concurrency = tuning.concurrency
        seconds[tuning] = engine_seconds(engine, config, tuning.batch_size)

    n_calls = engine.concurrency
    for batch_size in BATCHES_ON_CPU if engine.device == "cpu" else BATCHES_ON_GPU:
        try:
            try_out(Tuning(batch_size, n_calls))
        except MemoryError:
            break
    batch_size = quickest(seconds).batch_size
    while n_calls > 1 and quickest(seconds).concurrency == n_calls:
        n_calls //= 2
        try_out(Tuning(batch_size, n_calls))
    return seconds


def _tuning_measure(engine: Engine, config: ModelConfig, tuning: Tuning, seconds: float, *, is_chosen: bool) -> Measure:
    calls = "1 call at once" if tuning.concurrency == 1 else f"{tuning.concurrency} calls at once"
    facts = facts_of(engine)
    what = f"{' '.join(facts.values())}, batch {tuning.batch_size}, {calls}"
    return Measure(
        stage="tune", detail=f"{what}: remembered" if is_chosen else what,
        milliseconds=1e3 * seconds * windows_of_clip(config), facts={**facts, **asdict(tuning), "chosen": is_chosen},
    )  # fmt: skip


# --- whole runs ---


def _whole_run(
    folder: ModelFolder, options: EngineOptions, path: Path, container: str, parts: Mapping[str, float]
) -> Measure:
    """A run over many clips, less the start of the process, against the parts of its floor, in milliseconds a clip."""
    floor, bottleneck = sum(parts.values()), max(parts, key=lambda stage: parts[stage])
    clips = [path] * max(MIN_CLIPS, min(MAX_CLIPS, round(1e3 * SECONDS_PER_RUN / floor)))
    tagger = Tagger(folder, options=options)
    milliseconds = 1e3 * seconds_of(lambda: list(tagger.tag_many(clips))) / len(clips)
    ratio = milliseconds / floor
    return Measure(
        stage="end to end",
        detail=f"{container}, {options.precision}: {ratio:.2f} x its floor, mostly {bottleneck}",
        milliseconds=milliseconds,
        share=1 / ratio,
        facts={
            "container": container, "precision": options.precision, "n_clips": len(clips),
            "floor_ratio": round(ratio, 3), "bottleneck": bottleneck,
        },
    )  # fmt: skip


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
    """From a cold process to the tags of one clip, part by part, then `predict` and `--help` as a shell sees them.

    Raises:
        ModelError: the model has no file for the CPU.
    """
    open_engine(folder, EngineOptions(device="cpu"))  # what fails in another process is no line of ours
    with tempfile.TemporaryDirectory(prefix="audiotag-bench-") as scratch:
        path = write_clips(Path(scratch))["WAV"]
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
