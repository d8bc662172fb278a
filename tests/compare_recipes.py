"""Trains variants of the recipe on one small budget and tells how they compare; not a test.

    python tests/compare_recipes.py ../shared/data/manifest.csv --out runs --steps 400 --batch-size 32

One table compares members of the family (widths, windows and mel bands), one the kernels of the multi-branch block, and
one takes parts of the recipe away. Each variant is trained alike: same clips, folds, steps, batches and seed. Variants
that are finished are not trained again, so the script can be stopped and run once more. A table goes into the notes of
the embedded model, which end its card, as soon as its variants are finished.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from pages import write_between_markers

from audiotag.benchmark import engine_seconds
from audiotag.config import FrontEndConfig, TrainConfig
from audiotag.engines.onnx import OnnxEngine
from audiotag.machine import core_count
from audiotag.model_folder import CARD, ONNX, ModelFolder, open_model_folder
from audiotag.training import batches
from audiotag.training.train import train

NOTES = Path(__file__).parents[1] / "weights" / "default" / "NOTES.md"
ROUNDS_OF_TIMING = 7


@dataclass(frozen=True)
class Variant:
    """What differs from the recipe: fields of `TrainConfig`, and a part of the training that is taken out."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    without: str = ""


TABLES = {
    "Members of the family": (
        Variant("width 24, 56 bands, 5.0 s"),
        Variant("width 16, 56 bands, 5.0 s", {"width": 16}),
        Variant("width 32, 56 bands, 5.0 s", {"width": 32}),
        Variant("width 24, 56 bands, 1.0 s", {"n_frames": 44}),
        Variant("width 24, 56 bands, 2.5 s", {"n_frames": 109}),
        Variant("width 24, 40 bands, 5.0 s", {"n_mels": 40}),
        Variant("width 24, 80 bands, 5.0 s", {"n_mels": 80}),
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
        Variant("no labels but the model's", {"auxiliary_min_clips": 0}),
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
    parser.add_argument("--page", type=Path, default=NOTES, help="where the markers are")
    arguments = parser.parse_args()
    budget = TrainConfig(
        steps=arguments.steps, validate_every=arguments.steps, batch_size=arguments.batch_size, fold=arguments.fold,
        warmup_steps=min(TrainConfig.warmup_steps, arguments.steps // 4),
    )  # fmt: skip
    arguments.out.mkdir(parents=True, exist_ok=True)
    cache = arguments.cache or arguments.out / "cache"
    for title, variants in TABLES.items():
        folders = [_trained(variant, budget, arguments.manifest, arguments.out, cache) for variant in variants]
        lines = [f"**{title}**, {_conditions(budget, folders[0].config.frontend)}", "", *table(variants, folders)]
        write_between_markers(arguments.page, f"{Path(__file__).name}: {title}", lines)
        print("\n".join([*lines, ""]))


def _conditions(budget: TrainConfig, frontend: FrontEndConfig) -> str:
    return (
        f"each trained for {budget.steps} steps of {budget.batch_size} windows, fold {budget.fold} held out, seed "
        f"{budget.seed}, audio at {frontend.sample_rate} Hz; {date.today().isoformat()}, {core_count()} cores:"
    )


def _trained(variant: Variant, budget: TrainConfig, manifest: Path, out: Path, cache: Path) -> ModelFolder:
    config = replace(budget, **variant.changes)
    name = f"{'-'.join(f'{key}={value}' for key, value in variant.changes.items()) or 'recipe'}{variant.without}"
    folder = out / name.replace(" ", "")
    if not (folder / CARD).exists():  # written last
        with taken_out(variant.without):
            train(manifest, folder, config=config, cache=cache, resume=True)
    return open_model_folder(folder)


def taken_out(part: str) -> AbstractContextManager[Any]:
    """Training without a part that no option turns off."""
    return mock.patch.object(batches, part, INSTEAD[part]) if part else nullcontext()


def _milliseconds(folders: Sequence[ModelFolder]) -> list[float]:
    """Of a network for a second of audio on one thread, float32: medians over rounds, in which each has its turn."""
    engines = [OnnxEngine(each.file(ONNX), each.config, precision="fp32", threads=1) for each in folders]
    rounds = [
        [engine_seconds(engine, each.config, engine.batch_size) for engine, each in zip(engines, folders, strict=True)]
        for _ in range(ROUNDS_OF_TIMING)
    ]
    of_window = 1e3 * np.median(rounds, axis=0)
    return [time / each.config.window_seconds for time, each in zip(of_window, folders, strict=True)]


def table(variants: Sequence[Variant], folders: Sequence[ModelFolder]) -> list[str]:
    """Markdown, one row for each variant."""
    heading = "| variant | macro mAP | int8 | top-1 | network, ms per s of audio, one core | ONNX, MB |"
    rows = []
    for variant, folder, milliseconds in zip(variants, folders, _milliseconds(folders), strict=True):
        exact, rounded = folder.config.metrics["fp32"], folder.config.metrics["int8"]
        rows.append(
            f"| {variant.name} | {exact['macro_map']:.3f} | {rounded['macro_map']:.3f} | {exact['top1']:.3f} "
            f"| {milliseconds:.2f} | {folder.file(ONNX).stat().st_size / 1e6:.1f} |"
        )
    return [heading, "| --- | ---: | ---: | ---: | ---: | ---: |", *rows]


if __name__ == "__main__":
    main()
