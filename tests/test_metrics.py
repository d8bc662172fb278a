"""Ranking measures against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from audiotag.training.metrics import (
    average_precision,
    best_f1_threshold,
    expected_calibration_error,
    hit_rate,
    macro_map,
    micro_map,
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

    threshold, best = best_f1_threshold(scores, targets)
    assert best == pytest.approx(max(f1(t) for t in scores))
    assert f1(threshold) == pytest.approx(best)


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
