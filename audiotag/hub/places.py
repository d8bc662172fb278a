"""The cache folders on this machine, small files written there, and whether the environment allows the network."""

from __future__ import annotations

import os
from pathlib import Path


def hub_cache() -> Path:
    """The Hub's cache folder, by the rules of `huggingface_hub.constants`, without importing it."""
    given = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    home = os.environ.get("HF_HOME") or _in_user_cache("huggingface")
    return _expanded(given or os.path.join(home, "hub"))


def audiotag_cache() -> Path:
    """Where audiotag keeps what it made itself: `$AUDIOTAG_CACHE`, or `audiotag` in the user's cache folder."""
    return _expanded(os.environ.get("AUDIOTAG_CACHE") or _in_user_cache("audiotag"))


def _in_user_cache(name: str) -> str:
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", name)


def _expanded(path: str) -> Path:
    return Path(os.path.expandvars(os.path.expanduser(path)))


def write_small(path: Path, text: str) -> None:
    """Writes a file that others may read at the same time: what they find is the old text or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def is_offline() -> bool:
    """Whether the environment forbids the network, by the variables of `huggingface_hub`."""
    asked = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return asked.upper() in ("1", "ON", "YES", "TRUE")
