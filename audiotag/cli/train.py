"""`audiotag train` and `refit`: labelled clips in, a model folder out."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audiotag.cli import options
from audiotag.cli.status import StatusLine, say
from audiotag.config import ModelConfig, TrainConfig
from audiotag.errors import ExitCode, OutputError, UsageError
from audiotag.hub import resolve_model
from audiotag.model_folder import CARD, CONFIG
from audiotag.options import EngineOptions

if TYPE_CHECKING:
    from audiotag.training.trainer import Progress

logger = logging.getLogger(__name__)

RECIPE = TrainConfig()  # the library's defaults, which are the command line's


def train(
    context: typer.Context,
    data: options.Data,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The model folder to write.")],
    width: Annotated[int, typer.Option(metavar="N", help="Channels of the first stage.", min=1)] = RECIPE.width,
    n_mels: Annotated[int, typer.Option(metavar="N", help="Mel bands of the log-mel.", min=1)] = RECIPE.n_mels,
    n_frames: Annotated[
        int, typer.Option(metavar="N", help="Frames of a window, 23.2 ms each; 217 are 5.016 s.", min=2)
    ] = RECIPE.n_frames,
    fold: Annotated[str, typer.Option(metavar="FOLD", help="The fold that is held out for validation.")] = RECIPE.fold,
    min_clips: Annotated[int, typer.Option(metavar="N", help="Clips that a label needs.", min=1)] = RECIPE.min_clips,
    min_groups: Annotated[
        int, typer.Option(metavar="N", help="Independent groups that a label needs.", min=1)
    ] = RECIPE.min_groups,
    steps: Annotated[int, typer.Option(metavar="N", help="Optimiser steps.", min=1)] = RECIPE.steps,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Windows in a step.", min=2)] = RECIPE.batch_size,
    learning_rate: Annotated[
        float, typer.Option(metavar="X", help="Peak learning rate of AdamW; that of Muon follows it.")
    ] = RECIPE.learning_rate,
    warmup_steps: Annotated[
        int, typer.Option(metavar="N", help="Steps of linear warm-up.", min=1)
    ] = RECIPE.warmup_steps,
    mixup_probability: Annotated[
        float, typer.Option(metavar="X", help="Share of windows with a second clip mixed in.")
    ] = RECIPE.mixup_probability,
    damage_probability: Annotated[
        float,
        typer.Option(metavar="X", help="Share of clips heard through a codec, telephone, room or at another speed."),
    ] = RECIPE.damage_probability,
    validate_every: Annotated[
        int, typer.Option(metavar="N", help="Steps between validations.", min=1)
    ] = RECIPE.validate_every,
    patience: Annotated[
        int,
        typer.Option(metavar="N", help="Validations without a better mAP before training stops; 0 for never.", min=0),
    ] = RECIPE.patience,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of every random choice.", min=0)] = RECIPE.seed,
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="MODEL",
                     help="Begin with what a model has learnt: default, a model folder, or a Hub repository."),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A model that train has made of the same data: its scores of each window are "
                                         "taught beside the labels."),
    ] = None,
    cache: options.LogMelCache = None,
    license: Annotated[
        str | None, typer.Option(metavar="SPDX", help="Licence of the weights, for the model card.")
    ] = None,
    resume: options.ResumeTraining = False,
    quiet: options.Quiet = False,
) -> int:
    """Train a model on your own labelled clips.

    Stop it with Ctrl-C and go on later with --resume, from the last validation. The finished folder is used with
    --model DIR.

    Example: audiotag train ./birds --out ./my-model --min-clips 10 --min-groups 1
    """
    try:
        config: TrainConfig = options.record_of(TrainConfig, context)
    except ValueError as error:
        raise UsageError(f"{error}. Run `audiotag train --help`") from error
    _refuse_to_overwrite(out, data, resume=resume)
    from audiotag.training.train import train as run

    options.set_verbosity(quiet=quiet, verbose=False)
    source = None if start is None else resolve_model(start, engine=EngineOptions(engine="torch"))
    shown = _TrainingLines(quiet=quiet)
    model = run(
        data, out, config=config, resume=resume, cache=cache, license=license, start=source, teacher=teacher,
        on_progress=shown.step, on_clip=shown.clip,
    )  # fmt: skip
    if not quiet:
        figures = model.metrics["fp32"]
        say(f"audiotag: {out}: {len(model.labels)} labels, macro mAP {figures['macro_map']:.3f}, "
            f"top-1 hit rate {figures['top1']:.3f} on {figures['n_clips']} held-out clips")  # fmt: skip
    return _exit_code(model)


def refit(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model folder that `audiotag train` has made.")],
    data: options.Data,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The model folder to write.")],
    steps: Annotated[int, typer.Option(metavar="N", help="Optimiser steps.", min=1)] = 1500,
    learning_rate: Annotated[
        float, typer.Option(metavar="X", help="Peak learning rate of AdamW; that of Muon follows it.", min=1e-9)
    ] = 2e-3,
    teacher: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where MODEL was taught by another: that model after its own refit."),
    ] = None,
    cache: options.LogMelCache = None,
    resume: options.ResumeTraining = False,
    quiet: options.Quiet = False,
) -> int:
    """Let a trained model learn from its held-out clips too.

    The figures, thresholds and calibration of MODEL are kept: nothing is left to measure the new weights on.

    Example: audiotag refit ./my-model ./birds --out ./my-final-model
    """
    _refuse_to_overwrite(out, data, resume=resume)
    from audiotag.training.refit import refit as run

    options.set_verbosity(quiet=quiet, verbose=False)
    shown = _TrainingLines(quiet=quiet)
    refitted = run(
        model, data, out, steps=steps, learning_rate=learning_rate, resume=resume, cache=cache,
        teacher=teacher, on_progress=shown.step, on_clip=shown.clip,
    )  # fmt: skip
    if not quiet:
        say(f"audiotag: {out}: learnt from all folds, keeps the figures of {model}")
    return _exit_code(refitted)


def _exit_code(model: ModelConfig) -> ExitCode:
    """As `evaluate` ends where clips could not be read."""
    n_unreadable = model.provenance["n_clips_unreadable"]
    if n_unreadable:
        n_clips = n_unreadable + model.provenance["n_clips"]
        logger.warning("%d of %d clips could not be read, and were left out", n_unreadable, n_clips)
    return ExitCode.SOME_FAILED if n_unreadable else ExitCode.OK


def _refuse_to_overwrite(out: Path, data: Path, *, resume: bool) -> None:
    from audiotag.training.places import has_checkpoint

    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: is a file, but a model is a folder. Choose another name")
    if out.resolve() == data.resolve():
        raise OutputError(f"{out}: is the folder of the clips. Choose another folder for the model")
    is_model, is_begun = (out / CONFIG).exists(), has_checkpoint(out)
    # What a training has not finished has no card: that is written last.
    is_taken = is_model and (out / CARD).exists() if resume and is_begun else is_model or is_begun
    if is_taken:
        way = "" if resume else ", or --resume a training"
        raise OutputError(f"{out}: holds a model or a training already. Choose another folder{way}")


class _TrainingLines:
    """A line on stderr at every validation, and now and then between."""

    def __init__(self, *, quiet: bool) -> None:
        self._status = StatusLine(quiet=quiet)
        self._begun, self._first_step = 0.0, 0

    def clip(self, done: int, total: int) -> None:
        self._status.show(f"log-mels {done}/{total}", keep=done == total)

    def step(self, progress: Progress) -> None:
        if not self._begun:
            self._begun, self._first_step = time.monotonic(), progress.step
        line = f"step {progress.step}/{progress.steps}  loss {progress.loss:.3f}  {self._left(progress)}"
        if progress.validation_map is not None:
            line += (f"  validation mAP {progress.validation_map:.4f} (best {progress.best_map:.4f})"
                     f"  top-1 {progress.validation_top1:.3f}")  # fmt: skip
        self._status.show(line, keep=progress.validation_map is not None)

    def _left(self, progress: Progress) -> str:
        done = progress.step - self._first_step
        if not done:
            return "--:-- left"
        seconds = (time.monotonic() - self._begun) / done * (progress.steps - progress.step)
        return f"{int(seconds // 60)}:{int(seconds % 60):02d} left"
