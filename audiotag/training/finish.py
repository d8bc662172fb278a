"""From a training's best checkpoint to a finished model folder."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from audiotag import __version__
from audiotag.config import ModelConfig, TrainConfig
from audiotag.engines import FloatArray
from audiotag.export import write_weights
from audiotag.journal import explained
from audiotag.machine import core_count
from audiotag.model_folder import write_configs
from audiotag.network import round_to_half
from audiotag.training.batches import Data
from audiotag.training.calibration import calibration_errors, fit_platt, fold_into_head
from audiotag.training.checkpoint import comparable, fused_network, load_checkpoint
from audiotag.training.credits import write_credits
from audiotag.training.dataset import NO_CREDIT, LabelledClip, label_matrix, name_of
from audiotag.training.figures import measure_model
from audiotag.training.places import BEST_CHECKPOINT, work_folder
from audiotag.training.validation import cut, window_logits

# Windows that int8 gets its ranges from, and of them at once: percentiles keep every activation of a batch in memory.
N_RANGE_WINDOWS, RANGE_BATCH = 192, 32


def finish(
    out: Path,
    *,
    data: Path,
    learning: Data,
    held_out: Data,
    model: ModelConfig,
    config: TrainConfig,
    origin: dict[str, Any],
    license: str | None = None,
    n_unreadable: int = 0,
) -> ModelConfig:
    """Fuses the best checkpoint, calibrates, exports, quantises, measures, and writes configs and model card.

    `origin` tells of the models that the training came from, as `Trainer.origin`; `n_unreadable` clips were left out.
    """
    clips = (*learning.clips, *held_out.clips)
    best = load_checkpoint(work_folder(out) / BEST_CHECKPOINT)
    fused = fused_network(best["network"], model.network)
    scored = window_logits(fused, held_out.log_mels, model)
    prevalence = label_matrix(clips, model.labels).mean(axis=0)
    groups = [clip.group for clip in held_out.clips]
    errors = calibration_errors(*scored, held_out.targets, groups=groups, prevalence=prevalence)
    fold_into_head(fused, fit_platt(*scored, held_out.targets, prevalence=prevalence))
    round_to_half(fused)
    with explained(out):
        write_weights(out, fused, model, ranges_data(learning, model, config.seed))
        write_credits(out, clips)
    made = provenance(data, config, clips, best["step"], n_unreadable=n_unreadable) | origin
    model = replace(model, license=license, metrics=errors, provenance=made)
    write_configs(out, model)
    return measure_model(out, model, held_out.clips)


def ranges_data(data: Data, model: ModelConfig, seed: int) -> Iterator[FloatArray]:
    """What int8 gets its ranges from: the first windows of clips drawn at random, as they are.

    Shape: `[n, 1, frame, mel]` each.
    """
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(data.log_mels))[:N_RANGE_WINDOWS]
    for start in range(0, len(chosen), RANGE_BATCH):
        yield np.stack([cut(data.log_mels[clip], model)[0] for clip in chosen[start : start + RANGE_BATCH]])[:, None]


def provenance(
    data: Path, config: TrainConfig, clips: Sequence[LabelledClip], step: int, *, n_unreadable: int
) -> dict[str, Any]:
    """How the weights of `step` were made, for the configuration and the card."""
    licenses = Counter(clip.credit.license for clip in clips if clip.credit != NO_CREDIT)
    return {
        "made_by": f"audiotag {__version__} train",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "data": name_of(data),
        "n_clips": len(clips),
        "n_clips_unreadable": n_unreadable,
        "n_clips_held_out": sum(clip.fold == config.fold for clip in clips),
        "n_clips_of_label": dict(sorted(Counter(label for clip in clips for label in clip.labels).items())),
        "n_clips_of_license": dict(sorted(licenses.items())),
        "recipe": comparable(config),
        "steps_of_kept_weights": step,
        "threads": core_count(),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }
