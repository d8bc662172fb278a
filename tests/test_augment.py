"""Training windows: laws that hold whatever was drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from audiotag.config import FrontEndConfig, TrainConfig, WindowConfig
from audiotag.frontend import LogMel
from audiotag.training import augment
from audiotag.training.augment import Augmenter, Sound, active_frames, synthetic_negatives

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


def _sound(n_frames: int, targets: np.ndarray, seed: int = 0) -> Sound:
    log_mel = _clip(n_frames, seed)
    return Sound(log_mel, targets, np.arange(n_frames))


@pytest.mark.parametrize(("n_frames", "n_mels"), [(2, 32), (10, 32), (32, 1), (32, 2), (32, 4)])
def test_windows_may_be_smaller_than_masks_and_shifts(n_frames: int, n_mels: int) -> None:
    frontend, window = replace(FRONTEND, n_mels=n_mels), WindowConfig(n_samples=(n_frames - 1) * 128, n_frames=n_frames)
    sound = Sound(_clip(40)[:, :n_mels], A, np.arange(40))
    for seed in range(50):
        shown, _ = Augmenter(frontend, window, TrainConfig(), np.random.default_rng(seed)).window(sound, sound)
        assert shown.shape == (n_frames, n_mels)
        assert np.isfinite(shown).all()


@pytest.mark.parametrize("n_frames", [1, 2, 7, 31, 32, 33, 300])
def test_every_window_has_its_shape_and_is_finite_whatever_the_clip_is_long(n_frames: int) -> None:
    for seed in range(20):
        augmenter = Augmenter(FRONTEND, WINDOW, TrainConfig(), np.random.default_rng(seed))
        window, targets = augmenter.window(_sound(n_frames, A), _sound(5, B, seed=1))
        assert window.shape == (32, 32)
        assert window.dtype == np.float32
        assert np.isfinite(window).all()
        assert window.min() >= np.log(1e-2) - 1e-4
        assert targets[0] == 1.0
        assert targets[1] in (0.0, 1.0) or np.isnan(targets[1])


def test_mixup_gives_the_union_of_the_labels() -> None:
    config = replace(QUIET, mixup_probability=0.999)
    window, targets = Augmenter(FRONTEND, WINDOW, config, np.random.default_rng(0)).window(
        _sound(40, A), _sound(40, B, seed=1)
    )
    assert targets.tolist() == [1.0, 1.0]
    assert window.shape == (32, 32)


@pytest.mark.usefixtures("plain")
def test_without_its_parts_augmentation_is_a_gain_on_mel_magnitudes() -> None:
    clip = _clip(32)
    window, _ = Augmenter(FRONTEND, WINDOW, QUIET, np.random.default_rng(3)).window(_sound(32, A), _sound(32, B))
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
            Sound(np.full((30, 32), 3.0, np.float16), A, np.arange(30)), _sound(5, B)
        )
        heard = np.flatnonzero((window > np.log(1e-2) + 1e-3).all(axis=1))
        assert len(heard) == 30
        starts.add(int(heard[0]))
    assert starts == {0, 1, 2}


def test_the_same_generator_gives_the_same_window() -> None:
    def draw() -> np.ndarray:
        return Augmenter(FRONTEND, WINDOW, TrainConfig(), np.random.default_rng(7)).window(
            _sound(90, A), _sound(20, B, seed=1)
        )[0]

    assert np.array_equal(draw(), draw())


@pytest.mark.usefixtures("plain")
def test_a_window_of_a_long_clip_always_shows_a_part_that_is_heard() -> None:
    clip = np.full((500, 32), np.log(1e-2), np.float16)
    clip[40:45] = 3.0
    active = active_frames(clip)
    assert active.tolist() == [40, 41, 42, 43, 44]
    for seed in range(100):
        augmenter = Augmenter(FRONTEND, WINDOW, QUIET, np.random.default_rng(seed))
        window, _ = augmenter.window(Sound(clip, A, active), _sound(5, B))
        assert (window > -1.0).any()


def test_what_is_barely_heard_counts_as_active_and_what_is_far_below_does_not() -> None:
    decibels = np.array([0.0, -24.0, -26.0, -60.0])
    clip = np.repeat(decibels[:, None] / 20 * np.log(10), 32, axis=1).astype(np.float16)
    assert active_frames(clip).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("first", "second", "mixed", "behind"),
    [(1, 0, 1, 1), (0, 0, 0, 0), (0, 1, 1, None), (None, 1, 1, None), (None, 0, None, None), (0, None, None, None)],
)
def test_what_is_unknown_of_a_sound_stays_unknown_in_a_mixture(
    first: float | None, second: float | None, mixed: float | None, behind: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    sounds = [Sound(_clip(40), np.array([value], np.float32), np.arange(40)) for value in (first, second)]
    monkeypatch.setattr(augment, "BACKGROUND_PROBABILITY", 1.0)
    for probability, expected in ((0.999, mixed), (0.0, behind)):
        config = replace(QUIET, mixup_probability=probability)
        _, targets = Augmenter(FRONTEND, WINDOW, config, np.random.default_rng(0)).window(*sounds)
        assert np.array_equal(targets, np.array([expected], np.float32), equal_nan=True)


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize(("probability", "decibels"), [(0.999, augment.MIX_DB), (0.0, augment.BACKGROUND_DB)])
def test_the_second_sound_is_as_loud_against_the_first_as_it_is_to_be_whatever_they_were(
    probability: float, decibels: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(augment, "BACKGROUND_PROBABILITY", 1.0)
    first, second = (Sound(np.full((32, 32), np.log(1e-2), np.float16), A, np.arange(32)) for _ in range(2))
    first.log_mel[:, 5], second.log_mel[:, 20] = 6.0, 1.0
    config = replace(QUIET, mixup_probability=probability)
    for seed in range(50):
        augmenter = Augmenter(FRONTEND, WINDOW, config, np.random.default_rng(seed))
        magnitudes = np.exp(augmenter.window(first, second)[0]) - 1e-2
        difference = 20 * np.log10(magnitudes[:, 20].max() / magnitudes[:, 5].max())
        assert decibels[0] - 0.1 <= difference <= decibels[1] + 0.1


@pytest.mark.parametrize("speed", [0.85, 1.18])
def test_another_speed_reads_between_frames(speed: float) -> None:
    heard = augment._resample_frames(np.arange(10, dtype=np.float32)[:, None], speed)
    np.testing.assert_allclose(heard[:, 0], np.arange(0, 9, speed), rtol=1e-5)


def test_synthetic_negatives_are_bounded_waveforms_of_every_kind() -> None:
    clips = synthetic_negatives(8000, np.random.default_rng(0), n_clips=12, seconds=(1.0, 4.0))
    assert len(clips) == 12
    lengths = [len(clip) / 8000 for clip in clips]
    assert 1 <= min(lengths) < 2
    assert 3 < max(lengths) <= 4
    assert max(float(np.abs(clip).max()) for clip in clips) <= 1.0
    assert all(np.isfinite(LogMel(FRONTEND)(clip)).all() for clip in clips)
