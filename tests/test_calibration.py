"""Platt scaling: it finds what was done to the scores, keeps every ranking, and doubts where it saw little."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.optimize
import scipy.special
import torch
from conftest import make_tiny_network

from audiotag.training import calibration
from audiotag.training.calibration import Platt, calibration_errors, fit_platt, fold_into_head, pooled_scores
from audiotag.training.metrics import expected_calibration_error

FloatArray = npt.NDArray[np.float64]


def clips_of(
    scale: FloatArray, offset: FloatArray, *, n_clips: int, seed: int = 0
) -> tuple[FloatArray, npt.NDArray[np.intp], FloatArray]:
    """Logits of 1 to 3 windows a clip, their owners, and labels drawn from the scores that (scale, offset) give."""
    rng = np.random.default_rng(seed)
    owners = np.repeat(np.arange(n_clips), rng.integers(1, 4, n_clips))
    of_clip = rng.normal(-1.0, 2.0, (n_clips, len(scale)))
    logits = of_clip[owners] + rng.normal(0.0, 1.0, (len(owners), len(scale)))
    truth = pooled_scores(logits, owners, n_clips=n_clips, platt=Platt(scale, offset))
    return logits, owners, (rng.random(truth.shape) < truth).astype(np.float64)


def test_what_was_done_to_the_scores_is_found_again() -> None:
    scale, offset = np.array([0.5, 1.0, 1.6]), np.array([-1.0, 0.3, 1.0])
    logits, owners, targets = clips_of(scale, offset, n_clips=20_000)
    found = fit_platt(logits, owners, targets)
    assert found.scale == pytest.approx(scale, rel=0.06)
    assert found.offset == pytest.approx(offset, abs=0.08)


def test_calibration_makes_scores_shares() -> None:
    logits, owners, targets = clips_of(np.full(10, 0.5), np.full(10, -1.0), n_clips=2000)
    before = pooled_scores(logits, owners, n_clips=2000)
    after = pooled_scores(logits, owners, n_clips=2000, platt=fit_platt(logits, owners, targets))
    assert expected_calibration_error(before, targets) > 0.1
    assert expected_calibration_error(after, targets) < 0.01


def test_the_gradient_is_the_loss_s() -> None:
    logits, owners, targets = clips_of(np.ones(2), np.zeros(2), n_clips=30)
    clips = calibration._Clips(
        calibration._mean_over_windows(owners, 30), calibration._wanted(targets > 0), 1 + targets
    )

    def loss(parameters: Any) -> float:
        return calibration._loss(parameters, logits, clips, np.array([0.1, -0.2]))[0]

    for at in ([0.0, 0.0], [0.4, -1.0], [-0.5, 2.0]):
        _, gradient = calibration._loss(np.array(at), logits, clips, np.array([0.1, -0.2]))
        assert gradient == pytest.approx(scipy.optimize.approx_fprime(at, loss, 1e-6), rel=1e-4, abs=1e-4)


def test_a_label_that_scores_the_wrong_way_round_keeps_its_ranking() -> None:
    logits, owners, targets = clips_of(np.ones(3), np.zeros(3), n_clips=500)
    found = fit_platt(-logits, owners, targets)
    assert (found.scale > 0).all()


def test_a_perfect_separation_asks_for_no_certainty() -> None:
    logits = np.array([[3.0], [2.0], [-2.0], [-3.0]])
    found = fit_platt(logits, np.arange(4), (logits > 0).astype(float))
    assert 0.3 < found.scale[0] < 1


def test_labels_with_few_clips_stay_near_what_all_share_and_those_without_any_take_it() -> None:
    scale, offset = np.full(8, 0.6), np.full(8, -1.0)
    logits, owners, targets = clips_of(scale, offset, n_clips=3000)
    targets[:, 0] = 0
    targets[:, 1] = 0
    targets[np.argmin(logits[np.searchsorted(owners, np.arange(3000)), 1]), 1] = 1  # one clip, and a misleading one
    found = fit_platt(logits, owners, targets)
    logits_of_all = np.log(found.scale[2:])
    assert np.log(found.scale[0]) == pytest.approx(logits_of_all.mean(), abs=0.2)
    assert abs(np.log(found.scale[1] / found.scale[0])) < 3 * calibration.LOG_SCALE_DEVIATION


def test_a_fold_that_has_a_label_too_often_is_weighed_down_to_its_usual_share() -> None:
    logits, owners, targets = clips_of(np.ones(1), np.zeros(1), n_clips=20_000)
    chosen = np.flatnonzero((targets[:, 0] > 0) | (np.arange(20_000) % 3 == 0))  # a third of the clips without it
    kept = np.isin(owners, chosen)
    fold = (logits[kept], np.searchsorted(chosen, owners[kept]), targets[chosen])
    assert fit_platt(*fold).offset[0] > 0.8  # log 3, less the prior
    found = fit_platt(*fold, prevalence=targets.mean(axis=0))
    assert found.offset[0] == pytest.approx(0.0, abs=0.1)
    assert found.scale[0] == pytest.approx(1.0, abs=0.1)


def test_clips_without_windows_and_extreme_logits_do_no_harm() -> None:
    logits = np.array([[900.0, -900.0], [-900.0, -900.0], [5.0, -5.0]])
    found = fit_platt(logits, np.array([0, 2, 2]), np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]))
    assert np.isfinite(found.scale).all()
    assert np.isfinite(found.offset).all()


def test_a_folded_head_gives_the_calibrated_logits() -> None:
    network = make_tiny_network(seed=3)
    x = torch.randn(5, 1, 50, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = network(x).double().numpy()
        platt = Platt(np.array([0.5, 1.3, 2.0]), np.array([-2.0, 0.1, 1.0]))
        fold_into_head(network, platt)
        after = network(x).double().numpy()
    rounding = 1e-6 * np.abs(after).max()
    assert after == pytest.approx(platt.scale * before + platt.offset, abs=rounding)


def test_the_error_after_calibration_is_of_groups_that_were_not_fitted_on() -> None:
    logits, owners, targets = clips_of(np.full(4, 0.5), np.full(4, -1.0), n_clips=1000)
    groups = [f"g{clip // 3}" for clip in range(1000)]
    errors = calibration_errors(logits, owners, targets, groups=groups)
    assert errors["ece_before"] > 0.1
    assert errors["ece_after"] < 0.03
    fitted_on_all = pooled_scores(logits, owners, n_clips=1000, platt=fit_platt(logits, owners, targets))
    assert errors["ece_after"] != pytest.approx(expected_calibration_error(fitted_on_all, targets), abs=1e-9)


def test_one_group_alone_cannot_be_calibrated_without_itself() -> None:
    logits, owners, targets = clips_of(np.ones(2), np.zeros(2), n_clips=10)
    errors = calibration_errors(logits, owners, targets, groups=["all"] * 10)
    assert errors["ece_before"] == errors["ece_after"]
