"""FFmpeg, through av: the decoder of nearly everything, also from streams that cannot seek."""

from __future__ import annotations

import errno
import io
import logging
import math
import os
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, BinaryIO, NoReturn, cast

import av
import numpy as np

from audiotag.audio.decoder import (
    MAX_PACKET_FRAMES,
    AudioInfo,
    FloatArray,
    NotDecodable,
    NotReadable,
    add_warning,
    check_claims,
    check_end,
    frames_per_block,
)
from audiotag.errors import AudioError

logger = logging.getLogger(__name__)

# Frames that are decoded in one call of a file that is read from its beginning.
PIECE_FRAMES = 32 * 1152
# Seconds that are decoded and dropped before a start in the middle, where a codec remembers earlier packets.
CODEC_LEAD = 0.5
# The demuxers of FFmpeg that are let near a file: containers of audio and video, none that follows links to others
# (playlists, concat lists), and none that reads pictures or text.
AV_FORMATS = (
    "aac", "aax", "ac3", "aiff", "amr", "amrnb", "amrwb", "ape", "asf", "au", "avi", "caf", "dsf", "dts", "dtshd",
    "eac3", "flac", "flv", "iff", "ircam", "loas", "matroska", "mov", "mp3", "mpc", "mpc8", "mpeg", "mpegts", "mxf",
    "nistsphere", "nut", "ogg", "oma", "qcp", "rm", "shn", "sox", "tak", "truehd", "tta", "voc", "w64", "wav", "wv",
    "xwma",
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


class AvDecoder:
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
        if self._seekable:
            self._file.seek(0)
        try:
            self._container = av.open(
                _WithoutTracebacks(self._file), "r", metadata_errors="replace", io_open=_open_nothing,
                container_options={"format_whitelist": ",".join(AV_FORMATS)},
            )  # fmt: skip
            stream = self._container.streams.best("audio")
        except _AV_ERRORS as error:
            raise NotDecodable(_av_reason(error)) from error
        if not isinstance(stream, av.AudioStream):
            raise NotDecodable("no audio stream")
        if stream.codec_context is None:
            raise NotDecodable("no decoder for its audio")
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
            if isinstance(error, OSError) and not isinstance(error, av.FFmpegError):  # of the file, not of FFmpeg
                raise NotReadable(f"cannot be read: {_av_reason(error)}") from error
            self._note_damage(f"is damaged, the rest was not read ({_av_reason(error)})")

    def _note_damage(self, warning: str) -> None:
        self._is_damaged = True
        add_warning(self.warnings, warning)

    def _describe(self) -> AudioInfo:
        context = self._stream.codec_context
        sample_rate = context.sample_rate if self._next is None else self._next.sample_rate
        n_channels = context.channels if self._next is None else self._next.layout.nb_channels
        if self._next is None and (self._is_damaged or self._stream.duration or not sample_rate or not n_channels):
            raise NotDecodable("nothing behind its header can be decoded")
        check_claims(sample_rate, n_channels)
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
        """The next `[frame, channel]`; none at the end."""
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
        n_frames = frames_per_block(self.info.n_channels)
        # Live audio, of which a part may be asked for, is waited for as little as possible.
        end = self.position + (n_frames if self._seekable else max(1, n_frames // 8))
        while self._next is not None and self.position < end:
            pieces.append(self._read_frame(self._next))
            self.position += pieces[-1].shape[1]
        if self._next is None and not self.warnings:
            check_end(self)
        return np.concatenate(pieces, axis=1).T

    def _read_frame(self, frame: av.AudioFrame) -> FloatArray:
        """`[channel, frame]`, and decodes the one after it."""
        if (frame.sample_rate, frame.layout.nb_channels) != (self.info.sample_rate, self.info.n_channels):
            seconds = self.position / self.info.sample_rate
            add_warning(self.warnings, f"changes its rate or channels after {seconds:.3f} s; the rest was not read")
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
        """Goes to `frame`, or to a place before it; not `exactly` allows for coarse time stamps."""
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
        self._open()

    def close(self) -> None:
        """Closes what was opened, the file too if it is `owned`."""
        self._pieces = self._piece = None
        self._container.close()
        if self._owned:
            self._file.close()


class _WithoutTracebacks:
    """A file for PyAV 18.1, which writes a traceback to stderr wherever a header leads FFmpeg to a place too far."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Goes there, or gives FFmpeg its error code."""
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError):
            return -errno.EINVAL


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
        channels = [np.frombuffer(bytes_of, sample_type, frame.samples) for bytes_of in planes]
        samples = channels[0][np.newaxis] if n_channels == 1 else np.stack(channels)
    else:
        samples = np.frombuffer(planes[0], sample_type, frame.samples * n_channels).reshape(-1, n_channels).T
    if full_scale == 1:
        return samples.astype(np.float32, copy=False)
    return (samples.astype(np.float32) - np.float32(middle)) / np.float32(full_scale)
