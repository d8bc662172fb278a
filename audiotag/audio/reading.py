"""A source as a `Waveform`, as a stream of blocks, or as excerpts.

Everything here is a generator of blocks `[frame, row]`; a frame becomes a sample when it has been resampled.
"""

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from types import TracebackType
from typing import cast

import numpy as np
import soxr

from audiotag.audio.decoder import MAX_PACKET_FRAMES, AudioInfo, Decoder, FloatArray, NotReadable, add_warning
from audiotag.audio.opening import Source, open_decoder
from audiotag.audio.waveform import Waveform
from audiotag.errors import AudioError

logger = logging.getLogger(__name__)

# Beyond this a number is no sample; float files scaled as 32-bit integers stay below.
MAX_LEVEL = 1e12
# Samples at the target rate that are resampled and dropped before a start in the middle: the filter has forgotten the
# edge by then (soxr HQ reaches over about 100 samples of the lower rate).
RESAMPLER_LEAD = 4000


def read_audio(
    path: str | os.PathLike[str], *, sample_rate: int | None = None, start: float = 0.0, duration: float | None = None
) -> Waveform:
    """The mean of a file's channels from `start` on, both times in seconds; `sample_rate` None keeps the file's rate.

    Raises:
        AudioError: the file cannot be read as audio.
        ValueError: a time is negative or not finite, or the rate is not above 0.
    """
    name = os.fspath(path)
    try:
        with open_audio(name, sample_rate=sample_rate, start=start, duration=duration) as stream:
            blocks = [block[0] for block in stream]
            if stream.warning is not None:
                logger.warning("%s: %s", name, stream.warning)
            samples = np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32)
            return Waveform(samples, stream.sample_rate)
    except AudioError as error:
        raise AudioError(f"{name}: {error}") from error


def probe(source: Source) -> AudioInfo:
    """What a source is, and which decoder takes it; the first block has been decoded to know.

    Raises:
        AudioError: it cannot be read as audio.
    """
    with closing(open_decoder(source)) as decoder:
        return decoder.info


def reaches_end(source: Source) -> bool:
    """Whether there is sound up to where a header says that it ends, but for a packet; True where it does not say.

    Raises:
        AudioError: the source cannot be read as audio.
    """
    with closing(open_decoder(source)) as decoder:
        if decoder.info.n_frames is None:
            return True
        last = max(0, decoder.info.n_frames - MAX_PACKET_FRAMES - 1)
        return next(_frames_from(decoder, last, exactly=False), None) is not None


def open_audio(
    source: Source,
    *,
    sample_rate: int | None,
    channels: str = "mix",
    start: float = 0.0,
    duration: float | None = None,
) -> AudioStream:
    """Opens a source for streaming at `sample_rate` Hz (None: its own).

    `channels` is "mix" (the mean), "left", "right", "each" or a number from 0; `start` and `duration` are seconds.

    Raises:
        AudioError: the source cannot be read as audio, or has no such channel.
        ValueError: `channels` is none of the above, a time is negative or not finite, or a rate is not above 0.
    """
    if not (0 <= start < math.inf and (duration is None or 0 <= duration < math.inf)):
        raise ValueError(f"start and duration must be 0 or more seconds, not {start} and {duration}")
    if sample_rate is not None and sample_rate <= 0:
        raise ValueError(f"sample_rate must be more than 0 Hz, not {sample_rate}")
    decoder = open_decoder(source)
    try:
        return AudioStream(decoder, sample_rate or decoder.info.sample_rate, channels, start, duration)
    except BaseException:
        decoder.close()
        raise


def read_excerpts(
    source: Source,
    *,
    sample_rate: int,
    channels: str = "mix",
    starts: Sequence[int],
    n_samples: int,
    warnings: list[str] | None = None,
) -> Iterator[FloatArray]:
    """The excerpts `[row, sample]` of `n_samples` that begin at `starts`, both at `sample_rate`, decoding only those.

    What lies past the end is missing from an excerpt; at the end `warnings` gets what was wrong with the source. They
    equal slices of the whole, but for a resampler's rounding errors, the noise that AAC makes up, and Matroska with
    packets of varying length, where times are milliseconds.

    Raises:
        AudioError: the source cannot be read as audio, or has no such channel.
    """
    with closing(open_decoder(source)) as decoder:
        rows = _Rows(decoder.info, channels)
        for start in starts:
            blocks = _samples_from(decoder, rows, sample_rate, start, exactly=False)
            pieces = list(_take(blocks, n_samples))
            empty = np.zeros((0, rows.n_rows), dtype=np.float32)
            yield np.ascontiguousarray(np.concatenate([empty, *pieces]).T)
        if warnings is not None:
            warnings += decoder.warnings


class AudioStream:
    """An open source; iterating gives its blocks, float32 `[row, sample]` at `sample_rate`, once.

    There is one row, or with channels "each" one for every channel. Samples do not depend on where blocks are cut.
    `warning` is set by the end of the iteration if the source is damaged and was read in part only.
    """

    def __init__(
        self, decoder: Decoder, sample_rate: int, channels: str, start: float, duration: float | None
    ) -> None:
        self._decoder = decoder
        self._rows = _Rows(decoder.info, channels)
        self._first = round(start * sample_rate)
        self._n_wanted = None if duration is None else round(duration * sample_rate)
        self.sample_rate = sample_rate

    @property
    def info(self) -> AudioInfo:
        """What the source is."""
        return self._decoder.info

    @property
    def warning(self) -> str | None:
        """What was wrong, in one line."""
        return "; ".join(self._decoder.warnings) or None

    @property
    def n_samples(self) -> int | None:
        """Samples of a row that the header promises between start and end; None where it does not tell."""
        if self.info.n_frames is None:
            return None
        total = _resampled_length(self.info.n_frames, self.info.sample_rate, self.sample_rate)
        available = max(0, total - self._first)
        return available if self._n_wanted is None else min(available, self._n_wanted)

    def __iter__(self) -> Iterator[FloatArray]:
        blocks = _samples_from(self._decoder, self._rows, self.sample_rate, self._first, exactly=True)
        is_empty = True
        for block in _take(blocks, self._n_wanted):
            is_empty = False
            yield np.ascontiguousarray(block.T)
        if is_empty and self._first > 0:
            seconds = self._first / self.sample_rate
            add_warning(self._decoder.warnings, f"ends before {seconds:.3f} s, where it was to start")

    def close(self) -> None:
        """Closes what was opened."""
        self._decoder.close()

    def __enter__(self) -> AudioStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


# --- from frames to samples: all generators, blocks [frame, row] ---


class _Rows:
    """Which channels become rows. Shape: `[frame, channel]` -> `[frame, row]`."""

    def __init__(self, info: AudioInfo, channels: str) -> None:
        self._mixes = channels == "mix"
        self._columns = slice(None)
        if channels not in ("mix", "each"):
            index = _channel_index(channels)
            if index >= info.n_channels:
                raise AudioError(f"has no channel {channels!r}: it has {info.n_channels}, counted from 0")
            self._columns = slice(index, index + 1)
        self.n_rows = info.n_channels if channels == "each" else 1

    def __call__(self, block: FloatArray) -> FloatArray:
        if self._mixes and block.shape[1] > 1:
            # A plain sum in channel order: BLAS would round differently for blocks of different lengths.
            total = functools.reduce(np.add, block.T)
            return cast("FloatArray", total / np.float32(block.shape[1]))[:, np.newaxis]
        return block[:, self._columns]


def _channel_index(channels: str) -> int:
    if channels in ("left", "right"):
        return ("left", "right").index(channels)
    if channels.isascii() and channels.isdigit():
        return int(channels)
    raise ValueError(f"channels must be 'mix', 'left', 'right', 'each' or a number, not {channels!r}")


def _samples_from(
    decoder: Decoder, rows: _Rows, sample_rate: int, first: int, *, exactly: bool
) -> Iterator[FloatArray]:
    """All samples from `first` (at `sample_rate`) on, as if the whole had been resampled."""
    rate = decoder.info.sample_rate
    if sample_rate == rate:
        return map(rows, _frames_from(decoder, first, exactly=exactly))
    # Both rates meet every `rate // common` frames; a resampler that begins there is in phase with the whole.
    common = math.gcd(rate, sample_rate)
    meeting = max(0, first - RESAMPLER_LEAD) // (sample_rate // common)
    frames = map(rows, _frames_from(decoder, meeting * (rate // common), exactly=exactly))
    resampled = resample(frames, rate, sample_rate, rows.n_rows)
    return _drop(resampled, first - meeting * (sample_rate // common))


def _frames_from(decoder: Decoder, first: int, *, exactly: bool) -> Iterator[FloatArray]:
    """Finite frames from `first` on; damage after good frames is a warning of the decoder."""
    decoder.seek(first, exactly=exactly)
    blocks = _until_damage(decoder)
    if not decoder.info.is_integer:
        blocks = (_finite(block, decoder.warnings) for block in blocks)
    yield from _drop(blocks, first - decoder.position)


def _until_damage(decoder: Decoder) -> Iterator[FloatArray]:
    try:
        while len(block := decoder.read()):
            yield block
    except AudioError as error:
        if decoder.position == 0 or isinstance(error, NotReadable):
            raise
        seconds = decoder.position / decoder.info.sample_rate
        add_warning(decoder.warnings, f"damaged after {seconds:.3f} s, the rest was not read ({error})")


def _finite(block: FloatArray, warnings: list[str]) -> FloatArray:
    if not len(block) or (block.min() >= -MAX_LEVEL and block.max() <= MAX_LEVEL):  # false for NaN
        return block
    usable = np.abs(block) <= MAX_LEVEL
    add_warning(warnings, "has samples that are not finite (NaN, infinite or absurdly large); they were read as 0")
    return np.where(usable, block, np.float32(0))


def resample(blocks: Iterable[FloatArray], rate: int, sample_rate: int, n_rows: int) -> Iterator[FloatArray]:
    """Blocks `[frame, row]` at `sample_rate`, `_resampled_length` frames. libsoxr, HQ: https://sourceforge.net/p/soxr."""
    unused = _unused_resamplers(rate, sample_rate, n_rows)
    try:
        resampler = unused.pop()
        resampler.clear()
    except IndexError:
        resampler = soxr.ResampleStream(rate, sample_rate, n_rows, dtype="float32", quality="HQ")
    for block in blocks:
        yield resampler.resample_chunk(np.ascontiguousarray(block))
    yield resampler.resample_chunk(np.zeros((0, n_rows), dtype=np.float32), last=True)
    unused.append(resampler)


@functools.lru_cache(maxsize=8)
def _unused_resamplers(rate: int, sample_rate: int, n_rows: int) -> list[soxr.ResampleStream]:
    """Those that have ended: a clip of 5 s takes one of them a fifth less time than a new one."""
    return []


def _resampled_length(n_frames: int, rate: int, sample_rate: int) -> int:
    """`n_frames * sample_rate / rate`, rounded half up as libsoxr does."""
    return (2 * n_frames * sample_rate + rate) // (2 * rate)


def _drop(blocks: Iterable[FloatArray], n_frames: int) -> Iterator[FloatArray]:
    for block in blocks:
        kept = block[n_frames:]
        n_frames = max(0, n_frames - len(block))
        if len(kept):
            yield kept


def _take(blocks: Iterable[FloatArray], n_frames: int | None) -> Iterator[FloatArray]:
    if n_frames is None:
        yield from blocks
        return
    for block in blocks:
        yield block[:n_frames]
        n_frames -= len(block)
        if n_frames <= 0:
            return
