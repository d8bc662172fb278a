"""The self-test: engines that agree pass, an engine that does not is named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure_speed
import numpy as np
import pytest
from conftest import Ran, tone
from pages import END, begin_of

import audiotag
from audiotag.benchmark import Measure
from audiotag.errors import EXTRA_OF_PACKAGE
from audiotag.machine import core_count
from audiotag.model_folder import ONNX, ONNX_INT8, WEIGHTS, open_model_folder
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


@pytest.mark.parametrize("recorded", ["{", "[1]", '{"tone": 1}', '{"tone": {"Dog": "high"}}'])
def test_recorded_answers_that_are_none_are_one_line(
    own_folder: Path, run_audiotag: RunAudiotag, recorded: str
) -> None:
    (own_folder / ANSWERS_FILE).write_text(recorded)
    ran = run_audiotag("doctor", "--selftest", "--model", own_folder)
    assert (ran.code, ran.stdout, ran.stderr.count("\n")) == (1, "", 1)
    assert f"{ANSWERS_FILE}: holds no answers of a self-test: " in ran.stderr


@pytest.mark.parametrize("arguments", [[], ["--record"]])
def test_a_model_that_no_engine_can_run_says_what_is_missing(
    own_folder: Path, run_audiotag: RunAudiotag, arguments: list[str]
) -> None:
    for name in (ONNX, ONNX_INT8, WEIGHTS):
        (own_folder / name).unlink()
    ran = run_audiotag("doctor", "--selftest", *arguments, "--model", own_folder)
    assert ran.code == 1
    assert "onnx/model.onnx is missing. Run `audiotag export " in ran.stderr
    assert "unexpected" not in ran.stderr


def test_no_answer_is_not_within() -> None:
    assert not Comparison("onnx cpu fp32", "the recorded answers", None, 1e-5, "it broke").is_within


def test_doctor_names_every_part_of_the_machine(run_audiotag: RunAudiotag, tiny_model_folder: Path) -> None:
    ran = run_audiotag("doctor", "--model", tiny_model_folder, "-f", "json")
    checks = {check["what"]: check for check in json.loads(ran.stdout)["checks"]}
    assert {"audiotag", "python", "numpy", "soundfile", "av", "onnxruntime", "device cpu", "cache"} <= set(checks)
    assert set(EXTRA_OF_PACKAGE) <= set(checks)
    assert "libsndfile" in checks["soundfile"]["detail"]
    assert "3 labels, fp32, int8, torch" in checks["model"]["detail"]
    assert (ran.code, ran.stderr) == (0, "")


def test_doctor_without_a_model_says_so_and_fails(run_audiotag: RunAudiotag, tmp_path: Path) -> None:
    ran = run_audiotag("doctor", "--model", tmp_path)
    assert ran.code == 1
    assert ran.stdout.splitlines()[-1].startswith("!!  model ")


def test_doctor_and_export_show_the_name_of_a_stranger_s_folder_as_text(
    run_audiotag: RunAudiotag, tiny_model_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model_folder, tmp_path / "\x1b[31mred")
    looked = run_audiotag("doctor", "--model", tmp_path / "\x1b[31mred")
    verified = run_audiotag("export", "--verify", tmp_path / "\x1b[31mred")
    assert (looked.code, verified.code) == (0, 0)
    assert "\\x1b[31mred" in looked.stdout
    assert "\\x1b[31mred: ONNX Runtime follows" in verified.stderr
    assert "\x1b" not in looked.stdout + verified.stderr


def test_doctor_says_which_package_is_missing_and_goes_on(
    run_audiotag: RunAudiotag, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    ran = run_audiotag("doctor", "--model", tiny_model_folder)
    assert (ran.code, ran.stderr) == (1, "")
    assert "!!  huggingface_hub    not installed" in ran.stdout
    assert ran.stdout.splitlines()[-1].startswith("ok  model ")


def test_a_torch_that_does_not_import_is_named_and_the_cpu_works_without_it(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('libcudart.so.12: cannot open shared object')")
    places = [str(tmp_path), str(Path(audiotag.__file__).parents[1])]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
        command = [sys.executable, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    done = run("-m", "audiotag", "doctor", "--model", str(tiny_model_folder))
    assert (done.returncode, done.stderr) == (1, "")
    assert "--  device cuda        engine torch: torch does not import: libcudart.so.12" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("ok  model ")
    choice = "tagger.has_gpu = lambda: True; print(tagger.choose_device(tagger.EngineOptions()))"
    done = run("-c", f"from audiotag import tagger; {choice}")
    assert done.stdout == "cpu\n"
    assert done.stderr.startswith("the CPU is used: engine torch: torch does not import: libcudart.so.12")


def test_doctor_does_one_thing_at_a_time(run_audiotag: RunAudiotag) -> None:
    ran = run_audiotag("doctor", "--selftest", "a.wav")
    assert (ran.code, ran.stderr.count("\n")) == (2, 1)
    assert "Leave out FILE, or --selftest" in ran.stderr
    ran = run_audiotag("doctor", "--record")
    assert (ran.code, ran.stderr.count("\n")) == (2, 1)
    assert "keeps the answers of a self-test. Add --selftest" in ran.stderr


def test_doctor_selftest_ends_well(run_audiotag: RunAudiotag, tiny_model_folder: Path) -> None:
    ran = run_audiotag("doctor", "--selftest", "--model", tiny_model_folder)
    assert ran.code == 0
    assert [line[:2] for line in ran.stdout.splitlines()] == ["ok"] * 4


def test_doctor_selftest_names_an_engine_that_does_not_work_and_goes_on(
    own_folder: Path, run_audiotag: RunAudiotag
) -> None:
    (own_folder / ONNX_INT8).write_bytes(b"no graph")
    ran = run_audiotag("doctor", "--selftest", "--model", own_folder)
    assert (ran.code, ran.stderr) == (1, "")
    assert [line[:2] for line in ran.stdout.splitlines()] == ["ok", "!!", "ok", "ok"]
    assert f"!!  onnx cpu int8      {own_folder / ONNX_INT8}: " in ran.stdout


def test_the_embedded_model_gives_the_answers_recorded_beside_it(run_audiotag: RunAudiotag) -> None:
    ran = run_audiotag("doctor", "--selftest")
    assert ran.code == 0
    assert all(line.startswith("ok") and "recorded answers" in line for line in ran.stdout.splitlines())


def test_doctor_tries_a_file(run_audiotag: RunAudiotag, write_wav: Callable[..., Path], tmp_path: Path) -> None:
    ran = run_audiotag("doctor", write_wav("a.wav", tone()))
    assert ran.code == 0
    assert ran.stdout.splitlines()[:2] == [
        "ok  open               soundfile: WAV, FLOAT", "ok  holds              1.000 s, 8000 Hz, 1 channel",
    ]  # fmt: skip
    assert ran.stdout.splitlines()[3].startswith("ok  decode             1.000 s, peak -6.0 dB, ")
    (tmp_path / "a.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:-16000])
    ran = run_audiotag("doctor", tmp_path / "a.wav")
    assert ran.code == 1
    assert ran.stdout.splitlines()[3].startswith("!!  decode             0.500 s, peak -6.0 dB, ")
    assert ran.stdout.endswith("; cut short: 16000 bytes are missing\n")
    (tmp_path / "broken.wav").write_bytes(b"RIFF, but not really")
    ran = run_audiotag("doctor", tmp_path / "broken.wav")
    assert ran.code == 1
    assert ran.stdout.startswith("!!  open ")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark that measures next to nothing."""
    monkeypatch.setattr("audiotag.benchmark.SECONDS_PER_MEASURE", 0.0)
    monkeypatch.setattr("audiotag.benchmark.MIN_CLIPS", 2)
    monkeypatch.setattr("audiotag.benchmark.MAX_CLIPS", 2)


@pytest.mark.usefixtures("hasty")
def test_bench_measures_every_stage_engine_and_container(run_audiotag: RunAudiotag, tiny_model_folder: Path) -> None:
    told = json.loads(run_audiotag("bench", "--model", tiny_model_folder, "-f", "json").stdout)
    by_stage: dict[str, list[dict[str, Any]]] = {}
    for measure in told["measures"]:
        by_stage.setdefault(measure["stage"], []).append(measure)
    assert list(by_stage) == ["matrix product", "decode", "resample", "log-mel", "engine", "end to end"]
    assert [each["container"] for each in by_stage["decode"]] == ["WAV", "FLAC", "Ogg", "MP3"]
    assert [(each["engine"], each["precision"], each["batch_size"]) for each in by_stage["engine"]] == [
        ("onnx", "fp32", 1), ("onnx", "fp32", 8), ("onnx", "int8", 1), ("onnx", "int8", 8),
        ("torch", "fp32", 1), ("torch", "fp32", 4),
    ]  # fmt: skip
    assert [(each["container"], each["precision"]) for each in by_stage["end to end"]] == [
        ("WAV", "fp32"), ("MP3", "fp32"), ("WAV", "int8"), ("MP3", "int8"),
    ]  # fmt: skip
    assert all(measure["x_real_time"] > 0 for measure in told["measures"])
    assert set(told["machine"]) == {"date", "cpu", "cores", "system", "python", "versions"}


def test_a_clip_of_5_s_in_50_ms_is_a_hundred_times_real_time() -> None:
    assert Measure(stage="engine", detail="", milliseconds=50.0).x_real_time == 100


@pytest.mark.usefixtures("hasty")
def test_the_floor_of_a_run_is_the_sum_of_its_parts(run_audiotag: RunAudiotag, tiny_model_folder: Path) -> None:
    told = json.loads(run_audiotag("bench", "--model", tiny_model_folder, "-f", "json").stdout)

    def milliseconds(stage: str, **facts: Any) -> float:
        found = [each for each in told["measures"] if each["stage"] == stage and facts.items() <= each.items()]
        return float(found[-1]["milliseconds"])

    for run in (each for each in told["measures"] if each["stage"] == "end to end"):
        alone = [milliseconds("decode", container=run["container"]), milliseconds("resample"), milliseconds("log-mel")]
        engine = milliseconds("engine", engine="onnx", precision=run["precision"])
        floor = engine + sum(alone) / told["machine"]["cores"]
        assert run["milliseconds"] / floor == pytest.approx(run["floor_ratio"], rel=0.02)
        assert run["share"] == pytest.approx(floor / run["milliseconds"], rel=0.02, abs=0.001)
        assert run["bottleneck"] in ("decode", "resample", "log-mel", "engine")


@pytest.mark.usefixtures("hasty")
def test_bench_prints_a_line_for_each_measure(run_audiotag: RunAudiotag, tiny_model_folder: Path) -> None:
    ran = run_audiotag("bench", "--model", tiny_model_folder)
    head, *lines = ran.stdout.splitlines()
    assert head.split()[:7] == ["stage", "ms", "a", "clip", "x", "real", "time"]
    assert len(lines) == 1 + 4 + 2 + 6 + 4
    assert (ran.code, ran.stderr) == (0, "")


@pytest.mark.usefixtures("hasty")
def test_bench_of_a_start_adds_up_its_parts(run_audiotag: RunAudiotag, tiny_model_folder: Path) -> None:
    told = json.loads(run_audiotag("bench", "--startup", "--model", tiny_model_folder, "-f", "json").stdout)["measures"]
    names = [measure["detail"] for measure in told]
    assert names[0] == "python itself"
    assert {"numpy", "onnxruntime", "model", "first clip"} < set(names)
    assert names[-2:] == ["audiotag predict", "audiotag --help"]
    parts = sum(each["milliseconds"] for each in told if each["stage"] == "startup")
    assert 0.2 < parts / told[-2]["milliseconds"] < 5, "the same work, on a machine that does other work too"


def test_bench_of_a_start_says_what_a_model_lacks_to_begin(own_folder: Path, run_audiotag: RunAudiotag) -> None:
    (own_folder / ONNX).unlink()
    ran = run_audiotag("bench", "--startup", "--model", own_folder, "-f", "json")
    assert (ran.code, ran.stdout, ran.stderr.count("\n")) == (1, "", 1)
    assert "onnx/model.onnx is missing. Run `audiotag export " in ran.stderr


@pytest.mark.usefixtures("hasty")
def test_the_script_writes_a_table_of_both_models_and_the_machine_into_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{begin_of('measure_speed.py')}\nold\n{END}\nafter\n")
    monkeypatch.setattr("sys.argv", ["measure_speed.py", "--quick", "--page", str(page)])
    measure_speed.main()
    printed = capsys.readouterr().out
    assert page.read_text() == f"before\n{begin_of('measure_speed.py')}\n{printed}{END}\nafter\n"
    heading, rule, *rows = [line for line in printed.splitlines() if line.startswith("|")]
    assert heading.count("default") == heading.count("published size") == 2
    assert {row.count("|") for row in [heading, rule, *rows]} == {6}
    assert [row.split(" | ")[0] for row in rows] == [f"| {row.title}" for row in measure_speed.ROWS]
    assert f", {core_count()} cores, " in printed


def test_the_script_s_ratios_are_medians_of_what_was_measured_in_the_same_round() -> None:
    """Twice as slow in the second round, three times in the third: what a ratio compares slows down alike."""
    once = {"WAV": 2.0, "MP3": 4.0, "resample": 1.0, "log-mel": 1.0, "matrix product": 1.0, "fp32": 4.0, "int8": 2.0,
            "eager": 8.0, "WAV fp32": 10.0, "WAV int8": 9.0, "MP3 fp32": 11.0, "MP3 int8": 10.0}  # fmt: skip
    rounds = [{name: factor * time for name, time in once.items()} for factor in (1, 2, 3)]
    cells = {row.title: (row.cell(rounds, "fp32"), row.cell(rounds, "int8")) for row in measure_speed.ROWS}
    assert cells["engine: speed / that of float32"] == ("1.00", "2.00")
    assert cells["engine: speed / that of PyTorch, eager, float32"] == ("2.00", "4.00")
    assert cells["engine: share of the matrix-product rate"] == ("25%", "50%")
    assert cells["WAV: time / the engine's alone"] == ("2.50", "4.50")
    floor = 4.0 + (2.0 + 1.0 + 1.0) / core_count()
    assert cells["WAV: time / its floor"][0] == f"{10.0 / floor:.2f}"


def test_every_other_round_goes_backwards() -> None:
    order: list[str] = []
    work = {name: lambda name=name: order.append(name) or 1.0 for name in "abc"}
    assert measure_speed.rounds_of(work, 3) == [{"a": 1.0, "b": 1.0, "c": 1.0}] * 3
    assert "".join(order) == "abccbaabc"


def test_a_quick_look_makes_no_figures_for_the_readme(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["measure_speed.py", "--quick"])
    with pytest.raises(SystemExit):
        measure_speed.main()
    assert "--page" in capsys.readouterr().err
