"""What a decoder is, and what holds for both of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from audiotag.errors import AudioError

FloatArray = npt.NDArray[np.float32]

# Frames that are decoded at once, divided by the number of channels beyond two. No sample depends on it.
BLOCK_FRAMES = 65536
# Frames of the longest packet of a lossy codec (HE-AAC, MP3 with its decoder's delay), and so of padding at the end.
MAX_PACKET_FRAMES = 2304
# What a header may claim before it is refused; ultrasound recorders reach 500 kHz, microphone arrays 256 channels.
MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 1000, 768_000  # Hz
MAX_CHANNELS = 256


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """What a source is, as far as its header and first block tell."""

    decoder: Literal["soundfile", "av", "none"]
    container: str  # as the decoder names it
    codec: str  # as the decoder names it; libsndfile says subtype
    sample_rate: int  # Hz
    n_channels: int
    n_frames: int | None  # None: not known before the end
    seekable: bool

    @property
    def duration(self) -> float | None:
        """Seconds, None where it is not known before the end."""
        return None if self.n_frames is None else self.n_frames / self.sample_rate

    @property
    def is_integer(self) -> bool:
        """Whether its samples are stored as integers: those are finite."""
        return self.codec.startswith(("PCM_", "pcm_s", "pcm_u"))


class Decoder(Protocol):
    """An open source. Its position is the frame that `read` goes on with."""

    info: AudioInfo
    warnings: list[str]
    position: int

    def read(self) -> FloatArray:
        """The next `[frame, channel]`; none at the end."""
        ...

    def seek(self, frame: int, *, exactly: bool) -> None:
        """Goes to `frame`, or to a place before it; not `exactly` allows for coarse time stamps."""
        ...

    def close(self) -> None:
        """Closes what was opened."""
        ...


class NotDecodable(AudioError):
    """A decoder does not take a source; another one may."""


class HeaderOnly(NotDecodable):
    """A decoder knows the format, but there is nothing behind the header."""


class NotReadable(AudioError):
    """The system cannot read on, as where a drive was pulled; the source may be whole."""


def add_warning(warnings: list[str], warning: str) -> None:
    """Adds what is not said yet."""
    if warning not in warnings:
        warnings.append(warning)


def check_end(decoder: Decoder) -> None:
    """Warns of an end before the one that the header tells, but for the padding of a packet."""
    promised, rate = decoder.info.n_frames or 0, decoder.info.sample_rate
    if decoder.position < promised - MAX_PACKET_FRAMES:
        add_warning(decoder.warnings, f"cut short: {decoder.position / rate:.3f} s of {promised / rate:.3f} s")


def check_claims(sample_rate: int, n_channels: int) -> None:
    """Raises `AudioError` for a rate (Hz) or a number of channels that no recording has."""
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        raise AudioError(f"has a sample rate of {sample_rate} Hz; {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} are read")
    if not 1 <= n_channels <= MAX_CHANNELS:
        raise AudioError(f"has {n_channels} channels; 1 to {MAX_CHANNELS} are read")


def frames_per_block(n_channels: int) -> int:
    """Frames of a block: fewer where each is larger, so that blocks are not."""
    return max(1, 2 * BLOCK_FRAMES // max(2, n_channels))
