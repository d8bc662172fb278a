"""What a training is shown, and how often."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY_CONFIG

from audiotag.config import TrainConfig
from audiotag.training.batches import BatchSource, Data
from audiotag.training.dataset import LabelledClip, label_matrix
from audiotag.training.log_mels import HalfArray

PLAIN = TrainConfig(mixup_probability=0.0, damage_probability=0.0, negatives=0.0, batch_size=1000)
SURE = 0.05  # three deviations of a share of a thousand windows


def heard_in(band: int) -> HalfArray:
    log_mel = np.full((60, TINY_CONFIG.frontend.n_mels), -14.0, np.float16)
    log_mel[:, band] = 3.0
    return log_mel


def data_of(*labels: str, damaged: HalfArray | None = None) -> Data:
    """Clips heard in a low band, with a label each or, where it is empty, without any."""
    clips = tuple(
        LabelledClip(path=Path(f"{number}.wav"), labels=(label,) if label else (), fold="1", group=str(number))
        for number, label in enumerate(labels)
    )
    copies = () if damaged is None else ([damaged] * len(clips),)
    return Data(clips, [heard_in(4)] * len(clips), label_matrix(clips, TINY_CONFIG.labels), copies)


def source_of(data: Data, recipe: TrainConfig, *rare_labels: str) -> BatchSource:
    return BatchSource(data, TINY_CONFIG, recipe, taught=(*TINY_CONFIG.labels, *rare_labels))


def test_clips_of_rare_labels_are_shown_more_often_and_those_without_a_label_too() -> None:
    data = data_of("Dog", "Dog", "Dog", "Dog", "Siren", "")  # weights of 1 / 2 each, 1, and 1 / 2
    _, targets = source_of(data, PLAIN).batch(0)
    assert (targets == 1).mean(axis=0) == pytest.approx([4 / 7, 2 / 7, 0], abs=SURE)


def test_as_many_windows_as_the_recipe_says_hold_nothing_to_name() -> None:
    _, targets = source_of(data_of("Dog"), replace(PLAIN, negatives=0.3)).batch(0)
    assert (targets == 1).any(axis=1).mean() == pytest.approx(0.7, abs=SURE)


def test_labels_that_are_too_rare_for_the_model_are_taught_but_change_nothing_of_what_is_shown() -> None:
    data = data_of("Dog", "Dog", "Dog", "Yap")
    log_mels, targets = source_of(data, PLAIN, "Yap").batch(0)
    without, others = source_of(data, PLAIN).batch(0)
    np.testing.assert_array_equal(log_mels, without)
    np.testing.assert_array_equal(targets[:, :3], others)
    assert (targets == 1).mean(axis=0) == pytest.approx([0.75, 0, 0, 0.25], abs=SURE)


@pytest.mark.parametrize(("damaged", "share"), [(heard_in(14), 0.4), (heard_in(14)[:0], 0.0)])
def test_as_many_clips_as_the_recipe_says_are_damaged_but_none_that_damage_leaves_nothing_of(
    damaged: HalfArray, share: float
) -> None:
    source = source_of(data_of("Dog", damaged=damaged), replace(PLAIN, damage_probability=0.4))
    log_mels, _ = source.batch(0)
    loudest = log_mels[:, 0].max(axis=1).argmax(axis=1)
    assert (loudest > 9).mean() == pytest.approx(share, abs=SURE)
