"""A `Waveform` as a file, or as the bytes of one; libsndfile encodes it."""

from __future__ import annotations

import io
import os

import numpy as np
import soundfile

from audiotag.audio.decoder import BLOCK_FRAMES
from audiotag.audio.waveform import Waveform
from audiotag.errors import AudioError


def write_audio(path: str | os.PathLike[str], waveform: Waveform) -> None:
    """Writes a file in the format of its suffix, if libsndfile encodes it: .wav and .flac (16 bits), .ogg, .mp3.

    Raises:
        AudioError: this libsndfile does not, or the file cannot be written.
    """
    _encode(path, waveform)


def encode_mp3(waveform: Waveform) -> bytes:
    """The waveform as an MP3 file.

    Raises:
        AudioError: this libsndfile does not encode MP3, or MP3 does not have this rate.
    """
    memory = io.BytesIO()
    _encode(memory, waveform, container="MP3")
    return memory.getvalue()


def _encode(file: str | os.PathLike[str] | io.BytesIO, waveform: Waveform, *, container: str | None = None) -> None:
    try:
        with soundfile.SoundFile(file, "w", waveform.sample_rate, 1, format=container) as out:
            # Its Vorbis encoder overflows the stack when it gets millions of samples at once, and its MP3 encoder ends
            # the process where they are far beyond full scale, as in float files scaled as integers.
            for first in range(0, len(waveform.samples), BLOCK_FRAMES):
                out.write(np.clip(waveform.samples[first : first + BLOCK_FRAMES], -1.0, 1.0))
    except (soundfile.SoundFileError, ValueError, OSError) as error:
        raise AudioError(f"cannot be written: {error}") from error
