"""Samples in memory, and what decodes them: nothing, but the rooms behind it need not know."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

import numpy as np

from audiotag.audio.decoder import BLOCK_FRAMES, AudioInfo, FloatArray, check_claims


@dataclass(frozen=True, eq=False)
class Waveform:
    """Samples `[sample]`, floating and 1.0 being full scale, and their rate in Hz.

    Raises:
        ValueError: the samples are of another shape or kind, or the rate is no whole number.
    """

    samples: FloatArray
    sample_rate: int

    def __post_init__(self) -> None:
        shape, kind = np.shape(self.samples), np.asarray(self.samples).dtype
        if len(shape) != 1:
            raise ValueError(f"samples must have one dimension, [sample], not {shape}. Take a channel, or their mean")
        if not np.issubdtype(kind, np.floating):
            raise ValueError(f"samples must be floating, with 1.0 as full scale, not {kind}. Divide, int16 by 32768")
        if not isinstance(self.sample_rate, Integral):
            raise ValueError(f"sample_rate must be a whole number of Hz, not {self.sample_rate!r}. Round it")


class WaveformDecoder:
    """A waveform as an open source of one channel."""

    def __init__(self, waveform: Waveform) -> None:
        check_claims(waveform.sample_rate, 1)
        self._samples = np.asarray(waveform.samples)
        self.warnings: list[str] = []
        self.position = 0
        self.info = AudioInfo(
            decoder="none", container="memory", codec=str(self._samples.dtype), sample_rate=waveform.sample_rate,
            n_channels=1, n_frames=len(self._samples), seekable=True,
        )  # fmt: skip

    def read(self) -> FloatArray:
        """The next `[frame, channel]`; none at the end."""
        block = self._samples[self.position : self.position + BLOCK_FRAMES]
        self.position += len(block)
        return block.astype(np.float32, copy=False)[:, np.newaxis]

    def seek(self, frame: int, *, exactly: bool) -> None:
        """Goes to `frame`."""
        self.position = min(frame, len(self._samples))

    def close(self) -> None:
        """Nothing was opened."""
