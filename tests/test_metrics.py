"""Ranking measures against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special

from audiotag.training.metrics import (
    PRIOR_POSITIVES,
    AtThreshold,
    at_threshold,
    average_precision,
    average_precisions,
    best_f1_threshold,
    bootstrap,
    expected_calibration_error,
    f1_thresholds,
    hit_rate,
    macro_map,
    micro_map,
    precision_recall_curve,
    weighted_average_precisions,
)


def _by_definition(scores: np.ndarray, targets: np.ndarray) -> float:
    """Mean over positives of the precision among all clips that score at least as high."""
    precisions = [targets[scores >= score].mean() for score in scores[targets == 1]]
    return float(np.mean(precisions))


def test_average_precision_equals_its_definition_on_random_scores_with_ties() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        targets = (rng.random(40) < 0.3).astype(float)
        targets[0] = 1
        scores = rng.integers(0, 12, 40) / 12  # many ties
        assert average_precision(scores, targets) == pytest.approx(_by_definition(scores, targets), abs=1e-12)


def test_a_perfect_ranking_has_precision_one_and_equal_scores_have_the_base_rate() -> None:
    targets = np.array([1.0, 1.0, 0.0, 0.0])
    assert average_precision(np.array([4.0, 3.0, 2.0, 1.0]), targets) == 1.0
    assert average_precision(np.ones(4), targets) == 0.5


def test_macro_map_leaves_out_labels_that_no_clip_has() -> None:
    scores = np.array([[0.9, 0.5], [0.1, 0.5]])
    targets = np.array([[1.0, 0.0], [0.0, 0.0]])
    assert macro_map(scores, targets) == 1.0
    assert micro_map(scores, targets) == 1.0


def test_hit_rate_counts_clips_with_a_label_only() -> None:
    scores = np.array([[0.9, 0.5, 0.1], [0.1, 0.5, 0.9], [0.3, 0.2, 0.1]])
    targets = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert hit_rate(scores, targets, k=1) == 0.5
    assert hit_rate(scores, targets, k=2) == 1.0


def test_best_f1_threshold_equals_a_search_over_all_thresholds() -> None:
    rng = np.random.default_rng(1)
    targets = (rng.random(60) < 0.3).astype(float)
    scores = rng.integers(0, 20, 60) / 20 + targets * 0.2

    def f1(threshold: float) -> float:
        shown = scores >= threshold
        return 2 * float((shown * targets).sum()) / (shown.sum() + targets.sum())

    best = best_f1_threshold(scores, targets)
    assert best.f1 == pytest.approx(max(f1(t) for t in scores))
    assert f1(best.threshold) == pytest.approx(best.f1)
    assert np.abs(scores - best.threshold).min() > 0.01  # between two scores, not on one


def test_a_threshold_that_shows_everything_or_nothing_is_found_too() -> None:
    assert best_f1_threshold(np.array([0.4, 0.2]), np.array([1.0, 1.0])) == AtThreshold(0.1, 1.0, 1.0, 1.0)
    assert best_f1_threshold(np.array([0.0, 0.0]), np.array([1.0, 0.0])).threshold == 0.0
    assert best_f1_threshold(np.array([0.4, 0.2]), np.array([0.0, 0.0])) == AtThreshold(1.0, 1.0, 0.0, 0.0)
    assert at_threshold(np.array([0.4, 0.2]), np.array([1.0, 0.0]), 0.5) == AtThreshold(0.5, 1.0, 0.0, 0.0)


def test_a_label_s_threshold_is_drawn_towards_the_common_one_the_more_the_fewer_clips_it_has() -> None:
    rng = np.random.default_rng(2)
    counts = np.array([0, 2, 5, 100, 400])
    targets = (np.arange(1000)[:, None] < counts).astype(float)
    scores = scipy.special.expit(rng.normal(0.0, 0.2, targets.shape) + 3 * targets - np.array([2, 2, 4, 4, 2]))
    common = best_f1_threshold(scores.ravel(), targets.ravel()).threshold
    thresholds = f1_thresholds(scores, targets)
    assert thresholds[:2] == pytest.approx(common)
    own = best_f1_threshold(scores[:, 3], targets[:, 3]).threshold
    assert own < thresholds[3] < thresholds[2] < common  # the labels 2 and 3 lie alike
    between = (scipy.special.logit(thresholds[3]) - scipy.special.logit(common)) / (
        scipy.special.logit(own) - scipy.special.logit(common)
    )
    assert between == pytest.approx(100 / (100 + PRIOR_POSITIVES))


def test_the_curve_s_area_is_the_average_precision_and_its_thresholds_say_what_they_give() -> None:
    rng = np.random.default_rng(3)
    targets = (rng.random(50) < 0.4).astype(float)
    scores = rng.integers(0, 15, 50) / 15
    recall, precision, thresholds = precision_recall_curve(scores, targets)
    assert np.sum(np.diff(recall, prepend=0) * precision) == pytest.approx(average_precision(scores, targets))
    for index in (0, 3, -1):
        given = at_threshold(scores, targets, thresholds[index])
        assert (given.recall, given.precision) == pytest.approx((recall[index], precision[index]))


def test_a_weighted_average_precision_is_that_of_clips_repeated() -> None:
    rng = np.random.default_rng(4)
    targets = (rng.random((40, 3)) < 0.3).astype(float)
    scores = rng.integers(0, 10, (40, 3)) / 10
    times = rng.integers(0, 4, (40, 5)).astype(float)
    weighted = weighted_average_precisions(scores, targets, times)
    for sample in range(5):
        repeated = np.repeat(np.arange(40), times[:, sample].astype(int))
        assert weighted[sample] == pytest.approx(average_precisions(scores[repeated], targets[repeated]))


def test_a_bootstrap_draws_whole_groups_and_the_same_ones_for_a_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = ["a", "a", "b", "c", "c", "c"]

    def drawn(times: np.ndarray) -> np.ndarray:
        return times.T

    times = bootstrap(drawn, groups, n_resamples=300, seed=1)
    assert times.shape == (300, 6)
    assert (times[:, 0] == times[:, 1]).all()
    assert (times[:, 3] == times[:, 5]).all()
    assert (times[:, [0, 2, 3]].sum(axis=1) == 3).all()
    assert times.mean() == pytest.approx(1.0, abs=0.1)
    monkeypatch.setattr("audiotag.training.metrics.RESAMPLED_AT_ONCE", 60)  # in blocks of ten samples
    assert (bootstrap(drawn, groups, n_resamples=300, seed=1) == times).all()
    assert bootstrap(drawn, groups, n_resamples=0, seed=1).shape == (0, 6)


def test_calibration_error_is_the_distance_of_scores_from_shares() -> None:
    scores = np.array([[0.9, 0.9, 0.1, 0.1]])
    targets = np.array([[1.0, 0.0, 0.0, 0.0]])
    assert expected_calibration_error(scores, targets) == pytest.approx((2 * 0.4 + 2 * 0.1) / 4)
    rng = np.random.default_rng(0)
    honest = rng.random((2000, 50))
    assert expected_calibration_error(honest, (rng.random(honest.shape) < honest).astype(float)) < 0.005


def test_calibration_error_takes_scores_of_zero_and_one() -> None:
    both = np.array([[0.0, 1.0]])
    assert expected_calibration_error(both, both) == 0.0
