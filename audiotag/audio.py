"""Any container as blocks of float32 samples at the model's rate; the only importer of soundfile, av and soxr.

    path or stream --decoder--> [frame, channel] --rows--> [frame, row] --soxr--> blocks [row, sample]

A decoder is chosen by content: libsndfile (`soundfile`) first, FFmpeg (`av`) for what it rejects and for streams that
cannot seek. Nothing is allocated from what a header claims. Neighbours: `inputs` names files, `windows` cuts blocks.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from audiotag.errors import AudioError

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Waveform:
    """Samples `[sample]`, 1.0 being full scale, and their rate in Hz."""

    samples: FloatArray
    sample_rate: int


def read_audio(
    path: str | os.PathLike[str], *, sample_rate: int | None = None, start: float = 0.0, duration: float | None = None
) -> Waveform:
    """The mean of a file's channels from `start` on, both times in seconds; `sample_rate` None keeps the file's rate.

    Raises:
        AudioError: the file cannot be read as audio.
    """
    try:
        samples, rate = soundfile.read(os.fsencode(Path(path)), dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError) as error:
        raise AudioError(f"not decodable: {error}") from error
    mono = samples.mean(axis=1)
    mono = mono[round(start * rate) :]
    if duration is not None:
        mono = mono[: round(duration * rate)]
    target = sample_rate or rate
    return Waveform(soxr.resample(mono, rate, target) if target != rate else mono, target)
