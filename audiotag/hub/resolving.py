"""The front door: a folder, the embedded default, what the cache holds, and only then the Hub."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from audiotag.errors import HubError, ModelError, UsageError
from audiotag.hub.cache import cached_commit
from audiotag.hub.checksums import known_weights
from audiotag.hub.exporting import export, open_exported
from audiotag.hub.files import has_needed
from audiotag.hub.names import DEFAULT, HubId, parse_hub_id
from audiotag.hub.places import hub_cache, is_offline
from audiotag.hub.pulling import pull
from audiotag.model_folder import CONFIG, PREPROCESSOR, WEIGHTS, ModelFolder, open_model_folder
from audiotag.options import EngineOptions


def resolve_model(
    model: str | os.PathLike[str] | None = None,
    *,
    update: bool = False,
    offline: bool = False,
    engine: EngineOptions | None = None,
) -> ModelFolder:
    """The folder of a model: None is `$AUDIOTAG_MODEL` or the embedded default, text is a folder or a Hub id.

    Of a model on the Hub only the files that `engine` needs are downloaded; without one, what the cache has of it will
    do.

    Raises:
        UsageError: `update` and `offline` are both asked for.
        ModelError: there is no such model.
        HubError: the Hub does not have it or give it.
    """
    if update and offline:
        raise UsageError("update and offline: contradict each other. Leave out one of the two")
    wanted = os.fspath(model) if model is not None else os.environ.get("AUDIOTAG_MODEL") or DEFAULT
    if os.path.isdir(wanted):  # unlike that of Path, it says no in a working folder that may not be entered (sudo -u)
        return open_model_folder(wanted)
    if wanted == DEFAULT:
        return open_model_folder(embedded_folder(), name=DEFAULT)
    hub_id = None if os.path.exists(wanted) else parse_hub_id(wanted)  # a file's name is no question to the Hub
    if hub_id is None:
        kinds = f"neither a folder nor `{DEFAULT}` nor org/name on the Hub"
        raise ModelError(f"model {wanted!r}: is {kinds}. Check its name")
    return _resolve_on_hub(hub_id, engine, update=update, offline=offline)


def embedded_folder() -> Path:
    """Where the embedded default lies: inside an installed wheel, or beside the package in a checkout.

    Raises:
        ModelError: it is in neither place.
    """
    package = Path(__file__).parents[1]
    places = (package / "_weights" / DEFAULT, package.parent / "weights" / DEFAULT)
    found = next((place for place in places if (place / CONFIG).is_file()), None)
    if found is None:
        raise ModelError(f"the embedded model is missing from {places[0].parent}. Install audiotag-cli again")
    return found


def _resolve_on_hub(hub_id: HubId, engine: EngineOptions | None, *, update: bool, offline: bool) -> ModelFolder:
    commit = None if update else cached_commit(hub_id)
    cached = None if commit is None else _usable_cached(hub_id, commit, engine)
    if cached is not None:
        return cached
    engine = engine or EngineOptions()
    if not update and (offline or is_offline()):
        return _resolve_offline(hub_id, commit, engine)
    # What is missing comes from the commit that the branch was: only `update` and `models pull` ask for a newer one.
    return pull(hub_id if commit is None else replace(hub_id, revision=commit), engine=engine)


def _usable_cached(hub_id: HubId, commit: str, engine: EngineOptions | None) -> ModelFolder | None:
    folder = _open_snapshot(hub_id, commit)
    if folder is None or engine is None or has_needed(folder, engine):
        return folder
    exported = open_exported(folder)
    return exported if exported is not None and has_needed(exported, engine) else None


def _open_snapshot(hub_id: HubId, commit: str) -> ModelFolder | None:
    path = hub_id.storage / "snapshots" / commit
    if not (path / CONFIG).exists() or not (path / PREPROCESSOR).exists():
        return None
    return known_weights(open_model_folder(path, name=hub_id.repo, revision=commit))


def _resolve_offline(hub_id: HubId, commit: str | None, engine: EngineOptions) -> ModelFolder:
    """What can be done without a network: make the ONNX file from cached weights, where torch is installed."""
    folder = None if commit is None else _open_snapshot(hub_id, commit)
    if folder is not None and folder.has(WEIGHTS) and find_spec("torch") is not None:
        exported = export(folder)
        if has_needed(exported, engine):
            return exported
    lacks = "is not in the cache" if folder is None else "is not complete in the cache"
    raise HubError(
        f"{hub_id}: {lacks} {hub_cache()}, and audiotag is offline. Run {hub_id.pull_line} where there is a network"
    )
