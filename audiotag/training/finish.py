"""From a training's best checkpoint to a finished model folder."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from audiotag import __version__
from audiotag.config import ModelConfig, TrainConfig
from audiotag.export import export_onnx, quantise_int8
from audiotag.model_folder import write_configs
from audiotag.network import AudioRepInceptionNeXt, fuse, save_fused
from audiotag.training.batches import Data, split
from audiotag.training.calibration import calibration_errors, fit_platt, fold_into_head
from audiotag.training.checkpoint import BEST_CHECKPOINT, comparable, load_checkpoint, work_folder
from audiotag.training.credits import write_credits
from audiotag.training.dataset import Credit, LabelledClip, choose_labels, label_matrix, read_dataset
from audiotag.training.figures import measure_model
from audiotag.training.recipe import model_config
from audiotag.training.validation import cut, window_logits

FloatArray = npt.NDArray[np.float32]

N_CALIBRATION_WINDOWS = 192  # percentiles keep every activation of a batch in memory


def finish(
    out: Path, *, data: Path, config: TrainConfig, cache: Path | None = None, license: str | None = None
) -> ModelConfig:
    """Fuses the best checkpoint, calibrates, exports, quantises, measures, and writes configs and model card."""
    saved = load_checkpoint(work_folder(out) / BEST_CHECKPOINT)
    clips = read_dataset(data)
    labels = choose_labels(clips, min_clips=config.min_clips, min_groups=config.min_groups)
    model = model_config(labels, config)
    network = AudioRepInceptionNeXt(model.network)
    network.load_state_dict(saved["network"])
    fused = fuse(network)
    learning, held_out = split(clips, model, replace(config, damage_probability=0.0), cache=cache or work_folder(out))
    errors = _calibrate(fused, clips, held_out, model)
    (out / "onnx").mkdir(parents=True, exist_ok=True)
    save_fused(fused, out / "model.safetensors")
    export_onnx(fused, out / "onnx/model.onnx", n_frames=model.window.n_frames, n_mels=model.frontend.n_mels)
    quantise_int8(out / "onnx/model.onnx", out / "onnx/model_int8.onnx", _ranges_data(learning, model, config))
    credits = write_credits(out, clips)
    model = replace(
        model, license=license, provenance=_provenance(data, config, clips, saved, credits), metrics=errors
    )  # fmt: skip
    write_configs(out, model)
    return measure_model(out, model, [clip for clip in clips if clip.fold == config.fold])


def _calibrate(
    fused: AudioRepInceptionNeXt, clips: Sequence[LabelledClip], held_out: Data, model: ModelConfig
) -> dict[str, Any]:
    """Fits the scores of the held-out clips and folds what was found into the head; the errors before and after."""
    logits, owners = window_logits(fused, held_out.log_mels, model)
    prevalence = label_matrix(clips, model.labels).mean(axis=0)
    groups = [clip.group for clip in held_out.clips]
    errors = calibration_errors(logits, owners, held_out.targets, groups=groups, prevalence=prevalence)
    fold_into_head(fused, fit_platt(logits, owners, held_out.targets, prevalence=prevalence))
    return errors


def _ranges_data(data: Data, model: ModelConfig, config: TrainConfig) -> Iterator[FloatArray]:
    """Windows of training clips as they are, a few from each part of the data."""
    rng = np.random.default_rng(config.seed)
    chosen = rng.permutation(len(data.log_mels))[:N_CALIBRATION_WINDOWS]
    for start in range(0, len(chosen), 32):
        yield np.stack([cut(data.log_mels[clip], model)[0] for clip in chosen[start : start + 32]])[:, None]


def _provenance(
    data: Path,
    config: TrainConfig,
    clips: Sequence[LabelledClip],
    saved: dict[str, Any],
    credits: Counter[Credit],
) -> dict[str, Any]:
    return {
        "made_by": f"audiotag {__version__} train",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "data": data.name,
        "n_clips": len(clips),
        "n_clips_held_out": sum(clip.fold == config.fold for clip in clips),
        "n_clips_of_label": dict(sorted(Counter(label for clip in clips for label in clip.labels).items())),
        "n_clips_of_license": dict(sorted(_clips_by_license(credits).items())),
        "recipe": comparable(config),
        "steps_of_kept_weights": saved["step"],
        "threads": os.cpu_count(),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }


def _clips_by_license(credits: Counter[Credit]) -> Counter[str]:
    clips: Counter[str] = Counter()
    for credit, count in credits.items():
        clips[credit.license] += count
    return clips
