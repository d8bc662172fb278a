"""Trains a network on labelled clips and leaves a finished model folder.

The best average of the weights on the held-out fold is calibrated, fused, exported, quantised, and measured through the
same pipeline that users run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from audiotag.config import ModelConfig, TrainConfig
from audiotag.errors import DataError
from audiotag.model_folder import ModelFolder, check_sizes
from audiotag.training.batches import check_fold, check_groups, check_learnt, load, split
from audiotag.training.dataset import choose_labels, read_dataset
from audiotag.training.finish import finish
from audiotag.training.places import has_checkpoint, own_work_folder
from audiotag.training.recipe import model_config
from audiotag.training.start import check_start
from audiotag.training.teacher import Teacher
from audiotag.training.trainer import Progress, Trainer


def train(
    data: Path,
    out: Path,
    *,
    config: TrainConfig,
    resume: bool = False,
    cache: Path | None = None,
    license: str | None = None,
    start: ModelFolder | None = None,
    teacher: Path | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_clip: Callable[[int, int], None] = lambda done, total: None,
) -> ModelConfig:
    """Trains on all folds of `data` but `config.fold`, and writes the model folder `out`.

    `license` is the SPDX identifier that the weights are given. Checkpoints are written to `work_folder(out)` at every
    validation; `resume` goes on from the last one, if there is one. With `start`, the training begins with what that
    model has learnt. With `teacher`, a model folder that was trained on the same data, its scores are taught too.

    Raises:
        DataError: the data cannot be used, a group is in the held-out fold and in others, a label has nothing to learn
            from, the held-out fold has nothing to measure on, no model is as large as `config` says, `start` is a
            network of another shape, `teacher` no teacher for this training, or the loss is not finite.
        CheckpointError: `resume`, but the checkpoint is of another recipe or other clips, or began with another
            `start` or `teacher`.
        ModelError: the weights of `start` cannot be read.
        OutputError: another training is writing `out`, or it cannot be written.
    """
    clips = read_dataset(data)
    labels = choose_labels(clips, min_clips=config.min_clips, min_groups=config.min_groups)
    check_fold(clips, config.fold)
    check_groups(clips, config.fold)
    check_learnt(clips, labels, config.fold)
    model = model_config(labels, config)
    try:
        check_sizes(model.network, model.window, model.frontend)
    except ValueError as error:
        raise DataError(f"{out}: {error}. Choose a smaller --width, --n-mels or --n-frames") from error
    if start is not None:
        check_start(model.network, start)
    taught_by = None if teacher is None else Teacher(teacher, model, config)
    with own_work_folder(out) as work:
        everything = load(clips, model, config, cache=cache or work, on_clip=on_clip)
        learning, held_out = split(everything, config.fold)
        check_learnt(learning.clips, labels, config.fold)
        trainer = Trainer(model, config, learning, held_out, work, on_progress, start, taught_by)
        trainer.run(resume=resume and has_checkpoint(out))
        return finish(
            out, data=data, learning=learning, held_out=held_out, model=model, config=config,
            license=license, origin=trainer.origin, n_unreadable=everything.n_unreadable,
        )  # fmt: skip
