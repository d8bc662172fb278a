"""Damage: each kind leaves a recording that is still recognisably the same, and does what its name says."""

from __future__ import annotations

import numpy as np
import pytest

from audiotag.training.damage import KINDS, damage

RATE = 32000


def _tone(frequency: float, seconds: float = 1.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def _damaged(samples: np.ndarray, kind: str, seed: int = 0) -> np.ndarray:
    return damage(samples, sample_rate=RATE, kind=kind, rng=np.random.default_rng(seed))


def _peak_frequency(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * RATE / len(samples))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_keeps_a_tone_near_where_it_was_and_finite(kind: str) -> None:
    damaged = _damaged(_tone(1000.0), kind)
    assert damaged.dtype == np.float32
    assert np.isfinite(damaged).all()
    assert 0.7 * RATE < len(damaged) < 1.4 * RATE
    assert 740 < _peak_frequency(damaged) < 1310
    assert 0.1 < np.sqrt(np.mean(np.square(damaged))) < 1.5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_samples", [1, 50, 700])
def test_every_kind_takes_clips_of_a_few_samples(kind: str, n_samples: int) -> None:
    assert np.isfinite(_damaged(_tone(1000.0)[:n_samples], kind)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_generator_gives_the_same_damage(kind: str) -> None:
    assert np.array_equal(_damaged(_tone(500.0), kind, seed=3), _damaged(_tone(500.0), kind, seed=3))


def test_a_telephone_keeps_its_band_and_nothing_else() -> None:
    def level(frequency: float) -> float:
        return float(np.sqrt(np.mean(np.square(_damaged(_tone(frequency), "telephone")))))

    assert level(1000.0) > 0.3
    assert level(6000.0) < 0.01
    assert level(80.0) < 0.03


def test_a_slower_tape_is_longer_and_lower_a_faster_one_shorter_and_higher() -> None:
    slower, faster = _damaged(_tone(1000.0), "slower"), _damaged(_tone(1000.0), "faster")
    assert len(slower) > RATE > len(faster)
    assert _peak_frequency(slower) == pytest.approx(1000.0 * RATE / len(slower), rel=0.01)
    assert _peak_frequency(faster) == pytest.approx(1000.0 * RATE / len(faster), rel=0.01)


def test_a_room_rings_on_after_a_click() -> None:
    click = np.zeros(RATE, np.float32)
    click[1000] = 1.0
    ringing = _damaged(click, "room")
    assert ringing[1000] == pytest.approx(1.0, abs=0.5)
    assert np.square(ringing[2000:4000]).sum() > 0.01
    assert np.square(ringing[-2000:]).sum() < 0.001
