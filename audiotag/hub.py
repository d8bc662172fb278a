"""From what a person calls a model to a model folder on this disk: nothing, a name, a folder, or an id on the Hub.

Local first: what the Hub's cache holds is found here with the standard library alone, without one request;
`huggingface_hub` is imported only where the network is needed. It keeps the cache, this room decides what is asked for,
checks what arrives, and says in one line what went wrong.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from audiotag.config import ModelConfig
from audiotag.errors import HubError, ModelError, UsageError
from audiotag.model_folder import (
    CONFIG,
    ONNX,
    ONNX_INT8,
    PREPROCESSOR,
    WEIGHTS,
    ModelFolder,
    open_model_folder,
    sha256_of,
)
from audiotag.options import EngineOptions, has_gpu

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

DEFAULT = "default"  # the name of the embedded model
CARD = "README.md"

# Nothing else is ever asked for, whatever a repository holds: no pickle, no code, no name that leads elsewhere.
DOWNLOADED = (CONFIG, PREPROCESSOR, CARD, WEIGHTS, ONNX, ONNX_INT8)

BACKOFF = (1.0, 2.0, 4.0)  # seconds before each new try of a request that `huggingface_hub` itself does not repeat
LONGEST_WAIT = 60.0  # seconds that a Retry-After may ask for; above it the person decides
TRANSIENT = (408, 429, 500, 502, 503, 504)  # HTTP statuses that may be gone at the next try
EXTRA = "pip install 'audiotag-cli[torch]'"

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


# --- names ---


@dataclass(frozen=True, kw_only=True)
class HubId:
    """A model on the Hub: `org/name`, and a branch, a tag or a commit."""

    repo: str
    revision: str = "main"

    def __str__(self) -> str:
        return self.repo if self.revision == "main" else f"{self.repo}@{self.revision}"

    @property
    def storage(self) -> Path:
        """Where `huggingface_hub` keeps everything of this repository."""
        return hub_cache() / f"models--{self.repo.replace('/', '--')}"

    @property
    def pull_line(self) -> str:
        """The command that downloads it."""
        return f"`audiotag models pull {self}`"


_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_HUB_ID = re.compile(rf"({_PART}/{_PART})(?:@([A-Za-z0-9_][A-Za-z0-9._/+-]{{0,249}}))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def parse_hub_id(text: str) -> HubId | None:
    """The Hub id that `text` is, or None where it cannot be one.

    >>> parse_hub_id("org/name@v1")
    HubId(repo='org/name', revision='v1')
    """
    match = _HUB_ID.fullmatch(text)
    if match is None or ".." in text or "--" in match.group(1) or "//" in text:
        return None
    return HubId(repo=match.group(1), revision=match.group(2) or "main")


def resolve_model(
    model: str | os.PathLike[str] | None = None,
    *,
    update: bool = False,
    offline: bool = False,
    engine: EngineOptions | None = None,
) -> ModelFolder:
    """The folder of a model: None is `$AUDIOTAG_MODEL` or the embedded default, text is a folder or a Hub id.

    Of a model on the Hub only the files that `engine` needs are downloaded.

    Raises:
        ModelError: there is no such model.
        HubError: the Hub does not have it or give it.
    """
    if update and offline:
        raise UsageError("update and offline: contradict each other. Leave out one of the two")
    wanted = os.fspath(model) if model is not None else os.environ.get("AUDIOTAG_MODEL") or DEFAULT
    if Path(wanted).is_dir():
        return open_model_folder(wanted)
    if wanted == DEFAULT:
        return open_model_folder(embedded_folder(), name=DEFAULT)
    hub_id = None if Path(wanted).exists() else parse_hub_id(wanted)  # a file's name is no question to the Hub
    if hub_id is None:
        raise ModelError(f"model {wanted!r}: is neither a folder nor `{DEFAULT}` nor org/name of a Hub. Check --model")
    return _resolve_on_hub(hub_id, engine or EngineOptions(), update=update, offline=offline)


def embedded_folder() -> Path:
    """Where the embedded default lies: inside an installed wheel, or beside the package in a checkout."""
    package = Path(__file__).parent
    places = (package / "_weights" / DEFAULT, package.parent / "weights" / DEFAULT)
    found = next((place for place in places if (place / "config.json").is_file()), None)
    if found is None:
        raise ModelError(f"the embedded model is missing from {places[0].parent}. Install audiotag-cli again")
    return found


# --- places ---


def hub_cache() -> Path:
    """The Hub's cache folder, by the rules of `huggingface_hub.constants`, without importing it."""
    given = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return Path(_expanded(given)) if given else _huggingface_home() / "hub"


def _huggingface_home() -> Path:
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(_expanded(home))


def audiotag_cache() -> Path:
    """Where audiotag keeps what it made itself: `$AUDIOTAG_CACHE`, or `audiotag` in the user's cache folder."""
    given = os.environ.get("AUDIOTAG_CACHE")
    return Path(_expanded(given or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "audiotag")))


def _expanded(path: str) -> str:
    return os.path.expandvars(os.path.expanduser(path))


def _is_offline() -> bool:
    asked = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return asked.upper() in ("1", "ON", "YES", "TRUE")


# --- what is here already ---


def cached_commit(hub_id: HubId) -> str | None:
    """The commit that a revision was when it was last asked for; None where the cache does not know it."""
    if _COMMIT.fullmatch(hub_id.revision):
        commit = hub_id.revision
    else:
        try:
            commit = (hub_id.storage / "refs" / hub_id.revision).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
    known = _COMMIT.fullmatch(commit) and (hub_id.storage / "snapshots" / commit).is_dir()
    return commit if known else None


def cached_models() -> Iterator[tuple[HubId, ModelFolder]]:
    """Every model of ours in the cache, a commit each; what is incomplete or of another kind is passed over."""
    for config in sorted(hub_cache().glob(f"models--*--*/snapshots/*/{CONFIG}")):
        storage, commit = config.parents[2], config.parent.name
        hub_id = HubId(repo=storage.name.removeprefix("models--").replace("--", "/", 1), revision=commit)
        try:
            yield hub_id, open_model_folder(config.parent, name=hub_id.repo, revision=commit)
        except ModelError:
            continue


def names_of(hub_id: HubId) -> tuple[str, ...]:
    """The branches and tags that were this commit when they were last asked for."""
    refs = hub_id.storage / "refs"
    found = (path for path in sorted(refs.rglob("*")) if path.is_file())
    return tuple(
        path.relative_to(refs).as_posix() for path in found if path.read_text("utf-8").strip() == hub_id.revision
    )


def files_needed(config: ModelConfig, engine: EngineOptions) -> tuple[tuple[str, ...], ...]:
    """What an engine reads: of each tuple one file, the first by preference."""
    is_on_gpu = engine.device not in ("auto", "cpu") or engine.precision in ("fp16", "bf16")
    if engine.engine == "torch" or is_on_gpu:
        return ((WEIGHTS,),)
    if engine.precision == "int8":
        return ((ONNX_INT8,),)
    onnx = (ONNX_INT8, ONNX) if engine.precision == "auto" and config.prefers_int8 else (ONNX,)
    may_use_gpu = engine.device == "auto" and engine.engine == "auto" and has_gpu() and find_spec("torch") is not None
    return ((WEIGHTS,), onnx) if may_use_gpu else (onnx,)


def _has_needed(folder: ModelFolder, engine: EngineOptions) -> bool:
    return all(any(folder.has(name) for name in names) for names in files_needed(folder.config, engine))


def _resolve_on_hub(hub_id: HubId, engine: EngineOptions, *, update: bool, offline: bool) -> ModelFolder:
    commit = None if update else cached_commit(hub_id)
    cached = None if commit is None else _usable_cached(hub_id, commit, engine)
    if cached is not None:
        return cached
    if offline or _is_offline():
        return _offline_rest(hub_id, commit, engine)
    return pull(hub_id, engine=engine)


def _usable_cached(hub_id: HubId, commit: str, engine: EngineOptions) -> ModelFolder | None:
    folder = _open_snapshot(hub_id, commit)
    if folder is None or _has_needed(folder, engine):
        return folder
    exported = _open_exported(folder)
    return exported if exported is not None and _has_needed(exported, engine) else None


def _open_snapshot(hub_id: HubId, commit: str) -> ModelFolder | None:
    path = hub_id.storage / "snapshots" / commit
    if not (path / CONFIG).exists() or not (path / PREPROCESSOR).exists():
        return None
    return _known_weights(open_model_folder(path, name=hub_id.repo, revision=commit))


def _known_weights(folder: ModelFolder) -> ModelFolder:
    """The folder with the checksum of its weights, so that results name the same whichever files are here."""
    weights = _read_record(folder.name, str(folder.revision)).get(WEIGHTS, "")
    return replace(folder, weights_sha256=weights) if len(weights) == 64 and not folder.has(WEIGHTS) else folder


def _record_path(repo: str, commit: str) -> Path:
    return audiotag_cache() / "checksums" / repo.replace("/", "--") / f"{commit}.json"


def _read_record(repo: str, commit: str) -> dict[str, str]:
    """The checksums that the Hub named when a commit was pulled; empty for a cache that others filled."""
    try:
        record = json.loads(_record_path(repo, commit).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(name): str(checksum) for name, checksum in record.items()} if isinstance(record, dict) else {}


def _write_record(hub_id: HubId, offer: Offer) -> None:
    path = _record_path(hub_id.repo, offer.commit)
    with contextlib.suppress(OSError):  # it only makes things nicer
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps(offer.checksums, indent=2) + "\n", encoding="utf-8")
        partial.replace(path)


def _offline_rest(hub_id: HubId, commit: str | None, engine: EngineOptions) -> ModelFolder:
    """The last way without a network: weights without their ONNX file, and torch."""
    folder = None if commit is None else _open_snapshot(hub_id, commit)
    if folder is not None and folder.has(WEIGHTS) and find_spec("torch") is not None:
        exported = _export(folder)
        if _has_needed(exported, engine):
            return exported
    lacks = "is not in the cache" if folder is None else "is not complete in the cache"
    raise HubError(
        f"{hub_id}: {lacks} {hub_cache()}, and audiotag is offline. Run {hub_id.pull_line} where there is a network"
    )


# --- the network ---


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What the Hub says of a revision: its commit, and the checksums of the files that may be downloaded."""

    commit: str
    checksums: dict[str, str]  # name -> sha256 (64 digits) of a large file, git's blob id (40) of another; or empty


def pull(hub_id: HubId, *, engine: EngineOptions | None = None) -> ModelFolder:
    """Downloads what is not here yet of a revision as the Hub has it now; all of its files without `engine`.

    The cache knows a branch's or tag's new commit only when everything has arrived and been checked.

    Raises:
        HubError: the Hub does not have it or give it, it arrived damaged, or the cache cannot be written.
        ModelError: it is a model of another kind, or has no file that the engine can use.
    """
    if _is_offline():
        raise HubError(f"{hub_id}: HF_HUB_OFFLINE is set. Unset it and run {hub_id.pull_line}")
    offer = _ask(hub_id)
    for name in (CONFIG, PREPROCESSOR, CARD):
        if name in offer.checksums:
            _download(hub_id, offer, name)
    folder = open_model_folder(hub_id.storage / "snapshots" / offer.commit, name=hub_id.repo, revision=offer.commit)
    for name in _chosen(hub_id, folder, offer, engine):
        _download(hub_id, offer, name)
    _write_record(hub_id, offer)
    _remember(hub_id, offer.commit)
    folder = _known_weights(folder)
    return folder if engine is None or _has_needed(folder, engine) else _with_onnx(folder, engine)


def _chosen(hub_id: HubId, folder: ModelFolder, offer: Offer, engine: EngineOptions | None) -> list[str]:
    if engine is None:
        return [name for name in DOWNLOADED if name in offer.checksums]
    chosen = []
    for names in files_needed(folder.config, engine):
        usable = (*names, WEIGHTS) if ONNX in names else names  # an ONNX file can be made from the weights
        best = next((name for name in usable if name in offer.checksums), None)
        if best is None:
            raise HubError(f"{hub_id}: has no {' or '.join(names)}. Choose another --engine or --precision")
        chosen.append(best)
    return chosen


def _ask(hub_id: HubId) -> Offer:
    from huggingface_hub import HfApi, constants

    _hush()
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
    timeout = float(constants.HF_HUB_ETAG_TIMEOUT)

    def describe() -> ModelInfo:
        try:
            return api.model_info(hub_id.repo, revision=hub_id.revision, files_metadata=True, timeout=timeout)
        except (KeyError, TypeError, AttributeError) as error:  # JSON of another layout
            raise ValueError("the answer is not a Hub's. Check HF_ENDPOINT and the network's login page") from error

    info = _requested(hub_id, describe)
    commit = info.sha or ""
    if not _COMMIT.fullmatch(commit):
        raise HubError(f"{hub_id}: the server names no commit. Check HF_ENDPOINT")
    files = {file.rfilename: file for file in info.siblings or () if file.rfilename in DOWNLOADED}
    return Offer(commit=commit, checksums={name: _checksum(file) for name, file in files.items()})


def _checksum(file: Any) -> str:
    large = file.lfs.get("sha256") if isinstance(file.lfs, dict) else getattr(file.lfs, "sha256", None)
    return str(large or file.blob_id or "")


def _download(hub_id: HubId, offer: Offer, name: str) -> None:
    """Brings a file into the cache; `huggingface_hub` resumes a cut connection, this checks what arrived."""
    from huggingface_hub import hf_hub_download

    path = hub_id.storage / "snapshots" / offer.commit / name
    for _ in range(2):
        _requested(
            hub_id,
            lambda: hf_hub_download(
                hub_id.repo, name, revision=offer.commit, cache_dir=hub_cache(),
                endpoint=os.environ.get("HF_ENDPOINT") or None,
            ),
        )  # fmt: skip
        if is_intact(path, offer.checksums[name] or recorded_checksum(path)) is not False:
            return
        _forget(path)
    raise HubError(f"{hub_id}: {name} arrived damaged twice: its checksum is wrong. Run {hub_id.pull_line} later")


def _forget(path: Path) -> None:
    blob = path.resolve()
    path.unlink(missing_ok=True)
    blob.unlink(missing_ok=True)


def _remember(hub_id: HubId, commit: str) -> None:
    if cached_commit(hub_id) == commit:  # a cache that cannot be written is still good for this
        return
    ref = hub_id.storage / "refs" / hub_id.revision
    try:
        ref.parent.mkdir(parents=True, exist_ok=True)
        partial = ref.with_name(f".{ref.name}.{os.getpid()}.partial")
        partial.write_text(commit, encoding="utf-8")
        partial.replace(ref)
    except OSError as error:
        raise _cache_error(hub_id, error) from error


def _hush() -> None:
    """The client's log would add lines to our one; its progress bar goes with the `--quiet` of our own log."""
    from huggingface_hub.utils.tqdm import disable_progress_bars

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if not logger.isEnabledFor(logging.WARNING):
        disable_progress_bars()


def _requested(hub_id: HubId, request: Callable[[], _T]) -> _T:
    """The answer to a request, tried again where that may help; every failure becomes a HubError."""
    from huggingface_hub.errors import HfHubHTTPError

    # The HTTP library's own base class: requests, httpx or httpx2, as the installed client chose.
    failures: tuple[type[Exception], ...] = (HfHubHTTPError.__bases__[0], OSError, ValueError)
    for pause in (*BACKOFF, None):
        try:
            return request()
        except failures as error:
            wait = None if pause is None else _wait(error, pause)
            if wait is None:
                raise _explained(hub_id, error) from error
            logger.info("%s: %s. Trying again in %g s", hub_id, type(error).__name__, wait)
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _wait(error: Exception, pause: float) -> float | None:
    """Seconds until another try; None where it would not help, or the client has tried again itself."""
    status = _status(error)
    if status is not None:
        asked = _retry_after(error)
        return None if status not in TRANSIENT or asked > LONGEST_WAIT else max(pause, asked)
    return pause if "Timeout" in type(error).__name__ or type(error).__name__ == "RemoteProtocolError" else None


def _status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    return None if response is None else int(response.status_code)


def _retry_after(error: BaseException) -> float:
    response = getattr(error, "response", None)
    text = "" if response is None else response.headers.get("Retry-After", "")
    return float(text) if text.isdigit() else 0.0


def _explained(hub_id: HubId, error: Exception) -> HubError:
    """One line with the way out."""
    cause: BaseException = error
    if type(error).__name__ == "LocalEntryNotFoundError" and error.__cause__ is not None:
        cause = error.__cause__  # "not in the cache" hides why the Hub did not answer
    status = _status(cause)
    if status is not None:
        return HubError(f"{hub_id}: {_meaning(hub_id, cause, status)}")
    if isinstance(cause, OSError) and cause.errno is not None and not isinstance(cause, ConnectionError):
        return _cache_error(hub_id, cause)
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    what = f"{type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else 'no answer'}"
    return HubError(f"{hub_id}: {endpoint} cannot be reached ({what}). Run {hub_id.pull_line} where there is a network")


def _meaning(hub_id: HubId, error: BaseException, status: int) -> str:
    kind = type(error).__name__
    if kind == "GatedRepoError" or status == 403:
        return (
            f"access is refused (HTTP {status}): the model is gated, or the token lacks a permission. "
            f"Ask for access on its page, set HF_TOKEN and run {hub_id.pull_line}"
        )
    if kind == "RevisionNotFoundError":
        return f"the model has no revision {hub_id.revision!r}. Check what follows the @"
    if status == 401:
        return (
            "is not on the Hub, or is private and needs a token (HTTP 401). "
            f"Check the name, or set HF_TOKEN and run {hub_id.pull_line}"
        )
    if status == 404:
        return "is neither a folder here nor on the Hub (HTTP 404). Check the name; a private model needs HF_TOKEN"
    if status == 429:
        wait = f" in {_retry_after(error):g} s" if _retry_after(error) else " later"
        return f"the Hub limits requests (HTTP 429). Run {hub_id.pull_line}{wait}; HF_TOKEN raises the limit"
    return f"the Hub failed (HTTP {status}). Run {hub_id.pull_line} later"


def _cache_error(hub_id: HubId, error: OSError) -> HubError:
    reason = error.strerror or str(error)
    return HubError(
        f"{hub_id}: cannot be kept in the cache {hub_cache()}: {reason}. "
        f"Make room or set HF_HUB_CACHE to another folder, and run {hub_id.pull_line}"
    )


# --- what the commands about models need beside that ---


def pull_many(wanted: Iterable[HubId], *, engine: EngineOptions | None = None) -> Iterator[tuple[HubId, ModelFolder]]:
    """Pulls one after the other; see `pull`."""
    for hub_id in wanted:
        yield hub_id, pull(hub_id, engine=engine)


def remove_cached(hub_id: HubId, *, whole: bool) -> tuple[tuple[str, ...], int]:
    """Removes all revisions, or only this one, from the Hub's cache and ours; the commits removed and bytes freed.

    Raises:
        HubError: it is not in the cache, or the cache cannot be changed.
    """
    snapshots = hub_id.storage / "snapshots"
    commit = cached_commit(hub_id)
    known = sorted(path.name for path in snapshots.iterdir()) if whole and snapshots.is_dir() else [commit]
    commits = tuple(name for name in known if name is not None)
    if not commits:
        raise HubError(f"{hub_id}: is not in the cache {hub_cache()}. `audiotag models list` shows what is")
    from huggingface_hub import scan_cache_dir

    _hush()
    try:
        removal = scan_cache_dir(hub_cache()).delete_revisions(*commits)
        removal.execute()
        if any((snapshots / name).exists() for name in commits):  # the client only logs this
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        for name in commits:
            shutil.rmtree(exported_folder(hub_id.repo, name), ignore_errors=True)
            _record_path(hub_id.repo, name).unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise HubError(f"{hub_id}: cannot be removed from {hub_cache()}: {reason}. Check its owner") from error
    return commits, removal.expected_freed_size


def files_recorded(folder: ModelFolder, *, offline: bool) -> dict[str, str]:
    """The checksum of each file as the Hub recorded it, from the cache or, where that keeps none, from the Hub."""
    known = {} if folder.revision is None else _read_record(folder.name, folder.revision)
    present = (name for name in DOWNLOADED if folder.has(name))
    recorded = {name: recorded_checksum(folder.path / name) or known.get(name, "") for name in present}
    if all(recorded.values()) or folder.revision is None or offline or _is_offline():
        return recorded
    return _ask(HubId(repo=folder.name, revision=folder.revision)).checksums


# --- checksums ---


def recorded_checksum(path: Path) -> str:
    """What the Hub recorded for a file of the cache: blobs are named after it. Empty where that is not known."""
    name = path.resolve().name if path.is_symlink() else ""
    return name if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", name) else ""


def is_intact(path: Path, checksum: str) -> bool | None:
    """Whether a file's bytes are those of a checksum of the Hub; None where there is none to compare with."""
    if not checksum:
        return None
    return (sha256_of(path) if len(checksum) == 64 else git_blob_id(path)) == checksum


def git_blob_id(path: Path) -> str:
    """SHA-1 of a file as git stores it (https://git-scm.com/book/en/v2/Git-Internals-Git-Objects)."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


# --- ONNX files that a repository lacks ---


def _with_onnx(folder: ModelFolder, engine: EngineOptions) -> ModelFolder:
    exported = _open_exported(folder) or _export(folder)
    if not _has_needed(exported, engine):
        raise HubError(f"{folder.name}: has no {ONNX_INT8}. Use --precision fp32")
    return exported


def exported_folder(repo: str, commit: str) -> Path:
    """Where the ONNX file made from a commit's weights is kept."""
    return audiotag_cache() / "exported" / repo.replace("/", "--") / commit


def _checksum_file(path: Path) -> Path:
    return path / (ONNX + ".sha256")


def _open_exported(folder: ModelFolder) -> ModelFolder | None:
    """What an earlier run exported, if it is still what that run wrote."""
    path = exported_folder(folder.name, str(folder.revision))
    try:
        expected = _checksum_file(path).read_text(encoding="utf-8").strip()
        if sha256_of(path / ONNX) != expected:
            return None
    except (OSError, ValueError):
        return None
    return open_model_folder(path, name=folder.name, revision=folder.revision)


def _export(folder: ModelFolder) -> ModelFolder:
    """Exports a model's weights once, in a folder that appears whole or not at all."""
    if find_spec("torch") is None or find_spec("onnx") is None:
        raise HubError(f"{folder.name}: has no ONNX file, and making one needs PyTorch. Run `{EXTRA}`")
    from audiotag.export import export_folder

    target = exported_folder(folder.name, str(folder.revision))
    logger.info("%s: has no ONNX file; exporting it once to %s", folder.name, target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as room:
            partial = Path(room) / "model"
            partial.mkdir()
            for name in (CONFIG, PREPROCESSOR, WEIGHTS):
                shutil.copyfile(folder.file(name), partial / name)
            export_folder(replace(folder, path=partial))
            _checksum_file(partial).write_text(sha256_of(partial / ONNX) + "\n", encoding="utf-8")
            shutil.rmtree(target, ignore_errors=True)  # an earlier one that did not match its checksum
            if not target.exists():
                partial.rename(target)
    except OSError as error:
        raise ModelError(
            f"{target}: cannot be written: {error.strerror or error}. Set AUDIOTAG_CACHE to another folder"
        ) from error
    return open_model_folder(target, name=folder.name, revision=folder.revision)
