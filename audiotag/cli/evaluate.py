"""`audiotag evaluate`: labelled clips and a model in, all that one needs to choose a threshold out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audiotag.cli import options
from audiotag.cli.status import StatusLine
from audiotag.errors import DataError, ExitCode, OutputError, UsageError
from audiotag.hub import resolve_model
from audiotag.inputs import refuse_input_as_output
from audiotag.labels import LabelSet
from audiotag.options import EngineOptions
from audiotag.thresholds import write_thresholds
from audiotag.writers import name_of_suffix

if TYPE_CHECKING:
    from audiotag.model_folder import ModelFolder
    from audiotag.scores import ScoreArray
    from audiotag.training.dataset import LabelledClip
    from audiotag.training.evaluation import Evaluation

FORMATS = {"table": ".txt", "json": ".json", "html": ".html"}  # and the suffixes of their files
SEPARATOR = ";"  # of labels, which hold commas


def evaluate(
    data: options.Data,
    model: options.Model = None,
    fold: Annotated[str | None, typer.Option(metavar="FOLD", help="Measure on this fold only.")] = None,
    source: Annotated[
        list[str], typer.Option("--source", metavar="NAME", help="Measure on clips of this source only (repeatable).")
    ] = options.NO_NAMES,
    among: Annotated[
        list[str],
        typer.Option(
            "--among", metavar="LABELS",
            help="Also measure choosing among these labels only, as in 'Dog; Rain' (repeatable).",
        ),
    ] = options.NO_NAMES,
    form: Annotated[
        str | None,
        typer.Option("--format", "-f", parser=options.one_of(FORMATS), metavar="|".join(FORMATS),
                     autocompletion=options.completing(FORMATS), show_default=False,
                     help="A table to read, JSON, or a page with precision-recall curves. "
                     "[default: from the suffix of --out; else table]"),
    ] = None,
    out: options.Out = None,
    thresholds_out: Annotated[
        Path | None,
        typer.Option("--thresholds-out", metavar="FILE",
                     help="Write a threshold of each label that a clip has, drawn towards the common one where clips "
                     "are few, as JSON or CSV (.csv), for --thresholds."),
    ] = None,
    precision: options.Precision = "auto",
    device: options.Device = "auto",
    engine: options.Engine = "auto",
    offline: options.Offline = False,
    quiet: options.Quiet = False,
) -> int:  # fmt: skip
    """Measure a model on labelled clips. Gives mAP, hit rates, calibration, thresholds, confusions and worst clips.

    Example: audiotag evaluate ./birds --model ./my-model --fold 2 -f html --out birds.html
    """
    engine_options = EngineOptions(device=device, engine=engine, precision=precision)  # type: ignore[arg-type]
    options.set_verbosity(quiet=quiet, verbose=False)
    _check_places(data, out, thresholds_out)
    form = form or _form_of_suffix(out)
    folder = resolve_model(model, offline=offline, engine=engine_options)
    labels = LabelSet(folder.config.labels)
    chosen = labels.select(_names(among)) if among else ()
    from audiotag.training.dataset import read_dataset
    from audiotag.training.measuring import measure
    from audiotag.training.scoring import tell_learnt_clips, tell_unknown_labels, with_known_labels

    all_clips = with_known_labels(read_dataset(data), labels)
    for place in (out, thresholds_out):
        refuse_input_as_output(place, (clip.path for clip in all_clips))
    clips = _chosen(all_clips, fold=fold, sources=source)
    tell_unknown_labels(clips, labels)
    tell_learnt_clips(folder.config, data, all_clips, fold=fold)
    used_precision, scores, read = _scored(folder, engine_options, clips, quiet=quiet)
    n_failed = len(clips) - len(read)
    measured = measure(scores, read, folder.config, n_failed=n_failed, among=chosen, all_clips=all_clips)
    about = {"model": folder.name, "revision": folder.revision, "sha256": folder.sha256,
             "precision": used_precision, "data": str(data), "fold": fold}  # fmt: skip
    if thresholds_out is not None:
        write_thresholds(thresholds_out, measured.suggested_thresholds())
    _write(_rendered(form, about, measured, scores, read, labels.names), out)
    return ExitCode.SOME_FAILED if n_failed else ExitCode.OK


def _check_places(data: Path, *places: Path | None) -> None:
    """Refuses, before anything is measured, a file that is the data or written twice, or whose folder is not there."""
    named = [place.resolve() for place in places if place is not None]
    if len(set(named)) < len(named):
        raise UsageError(f"{places[0]}: is both --out and --thresholds-out. Choose two files")
    for place in places:
        refuse_input_as_output(place, [data])
        if place is not None and (place.is_dir() or not place.parent.is_dir()):
            raise OutputError(f"{place}: cannot be written: it is a folder, or its folder is missing. Choose another")


def _form_of_suffix(out: Path | None) -> str:
    return "table" if out is None else name_of_suffix(out, {suffix: form for form, suffix in FORMATS.items()})


def _names(among: Sequence[str]) -> list[str]:
    names = [name.strip() for group in among for name in group.split(SEPARATOR)]
    if not any(names):
        raise UsageError("among: names no label. Write --among 'Dog; Chicken, rooster'")
    return [name for name in names if name]


def _chosen(clips: Sequence[LabelledClip], *, fold: str | None, sources: Sequence[str]) -> list[LabelledClip]:
    """The clips of a fold (None: of all) and of some sources (none named: of all)."""
    of_fold = [clip for clip in clips if fold is None or clip.fold == fold]
    if not of_fold:
        raise DataError(f"no clip is in fold {fold!r}. Choose among {', '.join(sorted({clip.fold for clip in clips}))}")
    found = [clip for clip in of_fold if not sources or clip.credit.source in sources]
    if not found:
        known = ", ".join(sorted({clip.credit.source for clip in of_fold} - {""}))
        way_out = f"Choose among {known}" if known else "The data names no sources: leave out --source"
        raise DataError(f"no clip is of source {' or '.join(sources)}. {way_out}")
    return found


def _scored(
    folder: ModelFolder, engine_options: EngineOptions, clips: Sequence[LabelledClip], *, quiet: bool
) -> tuple[str, ScoreArray, list[LabelledClip]]:
    """The precision that was used, scores `[clip, class]`, and the clips that they are of."""
    from audiotag.tagger import Tagger
    from audiotag.training.scoring import score_clips

    status, tagger = StatusLine(quiet=quiet), Tagger(folder, options=engine_options)
    scores, read = score_clips(
        tagger, clips, on_progress=lambda done, total: status.show(f"clips {done}/{total}", keep=done == total)
    )
    return tagger.engine.precision, scores, read


def _rendered(
    form: str,
    about: dict[str, Any],
    measured: Evaluation,
    scores: ScoreArray,
    clips: Sequence[LabelledClip],
    labels: Sequence[str],
) -> str:
    from audiotag.training.evaluation_page import evaluation_page
    from audiotag.training.evaluation_table import evaluation_table

    if form == "json":
        return json.dumps({**about, **measured.to_dict()}, indent=2)
    if form == "html":
        return evaluation_page(about, measured, scores, clips, labels)
    return evaluation_table(about, measured)


def _write(text: str, out: Path | None) -> None:
    if out is None:
        typer.echo(text.encode("utf-8", "backslashreplace"))
        return
    try:
        out.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror}. Choose another --out") from error
