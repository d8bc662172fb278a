"""`models` and `labels` as people and scripts meet them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Ran
from hub_server import HubServer, checksum, hub_server

from audiotag import hub
from audiotag.config import ModelConfig
from audiotag.hub.resolving import embedded_folder
from audiotag.model_folder import CONFIG, ONNX, ONNX_INT8, PREPROCESSOR, WEIGHTS, write_configs

ID = "org/tiny"
Run = Callable[..., Ran]


@pytest.fixture
def folder(tiny_config: ModelConfig, tmp_path: Path) -> Path:
    path = tmp_path / "tiny"
    write_configs(path, tiny_config)
    (path / "onnx").mkdir()
    for name in (WEIGHTS, ONNX, ONNX_INT8):
        (path / name).write_bytes(name.encode() * 100)
    return path


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    from huggingface_hub.utils import close_session

    close_session()
    with hub_server() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        files = (path for path in folder.rglob("*") if path.is_file())
        running.publish(ID, {path.relative_to(folder).as_posix(): path.read_bytes() for path in files})
        yield running
    close_session()


def commit_of(server: HubServer, ref: str = "main") -> str:
    return server.refs[ID][ref]


def test_list_shows_the_cached_model_with_its_revision_size_and_labels(server: HubServer, run_audiotag: Run) -> None:
    assert run_audiotag("models", "pull", ID, "-q").code == 0
    ran = run_audiotag("models", "list", "-f", "json")
    (row,) = (row for row in json.loads(ran.stdout) if row["name"] == ID)
    content = server.files[commit_of(server)]
    assert (row["revision"], row["refs"], row["labels"]) == (commit_of(server), ["main"], 3)
    assert row["bytes"] == sum(map(len, content.values()))
    assert set(row["files"]) == set(content)
    table = run_audiotag("models", "list").stdout.splitlines()
    assert table[0].split() == ["name", "revision", "refs", "labels", "bytes", "path"]
    assert [line.split()[:3] for line in table[1:]] == [["default", "-", "-"], [ID, commit_of(server), "main"]]


def test_what_was_pulled_is_told_where_another_model_fails(server: HubServer, run_audiotag: Run) -> None:
    ran = run_audiotag("models", "pull", ID, "org/missing", "-f", "json", "-q")
    assert (ran.code, [row["name"] for row in json.loads(ran.stdout)]) == (1, [ID])
    assert ran.stderr.startswith("audiotag: error: org/missing: ")


def test_list_passes_over_what_is_not_ours(server: HubServer, run_audiotag: Run) -> None:
    other = hub.hub_cache() / "models--org--other" / "snapshots" / ("0" * 40)
    other.mkdir(parents=True)
    (other / CONFIG).write_text('{"architectures": ["BertModel"]}')
    ran = run_audiotag("models", "list", "-f", "json")
    assert "org/other" not in ran.stdout
    assert ran.stderr == ""


def test_list_and_labels_import_nothing_heavy(folder: Path) -> None:
    heavy = ("torch", "onnxruntime", "numpy", "soundfile", "huggingface_hub")
    for arguments in (["models", "list"], ["labels", "--model", str(folder)], ["models", "show", str(folder)]):
        probe = (
            f"import sys; sys.argv = ['audiotag', *{arguments!r}]\nfrom audiotag.cli import main\n"
            f"try: main()\nexcept SystemExit as end: assert not end.code\n"
            f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "[]\n")


def test_show_says_what_a_model_is(folder: Path, tiny_config: ModelConfig, run_audiotag: Run) -> None:
    shown = json.loads(run_audiotag("models", "show", folder, "-f", "json").stdout)
    assert shown["name"] == "tiny"
    assert (shown["path"], shown["revision"]) == (str(folder), None)
    assert shown["sha256"] == hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    assert shown["parameters"] == tiny_config.network.n_parameters
    assert shown["gmacs_per_window"] == pytest.approx(tiny_config.gmacs_per_window, rel=1e-3)
    assert shown["labels"] == list(tiny_config.labels)
    assert (shown["frontend"]["sample_rate"], shown["frontend"]["n_mels"]) == (8000, 32)
    window = {"seconds": 3999 / 8000, "samples": 3999, "frames": 50, "padding": "silence", "repeat_gap": 0}
    assert shown["window"] == window
    assert shown["form"] == "fused"
    assert {"license", "provenance", "metrics", "activation", "aggregate"} <= set(shown)


def test_show_of_a_cached_model_names_its_commit(server: HubServer, run_audiotag: Run) -> None:
    run_audiotag("models", "pull", ID, "-q")
    shown = json.loads(run_audiotag("models", "show", ID, "-f", "json", "--offline").stdout)
    assert (shown["name"], shown["revision"]) == (ID, commit_of(server))
    assert run_audiotag("models", "show", ID).stdout.startswith("name              org/tiny\n")


def test_pull_takes_several_and_one_precision_only(server: HubServer, run_audiotag: Run) -> None:
    server.publish(ID, dict(server.files[commit_of(server)]), ref="v2")
    ran = run_audiotag("models", "pull", ID, f"{ID}@v2", "--precision", "int8", "-f", "json", "-q")
    assert (ran.code, ran.stderr) == (0, "")
    assert [row["refs"] for row in json.loads(ran.stdout)] == [["main"], ["v2"]]
    assert set(json.loads(ran.stdout)[0]["files"]) == {CONFIG, PREPROCESSOR, ONNX_INT8}


def test_pull_of_no_id_is_a_usage_error(run_audiotag: Run) -> None:
    ran = run_audiotag("models", "pull", "./here")
    assert (ran.code, ran.stdout) == (2, "")
    assert "Write org/name or org/name@revision" in ran.stderr


def test_verify_finds_a_damaged_file_without_the_network(server: HubServer, run_audiotag: Run) -> None:
    run_audiotag("models", "pull", ID, "-q")
    server.requests.clear()
    ran = run_audiotag("models", "verify", "-f", "json")
    rows = {row["file"]: row for row in json.loads(ran.stdout)}
    assert ran.code == 0
    assert {name: row["checksum"] for name, row in rows.items()} == {
        name: checksum(name, content) for name, content in server.files[commit_of(server)].items()
    }
    assert {row["status"] for row in rows.values()} == {"ok"}
    (hub.hub_cache() / "models--org--tiny" / "snapshots" / commit_of(server) / ONNX).resolve().write_bytes(b"bad")
    ran = run_audiotag("models", "verify", ID, "-f", "json")
    assert ran.code == 1
    assert [row["file"] for row in json.loads(ran.stdout) if row["status"] == "damaged"] == [ONNX]
    assert server.requests == []
    assert run_audiotag("models", "pull", ID, "-q").code == 0  # the way out
    assert run_audiotag("models", "verify", ID).code == 0


def test_verify_knows_files_that_the_client_shares_between_repositories(server: HubServer, run_audiotag: Run) -> None:
    run_audiotag("models", "pull", ID, "-q")
    # As huggingface_hub 2.4 lays out what came from Xet: the blob leads on to a file that is named by Xet's own hash.
    blob = (hub.hub_cache() / "models--org--tiny" / "snapshots" / commit_of(server) / ONNX).resolve()
    shared = hub.hub_cache() / "blobs" / "ab" / ("ab" * 32)
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(os.path.relpath(shared, blob.parent))
    ran = run_audiotag("models", "verify", ID, "-f", "json")
    assert {row["file"] for row in json.loads(ran.stdout) if row["status"] != "ok"} == set()
    shared.write_bytes(b"bad")
    assert run_audiotag("models", "verify", ID).code == 1
    assert run_audiotag("models", "pull", ID, "-q").code == 0
    assert run_audiotag("models", "verify", ID).code == 0


def test_what_is_said_of_a_cached_model_asks_for_no_file_of_an_engine(server: HubServer, run_audiotag: Run) -> None:
    run_audiotag("models", "pull", ID, "--precision", "int8", "-q")
    only_weights = {name: server.files[commit_of(server)][name] for name in (CONFIG, PREPROCESSOR, WEIGHTS)}
    server.publish(ID, only_weights, ref="v2")
    run_audiotag("models", "pull", f"{ID}@v2", "-q")
    server.requests.clear()
    for model, files in ((ID, {CONFIG, PREPROCESSOR, ONNX_INT8}), (f"{ID}@v2", set(only_weights))):
        rows = json.loads(run_audiotag("models", "verify", model, "-f", "json").stdout)
        assert {row["file"] for row in rows if row["status"] == "ok"} == files
        assert set(json.loads(run_audiotag("models", "show", model, "-f", "json").stdout)["files"]) == files
        assert run_audiotag("labels", "--model", model).stdout.startswith("Dog\n")
    assert server.requests == []


def test_verify_of_a_folder_of_ones_own_has_nothing_to_compare_with(folder: Path, run_audiotag: Run) -> None:
    ran = run_audiotag("models", "verify", folder, "-f", "json")
    assert ran.code == 0
    rows = json.loads(ran.stdout)
    assert {(row["name"], row["status"], row["checksum"]) for row in rows} == {("tiny", "unknown", None)}


@pytest.mark.parametrize(
    "command",
    ["predict a.wav", "batch a.wav", "events a.wav", "report a.wav --out page.html", "models show", "labels"],
)
def test_every_command_that_takes_update_and_offline_hands_both_on(command: str, run_audiotag: Run) -> None:
    model = [ID] if command == "models show" else ["--model", ID]
    ran = run_audiotag(*command.split(), *model, "--update", "--offline")
    assert (ran.code, ran.stdout) == (2, "")
    assert "update and offline: contradict each other" in ran.stderr


def test_doctor_looks_at_a_model_and_downloads_nothing(server: HubServer, run_audiotag: Run) -> None:
    assert f"{ID}: is not in the cache" in run_audiotag("doctor", "--model", ID).stdout
    assert server.requests == []


def test_rm_needs_yes_where_nobody_can_be_asked(
    server: HubServer, run_audiotag: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_audiotag("models", "pull", ID, "-q")
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    ran = run_audiotag("models", "rm", ID)
    assert (ran.code, ran.stdout) == (2, "")
    assert "Add --yes" in ran.stderr
    assert run_audiotag("models", "show", ID, "--offline").code == 0


def test_rm_removes_nothing_where_one_name_is_no_id(server: HubServer, run_audiotag: Run) -> None:
    run_audiotag("models", "pull", ID, "-q")
    ran = run_audiotag("models", "rm", ID, "no/id/@v2", "--yes")
    assert (ran.code, ran.stdout) == (2, "")
    assert "'no/id/@v2': is no model on the Hub" in ran.stderr
    assert run_audiotag("models", "show", ID, "--offline").code == 0


def test_rm_removes_a_model_and_says_how_much(server: HubServer, run_audiotag: Run) -> None:
    run_audiotag("models", "pull", ID, "-q")
    exported = hub.audiotag_cache() / "exported" / "org--tiny" / commit_of(server) / ONNX
    exported.parent.mkdir(parents=True)
    exported.write_bytes(b"made here")
    ran = run_audiotag("models", "rm", ID, "--yes", "-f", "json")
    assert not [path for path in hub.audiotag_cache().rglob("*") if path.is_file()]
    (row,) = json.loads(ran.stdout)
    assert (row["name"], row["revisions"]) == (ID, [commit_of(server)])
    assert row["bytes"] == sum(map(len, server.files[commit_of(server)].values()))
    assert ID not in run_audiotag("models", "list").stdout
    gone = run_audiotag("models", "rm", ID, "--yes")
    assert (gone.code, gone.stderr.count("\n")) == (1, 1)
    assert "is not in the cache" in gone.stderr


def test_rm_minds_no_file_that_another_program_left_among_the_revisions(server: HubServer, run_audiotag: Run) -> None:
    run_audiotag("models", "pull", ID, "-q")
    shutil.rmtree(hub.audiotag_cache())  # as where another program has downloaded it
    (hub.hub_cache() / "models--org--tiny" / "snapshots" / ".DS_Store").touch()
    ran = run_audiotag("models", "rm", ID, "--yes", "-f", "json")
    assert (ran.code, ran.stderr) == (0, "")
    assert json.loads(ran.stdout)[0]["revisions"] == [commit_of(server)]


@pytest.mark.parametrize("lost", ["file", "revision"])
def test_rm_of_what_is_damaged_says_what_to_remove(lost: str, server: HubServer, run_audiotag: Run) -> None:
    run_audiotag("models", "pull", ID, "-q")
    storage = hub.hub_cache() / "models--org--tiny"
    if lost == "file":
        (storage / "snapshots" / commit_of(server) / ONNX).resolve().unlink()
    else:
        (storage / "refs" / "v2").write_text("a" * 40)  # as a download that was cut off leaves it
    ran = run_audiotag("models", "rm", ID, "--yes")
    assert (ran.code, ran.stdout, ran.stderr.count("\n")) == (1, "", 1)
    assert "is damaged in the cache: " in ran.stderr
    assert ran.stderr.endswith(f"Remove the folder {storage}\n")


def test_rm_of_a_revision_leaves_the_others(server: HubServer, run_audiotag: Run) -> None:
    server.publish(ID, {**server.files[commit_of(server)], ONNX: b"second"}, ref="v2")
    run_audiotag("models", "pull", ID, f"{ID}@v2", "-q")
    run_audiotag("models", "rm", f"{ID}@v2", "--yes")
    rows = [row for row in json.loads(run_audiotag("models", "list", "-f", "json").stdout) if row["name"] == ID]
    assert [row["revision"] for row in rows] == [commit_of(server)]
    assert run_audiotag("models", "verify", ID).code == 0


def test_labels_lists_and_searches(folder: Path, run_audiotag: Run) -> None:
    assert run_audiotag("labels", "--model", folder).stdout == "Dog\nSiren\nMusical instrument, plucked\n"
    assert run_audiotag("labels", "--model", folder, "--search", "SIR") == Ran(0, "Siren\n", "")
    found = json.loads(run_audiotag("labels", "--model", folder, "--search", "dog", "-f", "json").stdout)
    assert found == [{"index": 0, "label": "Dog", "threshold": 0.0}]
    nothing = run_audiotag("labels", "--model", folder, "--search", "sirne")
    assert (nothing.code, nothing.stdout) == (0, "")
    assert nothing.stderr == "audiotag: label 'sirne': the model does not know it. Did you mean 'Siren'?\n"


def test_show_counts_what_is_too_long_for_a_line(run_audiotag: Run) -> None:
    shown = dict(line.split(maxsplit=1) for line in run_audiotag("models", "show", "default").stdout.splitlines())
    assert max(len(value) for name, value in shown.items() if name != "labels") < 600
    assert "n_clips_of_label (309)" in shown["provenance"]
    assert "width 24" in shown["provenance.recipe"]
    measured = json.loads((embedded_folder() / CONFIG).read_text(encoding="utf-8"))["metrics"]["fp32"]
    assert f"macro_map {measured['macro_map']}" in shown["metrics.fp32"]
    assert "per_label (75)" in shown["metrics.fp32"]
    assert "silence" in shown["metrics.negatives"]


def test_a_model_s_words_reach_a_terminal_as_text(tiny_config: ModelConfig, folder: Path, run_audiotag: Run) -> None:
    red = "\x1b[31mDog\x9b0m"
    config = replace(tiny_config, labels=(red, "two\nlines", "B"), license=red, provenance={red: [red]})
    write_configs(folder, config)
    labels = run_audiotag("labels", "--model", folder)
    shown = run_audiotag("models", "show", folder)
    assert labels.stdout == "\\x1b[31mDog\\x9b0m\ntwo\\nlines\nB\n"
    assert (shown.code, shown.stdout.count("\\x1b[31mDog\\x9b0m")) == (0, 4)
    assert not any(character < " " and character != "\n" for character in labels.stdout + shown.stdout)
    assert json.loads(run_audiotag("labels", "--model", folder, "-f", "json").stdout)[0]["label"] == red
