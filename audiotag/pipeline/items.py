"""What comes into a pipeline, and what travels from there to the caller: windows in the order of time, then an end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from audiotag.audio import Source
from audiotag.engines import FloatArray


class Given(Protocol):
    """One thing to tag, such as an `Input`."""

    @property
    def path(self) -> str:
        """As the result shows it."""

    @property
    def source(self) -> Source | None:
        """What is opened; None: stdin."""


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
