"""Sounds without anything to name: they are what they are called, and what a model says of them is counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from audiotag.config import TrainConfig
from audiotag.model_folder import open_model_folder
from audiotag.options import EngineOptions
from audiotag.tagger import Tagger
from audiotag.training.negatives import (
    KINDS,
    LEVEL_DB,
    SAMPLE_RATE,
    SECONDS,
    negative,
    negative_scores,
    negatives_tagged,
)
from audiotag.training.recipe import model_config


def slope_of(samples: np.ndarray) -> float:
    """How the power of a sound falls: the exponent of one over frequency, between 200 Hz and 10 kHz."""
    power = np.abs(np.fft.rfft(samples)) ** 2
    frequency = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    band = (frequency > 200) & (frequency < 10_000)
    return -float(np.polyfit(np.log(frequency[band]), np.log(power[band]), 1)[0])


@pytest.mark.parametrize(("kind", "exponent"), [("white noise", 0), ("pink noise", 1), ("brown noise", 2),
                                                ("blue noise", -1), ("violet noise", -2)])  # fmt: skip
def test_a_noise_has_its_colour(kind: str, exponent: int) -> None:
    assert slope_of(negative(kind, np.random.default_rng(0))) == pytest.approx(exponent, abs=0.1)


def test_sounds_end_within_a_window_and_go_on_beyond_it() -> None:
    lengths = [len(negative("white noise", np.random.default_rng(seed))) / SAMPLE_RATE for seed in range(20)]
    window = model_config(("any",), TrainConfig()).window_seconds
    assert min(lengths) < window / 2
    assert sum(length > window for length in lengths) > 5


@pytest.mark.parametrize("kind", KINDS)
def test_every_sound_has_its_length_and_a_level_in_range(kind: str) -> None:
    for seed in range(5):
        samples = negative(kind, np.random.default_rng(seed))
        assert samples.ndim == 1
        assert SECONDS[0] <= len(samples) / SAMPLE_RATE <= SECONDS[1]
        peak = float(np.abs(samples).max())
        assert kind == "silence" or 10 ** (LEVEL_DB[0] / 20) * 0.99 <= peak < 1
    assert (kind == "silence") == (peak == 0)


def test_kinds_are_what_they_are_called() -> None:
    rng = np.random.default_rng(1)
    clipped = negative("clipped noise", rng)
    assert (np.abs(clipped) > 0.999 * np.abs(clipped).max()).mean() > 0.2
    offset = negative("constant offset", rng)
    assert abs(offset.mean()) > 100 * offset.std()
    tone = negative("tone", rng)
    spectrum = np.abs(np.fft.rfft(tone * np.hanning(len(tone))))
    assert (spectrum > 0.01 * spectrum.max()).sum() < 10
    assert 1 <= np.count_nonzero(negative("clicks", rng)) <= 8


def test_scores_of_the_sounds_are_the_same_for_a_seed_and_others_for_another(tiny_model_folder: Path) -> None:
    tagger = Tagger(open_model_folder(tiny_model_folder), options=EngineOptions(device="cpu", engine="onnx"))
    first, again, other = (negative_scores(tagger, n_clips=1, seed=seed) for seed in (1, 1, 2))
    assert first.shape == (len(KINDS), 3)
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize(("threshold", "share"), [(0.0, 1.0), (1.0, 0.0)])
def test_tags_by_the_model_s_own_thresholds_are_counted(
    tiny_model_folder: Path, threshold: float, share: float
) -> None:
    folder = open_model_folder(tiny_model_folder)
    folder = replace(folder, config=replace(folder.config, thresholds=(threshold,) * 3))
    tagger = Tagger(folder, options=EngineOptions(device="cpu", engine="onnx", precision="fp32"))
    assert negatives_tagged({"fp32": tagger}, n_clips=2) == {kind: {"fp32": share} for kind in KINDS}
