"""`audiotag fuse` and `audiotag export`: a checkpoint becomes a model folder, a model folder gets its ONNX files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from audiotag.cli import options
from audiotag.cli.status import say
from audiotag.errors import DataError, UsageError
from audiotag.published import DATASETS

Calibrate = Annotated[
    Path | None, typer.Option("--calibrate", metavar="FOLDER", help="Audio that int8 finds its ranges with.")
]


def fuse(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="The authors' .pyth, or a checkpoint of `audiotag train`.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The model folder to write.")],
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset", parser=options.one_of(DATASETS), metavar="|".join(DATASETS),
            autocompletion=options.completing(DATASETS), show_default=False,
            help="What the authors' checkpoint was trained on. [default: as the checkpoint says]",
        ),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", metavar="FILE", help="Names of the outputs: one a line, or CSV.")
    ] = None,
    calibrate: Calibrate = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the model in DIR.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Turn a training checkpoint into a fused model folder.

    Example: audiotag fuse checkpoint_best.pyth --out vggsound --dataset vggsound
    """  # fmt: skip
    _check_calibrate(calibrate)
    from audiotag.convert import convert, read_labels

    options.set_verbosity(quiet=quiet, verbose=False)
    names = None if labels is None else read_labels(labels)
    config = convert(checkpoint, out, dataset=dataset, labels=names, calibrate=calibrate, overwrite=overwrite)
    _say(f"{out}: {config.network.n_labels} labels, {config.gmacs_per_window:.3f} GMACs a window", quiet=quiet)
    if calibrate is None:
        _say("no int8 file: it needs sound to find its ranges with; give a folder to --calibrate", quiet=quiet)


def export(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A model folder.")],
    int8: Annotated[bool, typer.Option("--int8", help="Write the int8 file too; needs --calibrate.")] = False,
    calibrate: Calibrate = None,
    verify: Annotated[bool, typer.Option("--verify", help="Only compare the ONNX file with the weights.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a model folder's ONNX files anew. Each is compared with the weights.

    Example: audiotag export ./my-model --int8 --calibrate ./recordings
    """
    if int8 != (calibrate is not None):
        raise UsageError("--int8 and --calibrate FOLDER: go together. Give both or none")
    if verify and int8:
        raise UsageError("--verify: writes nothing, --int8 does. Give one of the two")
    _check_calibrate(calibrate)
    from audiotag.export import export_folder, verify_folder
    from audiotag.model_folder import open_model_folder

    options.set_verbosity(quiet=quiet, verbose=False)
    opened = open_model_folder(folder)
    if not verify:
        export_folder(opened, calibrate=calibrate)
    difference = verify_folder(opened)
    _say(f"{folder}: ONNX Runtime follows the weights within {difference:.1e} of the largest logit", quiet=quiet)


def _check_calibrate(folder: Path | None) -> None:
    if folder is not None and not folder.is_dir():
        raise DataError(f"{folder}: is no folder. Give a folder of audio to --calibrate")


def _say(text: str, *, quiet: bool) -> None:
    if not quiet:
        say(f"audiotag: {text}")
