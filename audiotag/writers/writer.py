"""What a writer is, and the header that it may open with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from audiotag import __version__
from audiotag.results import SCHEMA_VERSION, Result

Header = Mapping[str, Any]


class Writer(Protocol):
    """Takes the results of a run: `begin`, then `write` for each, then `end`."""

    def begin(self) -> None:
        """Writes what comes before the first result."""

    def write(self, result: Result) -> None:
        """Writes a result and flushes it."""

    def end(self) -> None:
        """Writes what comes after the last result."""


def run_header(*, model: str, revision: str | None, sha256: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What a result says about its run: program, schema, model and parameters."""
    return {
        "version": __version__,
        "schema": SCHEMA_VERSION,
        "model": model,
        "revision": revision,
        "sha256": sha256,
        "parameters": dict(parameters),
    }
