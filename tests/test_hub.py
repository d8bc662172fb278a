"""The Hub, local first: the real client against a server on loopback that counts requests and fails on demand."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hub_server import Fault, HubServer, checksum, hub_server

import audiotag.export
from audiotag import hub
from audiotag.config import ModelConfig
from audiotag.errors import HubError, ModelError, UsageError
from audiotag.hub import HubId, exporting, parse_hub_id, pull, resolve_model
from audiotag.hub.asking import BACKOFF
from audiotag.hub.cache import cached_commit
from audiotag.hub.checksums import recorded_checksum
from audiotag.machine import has_gpu
from audiotag.model_folder import CONFIG, ONNX, ONNX_INT8, PREPROCESSOR, WEIGHTS, ModelFolder, write_configs
from audiotag.options import EngineOptions

ID = "org/tiny"
BYTES = {name: bytes(range(256)) * 1200 + name.encode() for name in (WEIGHTS, ONNX, ONNX_INT8)}  # 300 kB, no model
CPU = EngineOptions(device="cpu")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    from huggingface_hub.utils import close_session

    close_session()
    with hub_server() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        yield running
    close_session()


@pytest.fixture
def files(tiny_config: ModelConfig, tmp_path: Path) -> dict[str, bytes]:
    """The files of a model repository; weights and ONNX are stand-ins."""
    write_configs(tmp_path / "configs", tiny_config)
    configs = {name: (tmp_path / "configs" / name).read_bytes() for name in (CONFIG, PREPROCESSOR)}
    return {**configs, "README.md": b"# A card\n", **BYTES}


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between tries, which the tests do not wait for."""
    asked: list[float] = []
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: (asked.append(seconds), sleep(0.01))[1])
    return asked


def failure(model: str = ID, **options: Any) -> str:
    with pytest.raises(HubError) as caught:
        resolve_model(model, engine=CPU, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def nothing_half_written() -> bool:
    """Whether every file that the cache would hand out has the bytes that the Hub recorded."""
    found = [path for path in hub.hub_cache().rglob("snapshots/*/**/*") if path.is_file()]
    return all(hub.is_intact(path, recorded_checksum(path)) for path in found)


def dead_endpoint() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


# --- names ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/name", HubId(repo="org/name")),
        ("org/na.me-2@v1.0", HubId(repo="org/na.me-2", revision="v1.0")),
        ("org/name@refs/pr/1", HubId(repo="org/name", revision="refs/pr/1")),
    ],
)
def test_an_id_has_a_repository_and_a_revision(text: str, expected: HubId) -> None:
    assert parse_hub_id(text) == expected


@pytest.mark.parametrize(
    "text",
    ["name", "/org/name", "./org/name", "../name", "org/name@../x", "org/name@", "a/b/c", "org/na me", "a--b/c",
     "org/name.git", "org/name.git@v1", "org/name@a//b"],
)  # fmt: skip
def test_what_cannot_be_an_id_is_none(text: str) -> None:
    assert parse_hub_id(text) is None


def test_a_folder_wins_over_an_id_of_the_same_name(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tmp_path / "configs", tmp_path / "org" / "tiny")
    monkeypatch.chdir(tmp_path)
    assert resolve_model(ID).path == Path(ID)


def test_a_file_is_no_model_and_nobody_asks_the_hub_for_it(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org").mkdir()
    (tmp_path / ID).write_bytes(b"weights")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"is neither a folder nor .* Check its name"):
        resolve_model(ID)
    assert server.requests == []


def test_the_environment_names_the_model(files: dict[str, bytes], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("AUDIOTAG_MODEL", str(tmp_path / "configs"))
    assert resolve_model().path == tmp_path / "configs"


def test_an_embedded_model_that_is_missing_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audiotag.hub.resolving.__file__", str(tmp_path / "audiotag" / "hub" / "resolving.py"))
    with pytest.raises(ModelError, match=r"the embedded model is missing from .*_weights\. Install audiotag-cli"):
        resolve_model()


def test_models_are_found_from_a_folder_that_may_not_be_entered(monkeypatch: pytest.MonkeyPatch) -> None:
    stat = os.stat

    def guarded_stat(path: Any, **options: Any) -> os.stat_result:
        if not os.path.isabs(path):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", guarded_stat)
    assert resolve_model().name == "default"
    with pytest.raises(HubError, match="is not in the cache"):
        resolve_model(ID, offline=True)
    has_gpu()  # asks for files too, some of them with names that only Windows takes for absolute


def test_the_environment_means_what_it_means_to_huggingface_hub() -> None:
    environments = [
        {}, {"HF_HUB_CACHE": "/a"}, {"HUGGINGFACE_HUB_CACHE": "~/b"}, {"HF_HOME": "$HOME/c"}, {"XDG_CACHE_HOME": "/d"},
        {"HF_HUB_CACHE": "/a", "HUGGINGFACE_HUB_CACHE": "/b", "HF_HOME": "/c", "XDG_CACHE_HOME": "/d"},
        *({name: value} for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") for value in ("1", "yes", "0", "")),
        {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "1"},
    ]  # fmt: skip
    probe = (
        "import importlib, json, os, sys; from audiotag.hub.places import hub_cache, is_offline\n"
        "from huggingface_hub import constants\n"
        "for environment in json.loads(sys.argv[1]):\n"
        "    os.environ.clear(); os.environ.update(environment, HOME='/home/ann'); importlib.reload(constants)\n"
        "    theirs = constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE\n"
        "    assert (str(hub_cache()), is_offline()) == theirs, (environment, theirs)\n"
    )
    command = [sys.executable, "-c", probe, json.dumps(environments)]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60).stderr == ""


# --- local first ---


def test_first_use_downloads_and_second_use_makes_no_request(server: HubServer, files: dict[str, bytes]) -> None:
    commit = server.publish(ID, files)
    folder = resolve_model(ID, engine=CPU)
    assert (folder.name, folder.revision) == (ID, commit)
    assert folder.file(ONNX).read_bytes() == BYTES[ONNX]
    server.requests.clear()
    for model in (ID, f"{ID}@main", f"{ID}@{commit}"):
        assert resolve_model(model, engine=CPU).path == folder.path
    assert server.requests == []


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        (EngineOptions(device="cpu"), {ONNX}),
        (EngineOptions(device="cpu", precision="int8"), {ONNX_INT8}),
        (EngineOptions(engine="torch"), {WEIGHTS}),
        (EngineOptions(device="cuda"), {WEIGHTS}),
        (EngineOptions(precision="fp16"), {WEIGHTS}),
    ],
    ids=["onnx", "int8", "torch", "cuda", "fp16"],
)
def test_only_what_the_engine_needs_is_downloaded(
    server: HubServer, files: dict[str, bytes], engine: EngineOptions, expected: set[str]
) -> None:
    server.publish(ID, files)
    folder = resolve_model(ID, engine=engine)
    assert {name for name in BYTES if folder.has(name)} == expected


@pytest.mark.parametrize(("has_torch", "expected"), [(True, {WEIGHTS, ONNX}), (False, {ONNX})])
def test_where_a_gpu_may_be_used_both_that_and_the_cpu_get_their_file(
    server: HubServer, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, has_torch: bool, expected: set[str]
) -> None:
    server.publish(ID, files)
    monkeypatch.setattr("audiotag.hub.files.has_gpu", lambda: True)
    monkeypatch.setattr("audiotag.hub.files.find_spec", lambda name: has_torch or None)
    folder = resolve_model(ID)
    assert {name for name in BYTES if folder.has(name)} == expected


def test_a_training_begins_with_weights_alone(
    server: HubServer, files: dict[str, bytes], run_audiotag: Any, tmp_path: Path
) -> None:
    server.publish(ID, files)
    assert run_audiotag("train", tmp_path / "no data", "--out", tmp_path / "out", "--from", ID).code == 1
    folder = resolve_model(ID, offline=True, engine=EngineOptions(engine="torch"))
    assert {name for name in BYTES if folder.has(name)} == {WEIGHTS}


def test_a_repository_without_what_an_engine_needs_is_one_line(server: HubServer, files: dict[str, bytes]) -> None:
    del files[ONNX_INT8]
    server.publish(ID, files)
    with pytest.raises(HubError, match=r"has no onnx/model_int8\.onnx\. Choose another --engine or --precision$"):
        resolve_model(ID, engine=EngineOptions(device="cpu", precision="int8"))


def test_the_checksum_of_the_weights_is_the_same_whichever_files_are_here(
    server: HubServer, files: dict[str, bytes]
) -> None:
    server.publish(ID, files)
    expected = hashlib.sha256(BYTES[WEIGHTS]).hexdigest()
    assert [resolve_model(ID, engine=CPU).sha256 for _ in range(2)] == [expected, expected]
    assert not resolve_model(ID, engine=CPU).has(WEIGHTS)
    assert pull(HubId(repo=ID)).sha256 == expected


def test_a_tag_seen_before_needs_no_request(server: HubServer, files: dict[str, bytes]) -> None:
    server.publish(ID, files, ref="v1")
    resolve_model(f"{ID}@v1", engine=CPU)
    server.requests.clear()
    resolve_model(f"{ID}@v1", engine=CPU, offline=True)
    assert server.requests == []


def test_update_asks_again_and_downloads_nothing_twice(server: HubServer, files: dict[str, bytes]) -> None:
    server.publish(ID, files)
    resolve_model(ID, engine=CPU)
    server.requests.clear()
    resolve_model(ID, engine=CPU, update=True)
    assert server.asked_for("/api/models/") == 1
    assert server.asked_for("/resolve/") == 0


def test_a_moved_branch_brings_the_new_commit_with_update_only(server: HubServer, files: dict[str, bytes]) -> None:
    old = server.publish(ID, files)
    resolve_model(ID, engine=CPU)
    new = server.publish(ID, {**files, ONNX: b"better"})
    assert resolve_model(ID, engine=CPU).revision == old
    updated = resolve_model(ID, engine=CPU, update=True)
    assert (updated.revision, updated.file(ONNX).read_bytes()) == (new, b"better")
    assert resolve_model(ID, engine=CPU).revision == new


def test_a_moved_branch_brings_no_new_commit_where_another_engine_needs_another_file(
    server: HubServer, files: dict[str, bytes]
) -> None:
    old = server.publish(ID, files)
    resolve_model(ID, engine=CPU)
    server.publish(ID, {**files, ONNX: b"better", ONNX_INT8: b"better"})
    completed = resolve_model(ID, engine=EngineOptions(device="cpu", precision="int8"))
    assert (completed.revision, completed.file(ONNX_INT8).read_bytes()) == (old, BYTES[ONNX_INT8])
    assert resolve_model(ID, engine=CPU, offline=True).revision == old


def test_a_commit_that_the_hub_has_no_more_says_how_to_get_the_newest(
    server: HubServer, files: dict[str, bytes]
) -> None:
    old = server.publish(ID, files)
    resolve_model(ID, engine=EngineOptions(engine="torch"))
    server.publish(ID, {**files, ONNX: b"better"})
    del server.files[old]  # a rewritten history
    assert failure() == (
        f"{ID}@{old}: the Hub has no such commit. Check what follows the @, "
        f"or run `audiotag models pull {ID}` for the newest"
    )
    assert pull(HubId(repo=ID)).file(ONNX).read_bytes() == b"better"


def test_a_cache_made_by_the_clients_own_download_is_found(server: HubServer, files: dict[str, bytes]) -> None:
    from huggingface_hub import snapshot_download

    server.publish(ID, files)
    path = snapshot_download(ID, cache_dir=hub.hub_cache(), endpoint=server.endpoint)
    server.requests.clear()
    assert resolve_model(ID, engine=CPU).path == Path(path)
    assert server.requests == []


def test_what_an_earlier_run_left_unfinished_is_completed(server: HubServer, files: dict[str, bytes]) -> None:
    commit = server.publish(ID, files)
    resolve_model(f"{ID}@{commit}", engine=EngineOptions(engine="torch"))
    folder = resolve_model(f"{ID}@{commit}", engine=CPU)
    assert folder.file(ONNX).read_bytes() == BYTES[ONNX]
    (folder.path / PREPROCESSOR).unlink()
    assert resolve_model(f"{ID}@{commit}", engine=CPU).has(PREPROCESSOR)


def test_update_and_offline_contradict_each_other() -> None:
    with pytest.raises(UsageError, match="contradict"):
        resolve_model(ID, update=True, offline=True)


def test_an_update_that_the_environment_forbids_says_so(
    server: HubServer, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.publish(ID, files)
    resolve_model(ID, engine=CPU)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert failure(update=True) == "org/tiny: HF_HUB_OFFLINE is set. Unset it and run `audiotag models pull org/tiny`"


# --- faults ---


@pytest.mark.parametrize("how", ["server", "dns", "offline"])
def test_without_a_network_a_cached_model_works_at_once_and_another_says_what_to_run(
    server: HubServer, files: dict[str, bytes], how: str
) -> None:
    server.publish(ID, files)
    resolve_model(ID, engine=CPU)
    server.requests.clear()
    variables = {
        "server": {"HF_ENDPOINT": dead_endpoint()},
        "dns": {"HF_ENDPOINT": "http://hub.invalid"},
        "offline": {"HF_HUB_OFFLINE": "1"},
    }[how]
    environment = {**os.environ, **variables}
    command = [sys.executable, "-m", "audiotag", "labels", "--model"]
    begun = time.monotonic()
    cached = subprocess.run([*command, ID], env=environment, capture_output=True, text=True, timeout=60)
    seconds = time.monotonic() - begun
    assert (cached.returncode, cached.stderr) == (0, "")
    assert cached.stdout.splitlines()[:2] == ["Dog", "Siren"]
    assert seconds < 2 or os.getloadavg()[0] > 2 * (os.cpu_count() or 1)  # a busy machine proves nothing
    other = subprocess.run([*command, "org/other@v2"], env=environment, capture_output=True, text=True, timeout=60)
    assert (other.returncode, other.stdout, other.stderr.count("\n")) == (1, "", 1)
    assert "`audiotag models pull org/other@v2`" in other.stderr
    assert ("audiotag is offline" if how == "offline" else "cannot be reached") in other.stderr
    assert server.requests == []


def test_offline_never_asks(server: HubServer, files: dict[str, bytes]) -> None:
    server.publish(ID, files)
    assert "`audiotag models pull org/tiny`" in failure(offline=True)
    assert server.requests == []


@pytest.mark.parametrize(
    ("status", "headers", "complaint"),
    [
        (401, {}, "HF_TOKEN"),
        (401, {"X-Error-Code": "RepoNotFound"}, "HF_TOKEN"),
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, "token is not valid (HTTP 401)"),
        (403, {"X-Error-Code": "GatedRepo"}, "gated"),
        (403, {"X-Error-Message": "Access to this resource is disabled."}, "has shut this model off (HTTP 403)"),
        (404, {"X-Error-Code": "RepoNotFound"}, "neither a folder here nor on the Hub"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "has no revision 'main'"),
        (429, {"Retry-After": "3600"}, "`audiotag models pull org/tiny` in 3600 s"),
        (500, {}, "the Hub failed (HTTP 500)"),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else "",
)
def test_a_refusal_is_one_line_with_the_way_out(
    server: HubServer, waits: list[float], status: int, headers: dict[str, str], complaint: str
) -> None:
    server.faults.append(Fault("/api/models/", status, headers))
    assert complaint in failure()
    assert server.asked_for("/api/") == (len(BACKOFF) + 1 if status == 500 else 1)


def test_a_login_page_in_place_of_the_hub_is_one_line(server: HubServer, waits: list[float]) -> None:
    server.faults.append(Fault("/api/models/", 200))
    assert "the answer is not a Hub's" in failure()


def test_a_server_that_names_no_commit_is_one_line(server: HubServer, files: dict[str, bytes]) -> None:
    server.refs[ID], server.files["newest"] = {"main": "newest"}, files
    assert "the server names no commit. Check HF_ENDPOINT" in failure()


def test_a_file_that_is_not_as_long_as_the_hub_says_is_no_missing_network(
    server: HubServer, files: dict[str, bytes]
) -> None:
    commit = server.publish(ID, files)
    headers = {"X-Repo-Commit": commit, "X-Linked-Etag": f'"{"a" * 64}"', "X-Linked-Size": "7",
               "Location": f"{server.storage}/{commit}/{ONNX}"}  # fmt: skip
    server.faults.append(Fault(f"/resolve/{commit}/onnx/", 302, headers))
    message = failure()
    assert f"{server.endpoint} gave no answer that can be used (Consistency check failed: " in message
    assert "cannot be reached" not in message


def test_a_proxy_that_needs_another_package_is_one_line(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("httpx2", reason="another client's message")
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    assert "'socksio' package is not installed" in failure()


def test_update_works_on_a_cache_of_somebody_else(
    server: HubServer, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    server.publish(ID, files)
    resolve_model(ID, engine=CPU)
    monkeypatch.setattr(Path, "write_text", refuse)
    assert resolve_model(ID, engine=CPU, update=True).has(ONNX)


def test_a_gated_file_of_a_public_listing_is_refused_in_one_line(server: HubServer, files: dict[str, bytes]) -> None:
    server.publish(ID, files)
    server.faults.append(Fault("/resolve/", 403, {"X-Error-Code": "GatedRepo"}))
    assert "gated" in failure()
    assert cached_commit(HubId(repo=ID)) is None


@pytest.mark.parametrize("where", ["/api/models/", f"HEAD /{ID}/resolve", "GET /" + "{storage}"])
def test_two_failures_of_the_server_are_survived(
    server: HubServer, files: dict[str, bytes], waits: list[float], where: str
) -> None:
    commit = server.publish(ID, files)
    server.faults.append(Fault(where.replace("{storage}", f"{commit}/onnx"), 500, times=2))
    assert resolve_model(ID, engine=CPU).file(ONNX).read_bytes() == BYTES[ONNX]
    assert waits  # the client repeats the first HEAD at once


def test_a_server_that_keeps_failing_is_one_line(
    server: HubServer, files: dict[str, bytes], waits: list[float]
) -> None:
    server.publish(ID, files)
    server.faults.append(Fault("/resolve/", 500))
    assert "the Hub failed (HTTP 500)" in failure()
    assert nothing_half_written()


@pytest.mark.parametrize("n_failures", [2, 1000])
def test_a_storage_that_fails_is_tried_again_and_then_one_line_with_the_way_around_it(
    server: HubServer, files: dict[str, bytes], waits: list[float], monkeypatch: pytest.MonkeyPatch, n_failures: int
) -> None:
    import huggingface_hub.file_download as client

    download, failures = client.http_get, iter(range(n_failures))

    def fails(*arguments: Any, **options: Any) -> None:
        if next(failures, None) is not None:
            # As hf_xet does, for which the tests have no server.
            raise RuntimeError("Task error: Task runtime error: CAS Client Error\nRequest error: HTTP status 500")
        download(*arguments, **options)

    commit = server.publish(ID, files)
    monkeypatch.setattr(client, "http_get", fails)
    if n_failures == 2:
        assert resolve_model(ID, engine=CPU).revision == commit
        assert waits == list(BACKOFF[:2])
    else:
        message = failure()
        assert "the Hub's storage failed (Task error: Task runtime error: CAS Client Error)" in message
        assert "HF_HUB_DISABLE_XET=1" in message
        assert waits == list(BACKOFF)


def test_retry_after_is_waited_for(server: HubServer, files: dict[str, bytes], waits: list[float]) -> None:
    server.publish(ID, files)
    server.faults.append(Fault("/api/models/", 429, {"Retry-After": "7"}, times=1))
    resolve_model(ID, engine=CPU)
    assert waits[0] == 7


def test_a_connection_cut_in_mid_file_is_resumed(
    server: HubServer, files: dict[str, bytes], waits: list[float]
) -> None:
    large = BYTES[ONNX] * 40  # 12 MB: the client writes in pieces of 10 MiB
    server.publish(ID, {**files, ONNX: large})
    server.cut[ONNX] = 11 * 2**20
    assert resolve_model(ID, engine=CPU).file(ONNX).read_bytes() == large
    assert nothing_half_written()
    assert server.asked_for("bytes=") == 1


def test_a_file_that_arrives_damaged_is_fetched_again(server: HubServer, files: dict[str, bytes]) -> None:
    server.publish(ID, files)
    server.damaged[ONNX] = 1
    assert resolve_model(ID, engine=CPU).file(ONNX).read_bytes() == BYTES[ONNX]


def test_a_file_that_stays_damaged_is_refused_and_not_kept(server: HubServer, files: dict[str, bytes]) -> None:
    server.publish(ID, files)
    server.damaged[ONNX] = 2
    assert "onnx/model.onnx arrived damaged twice" in failure()
    assert nothing_half_written()
    assert "not in the cache" in failure(offline=True)
    assert resolve_model(ID, engine=CPU).file(ONNX).read_bytes() == BYTES[ONNX]


@pytest.mark.parametrize(
    ("code", "reason"), [(errno.ENOSPC, "No space left on device"), (errno.EACCES, "Permission denied")]
)
def test_a_cache_that_cannot_be_written_is_one_line(
    server: HubServer, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, code: int, reason: str
) -> None:
    import huggingface_hub.file_download as client

    def fails(*arguments: Any, **options: Any) -> None:
        raise OSError(code, os.strerror(code))

    server.publish(ID, files)
    monkeypatch.setattr(client, "http_get", fails)
    message = failure()
    assert reason in message
    assert "HF_HUB_CACHE" in message
    monkeypatch.undo()
    assert nothing_half_written()


def test_a_cache_without_links_on_a_nearly_full_disk_works_without_the_client_s_advice(
    server: HubServer, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(1314, "A required privilege is not held by the client")  # as Windows does

    server.publish(ID, files)
    monkeypatch.setattr(os, "symlink", refuse)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1))
    folder = resolve_model(ID, engine=CPU)  # a warning is an error here
    assert folder.file(ONNX).read_bytes() == BYTES[ONNX]
    assert hub.files_recorded(folder, offline=True) == {
        name: checksum(name, files[name]) for name in (CONFIG, PREPROCESSOR, "README.md", ONNX)
    }


def test_a_cache_folder_that_is_a_file_is_one_line(
    server: HubServer, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.publish(ID, files)
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "taken"))
    assert "cannot be kept in the cache" in failure()


def test_a_file_system_that_fills_up_leaves_nothing_half_written(server: HubServer, files: dict[str, bytes]) -> None:
    server.publish(ID, files)
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000));"
        "sys.argv = ['audiotag', 'models', 'pull', 'org/tiny', '-q']; from audiotag.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "File too large" in done.stderr
    assert nothing_half_written()
    assert not list(hub.hub_cache().rglob("*.incomplete"))


def test_two_processes_may_pull_the_same_model_at_once(server: HubServer, files: dict[str, bytes]) -> None:
    server.publish(ID, files)
    command = [sys.executable, "-m", "audiotag", "models", "pull", ID, "-f", "json"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in running:
        stdout, stderr = process.communicate(timeout=60)
        assert (process.returncode, stderr) == (0, "")
        assert json.loads(stdout)[0]["name"] == ID
    assert nothing_half_written()
    assert {name for name in BYTES if resolve_model(ID, offline=True).has(name)} == set(BYTES)


# --- what is never downloaded ---


def test_pickles_code_links_and_names_that_lead_elsewhere_are_not_downloaded(
    server: HubServer, files: dict[str, bytes]
) -> None:
    hostile = ("pytorch_model.bin", "modeling.py", "../evil.json", "onnx/../../evil.onnx", "link", "other.safetensors")
    commit = server.publish(ID, {**files, **dict.fromkeys(hostile, b"evil")})
    folder = pull(HubId(repo=ID))
    kept = {path.relative_to(folder.path).as_posix() for path in folder.path.rglob("*") if path.is_file()}
    assert kept == set(files)
    asked = {request.split(f"/resolve/{commit}/")[1] for request in server.requests if "/resolve/" in request}
    assert asked <= set(files)
    assert not list(hub.hub_cache().rglob("evil*"))


def test_another_architecture_is_refused_by_its_name_before_its_weights_come(server: HubServer) -> None:
    config = json.dumps({"architectures": ["ASTForAudioClassification"]}).encode()
    server.publish(ID, {CONFIG: config, WEIGHTS: b"x", ONNX: b"x"})
    with pytest.raises(ModelError, match="ASTForAudioClassification"):
        resolve_model(ID, engine=CPU)
    assert server.asked_for("safetensors") == server.asked_for(ONNX) == 0


def test_a_repository_without_a_configuration_is_named_and_not_a_place_in_the_cache(server: HubServer) -> None:
    server.publish(ID, {"README.md": b"# Sounds\n", "model.gguf": b"weights"})
    assert failure() == "org/tiny: is no model that audiotag runs: it has no config.json. Check the name"


def test_the_token_goes_to_the_hub_and_not_to_the_storage(
    server: HubServer, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.publish(ID, files)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    resolve_model(ID, engine=CPU)
    assert {seen.split()[0] for seen in server.tokens} == {server.endpoint.removeprefix("http://")}


# --- ONNX files that a repository lacks ---


def test_missing_onnx_is_exported_once_and_a_damaged_export_is_made_again(
    server: HubServer, tiny_model_folder: Path
) -> None:
    names = (CONFIG, PREPROCESSOR, WEIGHTS)
    commit = server.publish(ID, {name: (tiny_model_folder / name).read_bytes() for name in names})
    folder = resolve_model(ID, engine=CPU)
    assert folder.revision == commit
    assert folder.file(ONNX).read_bytes() == (tiny_model_folder / ONNX).read_bytes()
    assert hub.audiotag_cache() in folder.path.parents
    made, server.requests[:] = folder.file(ONNX).stat().st_mtime_ns, []
    assert resolve_model(ID, engine=CPU) == folder
    assert folder.file(ONNX).stat().st_mtime_ns == made
    assert server.requests == []
    folder.file(ONNX).write_bytes(b"half")
    again = resolve_model(ID, engine=CPU, offline=True)
    assert again.file(ONNX).read_bytes() == (tiny_model_folder / ONNX).read_bytes()


def test_two_processes_may_export_the_same_model_at_once(
    server: HubServer, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = (CONFIG, PREPROCESSOR, WEIGHTS)
    server.publish(ID, {name: (tiny_model_folder / name).read_bytes() for name in names})
    export_folder, of_the_other = audiotag.export.export_folder, list[int]()

    def export_while_another_does(folder: ModelFolder) -> None:
        monkeypatch.setattr("audiotag.export.export_folder", export_folder)
        of_the_other.append(resolve_model(ID, engine=CPU).file(ONNX).stat().st_ino)
        export_folder(folder)

    monkeypatch.setattr("audiotag.export.export_folder", export_while_another_does)
    assert [resolve_model(ID, engine=CPU).file(ONNX).stat().st_ino] == of_the_other, "which may be reading it"


def test_a_place_where_no_export_can_be_kept_is_one_line(
    server: HubServer, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.publish(ID, {name: content for name, content in files.items() if not name.startswith("onnx")})
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("AUDIOTAG_CACHE", str(tmp_path / "taken"))
    with pytest.raises(ModelError, match=r"cannot be written: Not a directory\. Set AUDIOTAG_CACHE to another folder$"):
        resolve_model(ID, engine=CPU)


def test_missing_onnx_without_torch_says_what_to_install(
    server: HubServer, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.publish(ID, {name: content for name, content in files.items() if not name.startswith("onnx")})
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    assert "pip install 'audiotag-cli[torch]'" in failure()


def test_a_model_from_the_hub_tags(
    server: HubServer, tiny_model_folder: Path, write_wav: Any, run_audiotag: Any
) -> None:
    from conftest import tone

    names = (CONFIG, PREPROCESSOR, ONNX, WEIGHTS)
    commit = server.publish(ID, {name: (tiny_model_folder / name).read_bytes() for name in names})
    path = write_wav("a.wav", tone())
    ran = run_audiotag("predict", path, "--model", ID, "-f", "json", "-q")
    assert (ran.code, ran.stderr) == (0, "")
    header = json.loads(ran.stdout)["audiotag"]
    assert (header["model"], header["revision"]) == (ID, commit)
    here = run_audiotag("predict", path, "--model", tiny_model_folder, "-f", "json", "-q")
    assert json.loads(ran.stdout)["results"] == json.loads(here.stdout)["results"]
