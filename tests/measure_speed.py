"""Makes the table of README's section "Speed", on a machine that does nothing else:

    python tests/measure_speed.py                           # about ten minutes
    python tests/measure_speed.py --quick --page copy.md    # seconds: does the script work? Its figures say nothing.

Two models: the embedded one, and one of the published size with random weights, which make it no faster. What a ratio
compares is measured in every round, and every other round goes backwards: a machine that gets slower in between does so
for both sides. The table tells medians over the rounds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median

from benchmark_fusion import make_network
from pages import write_between_markers

from audiotag.benchmark import (
    CLIP_RATE,
    CLIP_SECONDS,
    CONTAINERS_OF_A_RUN,
    engine_seconds,
    machine,
    matrix_product_gflops,
    parts_of_floor,
    seconds_of,
    windows_of_clip,
    work_of_stages,
    write_clips,
)
from audiotag.config import ModelConfig, NetworkConfig
from audiotag.engines import Engine
from audiotag.export import write_weights
from audiotag.frontend import WindowLogMel
from audiotag.model_folder import ModelFolder, open_model_folder, write_configs
from audiotag.network import fuse
from audiotag.options import EngineOptions
from audiotag.published import DATASETS
from audiotag.selftest import synthetic_clips
from audiotag.tagger import Tagger, open_engine

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
EMBEDDED = ROOT / "weights" / "default"
SCRIPT = Path(__file__).name

N_CLIPS, N_ROUNDS = 240, 10  # rounds: as many forwards as backwards
QUICK_CLIPS, QUICK_ROUNDS = 4, 1
PUBLISHED_SIZE = NetworkConfig(n_labels=309)
QUICK_SIZE = NetworkConfig(n_labels=309, width=4, depths=(1, 1))
NAME_OF_PRECISION = {"fp32": "float32", "int8": "int8"}

Times = dict[str, float]  # seconds of one round, by what was measured


# --- what is measured ---


def model_of_size(path: Path, size: NetworkConfig) -> ModelFolder:
    """A model folder that takes VGG-Sound's windows, as the published one does; int8 fits synthetic sounds."""
    audio = DATASETS["vggsound"].audio
    labels = tuple(f"label {number}" for number in range(size.n_labels))
    config = ModelConfig(
        network=size, frontend=audio.frontend, window=audio.window, labels=labels, activation="softmax"
    )
    write_configs(path, config)
    network = fuse(make_network(size))
    sounds = synthetic_clips(config.frontend.sample_rate, config.window_seconds).values()
    log_mel = WindowLogMel(config.frontend, config.window)
    write_weights(path, network, config, [log_mel([samples]) for samples in sounds])
    return open_model_folder(path)


def work_of_round(folder: ModelFolder, clips: dict[str, Path], n_clips: int) -> dict[str, Callable[[], float]]:
    """What a round measures of a model, in seconds a clip: runs outside, what they are compared with in the middle."""
    config = folder.config
    taggers = {precision: _tagger(folder, precision) for precision in NAME_OF_PRECISION}
    eager = open_engine(folder, EngineOptions(device="cpu", engine="torch"))
    work: dict[str, Callable[[], float]] = {
        **{f"{container} fp32": partial(_run, taggers["fp32"], clips[container], n_clips) for container in clips},
        "fp32": partial(_engine, taggers["fp32"].engine, config),
        "eager": partial(_engine, eager, config),
        "matrix product": partial(_matrix_product, config),
        **{name: partial(seconds_of, stage) for name, stage in work_of_stages(config, clips).items()},
        "int8": partial(_engine, taggers["int8"].engine, config),
        **{f"{container} int8": partial(_run, taggers["int8"], clips[container], n_clips) for container in clips},
    }
    return work


def _tagger(folder: ModelFolder, precision: str) -> Tagger:
    return Tagger(folder, options=EngineOptions(device="cpu", engine="onnx", precision=precision))  # type: ignore[arg-type]


def _engine(engine: Engine, config: ModelConfig) -> float:
    return windows_of_clip(config) * engine_seconds(engine, config, engine.batch_size)


def _gflop_of_clip(config: ModelConfig) -> float:
    return windows_of_clip(config) * 2 * config.gmacs_per_window


def _matrix_product(config: ModelConfig) -> float:
    return _gflop_of_clip(config) / matrix_product_gflops()


def _run(tagger: Tagger, path: Path, n_clips: int) -> float:
    begun = time.perf_counter()
    failed = [result for result in tagger.tag_many([path] * n_clips) if result.status == "failed"]
    taken = (time.perf_counter() - begun) / n_clips
    assert not failed, failed[0]
    return taken


def _command(*arguments: str) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-m", "audiotag", *arguments], check=True, capture_output=True)
    return time.perf_counter() - begun


def rounds_of(work: dict[str, Callable[[], float]], n_rounds: int) -> list[Times]:
    """Times of each round; every other one is backwards."""
    orders = [list(work), list(work)[::-1]]
    return [{name: work[name]() for name in orders[number % 2]} for number in range(n_rounds)]


# --- what is told ---


@dataclass(frozen=True)
class Row:
    """A line of the table: what it tells of a round and a precision, and how that is written."""

    title: str
    value: Callable[[Times, str], float]
    form: str

    def cell(self, rounds: Sequence[Times], precision: str) -> str:
        return format(median(self.value(times, precision) for times in rounds), self.form)


def _floor(times: Times, container: str, precision: str) -> float:
    return sum(parts_of_floor(times, container, times[precision]).values())


ROWS = (
    Row("WAV, end to end, x real time", lambda times, kind: CLIP_SECONDS / times[f"WAV {kind}"], ",.0f"),
    Row("MP3, end to end, x real time", lambda times, kind: CLIP_SECONDS / times[f"MP3 {kind}"], ",.0f"),
    Row("engine alone, x real time", lambda times, kind: CLIP_SECONDS / times[kind], ",.0f"),
    Row("WAV: time / its floor", lambda times, kind: times[f"WAV {kind}"] / _floor(times, "WAV", kind), ".2f"),
    Row("MP3: time / its floor", lambda times, kind: times[f"MP3 {kind}"] / _floor(times, "MP3", kind), ".2f"),
    Row("WAV: time / the engine's alone", lambda times, kind: times[f"WAV {kind}"] / times[kind], ".2f"),
    Row("engine: share of the matrix-product rate", lambda times, kind: times["matrix product"] / times[kind], ".0%"),
    Row("engine: speed / that of float32", lambda times, kind: times["fp32"] / times[kind], ".2f"),
    Row("engine: speed / that of PyTorch, eager, float32", lambda times, kind: times["eager"] / times[kind], ".2f"),
)


def table(rounds_of_model: dict[str, list[Times]]) -> list[str]:
    """All models and precisions in Markdown."""
    columns = [(model, precision) for model in rounds_of_model for precision in NAME_OF_PRECISION]
    heading = [f"{model}, {NAME_OF_PRECISION[precision]}" for model, precision in columns]
    return [
        f"| clips of {CLIP_SECONDS:.0f} s, {CLIP_RATE / 1000:g} kHz | " + " | ".join(heading) + " |",
        "|---" * (1 + len(columns)) + "|",
        *(
            f"| {row.title} | "
            + " | ".join(row.cell(rounds_of_model[model], precision) for model, precision in columns)
            + " |"
            for row in ROWS
        ),
    ]


def about(commands: Sequence[Times], gflops: float, n_clips: int) -> list[str]:
    """What the table does not tell: the start, how and on what it was measured."""
    here = machine()
    first, usage = (median(times[name] for times in commands) for name in ("predict", "help"))
    versions = {**here["versions"], "torch": version("torch")}
    text = (
        f"From a cold process, `audiotag predict` tags one such WAV with the default model in {first:.2f} s; "
        f"`audiotag --help` takes {usage:.2f} s. Medians of {len(commands)} rounds, runs of {n_clips} clips, "
        f"{here['date']}: {here['cpu']}, {here['cores']} cores, float32 matrix products at {gflops:.0f} GFLOP/s; "
        f"{here['system']}, Python {here['python']}, " + ", ".join(f"{name} {v}" for name, v in versions.items()) + "."
    )
    return textwrap.wrap(text, 120, break_long_words=False, break_on_hyphens=False)


def measure(*, n_clips: int, n_rounds: int, size: NetworkConfig) -> list[str]:
    """Measures everything; the lines that go into the page."""
    with tempfile.TemporaryDirectory(prefix="audiotag-speed-") as scratch:
        written = write_clips(Path(scratch))
        clips = {container: written[container] for container in CONTAINERS_OF_A_RUN}
        folders = {
            "default": open_model_folder(EMBEDDED),
            "published size": model_of_size(Path(scratch, "published"), size),
        }
        rounds = {name: rounds_of(work_of_round(folder, clips, n_clips), n_rounds) for name, folder in folders.items()}
        predict = partial(_command, "predict", str(clips["WAV"]), "--model", str(EMBEDDED))
        commands = rounds_of({"predict": predict, "help": partial(_command, "--help")}, n_rounds)
    gflop = _gflop_of_clip(folders["default"].config)
    gflops = median(gflop / times["matrix product"] for times in rounds["default"])
    return [*table(rounds), "", *about(commands, gflops, n_clips)]


def main() -> None:
    """Parses the command line, measures, writes."""
    parser = argparse.ArgumentParser(description="Measure the speed of audiotag here and write it into README.md.")
    parser.add_argument("--page", type=Path, default=README, help="where the markers are")
    parser.add_argument("--quick", action="store_true", help="try the script; needs another page")
    given = parser.parse_args()
    if given.quick and given.page.resolve() == README:
        parser.error("--quick makes no figures for README.md. Give another --page")
    if given.quick:
        lines = measure(n_clips=QUICK_CLIPS, n_rounds=QUICK_ROUNDS, size=QUICK_SIZE)
    else:
        lines = measure(n_clips=N_CLIPS, n_rounds=N_ROUNDS, size=PUBLISHED_SIZE)
    write_between_markers(given.page, SCRIPT, lines)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
