"""Whether a file is the one that the Hub has: its bytes, and the checksums that the Hub named.

A cache with links names its files after them; a record of our own, made when a commit is pulled, knows them too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

from audiotag.hub.asking import Offer, ask
from audiotag.hub.files import DOWNLOADED
from audiotag.hub.names import HubId
from audiotag.hub.places import audiotag_cache, is_offline, write_small
from audiotag.model_folder import WEIGHTS, ModelFolder, sha256_of


def recorded_checksum(path: Path) -> str:
    """What the Hub recorded for a file of the cache: blobs are named after it. Empty where that is not known.

    A blob may be a link itself, to where the client keeps what several repositories have: under Xet's hash, not ours.
    """
    name = path.readlink().name if path.is_symlink() else ""
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


def files_recorded(folder: ModelFolder, *, offline: bool) -> dict[str, str]:
    """The checksum of each file as the Hub recorded it, from the cache or, where that keeps none, from the Hub.

    Raises:
        HubError: the Hub has to be asked, and does not answer.
    """
    known = {} if folder.revision is None else _read_record(folder.name, folder.revision)
    present = filter(folder.has, DOWNLOADED)
    recorded = {name: recorded_checksum(folder.path / name) or known.get(name, "") for name in present}
    if all(recorded.values()) or folder.revision is None or offline or is_offline():
        return recorded
    return ask(HubId(repo=folder.name, revision=folder.revision)).checksums


def known_weights(folder: ModelFolder) -> ModelFolder:
    """The folder with the checksum of its weights as the Hub named it, where only other files were downloaded.

    So the outputs of a run name the same checksum whichever of the model's files are here.
    """
    weights = _read_record(folder.name, str(folder.revision)).get(WEIGHTS, "")
    return replace(folder, weights_sha256=weights) if len(weights) == 64 and not folder.has(WEIGHTS) else folder


def record_path(repo: str, commit: str) -> Path:
    """Where the checksums that the Hub named for a commit are noted."""
    return audiotag_cache() / "checksums" / repo.replace("/", "--") / f"{commit}.json"


def _read_record(repo: str, commit: str) -> dict[str, str]:
    """The checksums that the Hub named when a commit was pulled; empty for a cache that others filled."""
    try:
        record = json.loads(record_path(repo, commit).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(name): str(checksum) for name, checksum in record.items()} if isinstance(record, dict) else {}


def write_record(hub_id: HubId, offer: Offer) -> None:
    """Notes the checksums that the Hub named for a commit, where that can be written."""
    with contextlib.suppress(OSError):  # it only makes things nicer
        write_small(record_path(hub_id.repo, offer.commit), json.dumps(offer.checksums, indent=2) + "\n")
