"""Which of the two kinds a checkpoint is, and with that how it is read."""

from __future__ import annotations

from pathlib import Path

from audiotag import __version__
from audiotag.convert.archive import load_archive
from audiotag.convert.authors import convert_authors
from audiotag.convert.filling import Converted
from audiotag.convert.ours import CHECKPOINT_FORMAT, convert_ours
from audiotag.errors import CheckpointError, UsageError
from audiotag.model_folder import sha256_of


def read_checkpoint(path: Path, *, dataset: str | None = None, labels: tuple[str, ...] | None = None) -> Converted:
    """The fused network of a checkpoint, the authors' or ours.

    Raises:
        CheckpointError: it cannot be read, or a tensor is missing, unknown, misshapen or not finite.
        UsageError: `dataset` or `labels` do not fit it.
    """
    saved = load_archive(path)
    origin = {
        "made_by": f"audiotag {__version__} fuse",
        "checkpoint": path.name,
        "checkpoint_sha256": sha256_of(path),
    }
    if saved.get("format") == CHECKPOINT_FORMAT:
        if dataset is not None:
            raise UsageError(f"{path}: is a checkpoint of `audiotag train`, which knows its audio. Leave out --dataset")
        return convert_ours(saved, path, labels, origin)
    if "model_state" in saved:
        return convert_authors(saved, path, dataset, labels, origin)
    what = "is neither a checkpoint of the authors' code nor of `audiotag train`"
    raise CheckpointError(f"{path}: {what}. Check the file")
