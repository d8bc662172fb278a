"""The program as a whole: help, version, usage errors, exit codes, and what they do not import."""

from __future__ import annotations

import ast
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from conftest import Ran

import audiotag
from audiotag.cli.batch import batch
from audiotag.cli.events import events
from audiotag.cli.predict import predict
from audiotag.cli.report import report
from audiotag.cli.running import RunOptions
from audiotag.cli.tagging import InputOptions
from audiotag.cli.train import train
from audiotag.config import TrainConfig
from audiotag.options import EngineOptions, EventOptions, TagOptions

# What costs time to import; nothing that only talks needs any of it.
HEAVY = ("torch", "onnxruntime", "numpy", "scipy", "soundfile", "soxr", "av", "huggingface_hub", "rich")

COMMANDS = ("predict", "batch", "events", "report", "evaluate")
HELPS = [["--help"], *([name, "--help"] for name in COMMANDS), ["doctor", "-h"]]

_IMPORTS_PROBE = """
import json, sys
from audiotag.cli import main
sys.argv = ["audiotag", *json.loads(sys.argv[1])]
try:
    main()
finally:
    print("HEAVY", json.dumps([name for name in json.loads(sys.stdin.read()) if name in sys.modules]), file=sys.stderr)
"""

_WITHOUT_TORCH = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "onnx", "safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from audiotag.cli import main
main()
"""


def run_probe(*arguments: str, environment: dict[str, str] | None = None) -> tuple[int, str, str, list[str]]:
    """Exit code, stdout, stderr and the heavy packages that were imported."""
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTS_PROBE, json.dumps(arguments)],
        input=json.dumps(HEAVY), capture_output=True, text=True, timeout=60, env={**os.environ, **(environment or {})},
    )  # fmt: skip
    before, _, after = done.stderr.partition("HEAVY ")
    heavy, _, traceback = after.partition("\n")
    return done.returncode, done.stdout, before + traceback, json.loads(heavy)


NOT_OF_TAGS = {"events"}
NOT_OF_EVENTS = {"events", "windows", "aggregate", "top_k", "max_windows"}


@pytest.mark.parametrize(("command", "record", "missing"), [
    (predict, TagOptions, NOT_OF_TAGS), (predict, EngineOptions, set()),
    (batch, TagOptions, NOT_OF_TAGS), (batch, EngineOptions, set()),
    (events, TagOptions, NOT_OF_EVENTS), (events, EngineOptions, set()), (events, EventOptions, set()),
    (report, TagOptions, NOT_OF_EVENTS), (report, EngineOptions, set()), (report, EventOptions, set()),
])  # fmt: skip
def test_the_command_line_has_the_library_s_defaults(command: Any, record: Any, missing: set[str]) -> None:
    shown = {name: parameter.default for name, parameter in inspect.signature(command).parameters.items()}
    library = {field.name: field.default for field in fields(record) if field.name not in missing}
    found = {name: tuple(shown[name]) if isinstance(shown[name], list) else shown[name] for name in library}
    assert found == library
    assert missing.isdisjoint(shown)


@pytest.mark.parametrize("command", [batch, events, predict, report, train])
def test_every_option_of_a_command_is_a_field_of_a_record_or_is_read_by_the_command(command: Any) -> None:
    """Records take their fields from a command's options by name: a misspelt one would be shown and do nothing."""
    records = (TagOptions, EventOptions, EngineOptions, InputOptions, RunOptions, TrainConfig)
    known = {field.name for record in records for field in fields(record)}
    (definition,) = ast.parse(inspect.getsource(command)).body
    read = {node.id for node in ast.walk(definition) if isinstance(node, ast.Name)}
    assert set(inspect.signature(command).parameters) - known - read == set()


@pytest.mark.parametrize("arguments", HELPS)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code, stdout, stderr, heavy = run_probe(*arguments)
    assert (code, stderr, heavy) == (0, "", [])
    assert stdout.lstrip().startswith("Usage: audiotag")
    assert "Example" in stdout


def test_at_80_columns_every_command_is_told_whole_and_every_help_has_an_example(
    run_audiotag: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    def helped(*names: str) -> str:
        return run_audiotag(*names, "--help").stdout

    def commands(text: str) -> list[str]:
        return [line.split()[0] for line in text.partition("Commands:\n")[2].splitlines()]

    whole, of_models = helped(), helped("models")
    assert all("..." not in text.partition("Commands:")[2] for text in (whole, of_models))
    named = [*([name] for name in commands(whole)), *(["models", name] for name in commands(of_models))]
    for text in (whole, *(helped(*names) for names in named)):
        assert "Example: audiotag " in text
        assert "range>" not in text
        assert "[[" not in text


@pytest.mark.parametrize(
    ("command", "takes_it"), [("predict", True), ("batch", True), ("events", True), ("report", False)]
)
def test_audio_on_stdin_is_told_of_where_it_is_taken(
    run_audiotag: Callable[..., Ran], command: str, takes_it: bool
) -> None:
    assert ("audio on stdin" in " ".join(run_audiotag(command, "--help").stdout.split())) == takes_it


def test_version_imports_nothing_heavy() -> None:
    assert run_probe("--version") == (0, f"audiotag {audiotag.__version__}\n", "", [])


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "clips", "--out", "model"],
        ["refit", "weights", "clips", "--out", "model"],
        ["fuse", "checkpoint.pyth", "--out", "model"],
        ["export", "weights"],
    ],
)
def test_what_needs_torch_says_what_to_install(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "weights").symlink_to(Path(__file__).parents[1] / "weights" / "default")
    (tmp_path / "clips").mkdir()
    (tmp_path / "checkpoint.pyth").touch()
    command = [sys.executable, "-c", _WITHOUT_TORCH, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "is not installed, and this command needs it. pip install 'audiotag-cli[torch]'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["predict"], "Missing argument 'INPUT'"),
        (["predict", "a.wav", "--top-k", "many"], "Invalid value for '--top-k'"),
        (["predict", "a.wav", "--format", "yaml"], "'yaml' is not one of"),
        (["predict", "a.wav", "--start", "1:99"], "'1:99' is not a time"),
        (["predict", "a.wav", "-t", "0,3"], "'0,3' is not a score; write a number from 0 to 1"),
        (["predict", "a.wav", "-t", "30"], "'30' is not a score; write a number from 0 to 1"),
        (["predict", "a.wav", "--out", "tags"], "tags: has no suffix to tell the format. Add --format"),
        (["train", "clips", "--out", "m", "--mixup-probability", "1"], "mixup_probability must be 0 or more and less"),
        (["predict", "a.wav", "--start", "soon"], "'soon' is not a time"),
        (["predict", "a.wav", "--duration", "inf"], "'inf' is not a time"),
        (["predict", "a.wav", "--aggregate", "median"], "'median' is not one of mean, max"),
        (["predict", "a.wav", "--device", "tpu"], "device must be auto, cpu, cuda, cuda:N or mps, not 'tpu'"),
        (["predict", "a.wav", "--device", "cuda:256"], "mps, not 'cuda:256'"),  # torch takes it for cuda:0
        (["predict", "a.wav", "--device", "cuda", "--precision", "int8"], "int8 runs on the CPU"),
        (["predict", "a.wav", "--device", "mps", "--engine", "onnx"], "engine onnx runs on the CPU only"),
        (["predict", "a.wav", "--hop", "1e305"], "hop must be more than 0 seconds and at most 1e+09, not 1e+305"),
        (["predict", "a.wav", "--start", "1e305"], "start must be 0 to 1e+09 seconds, not 1e+305"),
        (["predict", "a.wav", "--hop", "1", "--max-windows", "3"], "max-windows"),
        (["predict", "a.wav", "--quiet", "--verbose"], "quiet and verbose"),
        (["predict", "a.wav", "--thresholds", "missing.json"], "missing.json: cannot be read"),
        (["evaluate", "data", "--format", "xml"], "'xml' is not one of table, json, html"),
        (["evaluate", "data", "--among", ";"], "among: names no label"),
        (["batch", "a.wav", ""], "an input's name is empty"),
        (["batch", "a.wav", "-", "--files-from", "-"], "stdin cannot be both a list of files and audio"),
        (["predikt", "a.wav"], "No such command 'predikt'"),
        (["predict", "a.wav", "--colour"], "No such option"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_usage_error_is_one_line_and_exit_2_and_imports_nothing_heavy(arguments: list[str], complaint: str) -> None:
    code, stdout, stderr, heavy = run_probe(*arguments)
    assert (code, stdout, heavy) == (2, "", [])
    assert complaint in stderr
    assert stderr.startswith("audiotag: error: ")
    assert stderr.strip().count("\n") == 0


def test_an_unknown_model_is_exit_1_and_imports_nothing_heavy(tmp_path: Path) -> None:
    code, stdout, stderr, heavy = run_probe("predict", "a.wav", "--model", str(tmp_path / "nowhere"), "--offline")
    assert (code, stdout) == (1, "")
    assert stderr.startswith("audiotag: error: ")
    assert set(heavy) <= {"huggingface_hub"}


def test_an_unknown_label_is_exit_2_with_the_nearest_name(tiny_model_folder: Path) -> None:
    code, stdout, stderr, heavy = run_probe(
        "predict", "a.wav", "--model", str(tiny_model_folder), "--include-labels", "Sirn"
    )
    assert (code, stdout, heavy) == (2, "", [])
    assert stderr.strip() == "audiotag: error: label 'Sirn': the model does not know it. Did you mean 'Siren'?"


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["predict", "empty"], 4, "there is no audio or video in what was named"),
        (["predict", "a.wav", "--out", "nowhere/tags.csv"], 1, "No such file or directory. Make its folder first"),
        (["predict", "a.wav", "--out", "tags.docx"], 2, "no format has the suffix '.docx'"),
    ],
    ids=["no inputs", "unwritable output", "unknown suffix"],
)
def test_what_cannot_become_a_run_is_refused_before_anything_heavy(
    arguments: list[str], code: int, complaint: str, tiny_model_folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    ended, stdout, stderr, heavy = run_probe(*arguments, environment={"AUDIOTAG_MODEL": str(tiny_model_folder)})
    assert (ended, stdout, heavy) == (code, "", [])
    assert complaint in stderr


def test_python_m_audiotag_is_the_same_program() -> None:
    done = subprocess.run([sys.executable, "-m", "audiotag", "-V"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"audiotag {audiotag.__version__}\n")


def test_no_command_shows_the_help_and_is_a_usage_error() -> None:
    code, _, stderr, heavy = run_probe()
    assert (code, heavy) == (2, [])
    assert "Usage: audiotag" in stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    code, _, stderr, _ = run_probe("predict", "a.wav", "--model", str(tmp_path / "nowhere"), "--offline", "--debug")
    assert code == 1
    assert "Traceback (most recent call last)" in stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_offers_the_choices(shell: str) -> None:
    words = "audiotag predict --precision "
    asked = {"_AUDIOTAG_COMPLETE": f"complete_{shell}", "COMP_WORDS": words, "COMP_CWORD": "3",
             "_TYPER_COMPLETE_ARGS": words, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}  # fmt: skip
    _, stdout, stderr, heavy = run_probe(environment=asked)
    assert heavy == []
    assert "int8" in stdout, stderr


SCRIPT = str(Path(sys.executable).with_name("audiotag"))


@pytest.mark.parametrize("command", [[sys.executable, "-m", "audiotag"], [SCRIPT]])
def test_an_interrupt_while_the_program_is_imported_is_one_line(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ran = subprocess.run([*command, "--version"], env=environment, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "audiotag: error: interrupted\n")
