"""The loop of a training: steps on augmented windows, an average of the weights, validations and checkpoints.

The multi-branch form is trained; an exponential moving average of it is what is validated and kept. Every batch and
its dropout are drawn from generators seeded by (seed, step), so a resumed training goes on as if it had not stopped.
"""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from audiotag.config import ModelConfig, TrainConfig
from audiotag.convert import CHECKPOINT_FORMAT
from audiotag.engines import FloatArray
from audiotag.errors import CheckpointError, DataError
from audiotag.journal import explained
from audiotag.model_folder import ModelFolder
from audiotag.network import AudioRepInceptionNeXt, fuse, initialise
from audiotag.training.auxiliary import join_outputs, split_outputs, taught_labels
from audiotag.training.batches import BatchSource, Data
from audiotag.training.calibration import pooled_scores
from audiotag.training.checkpoint import CHECKPOINT_VERSION, comparable, load_checkpoint
from audiotag.training.dataset import digest_of, label_matrix
from audiotag.training.matrix_forward import training_logits
from audiotag.training.metrics import hit_rate, macro_map
from audiotag.training.optimiser import Optimiser, normalise
from audiotag.training.places import BEST_CHECKPOINT, LAST_CHECKPOINT
from audiotag.training.start import start_from
from audiotag.training.teacher import Teacher
from audiotag.training.validation import window_logits

MOST_GRADIENT = 5.0  # norm over all weights; larger ones are scaled down to it

# Part of a training's origin, its option, and what is told where a resumed training has another.
_OTHER_ORIGINS = (
    ("begun_with", "--from", "began with other weights"),
    ("taught_by", "--teacher", "was taught by another teacher"),
)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a training stands; `validation_map` is set after a validation (0 to 1)."""

    step: int
    steps: int
    loss: float
    validation_map: float | None = None
    validation_top1: float | None = None
    best_map: float = 0.0


class Trainer:
    """The open state of a training: both sets of weights, the optimiser, and the step that comes next.

    Checkpoints are written to `work` at every validation. Without held-out clips nothing is validated: the last weights
    are the ones to keep.
    """

    def __init__(
        self,
        model: ModelConfig,
        config: TrainConfig,
        learning: Data,
        held_out: Data | None,
        work: Path,
        on_progress: Callable[[Progress], None],
        start: ModelFolder | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        self.model, self.config, self.work, self.on_progress = model, config, work, on_progress
        self._start = start  # a finished model to begin with
        self._teacher = teacher
        self.origin = _origin(start, teacher)
        self.held_out = held_out
        clips = (*learning.clips, *(held_out.clips if held_out is not None else ()))
        self._digest = digest_of(clips)
        self._taught = taught_labels(clips, model.labels, min_clips=config.auxiliary_min_clips)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        if teacher is not None:
            teacher.check_clips(self._digest)
            teacher.network.to(self.device)
        torch.set_flush_denormal(True)
        torch.manual_seed(config.seed)
        self.network = AudioRepInceptionNeXt(replace(model.network, n_labels=len(self._taught)))
        initialise(self.network)
        normalise(self.network)
        _start_from_frequencies(self.network, label_matrix(learning.clips, self._taught))
        self.network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = copy.deepcopy(self.network).eval()
        self.optimiser = Optimiser(self.network, config)
        self.batches = BatchSource(learning, model, config, taught=self._taught)
        self.step, self.best_map, self.best_step = 0, 0.0, 0

    def _begin_with(self, source: ModelFolder) -> None:
        """Takes what a finished model has learnt instead of random weights; raises what `start_from` does."""
        log_mels, _ = self.batches.batch(0)
        start_from(self.network, self._taught, source, self._to_device(log_mels))
        normalise(self.network)
        self.averaged.load_state_dict(self.network.state_dict())

    def go_on_from(self, checkpoint: dict[str, Any]) -> None:
        """Takes the weights of another training of the same network on the same clips."""
        self.network.load_state_dict(join_outputs(checkpoint["network"], checkpoint["auxiliary"]))
        normalise(self.network)
        self.averaged.load_state_dict(self.network.state_dict())

    def run(self, *, resume: bool) -> None:
        """Takes the steps that are left.

        Raises:
            ModelError: the weights to begin with cannot be read.
            CheckpointError: `resume`, but the last checkpoint is missing, of another recipe or other clips, or began
                with other weights.
            DataError: the loss is not finite.
            OutputError: a checkpoint cannot be written.
        """
        if resume:
            self._load()
        elif self._start is not None:
            self._begin_with(self._start)
        if self.step >= self.config.steps or self._is_stuck():
            return
        losses: list[float] = []
        for log_mels, targets in self.batches.from_step(self.step):
            losses.append(self._learn(log_mels, targets))
            self.step += 1
            if not math.isfinite(losses[-1]):
                raise DataError(f"the loss of step {self.step} is {losses[-1]}. Train with a lower --learning-rate")
            done = self.step == self.config.steps
            if self.step % self.config.validate_every == 0 or done:
                self._validate(float(np.mean(losses)))
                losses.clear()
            else:
                self._report(losses[-1])
            if done or self._is_stuck():
                return

    def _learn(self, log_mels: FloatArray, targets: FloatArray) -> float:
        self.network.train()
        torch.manual_seed(_seed_of_step(self.config.seed, self.step))  # for dropout
        # Matrix products are the quickest on a CPU; a GPU has kernels for the convolutions themselves.
        forward = self.network if self.device == "cuda" else partial(training_logits, self.network)
        heard, wanted = self._to_device(log_mels), torch.from_numpy(targets).to(self.device)
        if self._teacher is not None:
            wanted = self._teacher.join(heard, wanted)
        loss = self._loss(forward(heard), wanted)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), MOST_GRADIENT)
        self.optimiser.step(learning_rate(self.step, self.config))
        self._average()
        return loss.item()

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy summed over the labels that are known to be heard or not, mean over the windows."""
        known = ~targets.isnan()
        smoothing = self.config.label_smoothing
        wanted = targets.nan_to_num() * (1 - smoothing) + smoothing / 2
        return functional.binary_cross_entropy_with_logits(logits, wanted, known, reduction="sum") / len(logits)

    def _to_device(self, log_mels: FloatArray) -> Tensor:
        return torch.from_numpy(log_mels).to(self.device, memory_format=torch.channels_last)

    @torch.no_grad()
    def _average(self) -> None:
        # A short memory at first, or the random start would be remembered (Tarvainen, Valpola, 2017, appendix).
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        for average, current in zip(_state(self.averaged), _state(self.network), strict=True):
            torch._foreach_lerp_(average, current, 1 - decay)

    def _validate(self, loss: float) -> None:
        value = top1 = None
        if self.held_out is not None:
            network = fuse(self.averaged)
            logits, owners = window_logits(network, self.held_out.log_mels, self.model, to_device=self._to_device)
            scores = pooled_scores(logits[:, : len(self.model.labels)], owners, n_clips=len(self.held_out.clips))
            value, top1 = macro_map(scores, self.held_out.targets), hit_rate(scores, self.held_out.targets, k=1)
            if value > self.best_map:
                self.best_map, self.best_step = value, self.step
                self._save(BEST_CHECKPOINT)
        self._save(LAST_CHECKPOINT)
        self._report(loss, value, top1)

    def _is_stuck(self) -> bool:
        waited = (self.step - self.best_step) // self.config.validate_every
        return bool(self.config.patience) and waited >= self.config.patience

    def _report(self, loss: float, value: float | None = None, top1: float | None = None) -> None:
        self.on_progress(Progress(
            step=self.step, steps=self.config.steps, loss=loss, validation_map=value, validation_top1=top1,
            best_map=self.best_map,
        ))  # fmt: skip

    def _save(self, name: str) -> None:
        whole, unfinished = io.BytesIO(), self.work / (name + ".partial")
        averaged, auxiliary = split_outputs(self.averaged.state_dict(), len(self.model.labels))
        torch.save({
            "format": CHECKPOINT_FORMAT, "version": CHECKPOINT_VERSION,
            "model": self._described(), "recipe": comparable(self.config), "clips": self._digest,
            "network": averaged, "auxiliary": auxiliary,  # the first is what is validated, fused and shipped
            "unaveraged": self.network.state_dict(), "optimiser": self.optimiser.state_dict(),
            "step": self.step, "best_map": self.best_map, "best_step": self.best_step, **self.origin,
        }, whole)  # fmt: skip
        with explained(self.work):  # torch would tell of a full disk as of an archive that is broken
            unfinished.write_bytes(whole.getbuffer())
            unfinished.replace(self.work / name)

    def _described(self) -> dict[str, Any]:
        return {"config": self.model.to_config_dict(), "preprocessor": self.model.to_preprocessor_dict()}

    def _load(self) -> None:
        path = self.work / LAST_CHECKPOINT
        saved = load_checkpoint(path)
        recipe = comparable(TrainConfig()) | saved["recipe"]  # what a newer version added was at its default
        if recipe != comparable(self.config) or saved["model"] != self._described():
            raise CheckpointError(f"{path}: is of another recipe or other data. Train into another folder")
        if saved["clips"] != self._digest:
            way = "Bring them back, or train into another folder"
            raise CheckpointError(f"{path}: is of other clips, or of clips with other labels, folds or groups. {way}")
        for part, option, differs in _OTHER_ORIGINS:
            before, now = saved.get(part), self.origin.get(part)
            if (before and before["sha256"]) != (now and now["sha256"]):
                way = f"Give {option} the model {before['name']!r} again" if before else f"Leave out {option}"
                raise CheckpointError(f"{path}: {differs}. {way}, or train into another folder")
        self.averaged.load_state_dict(join_outputs(saved["network"], saved["auxiliary"]))
        self.network.load_state_dict(saved["unaveraged"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.step, self.best_map, self.best_step = saved["step"], saved["best_map"], saved["best_step"]


def _origin(start: ModelFolder | None, teacher: Teacher | None) -> dict[str, dict[str, str]]:
    """Name and sha256 of the models that a training came from, by their part in it."""
    origin = {}
    if start is not None:
        origin["begun_with"] = {"name": start.name, "sha256": start.sha256}
    if teacher is not None:
        origin["taught_by"] = teacher.identity
    return origin


@torch.no_grad()
def _start_from_frequencies(network: AudioRepInceptionNeXt, targets: FloatArray) -> None:
    """The head's bias gives each label its share of the clips at first (Lin et al., "Focal loss", 2017, 4.1)."""
    share = np.clip(targets.mean(axis=0), 1e-3, 1 - 1e-3)
    network.head.bias.copy_(torch.from_numpy(np.log(share / (1 - share))))


def _state(network: AudioRepInceptionNeXt) -> tuple[list[Tensor], list[Tensor]]:
    """Weights and running statistics, without what is counted."""
    return list(network.parameters()), [value for value in network.buffers() if value.dtype.is_floating_point]


def _seed_of_step(seed: int, step: int) -> int:
    return int(np.random.SeedSequence((seed, step)).generate_state(1)[0])


def learning_rate(step: int, config: TrainConfig) -> float:
    """A cosine to 0 after a linear warm-up (Loshchilov, Hutter, "SGDR", 2017, without restarts)."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    share = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
