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
from audiotag.training.batches import Data, load, split
from audiotag.training.calibration import Platt, calibration_errors, fit_platt, fold_into_head
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
    clips = read_dataset(data)
    labels = choose_labels(clips, min_clips=config.min_clips, min_groups=config.min_groups)
    model = model_config(labels, config)
    fused, step = fused_checkpoint(work_folder(out) / BEST_CHECKPOINT, model)
    learning, held_out = split(load_clean(clips, model, config, cache=cache or work_folder(out)), config.fold)
    scored = window_logits(fused, held_out.log_mels, model)
    platt, errors = calibration(scored, held_out, prevalence=label_matrix(clips, labels).mean(axis=0))
    fold_into_head(fused, platt)
    write_weights(out, fused, model, learning, seed=config.seed)
    made = provenance(data, config, clips, write_credits(out, clips), step)
    model = replace(model, license=license, metrics=errors, provenance=made)
    write_configs(out, model)
    return measure_model(out, model, [clip for clip in clips if clip.fold == config.fold])


def fused_checkpoint(path: Path, model: ModelConfig) -> tuple[AudioRepInceptionNeXt, int]:
    """The network whose averaged weights a checkpoint holds, fused, and the step that they are of."""
    saved = load_checkpoint(path)
    network = AudioRepInceptionNeXt(model.network)
    network.load_state_dict(saved["network"])
    return fuse(network), saved["step"]


def load_clean(clips: Sequence[LabelledClip], model: ModelConfig, config: TrainConfig, *, cache: Path) -> Data:
    """The clips as they are, without damaged copies."""
    return load(clips, model, replace(config, damage_probability=0.0), cache=cache)


def calibration(
    scored: tuple[FloatArray, npt.NDArray[np.intp]], held_out: Data, *, prevalence: FloatArray
) -> tuple[Platt, dict[str, float]]:
    """What calibrates the window logits of the held-out clips, and the errors of their scores before and after."""
    groups = [clip.group for clip in held_out.clips]
    errors = calibration_errors(*scored, held_out.targets, groups=groups, prevalence=prevalence)
    return fit_platt(*scored, held_out.targets, prevalence=prevalence), errors


def write_weights(out: Path, fused: AudioRepInceptionNeXt, model: ModelConfig, data: Data, *, seed: int) -> None:
    """Writes the three files of a model folder that hold weights; int8 gets its ranges from clips of `data`."""
    (out / "onnx").mkdir(parents=True, exist_ok=True)
    save_fused(fused, out / "model.safetensors")
    export_onnx(fused, out / "onnx/model.onnx", n_frames=model.window.n_frames, n_mels=model.frontend.n_mels)
    quantise_int8(fused, out / "onnx/model_int8.onnx", _ranges_data(data, model, seed))


def _ranges_data(data: Data, model: ModelConfig, seed: int) -> Iterator[FloatArray]:
    """Windows of training clips as they are, a few from each part of the data."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(data.log_mels))[:N_CALIBRATION_WINDOWS]
    for start in range(0, len(chosen), 32):
        yield np.stack([cut(data.log_mels[clip], model)[0] for clip in chosen[start : start + 32]])[:, None]


def provenance(
    data: Path, config: TrainConfig, clips: Sequence[LabelledClip], credits: Counter[Credit], step: int
) -> dict[str, Any]:
    """How the weights of `step` were made, for the configuration and the card."""
    return {
        "made_by": f"audiotag {__version__} train",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "data": data.name,
        "n_clips": len(clips),
        "n_clips_held_out": sum(clip.fold == config.fold for clip in clips),
        "n_clips_of_label": dict(sorted(Counter(label for clip in clips for label in clip.labels).items())),
        "n_clips_of_license": dict(sorted(_clips_by_license(credits).items())),
        "recipe": comparable(config),
        "steps_of_kept_weights": step,
        "threads": os.cpu_count(),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }


def _clips_by_license(credits: Counter[Credit]) -> Counter[str]:
    clips: Counter[str] = Counter()
    for credit, count in credits.items():
        clips[credit.license] += count
    return clips
