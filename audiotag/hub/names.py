"""What a model on the Hub is called: `org/name`, and a branch, a tag or a commit after an @."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from audiotag.hub.places import hub_cache

DEFAULT = "default"  # the name of the embedded model

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_HUB_ID = re.compile(rf"({_PART}/{_PART})(?:@([A-Za-z0-9_][A-Za-z0-9._/+-]{{0,249}}))?")
COMMIT = re.compile(r"[0-9a-f]{40}")


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


def parse_hub_id(text: str) -> HubId | None:
    """The Hub id that `text` is, or None where it cannot be one.

    >>> parse_hub_id("org/name@v1")
    HubId(repo='org/name', revision='v1')
    """
    match = _HUB_ID.fullmatch(text)
    if match is None or ".." in text or "--" in match.group(1) or "//" in text or match.group(1).endswith(".git"):
        return None
    return HubId(repo=match.group(1), revision=match.group(2) or "main")
