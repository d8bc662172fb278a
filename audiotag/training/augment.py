"""Random training windows from whole-clip log-mels.

Everything happens on mel magnitudes (the log-mel before its logarithm), where a gain is a factor, a filter is a curve
over the bands, and two sounds add by their powers, as sounds without a fixed phase do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from audiotag.config import FrontEndConfig, TrainConfig, WindowConfig
from audiotag.engines import FloatArray
from audiotag.training.log_mels import HalfArray

GAIN_DB = (-30.0, 6.0)  # that a window is made louder by
MIX_DB = (-10.0, 10.0)  # second sound against the first where both are labelled
BACKGROUND_DB = (-30.0, -15.0)  # second sound against the first where it is only background
BACKGROUND_PROBABILITY = 0.2
REPEAT_PROBABILITY = 0.25  # of a short clip being heard several times in its window
SPEED = (0.85, 1.18)
SPEED_PROBABILITY = 0.4
PITCH_BANDS = 3  # mel bands up or down, at most
BAND_LIMIT_PROBABILITY = 0.3  # of losing the top of the spectrum, as telephones, codecs and old recorders do
LOWEST_BAND_LIMIT = 0.5  # of the mel bands: about 2 kHz
TILT_DB = 9.0  # at the ends of the spectrum, at most
NOISE_PROBABILITY = 0.35
NOISE_DB = (-55.0, -12.0)  # most frequent magnitude of the noise against the loudest one of the window
TONES_HZ = (60.0, 10000.0)  # of the single tones that are to get no label
ACTIVE_DB = 25.0  # below the clip's loudest mel band, where its sound is taken to be heard still


@dataclass(frozen=True)
class Sound:
    """A labelled clip to cut windows from.

    log_mel: `[frame, mel]`. targets: `[class]`, 1 where a label is heard, 0 where not, NaN where that is not known.
    active: positions of the frames in which the clip can be heard; a window shows one of them at least, or the silence
    after a sneeze would be taught as a sneeze.
    """

    log_mel: HalfArray
    targets: FloatArray
    active: npt.NDArray[np.intp]


def active_frames(log_mel: HalfArray) -> npt.NDArray[np.intp]:
    """Positions of the frames whose strongest band is within `ACTIVE_DB` of the clip's. `[frame, mel]` -> `[n]`."""
    strongest = log_mel.max(axis=1).astype(np.float32)
    return np.flatnonzero(strongest >= strongest.max() - ACTIVE_DB / 20.0 * np.log(10.0))


class Augmenter:
    """Turns whole-clip log-mels into training windows; every random choice comes from one generator."""

    def __init__(
        self, frontend: FrontEndConfig, window: WindowConfig, config: TrainConfig, rng: np.random.Generator
    ) -> None:
        self._offset = np.float32(frontend.log_offset)
        self._n_frames = window.n_frames
        self._n_mels = frontend.n_mels
        self._config = config
        self._rng = rng

    def window(self, first: Sound, second: Sound) -> tuple[FloatArray, FloatArray]:
        """A window of the first sound, perhaps with the second one mixed in, and its targets.

        What is only in the background may be heard or not: its labels become unknown.
        Shape: `[n_frames, mel]`, `[class]`.
        """
        magnitudes, targets = self._excerpt(first), first.targets
        draw = self._rng.random()
        if draw < self._config.mixup_probability:
            magnitudes = self._mix(magnitudes, self._excerpt(second), MIX_DB)
            heard = (targets == 1) | (second.targets == 1)
            targets = np.where(heard, np.float32(1.0), targets + second.targets)
        elif draw < self._config.mixup_probability + BACKGROUND_PROBABILITY:
            magnitudes = self._mix(magnitudes, self._excerpt(second), BACKGROUND_DB)
            targets = np.where((targets == 0) & (second.targets != 0), np.float32(np.nan), targets)
        magnitudes = self._add_noise(self._filter(magnitudes)) * self._gain(GAIN_DB)
        return self._mask(np.log(magnitudes + self._offset)), targets

    def _excerpt(self, sound: Sound) -> FloatArray:
        speed = self._rng.uniform(*SPEED) if self._rng.random() < SPEED_PROBABILITY else 1.0
        wanted = int(np.ceil(self._n_frames * speed)) + 1
        shown = int(self._rng.choice(sound.active))
        latest = max(0, len(sound.log_mel) - wanted)
        start = min(max(0, shown - int(self._rng.integers(0, wanted))), latest)
        log_mel = sound.log_mel[start : start + wanted].astype(np.float32)
        magnitudes = np.maximum(np.exp(log_mel) - self._offset, 0.0)
        if speed != 1.0 and len(magnitudes) > 1:
            magnitudes = _resample_frames(magnitudes, speed)
        return self._place(self._shift_pitch(magnitudes))

    def _place(self, magnitudes: FloatArray) -> FloatArray:
        length = len(magnitudes)
        if length >= self._n_frames:
            return magnitudes[: self._n_frames]
        canvas = np.zeros((self._n_frames, self._n_mels), dtype=np.float32)
        start = int(self._rng.integers(0, self._n_frames - length + 1))
        canvas[start : start + length] = magnitudes
        if length < self._n_frames // 2 and self._rng.random() < REPEAT_PROBABILITY:
            gap = length + int(self._rng.integers(0, self._n_frames // 4))
            for again in (*range(start + gap, self._n_frames - length, gap), *range(start - gap, 0, -gap)):
                canvas[again : again + length] = magnitudes
        return canvas

    def _shift_pitch(self, magnitudes: FloatArray) -> FloatArray:
        most = min(PITCH_BANDS, self._n_mels - 1)
        shift = int(self._rng.integers(-most, most + 1))
        if shift > 0:
            return np.pad(magnitudes[:, :-shift], ((0, 0), (shift, 0)))
        if shift < 0:
            return np.pad(magnitudes[:, -shift:], ((0, 0), (0, -shift)))
        return magnitudes

    def _mix(self, first: FloatArray, second: FloatArray, decibels: tuple[float, float]) -> FloatArray:
        level, other_level = first.max(initial=0.0), second.max(initial=0.0)
        if not other_level:
            return first
        factor = self._gain(decibels) * (level / other_level if level else 1.0)
        return _add_powers(first, second * factor)

    def _filter(self, magnitudes: FloatArray) -> FloatArray:
        bands = np.linspace(-1.0, 1.0, self._n_mels, dtype=np.float32)
        curve = 10.0 ** (self._rng.uniform(-TILT_DB, TILT_DB) * bands / 20.0)
        if self._rng.random() < BAND_LIMIT_PROBABILITY:
            limit = self._rng.uniform(LOWEST_BAND_LIMIT, 1.0) * self._n_mels
            steepness_db = self._rng.uniform(6.0, 30.0)  # per mel band
            curve *= 10.0 ** (-steepness_db * np.maximum(0.0, np.arange(self._n_mels) - limit) / 20.0)
        return np.asarray(magnitudes * curve.astype(np.float32))

    def _add_noise(self, magnitudes: FloatArray) -> FloatArray:
        if self._rng.random() >= NOISE_PROBABILITY:
            return magnitudes
        # The magnitude of Gaussian noise is Rayleigh distributed; a random walk over the bands colours it.
        colour = 10.0 ** (np.cumsum(self._rng.normal(0.0, 1.0, self._n_mels)) / 20.0)
        rayleigh = self._rng.rayleigh(1.0, magnitudes.shape)
        noise = (rayleigh * (colour / colour.max())).astype(np.float32)
        level = magnitudes.max(initial=0.0) or np.float32(1.0)
        return _add_powers(magnitudes, noise * level * self._gain(NOISE_DB))

    def _gain(self, decibels: tuple[float, float]) -> np.float32:
        return np.float32(10.0 ** (self._rng.uniform(*decibels) / 20.0))

    def _mask(self, log_mel: FloatArray) -> FloatArray:
        # Two masks on each axis, filled with the window's mean (Park et al., "SpecAugment", Interspeech 2019).
        mean = log_mel.mean()
        for _ in range(2):
            log_mel[self._masked(self._n_frames, self._config.mask_frames)] = mean
            log_mel[:, self._masked(self._n_mels, self._config.mask_mels)] = mean
        return log_mel

    def _masked(self, size: int, most: int) -> slice:
        """A mask somewhere on an axis, over half of it at most."""
        width = int(self._rng.integers(0, min(most, size // 2) + 1))
        start = int(self._rng.integers(0, size - width + 1))
        return slice(start, start + width)


def _add_powers(first: FloatArray, second: FloatArray) -> FloatArray:
    total: FloatArray = np.sqrt(np.square(first) + np.square(second))
    return total


def _resample_frames(magnitudes: FloatArray, speed: float) -> FloatArray:
    positions = np.arange(0.0, len(magnitudes) - 1, speed)
    before = positions.astype(np.intp)
    share = (positions - before).astype(np.float32)[:, None]
    return magnitudes[before] * (1 - share) + magnitudes[before + 1] * share


def synthetic_negatives(
    sample_rate: int, rng: np.random.Generator, *, n_clips: int, seconds: tuple[float, float]
) -> list[FloatArray]:
    """Waveforms in which nothing is to be named: noise of every colour, hum, tones, clicks, a constant.

    Shape: `n_clips` times `[sample]`, between `seconds` long, peak at most 1.
    """
    makers = (_coloured_noise, _coloured_noise, _hum, _tone, _clicks, _constant)
    times = (np.arange(round(rng.uniform(*seconds) * sample_rate)) / sample_rate for _ in range(n_clips))
    return [_quieten(makers[index % len(makers)](time, rng), rng) for index, time in enumerate(times)]


def _coloured_noise(time: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    spectrum = np.fft.rfft(rng.standard_normal(len(time)))
    frequency = np.maximum(np.fft.rfftfreq(len(time)), 1 / 2000)
    exponent = rng.uniform(-1.0, 2.0)  # power ~ 1 / f^exponent: -1 blue, 0 white, 1 pink, 2 brown
    return np.fft.irfft(spectrum * frequency ** (-exponent / 2), len(time))


def _hum(time: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    mains = rng.choice([50.0, 60.0])
    harmonics = [rng.uniform(0, 1) / n * np.sin(2 * np.pi * mains * n * time) for n in range(1, 12)]
    return np.asarray(sum(harmonics) + 0.01 * rng.standard_normal(len(time)))


def _tone(time: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    return np.asarray(np.sin(2 * np.pi * np.exp(rng.uniform(*np.log(TONES_HZ))) * time))


def _clicks(time: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    clicks = np.zeros(len(time))
    clicks[rng.integers(0, len(time), rng.integers(1, 6))] = rng.choice([-1.0, 1.0])
    return clicks


def _constant(time: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    return np.full(len(time), rng.uniform(-1, 1)) + 1e-4 * rng.standard_normal(len(time))


def _quieten(waveform: npt.NDArray[np.float64], rng: np.random.Generator) -> FloatArray:
    peak = float(np.abs(waveform).max()) or 1.0
    level = 10.0 ** (rng.uniform(-70.0, 0.0) / 20.0)
    return np.asarray(waveform / peak * level, dtype=np.float32)
