"""What a model folder says of itself: measured, written, and shown."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import measure_model
import measure_speed
import numpy as np
import pytest
from conftest import TINY_CONFIG, siren, tone
from pages import END, begin_of, between_markers

from audiotag.config import ModelConfig
from audiotag.model_card import figures_table, model_card, write_model_card
from audiotag.model_folder import open_model_folder
from audiotag.training.dataset import LabelledClip, read_dataset
from audiotag.training.figures import (
    LEAST_DEFAULT_THRESHOLD,
    MOST_DEFAULT_THRESHOLD,
    Subset,
    default_thresholds,
    measure_negatives,
)
from audiotag.training.figures import measure_model as measure_and_write
from audiotag.training.metrics import f1_thresholds
from audiotag.training.negatives import negative_scores, negatives_tagged

WriteWav = Callable[..., Path]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[LabelledClip, ...]:
    """Ten clips of two labels, half of them of the source zoo, and one that cannot be read."""
    import soundfile

    folder = tmp_path_factory.mktemp("figures")
    rows = ["path,labels,fold,group,source"]
    for index in range(10):
        sound = tone(300.0 + 40 * index) if index % 2 else siren()
        soundfile.write(folder / f"{index}.wav", sound * (1 - index / 20), 8000)
        rows.append(f"{index}.wav,{'Dog' if index % 2 else 'Siren'},1,g{index},{'zoo' if index < 5 else 'town'}")
    soundfile.write(folder / "zither.wav", tone(700.0), 8000)
    rows.append("zither.wav,Zither,1,g7,town")
    (folder / "broken.wav").write_bytes(b"RIFF nothing")
    rows.append("broken.wav,Dog,1,g9,zoo")
    (folder / "m.csv").write_text("\n".join(rows) + "\n")
    return read_dataset(folder / "m.csv")


@pytest.fixture(scope="module")
def measured(
    tiny_model_folder: Path, clips: tuple[LabelledClip, ...], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, ModelConfig]:
    folder = tmp_path_factory.mktemp("measured") / "tiny"
    shutil.copytree(tiny_model_folder, folder)
    known = Subset(name="Zoo-2", labels=("Dog", "Siren"), sources=("zoo",))
    unknown = Subset(name="Sea", labels=("Whale", "Dog"))
    absent = Subset(name="Nowhere", labels=("Dog", "Siren"), sources=("nowhere",))
    config = replace(TINY_CONFIG, metrics={"kept": 1})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("audiotag.training.figures.negatives_tagged", partial(negatives_tagged, n_clips=2))
        patched.setattr("audiotag.training.figures.negative_scores", partial(negative_scores, n_clips=2))
        return folder, measure_and_write(folder, config, clips, subsets=(known, unknown, absent))


def test_the_folder_s_configuration_holds_what_was_measured(measured: tuple[Path, ModelConfig]) -> None:
    folder, config = measured
    assert open_model_folder(folder).config == config
    assert config.metrics["kept"] == 1
    exact, quantised = config.metrics["fp32"], config.metrics["int8"]
    assert (exact["n_clips"], exact["n_failed"]) == (11, 1)
    assert config.metrics["outside"]["n_clips"] == 1  # the zither
    assert {config.metrics["outside"][precision] for precision in ("fp32", "int8")} <= {0.0, 1.0}
    assert "per_label" not in quantised
    assert config.int8_map_loss == round(100 * max(0.0, exact["macro_map"] - quantised["macro_map"]), 3)
    (zoo,) = config.metrics["subsets"]
    assert (zoo["name"], zoo["n_clips"]) == ("Zoo-2", 5)
    assert set(zoo["int8"]) == {"top1", "top1_interval"}
    assert all(set(each) == {"fp32", "int8"} for each in config.metrics["negatives"].values())
    assert str(folder.parent.parent) not in json.dumps(config.metrics)  # no place on the maker's disk


def test_other_weights_raise_thresholds_above_their_own_negatives_and_keep_the_figures(
    measured: tuple[Path, ModelConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, config = Path(shutil.copytree(measured[0], tmp_path / "tiny")), measured[1]
    monkeypatch.setattr("audiotag.training.figures.negative_scores", lambda tagger, seed: np.array([[0.7, 0.1, 0.1]]))
    monkeypatch.setattr(
        "audiotag.training.figures.negatives_tagged",
        lambda taggers: {"by threshold": {name: tagger.config.thresholds[0] for name, tagger in taggers.items()}},
    )
    found = measure_negatives(folder, replace(config, thresholds=(0.4, 0.4, 0.4)))
    assert found.thresholds == (0.71, 0.4, 0.4)
    assert found.metrics == {**config.metrics, "negatives": {"by threshold": {"fp32": 0.71, "int8": 0.71}}}
    assert open_model_folder(folder).config == found
    assert "| by threshold | 71 % | 71 % |" in (folder / "README.md").read_text(encoding="utf-8")


def test_default_thresholds_are_the_labels_own_but_not_below_the_least(clips: tuple[LabelledClip, ...]) -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((len(clips), 2)) * (0.1, 1.0)
    thresholds = default_thresholds(scores, clips, ("Dog", "Siren"), np.zeros((1, 2)))
    targets = np.array([["Dog" in clip.labels, "Siren" in clip.labels] for clip in clips], dtype=float)
    assert thresholds == pytest.approx(np.maximum(f1_thresholds(scores, targets), LEAST_DEFAULT_THRESHOLD), abs=5e-4)
    assert thresholds[0] == LEAST_DEFAULT_THRESHOLD


def test_default_thresholds_lie_above_sounds_without_anything_to_name_but_leave_every_label_a_chance(
    clips: tuple[LabelledClip, ...],
) -> None:
    scores = np.random.default_rng(0).random((len(clips), 2)) * 0.1
    negatives = np.array([[0.3, 0.1], [0.5, 0.97]])
    assert default_thresholds(scores, clips, ("Dog", "Siren"), negatives) == (0.51, MOST_DEFAULT_THRESHOLD)


def test_default_thresholds_let_one_in_twenty_outside_clips_get_a_tag() -> None:
    inside = [clip_of("Dog", number) for number in range(200)]  # so many that F1 would tag nearly everything
    outside = [clip_of("Zither", number) for number in range(40)]
    scores = np.concatenate([np.linspace(0.3, 0.9, 200), np.linspace(0.2, 0.7, 40)])[:, None]
    (threshold,) = default_thresholds(scores, [*inside, *outside], ("Dog",), np.zeros((1, 1)))
    assert (scores[200:] >= threshold).sum() == 2
    few = default_thresholds(scores[:-30], [*inside, *outside[:10]], ("Dog",), np.zeros((1, 1)))
    assert few == (LEAST_DEFAULT_THRESHOLD,)  # ten clips say little about one in twenty


def test_outside_clips_that_get_no_tag_move_no_threshold() -> None:
    inside = [clip_of("Dog", 0), *(clip_of("Siren", number) for number in range(100))]
    outside = [clip_of("Zither", number) for number in range(40)]
    scores = np.array([[0.9, 0.1], *[[0.1, 0.5]] * 100, *[[0.7, 0.1]] * 40])
    found = default_thresholds(scores, [*inside, *outside], ("Dog", "Siren"), np.array([[0.8, 0.0]]))
    assert found == (0.81, LEAST_DEFAULT_THRESHOLD)


def clip_of(label: str, number: int) -> LabelledClip:
    return LabelledClip(path=Path(f"{label}{number}.wav"), labels=(label,), fold="1", group=str(number))


def test_the_card_shows_every_figure(measured: tuple[Path, ModelConfig]) -> None:
    folder, config = measured
    card = (folder / "README.md").read_text(encoding="utf-8")
    exact = config.metrics["fp32"]
    assert f"| macro mAP | {exact['macro_map']:.3f} (" in card
    assert "| Zoo-2: right among its 2 labels, 5 clips | " in card
    assert "| white noise | " in card
    shown = exact["at_defaults"]
    assert shown["empty"] == 1
    assert "By default no tag is shown on any of these clips" in card
    showing = {**config.metrics, "fp32": {**exact, "at_defaults": {**shown, "precision": 0.43, "empty": 0.5}}}
    assert "43 % are right" in model_card(replace(config, metrics=showing))
    assert f"| {exact['per_label'][0]['n_groups']} |  | {config.thresholds[0]:g} |" in card
    calibrated = replace(config, metrics={**config.metrics, "ece_before": 0.02, "ece_after": 0.0031})
    assert "calibration error is 0.0031; before it was 0.0200" in model_card(calibrated)


def test_a_card_of_an_older_release_s_figures_can_still_be_made(tiny_config: ModelConfig) -> None:
    older = {"macro_map": 0.5, "micro_map": 0.6, "top1": 0.7, "top5": 0.9, "n_clips": 10, "n_labels": 3,
             "per_label": [{"label": "Dog", "average_precision": 0.4, "n_clips": 2}]}  # fmt: skip
    config = replace(tiny_config, metrics={"fp32": older})
    assert figures_table(config)[2:] == [
        "| macro mAP | 0.500 |  |", "| micro mAP | 0.600 |  |", "| top-1 hit rate | 0.700 |  |",
        "| top-5 hit rate | 0.900 |  |",
    ]  # fmt: skip
    assert "| Dog | 0.400 |  | 2 |  |  | 0 |" in model_card(config)


def test_a_label_with_a_bar_does_not_end_its_cell_of_the_card(measured: tuple[Path, ModelConfig]) -> None:
    _, config = measured
    card = model_card(replace(config, labels=("Cat|Dog", *config.labels[1:])))
    assert r"| Cat\|Dog | not measured |" in card


def test_figures_are_written_between_the_markers_of_their_script_only(measured: tuple[Path, ModelConfig]) -> None:
    _, config = measured
    other = f"{begin_of('other.py')}\nof another script\n{END}\n"
    text = f"before\n{other}{begin_of('measure_model.py')}\nold\n{END}\nafter\n{other}"
    once = between_markers(text, measure_model.SCRIPT, measure_model.summary(config))
    heading = "| on 11 held-out clips, 2 labels | float32 | int8 |"
    assert once.startswith(f"before\n{other}{begin_of('measure_model.py')}\n{heading}\n")
    assert once.endswith(f" points of macro mAP (of 100).\n{END}\nafter\n{other}")
    assert between_markers(once, measure_model.SCRIPT, measure_model.summary(config)) == once
    assert between_markers("no markers", "other.py", ["new"]) == "no markers"


@pytest.mark.parametrize(
    ("page", "script"),
    [*((page, measure_model.SCRIPT) for page in measure_model.PAGES), (measure_speed.README, measure_speed.SCRIPT)],
    ids=lambda given: given if isinstance(given, str) else given.parent.name,
)
def test_the_pages_have_the_markers(page: Path, script: str) -> None:
    _, begin, rest = page.read_text(encoding="utf-8").partition(begin_of(script))
    inside, end, after = rest.partition(END)
    assert begin
    assert end
    assert begin not in after
    assert "<!--" not in inside


def test_the_pages_and_the_card_tell_what_the_embedded_model_s_configuration_holds() -> None:
    config = open_model_folder(measure_model.EMBEDDED).config
    for page in measure_model.PAGES:
        text = page.read_text(encoding="utf-8")
        assert between_markers(text, measure_model.SCRIPT, measure_model.summary(config)) == text
    card, notes = ((measure_model.EMBEDDED / name).read_text(encoding="utf-8") for name in ("README.md", "NOTES.md"))
    assert card == model_card(config, has_credits=True, notes=notes)


def test_what_the_makers_note_ends_the_card(tiny_config: ModelConfig, tmp_path: Path) -> None:
    write_model_card(tmp_path, tiny_config)
    alone = (tmp_path / "README.md").read_text(encoding="utf-8")
    (tmp_path / "NOTES.md").write_text("## Why\n\nBecause.\n", encoding="utf-8")
    write_model_card(tmp_path, tiny_config)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == alone + "\n## Why\n\nBecause.\n"


def test_the_script_measures_the_fold_that_was_held_out(
    measured: tuple[Path, ModelConfig], clips: tuple[LabelledClip, ...], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = tmp_path / "tiny"
    shutil.copytree(measured[0], folder)
    monkeypatch.setattr("audiotag.training.figures.negative_scores", lambda tagger, seed: np.zeros((1, 3)))
    monkeypatch.setattr(
        "audiotag.training.figures.negatives_tagged", lambda taggers: {"silence": dict.fromkeys(taggers, 0.0)}
    )
    manifest = str(clips[0].path.parent / "m.csv")
    monkeypatch.setattr("sys.argv", ["measure_model.py", manifest, "--model", str(folder), "--fold", "1"])
    measure_model.main()
    assert capsys.readouterr().out.startswith("| on 11 held-out clips, 2 labels | float32 | int8 |")
    monkeypatch.setattr("sys.argv", ["measure_model.py", manifest, "--model", str(folder), "--fold", "9"])
    with pytest.raises(SystemExit, match=r"no clip of .* is in fold '9'"):
        measure_model.main()
