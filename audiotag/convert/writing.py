"""A checkpoint's model folder, written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from audiotag.config import ModelConfig
from audiotag.convert.filling import Converted
from audiotag.convert.reading import read_checkpoint
from audiotag.errors import OutputError, listed
from audiotag.export import calibration_log_mels, write_weights
from audiotag.model_card import write_model_card
from audiotag.model_folder import CARD, CONFIG, ONNX, ONNX_INT8, PREPROCESSOR, WEIGHTS, write_configs


def convert(
    checkpoint: Path,
    out: Path,
    *,
    dataset: str | None = None,
    labels: tuple[str, ...] | None = None,
    calibrate: Path | None = None,
    overwrite: bool = False,
) -> ModelConfig:
    """Writes the model folder `out` of a checkpoint: configurations, weights, verified ONNX, model card.

    `dataset` is a key of `published.DATASETS` and overrides what the checkpoint says; `labels` overrides the names.
    Int8 is written if `calibrate` holds audio to find its ranges with.

    Raises:
        CheckpointError: the checkpoint cannot be read, or does not fit.
        UsageError: `dataset` or `labels` do not fit the checkpoint.
        OutputError: `out` exists, or cannot be written.
        DataError: `calibrate` holds no audio.
        ModelError: a written file does not compute what the network does.
    """
    check_out(out, overwrite=overwrite)
    converted = read_checkpoint(checkpoint, dataset=dataset, labels=labels)
    with _whole_or_not_at_all(out) as folder:
        _write_folder(folder, converted, calibrate)
    return converted.config


def check_out(out: Path, *, overwrite: bool) -> None:
    """Refuses a place that holds something else than an empty folder, or, with `overwrite`, a model and nothing else.

    Raises:
        OutputError: it does.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / CONFIG).is_file():
        raise OutputError(f"{out}: exists and is no model folder. Choose another --out")
    if not overwrite:
        raise OutputError(f"{out}: holds a model already. Choose another --out, or --overwrite")
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir()}
    others = sorted(files.difference((CONFIG, PREPROCESSOR, WEIGHTS, ONNX, ONNX_INT8, CARD)))
    if others:
        raise OutputError(f"{out}: holds {listed(others)} too, which fuse would delete. Choose another --out")


@contextmanager
def _whole_or_not_at_all(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place when the body is done, and is gone if the body fails."""
    parent = next(place for place in out.absolute().parents if place.is_dir())
    partial, replaced = (parent / f".{out.name}.{os.getpid()}.{state}" for state in ("partial", "replaced"))
    try:
        partial.mkdir()
        yield partial
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.exists():
            out.rename(replaced)
        partial.rename(out)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}. Choose another --out") from error
    finally:
        if replaced.exists() and not out.exists():
            replaced.rename(out)
        for leftover in (partial, replaced):
            shutil.rmtree(leftover, ignore_errors=True)


def _write_folder(folder: Path, converted: Converted, calibrate: Path | None) -> None:
    config = converted.config
    write_configs(folder, config)
    calibration = None if calibrate is None else calibration_log_mels(calibrate, config)
    write_weights(folder, converted.network, config, calibration)
    write_model_card(folder, config)
