"""Labels that are taught beside the model's, and what is left of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from conftest import TINY_CONFIG

from audiotag.network import AudioRepInceptionNeXt
from audiotag.training.auxiliary import join_outputs, split_outputs, taught_labels
from audiotag.training.dataset import LabelledClip


def clips_of(*labels: tuple[str, ...]) -> list[LabelledClip]:
    return [LabelledClip(path=Path(f"{n}.wav"), labels=each, fold="1", group=str(n)) for n, each in enumerate(labels)]


def test_labels_that_some_clips_have_are_taught_behind_the_models_own() -> None:
    clips = clips_of(("Yap", "Dog"), ("Yap",), ("Arf", "Yap"), ("Arf",), ("Zither", "Siren"))
    assert taught_labels(clips, ("Siren", "Dog"), min_clips=2) == ("Siren", "Dog", "Arf", "Yap")
    assert taught_labels(clips, ("Siren", "Dog"), min_clips=3) == ("Siren", "Dog", "Yap")
    assert taught_labels(clips, ("Siren", "Dog"), min_clips=0) == ("Siren", "Dog")


def test_the_model_keeps_its_outputs_as_they_are_and_nothing_of_the_others() -> None:
    n_labels = len(TINY_CONFIG.labels)
    wide = AudioRepInceptionNeXt(replace(TINY_CONFIG.network, n_labels=n_labels + 2)).eval()
    model = AudioRepInceptionNeXt(TINY_CONFIG.network).eval()
    first, others = split_outputs(wide.state_dict(), n_labels)
    model.load_state_dict(first)
    log_mels = torch.randn(2, 1, 64, TINY_CONFIG.frontend.n_mels)
    torch.testing.assert_close(model(log_mels), wide(log_mels)[:, :n_labels])
    whole = join_outputs(first, others)
    assert whole.keys() == wide.state_dict().keys()
    assert all(torch.equal(whole[name], weights) for name, weights in wide.state_dict().items())
