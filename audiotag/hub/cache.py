"""What is on this machine already: the commits in the Hub's cache, read without one request, and removing them."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator

from audiotag.errors import HubError, ModelError
from audiotag.hub.asking import hush
from audiotag.hub.checksums import record_path
from audiotag.hub.exporting import exported_folder
from audiotag.hub.names import COMMIT, HubId
from audiotag.hub.places import hub_cache
from audiotag.model_folder import CONFIG, ModelFolder, open_model_folder


def cached_commit(hub_id: HubId) -> str | None:
    """The commit that a revision was when it was last asked for; None where the cache does not know it."""
    if COMMIT.fullmatch(hub_id.revision):
        commit = hub_id.revision
    else:
        try:
            commit = (hub_id.storage / "refs" / hub_id.revision).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
    known = COMMIT.fullmatch(commit) and (hub_id.storage / "snapshots" / commit).is_dir()
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
    revision = hub_id.revision.encode()
    return tuple(path.relative_to(refs).as_posix() for path in found if path.read_bytes().strip() == revision)


def remove_cached(hub_id: HubId, *, whole: bool) -> tuple[tuple[str, ...], int]:
    """Removes all revisions, or only this one, from the Hub's cache and ours; the commits removed and bytes freed.

    Raises:
        HubError: it is not in the cache, or the cache cannot be changed.
    """
    snapshots = hub_id.storage / "snapshots"
    commit = cached_commit(hub_id)
    known = sorted(path.name for path in snapshots.glob("*") if path.is_dir()) if whole else [commit]
    commits = tuple(name for name in known if name is not None)
    if not commits:
        raise HubError(f"{hub_id}: is not in the cache {hub_cache()}. `audiotag models list` shows what is")
    from huggingface_hub import scan_cache_dir

    hush()
    try:
        found = scan_cache_dir(hub_cache())
        if ("model", hub_id.repo) not in ((repo.repo_type, repo.repo_id) for repo in found.repos):
            what = "is damaged in the cache: a file, or a revision that a name leads to, is missing"
            raise HubError(f"{hub_id}: {what}. Remove the folder {hub_id.storage}")
        removal = found.delete_revisions(*commits)
        removal.execute()
        if any((snapshots / name).exists() for name in commits):  # the client only logs this
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        for name in commits:
            shutil.rmtree(exported_folder(hub_id.repo, name), ignore_errors=True)
            record_path(hub_id.repo, name).unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise HubError(f"{hub_id}: cannot be removed from {hub_cache()}: {reason}. Check its owner") from error
    return commits, removal.expected_freed_size
