"""What `evaluate` says of a model, on scores whose figures are known and through the command."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY_CONFIG, Ran, chirp, noise, siren, tone

from audiotag.config import ModelConfig, TrainConfig
from audiotag.errors import DataError
from audiotag.hub import resolve_model
from audiotag.labels import LabelSet
from audiotag.model_folder import write_configs
from audiotag.options import EngineOptions
from audiotag.tagger import Tagger
from audiotag.thresholds import read_thresholds
from audiotag.training.dataset import LabelledClip
from audiotag.training.evaluation import Evaluation
from audiotag.training.evaluation_page import evaluation_page
from audiotag.training.evaluation_table import evaluation_table
from audiotag.training.finish import provenance
from audiotag.training.hierarchy import ancestors_of_labels
from audiotag.training.measuring import measure
from audiotag.training.scoring import score_clips, tell_learnt_clips, with_known_labels

RunAudiotag = Callable[..., Ran]
WriteWav = Callable[..., Path]

LABELS = ("Animal", "Bark", "Dog", "Meow", "Rain")
PLUCKED = "Musical instrument, plucked"


def model_of(labels: Sequence[str], threshold: float = 0.5) -> ModelConfig:
    network = replace(TINY_CONFIG.network, n_labels=len(labels))
    return replace(TINY_CONFIG, network=network, labels=tuple(labels), thresholds=(threshold,) * len(labels))


def clip(name: str, *labels: str, group: str | None = None) -> LabelledClip:
    return LabelledClip(path=Path(name), labels=labels, fold="1", group=group or name)


CLIPS = (
    clip("bark", "Bark", "Dog", "Animal"),
    clip("dog", "Dog", "Animal"),
    clip("meow", "Meow", "Animal"),
    clip("rain", "Rain"),
    clip("rain 2", "Rain", group="rain"),
    clip("car", "Car"),
)
#                   Animal  Bark  Dog  Meow  Rain
SCORES = np.array([[0.90, 0.80, 0.85, 0.10, 0.05],
                   [0.80, 0.60, 0.30, 0.70, 0.10],  # meow rather than dog; a bark would be one
                   [0.90, 0.10, 0.20, 0.95, 0.00],
                   [0.30, 0.10, 0.10, 0.60, 0.40],  # meow rather than rain
                   [0.10, 0.00, 0.10, 0.00, 0.99],
                   [0.20, 0.10, 0.10, 0.10, 0.30]])  # fmt: skip


def measured_of(**more: Any) -> Evaluation:
    return measure(SCORES, CLIPS, model_of(LABELS), **more)


def test_figures_are_those_one_counts_by_hand() -> None:
    measured = measured_of()
    assert (measured.n_clips, measured.n_groups, measured.n_labels, measured.n_failed) == (6, 5, 5, 0)
    assert measured.unknown_labels == ("Car",)
    precisions = {each.label: each.average_precision for each in measured.per_label}
    assert precisions == pytest.approx({"Animal": 1.0, "Bark": 1.0, "Dog": 1.0, "Meow": 1.0, "Rain": 1.0})
    assert measured.top1 == 4 / 5  # the car does not count
    assert measured.top5 == 1.0
    rain = measured.per_label[-1]
    assert (rain.n_clips, rain.n_groups, rain.interval) == (2, 1, None)
    assert (rain.threshold, rain.precision, rain.recall, rain.f1) == (0.35, 1.0, 1.0, 1.0)


def test_labels_of_the_model_that_no_clip_has_change_no_figure_of_the_others() -> None:
    # Folders named Bark and Rain say nothing of animals: that the model hears one too is no mistake.
    scores = np.column_stack([SCORES, [0.99, 0.97, 0.98, 0.3, 0.1, 0.2]])
    without, measured = measured_of(), measure(scores, CLIPS, model_of([*LABELS, "Wild animals"]))
    left_out = ("top1", "top1_interval", "top5", "confusions", "worst_clips")  # there every label is a rival
    assert {name: value for name, value in measured.to_dict().items() if name not in left_out} == {
        name: value for name, value in without.to_dict().items() if name not in left_out
    }


def test_labels_weigh_as_their_independent_groups() -> None:
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.9], [0.6, 0.8], [0.1, 0.1]])
    clips = (*(clip(str(index), "a") for index in range(3)), clip("3", "b", group="x"), clip("4", "b", group="x"))
    measured = measure(scores, clips, model_of(["a", "b"]))
    a, b = measured.per_label
    assert (a.n_groups, b.n_groups) == (3, 1)
    assert measured.group_weighted_map == pytest.approx((3 * a.average_precision + b.average_precision) / 4)
    assert measured.macro_map == pytest.approx((a.average_precision + b.average_precision) / 2)


def test_the_model_s_own_thresholds_are_measured() -> None:
    defaults = measured_of().at_defaults
    shown = SCORES >= 0.5  # 4 of bark, 3 of dog (a wrong meow), 2 of meow, 1 of rain (wrong), 1 of rain 2, 0 of car
    assert shown.sum() == 10
    assert defaults.precision == pytest.approx(7 / 10)
    assert defaults.recall == pytest.approx(7 / 9)
    assert defaults.empty == pytest.approx(1 / 6)


def test_intervals_hold_the_figure_and_come_from_a_seed() -> None:
    rng = np.random.default_rng(0)
    clips = [clip(f"{index}", "a" if index % 3 else "b", group=f"g{index // 2}") for index in range(60)]
    scores = np.array([[0.5 + 0.2 * ("a" in each.labels), 0.5] for each in clips]) + rng.normal(0, 0.2, (60, 2))
    first, second = (measure(scores, clips, model_of(["a", "b"])) for _ in range(2))
    assert first == second
    table = evaluation_table({"model": "m", "precision": "fp32"}, first)
    for value, interval in [(first.macro_map, first.macro_map_interval), (first.top1, first.top1_interval),
                            *((each.average_precision, each.interval) for each in first.per_label)]:  # fmt: skip
        assert interval is not None
        assert 0 <= interval[0] < value < interval[1] <= 1
        assert f"{interval[0]:.3f} to {interval[1]:.3f}" in table
    assert measure(scores, clips, model_of(["a", "b"]), n_resamples=0).macro_map_interval is None


@pytest.mark.parametrize("n_labelled", [2, 3, 6])
def test_the_interval_of_a_mean_over_one_label_is_that_of_the_label(n_labelled: int) -> None:
    # A sample without any of the labelled groups has no mean; it is not one of 0.
    rng = np.random.default_rng(0)
    clips = [clip(str(index), *(["a"] if index < n_labelled else [])) for index in range(12)]
    measured = measure(rng.random((12, 1)), clips, model_of(["a"]))
    assert measured.macro_map_interval == measured.per_label[0].interval
    assert (measured.macro_map_interval is None) == (measured.top1_interval is None) == (n_labelled < 3)


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    # Groups of two like clips: resampling clips instead would give intervals that are too narrow by a third.
    rng = np.random.default_rng(1)

    def drawn(n_groups: int) -> tuple[np.ndarray, list[LabelledClip]]:
        heard = np.repeat(rng.random(n_groups) < 0.5, 2)
        scores = np.repeat(rng.normal(heard[::2] * 1.0, 1.0), 2) + rng.normal(0, 0.1, 2 * n_groups)
        clips = [clip(str(i), *(["a"] if h else ["b"]), group=f"g{i // 2}") for i, h in enumerate(heard)]
        return 1 / (1 + np.exp(-np.stack([scores, -scores], axis=1))), clips

    truth = measure(*drawn(10_000), model_of(["a", "b"]), n_resamples=0).macro_map
    held = 0
    for _ in range(60):
        interval = measure(*drawn(60), model_of(["a", "b"]), n_resamples=100).macro_map_interval
        assert interval is not None
        held += interval[0] <= truth <= interval[1]
    assert held >= 51  # 57 expected, and fewer than 52 once in fifty seeds


def test_ancestors_are_what_every_clip_of_a_label_has_too() -> None:
    found = ancestors_of_labels(each.labels for each in CLIPS)
    assert found["Bark"] == {"Dog", "Animal"}
    assert found["Dog"] == {"Animal"}
    assert found["Animal"] == found["Rain"] == frozenset()
    both = ancestors_of_labels([("Fire", "Crackle"), ("Crackle", "Fire")])
    assert both == {"Fire": frozenset(), "Crackle": frozenset()}


def test_confusions_are_of_leaves_and_a_dog_that_barks_is_none() -> None:
    shown = [(each.label, each.said, each.n_clips) for each in measured_of().confusions]
    assert shown == [("Dog", "Meow", 1), ("Rain", "Meow", 1)]


def test_clips_outside_the_fold_tell_which_labels_are_no_leaves() -> None:
    scores = np.array([[0.1, 0.9, 0.5], [0.1, 0.2, 0.9]])
    clips = (clip("a", "Rain"), clip("b", "Dog"))
    labels = ["Rain", "Dog", "Bark"]
    alone = measure(scores, clips, model_of(labels))
    assert [(each.label, each.said) for each in alone.confusions] == [("Dog", "Bark"), ("Rain", "Dog")]
    known = measure(scores, clips, model_of(labels), all_clips=CLIPS)
    assert [(each.label, each.said) for each in known.confusions] == [("Rain", "Bark")]


def test_worst_clips_are_those_that_a_wrong_label_wins_by_most() -> None:
    worst = measured_of().worst_clips
    assert [each.path for each in worst] == ["rain"]
    assert worst[0].gap == pytest.approx(0.2)
    assert worst[0].said == (("Meow", 0.6), ("Rain", 0.4), ("Animal", 0.3))


def test_choosing_among_labels_looks_at_no_other() -> None:
    among = measured_of(among=(2, 4)).among  # Dog, Rain
    assert among is not None
    assert (among.among, among.n_clips, among.top1) == (("Dog", "Rain"), 4, 1.0)
    assert measured_of(among=(3, 4)).among.top1 == pytest.approx(2 / 3)  # type: ignore[union-attr]
    with pytest.raises(DataError, match="choose among"):
        measure(SCORES[:2], CLIPS[:2], model_of(LABELS), among=(3, 4))


def test_no_known_label_at_all_is_an_error_and_one_clip_is_enough() -> None:
    with pytest.raises(DataError, match="no clip has a label that the model knows"):
        measure(SCORES[5:], CLIPS[5:], model_of(LABELS))
    alone = measure(SCORES[:1], CLIPS[:1], model_of(LABELS))
    assert (alone.macro_map, alone.macro_map_interval, alone.top1_interval) == (1.0, None, None)
    json.dumps(alone.to_dict(), allow_nan=False)


def test_what_a_model_folder_keeps_names_no_clip() -> None:
    kept = json.dumps(measured_of(among=(2, 4)).figures())
    assert "rain 2" not in kept
    assert "per_label" in kept


# --- the page ---


class _Page(HTMLParser):
    """Tags that are open, attributes that were seen, and text."""

    VOID = ("meta", "circle", "path")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(text: str) -> _Page:
    page = _Page()
    page.feed(text)
    page.close()
    assert page.open == []
    return page


def test_the_page_is_whole_self_contained_and_escapes_every_name() -> None:
    nasty = "<script>alert(1)</script> & \"quotes\" 'too'"
    labels = (nasty, *LABELS[1:])
    clips = [replace(each, labels=tuple(nasty if label == "Animal" else label for label in each.labels),
                     path=Path(f"{nasty}/{each.path}")) for each in CLIPS]  # fmt: skip
    measured = measure(SCORES, clips, model_of(labels), among=(2, 4))
    text = evaluation_page({"model": nasty, "data": nasty, "fold": None}, measured, SCORES, clips, labels)
    page = page_of(text)
    assert "<script" not in text
    assert page.text.count(nasty) >= 4
    assert not re.search(r"https?://|url\(|@import|src=", text)
    assert sum(1 for tag, name, _ in page.attributes if (tag, name) == ("svg", "aria-label")) == 1 + len(labels)
    assert "prefers-color-scheme: dark" in text


def test_a_long_curve_is_thinned_and_stays_inside_its_frame() -> None:
    rng = np.random.default_rng(0)
    clips = [clip(str(index), "a" if index % 2 else "b") for index in range(3000)]
    scores = rng.random((3000, 2))
    measured = measure(scores, clips, model_of(["a", "b"]), n_resamples=0)
    text = evaluation_page({"model": "m"}, measured, scores, clips, ["a", "b"])
    assert len(text) < 30_000
    curves = re.findall(r'class=curve d="M([^"]*)"', text)
    assert len(curves) == 3
    for curve in curves:
        points = np.array([[float(number) for number in point.split()] for point in curve.split("L")])
        assert points.min() >= 4
        assert points.max() <= 104
        assert (np.diff(points[:, 0]) >= 0).all()
        assert points[-1, 0] == 104  # all positives at the end


def test_a_thinned_curve_falls_between_few_positives_as_the_whole_one_does() -> None:
    def drawn_area(n_clips: int) -> float:
        scores = np.zeros((n_clips, 1))
        scores[:140, 0] = np.linspace(1.0, 0.5, 140)
        scores[140:, 0] = np.linspace(0.4, 0.0, n_clips - 140)
        clips = [clip(str(index), *("a",) * (index in (0, 60, 139))) for index in range(n_clips)]
        measured = measure(scores, clips, model_of(["a"]), n_resamples=0)
        text = evaluation_page({"model": "m"}, measured, scores, clips, ["a"])
        (drawn, _) = re.findall(r'class=curve d="M([^"]*)"', text)
        across, down = np.array([point.split() for point in drawn.split("L")], dtype=float).T
        return float(np.sum(np.diff(across) * (104 - (down[1:] + down[:-1]) / 2))) / 100**2

    assert drawn_area(1000) == pytest.approx(drawn_area(150), abs=1e-3)


def test_the_table_shows_control_characters_as_text() -> None:
    nasty = "\x1b[31mred\nline"
    clips = [replace(each, labels=(nasty, each.labels[0])) for each in CLIPS]
    measured = measure(SCORES, clips, model_of((nasty, *LABELS[1:-1], f"{nasty} too")), among=(0,))
    text = evaluation_table({"model": nasty, "precision": "fp32"}, measured)
    assert measured.confusions
    assert measured.worst_clips
    assert "\x1b" not in text
    assert text.count("\\x1b[31mred\\nline") >= 6
    assert text.count("\n") == evaluation_table({"model": "m", "precision": "fp32"}, measured).count("\n")


# --- the command ---


@pytest.fixture
def data(write_wav: WriteWav, tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A manifest with two folds and two sources, a broken clip, and a label that the model does not know."""
    monkeypatch.setenv("AUDIOTAG_MODEL", str(tiny_model_folder))
    monkeypatch.chdir(tmp_path)
    rows = ["path,labels,fold,group,source"]
    for index, (name, sound, label) in enumerate([
        ("a.wav", tone(), "Dog"), ("b.wav", chirp(), "Siren"), ("c.wav", siren(), f"Siren;{PLUCKED}"),
        ("d.wav", noise(), "Zither"), ("e.wav", tone(900.0), "Dog;Zither"),
    ]):  # fmt: skip
        write_wav(name, sound)
        rows.append(f'{name},"{label}",{1 + index % 2},g{index},{"zoo" if index < 3 else "town"}')
    (tmp_path / "broken.wav").write_bytes(b"RIFF nothing")
    rows.append("broken.wav,Dog,1,g9,zoo")
    (tmp_path / "m.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "m.csv"


def test_json_has_the_keys_that_scripts_read_and_the_new_ones(run_audiotag: RunAudiotag, data: Path) -> None:
    ran = run_audiotag("evaluate", "m.csv", "-f", "json", "--among", f"Dog; {PLUCKED}", "--among", "siren")
    assert ran.code == 3
    assert "left out: " in ran.stderr
    assert "broken.wav: not decodable" in ran.stderr
    shown = json.loads(ran.stdout)
    assert list(shown)[:6] == ["model", "revision", "sha256", "precision", "data", "fold"]
    assert {"n_clips", "n_failed", "n_labels", "macro_map", "micro_map", "top1", "top5", "unknown_labels"} <= set(shown)
    assert (shown["n_clips"], shown["n_failed"], shown["n_groups"]) == (5, 1, 5)
    assert shown["unknown_labels"] == ["Zither"]
    assert set(shown["among"]["among"]) == {"Dog", "Siren", PLUCKED}
    assert {"label", "average_precision", "n_clips", "n_groups", "interval", "threshold"} <= set(shown["per_label"][0])
    assert "clips 6/6\n" in ran.stderr


def test_the_table_says_what_the_json_says(run_audiotag: RunAudiotag, data: Path) -> None:
    shown = json.loads(run_audiotag("evaluate", "m.csv", "-f", "json", "-q").stdout)
    lines = run_audiotag("evaluate", "m.csv", "-q").stdout.splitlines()
    assert lines[0] == "model tiny, fp32, on 5 clips of 5 groups (1 unreadable)"
    assert lines[1].startswith(f"macro mAP {shown['macro_map']:.4f} ")
    rows = [line for line in lines if line.endswith("  Dog")]
    assert len(rows) == 1
    dog = next(each for each in shown["per_label"] if each["label"] == "Dog")
    assert rows[0].split()[0] == f"{dog['average_precision']:.3f}"


def test_labels_that_the_model_does_not_know_are_named_before_anything_is_scored(
    run_audiotag: RunAudiotag, data: Path
) -> None:
    ran = run_audiotag("evaluate", "m.csv")
    warning = "audiotag: warning: labels that the model does not know do not count: 'Zither'\n"
    assert ran.stderr.startswith(warning + "clips ") or ran.stderr.startswith(warning + "audiotag: warning: left out")
    assert "\nlabels that the model does not know did not count: Zither\n" in ran.stdout
    with data.open("a") as rows:
        rows.write("f.wav,Sirens;1;2;3;4;5,1,g,zoo\n")
    (data.parent / "f.wav").write_bytes((data.parent / "a.wav").read_bytes())
    ran = run_audiotag("evaluate", "m.csv")
    assert ran.stderr.startswith(f"{warning[:-9]}'1', '2', '3', '4', '5' and 2 more\n")
    assert "did not count: 1, 2, 3, 4, 5 and 2 more\n" in ran.stdout


def test_folders_of_which_the_model_knows_none_are_named_with_what_is_near(
    run_audiotag: RunAudiotag, write_wav: WriteWav, tmp_path: Path, data: Path
) -> None:
    write_wav("clips/dogs/a.wav", tone())
    (tmp_path / "clips/zither").mkdir()
    (tmp_path / "clips/zither/b.wav").write_text("never opened")
    ran = run_audiotag("evaluate", "clips")
    complaint = "no clip has a label that the model knows: 'dogs' (did you mean 'Dog'?), 'zither'"
    assert (ran.code, ran.stdout) == (1, "")
    assert ran.stderr == f"audiotag: error: {complaint}. `audiotag labels` lists them\n"


def test_labels_of_the_data_are_matched_whatever_their_case(
    run_audiotag: RunAudiotag, write_wav: WriteWav, data: Path
) -> None:
    write_wav("clips/dog/a.wav", tone())
    write_wav("clips/SIREN/b.wav", siren())
    ran = run_audiotag("evaluate", "clips", "-f", "json")
    shown = json.loads(ran.stdout)
    assert (ran.code, shown["n_labels"], shown["unknown_labels"]) == (0, 2, [])
    assert [each["label"] for each in shown["per_label"]] == ["Dog", "Siren"]
    two = with_known_labels([clip("a", "dog", "Dog", "dOG", "cat")], LabelSet(("dog", "Dog")))
    assert two[0].labels == ("dog", "Dog", "cat")


@pytest.mark.parametrize(
    ("data", "made", "fold", "complaint"),
    [
        ("m.csv", {}, None, "has learnt from these clips but for a fold: --fold 2 measures on that"),
        ("m.csv", {}, "1", "has learnt from these clips but for a fold: --fold 2 measures on that"),
        ("m.csv", {}, "2", None),
        ("m.csv", {"refit": {"steps": 9}}, "2", "has learnt from all of these clips: expect less on others"),
        ("m.csv", {"n_clips": 7}, None, None),
        (
            "m.csv",  # what could not be read has been removed since
            {"n_clips_unreadable": 1},
            None,
            "has learnt from these clips but for a fold: --fold 2 measures on that",
        ),
        ("other.csv", {}, None, None),
    ],
)
def test_clips_that_the_model_has_learnt_from_are_told(
    data: str, made: dict[str, object], fold: str | None, complaint: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "audiotag")
    clips = [clip("a", "Dog"), clip("b", "Siren")]
    known = {"data": "m.csv", "n_clips": 2, "recipe": {"fold": "2"}, **made}
    tell_learnt_clips(replace(TINY_CONFIG, provenance=known), Path("data") / data, clips, fold=fold)
    assert caplog.messages == ([] if complaint is None else [f"the model {complaint}"])


def test_data_that_are_the_working_folder_have_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "birds").mkdir()
    monkeypatch.chdir(tmp_path / "birds")
    clips = [clip("a", "Dog"), clip("b", "Siren")]
    made = provenance(Path(), TrainConfig(), clips, 1, n_unreadable=0)
    assert made["data"] == "birds"
    tell_learnt_clips(replace(TINY_CONFIG, provenance=made), tmp_path / "birds", clips, fold=None)
    tell_learnt_clips(replace(TINY_CONFIG, provenance=made), Path(), clips, fold=None)
    assert len(caplog.messages) == 2


def test_data_that_are_a_link_have_its_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not that of a store of contents, as git-annex and DVC link to."""
    (tmp_path / "SHA256E-s24--ab.csv").touch()
    (tmp_path / "birds.csv").symlink_to("SHA256E-s24--ab.csv")
    made = provenance(tmp_path / "birds.csv", TrainConfig(), [], 1, n_unreadable=0)
    assert made["data"] == "birds.csv"
    tell_learnt_clips(replace(TINY_CONFIG, provenance=made), tmp_path / "birds.csv", [], fold=None)
    assert len(caplog.messages) == 1


def test_clips_that_the_model_has_learnt_from_are_told_before_they_are_measured(
    run_audiotag: RunAudiotag, data: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    """A training counts only what it could read; the clip that it could not is of another fold."""
    provenance = {"data": "m.csv", "n_clips": 5, "n_clips_unreadable": 1, "recipe": {"fold": "1"}}
    shutil.copytree(tiny_model_folder, tmp_path / "trained")
    write_configs(tmp_path / "trained", replace(TINY_CONFIG, provenance=provenance))
    ran = run_audiotag("evaluate", "m.csv", "--model", "trained", "--fold", "2")
    told = "the model has learnt from these clips but for a fold: --fold 1 measures on that"
    assert (ran.code, ran.stderr.index(told) < ran.stderr.index("clips 2/2")) == (0, True)


def test_html_goes_to_a_file(run_audiotag: RunAudiotag, data: Path, tmp_path: Path) -> None:
    ran = run_audiotag("evaluate", "m.csv", "-f", "html", "--out", "page.html", "-q")
    assert (ran.code, ran.stdout, ran.stderr) == (3, "", "")
    page = page_of((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "Evaluation of tiny" in page.text
    assert "Zither" in page.text


def test_the_suffix_of_out_is_the_format(run_audiotag: RunAudiotag, data: Path, tmp_path: Path) -> None:
    assert run_audiotag("evaluate", "m.csv", "--out", "e.json", "-q").code == 3
    assert json.loads((tmp_path / "e.json").read_text(encoding="utf-8"))["n_clips"] == 5
    assert run_audiotag("evaluate", "m.csv", "--out", "e.TXT", "-q").code == 3
    assert (tmp_path / "e.TXT").read_text(encoding="utf-8").startswith("model tiny")


def test_thresholds_that_are_written_are_read_by_predict(run_audiotag: RunAudiotag, data: Path, tmp_path: Path) -> None:
    ran = run_audiotag("evaluate", "m.csv", "--fold", "1", "--thresholds-out", "t.json", "-f", "json", "-q")
    written = read_thresholds(tmp_path / "t.json")
    assert list(written) == list(TINY_CONFIG.labels)
    shown = json.loads(ran.stdout)
    assert written == {label: pytest.approx(shown["threshold"], abs=1e-6) for label in written}  # all have too few
    assert run_audiotag("predict", "a.wav", "--thresholds", "t.json").code == 0


def test_a_label_that_no_clip_has_keeps_the_model_s_threshold(
    run_audiotag: RunAudiotag, data: Path, tmp_path: Path
) -> None:
    run_audiotag("evaluate", "m.csv", "--source", "town", "--thresholds-out", "t.json", "-q")
    assert list(read_thresholds(tmp_path / "t.json")) == ["Dog"]


def test_a_clip_has_a_score_of_every_label_not_only_of_those_that_are_shown(write_wav: WriteWav) -> None:
    tagger = Tagger(resolve_model(), options=EngineOptions(device="cpu", engine="onnx"))  # it has 75 labels
    scores, _ = score_clips(tagger, [clip(str(write_wav("a.wav", tone())))])
    assert (scores > 0).all()


def test_a_fold_and_a_source_pick_clips(run_audiotag: RunAudiotag, data: Path) -> None:
    def n_clips(*arguments: str) -> int:
        return int(json.loads(run_audiotag("evaluate", "m.csv", "-f", "json", "-q", *arguments).stdout)["n_clips"])

    assert n_clips("--fold", "2") == 2
    assert n_clips("--source", "zoo") == 3
    assert n_clips("--source", "zoo", "--source", "town") == 5


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["--fold", "7"], 1, "no clip is in fold '7'. Choose among 1, 2"),
        (["--source", "sea"], 1, "no clip is of source sea. Choose among town, zoo"),
        (["--among", "Dogg"], 2, "label 'Dogg': the model does not know it. Did you mean 'Dog'?"),
        (["--among", " ; "], 2, "among: names no label. Write --among 'Dog; Chicken, rooster'"),
        (["--out", "nowhere/x.json"], 1, "x.json: cannot be written: it is a folder, or its folder is missing"),
        (["--thresholds-out", "nowhere/x.json"], 1, "x.json: cannot be written: it is a folder, or its folder is"),
        (["--out", "/dev/full", "-f", "json"], 1, "/dev/full: cannot be written"),
        (["--out", "ev.csv"], 2, "ev.csv: no format has the suffix '.csv'. Add --format, or use one of .html, .json,"),
        (["-f", "xml"], 2, "'xml' is not one of table, json, html"),
        (["--fold", "2", "--source", "town"], 1, "no clip has a label that the model knows"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    run_audiotag: RunAudiotag, data: Path, arguments: list[str], code: int, complaint: str
) -> None:
    ran = run_audiotag("evaluate", "m.csv", "-q", *arguments)
    assert (ran.code, ran.stdout) == (code, "")
    assert complaint in ran.stderr
    assert ran.stderr.startswith("audiotag: error: ")
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--out", "m.csv", "-f", "json"], "m.csv: is an input and would be overwritten"),
        (["--thresholds-out", "m.csv"], "m.csv: is an input and would be overwritten"),
        (["--thresholds-out", "a.wav"], "a.wav: is an input and would be overwritten"),
        (["--out", "e.json", "--thresholds-out", "./e.json"], "e.json: is both --out and --thresholds-out"),
    ],
)
def test_an_output_on_top_of_the_data_or_of_the_other_output_is_refused(
    run_audiotag: RunAudiotag, data: Path, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    before = files()
    ran = run_audiotag("evaluate", "m.csv", *arguments)
    assert (ran.code, ran.stdout) == (2, "")
    assert ran.stderr.startswith(f"audiotag: error: {complaint}")
    assert ran.stderr.count("\n") == 1
    assert files() == before


def test_clips_that_all_cannot_be_read_or_hold_no_sound_are_an_error(
    run_audiotag: RunAudiotag, data: Path, tmp_path: Path, write_wav: WriteWav
) -> None:
    write_wav("empty.wav", np.zeros(0))
    (tmp_path / "m.csv").write_text("path,labels\nbroken.wav,Dog\nmissing.wav,Dog\nempty.wav,Dog\n")
    ran = run_audiotag("evaluate", "m.csv")
    assert ran.code == 1
    assert "none of the clips could be read" in ran.stderr
    assert "empty.wav: holds no sound\n" in ran.stderr
