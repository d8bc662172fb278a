"""`audiotag train` and `audiotag evaluate`: labelled clips in, a model folder or its figures out."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audiotag.cli import options
from audiotag.config import TrainConfig
from audiotag.errors import OutputError, UsageError
from audiotag.options import EngineOptions

if TYPE_CHECKING:
    from audiotag.training.evaluate import Evaluation
    from audiotag.training.train import Progress

RECIPE = TrainConfig()  # the library's defaults, which are the command line's
SECONDS_BETWEEN_LINES = 10.0
FORMATS = ("table", "json")

Data = Annotated[
    Path, typer.Argument(metavar="DATA", help="A folder label/clip.wav, or a CSV with path, labels and fold.")
]


def train(
    context: typer.Context,
    data: Data,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The model folder to write.")],
    width: Annotated[int, typer.Option(help="Channels of the first stage.", min=1)] = RECIPE.width,
    fold: Annotated[str, typer.Option(help="The fold that is held out for validation.")] = RECIPE.fold,
    min_clips: Annotated[int, typer.Option(help="Clips that a label needs.", min=1)] = RECIPE.min_clips,
    min_groups: Annotated[int, typer.Option(help="Independent groups that a label needs.", min=1)] = RECIPE.min_groups,
    steps: Annotated[int, typer.Option(help="Optimiser steps.", min=1)] = RECIPE.steps,
    batch_size: Annotated[int, typer.Option(help="Windows in a step.", min=2)] = RECIPE.batch_size,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate of AdamW.")] = RECIPE.learning_rate,
    warmup_steps: Annotated[int, typer.Option(help="Steps of linear warm-up.", min=1)] = RECIPE.warmup_steps,
    mixup_probability: Annotated[
        float, typer.Option(help="Share of windows with a second clip mixed in.")
    ] = RECIPE.mixup_probability,
    validate_every: Annotated[int, typer.Option(help="Steps between validations.", min=1)] = RECIPE.validate_every,
    patience: Annotated[
        int, typer.Option(help="Validations without a better mAP before training stops; 0 for never.", min=0)
    ] = RECIPE.patience,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = RECIPE.seed,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where log-mels are kept. [default: DIR.training]")
    ] = None,
    license: Annotated[
        str | None, typer.Option(metavar="SPDX", help="Licence of the weights, for the model card.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a model on your own labelled clips.

    Stop it with Ctrl-C and go on later with --resume. The finished folder is used with --model DIR.

    Example: audiotag train ./birds --out ./my-model --min-clips 10 --min-groups 1
    """
    try:
        config: TrainConfig = options.record_of(TrainConfig, context)
    except ValueError as error:
        raise UsageError(f"{error}. Run `audiotag train --help`") from error
    if (out / "config.json").exists() or (not resume and out.with_name(out.name + ".training").exists()):
        raise OutputError(f"{out}: holds a model or a training already. Choose another folder, or --resume a training")
    from audiotag.training.train import train as run

    options.set_verbosity(quiet=quiet, verbose=False)
    shown = _TrainingLines(quiet=quiet)
    model = run(
        data, out, config=config, resume=resume, cache=cache, license=license, on_progress=shown.step,
        on_clip=shown.clip,
    )  # fmt: skip
    figures = model.metrics["fp32"]
    typer.echo(f"audiotag: {out}: {len(model.labels)} labels, macro mAP {figures['macro_map']:.3f}, "
               f"top-1 hit rate {figures['top1']:.3f} on {figures['n_clips']} held-out clips", err=True)  # fmt: skip


class _TrainingLines:
    """A line on stderr at every validation and every 10 s; on a terminal the last one is written over."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet, self._is_terminal = quiet, sys.stderr.isatty()
        self._last, self._begun, self._first_step = 0.0, 0.0, 0

    def clip(self, done: int, total: int) -> None:
        self._show(f"log-mels {done}/{total}", keep=done == total)

    def step(self, progress: Progress) -> None:
        if not self._begun:
            self._begun, self._first_step = time.monotonic(), progress.step
        line = f"step {progress.step}/{progress.steps}  loss {progress.loss:.3f}  {self._left(progress)}"
        if progress.validation_map is not None:
            line += (f"  validation mAP {progress.validation_map:.4f} (best {progress.best_map:.4f})"
                     f"  top-1 {progress.validation_top1:.3f}")  # fmt: skip
        self._show(line, keep=progress.validation_map is not None)

    def _left(self, progress: Progress) -> str:
        done = progress.step - self._first_step
        if not done:
            return "--:-- left"
        seconds = (time.monotonic() - self._begun) / done * (progress.steps - progress.step)
        return f"{int(seconds // 60)}:{int(seconds % 60):02d} left"

    def _show(self, line: str, *, keep: bool) -> None:
        is_due = keep or self._is_terminal or time.monotonic() - self._last >= SECONDS_BETWEEN_LINES
        if self._quiet or not is_due:
            return
        self._last = time.monotonic()
        over, end = ("\r\033[K", "\n" if keep else "") if self._is_terminal else ("", "\n")
        sys.stderr.write(f"{over}{line}{end}")
        sys.stderr.flush()


def evaluate(
    data: Data,
    model: options.Model = None,
    fold: Annotated[str | None, typer.Option(help="Measure on this fold only.")] = None,
    form: Annotated[
        str, typer.Option("--format", "-f", parser=options.one_of(FORMATS), metavar="|".join(FORMATS),
                          help="A table to read or JSON.")
    ] = "table",
    out: options.Out = None,
    precision: options.Precision = "auto",
    device: options.Device = "auto",
    engine: options.Engine = "auto",
    offline: options.Offline = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure a model on labelled clips: macro mAP, hit rates, average precision of each label.

    Example: audiotag evaluate ./birds --model ./my-model
    """
    engine_options = EngineOptions(device=device, engine=engine, precision=precision)  # type: ignore[arg-type]
    from audiotag.hub import resolve_model
    from audiotag.tagger import Tagger
    from audiotag.training.dataset import read_dataset
    from audiotag.training.evaluate import evaluate as run

    options.set_verbosity(quiet=quiet, verbose=False)
    clips = [clip for clip in read_dataset(data) if fold is None or clip.fold == fold]
    tagger = Tagger(resolve_model(model, offline=offline, engine=engine_options), options=engine_options)
    measured = run(tagger, clips, on_progress=_clip_line(quiet))
    about = {"model": tagger.model.name, "revision": tagger.model.revision, "sha256": tagger.model.sha256,
             "precision": tagger.engine.precision, "data": str(data), "fold": fold}  # fmt: skip
    _write(json.dumps({**about, **measured.to_dict()}, indent=2) if form == "json" else _table(about, measured), out)


def _clip_line(quiet: bool) -> Callable[[int, int], None]:
    return _TrainingLines(quiet=quiet).clip


def _table(about: dict[str, Any], measured: Evaluation) -> str:
    lines = [
        f"model {about['model']}, {about['precision']}, on {measured.n_clips} clips ({measured.n_failed} unreadable)",
        f"macro mAP {measured.macro_map:.4f} over {measured.n_labels} labels, micro mAP {measured.micro_map:.4f}, "
        f"top-1 hit rate {measured.top1:.4f}, top-5 hit rate {measured.top5:.4f}",
        "", "    AP  clips  label",
    ]  # fmt: skip
    best_first = sorted(measured.per_label, key=lambda each: -each.average_precision)
    lines += [f"{each.average_precision:6.3f}  {each.n_clips:5d}  {each.label}" for each in best_first]
    if measured.unknown_labels:
        lines += ["", f"{len(measured.unknown_labels)} labels of the data are not known to the model and did not count"]
    return "\n".join(lines)


def _write(text: str, out: Path | None) -> None:
    if out is None:
        typer.echo(text)
        return
    try:
        out.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror}. Choose another --out") from error
