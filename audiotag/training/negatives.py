"""Sounds in which there is nothing to name, and how often a model names something all the same.

They are made here anew, not drawn from what training is shown (`augment.synthetic_negatives`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from audiotag.engines import FloatArray
from audiotag.results import ClipResult
from audiotag.selftest import write_wav
from audiotag.tagger import Tagger
from audiotag.training.dataset import LabelledClip
from audiotag.training.scoring import score_clips

Maker = Callable[[npt.NDArray[np.float64], np.random.Generator], npt.NDArray[np.float64]]

N_CLIPS = 20  # of each kind: one of them tagged is one in twenty
SECONDS = (1.0, 8.0)  # shorter and longer than the windows of models
SAMPLE_RATE = 32000  # Hz, of the files; the pipeline resamples them to the model's
LEVEL_DB = (-50.0, -1.0)  # peak of a sound against full scale
CLIPPED_GAIN = 8.0
SEED_OF_MEASURED = 0  # no other sounds have it: thresholds are raised above those of other seeds


def negatives_tagged(taggers: Mapping[str, Tagger], *, n_clips: int = N_CLIPS) -> dict[str, dict[str, float]]:
    """Share (0 to 1) of `n_clips` sounds of each kind that each tagger gives a tag, with its model's own thresholds."""
    return {kind: _shares_tagged(taggers, kind, n_clips=n_clips) for kind in KINDS}


def negative_scores(tagger: Tagger, *, n_clips: int = N_CLIPS, seed: int) -> npt.NDArray[np.float64]:
    """Scores of `n_clips` sounds of each kind. Shape: `[kind * n_clips, class]`."""
    with tempfile.TemporaryDirectory(prefix="audiotag-negatives-") as scratch:
        paths = [path for kind in KINDS for path in _write(Path(scratch), kind, n_clips=n_clips, seed=seed)]
        clips = [LabelledClip(path=path, labels=(), fold="", group=path.name) for path in paths]
        return score_clips(tagger, clips)[0]


def _shares_tagged(taggers: Mapping[str, Tagger], kind: str, *, n_clips: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="audiotag-negatives-") as scratch:
        paths = _write(Path(scratch), kind, n_clips=n_clips, seed=SEED_OF_MEASURED)
        return {name: _share_tagged(tagger, paths) for name, tagger in taggers.items()}


def _share_tagged(tagger: Tagger, paths: list[Path]) -> float:
    return sum(isinstance(result, ClipResult) and bool(result.tags) for result in tagger.tag_many(paths)) / len(paths)


def _write(folder: Path, kind: str, *, n_clips: int, seed: int) -> list[Path]:
    paths = [folder / f"{kind} {index}.wav" for index in range(n_clips)]
    for index, path in enumerate(paths):
        rng = np.random.default_rng((seed, index, *kind.encode()))
        write_wav(path, negative(kind, rng), SAMPLE_RATE)
    return paths


def negative(kind: str, rng: np.random.Generator) -> FloatArray:
    """A sound of one of `KINDS` at a random level. Shape: `[sample]`, at `SAMPLE_RATE`."""
    seconds = round(rng.uniform(*SECONDS), 1)  # lengths whose Fourier transforms are quick
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    samples = KINDS[kind](time, rng)
    peak = float(np.abs(samples).max()) or 1.0
    level = 10.0 ** (rng.uniform(*LEVEL_DB) / 20.0)
    return np.asarray(samples / peak * level, dtype=np.float32)


def _silence(time: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    return np.zeros(len(time))


def _noise(time: npt.NDArray[np.float64], rng: np.random.Generator, *, exponent: float) -> npt.NDArray[np.float64]:
    """Noise whose power falls with frequency to the `exponent`, above 20 Hz."""
    spectrum = np.fft.rfft(rng.standard_normal(len(time)))
    frequency = np.maximum(np.fft.rfftfreq(len(time), 1 / SAMPLE_RATE), 20.0)
    return np.asarray(np.fft.irfft(spectrum * frequency ** (-exponent / 2), len(time)))


def _hum(time: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Mains with odd and even harmonics that fall off, and a little noise."""
    mains = rng.choice([50.0, 60.0])
    harmonics = (
        rng.uniform(0, 1) / n**1.5 * np.sin(2 * np.pi * (mains * n * time + rng.random())) for n in range(1, 20)
    )
    return np.asarray(sum(harmonics, 1e-3 * rng.standard_normal(len(time))))


def _tone(time: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    frequency = np.exp(rng.uniform(np.log(80.0), np.log(10_000.0)))  # Hz
    return np.asarray(np.sin(2 * np.pi * frequency * time))


def _clicks(time: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """One to eight single samples, as a bad contact or a faulty edit leaves them."""
    clicks = np.zeros(len(time))
    chosen = rng.choice(len(time), rng.integers(1, 9), replace=False)
    clicks[chosen] = rng.choice([-1.0, 1.0], len(chosen))
    return clicks


def _clipped(time: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Noise of a random colour, driven far beyond full scale."""
    noise = _noise(time, rng, exponent=rng.uniform(0.0, 2.0))
    return np.asarray(np.clip(CLIPPED_GAIN * noise / np.abs(noise).max(), -1.0, 1.0))


def _offset(time: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A constant, and faint noise."""
    return np.asarray(rng.choice([-1.0, 1.0]) + 1e-3 * rng.standard_normal(len(time)))


KINDS: dict[str, Maker] = {
    "silence": _silence,
    "white noise": partial(_noise, exponent=0.0),
    "pink noise": partial(_noise, exponent=1.0),
    "brown noise": partial(_noise, exponent=2.0),
    "blue noise": partial(_noise, exponent=-1.0),
    "violet noise": partial(_noise, exponent=-2.0),
    "mains hum": _hum,
    "tone": _tone,
    "clicks": _clicks,
    "clipped noise": _clipped,
    "constant offset": _offset,
}
