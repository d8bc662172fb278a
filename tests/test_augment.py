"""Training windows: laws that hold whatever was drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from audiotag.config import FrontEndConfig, TrainConfig, WindowConfig
from audiotag.frontend import LogMel
from audiotag.training import augment
from audiotag.training.augment import Augmenter, synthetic_negatives

FRONTEND = FrontEndConfig(
    sample_rate=8000, n_fft=256, win_length=256, hop_length=128, n_mels=32, fmin=40, fmax=4000, log_offset=1e-2
)
WINDOW = WindowConfig(n_samples=31 * 128, n_frames=32)
A, B = np.array([1.0, 0.0], np.float32), np.array([0.0, 1.0], np.float32)
QUIET = TrainConfig(mixup_probability=0.0, mask_frames=0, mask_mels=0)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but gain is left of the augmentation."""
    for name in ("BACKGROUND_PROBABILITY", "REPEAT_PROBABILITY", "SPEED_PROBABILITY", "BAND_LIMIT_PROBABILITY",
                 "NOISE_PROBABILITY", "TILT_DB", "PITCH_BANDS"):  # fmt: skip
        monkeypatch.setattr(augment, name, 0)


def _clip(n_frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, 1.0, (n_frames, 32)).astype(np.float16)


@pytest.mark.parametrize("n_frames", [1, 2, 7, 31, 32, 33, 300])
def test_every_window_has_its_shape_and_is_finite_whatever_the_clip_is_long(n_frames: int) -> None:
    for seed in range(20):
        augmenter = Augmenter(FRONTEND, WINDOW, TrainConfig(), np.random.default_rng(seed))
        window, targets = augmenter.window([(_clip(n_frames), A), (_clip(5, seed=1), B)])
        assert window.shape == (32, 32)
        assert window.dtype == np.float32
        assert np.isfinite(window).all()
        assert window.min() >= np.log(1e-2) - 1e-4
        assert targets.tolist() in ([1.0, 0.0], [1.0, 1.0])


def test_mixup_gives_the_union_of_the_labels() -> None:
    config = replace(QUIET, mixup_probability=0.999)
    window, targets = Augmenter(FRONTEND, WINDOW, config, np.random.default_rng(0)).window(
        [(_clip(40), A), (_clip(40, seed=1), B)]
    )
    assert targets.tolist() == [1.0, 1.0]
    assert window.shape == (32, 32)


@pytest.mark.usefixtures("plain")
def test_without_its_parts_augmentation_is_a_gain_on_mel_magnitudes() -> None:
    clip = _clip(32)
    window, _ = Augmenter(FRONTEND, WINDOW, QUIET, np.random.default_rng(3)).window([(clip, A), (clip, B)])
    before = np.maximum(np.exp(clip.astype(np.float32)) - 1e-2, 0.0)
    after = np.exp(window) - 1e-2
    loud = before > 0.5
    factors = after[loud] / before[loud]
    assert np.ptp(factors) < 1e-3 * factors.mean()


@pytest.mark.usefixtures("plain")
def test_a_short_clip_lands_anywhere_in_the_window_over_silence() -> None:
    starts = set()
    for seed in range(200):
        window, _ = Augmenter(FRONTEND, WINDOW, QUIET, np.random.default_rng(seed)).window(
            [(np.full((30, 32), 3.0, np.float16), A), (_clip(5), B)]
        )
        heard = np.flatnonzero((window > np.log(1e-2) + 1e-3).all(axis=1))
        assert len(heard) == 30
        starts.add(int(heard[0]))
    assert starts == {0, 1, 2}


def test_the_same_generator_gives_the_same_window() -> None:
    def draw() -> np.ndarray:
        return Augmenter(FRONTEND, WINDOW, TrainConfig(), np.random.default_rng(7)).window(
            [(_clip(90), A), (_clip(20, seed=1), B)]
        )[0]

    assert np.array_equal(draw(), draw())


def test_synthetic_negatives_are_bounded_waveforms_of_every_kind() -> None:
    clips = synthetic_negatives(8000, np.random.default_rng(0), n_clips=12)
    assert len(clips) == 12
    assert {clip.shape for clip in clips} == {(32000,)}
    assert max(float(np.abs(clip).max()) for clip in clips) <= 1.0
    assert all(np.isfinite(LogMel(FRONTEND)(clip[None])).all() for clip in clips)
