"""Any container as blocks of float32 samples at the model's rate; the only importer of soundfile, av and soxr.

    path or stream --decoder--> [frame, channel] --rows--> [frame, row] --soxr--> blocks [row, sample]

A decoder is chosen by content: libsndfile (`soundfile`) first; FFmpeg (`av`) for what it rejects, for streams that
cannot seek, for Ogg with several streams, and for MP3, of which libsndfile 1.2.2 drops the end where a variable bit
rate has no Xing header, and writes to stderr. Nothing is allocated from what a header claims. Here a frame is one
sample of every channel at the file's own rate, as in soundfile. Neighbours: `inputs` names files, `windows` cuts the
blocks.
"""

from __future__ import annotations

import errno
import functools
import io
import logging
import math
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, NoReturn, Protocol, cast

import av
import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from audiotag.errors import AudioError

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]
Source = str | os.PathLike[str] | BinaryIO

# Frames that are decoded at once, divided by the number of channels beyond two. No sample depends on it.
BLOCK_FRAMES = 65536
# Frames that libsndfile decodes in one call where a file is known to be damaged: no more than these are lost before it.
# Elsewhere it decodes a block in one call: each costs 10 us of Python, which holds up the other threads.
READ_FRAMES = 2048
# Seconds that the last page of an Ogg stream may hold: 64 KiB at 16 kbit/s, with some to spare.
MAX_PAGE_SECONDS = 40
# Frames that FFmpeg decodes in one call of a file that is read from its beginning.
PIECE_FRAMES = 32 * 1152
# Frames of the longest packet of a lossy codec (HE-AAC, MP3 with its decoder's delay), and so of padding at the end.
MAX_PACKET_FRAMES = 2304
# What a header may claim before it is refused; ultrasound recorders reach 500 kHz, microphone arrays 256 channels.
MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 1000, 768_000  # Hz
MAX_CHANNELS = 256
# Beyond this a number is no sample; float files scaled as 32-bit integers stay below.
MAX_LEVEL = 1e12
# Samples at the target rate that are resampled and dropped before a start in the middle: the filter has forgotten the
# edge by then (soxr HQ reaches over about 100 samples of the lower rate).
RESAMPLER_LEAD = 4000
# Seconds that are decoded and dropped before a start in the middle, where a codec remembers earlier packets.
CODEC_LEAD = 0.5
# Bytes of a stream that is stored before it is decoded, because its format needs seeking.
MAX_SPOOLED_BYTES = 4 << 30
HEAD_BYTES = 65536
# A header's length is not believed if the file would hold more frames in a byte: FLAC stores silence at about 5000.
MAX_FRAMES_PER_BYTE = 8192
# A size from here on (sox writes 0x7FFFFFFF less a little, ffmpeg 0xFFFFFFFF) means that the writer did not know it.
UNKNOWN_BYTES = 0x7FFF_0000
_PROMISE = re.compile(r"^ *(?:data|SSND|riff|Riff size) : (\d+) \(should be (\d+)\)", re.MULTILINE)
# The demuxers of FFmpeg that are let near a file: containers of audio and video, none that follows links to others
# (playlists, concat lists), and none that reads pictures or text.
AV_FORMATS = (
    "aac", "aax", "ac3", "aiff", "amr", "amrnb", "amrwb", "ape", "asf", "au", "avi", "caf", "dsf", "dts", "dtshd",
    "eac3", "flac", "flv", "iff", "loas", "matroska", "mov", "mp3", "mpc", "mpc8", "mpeg", "mpegts", "mxf", "nut",
    "ogg", "oma", "qcp", "rm", "shn", "sox", "tak", "truehd", "tta", "voc", "w64", "wav", "wv", "xwma",
)  # fmt: skip


_AV_ERRORS = (av.FFmpegError, OSError, ValueError, RuntimeError)
# FFmpeg's sample formats without the p of the planar ones: type, the value of silence, full scale.
_SAMPLE_TYPES: dict[str, tuple[Any, int, int]] = {
    "u8": (np.uint8, 128, 128),
    "s16": (np.int16, 0, 1 << 15),
    "s32": (np.int32, 0, 1 << 31),
    "s64": (np.int64, 0, 1 << 63),
    "flt": (np.float32, 0, 1),
    "dbl": (np.float64, 0, 1),
}
# How formats begin that FFmpeg decodes front to back.
_STREAMABLE = (
    b"RIFF", b"RF64", b"riff", b"FORM", b".snd", b"fLaC", b"OggS", b"#!AMR", b"\x0b\x77", b"TTA1",
    b"\x1a\x45\xdf\xa3",  # EBML: Matroska and WebM
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # ASF: WMA
)  # fmt: skip


@dataclass(frozen=True)
class Waveform:
    """Samples `[sample]`, 1.0 being full scale, and their rate in Hz."""

    samples: FloatArray
    sample_rate: int


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """What a source is, as far as its header and first block tell."""

    decoder: Literal["soundfile", "av"]
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


def read_audio(
    path: str | os.PathLike[str], *, sample_rate: int | None = None, start: float = 0.0, duration: float | None = None
) -> Waveform:
    """The mean of a file's channels from `start` on, both times in seconds; `sample_rate` None keeps the file's rate.

    Raises:
        AudioError: the file cannot be read as audio.
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
    with closing(_open_decoder(source)) as decoder:
        return decoder.info


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
    decoder = _open_decoder(source)
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
    with closing(_open_decoder(source)) as decoder:
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
        self, decoder: _Decoder, sample_rate: int, channels: str, start: float, duration: float | None
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
            _warn(self._decoder.warnings, f"ends before {self._first / self.sample_rate:.3f} s, where it was to start")

    def close(self) -> None:
        """Closes what was opened."""
        self._decoder.close()

    def __enter__(self) -> AudioStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write_audio(path: str | os.PathLike[str], waveform: Waveform) -> None:
    """Writes a file in the format of its suffix, if libsndfile encodes it: .wav (16 bits), .flac, .ogg, .mp3.

    Raises:
        AudioError: this libsndfile does not, or the file cannot be written.
    """
    subtype = "PCM_16" if Path(path).suffix in (".wav", ".flac") else None
    try:
        with soundfile.SoundFile(path, "w", waveform.sample_rate, 1, subtype) as file:
            # Its Vorbis encoder overflows the stack when it gets millions of samples at once.
            for first in range(0, len(waveform.samples), BLOCK_FRAMES):
                file.write(waveform.samples[first : first + BLOCK_FRAMES])
    except (soundfile.SoundFileError, ValueError, OSError) as error:
        raise AudioError(f"cannot be written: {error}") from error


# --- from frames to samples: all generators, blocks [frame, row] ---


class _Rows:
    """Which channels become rows. Shape: `[frame, channel]` -> `[frame, row]`."""

    def __init__(self, info: AudioInfo, channels: str) -> None:
        self._mixes = channels == "mix"
        self._columns = slice(None)
        if channels not in ("mix", "each"):
            index = _channel_index(channels)
            if index >= info.n_channels:
                raise AudioError(f"has no channel {channels!r}: there are {info.n_channels}, counted from 0")
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
    decoder: _Decoder, rows: _Rows, sample_rate: int, first: int, *, exactly: bool
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


def _frames_from(decoder: _Decoder, first: int, *, exactly: bool) -> Iterator[FloatArray]:
    """Finite frames from `first` on; damage after good frames is a warning of the decoder."""
    decoder.seek(first, exactly=exactly)
    yield from _drop((_finite(block, decoder.warnings) for block in _until_damage(decoder)), first - decoder.position)


def _until_damage(decoder: _Decoder) -> Iterator[FloatArray]:
    try:
        while len(block := decoder.read()):
            yield block
    except AudioError as error:
        if decoder.position == 0:
            raise
        seconds = decoder.position / decoder.info.sample_rate
        _warn(decoder.warnings, f"damaged after {seconds:.3f} s, the rest was not read ({error})")


def _warn(warnings: list[str], warning: str) -> None:
    if warning not in warnings:
        warnings.append(warning)


def _finite(block: FloatArray, warnings: list[str]) -> FloatArray:
    if not len(block) or (block.min() >= -MAX_LEVEL and block.max() <= MAX_LEVEL):  # false for NaN
        return block
    usable = np.abs(block) <= MAX_LEVEL
    _warn(warnings, "has samples that are not finite (NaN, infinite or absurdly large); they were read as 0")
    return np.where(usable, block, np.float32(0))


def resample(blocks: Iterable[FloatArray], rate: int, sample_rate: int, n_rows: int) -> Iterator[FloatArray]:
    """Blocks `[frame, row]` at `sample_rate`, `_resampled_length` frames. libsoxr, HQ: https://sourceforge.net/p/soxr."""
    resampler = soxr.ResampleStream(rate, sample_rate, n_rows, dtype="float32", quality="HQ")
    for block in blocks:
        yield resampler.resample_chunk(np.ascontiguousarray(block))
    yield resampler.resample_chunk(np.zeros((0, n_rows), dtype=np.float32), last=True)


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
    if n_frames == 0:
        return
    for block in blocks:
        yield block[:n_frames]
        n_frames -= len(block)
        if n_frames <= 0:
            return


# --- decoders ---


class _Decoder(Protocol):
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


def _open_decoder(source: Source) -> _Decoder:
    if not isinstance(source, (str, os.PathLike)):
        return _decoder_of(source, owned=False)
    file = _open_path(Path(source))
    try:
        return _decoder_of(file, owned=True)
    except BaseException:
        file.close()
        raise


def _open_path(path: Path) -> BinaryIO:
    try:
        if stat.S_ISCHR(path.stat().st_mode):
            raise AudioError("is a device, not a file")
        return open(path, "rb", buffering=0)
    except OSError as error:
        raise AudioError(_plain_reason(error)) from error
    except ValueError as error:  # a NUL in the name
        raise AudioError(f"cannot be opened: {error}") from error


def _plain_reason(error: OSError) -> str:
    known = {
        errno.ENOENT: "does not exist",
        errno.EISDIR: "is a directory",
        errno.EACCES: "permission denied",
        errno.ELOOP: "is a loop of links",
    }
    return known.get(error.errno or 0) or f"cannot be read: {error.strerror or error}"


def _decoder_of(file: BinaryIO, *, owned: bool) -> _Decoder:
    try:
        if file.seekable():
            return _decoder_of_file(file, owned=owned)
        return _decoder_of_stream(file, owned=owned)
    except OSError as error:
        raise AudioError(_plain_reason(error)) from error


def _decoder_of_file(file: BinaryIO, *, owned: bool) -> _Decoder:
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        raise AudioError("is empty (0 bytes)")
    file.seek(0)
    if _is_mpeg(file.read(4)) or _has_several_ogg_streams(file, size):
        return _only_decoder(file, seekable=True, owned=owned)
    try:
        decoder = _SoundFileDecoder(file, size=size, owned=owned)
    except _NotDecodable as refusal:
        return _second_decoder(file, owned=owned, refusal=refusal)
    if decoder.info.n_frames == 0 and _is_unfinished(file, size):
        try:
            return _AvDecoder(file, seekable=True, owned=owned)
        except _NotDecodable:
            logger.debug("an unfinished header, and no audio behind it")
    return decoder


def _is_mpeg(head: bytes) -> bool:
    """Whether a file begins as MP3, MP2 or raw AAC do: with an ID3 tag, or eleven bits set."""
    return head[:3] == b"ID3" or (head[:1] == b"\xff" and head[1:2] >= b"\xe0")


def _has_several_ogg_streams(file: BinaryIO, size: int) -> bool:
    """Whether the last page of an Ogg file is of another stream than the first: libsndfile reads only one of them.

    Recordings of net radio are chained so. RFC 3533, section 6: a page's bytes 14 to 17 are its stream's number.
    """
    file.seek(0)
    first = file.read(18)
    if first[:4] != b"OggS":
        return False
    file.seek(max(0, size - HEAD_BYTES))
    tail = file.read(HEAD_BYTES)
    at = tail.rfind(b"OggS")
    return at >= 0 and len(tail) >= at + 18 and tail[at + 14 : at + 18] != first[14:18]


def _only_decoder(file: BinaryIO, *, seekable: bool, owned: bool) -> _Decoder:
    if seekable:
        file.seek(0)
    try:
        return _AvDecoder(file, seekable=seekable, owned=owned)
    except _NotDecodable as error:
        raise AudioError(f"not decodable: {error} (FFmpeg)") from error


def _second_decoder(file: BinaryIO, *, owned: bool, refusal: _NotDecodable) -> _Decoder:
    file.seek(0)
    try:
        decoder = _AvDecoder(file, seekable=True, owned=owned)
    except _NotDecodable as error:
        raise AudioError(f"not decodable: {refusal} (libsndfile); {error} (FFmpeg)") from error
    if decoder.is_empty and isinstance(refusal, _HeaderOnly):
        raise AudioError(f"not decodable: {refusal}")
    return decoder


def _is_unfinished(file: BinaryIO, size: int) -> bool:
    """Whether a WAV's header was never completed, as when a recorder lost its power: its sizes are still 0."""
    file.seek(0)
    head = file.read(8)
    file.seek(0)
    return head[:4] == b"RIFF" and int.from_bytes(head[4:8], "little") + 8 < size


class _NotDecodable(AudioError):
    """A decoder does not take a source; another one may."""


class _HeaderOnly(_NotDecodable):
    """A decoder knows the format, but there is nothing behind the header."""


class _ForwardSoundFile(soundfile.SoundFile):  # type: ignore[misc]
    """A SoundFile that does not seek to where it stands after every read.

    soundfile 0.14 does so in `_cdata_io` wherever it can seek; for MP3 and FLAC this costs five times the decoding.
    """

    def seekable(self) -> bool:
        return False


class _SoundFileDecoder:
    """libsndfile, through soundfile: seeks to the exact frame in every format it has."""

    def __init__(self, file: BinaryIO, *, size: int, owned: bool) -> None:
        self._file = file
        self._owned = owned
        self.warnings: list[str] = []
        self._is_careful = False
        self._open()
        try:
            self.info = self._describe(size)
            self._check_first_block()
        except BaseException:
            self._sound.close()
            raise

    def _open(self) -> None:
        self._file.seek(0)
        # A descriptor spares a callback into Python for every read; on Windows libsndfile has a C library of its own.
        use_descriptor = isinstance(self._file, io.FileIO) and os.name != "nt"
        try:
            self._sound = _ForwardSoundFile(self._file.fileno() if use_descriptor else self._file, closefd=False)
        except (soundfile.SoundFileError, OSError) as error:
            raise _NotDecodable(_soundfile_reason(error)) from error
        self.position = 0
        self._pending: FloatArray | None = None
        self._damage: str | None = None

    def _describe(self, size: int) -> AudioInfo:
        sound = self._sound
        _check_claims(sound.samplerate, sound.channels)
        if not 0 <= sound.frames <= size * MAX_FRAMES_PER_BYTE:
            # As in FLAC from a pipe; libsndfile cannot seek in such a file, nor read its last block.
            raise _NotDecodable("its header does not know the length")
        return AudioInfo(
            decoder="soundfile",
            container=sound.format,
            codec=sound.subtype,
            sample_rate=sound.samplerate,
            n_channels=sound.channels,
            n_frames=sound.frames,
            seekable=soundfile.SoundFile.seekable(sound),
        )

    def _check_first_block(self) -> None:
        n_missing = _missing_bytes(self._sound.extra_info)
        self._pending = self._decode()
        if len(self._pending) == 0 and (self.info.n_frames != 0 or n_missing):
            raise _HeaderOnly("a header without audio")
        if n_missing:
            self.warnings.append(f"cut short: {n_missing} bytes are missing")

    def read(self) -> FloatArray:
        block = self._decode() if self._pending is None else self._pending
        self._pending = None
        self.position += len(block)
        if len(block) == 0 and not self.warnings:
            _check_end(self)
        return block

    def _decode(self) -> FloatArray:
        """The next frames; of a damaged block those before the damage, and the error when called again."""
        if self._damage is not None:
            raise _NotDecodable(self._damage)
        block = np.empty((_frames_per_block(self.info.n_channels), self.info.n_channels), dtype=np.float32)
        if not self._is_careful:
            try:
                n_frames = 0
                while n_read := self._read_into(block[n_frames:]):
                    n_frames += n_read
                return block[:n_frames]
            except soundfile.SoundFileError:
                self._become_careful()  # the frames before the damage were decoded, and are lost
        return self._decode_up_to_damage(block)

    def _decode_up_to_damage(self, block: FloatArray) -> FloatArray:
        n_frames = 0
        try:
            while n_read := self._read_into(block[n_frames : n_frames + READ_FRAMES]):
                n_frames += n_read
        except soundfile.SoundFileError as error:
            self._damage = _soundfile_reason(error)
            if n_frames == 0:
                raise _NotDecodable(self._damage) from error
        return block[:n_frames]

    def _become_careful(self) -> None:
        """Goes to the same place from the beginning, for libsndfile does not seek well in a damaged file."""
        position = self.position
        self._sound.close()
        self._open()
        self._is_careful = True
        while self.position < position:
            frames = np.empty((min(READ_FRAMES, position - self.position), self.info.n_channels), dtype=np.float32)
            self.position += self._read_into(frames) or position

    def _read_into(self, frames: FloatArray) -> int:
        """Decodes into `[frame, channel]`; the number of frames, 0 at the end."""
        if not len(frames):
            return 0
        if self.info.codec != "PCM_16":
            return int(self._sound.buffer_read_into(frames, dtype="float32"))
        # The same numbers as libsndfile's own, in a quarter of the time.
        whole = np.empty(frames.shape, dtype=np.int16)
        n_frames = int(self._sound.buffer_read_into(whole, dtype="int16"))
        np.multiply(whole[:n_frames], np.float32(1 / 32768), out=frames[:n_frames])
        return n_frames

    def seek(self, frame: int, *, exactly: bool) -> None:
        target = self._place_to_seek(frame)
        if self.position == frame or target <= self.position < frame:
            return
        try:
            self._sound.seek(target)
        except (soundfile.SoundFileError, OSError):
            # A damaged file: libsndfile does not find the place, but reading on from the beginning does.
            self._sound.close()
            self._open()
        else:
            self.position = target
            self._pending = self._damage = None

    def _place_to_seek(self, frame: int) -> int:
        """The frame itself; but in the last page of a Vorbis stream libsndfile 1.2.2 goes astray by its padding."""
        n_frames = self.info.n_frames or 0
        if self.info.codec != "VORBIS":
            return min(frame, n_frames)
        return max(0, min(frame, n_frames - MAX_PAGE_SECONDS * self.info.sample_rate))

    def close(self) -> None:
        self._sound.close()
        if self._owned:
            self._file.close()


def _soundfile_reason(error: Exception) -> str:
    text = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
    return text.strip().removeprefix("Error : ").rstrip(".") or "damaged"


def _missing_bytes(log: str) -> int:
    """Bytes that a header promises and the file does not hold, from libsndfile's log.

    Writers to a pipe promise about 2 or 4 GB: that is no promise.
    """
    promises = ((int(promised), int(held)) for promised, held in _PROMISE.findall(log))
    return max((promised - held for promised, held in promises if promised < UNKNOWN_BYTES), default=0)


def _check_end(decoder: _Decoder) -> None:
    """Warns of an end before the one that the header tells, but for the padding of a packet."""
    promised, rate = decoder.info.n_frames or 0, decoder.info.sample_rate
    if decoder.position < promised - MAX_PACKET_FRAMES:
        _warn(decoder.warnings, f"cut short: {decoder.position / rate:.3f} s of {promised / rate:.3f} s")


def _check_claims(sample_rate: int, n_channels: int) -> None:
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        raise AudioError(f"has a sample rate of {sample_rate} Hz; {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} are read")
    if not 1 <= n_channels <= MAX_CHANNELS:
        raise AudioError(f"has {n_channels} channels; 1 to {MAX_CHANNELS} are read")


def _frames_per_block(n_channels: int) -> int:
    return max(1, 2 * BLOCK_FRAMES // max(2, n_channels))


class _AvDecoder:
    """FFmpeg, through av, in this thread: in large pieces from the beginning of a file, else packet after packet.

    Both give the same frames. Only packets tell what is damaged, and only they can be sought.
    """

    def __init__(self, file: BinaryIO, *, seekable: bool, owned: bool) -> None:
        self._file = file
        self._owned = owned
        self._seekable = seekable
        self.warnings: list[str] = []
        self._open()
        try:
            self.info = self._describe()
        except BaseException:
            self._container.close()
            raise
        self._pieces = self._find_pieces()
        self._piece: av.AudioFrame | None = None  # the next one

    def _open(self) -> None:
        """(Re)opens the container and decodes its first frame."""
        try:
            self._container = av.open(
                self._file, "r", metadata_errors="replace", io_open=_open_nothing,
                container_options={"format_whitelist": ",".join(AV_FORMATS)},
            )  # fmt: skip
            stream = self._container.streams.best("audio")
        except _AV_ERRORS as error:
            raise _NotDecodable(_av_reason(error)) from error
        if not isinstance(stream, av.AudioStream):
            raise _NotDecodable("no audio stream")
        if stream.codec_context is None:
            raise _NotDecodable("no decoder for its audio")
        stream.codec_context.thread_count = 1
        self._stream = stream
        self._start_decoding()
        self._first_pts = 0 if self._next is None or self._next.pts is None else self._next.pts
        self._n_first = 0 if self._next is None else self._next.samples
        self.position = 0

    @property
    def is_empty(self) -> bool:
        """Whether no frame is left."""
        return self._next is None

    def _start_decoding(self) -> None:
        self._is_damaged = False
        self._frames = self._decode()
        self._next = next(self._frames, None)

    def _decode(self) -> Iterator[av.AudioFrame]:
        """Frames in order; a damaged packet is left out."""
        for packet in self._packets():
            try:
                yield from cast("list[av.AudioFrame]", packet.decode())
            except _AV_ERRORS as error:
                self._note_damage(f"has damaged packets, which were left out ({_av_reason(error)})")

    def _packets(self) -> Iterator[av.Packet[Any]]:
        try:
            yield from self._container.demux(self._stream)
        except _AV_ERRORS as error:
            self._note_damage(f"is damaged, the rest was not read ({_av_reason(error)})")

    def _note_damage(self, warning: str) -> None:
        self._is_damaged = True
        _warn(self.warnings, warning)

    def _describe(self) -> AudioInfo:
        context = self._stream.codec_context
        sample_rate = context.sample_rate if self._next is None else self._next.sample_rate
        n_channels = context.channels if self._next is None else self._next.layout.nb_channels
        if self._next is None and (self._is_damaged or self._stream.duration or not sample_rate or not n_channels):
            raise _NotDecodable("nothing behind its header can be decoded")
        _check_claims(sample_rate, n_channels)
        return AudioInfo(
            decoder="av",
            container=self._container.format.name,
            codec=context.name,
            sample_rate=sample_rate,
            n_channels=n_channels,
            n_frames=self._known_frames(sample_rate),
            seekable=self._seekable,
        )

    def _known_frames(self, sample_rate: int) -> int | None:
        """Frames without the padding of the last packet, where MP4's track or MP3's Xing header tell.

        Others only estimate; that an MP3 has the header shows in samples at its beginning that were left out.
        """
        duration, time_base, container = self._stream.duration, self._stream.time_base, self._container.format.name
        is_known = "mov" in container or (container == "mp3" and self._first_pts > 0)
        if not is_known or not duration or not time_base:
            return None
        return round(duration * time_base * sample_rate) if duration > 0 else None

    def _find_pieces(self) -> Iterator[av.AudioFrame] | None:
        """The frames from the beginning on, in pieces, if a file on disk tells how many: MP3 and MP4 audio."""
        container = self.info.container.split(",")[0]
        path = _path_of(self._file) if self._seekable and self.info.n_frames is not None else None
        # Beside a video much would be read for a piece.
        has_video = container != "mp3" and any(stream.type == "video" for stream in self._container.streams)
        return None if path is None or has_video else _frames_in_pieces(path, container, self._stream.index)

    def read(self) -> FloatArray:
        return self._read_packets() if self._pieces is None else self._read_piece(self._pieces)

    def _read_piece(self, pieces: Iterator[av.AudioFrame]) -> FloatArray:
        piece, self._piece = self._piece or next(pieces, None), next(pieces, None)
        if piece is None:
            self._pieces = None
            return self._read_rest()
        samples = _to_float(piece)
        samples = self._without_padding(samples) if self._piece is None else samples
        self.position += samples.shape[1]
        return samples.T

    def _read_rest(self) -> FloatArray:
        """What packets give beyond the pieces; reading the same once more, they note what is damaged."""
        n_given = self.position
        if n_given >= (self.info.n_frames or 0):
            self._next = None
            return self._read_packets()
        self.position = 0
        block = self._read_packets()
        while len(block) and self.position <= n_given:
            block = self._read_packets()
        return block[len(block) - (self.position - n_given) :]

    def _read_packets(self) -> FloatArray:
        pieces = [np.zeros((self.info.n_channels, 0), dtype=np.float32)]
        end = self.position + _frames_per_block(self.info.n_channels)
        while self._next is not None and self.position < end:
            pieces.append(self._read_frame(self._next))
            self.position += pieces[-1].shape[1]
        if self._next is None and not self.warnings:
            _check_end(self)
        return np.concatenate(pieces, axis=1).T

    def _read_frame(self, frame: av.AudioFrame) -> FloatArray:
        """`[channel, frame]`, and decodes the one after it."""
        if (frame.sample_rate, frame.layout.nb_channels) != (self.info.sample_rate, self.info.n_channels):
            seconds = self.position / self.info.sample_rate
            _warn(self.warnings, f"changes its rate or channels after {seconds:.3f} s; the rest was not read")
            self._next = None
            return np.zeros((self.info.n_channels, 0), dtype=np.float32)
        self._next = next(self._frames, None)
        samples = _to_float(frame)
        return self._without_padding(samples) if self._next is None else samples

    def _without_padding(self, samples: FloatArray) -> FloatArray:
        """The last samples of a source up to the end that its header tells, if that is about right."""
        excess = self.position + samples.shape[1] - (self.info.n_frames or math.inf)
        return samples[:, : -int(excess)] if 0 < excess <= MAX_PACKET_FRAMES else samples

    def seek(self, frame: int, *, exactly: bool) -> None:
        lead = round(CODEC_LEAD * self.info.sample_rate)
        if frame == self.position:
            return
        if self._pieces is not None:  # packets have not been read yet
            self._pieces, self.position = None, 0
        if self._can_jump(exactly) and frame > lead and not 0 <= frame - self.position <= lead:
            self._jump(frame - lead)
        if self.position > frame:
            self._reopen()

    def _can_jump(self, exactly: bool) -> bool:
        """Whether time stamps tell the position after a jump: to the sample in MP4 and MP3, else to a millisecond.

        The noise that an AAC decoder makes up (perceptual noise substitution) differs after a jump, nothing else.
        """
        container = self.info.container
        is_exact = container == "mp3" or "mov" in container
        return self._seekable and (is_exact or ("matroska" in container and not exactly))

    def _jump(self, frame: int) -> None:
        """Goes to a packet at or before `frame`, if all goes well."""
        time_base = self._stream.time_base
        if time_base is None:
            return
        rate = self.info.sample_rate
        try:
            self._container.seek(self._first_pts + int(frame / (rate * time_base)), stream=self._stream)
        except _AV_ERRORS:
            return
        self._start_decoding()
        if self._next is None or self._next.pts is None:
            self._reopen()
        else:
            self.position = self._snap((self._next.pts - self._first_pts) * time_base * rate, self._next.samples)

    def _snap(self, position: Fraction, n_packet_frames: int) -> int:
        """The frame that a time stamp means: in Matroska it is rounded, but most codecs' packets have one length."""
        after_first = position - self._n_first
        snapped = self._n_first + n_packet_frames * round(after_first / n_packet_frames)
        is_near = abs(snapped - position) * 1000 <= self.info.sample_rate
        return snapped if is_near and "matroska" in self.info.container else round(position)

    def _reopen(self) -> None:
        if not self._seekable:
            raise AudioError("is a stream: it cannot be read from an earlier place again")
        self._container.close()
        self._file.seek(0)
        self._open()

    def close(self) -> None:
        self._pieces = self._piece = None
        self._container.close()
        if self._owned:
            self._file.close()


def _path_of(file: BinaryIO) -> str | None:
    """A path that leads to an open file; None where there is none, as in an archive, or where it was replaced."""
    name = file.name if isinstance(file, io.FileIO) else None
    if not isinstance(name, str):
        return None
    try:
        return os.path.abspath(name) if os.path.samestat(os.stat(name), os.fstat(file.fileno())) else None
    except OSError:
        return None


def _frames_in_pieces(path: str, container: str, stream: int) -> Iterator[av.AudioFrame]:
    """A file's frames, many packets at a time; they end at the first error, or where FFmpeg cannot read on.

    A call for every packet costs Python as much as the decoding, and holds up the other threads
    (https://ffmpeg.org/ffmpeg-filters.html#amovie).
    """
    try:
        graph = av.filter.Graph()
        graph.threads = 1
        movie = graph.add("amovie", filename=f"file:{path}", format_name=container, stream_index=str(stream))
        pieces = graph.add("asetnsamples", nb_out_samples=str(PIECE_FRAMES), pad="0")
        sink = graph.add("abuffersink")
        movie.link_to(pieces)
        pieces.link_to(sink)
        graph.configure()
        while True:
            yield cast("av.AudioFrame", sink.pull())
    except _AV_ERRORS as error:  # also the end
        logger.debug("%s: no more pieces: %s", path, error)


def _open_nothing(*_: object) -> NoReturn:
    raise PermissionError("a media file may not open other files")


def _av_reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return text.strip().rstrip(".") or type(error).__name__


def _to_float(frame: av.AudioFrame) -> FloatArray:
    """Samples of a decoded frame, scaled as libsndfile does. Shape: `[channel, frame]`.

    `AudioFrame.to_ndarray` gives the same, but takes a tenth of the decoding of MP3.
    """
    format_name, n_channels = frame.format.name, frame.layout.nb_channels
    planes = cast("tuple[memoryview, ...]", frame.planes)  # they have the buffer protocol
    sample_type, middle, full_scale = _SAMPLE_TYPES[format_name.removesuffix("p")]
    if frame.format.is_planar:
        samples = np.array([np.frombuffer(bytes_of, sample_type, frame.samples) for bytes_of in planes])
    else:
        samples = np.frombuffer(planes[0], sample_type, frame.samples * n_channels).reshape(-1, n_channels).T
    if full_scale == 1:
        return samples.astype(np.float32, copy=not frame.format.is_planar)
    return (samples.astype(np.float32) - np.float32(middle)) / np.float32(full_scale)


# --- streams that cannot seek ---


class _Stream(io.RawIOBase):
    """A stream with its head, which was read to see what it is, put back in front."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if self._head:
            piece, self._head = self._head[:size], self._head[size:]
            return piece
        return self._rest.read(size) or b""

    def close(self) -> None:
        if not self.closed:
            self._rest.close()
        super().close()


def _decoder_of_stream(file: BinaryIO, *, owned: bool) -> _Decoder:
    head = _read_head(file)
    if not head:
        raise AudioError("is empty (0 bytes)")
    stream = cast("BinaryIO", _Stream(head, file))
    if _can_be_streamed(head):
        return _only_decoder(stream, seekable=False, owned=owned)
    spooled = _spool(stream)
    try:
        return _decoder_of_file(spooled, owned=True)
    except BaseException:
        spooled.close()
        raise


def _read_head(file: BinaryIO) -> bytes:
    """The first `HEAD_BYTES` of a stream; a pipe gives them in pieces."""
    head = b""
    while len(head) < HEAD_BYTES and (piece := file.read(HEAD_BYTES - len(head))):
        head += piece
    return head


def _can_be_streamed(head: bytes) -> bool:
    """Whether a format, known by its first bytes, can be decoded front to back."""
    if head[4:8] in (b"ftyp", b"moov"):
        return _begins_with_index(head)
    return _is_mpeg(head) or head.startswith(_STREAMABLE)


def _begins_with_index(head: bytes) -> bool:
    """Whether an MP4's index (moov) stands before its data (mdat): ISO 14496-12, 4.2, a file is a row of boxes."""
    at = 0
    while at + 8 <= len(head):
        size, kind = int.from_bytes(head[at : at + 4], "big"), head[at + 4 : at + 8]
        if kind in (b"moov", b"mdat") or size < 8:
            return kind == b"moov"
        at += size
    return False


def _spool(stream: BinaryIO) -> BinaryIO:
    """A stream's bytes in a temporary file without a name.

    Raises:
        AudioError: they are too many, or the disk is full.
    """
    spooled = cast("BinaryIO", tempfile.TemporaryFile(buffering=0))  # noqa: SIM115 - the decoder closes it
    n_bytes = 0
    try:
        while piece := stream.read(1 << 20):
            n_bytes += len(piece)
            if n_bytes > MAX_SPOOLED_BYTES:
                raise AudioError(f"is not a format that can be streamed, and more than {MAX_SPOOLED_BYTES >> 30} GiB")
            spooled.write(piece)
    except OSError as error:
        spooled.close()
        raise AudioError(f"cannot be stored for seeking: {error.strerror or error}") from error
    except BaseException:
        spooled.close()
        raise
    return spooled
