"""What real recordings suffer before they reach us: codecs, telephones, rooms, other speeds.

Each kind of damage is done to a whole clip once and its log-mel kept, so that training on two cores can draw from all
of them; how strong it is comes from the generator.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, cast

import av
import numpy as np
import scipy.signal
import soxr

from audiotag.engines import FloatArray

if TYPE_CHECKING:
    from av.audio import AudioStream

MP3_KBPS = (24, 32, 48, 64)
OPUS_KBPS = (8, 12, 16, 24)
MP3_EFFORT = {"compression_level": "9"}  # the encoders' quickest settings: poor encoders are heard, too
OPUS_EFFORT = {"compression_level": "0"}
OPUS_RATE = 24000  # Hz; one of the five that the encoder takes (RFC 6716, section 2)
TELEPHONE_RATE = 8000  # Hz
TELEPHONE_BAND = (300.0, 3400.0)  # Hz (ITU-T G.712)
MU = 255.0  # of the companding law (ITU-T G.711)
SLOWER = (0.75, 0.95)  # speed and pitch together, as a tape does
FASTER = (1.05, 1.3)
REVERBERATION_S = (0.15, 1.2)  # time to fall by 60 dB: from a furnished room to a hall
DIRECT_TO_REVERBERANT_DB = (-6.0, 12.0)


def damage(samples: FloatArray, *, sample_rate: int, kind: str, rng: np.random.Generator) -> FloatArray:
    """The recording after one of `KINDS` of damage, at the same sample rate; its length changes with the speed.

    Shape: `[sample]` -> `[sample']`.
    """
    return KINDS[kind](samples, sample_rate, rng)


def _mp3(samples: FloatArray, sample_rate: int, rng: np.random.Generator) -> FloatArray:
    return _coded(samples, sample_rate, "libmp3lame", "mp3", 1000 * int(rng.choice(MP3_KBPS)), MP3_EFFORT)


def _opus(samples: FloatArray, sample_rate: int, rng: np.random.Generator) -> FloatArray:
    narrow = soxr.resample(samples, sample_rate, OPUS_RATE)
    decoded = _coded(narrow, OPUS_RATE, "libopus", "ogg", 1000 * int(rng.choice(OPUS_KBPS)), OPUS_EFFORT)
    return np.asarray(soxr.resample(decoded, OPUS_RATE, sample_rate), dtype=np.float32)


def _coded(
    samples: FloatArray, sample_rate: int, codec: str, container: str, bit_rate: int, effort: dict[str, str]
) -> FloatArray:
    coded = io.BytesIO()
    with av.open(coded, "w", format=container) as out:
        stream = cast("AudioStream", out.add_stream(codec, rate=sample_rate, options=effort, layout="mono"))
        stream.bit_rate = bit_rate
        pcm = (np.clip(samples, -1.0, 1.0) * 32767).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = sample_rate, 0, Fraction(1, sample_rate)
        for packet in (*stream.encode(frame), *stream.encode(None)):
            out.mux(packet)
    coded.seek(0)
    to_float = av.AudioResampler(format="flt", layout="mono", rate=sample_rate)
    with av.open(coded, "r") as decoded:
        frames = [part.to_ndarray()[0] for whole in decoded.decode(audio=0) for part in to_float.resample(whole)]
    return np.concatenate(frames) if frames else np.zeros(0, dtype=np.float32)


def _telephone(samples: FloatArray, sample_rate: int, rng: np.random.Generator) -> FloatArray:
    narrow = soxr.resample(samples, sample_rate, TELEPHONE_RATE)
    if not len(narrow):  # the resampler rounds a clip of one or two samples to none
        return np.zeros(0, dtype=np.float32)
    band = scipy.signal.butter(4, TELEPHONE_BAND, "bandpass", fs=TELEPHONE_RATE, output="sos")
    narrow = np.clip(scipy.signal.sosfilt(band, narrow), -1.0, 1.0)
    companded = np.sign(narrow) * np.log1p(MU * np.abs(narrow)) / np.log1p(MU)
    companded = np.round(companded * 127.0) / 127.0  # eight bits
    narrow = np.sign(companded) * np.expm1(np.abs(companded) * np.log1p(MU)) / MU
    return np.asarray(soxr.resample(narrow.astype(np.float32), TELEPHONE_RATE, sample_rate), dtype=np.float32)


def _slower(samples: FloatArray, sample_rate: int, rng: np.random.Generator) -> FloatArray:
    return np.asarray(soxr.resample(samples, sample_rate * rng.uniform(*SLOWER), sample_rate), dtype=np.float32)


def _faster(samples: FloatArray, sample_rate: int, rng: np.random.Generator) -> FloatArray:
    return np.asarray(soxr.resample(samples, sample_rate * rng.uniform(*FASTER), sample_rate), dtype=np.float32)


def _room(samples: FloatArray, sample_rate: int, rng: np.random.Generator) -> FloatArray:
    # Late reverberation is Gaussian noise under an exponential that falls by 60 dB (Polack, 1988).
    seconds = rng.uniform(*REVERBERATION_S)
    time = np.arange(int(seconds * sample_rate)) / sample_rate
    tail = rng.standard_normal(len(time)) * 10.0 ** (-3.0 * time / seconds)
    tail /= np.sqrt(np.square(tail).sum())
    echo = scipy.signal.oaconvolve(samples, tail.astype(np.float32))[: len(samples)]
    share = 10.0 ** (-rng.uniform(*DIRECT_TO_REVERBERANT_DB) / 20.0)
    return np.asarray(samples + share * echo, dtype=np.float32)


KINDS: dict[str, Callable[[FloatArray, int, np.random.Generator], FloatArray]] = {
    "mp3": _mp3, "opus": _opus, "telephone": _telephone, "slower": _slower, "faster": _faster, "room": _room,
}  # fmt: skip
