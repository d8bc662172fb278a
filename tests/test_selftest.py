"""The self-test: engines that agree pass, an engine that does not is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Ran, tone

from audiotag.model_folder import ONNX, ONNX_INT8, open_model_folder
from audiotag.selftest import ANSWERS_FILE, Comparison, compare, record_answers, synthetic_clips

RunAudiotag = Callable[..., Ran]


@pytest.fixture
def own_folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may change."""
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "own"))


def test_synthetic_clips_are_the_same_on_every_machine() -> None:
    clips = synthetic_clips(8000, 1.0)
    assert clips["tone"][:3] == pytest.approx([0.0, 0.169369, 0.318712], abs=1e-6)
    assert clips["noise"][:3] == pytest.approx([0.029288, 0.129114, 0.061658], abs=1e-6)
    assert {len(samples) for name, samples in clips.items() if name != "short"} == {8000}
    assert all(samples.dtype == np.float32 and np.abs(samples).max() < 1 for samples in clips.values())


def test_the_engines_of_a_sound_model_agree(tiny_model_folder: Path) -> None:
    found = list(compare(open_model_folder(tiny_model_folder)))
    assert [each.engine for each in found] == [
        "onnx cpu fp32", "onnx cpu int8", "torch cpu fp32", "onnx cpu fp32 one by one",
    ]  # fmt: skip
    assert all(each.is_within for each in found), found


def test_an_engine_with_other_answers_is_found_out(own_folder: Path) -> None:
    shutil.copy(own_folder / ONNX_INT8, own_folder / ONNX)
    found = {each.engine: each for each in compare(open_model_folder(own_folder))}
    assert not found["torch cpu fp32"].is_within


def test_recorded_answers_are_met_and_missed(own_folder: Path) -> None:
    folder = open_model_folder(own_folder)
    record_answers(folder)
    assert all(each.is_within and each.reference == "the recorded answers" for each in compare(folder))
    answers = json.loads((own_folder / ANSWERS_FILE).read_text())
    answers["siren"]["Dog"] += 0.001
    (own_folder / ANSWERS_FILE).write_text(json.dumps(answers))
    assert not next(compare(folder)).is_within


def test_no_answer_is_not_within() -> None:
    assert not Comparison("onnx cpu fp32", "the recorded answers", None, 1e-5, "it broke").is_within


def test_doctor_names_every_part_of_the_machine(run_audiotag: RunAudiotag, tiny_model_folder: Path) -> None:
    ran = run_audiotag("doctor", "--model", tiny_model_folder, "-f", "json")
    checks = {check["what"]: check for check in json.loads(ran.stdout)["checks"]}
    assert {"audiotag", "python", "numpy", "soundfile", "av", "onnxruntime", "device cpu", "cache"} <= set(checks)
    assert "libsndfile" in checks["soundfile"]["detail"]
    assert "3 labels, fp32, int8, torch" in checks["model"]["detail"]
    assert (ran.code, ran.stderr) == (0, "")


def test_doctor_without_a_model_says_so_and_fails(run_audiotag: RunAudiotag, tmp_path: Path) -> None:
    ran = run_audiotag("doctor", "--model", tmp_path)
    assert ran.code == 1
    assert ran.stdout.splitlines()[-1].startswith("!!  model ")


def test_doctor_selftest_ends_well(run_audiotag: RunAudiotag, tiny_model_folder: Path) -> None:
    ran = run_audiotag("doctor", "--selftest", "--model", tiny_model_folder)
    assert ran.code == 0
    assert [line[:2] for line in ran.stdout.splitlines()] == ["ok"] * 4


def test_doctor_tries_a_file(run_audiotag: RunAudiotag, write_wav: Callable[..., Path], tmp_path: Path) -> None:
    ran = run_audiotag("doctor", write_wav("a.wav", tone()))
    assert ran.code == 0
    assert ran.stdout.splitlines()[:2] == [
        "ok  open               soundfile: WAV, FLOAT", "ok  holds              1.000 s, 8000 Hz, 1 channels",
    ]  # fmt: skip
    (tmp_path / "broken.wav").write_bytes(b"RIFF, but not really")
    ran = run_audiotag("doctor", tmp_path / "broken.wav")
    assert ran.code == 1
    assert ran.stdout.startswith("!!  open ")


def test_bench_shows_every_stage_and_engine(
    run_audiotag: RunAudiotag, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audiotag.benchmark.SECONDS_PER_MEASURE", 0.0)
    monkeypatch.setattr("audiotag.benchmark.CLIPS_OF_A_RUN", 2)
    ran = run_audiotag("bench", "--model", tiny_model_folder, "-f", "json")
    measures = json.loads(ran.stdout)["measures"]
    assert [measure["stage"] for measure in measures] == [
        "matrix product", "decode", "decode, resample", "log-mel", "engine onnx", "engine onnx", "end to end",
        "engine onnx", "engine onnx", "end to end", "engine torch", "engine torch",
    ]  # fmt: skip
    assert all(measure["x_real_time"] > 0 for measure in measures)
    table = run_audiotag("bench", "--model", tiny_model_folder).stdout.splitlines()
    assert table[0].split() [:3] == ["stage", "ms", "a"]
    assert len(table) == len(measures) + 1
