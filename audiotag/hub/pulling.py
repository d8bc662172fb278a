"""Downloading a revision: only the files that are needed and not here yet, each checked when it has arrived."""

from __future__ import annotations

import os
from pathlib import Path

from audiotag.errors import HubError
from audiotag.hub.asking import Offer, ask, requested
from audiotag.hub.cache import cached_commit
from audiotag.hub.checksums import is_intact, known_weights, recorded_checksum, write_record
from audiotag.hub.exporting import with_onnx
from audiotag.hub.failures import cache_error
from audiotag.hub.files import DOWNLOADED, files_needed, has_needed
from audiotag.hub.names import HubId
from audiotag.hub.places import hub_cache, is_offline, write_small
from audiotag.model_folder import CARD, CONFIG, ONNX, PREPROCESSOR, WEIGHTS, ModelFolder, open_model_folder
from audiotag.options import EngineOptions


def pull(hub_id: HubId, *, engine: EngineOptions | None = None) -> ModelFolder:
    """Downloads what is not here yet of a revision as the Hub has it now; all of its files without `engine`.

    The cache knows a branch's or tag's new commit only when everything has arrived and been checked.

    Raises:
        HubError: the Hub does not have it or give it, it arrived damaged, or the cache cannot be written.
        ModelError: it is a model of another kind, or has no file that the engine can use.
    """
    if is_offline():
        raise HubError(f"{hub_id}: HF_HUB_OFFLINE is set. Unset it and run {hub_id.pull_line}")
    offer = ask(hub_id)
    if CONFIG not in offer.checksums:
        raise HubError(f"{hub_id}: is no model that audiotag runs: it has no {CONFIG}. Check the name")
    for name in (CONFIG, PREPROCESSOR, CARD):
        if name in offer.checksums:
            _download(hub_id, offer, name)
    folder = open_model_folder(hub_id.storage / "snapshots" / offer.commit, name=hub_id.repo, revision=offer.commit)
    for name in _chosen(hub_id, folder, offer, engine):
        _download(hub_id, offer, name)
    write_record(hub_id, offer)
    _remember(hub_id, offer.commit)
    folder = known_weights(folder)
    return folder if engine is None or has_needed(folder, engine) else with_onnx(folder, engine)


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


def _download(hub_id: HubId, offer: Offer, name: str) -> None:
    """Brings a file into the cache; `huggingface_hub` resumes a cut connection, this checks what arrived."""
    from huggingface_hub import hf_hub_download

    path = hub_id.storage / "snapshots" / offer.commit / name
    for _ in range(2):
        requested(
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
    try:
        write_small(hub_id.storage / "refs" / hub_id.revision, commit)
    except OSError as error:
        raise cache_error(hub_id, error) from error
