"""The best way to call an engine is measured when asked for, kept for this machine only, and changes no score."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Ran, tone

from audiotag import benchmark
from audiotag.errors import OutputError
from audiotag.hub import resolve_model
from audiotag.machine import core_count
from audiotag.model_folder import ModelFolder
from audiotag.options import EngineOptions
from audiotag.tagger import Tagger, open_engine
from audiotag.tuning import Tuning, quickest, recall, remember, tuning_folder

RunAudiotag = Callable[..., Ran]

ON_CPU = EngineOptions(device="cpu", engine="onnx", precision="fp32")


@pytest.fixture
def folder(tiny_model_folder: Path) -> ModelFolder:
    """The tiny model."""
    return resolve_model(str(tiny_model_folder))


@pytest.fixture
def kept(folder: ModelFolder) -> Path:
    """A choice that no rule makes, remembered for the tiny model in float32."""
    return remember(Tuning(batch_size=5, concurrency=3), open_engine(folder, ON_CPU), folder.config)


def test_of_choices_that_differ_by_noise_the_smallest_is_taken() -> None:
    seconds = {Tuning(1, 4): 2.0, Tuning(2, 4): 1.02, Tuning(8, 4): 1.0, Tuning(8, 2): 1.5, Tuning(2, 2): 1.01}
    assert quickest(seconds) == Tuning(2, 2)
    assert quickest({**seconds, Tuning(16, 4): 0.9}) == Tuning(16, 4)


def test_a_run_calls_its_engine_as_it_was_tuned(folder: ModelFolder, kept: Path) -> None:
    engine = Tagger(folder, options=ON_CPU).engine
    assert (engine.batch_size, engine.concurrency) == (5, 3)
    assert kept.parent == tuning_folder()


def test_threads_that_are_asked_for_come_before_those_that_were_found(folder: ModelFolder, kept: Path) -> None:
    engine = open_engine(folder, EngineOptions(device="cpu", engine="onnx", precision="fp32", threads=2))
    assert (engine.batch_size, engine.concurrency) == (5, 2)


@pytest.mark.usefixtures("kept")
def test_what_was_found_elsewhere_or_for_another_engine_is_not_used(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = EngineOptions(device="cpu", engine="onnx", precision="int8")
    assert recall(open_engine(folder, other), folder.config) is None
    monkeypatch.setattr("audiotag.tuning.cpu_name", lambda: "another processor")
    assert recall(open_engine(folder, ON_CPU), folder.config) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"batch_size": 0, "concurrency": 1}'])
def test_a_damaged_note_is_named_and_not_used(
    text: str, folder: ModelFolder, kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept.write_text(text)
    assert open_engine(folder, ON_CPU).concurrency == core_count()
    assert f"{kept}: cannot be read, so it is not used" in caplog.text


@pytest.mark.usefixtures("kept")
def test_scores_do_not_depend_on_it(
    folder: ModelFolder, write_wav: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write_wav(f"{n}.wav", tone(200.0 + 50 * n, seconds=3.0)) for n in range(7)]
    tuned = list(Tagger(folder, options=ON_CPU).tag_many(paths))
    monkeypatch.setenv("AUDIOTAG_CACHE", str(tmp_path / "empty"))
    assert list(Tagger(folder, options=ON_CPU).tag_many(paths)) == tuned


def test_bench_tune_tries_batches_then_fewer_calls_and_keeps_one_of_them(
    run_audiotag: RunAudiotag, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a made-up machine where batches of 4 are best, and a second thread slows the first."""
    monkeypatch.setattr("audiotag.benchmark.core_count", lambda: 4)
    cost = {1: 4.0, 2: 3.0, 4: 1.0, 8: 1.5, 16: 2.0}
    monkeypatch.setattr(
        "audiotag.benchmark.engine_seconds", lambda engine, _, batch_size: cost[batch_size] + 0.1 * engine.concurrency
    )
    told = json.loads(run_audiotag("bench", "--tune", "--model", tiny_model_folder, "-f", "json").stdout)
    tried: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for measure in told["measures"]:
        assert measure["stage"] == "tune"
        tried.setdefault((measure["engine"], measure["precision"]), []).append(measure)
    assert list(tried) == [("onnx", "fp32"), ("onnx", "int8"), ("torch", "fp32")]
    in_threads = [(each["batch_size"], each["concurrency"]) for each in tried["onnx", "int8"]]
    assert in_threads == [(1, 4), (2, 4), (4, 4), (8, 4), (16, 4), (4, 2), (4, 1)]
    assert [each["concurrency"] for each in tried["torch", "fp32"]] == [1] * 5
    chosen = {key: [(each["batch_size"], each["concurrency"]) for each in all_of if each["chosen"]]
              for key, all_of in tried.items()}  # fmt: skip
    assert chosen == {key: [(4, 1)] for key in tried}


def test_a_batch_that_does_not_fit_ends_the_search_for_a_larger_one(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(engine: object, config: object, batch_size: int) -> float:
        if batch_size > 4:
            raise MemoryError
        return 1.0 / batch_size

    monkeypatch.setattr("audiotag.benchmark.engine_seconds", seconds)
    found = [measure.facts for measure in benchmark.tune(folder) if measure.facts["precision"] == "int8"]
    assert [each["batch_size"] for each in found if each["concurrency"] == core_count()] == [1, 2, 4]
    assert next(each["batch_size"] for each in found if each["chosen"]) == 4


def test_tuning_measures_this_machine_and_doctor_says_that_it_did(
    run_audiotag: RunAudiotag, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audiotag.benchmark.SECONDS_PER_MEASURE", 0.0)
    assert "--  tuning" in run_audiotag("doctor").stdout
    ran = run_audiotag("bench", "--tune", "--model", tiny_model_folder)
    assert (ran.code, ran.stderr) == (0, "")
    assert [line.endswith(": remembered") for line in ran.stdout.splitlines()].count(True) == 3
    assert f"ok  tuning             {tuning_folder()}, 3 engines" in run_audiotag("doctor").stdout


def test_a_cache_that_cannot_be_written_is_named(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIOTAG_CACHE", __file__)
    with pytest.raises(OutputError, match=r"cannot be written: .*Set AUDIOTAG_CACHE to another folder"):
        remember(Tuning(1, 1), open_engine(folder, ON_CPU), folder.config)


def test_a_cache_that_may_not_be_entered_holds_nothing_and_doctor_goes_on(
    folder: ModelFolder, run_audiotag: RunAudiotag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbidden = tmp_path / ("x" * 300)  # root may enter every folder; one of this name nobody
    monkeypatch.setenv("AUDIOTAG_CACHE", str(forbidden / "audiotag"))
    monkeypatch.setenv("HF_HUB_CACHE", str(forbidden / "hub"))
    assert open_engine(folder, ON_CPU).batch_size > 0
    lines = run_audiotag("doctor").stdout.splitlines()
    assert [line[:2] for line in lines if line[4:].startswith(("cache", "tuning", "model"))] == ["!!", "--", "ok"]


def test_tuning_and_a_start_are_not_measured_together(run_audiotag: RunAudiotag) -> None:
    ran = run_audiotag("bench", "--tune", "--startup")
    assert ran.code == 2
    assert "tune: measures engines, not a start" in ran.stderr
