"""Where a training keeps what is not to be published; the command line asks too, before torch is imported."""

from __future__ import annotations

from pathlib import Path

LAST_CHECKPOINT = "checkpoint_last.pt"
BEST_CHECKPOINT = "checkpoint_best.pt"


def work_folder(out: Path) -> Path:
    """Where the checkpoints and log-mels of a training lie: beside the model folder."""
    return out.parent / (out.name + ".training")


def has_checkpoint(out: Path) -> bool:
    """Whether the training of a model folder has come to its first validation, and can be gone on with."""
    return (work_folder(out) / LAST_CHECKPOINT).exists()
