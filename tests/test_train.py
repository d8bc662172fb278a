"""Training end to end on synthetic sounds: it learns, it resumes exactly, and leaves a whole model folder."""

from __future__ import annotations

import json
import logging
import math
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import scipy.special
import soundfile
import torch
from conftest import Ran

from audiotag.config import ModelConfig, TrainConfig
from audiotag.convert import CHECKPOINT_FORMAT
from audiotag.errors import CheckpointError, DataError, ExitCode, OutputError
from audiotag.frontend import LogMel, WindowLogMel
from audiotag.model_folder import open_model_folder, sha256_of
from audiotag.network import AudioRepInceptionNeXt
from audiotag.options import EngineOptions
from audiotag.tagger import Tagger
from audiotag.training.auxiliary import join_outputs
from audiotag.training.batches import load, split
from audiotag.training.checkpoint import CHECKPOINT_VERSION, load_checkpoint
from audiotag.training.damage import KINDS
from audiotag.training.dataset import LabelledClip, read_dataset
from audiotag.training.evaluation import Evaluation
from audiotag.training.measuring import measure
from audiotag.training.places import BEST_CHECKPOINT, LAST_CHECKPOINT, own_work_folder, work_folder
from audiotag.training.recipe import model_config
from audiotag.training.refit import refit
from audiotag.training.scoring import score_clips
from audiotag.training.teacher import Teacher
from audiotag.training.train import train
from audiotag.training.trainer import Progress, Trainer, learning_rate
from audiotag.training.validation import cut

RECIPE = TrainConfig(
    width=4, depths=(1, 1, 1, 1), steps=90, batch_size=12, validate_every=30, warmup_steps=5, learning_rate=5e-3,
    min_clips=3, min_groups=1, fold="1", ema_decay=0.9, mixup_probability=0.2, dropout=0.0, label_smoothing=0.0,
    negatives=0.0, damage_probability=0.2, n_frames=45, auxiliary_min_clips=2,
)  # fmt: skip
RATE = 16000


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three kinds of sound that nobody confuses, eight clips of each; two have a label that is too rare."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    time = np.arange(RATE) / RATE

    def low(_: int) -> np.ndarray:
        return np.sin(2 * np.pi * rng.uniform(150, 250) * time)

    def high(_: int) -> np.ndarray:
        return np.sin(2 * np.pi * rng.uniform(4000, 5000) * time) * (np.sin(2 * np.pi * 8 * time) > 0)

    def hiss(_: int) -> np.ndarray:
        return rng.uniform(-1, 1, RATE)

    rows = ["path,labels,fold"]
    for name, make in (("low", low), ("high", high), ("hiss", hiss)):
        for index in range(8):
            soundfile.write(folder / f"{name}{index}.wav", 0.4 * make(index), RATE)
            rare = ";chirp" if name == "high" and index < 2 else ""
            rows.append(f"{name}{index}.wav,{name}{rare},{1 + index % 2}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder / "manifest.csv"


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    train(data, out, config=RECIPE)
    return out


def test_training_leaves_a_whole_model_folder_with_its_measured_figures(trained: Path) -> None:
    for name in ("config.json", "preprocessor_config.json", "model.safetensors", "onnx/model.onnx",
                 "onnx/model_int8.onnx", "README.md"):  # fmt: skip
        assert (trained / name).stat().st_size > 0, name
    weights = safetensors.torch.load_file(trained / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}, "half the bytes"
    config = open_model_folder(trained).config
    assert config.labels == ("high", "hiss", "low")
    assert config.activation == "sigmoid"
    assert config.metrics["fp32"]["n_clips"] == 12
    assert config.int8_map_loss is not None
    assert config.provenance["recipe"]["steps"] == 90


def measured_on(clips: Sequence[LabelledClip], folder: Path, precision: str) -> Evaluation:
    tagger = Tagger(open_model_folder(folder), options=training_options(precision))
    scores, read = score_clips(tagger, clips)
    return measure(scores, read, tagger.config, n_failed=len(clips) - len(read))


def test_a_trained_model_tells_the_held_out_sounds_apart(trained: Path, data: Path) -> None:
    clips = [clip for clip in read_dataset(data) if clip.fold == "1"]
    measured = measured_on(clips, trained, "fp32")
    assert measured.macro_map > 0.95
    assert measured.n_failed == 0


def test_evaluation_equals_the_figures_in_the_models_config(trained: Path, data: Path) -> None:
    clips = [clip for clip in read_dataset(data) if clip.fold == "1"]
    assert measured_on(clips, trained, "fp32").figures() == open_model_folder(trained).config.metrics["fp32"]


def test_no_figures_of_an_int8_file_are_told_that_export_has_replaced(
    trained: Path, data: Path, tmp_path: Path, run_audiotag: Callable[..., Ran]
) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "model"))
    before = open_model_folder(folder).config
    assert run_audiotag("export", folder, "--int8", "--calibrate", data.parent).code == 0
    config = open_model_folder(folder).config
    assert config.metrics["fp32"] == before.metrics["fp32"]
    assert '"int8' not in json.dumps(config.to_config_dict())
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"| macro mAP | {config.metrics['fp32']['macro_map']:.3f} (" in card
    assert re.search(r"\| silence \| \d+ % \|  \|", card)


def test_a_refit_learns_from_the_held_out_fold_and_keeps_the_figures(trained: Path, data: Path, tmp_path: Path) -> None:
    measured = open_model_folder(trained).config
    made = refit(trained, data, tmp_path / "final", steps=3, learning_rate=1e-4)
    final = open_model_folder(tmp_path / "final")
    assert final.config == made
    assert final.config.metrics["fp32"] == measured.metrics["fp32"]
    assert final.config.provenance["refit"] == {"n_clips": 24, "steps": 3, "learning_rate": 1e-4}
    sizes = {(folder / "model.safetensors").stat().st_size for folder in (trained, tmp_path / "final")}
    assert len(sizes) == 1  # half the bytes, both
    assert "before the last 3 steps" in (tmp_path / "final/README.md").read_text(encoding="utf-8")
    clips = read_dataset(data)
    before, after = (measured_on(clips, folder, "int8") for folder in (trained, tmp_path / "final"))
    assert after.macro_map > 0.95
    assert after.ece != before.ece  # other weights
    learnt, gone_on = (
        load_checkpoint(work_folder(folder) / name)["auxiliary"]
        for folder, name in ((trained, BEST_CHECKPOINT), (tmp_path / "final", LAST_CHECKPOINT))
    )
    assert learnt["head.weight"].shape == (1, 32)  # the chirp
    torch.testing.assert_close(gone_on, learnt, rtol=0, atol=1e-3)


def test_a_refit_hears_as_the_measured_model_does_whatever_the_recipe_is_now(
    trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_audiotag: Callable[..., Ran]
) -> None:
    learnt = []

    def noting_trainer(model: ModelConfig, *given: Any, **named: Any) -> Trainer:
        learnt.append((model.frontend, model.window))
        return Trainer(model, *given, **named)

    monkeypatch.setattr("audiotag.training.refit.Trainer", noting_trainer)
    monkeypatch.setattr("audiotag.training.recipe.HOP", 700)
    monkeypatch.setattr("audiotag.training.recipe.REPEAT_GAP_SECONDS", 0.1)
    out = tmp_path / "final"
    ran = run_audiotag("refit", trained, data, "--out", out, "--steps", "1", "--learning-rate", "1e-9")
    assert (ran.code, ran.stdout) == (0, "")
    assert ran.stderr.endswith(f"audiotag: {out}: learnt from all folds, keeps the figures of {trained}\n")
    measured, final = (open_model_folder(folder).config for folder in (trained, out))
    assert learnt == [(measured.frontend, measured.window)] == [(final.frontend, final.window)]


def test_a_refit_model_is_not_refitted_again_nor_on_other_data(trained: Path, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "manifest.csv"
    other.write_text("".join(data.read_text().splitlines(keepends=True)[:9]))  # lacks two of the labels
    with pytest.raises(DataError, match="other labels"):
        refit(trained, other, tmp_path / "out", steps=1, learning_rate=1e-4)
    refit(trained, data, tmp_path / "final", steps=1, learning_rate=1e-4, resume=True)  # nothing is there yet
    with pytest.raises(DataError, match="all folds already"):
        refit(tmp_path / "final", data, tmp_path / "again", steps=1, learning_rate=1e-4)


def test_a_model_that_another_version_trained_is_not_refitted(trained: Path, data: Path, tmp_path: Path) -> None:
    older = Path(shutil.copytree(trained, tmp_path / "older"))
    config = json.loads((older / "config.json").read_text(encoding="utf-8"))
    config["provenance"]["recipe"]["restart_step"] = 0
    (older / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"its recipe: unknown key 'restart_step'\. Go on with the version"):
        refit(older, data, tmp_path / "out", steps=1, learning_rate=1e-4)
    assert not (tmp_path / "out").exists()


def test_a_model_without_its_checkpoint_is_not_refitted_and_nothing_is_begun(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    alone = Path(shutil.copytree(trained, tmp_path / "alone"))
    with pytest.raises(CheckpointError, match=rf"{BEST_CHECKPOINT}: does not exist"):
        refit(alone, data, tmp_path / "out", steps=1, learning_rate=1e-4)
    assert not work_folder(tmp_path / "out").exists()


def test_a_training_that_begins_with_a_model_knows_what_it_knew(trained: Path, data: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, steps=1, learning_rate=1e-9, n_frames=55)  # other windows than the model's
    model = train(data, tmp_path / "again", config=recipe, start=open_model_folder(trained))
    assert model.metrics["fp32"]["macro_map"] > 0.95
    assert model.provenance["begun_with"] == {"name": trained.name, "sha256": open_model_folder(trained).sha256}
    told = f"began with the weights of the model `{trained.name}`"
    assert told in (tmp_path / "again/README.md").read_text(encoding="utf-8")
    refit(tmp_path / "again", data, tmp_path / "final", steps=1, learning_rate=1e-9)
    assert told in (tmp_path / "final/README.md").read_text(encoding="utf-8")


def interrupted(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@contextmanager
def unfinished(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A training in here takes its steps, and is interrupted before its model is made of them."""
    with monkeypatch.context() as late:
        late.setattr("audiotag.training.train.finish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            yield


def test_resuming_with_another_beginning_is_refused(
    trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, begun = replace(RECIPE, steps=1, damage_probability=0.0), open_model_folder(trained)
    with unfinished(monkeypatch):
        train(data, tmp_path / "begun", config=recipe, start=begun)
    with unfinished(monkeypatch):
        train(data, tmp_path / "new", config=recipe)
    with pytest.raises(CheckpointError, match=rf"other weights\. Give --from the model '{begun.name}' again"):
        train(data, tmp_path / "begun", config=recipe, resume=True)
    with pytest.raises(CheckpointError, match=r"other weights\. Leave out --from"):
        train(data, tmp_path / "new", config=recipe, resume=True, start=begun)
    model = train(data, tmp_path / "begun", config=recipe, resume=True, start=begun)
    assert model.provenance["begun_with"]["sha256"] == begun.sha256


def test_a_model_can_be_taught_by_one_that_was_trained_before(trained: Path, data: Path, tmp_path: Path) -> None:
    wider = replace(RECIPE, steps=2, width=8, damage_probability=0.0)  # the teacher's width does not matter
    model = train(data, tmp_path / "taught", config=wider, teacher=trained)
    sha256 = sha256_of(work_folder(trained) / BEST_CHECKPOINT)
    assert model.provenance["taught_by"] == {"name": trained.name, "sha256": sha256}
    told = f"taught by the scores of the model `{trained.name}`"
    assert told in (tmp_path / "taught/README.md").read_text(encoding="utf-8")


def test_a_taught_model_goes_on_being_taught_as_it_learns_from_all_clips(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, steps=1, damage_probability=0.0)
    taught, teacher = tmp_path / "taught", tmp_path / "teacher"
    train(data, taught, config=recipe, teacher=trained)
    refit(trained, data, teacher, steps=1, learning_rate=1e-9)
    model = refit(taught, data, tmp_path / "final", steps=1, learning_rate=1e-9, teacher=teacher)
    sha256 = sha256_of(work_folder(teacher) / LAST_CHECKPOINT)
    assert model.provenance["refit"]["taught_by"] == {"name": "teacher", "sha256": sha256}
    assert model.provenance["taught_by"]["name"] == trained.name
    first = f"was taught by the model '{trained.name}'. Refit that first, and give the outcome as --teacher"
    for source, given, message in (
        (taught, None, first),
        (taught, trained, "was trained with fold '1'. Train both alike"),
        (trained, teacher, "was not taught by a model. Refit it without --teacher"),
    ):
        with pytest.raises(DataError, match=re.escape(message)):
            refit(source, data, tmp_path / "other", steps=1, learning_rate=1e-9, teacher=given)
    assert not (tmp_path / "other.training").exists()


def test_a_teachers_scores_of_a_window_join_the_labels_that_are_known_and_stand_for_the_others(trained: Path) -> None:
    model = model_config(("high", "hiss", "low"), RECIPE)
    saved = load_checkpoint(work_folder(trained) / BEST_CHECKPOINT)
    network = AudioRepInceptionNeXt(replace(model.network, n_labels=4)).eval()  # the chirp too
    network.load_state_dict(join_outputs(saved["network"], saved["auxiliary"]))
    log_mels = torch.randn(2, 1, model.window.n_frames, model.frontend.n_mels)
    scores = torch.sigmoid(network(log_mels)).detach()
    targets = torch.tensor([[1.0, 0.0, math.nan, 0.0], [math.nan, 1.0, 0.0, 1.0]])
    joined = Teacher(trained, model, replace(RECIPE, teacher_weight=0.25)).join(log_mels, targets)
    expected = torch.where(targets.isnan(), scores, 0.75 * targets + 0.25 * scores)
    torch.testing.assert_close(joined, expected, rtol=0, atol=1e-5)


def test_resuming_with_another_teacher_is_refused(
    trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPE, steps=1, damage_probability=0.0)
    with unfinished(monkeypatch):
        train(data, tmp_path / "taught", config=recipe, teacher=trained)
    with unfinished(monkeypatch):
        train(data, tmp_path / "alone", config=recipe)
    with pytest.raises(CheckpointError, match=rf"another teacher\. Give --teacher the model '{trained.name}' again"):
        train(data, tmp_path / "taught", config=recipe, resume=True)
    with pytest.raises(CheckpointError, match=r"another teacher\. Leave out --teacher"):
        train(data, tmp_path / "alone", config=recipe, resume=True, teacher=trained)
    train(data, tmp_path / "taught", config=recipe, resume=True, teacher=trained)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_frames": 55}, "hears other log-mels or windows than the network to train"),
        ({"fold": "2"}, "was trained with fold '1'"),
        ({"auxiliary_min_clips": 0}, "was trained with auxiliary_min_clips 2"),
    ],
)
def test_who_heard_or_learnt_something_else_is_no_teacher(
    change: dict[str, Any], message: str, trained: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        train(data, tmp_path / "out", config=replace(RECIPE, **change), teacher=trained)
    assert not (tmp_path / "out.training").exists()


def test_a_network_of_another_shape_is_no_beginning(trained: Path, data: Path, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "audiotag", "train", str(data), "--out", str(tmp_path / "out"), "--from", str(trained),
         "--min-clips", "3", "--min-groups", "1", "--fold", "1", "--width", "8"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 1
    *warnings, error = run.stderr.splitlines()
    assert warnings == ["audiotag: warning: labels without 3 clips of 1 groups are not in the model: 'chirp'"]
    assert error == f"audiotag: error: {trained.name}: its width is 4, that of the network to train 8. Make them alike"


def test_a_resumed_training_ends_with_the_same_weights_to_the_bit(data: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, steps=8, validate_every=4, dropout=TrainConfig().dropout)
    assert recipe.dropout
    train_only(data, tmp_path / "whole", recipe)
    with pytest.raises(KeyboardInterrupt):
        train_only(data, tmp_path / "cut", recipe, on_progress=_interrupt_at(4))
    train_only(data, tmp_path / "cut", recipe, resume=True)
    whole, cut = (load_checkpoint(tmp_path / name / LAST_CHECKPOINT) for name in ("whole", "cut"))
    assert whole["step"] == cut["step"] == 8
    for part in ("network", "auxiliary", "unaveraged"):
        assert whole[part].keys() == cut[part].keys() != set()
        assert all(torch.equal(whole[part][name], cut[part][name]) for name in whole[part]), part


def test_a_training_that_ended_at_any_time_can_be_gone_on_with_and_a_finished_one_is_kept(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_audiotag: Callable[..., Ran]
) -> None:
    command = (
        "train", data, "--out", tmp_path / "model", "--width", "4", "--n-frames", "45", "--fold", "1", "--steps", "2",
        "--min-clips", "3", "--min-groups", "1", "--batch-size", "4", "--damage-probability", "0",
    )  # fmt: skip

    with monkeypatch.context() as early:
        early.setattr("audiotag.training.train.Trainer.run", interrupted)
        codes = [run_audiotag(*command, *more).code for more in ((), (), ("--resume",))]
    assert codes == [ExitCode.INTERRUPTED] * 3, "without a checkpoint there is nothing to lose"
    with monkeypatch.context() as late:
        late.setattr("audiotag.training.finish.measure_model", interrupted)
        assert run_audiotag(*command, "--resume").code == ExitCode.INTERRUPTED
    refused = run_audiotag(*command)
    assert refused.code == 1
    assert "model: holds a model or a training already. Choose another folder, or --resume a training" in refused.stderr
    assert run_audiotag(*command, "--resume").code == 0
    assert open_model_folder(tmp_path / "model").config.metrics["fp32"]
    assert run_audiotag(*command, "--resume").code == 1
    shutil.rmtree(work_folder(tmp_path / "model"))
    (tmp_path / "model/README.md").unlink()
    assert run_audiotag(*command, "--resume").code == 1, "it is no training's, but somebody's"


def test_resuming_with_another_recipe_is_refused(data: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, steps=4, validate_every=4)
    train_only(data, tmp_path, recipe)
    with pytest.raises(CheckpointError, match="another recipe"):
        train_only(data, tmp_path, replace(recipe, seed=1), resume=True)


def test_resuming_with_another_front_end_is_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPE, steps=4, validate_every=4)
    train_only(data, tmp_path, recipe)
    monkeypatch.setattr("audiotag.training.recipe.REPEAT_GAP_SECONDS", 0.1)
    with pytest.raises(CheckpointError, match="another recipe"):
        train_only(data, tmp_path, recipe, resume=True)


CHANGES = pytest.mark.parametrize("change", [("low2.wav,low,1", "low2.wav,low,2"), ("hiss7.wav,hiss,2\n", ""),
                                             ("low2.wav,low,", "low2.wav,low;high,")],
                                  ids=["another fold", "one less", "another label"])  # fmt: skip


def changed_copy(data: Path, folder: Path, change: tuple[str, str]) -> Path:
    """The data in another folder, with a line of their manifest changed."""
    manifest = Path(shutil.copytree(data.parent, folder)) / data.name
    assert change[0] in data.read_text()
    manifest.write_text(data.read_text().replace(*change))
    return manifest


@CHANGES
def test_resuming_on_other_clips_is_refused(data: Path, tmp_path: Path, change: tuple[str, str]) -> None:
    recipe = replace(RECIPE, steps=4, validate_every=4, damage_probability=0.0)
    train_only(data, tmp_path / "work", recipe)
    changed = changed_copy(data, tmp_path / "data", change)
    with pytest.raises(CheckpointError, match="is of other clips, or of clips with other labels, folds or groups"):
        train_only(changed, tmp_path / "work", recipe, resume=True)


@CHANGES
def test_who_learnt_from_other_clips_is_no_teacher(
    trained: Path, data: Path, tmp_path: Path, change: tuple[str, str]
) -> None:
    recipe = replace(RECIPE, steps=1, damage_probability=0.0)
    with pytest.raises(DataError, match=f"{re.escape(str(trained))}: was trained on other clips"):
        train(changed_copy(data, tmp_path / "other", change), tmp_path / "out", config=recipe, teacher=trained)


def test_resuming_does_not_ask_for_the_order_of_the_clips_nor_their_place(data: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, steps=1, damage_probability=0.0)
    moved = Path(shutil.copytree(data.parent, tmp_path / "moved")) / data.name
    head, *rows = moved.read_text().splitlines(keepends=True)
    train_only(moved, tmp_path / "work", recipe)
    moved.write_text(head + "".join(reversed(rows)))
    moved = Path(shutil.move(moved.parent, tmp_path / "again")) / data.name
    train_only(moved, tmp_path / "work", recipe, resume=True)


@CHANGES
def test_a_refit_on_other_clips_is_refused(
    trained: Path, data: Path, tmp_path: Path, change: tuple[str, str]
) -> None:
    changed = changed_copy(data, tmp_path / "data", change)
    with pytest.raises(DataError, match=r"has other clips than .* was trained on, or other labels, folds or groups"):
        refit(trained, changed, tmp_path / "out", steps=1, learning_rate=1e-4)
    assert not (tmp_path / "out").exists()


def test_resuming_a_finished_training_changes_nothing(data: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, steps=4, validate_every=4)
    train_only(data, tmp_path, recipe)
    before = load_checkpoint(tmp_path / LAST_CHECKPOINT)
    train_only(data, tmp_path, recipe, resume=True)
    after = load_checkpoint(tmp_path / LAST_CHECKPOINT)
    assert all(torch.equal(before["network"][name], after["network"][name]) for name in before["network"])
    assert before["step"] == after["step"] == 4


def test_two_trainings_do_not_share_a_folder(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    with own_work_folder(out), pytest.raises(OutputError, match="model: another run is writing it"):
        train(data, out, config=RECIPE, on_clip=lambda done, total: pytest.fail("read a clip"))


def test_a_work_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "model"
    with pytest.raises(OutputError, match=r"model\.training: cannot be written: Not a directory"), own_work_folder(out):
        pytest.fail("was made")


@contextmanager
def filled_disk() -> Iterator[Callable[[Progress], None]]:
    """Gives what fills the disk at the first step that is reported; a limit of the size of files stands for it."""
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda _: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, most))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))


def test_a_disk_that_is_full_at_a_checkpoint_is_told_of_and_the_training_goes_on_later(
    data: Path, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, steps=2, validate_every=1)
    with filled_disk() as fill, pytest.raises(OutputError, match="cut: cannot be written: File too large"):
        train_only(data, tmp_path / "cut", recipe, on_progress=fill)
    train_only(data, tmp_path / "cut", recipe, resume=True)
    assert load_checkpoint(tmp_path / "cut" / LAST_CHECKPOINT)["step"] == 2


def test_a_disk_that_is_full_when_the_model_is_written_is_told_of_by_the_models_name(
    data: Path, tmp_path: Path
) -> None:
    with filled_disk() as fill, pytest.raises(OutputError, match="model: cannot be written: File too large"):
        train(data, tmp_path / "model", config=replace(RECIPE, steps=1), on_progress=fill)


def test_an_empty_fold_is_refused_before_training(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"fold '7'. Choose --fold among 1, 2"):
        train(data, tmp_path, config=replace(RECIPE, fold="7"))


@pytest.mark.parametrize("n_samples", [1000, 5000, 11000, 22050])
def test_training_fills_up_a_short_clip_as_tagging_does(n_samples: int) -> None:
    model = model_config(("low",), RECIPE)
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, n_samples).astype(np.float32)
    tagged = WindowLogMel(model.frontend, model.window)([samples])[0, 0]
    log_mel = LogMel(model.frontend)(samples).astype(np.float16)
    (cut_out,) = cut(log_mel, model)
    np.testing.assert_allclose(cut_out, tagged, rtol=0, atol=0.01)


def test_clips_that_are_all_in_the_held_out_fold_are_refused(data: Path, tmp_path: Path) -> None:
    rows = data.read_text().replace(",2\n", ",1\n").splitlines()
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("\n".join([rows[0], *(f"{data.parent}/{row}" for row in rows[1:])]) + "\n")
    with pytest.raises(DataError, match="every readable clip is in fold '1': none is left to learn from"):
        train(manifest, tmp_path / "model", config=RECIPE)


@pytest.mark.parametrize(
    ("fold", "complaint"),
    [("2", "no readable clip of fold '1' has a label that is learnt"),
     ("1", "no readable clip outside fold '1' is labelled 'high', 'hiss', 'low'. Choose another --fold, or raise")],
)  # fmt: skip
def test_a_fold_beside_which_nothing_is_learnt_is_refused_before_any_step(
    data: Path, tmp_path: Path, fold: str, complaint: str
) -> None:
    rows = [row.split(",") for row in data.read_text().splitlines()[1:]]
    kept = [f"{data.parent}/{path},{each if at == fold else ''},{at}" for path, each, at in rows]
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("\n".join(["path,labels,fold", *kept]) + "\n")
    with pytest.raises(DataError, match=complaint):
        train(manifest, tmp_path / "model", config=RECIPE, on_progress=lambda progress: pytest.fail("took a step"))


@pytest.mark.parametrize(
    ("row", "replaced"),
    [("low{},low,2", "low{},low,1"), ("low{},low,2", "nowhere{},low,2")],
    ids=["all held out", "the others missing"],
)  # fmt: skip
def test_a_label_with_nothing_to_learn_from_is_refused_before_any_step(
    data: Path, tmp_path: Path, row: str, replaced: str
) -> None:
    text = data.read_text()
    for index in range(8):
        text = text.replace(row.format(f"{index}.wav"), replaced.format(f"{index}.wav"))
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("path,labels,fold\n" + "\n".join(f"{data.parent}/{line}" for line in text.splitlines()[1:]))
    with pytest.raises(DataError, match="no readable clip outside fold '1' is labelled 'low'"):
        train(manifest, tmp_path / "model", config=RECIPE, on_progress=lambda progress: pytest.fail("took a step"))


def test_a_group_in_the_held_out_fold_and_in_another_is_refused(data: Path, tmp_path: Path) -> None:
    rows = [f"{data.parent}/{row},{row[:3]}{'' if row.startswith('low') else index}"
            for index, row in enumerate(data.read_text().splitlines()[1:])]  # fmt: skip
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("\n".join(["path,labels,fold,group", *rows]) + "\n")
    with pytest.raises(DataError, match=r"groups are in fold '1' and in others: 'low'\. Give each group one fold"):
        train(manifest, tmp_path / "model", config=RECIPE, on_clip=lambda done, total: pytest.fail("read a clip"))


def test_a_loss_that_is_not_finite_ends_the_training_at_once(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the loss of step \d is (nan|inf)\. Train with a lower --learning-rate"):
        train_only(data, tmp_path, replace(RECIPE, learning_rate=1e30))


def test_a_clip_that_cannot_be_read_is_named_once_and_left_out(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "audiotag")
    (tmp_path / "broken.wav").write_text("not audio")
    whole = read_dataset(data)
    broken = replace(whole[0], path=tmp_path / "broken.wav")
    model = model_config(("high", "hiss", "low"), RECIPE)
    loaded = load([broken, *whole], model, RECIPE, cache=tmp_path)
    assert [record.getMessage().count("broken.wav") for record in caplog.records] == [1]
    assert loaded.clips == whole
    assert {len(each) for each in (loaded.log_mels, loaded.targets, *loaded.damaged)} == {len(whole)}


def test_log_mels_are_counted_through_all_kinds_of_damage(data: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    load(read_dataset(data), model_config(("high", "hiss", "low"), RECIPE), RECIPE, cache=tmp_path,
         on_clip=lambda done, total: told.append((done, total)))  # fmt: skip
    n_clips = len(read_dataset(data))
    assert told == [(done, told[0][1]) for done in range(1, told[0][1] + 1)]
    assert told[0][1] == n_clips * (1 + len(KINDS))


def test_a_training_that_left_clips_out_does_not_end_with_0(
    data: Path, tmp_path: Path, run_audiotag: Callable[..., Ran]
) -> None:
    rows = [f"{data.parent}/{row}" for row in data.read_text().splitlines()[1:]]
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("\n".join(["path,labels,fold", *rows, "nowhere.wav,low,1"]))
    ran = run_audiotag(
        "train", manifest, "--out", tmp_path / "model", "--width", "4", "--n-frames", "45", "--fold", "1",
        "--steps", "1", "--min-clips", "3", "--min-groups", "1", "--batch-size", "4", "--damage-probability", "0",
    )  # fmt: skip
    assert ran.code == ExitCode.SOME_FAILED
    assert "audiotag: warning: 1 of 25 clips could not be read, and were left out" in ran.stderr
    refitted = run_audiotag("refit", tmp_path / "model", manifest, "--out", tmp_path / "final", "--steps", "1")
    assert refitted.code == ExitCode.SOME_FAILED


def test_a_model_tells_of_the_clips_that_could_be_read_only(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "audiotag")
    rows = [f"{data.parent}/{row},zoo" for row in data.read_text().splitlines()[1:]]
    rows += ["nowhere.wav,low,1,sea", "neither.wav,low,2,sea"]
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("\n".join(["path,labels,fold,source", *rows]) + "\n")
    recipe = replace(RECIPE, steps=1, damage_probability=0.0)
    model = train(manifest, tmp_path / "model", config=recipe)
    refitted = refit(tmp_path / "model", manifest, tmp_path / "final", steps=1, learning_rate=1e-9)
    for made in (model.provenance, refitted.provenance):
        assert (made["n_clips"], made["n_clips_held_out"], made["n_clips_of_label"]["low"]) == (24, 12, 8)
        assert made["n_clips_unreadable"] == 2
    for folder in ("model", "final"):
        assert "sea" not in (tmp_path / folder / "CREDITS.csv").read_text()
    assert sum("nowhere.wav" in record.getMessage() for record in caplog.records) == 2, "once in each training"


def test_what_cannot_be_trained_is_refused_before_any_clip_is_read(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="learning_rate must be positive, not nan"):
        replace(RECIPE, learning_rate=float("nan"))
    with pytest.raises(DataError, match=r"n_mels .* out of all proportion\. Choose a smaller --width"):
        train(data, tmp_path / "out", config=replace(RECIPE, n_mels=2000),
              on_clip=lambda done, total: pytest.fail("read a clip"))  # fmt: skip
    with pytest.raises(DataError, match="fold '7'"):
        train(data, tmp_path / "out", config=replace(RECIPE, fold="7"),
              on_clip=lambda done, total: pytest.fail("read a clip"))  # fmt: skip
    (tmp_path / "file").touch()
    run = subprocess.run(
        [sys.executable, "-m", "audiotag", "train", str(data), "--out", str(tmp_path / "file")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 1
    assert "file: is a file, but a model is a folder" in run.stderr


def test_a_model_is_not_written_among_the_clips(run_audiotag: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    refused = run_audiotag("train", tmp_path / "clips", "--out", tmp_path / "clips")
    assert (refused.code, refused.stdout) == (1, "")
    assert "clips: is the folder of the clips. Choose another folder for the model" in refused.stderr


def test_what_is_not_known_of_a_window_teaches_nothing_and_the_rest_asks_for_no_certainty() -> None:
    trainer = Trainer.__new__(Trainer)
    trainer.config = replace(RECIPE, label_smoothing=0.2)
    loss = trainer._loss(torch.tensor([[0.5, -1.0], [2.0, 3.0]]), torch.tensor([[1.0, torch.nan], [0.0, 1.0]]))
    scores, wanted = scipy.special.expit([0.5, 2.0, 3.0]), np.array([0.9, 0.1, 0.9])
    assert loss.item() == pytest.approx(-np.sum(wanted * np.log(scores) + (1 - wanted) * np.log(1 - scores)) / 2)


def test_the_learning_rate_rises_evenly_and_then_falls_along_a_cosine_to_nothing() -> None:
    recipe = replace(RECIPE, steps=110, warmup_steps=10, learning_rate=2.0)
    rates = np.array([learning_rate(step, recipe) for step in range(110)])
    np.testing.assert_allclose(rates[:10], 0.2 * np.arange(1, 11))
    np.testing.assert_allclose(rates[10:], 1 + np.cos(np.pi * np.arange(100) / 100), atol=1e-12)


def test_early_stopping_ends_when_validation_gets_no_better(data: Path, tmp_path: Path) -> None:
    steps: list[int] = []
    recipe = replace(RECIPE, steps=40, validate_every=2, patience=1, learning_rate=1e-9)
    train_only(data, tmp_path, recipe, on_progress=lambda progress: steps.append(progress.step))
    assert max(steps) < 40
    assert steps == list(range(1, max(steps) + 1)), "each step is told of"


def training_options(precision: str) -> EngineOptions:
    return EngineOptions(device="cpu", engine="onnx", precision=precision)  # type: ignore[arg-type]


def _interrupt_at(step: int) -> Callable[[Progress], None]:
    def interrupt(progress: Progress) -> None:
        if progress.step == step:
            raise KeyboardInterrupt

    return interrupt


def train_only(
    data: Path,
    work: Path,
    recipe: TrainConfig,
    *,
    resume: bool = False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """The training without what follows it."""
    work.mkdir(exist_ok=True)
    clips = read_dataset(data)
    model = model_config(("high", "hiss", "low"), recipe)
    learning, held_out = split(load(clips, model, recipe, cache=work.parent / "cache"), recipe.fold)
    Trainer(model, recipe, learning, held_out, work, on_progress).run(resume=resume)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "does not exist"), (b"", "is truncated"), (b"PK\3\4 and no more", "is truncated")],
    ids=["none", "empty", "cut"],
)  # fmt: skip
def test_a_checkpoint_that_cannot_be_read_says_why(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / LAST_CHECKPOINT
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


def test_a_checkpoint_of_another_version_is_not_gone_on_with(tmp_path: Path) -> None:
    torch.save({"format": CHECKPOINT_FORMAT, "version": CHECKPOINT_VERSION + 1}, tmp_path / LAST_CHECKPOINT)
    with pytest.raises(CheckpointError, match="was written by another version of audiotag"):
        load_checkpoint(tmp_path / LAST_CHECKPOINT)
