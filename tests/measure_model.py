"""Measures a model folder on its held-out fold and writes the figures wherever they are told.

    python tests/measure_model.py manifest.csv                  # weights/default on the fold that it was not trained on
    python tests/measure_model.py manifest.csv --model my-model --fold 2

float32 and int8: mAP, hit rates, calibration, each label, ESC-10's ten classes, and sounds without anything to name.
They go into the folder's config.json and model card and, for the embedded model, between the markers in
weights/README.md and README.md. A model of `audiotag refit` has learnt from all folds: its figures are those of the
model that it was made from, and only the pages are written.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pages import write_between_markers

from audiotag.config import ModelConfig
from audiotag.model_card import figures_table
from audiotag.model_folder import open_model_folder
from audiotag.training.dataset import read_dataset
from audiotag.training.figures import Subset, measure_model

ROOT = Path(__file__).parents[1]
EMBEDDED = ROOT / "weights" / "default"
PAGES = (ROOT / "weights" / "README.md", ROOT / "README.md")
SCRIPT = Path(__file__).name

# The labels of ESC-10's classes, as its author names them: dog bark, rain, sea waves, baby cry, clock tick, person
# sneeze, helicopter, chainsaw, rooster, fire crackling (Piczak: "ESC: Dataset for environmental sound classification",
# ACM Multimedia 2015).
ESC10 = Subset(
    name="ESC-10",
    labels=("Bark", "Rain", "Waves, surf", "Baby cry, infant cry", "Tick", "Sneeze", "Helicopter", "Chainsaw",
            "Crowing, cock-a-doodle-doo", "Crackle"),
    sources=("esc10",),
)  # fmt: skip


def main() -> None:
    """Parses the command line, measures, writes."""
    parser = argparse.ArgumentParser(description="Measure a model folder and write its figures.")
    parser.add_argument("data", type=Path, help="the manifest or labelled folder that it was trained on")
    parser.add_argument("--model", type=Path, default=EMBEDDED)
    parser.add_argument("--fold", help="held out; default: the one that its configuration names")
    arguments = parser.parse_args()
    config = open_model_folder(arguments.model).config
    measured = config if "refit" in config.provenance else _measure(arguments, config)
    if arguments.model.resolve() == EMBEDDED.resolve():
        for page in PAGES:
            write_between_markers(page, SCRIPT, summary(measured))
    print("\n".join(summary(measured)))


def _measure(arguments: argparse.Namespace, config: ModelConfig) -> ModelConfig:
    fold = arguments.fold or config.provenance.get("recipe", {}).get("fold")
    clips = [clip for clip in read_dataset(arguments.data) if fold is None or clip.fold == fold]
    if not clips:
        sys.exit(f"measure_model: no clip of {arguments.data} is in fold {fold!r}")
    return measure_model(arguments.model, config, clips, subsets=(ESC10,))


def summary(config: ModelConfig) -> list[str]:
    """What a reader wants first, in Markdown."""
    exact, negatives = config.metrics["fp32"], config.metrics["negatives"]
    tagged = {name: sum(each[name] for each in negatives.values()) / len(negatives) for name in ("fp32", "int8")}
    worst = max(negatives, key=lambda kind: negatives[kind]["int8"])
    heading, rule, *rows = figures_table(config)
    return [
        heading.replace("| |", f"| on {exact['n_clips']} held-out clips, {exact['n_labels']} labels |", 1), rule, *rows,
        f"| of sounds without anything to name, tagged | {100 * tagged['fp32']:.1f} % | {100 * tagged['int8']:.1f} % |",
        f"| worst of their {len(negatives)} kinds: {worst} | {100 * negatives[worst]['fp32']:.0f} % "
        f"| {100 * negatives[worst]['int8']:.0f} % |",
        "", f"int8 loses {config.int8_map_loss:g} points of macro mAP (of 100).",
    ]  # fmt: skip


if __name__ == "__main__":
    main()
