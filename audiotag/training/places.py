"""Where a training keeps what is not to be published; the command line asks too, before torch is imported."""

from __future__ import annotations

from pathlib import Path


def work_folder(out: Path) -> Path:
    """Where the checkpoints and log-mels of a training lie: beside the model folder."""
    return out.parent / (out.name + ".training")
