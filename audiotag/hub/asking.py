"""Requests to the Hub: what it says of a revision, and trying again where that may help."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from audiotag.errors import HubError
from audiotag.hub.failures import explained, http_status, retry_after
from audiotag.hub.files import DOWNLOADED
from audiotag.hub.names import COMMIT, HubId

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

BACKOFF = (1.0, 2.0, 4.0)  # seconds before each new try of a request that `huggingface_hub` itself does not repeat
LONGEST_WAIT = 60.0  # seconds that a Retry-After may ask for; above it the person decides
TRANSIENT = (408, 429, 500, 502, 503, 504)  # HTTP statuses that may be gone at the next try

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What the Hub says of a revision: its commit, and the checksums of the files that may be downloaded."""

    commit: str
    checksums: dict[str, str]  # name -> sha256 (64 digits) of a large file, git's blob id (40) of another; or empty


def ask(hub_id: HubId) -> Offer:
    """What the Hub has now of a revision.

    Raises:
        HubError: it does not have it, does not give it, or does not answer.
    """
    from huggingface_hub import HfApi, constants

    hush()
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
    timeout = float(constants.HF_HUB_ETAG_TIMEOUT)

    def describe() -> ModelInfo:
        try:
            return api.model_info(hub_id.repo, revision=hub_id.revision, files_metadata=True, timeout=timeout)
        except (KeyError, TypeError, AttributeError) as error:  # JSON of another layout
            raise ValueError("the answer is not a Hub's. Check HF_ENDPOINT and the network's login page") from error

    info = requested(hub_id, describe)
    commit = info.sha or ""
    if not COMMIT.fullmatch(commit):
        raise HubError(f"{hub_id}: the server names no commit. Check HF_ENDPOINT")
    files = {file.rfilename: file for file in info.siblings or () if file.rfilename in DOWNLOADED}
    return Offer(commit=commit, checksums={name: _checksum(file) for name, file in files.items()})


def _checksum(file: Any) -> str:
    large = file.lfs.get("sha256") if isinstance(file.lfs, dict) else getattr(file.lfs, "sha256", None)
    return str(large or file.blob_id or "")


def hush() -> None:
    """Silences the client's log, whose lines would stand beside our one, and with `--quiet` its progress bars."""
    from huggingface_hub.utils.tqdm import disable_progress_bars

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if not logger.isEnabledFor(logging.WARNING):
        disable_progress_bars()


def requested(hub_id: HubId, request: Callable[[], _T]) -> _T:
    """The answer to a request, tried again where that may help; every failure becomes a HubError."""
    from huggingface_hub.errors import HfHubHTTPError

    # The HTTP library's own base class: requests, httpx or httpx2, as the installed client chose; hf_xet's; and what a
    # proxy needs that is not installed.
    failures: tuple[type[Exception], ...] = (
        HfHubHTTPError.__bases__[0], OSError, ValueError, RuntimeError, ImportError,
    )  # fmt: skip
    for pause in (*BACKOFF, None):
        try:
            with warnings.catch_warnings(action="ignore"):  # of a full disk, or one without links
                return request()
        except failures as error:
            wait = None if pause is None else _wait(error, pause)
            if wait is None:
                raise explained(hub_id, error) from error
            logger.info("%s: %s. Trying again in %g s", hub_id, type(error).__name__, wait)
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _wait(error: Exception, pause: float) -> float | None:
    """Seconds until another try; None where it would not help, or the client has tried again itself."""
    status = http_status(error)
    if status is not None:
        asked = retry_after(error)
        return None if status not in TRANSIENT or asked > LONGEST_WAIT else max(pause, asked)
    kind = type(error).__name__
    return pause if "Timeout" in kind or kind in ("RemoteProtocolError", "RuntimeError") else None
