"""Trains variants of the recipe on one small budget and prints how they compare; not a test.

    python tests/compare_recipes.py ../shared/data/manifest.csv --out runs --steps 600

One table compares members of the family (widths, mel bands, windows), one the kernels of the multi-branch block, and
one takes parts of the recipe away. Each variant is trained alike: same clips, folds, steps, batches and seed. Variants
that are finished are not trained again, so the script can be stopped and run once more.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from audiotag.config import ModelConfig, TrainConfig
from audiotag.engines.onnx import OnnxEngine
from audiotag.training import batches
from audiotag.training.checkpoint import work_folder
from audiotag.training.train import train

SECONDS_OF_TIMING = 2.0


@dataclass(frozen=True)
class Variant:
    """What differs from the recipe: fields of `TrainConfig`, and a part of the training that is taken out."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    without: str = ""


TABLES = {
    "Members of the family": (
        Variant("width 24, 64 bands, 2.5 s"),
        Variant("width 16, 64 bands, 2.5 s", {"width": 16}),
        Variant("width 32, 64 bands, 2.5 s", {"width": 32}),
        Variant("width 24, 96 bands, 2.5 s", {"n_mels": 96}),
        Variant("width 24, 64 bands, 1.0 s", {"n_frames": 64}),
        Variant("width 24, 64 bands, 5.1 s", {"n_frames": 320}),
    ),
    "Kernels of the block": (
        Variant("21, 11 and 3"),
        Variant("21 alone", {"kernel_sizes": (21,)}),
        Variant("3 alone", {"kernel_sizes": (3,)}),
    ),
    "Parts of the recipe": (
        Variant("all of it"),
        Variant("no mixing", {"mixup_probability": 0.0}),
        Variant("no masks", {"mask_frames": 0, "mask_mels": 0}),
        Variant("no codecs, rooms and speeds", {"damage_probability": 0.0}),
        Variant("windows anywhere, also where a clip is silent", without="active_frames"),
        Variant("unknown labels taught as absent", without="unknown_labels"),
    ),
}

INSTEAD: dict[str, Callable[..., Any]] = {
    "active_frames": lambda log_mel: np.arange(len(log_mel)),
    "unknown_labels": lambda clips, labels: np.zeros((len(clips), len(labels)), dtype=bool),
}


def main() -> None:
    """Runs what is missing and prints the tables as Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the trainings and of measured.json")
    parser.add_argument("--cache", type=Path, help="folder of the log-mels")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch-size", type=int, default=TrainConfig.batch_size)
    parser.add_argument("--fold", default=TrainConfig.fold)
    arguments = parser.parse_args()
    budget = TrainConfig(
        steps=arguments.steps, validate_every=arguments.steps, batch_size=arguments.batch_size, fold=arguments.fold,
        warmup_steps=min(TrainConfig.warmup_steps, arguments.steps // 4),
    )  # fmt: skip
    arguments.out.mkdir(parents=True, exist_ok=True)
    for title, variants in TABLES.items():
        rows = [
            _measured(variant, budget, arguments.manifest, arguments.out, arguments.cache or arguments.out / "cache")
            for variant in variants
        ]
        print(f"\n**{title}**\n\n{table(variants, rows)}", flush=True)


def _measured(variant: Variant, budget: TrainConfig, manifest: Path, out: Path, cache: Path) -> dict[str, float]:
    config = replace(budget, **variant.changes)
    name = f"{'-'.join(f'{key}={value}' for key, value in variant.changes.items()) or 'recipe'}{variant.without}"
    folder = out / name.replace(" ", "")
    figures = folder / "measured.json"
    if not figures.exists():
        with taken_out(variant.without):
            model = train(manifest, folder, config=config, cache=cache, resume=work_folder(folder).exists())
        figures.write_text(json.dumps(_figures(folder, model)))
    measured: dict[str, float] = json.loads(figures.read_text())
    return measured


@contextmanager
def taken_out(part: str) -> Iterator[None]:
    """Training without a part that no option turns off."""
    if not part:
        yield
        return
    with mock.patch.object(batches, part, INSTEAD[part]):
        yield


def _figures(folder: Path, model: ModelConfig) -> dict[str, float]:
    seconds = model.window.n_samples / model.frontend.sample_rate
    return {
        "fp32": model.metrics["fp32"]["macro_map"],
        "int8": model.metrics["int8"]["macro_map"],
        "top1": model.metrics["fp32"]["top1"],
        "milliseconds": 1e3 * _seconds_per_window(folder, model) / seconds,
        "megabytes": (folder / "onnx/model.onnx").stat().st_size / 1e6,
    }


def _seconds_per_window(folder: Path, model: ModelConfig) -> float:
    """Median on one thread, float32, eight windows a call."""
    engine = OnnxEngine(folder / "onnx/model.onnx", model, precision="fp32", threads=1)
    log_mels = np.zeros((8, 1, model.window.n_frames, model.frontend.n_mels), dtype=np.float32)
    took, end = [], time.monotonic() + SECONDS_OF_TIMING
    while time.monotonic() < end:
        begun = time.monotonic()
        engine(log_mels)
        took.append(time.monotonic() - begun)
    return float(np.median(took)) / len(log_mels)


def table(variants: tuple[Variant, ...], rows: list[dict[str, float]]) -> str:
    """Markdown, one row for each variant."""
    lines = [
        "| variant | macro mAP | int8 | top-1 | network, ms per s of audio, one core | ONNX, MB |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {variant.name} | {row['fp32']:.3f} | {row['int8']:.3f} | {row['top1']:.3f} | {row['milliseconds']:.2f} "
        f"| {row['megabytes']:.1f} |"
        for variant, row in zip(variants, rows, strict=True)
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
