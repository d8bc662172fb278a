"""What a measured model still learns from the clips that it was measured on.

A held-out fold tells how good a recipe is; once that is known, the fold's clips are data like all others. The network
goes on from its measured weights for some steps over all folds. Its labels, calibration and figures stay those of the
measured model, for nothing is left to measure the new weights on; only sounds without anything to name are tried again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from audiotag.config import ModelConfig, TrainConfig
from audiotag.errors import DataError
from audiotag.export import write_weights
from audiotag.journal import explained
from audiotag.model_folder import open_model_folder
from audiotag.network import round_to_half
from audiotag.training.batches import Data, load, split
from audiotag.training.calibration import fit_platt, fold_into_head
from audiotag.training.checkpoint import fused_network, load_checkpoint, recipe_of
from audiotag.training.credits import write_credits
from audiotag.training.dataset import LabelledClip, choose_labels, digest_of, read_dataset
from audiotag.training.figures import measure_negatives
from audiotag.training.finish import provenance, ranges_data
from audiotag.training.places import BEST_CHECKPOINT, LAST_CHECKPOINT, has_checkpoint, own_work_folder, work_folder
from audiotag.training.recipe import model_config
from audiotag.training.teacher import Teacher
from audiotag.training.trainer import Progress, Trainer
from audiotag.training.validation import window_logits

NO_FOLD = ""  # held out
WARMUP_STEPS = 100


def refit(
    source: Path,
    data: Path,
    out: Path,
    *,
    steps: int,
    learning_rate: float,
    resume: bool = False,
    cache: Path | None = None,
    teacher: Path | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_clip: Callable[[int, int], None] = lambda done, total: None,
) -> ModelConfig:
    """Goes on from the model folder `source` over all folds of `data`, and writes the model folder `out`.

    `source` was made by `train` of the same data, and its checkpoints still lie beside it. `resume` goes on from the
    last checkpoint of `out`, if there is one. A model that was taught by another goes on so: `teacher` is that other
    one after a refit of its own.

    Raises:
        ModelError: `source` is not a model folder.
        CheckpointError: there is no checkpoint beside it, or another version of audiotag made it; or `resume`, and the
            one of `out` is of another recipe.
        DataError: `source` was not trained on these data, or `teacher` is missing, not wanted, or no teacher for it.
        OutputError: another training is writing `out`, or it cannot be written.
    """
    measured = _measured(source)
    learnt_by = recipe_of(measured.provenance["recipe"], where=source)
    clips = _same_clips(data, source, measured, learnt_by)
    recipe = replace(
        learnt_by, fold=NO_FOLD, patience=0, steps=steps, learning_rate=learning_rate, warmup_steps=WARMUP_STEPS
    )
    model = _as_trained(measured, recipe)
    taught_by = _teacher(source, measured, teacher, model, recipe)
    best = load_checkpoint(work_folder(source) / BEST_CHECKPOINT)
    with own_work_folder(out) as work:
        everything = load(clips, model, recipe, cache=cache or work, on_clip=on_clip)
        if best["clips"] != digest_of(everything.clips):
            raise DataError(f"{data}: has other clips than {source} was trained on, or other labels, folds or groups "
                            "of them. Refit on the data that it was trained on")  # fmt: skip
        trainer = Trainer(model, recipe, everything, None, work, on_progress, teacher=taught_by)
        trainer.go_on_from(best)
        trainer.run(resume=resume and has_checkpoint(out))
        made = {"n_clips": len(everything.clips), "steps": steps, "learning_rate": learning_rate, **trainer.origin}
        return _finish(best, out, data, everything, measured, learnt_by, made)


def _measured(source: Path) -> ModelConfig:
    measured = open_model_folder(source).config
    if "recipe" not in measured.provenance or "fp32" not in measured.metrics:
        raise DataError(f"{source}: was not made by `audiotag train`. Refit a model that was")
    if "refit" in measured.provenance:
        raise DataError(f"{source}: has learnt from all folds already. Refit the model that it was made from")
    return measured


def _teacher(
    source: Path, measured: ModelConfig, teacher: Path | None, model: ModelConfig, recipe: TrainConfig
) -> Teacher | None:
    """Who is taught by scores has softer ones, and its calibration holds only as long as it goes on so."""
    if "taught_by" in measured.provenance:
        if teacher is None:
            name = measured.provenance["taught_by"]["name"]
            raise DataError(f"{source}: was taught by the model {name!r}. Refit that first, and give the outcome as "
                            "--teacher")  # fmt: skip
        return Teacher(teacher, model, recipe)
    if teacher is not None:
        raise DataError(f"{source}: was not taught by a model. Refit it without --teacher")
    return None


def _same_clips(data: Path, source: Path, measured: ModelConfig, recipe: TrainConfig) -> tuple[LabelledClip, ...]:
    clips = read_dataset(data)
    if choose_labels(clips, min_clips=recipe.min_clips, min_groups=recipe.min_groups) != measured.labels:
        raise DataError(f"{data}: gives other labels than {source} has. Refit on the data that it was trained on")
    return clips


def _as_trained(measured: ModelConfig, recipe: TrainConfig) -> ModelConfig:
    """The model before it was measured; its windows may be others than today's recipe makes."""
    return replace(model_config(measured.labels, recipe), frontend=measured.frontend, window=measured.window)


def _finish(
    best: dict[str, Any],
    out: Path,
    data: Path,
    everything: Data,
    measured: ModelConfig,
    recipe: TrainConfig,
    refit: dict[str, Any],
) -> ModelConfig:
    """Calibrates the new weights as the measured ones, `best`, were by `recipe`, on clips they had not learnt from."""
    model = _as_trained(measured, recipe)
    before = fused_network(best["network"], model.network)
    fused = fused_network(load_checkpoint(work_folder(out) / LAST_CHECKPOINT)["network"], model.network)
    _, held_out = split(everything, recipe.fold)
    prevalence = everything.targets.mean(axis=0)
    scored = window_logits(before, held_out.log_mels, model)
    fold_into_head(fused, fit_platt(*scored, held_out.targets, prevalence=prevalence))
    round_to_half(fused)
    with explained(out):
        write_weights(out, fused, model, ranges_data(everything, model, recipe.seed))
        write_credits(out, everything.clips)
    made = {
        **measured.provenance,
        **provenance(data, recipe, everything.clips, best["step"], n_unreadable=everything.n_unreadable),
        "refit": refit,
    }
    return measure_negatives(out, replace(measured, provenance=made))
