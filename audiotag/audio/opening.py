"""From a path or a stream to an open decoder, chosen by content."""

from __future__ import annotations

import errno
import io
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from audiotag.audio.decoder import Decoder, HeaderOnly, NotDecodable
from audiotag.audio.ffmpeg import AvDecoder
from audiotag.audio.libsndfile import UNKNOWN_BYTES, SoundFileDecoder
from audiotag.audio.waveform import Waveform, WaveformDecoder
from audiotag.errors import AudioError

logger = logging.getLogger(__name__)

Source = str | os.PathLike[str] | BinaryIO | Waveform

# Bytes of a stream that is stored before it is decoded, because its format needs seeking.
MAX_SPOOLED_BYTES = 4 << 30
HEAD_BYTES = 65536
# How formats begin that FFmpeg decodes front to back.
_STREAMABLE = (
    b"RIFF", b"RF64", b"riff", b".snd", b"fLaC", b"OggS", b"#!AMR", b"\x0b\x77", b"TTA1",
    b"\x1a\x45\xdf\xa3",  # EBML: Matroska and WebM
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # ASF: WMA
)  # fmt: skip

# What writers of WAV to a pipe tell of data whose end they do not know: sox 0x7FFFF000, arecord 0x7FFFFF00, others the
# largest number, signed or not. FFmpeg knows only the last one, and takes the others for the end.
STAND_IN_SIZES = range(UNKNOWN_BYTES, 0x8000_0001)


def open_decoder(source: Source) -> Decoder:
    """The decoder of a path, which it then owns, of an open file, or of a waveform; its first block has been decoded.

    Raises:
        AudioError: the source cannot be read as audio.
    """
    if isinstance(source, Waveform):
        return WaveformDecoder(source)
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
        errno.EISDIR: "is a folder, not a file that can be read",
        errno.EACCES: "permission denied",
        errno.ELOOP: "is a loop of links",
    }
    return known.get(error.errno or 0) or f"cannot be read: {error.strerror or error}"


def _decoder_of(file: BinaryIO, *, owned: bool) -> Decoder:
    try:
        if file.seekable():
            return _decoder_of_file(file, owned=owned)
        return _decoder_of_stream(file, owned=owned)
    except OSError as error:
        raise AudioError(_plain_reason(error)) from error


def _decoder_of_file(file: BinaryIO, *, owned: bool) -> Decoder:
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        raise AudioError("holds nothing (0 bytes). Copy or download it again")
    file.seek(0)
    head = file.read(_PAGE_HEADER_BYTES)
    last_page = _last_ogg_page(file, size) if head[:4] == b"OggS" else b""
    # Recordings of net radio are chains of streams, of which libsndfile reads only the first.
    is_chain = len(last_page) >= _STREAM.stop and head[_STREAM] != last_page[_STREAM]
    if is_chain or _is_mpeg(head):
        decoder = _only_decoder(file, seekable=True, owned=owned)
    else:
        decoder = _first_decoder(file, head, size, owned=owned)
    if last_page and not _is_whole(last_page):
        decoder.warnings.append("cut short: its last page is not whole")
    return decoder


def _first_decoder(file: BinaryIO, head: bytes, size: int, *, owned: bool) -> Decoder:
    """libsndfile's, or FFmpeg's where libsndfile refuses."""
    try:
        decoder = SoundFileDecoder(file, size=size, owned=owned)
    except NotDecodable as refusal:
        return _second_decoder(file, owned=owned, refusal=refusal)
    if decoder.info.n_frames == 0 and _is_unfinished(head, size):
        try:
            return AvDecoder(file, seekable=True, owned=owned)
        except NotDecodable:
            logger.debug("an unfinished header, and no audio behind it")
    if decoder.info.n_frames == 0 and size > HEAD_BYTES:  # more than the texts and fillers of an empty recording
        decoder.close()
        hint = "An audio editor can import them as raw data"
        raise AudioError(f"not decodable: its header was not finished, and {size} bytes are there. {hint}")
    return decoder


def _is_mpeg(head: bytes) -> bool:
    """Whether a file begins as MP3, MP2 or raw AAC do: with an ID3 tag, or eleven bits set."""
    return head[:3] == b"ID3" or (head[:1] == b"\xff" and head[1:2] >= b"\xe0")


# RFC 3533, section 6: a page's header holds its stream's number, and ends with how many bytes follow that are the sizes
# of the page's segments.
_STREAM = slice(14, 18)
_PAGE_HEADER_BYTES = 27


def _last_ogg_page(file: BinaryIO, size: int) -> bytes:
    """The last page of an Ogg file as far as it is there, with what follows; nothing where none is near the end."""
    file.seek(max(0, size - HEAD_BYTES))
    tail = file.read(HEAD_BYTES)
    at = tail.rfind(b"OggS")
    return tail[at:] if at >= 0 else b""


def _is_whole(page: bytes) -> bool:
    """Whether all of an Ogg page is there. That it is marked as the last one says nothing: Android does not mark it."""
    if len(page) < _PAGE_HEADER_BYTES:
        return False
    n_segments = page[_PAGE_HEADER_BYTES - 1]
    segment_sizes = page[_PAGE_HEADER_BYTES : _PAGE_HEADER_BYTES + n_segments]
    return len(page) >= _PAGE_HEADER_BYTES + n_segments + sum(segment_sizes)


def _only_decoder(file: BinaryIO, *, seekable: bool, owned: bool) -> Decoder:
    try:
        return AvDecoder(file, seekable=seekable, owned=owned)
    except NotDecodable as error:
        raise AudioError(f"not decodable: {error} (FFmpeg)") from error


def _second_decoder(file: BinaryIO, *, owned: bool, refusal: NotDecodable) -> Decoder:
    try:
        decoder = AvDecoder(file, seekable=True, owned=owned)
    except NotDecodable as error:
        raise AudioError(f"not decodable: {refusal} (libsndfile); {error} (FFmpeg)") from error
    if decoder.is_empty and isinstance(refusal, HeaderOnly):
        raise AudioError(f"not decodable: {refusal}")
    return decoder


def _is_unfinished(head: bytes, size: int) -> bool:
    """Whether a WAV's header was never completed, as when a recorder lost its power: its sizes are still 0."""
    return head[:4] == b"RIFF" and int.from_bytes(head[4:8], "little") + 8 < size


# --- streams that cannot seek ---


class _Stream(io.RawIOBase):
    """A stream with its head, which was read to see what it is, put back in front."""

    def __init__(self, head: bytes, rest: BinaryIO, *, owned: bool) -> None:
        self._head = head
        self._rest = rest
        self._owned = owned

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if self._head:
            piece, self._head = self._head[:size], self._head[size:]
            return piece
        return self._rest.read(size) or b""

    def close(self) -> None:
        if self._owned:
            self._rest.close()
        super().close()


def _decoder_of_stream(file: BinaryIO, *, owned: bool) -> Decoder:
    head = _read_head(file)
    if not head:
        raise AudioError("holds nothing (0 bytes)")
    stream = cast("BinaryIO", _Stream(_with_open_end(head), file, owned=owned))
    if _can_be_streamed(head):
        return _only_decoder(stream, seekable=False, owned=owned)
    with closing(stream):
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


def _with_open_end(head: bytes) -> bytes:
    """The head of a stream; a WAV that tells a stand-in for its length tells that it is not known."""
    at = 12 if head[:4] == b"RIFF" else len(head)
    while at + 8 <= len(head):
        kind, size = head[at : at + 4], int.from_bytes(head[at + 4 : at + 8], "little")
        if kind == b"data":
            return head[: at + 4] + b"\xff" * 4 + head[at + 8 :] if size in STAND_IN_SIZES else head
        at += 8 + size + size % 2
    return head


def _can_be_streamed(head: bytes) -> bool:
    """Whether a format, known by its first bytes, can be decoded front to back."""
    if head[4:8] in (b"ftyp", b"moov"):
        return _begins_with_index(head)
    if head[:4] == b"FORM":
        return head[8:12] in (b"AIFF", b"AIFC")  # of 8SVX, which begins so too, FFmpeg reads nothing without seeking
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


@contextmanager
def reopenable(source: Source) -> Iterator[Source]:
    """A source that can be opened again and again: what cannot seek is stored in a temporary file.

    Raises:
        AudioError: it cannot be opened, is too long, or the disk is full.
    """
    with ExitStack() as opened:
        if isinstance(source, (str, os.PathLike)):
            source = opened.enter_context(_open_path(Path(source)))
        if not (isinstance(source, Waveform) or source.seekable()):
            source = opened.enter_context(_spool(source))
        yield source


def _spool(stream: BinaryIO) -> BinaryIO:
    """A stream's bytes in a temporary file without a name.

    Raises:
        AudioError: they are too many, or the disk is full.
    """
    try:
        spooled = cast("BinaryIO", tempfile.TemporaryFile(buffering=0))  # noqa: SIM115 - it is given away
        try:
            _copy(stream, spooled)
        except BaseException:
            spooled.close()
            raise
    except OSError as error:
        raise AudioError(f"cannot be stored for seeking: {error.strerror or error}") from error
    return spooled


def _copy(stream: BinaryIO, file: BinaryIO) -> None:
    n_bytes = 0
    while piece := stream.read(1 << 20):
        n_bytes += len(piece)
        if n_bytes > MAX_SPOOLED_BYTES:
            raise AudioError(f"cannot be stored for seeking: is more than {MAX_SPOOLED_BYTES >> 30} GiB")
        while piece:  # a disk that is nearly full takes a part of it
            piece = piece[file.write(piece) :]
