"""Trains a network on labelled clips and leaves a finished model folder.

The multi-branch form is trained on augmented windows; an exponential moving average of it is validated on the held-out
fold; the best average is fused, exported, quantised, and measured through the same pipeline that users run.
Every batch is drawn from a generator seeded by (seed, step), so a resumed training goes on as if it had not stopped.
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from audiotag import __version__
from audiotag.config import FrontEndConfig, ModelConfig, NetworkConfig, TrainConfig, WindowConfig
from audiotag.errors import CheckpointError, DataError
from audiotag.export import export_onnx, quantise_int8
from audiotag.frontend import LogMel
from audiotag.model_folder import write_configs
from audiotag.network import AudioRepInceptionNeXt, fuse, initialise, save_fused
from audiotag.training.augment import Augmenter, synthetic_negatives
from audiotag.training.credits import write_credits
from audiotag.training.dataset import (
    Credit,
    HalfArray,
    LabelledClip,
    choose_labels,
    label_matrix,
    log_mels_of,
    read_dataset,
)  # fmt: skip
from audiotag.training.figures import measure_model
from audiotag.training.metrics import hit_rate, macro_map
from audiotag.windows import window_starts

FloatArray = npt.NDArray[np.float32]

# A hop of 16 ms keeps the front-end and the network of a small model cheap; 64 bands up to 14 kHz hold what the
# hiss of a cymbal and the hum of an engine differ in. The offset lies above the noise of 16-bit quantisation, so that
# digital silence and a quiet recording look alike.
FRONTEND = FrontEndConfig(
    sample_rate=32000, n_fft=1024, win_length=1024, hop_length=512, n_mels=64, fmin=40.0, fmax=14000.0,
    log_offset=1e-2,
)  # fmt: skip
WINDOW = WindowConfig(n_samples=159 * 512, n_frames=160, padding="silence")  # 2.544 s

CHECKPOINT_FORMAT = "audiotag-checkpoint"
CHECKPOINT_VERSION = 1
LAST_CHECKPOINT = "checkpoint_last.pt"
BEST_CHECKPOINT = "checkpoint_best.pt"
VALIDATION_BATCH = 64  # windows
N_CALIBRATION_WINDOWS = 192  # percentiles keep every activation of a batch in memory
N_NEGATIVES = 120  # synthetic clips


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a training stands; `validation_map` is set after a validation (0 to 1)."""

    step: int
    steps: int
    loss: float
    validation_map: float | None = None
    validation_top1: float | None = None
    best_map: float = 0.0


@dataclass(frozen=True)
class _Data:
    """The clips of one side of the split: log-mels `[frame, mel]` and targets `[clip, class]`."""

    clips: tuple[LabelledClip, ...]
    log_mels: list[HalfArray]
    targets: FloatArray


def train(
    data: Path,
    out: Path,
    *,
    config: TrainConfig,
    resume: bool = False,
    cache: Path | None = None,
    license: str | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_clip: Callable[[int, int], None] = lambda done, total: None,
) -> ModelConfig:
    """Trains on all folds of `data` but `config.fold`, and writes the model folder `out`.

    `license` is the SPDX identifier that the weights are given. Checkpoints are written to `work_folder(out)` at every
    validation; `resume` goes on from the last one.

    Raises:
        DataError: the data cannot be used, or the held-out fold is empty.
        CheckpointError: `resume`, but the checkpoint is of another recipe.
    """
    clips = read_dataset(data)
    labels = choose_labels(clips, min_clips=config.min_clips, min_groups=config.min_groups)
    model = model_config(labels, config)
    work = work_folder(out)
    work.mkdir(parents=True, exist_ok=True)
    learning, held_out = _split(clips, model, fold=config.fold, cache=cache or work, on_clip=on_clip)
    torch.set_flush_denormal(True)
    _Trainer(model, config, learning, held_out, work, on_progress).run(resume=resume)
    return finish(out, data=data, config=config, cache=cache, license=license)


def work_folder(out: Path) -> Path:
    """Where the checkpoints and log-mels of a training lie: beside the model folder, which is to be published."""
    return out.parent / (out.name + ".training")


def model_config(labels: tuple[str, ...], config: TrainConfig) -> ModelConfig:
    """What a model of this recipe will be, before anything is measured."""
    network = NetworkConfig(
        n_labels=len(labels), width=config.width, depths=config.depths, kernel_sizes=config.kernel_sizes,
        dropout=config.dropout,
    )  # fmt: skip
    return ModelConfig(network=network, frontend=FRONTEND, window=WINDOW, labels=labels, activation="sigmoid")


def _split(
    clips: Sequence[LabelledClip],
    model: ModelConfig,
    *,
    fold: str,
    cache: Path,
    on_clip: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[_Data, _Data]:
    log_mels = log_mels_of(clips, model.frontend, cache=cache, on_clip=on_clip)

    def part(held_out: bool) -> _Data:
        chosen = [i for i, clip in enumerate(clips) if (clip.fold == fold) == held_out and len(log_mels[i])]
        if not chosen:
            where = f"in fold {fold!r}" if held_out else f"outside fold {fold!r}"
            folds = ", ".join(sorted({clip.fold for clip in clips}))
            raise DataError(f"no readable clip is {where}. Choose --fold among {folds}")
        kept = tuple(clips[i] for i in chosen)
        return _Data(kept, [log_mels[i] for i in chosen], label_matrix(kept, model.labels))

    return part(False), part(True)


class _Trainer:
    """The open state of a training: both sets of weights, the optimiser, and the step that comes next."""

    def __init__(
        self,
        model: ModelConfig,
        config: TrainConfig,
        learning: _Data,
        held_out: _Data,
        work: Path,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self.model, self.config, self.work, self.on_progress = model, config, work, on_progress
        self.held_out = held_out
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.manual_seed(config.seed)
        self.network = AudioRepInceptionNeXt(model.network)
        initialise(self.network)
        _start_from_frequencies(self.network, learning.targets)
        self.network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = copy.deepcopy(self.network).eval()
        self.optimiser = _optimiser(self.network, config)
        self.batches = _BatchSource(learning, model, config)
        self.step, self.best_map, self.best_step = 0, 0.0, 0

    def run(self, *, resume: bool) -> None:
        if resume:
            self._load()
        if self.step >= self.config.steps or self._is_stuck():
            return
        losses: list[float] = []
        for log_mels, targets in self.batches.from_step(self.step):
            losses.append(self._learn(log_mels, targets))
            self.step += 1
            done = self.step == self.config.steps
            if self.step % self.config.validate_every == 0 or done:
                self._validate(float(np.mean(losses)))
                losses.clear()
            elif self.step % 10 == 0:
                self._report(losses[-1])
            if done or self._is_stuck():
                return

    def _learn(self, log_mels: FloatArray, targets: FloatArray) -> float:
        rate = _learning_rate(self.step, self.config)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.network.train()
        logits = self.network(self._to_device(log_mels))
        smoothing = self.config.label_smoothing
        wanted = torch.from_numpy(targets).to(self.device) * (1 - smoothing) + smoothing / 2
        loss = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(dim=1).mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimiser.step()
        self._average()
        return loss.item()

    def _to_device(self, log_mels: FloatArray) -> Tensor:
        return torch.from_numpy(log_mels).to(self.device, memory_format=torch.channels_last)

    @torch.no_grad()
    def _average(self) -> None:
        # A short memory at first, or the random start would be remembered (Tarvainen, Valpola, 2017, appendix).
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        current = self.network.state_dict()
        for name, value in self.averaged.state_dict().items():
            if value.dtype.is_floating_point:
                value.lerp_(current[name], 1 - decay)
            else:
                value.copy_(current[name])

    def _validate(self, loss: float) -> None:
        scores = clip_scores(self.averaged, self.held_out.log_mels, self.model, to_device=self._to_device)
        value = macro_map(scores, self.held_out.targets)
        if value > self.best_map:
            self.best_map, self.best_step = value, self.step
            self._save(BEST_CHECKPOINT)
        self._save(LAST_CHECKPOINT)
        self._report(loss, value, hit_rate(scores, self.held_out.targets, k=1))

    def _is_stuck(self) -> bool:
        waited = (self.step - self.best_step) // self.config.validate_every
        return bool(self.config.patience) and waited >= self.config.patience

    def _report(self, loss: float, value: float | None = None, top1: float | None = None) -> None:
        self.on_progress(Progress(
            step=self.step, steps=self.config.steps, loss=loss, validation_map=value, validation_top1=top1,
            best_map=self.best_map,
        ))  # fmt: skip

    def _save(self, name: str) -> None:
        partial = self.work / (name + ".partial")
        torch.save({
            "format": CHECKPOINT_FORMAT, "version": CHECKPOINT_VERSION,
            "model": {"config": self.model.to_config_dict(), "preprocessor": self.model.to_preprocessor_dict()},
            "recipe": _comparable(self.config),
            "network": self.averaged.state_dict(),  # what is validated, fused and shipped
            "unaveraged": self.network.state_dict(), "optimiser": self.optimiser.state_dict(),
            "step": self.step, "best_map": self.best_map, "best_step": self.best_step,
        }, partial)  # fmt: skip
        partial.replace(self.work / name)

    def _load(self) -> None:
        path = self.work / LAST_CHECKPOINT
        saved = load_checkpoint(path)
        if saved["recipe"] != _comparable(self.config) or saved["model"]["config"] != self.model.to_config_dict():
            raise CheckpointError(f"{path}: is of another recipe or other data. Train into another folder")
        self.averaged.load_state_dict(saved["network"])
        self.network.load_state_dict(saved["unaveraged"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.step, self.best_map, self.best_step = saved["step"], saved["best_map"], saved["best_step"]


@torch.no_grad()
def _start_from_frequencies(network: AudioRepInceptionNeXt, targets: FloatArray) -> None:
    """The head's bias gives each label its share of the clips at first (Lin et al., "Focal loss", 2017, 4.1)."""
    share = np.clip(targets.mean(axis=0), 1e-3, 1 - 1e-3)
    network.head.bias.copy_(torch.from_numpy(np.log(share / (1 - share))))


def _comparable(config: TrainConfig) -> dict[str, Any]:
    """The recipe as a checkpoint keeps it: JSON values, for tuples do not survive weights-only loading as such."""
    recipe: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return recipe


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A training checkpoint of ours, tensors on the CPU.

    Raises:
        CheckpointError: there is none, or it is not one of ours.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path}: cannot be read: {error}. Train without --resume") from error
    if not isinstance(saved, dict) or saved.get("format") != CHECKPOINT_FORMAT:
        raise CheckpointError(f"{path}: is not a checkpoint of `audiotag train`")
    return saved


def _optimiser(network: AudioRepInceptionNeXt, config: TrainConfig) -> torch.optim.Optimizer:
    decayed = [p for p in network.parameters() if p.ndim >= 2]
    plain = [p for p in network.parameters() if p.ndim < 2]  # BatchNorm and biases
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate)


def _learning_rate(step: int, config: TrainConfig) -> float:
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    share = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


class _BatchSource:
    """Augmented batches, each drawn from its own generator and made one step ahead on another thread."""

    def __init__(self, data: _Data, model: ModelConfig, config: TrainConfig) -> None:
        rng = np.random.default_rng(config.seed)
        transform = LogMel(model.frontend)
        n_clips = N_NEGATIVES if config.negatives else 0
        noises = synthetic_negatives(model.frontend.sample_rate, rng, n_clips=n_clips)
        self._negatives = [transform(noise[None])[0].astype(np.float16) for noise in noises]
        self._data, self._model, self._config = data, model, config
        self._cumulative = np.cumsum(_sampling_weights(data.targets))

    def from_step(self, step: int) -> Iterator[tuple[FloatArray, FloatArray]]:
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(self.batch, step)
            while True:
                batch = coming.result()
                step += 1
                coming = pool.submit(self.batch, step)
                yield batch

    def batch(self, step: int) -> tuple[FloatArray, FloatArray]:
        """`[batch, 1, frame, mel]` and `[batch, class]`."""
        rng = np.random.default_rng((self._config.seed, step))
        augmenter = Augmenter(self._model.frontend, self._model.window, self._config, rng)
        windows = [augmenter.window([self._draw(rng), self._draw(rng)]) for _ in range(self._config.batch_size)]
        log_mels, targets = zip(*windows, strict=True)
        return np.stack(log_mels)[:, None], np.stack(targets)

    def _draw(self, rng: np.random.Generator) -> tuple[HalfArray, FloatArray]:
        if rng.random() < self._config.negatives:
            negative = self._negatives[rng.integers(len(self._negatives))]
            return negative, np.zeros(self._data.targets.shape[1], dtype=np.float32)
        clip = int(np.searchsorted(self._cumulative, rng.random() * self._cumulative[-1]))
        return self._data.log_mels[clip], self._data.targets[clip]


def _sampling_weights(targets: FloatArray) -> FloatArray:
    """A clip weighs as its rarest label: one over the root of the label's count."""
    rarity = 1.0 / np.sqrt(np.maximum(targets.sum(axis=0), 1.0))
    weights = (targets * rarity).max(axis=1)
    # Clips without a known label still show what the labels do not sound like.
    return np.asarray(np.where(weights > 0, weights, rarity.min()), dtype=np.float32)


@torch.no_grad()
def clip_scores(
    network: AudioRepInceptionNeXt,
    log_mels: Sequence[HalfArray],
    model: ModelConfig,
    *,
    to_device: Callable[[FloatArray], Tensor] = torch.from_numpy,
) -> npt.NDArray[np.float64]:
    """Mean sigmoid scores of clips over windows cut from their cached log-mels: quick, for use while training.

    Shape: n times `[frame, mel]` -> `[n, class]`.
    """
    pieces = [(owner, window) for owner, log_mel in enumerate(log_mels) for window in _cut(log_mel, model)]
    owners = np.array([owner for owner, _ in pieces])
    scores = []
    for start in range(0, len(pieces), VALIDATION_BATCH):
        batch = np.stack([window for _, window in pieces[start : start + VALIDATION_BATCH]])[:, None]
        scores.append(network(to_device(batch)).sigmoid().double().cpu().numpy())
    summed = np.zeros((len(log_mels), model.network.n_labels))
    np.add.at(summed, owners, np.concatenate(scores))
    return np.asarray(summed / np.bincount(owners, minlength=len(log_mels))[:, None])


def _cut(log_mel: HalfArray, model: ModelConfig) -> list[FloatArray]:
    frames = model.window.n_frames
    missing = frames - len(log_mel)
    if missing > 0:
        log_mel = np.pad(log_mel, ((0, missing), (0, 0)), constant_values=math.log(model.frontend.log_offset))
    starts = window_starts(len(log_mel), window=WindowConfig(n_samples=frames, n_frames=1), hop=frames)
    return [log_mel[start : start + frames].astype(np.float32) for start in starts]


def finish(
    out: Path, *, data: Path, config: TrainConfig, cache: Path | None = None, license: str | None = None
) -> ModelConfig:
    """Fuses the best checkpoint, exports, quantises, measures, and writes configs and model card."""
    saved = load_checkpoint(work_folder(out) / BEST_CHECKPOINT)
    clips = read_dataset(data)
    labels = choose_labels(clips, min_clips=config.min_clips, min_groups=config.min_groups)
    model = model_config(labels, config)
    network = AudioRepInceptionNeXt(model.network)
    network.load_state_dict(saved["network"])
    fused = fuse(network)
    (out / "onnx").mkdir(parents=True, exist_ok=True)
    save_fused(fused, out / "model.safetensors")
    export_onnx(fused, out / "onnx/model.onnx", n_frames=model.window.n_frames, n_mels=model.frontend.n_mels)
    learning, _ = _split(clips, model, fold=config.fold, cache=cache or work_folder(out))
    quantise_int8(out / "onnx/model.onnx", out / "onnx/model_int8.onnx", _calibration(learning, model, config))
    credits = write_credits(out, clips)
    model = replace(model, license=license, provenance=_provenance(data, config, clips, saved, credits))
    write_configs(out, model)
    return measure_model(out, model, [clip for clip in clips if clip.fold == config.fold])


def _calibration(data: _Data, model: ModelConfig, config: TrainConfig) -> Iterator[FloatArray]:
    """Windows of training clips as they are, a few from each part of the data."""
    rng = np.random.default_rng(config.seed)
    chosen = rng.permutation(len(data.log_mels))[:N_CALIBRATION_WINDOWS]
    for start in range(0, len(chosen), 32):
        yield np.stack([_cut(data.log_mels[clip], model)[0] for clip in chosen[start : start + 32]])[:, None]


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
        "recipe": _comparable(config),
        "steps_of_kept_weights": saved["step"],
        "threads": os.cpu_count(),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }


def _clips_by_license(credits: Counter[Credit]) -> Counter[str]:
    clips: Counter[str] = Counter()
    for credit, count in credits.items():
        clips[credit.license] += count
    return clips
