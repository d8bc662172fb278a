"""The fingerprint of a run: what may not change until its output is finished, nor between outputs that are merged."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from audiotag.errors import OutputError
from audiotag.journal.lines import VERSION

# Names of the same model may differ between two sessions; its checksum may not.
_NOT_COMPARED = ("model", "revision")


def fingerprint_of(form: str, header: Mapping[str, Any], with_header: bool) -> dict[str, Any]:
    """The first line of a journal: what the run is, and that it starts now."""
    shown = {"audiotag_journal": VERSION, "format": form, "with_header": with_header, "header": dict(header)}
    # Through JSON, so that tuples compare equal to the lists that are read back.
    return {**json.loads(json.dumps(shown)), "started": utc_now()}


def utc_now() -> str:
    """The time, to the second, as fingerprints and provenances show it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def refuse_changes(was: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    """Compares the fingerprint that an output was begun with to the present one.

    Raises:
        OutputError: a setting was changed; the message names each.
    """
    changes = [
        f"{name} was {short_json(before)}, is {short_json(after)}"
        for name, before, after in differences(settings_of(was), settings_of(now))
    ]
    if changes:
        raise OutputError(
            f"{path}: was begun with other settings: {'; '.join(changes)}. "
            "Resume with those it was begun with, or begin anew with --overwrite"
        )


def settings_of(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be the same for two outputs to belong together, flat; names of models do not count."""
    header = {name: value for name, value in fingerprint["header"].items() if name not in _NOT_COMPARED}
    parameters = header.pop("parameters", {})
    return {**header, **parameters, "format": fingerprint["format"], "header": fingerprint["with_header"]}


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Name, earlier and present value of what is not the same."""
    for name in dict.fromkeys((*was, *now)):
        if was.get(name) != now.get(name):
            yield name, was.get(name), now.get(name)


def short_json(value: Any) -> str:
    """A value as an error message shows it."""
    text = "not set" if value is None else json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
