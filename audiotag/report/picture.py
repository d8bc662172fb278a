"""A log-mel as a picture: PNG with one column a frame and one row a mel band, low frequencies at the bottom."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import numpy.typing as npt

RANGE = 9.0  # of natural logarithms, 78 dB: from black, which also is what lies below, to the loudest in the picture
# Colours of equally spaced levels, between which the others lie: dark to light, so that it reads in grey too.
COLOURS = ((10, 12, 32), (62, 30, 110), (160, 52, 110), (236, 112, 70), (252, 236, 180))


def picture(log_mel: npt.NDArray[np.float32]) -> bytes:
    """The PNG file. Shape: `[frame, mel]`."""
    loudest = float(log_mel.max(initial=-np.inf))
    levels = np.clip(np.nan_to_num((log_mel - loudest) / RANGE + 1.0), 0.0, 1.0)
    return _png(np.round(levels.T[::-1] * 255).astype(np.uint8))


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Pixels `[row, column]` of the 256 colours as PNG with a palette (W3C PNG, third edition, sections 5 and 11)."""
    height, width = pixels.shape
    positions = np.linspace(0, len(COLOURS) - 1, 256)
    palette = [np.interp(positions, range(len(COLOURS)), channel) for channel in zip(*COLOURS, strict=True)]
    rows = np.pad(pixels, ((0, 0), (1, 0)))  # each row begins with its filter: none
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", np.round(np.stack(palette, axis=1)).astype(np.uint8).tobytes()),
        (b"IDAT", zlib.compress(rows.tobytes(), 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
