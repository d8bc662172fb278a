"""What travels from a decoded clip to the caller: its windows in the order of time, then its end."""

from __future__ import annotations

from dataclasses import dataclass

from audiotag.engines import FloatArray


@dataclass(frozen=True)
class WindowItem:
    """A window of one of a clip's channels."""

    clip: int  # position among the inputs
    row: int  # of the clip's channels
    start: float  # seconds into the input
    end: float  # seconds into the input; padding does not count
    log_mel: FloatArray  # [1, frame, mel]


@dataclass(frozen=True)
class ClipEnd:
    """That a clip is over, and what it was; `error` where it could not be read."""

    clip: int
    path: str
    n_rows: int = 1
    n_samples: int = 0  # at the model's rate
    warning: str | None = None
    error: str | None = None


Item = WindowItem | ClipEnd
