"""Writes synthetic sound into every container that the tests read: libsndfile's through soundfile, the rest through av.

Shape of samples everywhere: `[sample]` or `[sample, channel]`, float32.
"""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import soundfile

FloatArray = npt.NDArray[np.float32]

# Suffix -> libsndfile's format and subtype.
SOUNDFILE_FORMATS = {
    ".wav": ("WAV", "FLOAT"),
    ".rf64": ("RF64", "PCM_24"),
    ".w64": ("W64", "PCM_32"),
    ".aiff": ("AIFF", "PCM_16"),
    ".caf": ("CAF", "PCM_16"),
    ".au": ("AU", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
# Suffix -> FFmpeg's muxer, encoder, and the encoder's options.
AV_FORMATS: dict[str, tuple[str, str, dict[str, str]]] = {
    # Without perceptual noise substitution, which makes up other noise every time it is decoded.
    ".m4a": ("mp4", "aac", {"aac_pns": "0"}),
    ".mp4": ("mp4", "aac", {"aac_pns": "0"}),
    ".3gp": ("3gp", "aac", {"aac_pns": "0"}),
    ".aac": ("adts", "aac", {"aac_pns": "0"}),
    ".webm": ("webm", "libopus", {}),
    ".mka": ("matroska", "flac", {}),
    ".mov": ("mov", "pcm_s16le", {}),
    ".avi": ("avi", "pcm_s16le", {}),
    ".wma": ("asf", "wmav2", {"b": "96000"}),
    ".mpg": ("mpeg", "mp2", {}),
    ".m2ts": ("mpegts", "mp2", {}),
    ".tta": ("tta", "tta", {}),
    ".wv": ("wv", "wavpack", {}),
}
CONTAINERS = (*SOUNDFILE_FORMATS, *AV_FORMATS)
# Containers that keep every sample as it was (within 16 bits).
LOSSLESS = (".wav", ".rf64", ".w64", ".aiff", ".caf", ".au", ".flac", ".mka", ".mov", ".avi", ".tta", ".wv")
# libsndfile's Vorbis encoder overflows its stack when it gets millions of samples at once.
_BLOCK = 48_000


def write_audio(path: Path, samples: FloatArray, sample_rate: int) -> Path:
    """Writes samples into the container that the suffix stands for."""
    table = samples.reshape(len(samples), -1)
    if path.suffix in SOUNDFILE_FORMATS:
        container, subtype = SOUNDFILE_FORMATS[path.suffix]
        with soundfile.SoundFile(path, "w", sample_rate, table.shape[1], format=container, subtype=subtype) as file:
            for start in range(0, len(table), _BLOCK):
                file.write(table[start : start + _BLOCK])
    else:
        _write_with_av(path, table, sample_rate)
    return path


def _write_with_av(path: Path, table: FloatArray, sample_rate: int) -> None:
    container_name, codec, options = AV_FORMATS[path.suffix]
    layout = {1: "mono", 2: "stereo"}[table.shape[1]]
    with av.open(str(path), "w", format=container_name) as container:
        stream = container.add_stream(codec, rate=sample_rate, options=options)
        context = stream.codec_context
        context.layout = layout
        context.format = next(
            (f for f in stream.codec.audio_formats or () if f.name in ("s16", "s16p")), context.format
        )
        context.open()
        resampler = av.AudioResampler(context.format, layout, sample_rate, frame_size=context.frame_size or 1024)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(table.T), format="fltp", layout=layout)
        frame.sample_rate, frame.pts = sample_rate, 0
        for piece in (*resampler.resample(frame), *resampler.resample(None), None):
            container.mux(stream.encode(piece))


def write_amr(path: Path, n_packets: int) -> Path:
    """Writes AMR narrow-band packets of comfort silence, 20 ms each at 8 kHz; FFmpeg has a decoder only."""
    packet = bytes([0x3C]) + bytes(31)  # 12.2 kbit/s, RFC 4867, 5.3
    path.write_bytes(b"#!AMR\n" + packet * n_packets)
    return path


def wav_bytes(
    data: bytes, *, sample_rate: int = 8000, n_channels: int = 1, bits: int = 16, data_size: int | None = None,
    format_tag: int = 1,
) -> bytes:  # fmt: skip
    """A WAV file, whose header may lie about the size of its data."""
    size = len(data) if data_size is None else data_size
    block_align = n_channels * bits // 8
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", min(size + 36, 0xFFFFFFFF), b"WAVE", b"fmt ", 16,
        format_tag, n_channels, sample_rate, min(sample_rate * block_align, 0xFFFFFFFF),
        block_align & 0xFFFF, bits, b"data", size,
    )  # fmt: skip
    return header + data
