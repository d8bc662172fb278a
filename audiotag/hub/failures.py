"""What went wrong between here and the Hub, as one line that names the way out."""

from __future__ import annotations

import os
from dataclasses import replace

from audiotag.errors import HubError
from audiotag.hub.names import COMMIT, HubId
from audiotag.hub.places import hub_cache


def http_status(error: BaseException) -> int | None:
    """The status of the response that an error carries; None where there was no response."""
    response = getattr(error, "response", None)
    return None if response is None else int(response.status_code)


def retry_after(error: BaseException) -> float:
    """Seconds that the server asks to wait before another try; 0 where it does not say."""
    response = getattr(error, "response", None)
    text = "" if response is None else response.headers.get("Retry-After", "")
    return float(text) if text.isdigit() else 0.0


def explained(hub_id: HubId, error: Exception) -> HubError:
    """One line with the way out."""
    cause: BaseException = error
    if type(error).__name__ == "LocalEntryNotFoundError" and error.__cause__ is not None:
        cause = error.__cause__  # "not in the cache" hides why the Hub did not answer
    status = http_status(cause)
    if status is not None:
        return HubError(f"{hub_id}: {_meaning(hub_id, cause, status)}")
    if isinstance(cause, OSError) and cause.errno is not None and not isinstance(cause, ConnectionError):
        return cache_error(hub_id, cause)
    told = str(cause).splitlines()[0] if str(cause) else "no answer"
    if isinstance(cause, RuntimeError):  # hf_xet has no errors of its own
        way = f"Run {hub_id.pull_line} later, or set HF_HUB_DISABLE_XET=1 to go around it"
        return HubError(f"{hub_id}: the Hub's storage failed ({told}). {way}")
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    # LocalEntryNotFoundError is a FileNotFoundError.
    is_silence = isinstance(cause, ConnectionError | TimeoutError | FileNotFoundError)
    if isinstance(cause, OSError | ValueError) and not is_silence:
        way = f"Check HF_ENDPOINT and HF_TOKEN, and run {hub_id.pull_line} later"
        return HubError(f"{hub_id}: {endpoint} gave no answer that can be used ({told}). {way}")
    what = f"{type(cause).__name__}: {told}"
    return HubError(f"{hub_id}: {endpoint} cannot be reached ({what}). Run {hub_id.pull_line} where there is a network")


def _meaning(hub_id: HubId, error: BaseException, status: int) -> str:
    kind = type(error).__name__
    if kind == "DisabledRepoError":
        return f"the Hub has shut this model off (HTTP {status}). Its page may say why; use another"
    if kind == "GatedRepoError" or status == 403:
        return (
            f"access is refused (HTTP {status}): the model is gated, or the token lacks a permission. "
            f"Ask for access on its page, set HF_TOKEN and run {hub_id.pull_line}"
        )
    if kind == "RevisionNotFoundError" and COMMIT.fullmatch(hub_id.revision):
        newest = replace(hub_id, revision="main").pull_line
        return f"the Hub has no such commit. Check what follows the @, or run {newest} for the newest"
    if kind == "RevisionNotFoundError":
        return f"the model has no revision {hub_id.revision!r}. Check what follows the @"
    if status == 401 and "Invalid credentials" in str(error):  # which the Hub answers for public models, too
        way = f"Set HF_TOKEN to another, or have none (`hf auth logout`), and run {hub_id.pull_line}"
        return f"the token is not valid (HTTP 401): it has expired, or is misspelt. {way}"
    if status == 401:
        return (
            "is not on the Hub, or is private and needs a token (HTTP 401). "
            f"Check the name, or set HF_TOKEN and run {hub_id.pull_line}"
        )
    if status == 404:
        return "is neither a folder here nor on the Hub (HTTP 404). Check the name; a private model needs HF_TOKEN"
    if status == 429:
        wait = f" in {retry_after(error):g} s" if retry_after(error) else " later"
        return f"the Hub limits requests (HTTP 429). Run {hub_id.pull_line}{wait}; HF_TOKEN raises the limit"
    return f"the Hub failed (HTTP {status}). Run {hub_id.pull_line} later"


def cache_error(hub_id: HubId, error: OSError) -> HubError:
    """The cache cannot be written: where it is, and what to do."""
    reason = error.strerror or str(error)
    return HubError(
        f"{hub_id}: cannot be kept in the cache {hub_cache()}: {reason}. "
        f"Make room or set HF_HUB_CACHE to another folder, and run {hub_id.pull_line}"
    )
