"""Every command and every line of Python in the README is run here as it stands.

The two `sh` blocks at its top install the package, so `.ci/run` runs them instead.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import soundfile
from conftest import chirp, noise, tone

README = Path(__file__).parents[1] / "README.md"
SMALL_TRAINING = " --steps 2 --validate-every 2 --warmup-steps 1 --batch-size 2 --min-clips 2 --min-groups 1"
SMALL_NETWORK = " --width 4"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def _commands() -> list[str]:
    return [line[2:] for block in _blocks("console") for line in block.splitlines() if line.startswith("$ ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the README's commands find where they are run."""
    folder = tmp_path_factory.mktemp("readme")
    rate = 16000
    soundfile.write(folder / "street.wav", tone(sample_rate=rate, seconds=3.0), rate)
    soundfile.write(folder / "dawn.mp3", chirp(sample_rate=rate, seconds=3.0), rate)
    clips = [f"my-clips/{label}/{index}.wav" for label in ("Dog", "Rain") for index in range(10)]
    for seed, name in enumerate(("recordings/a/one.wav", "recordings/two.flac", *clips)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, noise(sample_rate=rate, seed=seed), rate)
    return folder


def _run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    bash = ["bash", "-o", "pipefail", "-c", command]
    return subprocess.run(bash, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_the_readme_begins_with_the_block_that_tags_and_the_block_that_tests() -> None:
    first, second = _blocks("sh")
    assert "audiotag predict" in first
    assert "pytest" in second


@pytest.mark.parametrize("command", _commands())
def test_a_command_of_the_readme_works_as_it_stands(command: str, folder: Path) -> None:
    if "jq" in command and shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    if "checkpoint_best.pyth" in command or "--model vggsound" in command:
        pytest.skip("needs a checkpoint of the authors: tests/test_convert.py runs it on one of its own making")
    if command.startswith("audiotag train"):
        command += SMALL_TRAINING if "--from" in command else SMALL_TRAINING + SMALL_NETWORK
    if "--resume" in command or "-f csv | head" in command:
        (folder / "tags.csv").unlink(missing_ok=True)
    done = _run(command, folder)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_the_python_example_runs_as_it_stands(folder: Path) -> None:
    (example,) = _blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["street.wav " + _status(folder, "street.wav"),
                                             "dawn.mp3 " + _status(folder, "dawn.mp3")]  # fmt: skip


def _status(folder: Path, name: str) -> str:
    status: str = json.loads(_run(f"audiotag predict {name}", folder).stdout)["status"]
    return status


def test_the_json_in_the_readme_has_the_keys_that_results_have(folder: Path) -> None:
    of_tags, of_events = ([json.loads(line) for line in block.splitlines()] for block in _blocks("json"))
    assert [set(record) for record in of_tags] == [
        {"path", "status", "duration", "tags"}, {"path", "status", "duration", "tags"}, {"path", "status", "error"},
    ]  # fmt: skip
    for command, shown in (("predict", of_tags[0]), ("events -t 0", of_events[0])):
        given = json.loads(_run(f"audiotag {command} street.wav", folder).stdout)
        assert set(given) == set(shown)
        assert {key for each in given.get("events", ()) for key in each} == {
            key for each in shown.get("events", ()) for key in each
        }


def test_the_readmes_exit_codes_are_the_programs() -> None:
    from audiotag.errors import ExitCode

    table = {int(code) for code in re.findall(r"^\| (\d+) \| ", README.read_text(encoding="utf-8"), re.MULTILINE)}
    assert table == {int(code) for code in ExitCode}


def test_the_constraints_pin_every_package_that_the_project_asks_for() -> None:
    project = tomllib.loads((README.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    names = {re.split(r"[>\[]", each)[0] for group in groups for each in group} - {project["name"]}
    constraints = (README.parent / "constraints.txt").read_text(encoding="utf-8")
    assert set(re.findall(r"^([\w-]+)==", constraints, re.MULTILINE)) == names


def test_the_changelogs_top_version_is_the_packages() -> None:
    from audiotag import __version__

    changelog = (README.parent / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\S+)", changelog, re.MULTILINE).group(1) == __version__  # type: ignore[union-attr]
