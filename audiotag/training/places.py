"""Where a training keeps what is not to be published; the command line asks too, before torch is imported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from audiotag.journal import explained, open_locked

LAST_CHECKPOINT = "checkpoint_last.pt"
BEST_CHECKPOINT = "checkpoint_best.pt"
_LOCK = "lock"


def work_folder(out: Path) -> Path:
    """Where the checkpoints and log-mels of a training lie: beside the model folder."""
    return out.parent / (out.name + ".training")


def has_checkpoint(out: Path) -> bool:
    """Whether the training of a model folder has come to its first validation, and can be gone on with."""
    return (work_folder(out) / LAST_CHECKPOINT).exists()


def kept_checkpoint(out: Path) -> Path:
    """The checkpoint whose weights a model folder has: the best one, or the last where nothing was held out."""
    best = work_folder(out) / BEST_CHECKPOINT
    return best if best.exists() else work_folder(out) / LAST_CHECKPOINT


@contextmanager
def own_work_folder(out: Path) -> Iterator[Path]:
    """The work folder, made if need be, which only one training has at a time.

    Raises:
        OutputError: another one has it, or it cannot be written to.
    """
    work = work_folder(out)
    with explained(work):
        work.mkdir(parents=True, exist_ok=True)
    with closing(open_locked(work / _LOCK, out)):
        yield work
