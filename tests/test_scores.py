"""Logits to scores to tags: probabilities, pooling that knows no batches, and the order of tags."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.special

from audiotag.config import HeadConfig, ModelConfig
from audiotag.options import TagOptions
from audiotag.scores import ScorePool, least_scores_of, to_scores, top_tags


@pytest.fixture
def two_heads(tiny_config: ModelConfig) -> ModelConfig:
    """Five labels, two of them verbs."""
    return replace(
        tiny_config, network=replace(tiny_config.network, n_labels=5), labels=("a", "b", "c", "d", "e"), thresholds=(),
        activation="softmax", heads=(HeadConfig(name="verb", size=2), HeadConfig(name="noun", size=3)),
    )  # fmt: skip


def test_softmax_adds_up_to_one_in_each_head(two_heads: ModelConfig) -> None:
    logits = np.random.default_rng(0).normal(0, 50, (7, 5)).astype(np.float32)
    logits[0] += 1e4  # however far the windows of a batch are apart
    scores = to_scores(logits, two_heads)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores[:, :2].sum(axis=1), 1.0)
    np.testing.assert_allclose(scores[:, 2:].sum(axis=1), 1.0)
    np.testing.assert_allclose(np.log(scores[:, 0] / scores[:, 1]), logits[:, 0] - logits[:, 1], atol=1e-4)


def test_sigmoid_scores_each_label_by_itself(tiny_config: ModelConfig) -> None:
    logits = np.array([[0.0, 1e4, -1e4]], np.float32)
    np.testing.assert_allclose(to_scores(logits, tiny_config), [[0.5, 1.0, 0.0]])


def test_sigmoid_and_softmax_are_scipys(tiny_config: ModelConfig, two_heads: ModelConfig) -> None:
    logits = np.random.default_rng(2).normal(0, 30, (200, 5)).astype(np.float32)
    expected = scipy.special.expit(logits[:, :3].astype(np.float64))
    np.testing.assert_allclose(to_scores(logits[:, :3], tiny_config), expected, rtol=1e-14)
    heads = [scipy.special.softmax(part, axis=1) for part in np.split(logits.astype(np.float64), [2], axis=1)]
    np.testing.assert_allclose(to_scores(logits, two_heads), np.concatenate(heads, axis=1), rtol=1e-13)


@pytest.mark.parametrize("aggregate", ["mean", "max"])
def test_a_pool_is_numpys(aggregate: str) -> None:
    rows = np.random.default_rng(1).random((9, 4))
    pool = ScorePool(aggregate)  # type: ignore[arg-type]
    assert pool.result() is None
    for row in rows:
        pool.add(row)
    np.testing.assert_allclose(pool.result(), getattr(rows, aggregate)(axis=0), rtol=1e-15)  # type: ignore[arg-type]


def test_a_pool_leaves_the_rows_alone() -> None:
    row = np.array([0.25, 0.5])
    pool = ScorePool("mean")
    pool.add(row)
    pool.add(row)
    np.testing.assert_array_equal(row, [0.25, 0.5])


def test_tags_are_highest_first_head_by_head_and_equals_in_label_order(two_heads: ModelConfig) -> None:
    tags = top_tags(np.array([0.3, 0.7, 0.2, 0.4, 0.4]), two_heads, least_scores=np.zeros(5), top_k=2)
    assert [(tag.head, tag.label) for tag in tags] == [("verb", "b"), ("verb", "a"), ("noun", "d"), ("noun", "e")]


def test_many_equal_scores_stay_in_label_order(tiny_config: ModelConfig) -> None:
    names = tuple(f"{number:03}" for number in range(600))
    config = replace(
        tiny_config, network=replace(tiny_config.network, n_labels=600), labels=names, thresholds=()
    )
    tags = top_tags(np.tile([0.3, 0.7], 300), config, least_scores=np.zeros(600), top_k=0)
    assert [tag.label for tag in tags] == [*names[1::2], *names[::2]]


def test_top_k_of_zero_is_all(two_heads: ModelConfig) -> None:
    assert len(top_tags(np.zeros(5), two_heads, least_scores=np.zeros(5), top_k=0)) == 5


def test_a_label_counts_from_its_least_score_on(tiny_config: ModelConfig) -> None:
    tags = top_tags(np.array([0.4, 0.1, 0.05]), tiny_config, least_scores=np.array([0.5, 0.1, 0.1]), top_k=0)
    assert [tag.label for tag in tags] == [tiny_config.labels[1]]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (TagOptions(), [0.5, 0.1, 0.2]),
        (TagOptions(threshold=0), [0, 0, 0]),
        (TagOptions(thresholds={"dog": 0.3}), [0.3, 0.1, 0.2]),
        (TagOptions(threshold=0.4, thresholds={"Siren": 1}), [0.4, 0.4, 1]),
        (TagOptions(include_labels=("S*",)), [np.inf, np.inf, 0.2]),
        (TagOptions(threshold=0, exclude_labels=("Siren",)), [0, 0, np.inf]),
    ],
)
def test_the_least_scores_are_the_models_unless_others_are_given(
    tiny_config: ModelConfig, options: TagOptions, expected: list[float]
) -> None:
    config = replace(tiny_config, labels=("Dog", "Cat", "Siren"), thresholds=(0.5, 0.1, 0.2))
    assert least_scores_of(config, options).tolist() == expected
