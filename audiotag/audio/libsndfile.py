"""libsndfile, through soundfile: the quickest decoder of what it knows, exact to the frame when it seeks."""

from __future__ import annotations

import io
import os
import re
from typing import BinaryIO

import numpy as np
import soundfile

from audiotag.audio.decoder import (
    AudioInfo,
    FloatArray,
    HeaderOnly,
    NotDecodable,
    NotReadable,
    check_claims,
    check_end,
    frames_per_block,
)

# Frames that libsndfile decodes in one call where a file is known to be damaged: no more than these are lost before it.
# Elsewhere it decodes a block in one call: each costs 10 us of Python, which holds up the other threads.
READ_FRAMES = 2048
# Seconds that the last page of an Ogg stream may hold: 64 KiB at 16 kbit/s, with some to spare.
MAX_PAGE_SECONDS = 40
# A header's length is not believed if the file would hold more frames in a byte: FLAC stores silence at about 5000.
MAX_FRAMES_PER_BYTE = 8192
# A size from here on (sox writes 0x7FFFFFFF less a little, ffmpeg 0xFFFFFFFF) means that the writer did not know it.
UNKNOWN_BYTES = 0x7FFF_0000
SYSTEM_ERROR = 2  # SF_ERR_SYSTEM of libsndfile's sndfile.h
_PROMISE = re.compile(r"^ *(?:data|SSND|riff|Riff size|Data Size) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
_WAV_SIZE = re.compile(r"^(?:RIFF|data) : (\d+)$", re.MULTILINE)


class _ForwardSoundFile(soundfile.SoundFile):  # type: ignore[misc]
    """A SoundFile that does not seek to where it stands after every read.

    soundfile 0.14 does so in `_cdata_io` wherever it can seek; for MP3 and FLAC this costs five times the decoding.
    """

    def seekable(self) -> bool:
        return False


class SoundFileDecoder:
    """libsndfile, through soundfile: seeks to the exact frame in every format it has."""

    def __init__(self, file: BinaryIO, *, size: int, owned: bool) -> None:
        self._file = file
        self._owned = owned
        self.warnings: list[str] = []
        self._is_careful = False
        self._open()
        try:
            self.info = self._describe(size)
            log = self._sound.extra_info
            self._check_first_block(_missing_bytes(log))
            self._check_rest(log, size)
        except BaseException:
            self._sound.close()
            raise

    def _open(self) -> None:
        self._file.seek(0)
        # A descriptor spares a callback into Python for every read; on Windows libsndfile has a C library of its own.
        use_descriptor = isinstance(self._file, io.FileIO) and os.name != "nt"
        try:
            self._sound = _ForwardSoundFile(self._file.fileno() if use_descriptor else self._file, closefd=False)
        except soundfile.SoundFileError as error:
            raise NotDecodable(_soundfile_reason(error)) from error
        self.position = 0
        self._pending: FloatArray | None = None
        self._damage: str | None = None

    def _describe(self, size: int) -> AudioInfo:
        sound = self._sound
        check_claims(sound.samplerate, sound.channels)
        if not 0 <= sound.frames <= size * MAX_FRAMES_PER_BYTE:
            # As in FLAC from a pipe; libsndfile cannot seek in such a file, nor read its last block.
            raise NotDecodable("its header does not know the length")
        return AudioInfo(
            decoder="soundfile",
            container=sound.format,
            codec=sound.subtype,
            sample_rate=sound.samplerate,
            n_channels=sound.channels,
            n_frames=sound.frames,
            seekable=soundfile.SoundFile.seekable(sound),
        )

    def _check_first_block(self, n_missing: int) -> None:
        self._pending = self._decode()
        if len(self._pending) == 0 and (self.info.n_frames != 0 or n_missing):
            raise HeaderOnly("a header without audio")
        if n_missing:
            self.warnings.append(f"cut short: {n_missing} bytes are missing")

    def _check_rest(self, log: str, size: int) -> None:
        """Warns of a WAV with more behind it than chunks of text: seconds, or hours where sizes passed 4 GiB."""
        sizes = [int(text) for text in _WAV_SIZE.findall(log)]
        if len(sizes) == 2 and self.info.duration:
            n_unread = size - max(sizes[0] + 8, sizes[1])
            if n_unread > sizes[1] / self.info.duration:
                hint = "`sox --ignore-length` reads it all"
                self.warnings.append(f"longer than its header tells: {n_unread} bytes were not read. {hint}")

    def read(self) -> FloatArray:
        """The next `[frame, channel]`; none at the end."""
        block = self._decode() if self._pending is None else self._pending
        self._pending = None
        self.position += len(block)
        if len(block) == 0 and not self.warnings:
            check_end(self)
        return block

    def _decode(self) -> FloatArray:
        """The next frames; of a damaged block those before the damage, and the error when called again."""
        if self._damage is not None:
            raise NotDecodable(self._damage)
        # libsndfile gives no frame beyond the number that it told when it opened the file.
        n_left = max(0, (self.info.n_frames or 0) - self.position)
        block_shape = min(frames_per_block(self.info.n_channels), n_left), self.info.n_channels
        block = np.empty(block_shape, dtype=np.float32)
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
                raise NotDecodable(self._damage) from error
        return block[:n_frames]

    def _become_careful(self) -> None:
        """Goes to the same place from the beginning, for libsndfile does not seek well in a damaged file.

        Raises:
            NotDecodable: the way there is damaged too.
        """
        position = self.position
        self._sound.close()
        self._open()
        self._is_careful = True
        try:
            while self.position < position:
                frames = np.empty((min(READ_FRAMES, position - self.position), self.info.n_channels), dtype=np.float32)
                self.position += self._read_into(frames) or position
        except soundfile.SoundFileError as error:
            self.position, self._damage = position, _soundfile_reason(error)  # what was read up to there was good
            raise NotDecodable(self._damage) from error

    def _read_into(self, frames: FloatArray) -> int:
        """Decodes into `[frame, channel]`; the number of frames, 0 at the end."""
        try:
            return self._decode_into(frames) if len(frames) else 0
        except soundfile.LibsndfileError as error:
            if error.code == SYSTEM_ERROR:
                raise NotReadable(f"cannot be read: {_soundfile_reason(error)}") from error
            raise

    def _decode_into(self, frames: FloatArray) -> int:
        if self.info.codec != "PCM_16":
            return int(self._sound.buffer_read_into(frames, dtype="float32"))
        # The same numbers as libsndfile's own, in a quarter of the time.
        whole = np.empty(frames.shape, dtype=np.int16)
        n_frames = int(self._sound.buffer_read_into(whole, dtype="int16"))
        np.multiply(whole[:n_frames], np.float32(1 / 32768), out=frames[:n_frames])
        return n_frames

    def seek(self, frame: int, *, exactly: bool) -> None:
        """Goes to `frame`, or to a place before it; not `exactly` allows for coarse time stamps."""
        target = self._place_to_seek(frame)
        if self.position == frame or target <= self.position < frame:
            return
        try:
            self._sound.seek(target)
        except soundfile.SoundFileError:
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
        """Closes what was opened, the file too if it is `owned`."""
        self._sound.close()
        if self._owned:
            self._file.close()


def _soundfile_reason(error: soundfile.SoundFileError) -> str:
    text = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
    return text.strip().removeprefix("Error : ").rstrip(".") or "damaged"


def _missing_bytes(log: str) -> int:
    """Bytes that a header promises and the file does not hold, from libsndfile's log.

    Writers to a pipe promise about 2 or 4 GB, and unfinished headers nothing: those are no promises.
    """
    promises = ((int(promised), int(held)) for promised, held in _PROMISE.findall(log))
    return max((0, *(promised - held for promised, held in promises if promised < UNKNOWN_BYTES)))
