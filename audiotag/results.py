"""What a run gives: frozen records, and the dictionaries that JSON shows of them.

The writers (`writers`) turn these records into text; `pipeline` makes them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, cast

# Version of the layout that `ClipResult.to_dict` gives; it goes up when a key changes its meaning or goes away.
SCHEMA_VERSION = 1

Status = Literal["ok", "empty", "failed"]
_STATUSES_BY_WEIGHT: tuple[Status, ...] = ("failed", "ok", "empty")

SCORE_DIGITS = 6
SECONDS_DIGITS = 3


def outcome_of(statuses: Collection[str]) -> Status:
    """How an input ended that has a record for each channel.

    Raises:
        ValueError: there is none, or something else than a status.
    """
    return min(cast("Collection[Status]", statuses), key=_STATUSES_BY_WEIGHT.index)


@dataclass(frozen=True)
class Tag:
    """A label and its score on a clip or a window.

    `head` is the name of the network's head that the label belongs to, or None where there is only one.
    """

    label: str
    score: float
    head: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The form a Hub audio-classification pipeline returns, plus `head` where a model has several."""
        shown: dict[str, Any] = {"label": self.label, "score": round(self.score, SCORE_DIGITS)}
        return shown if self.head is None else {**shown, "head": self.head}


@dataclass(frozen=True, kw_only=True)
class WindowResult:
    """The tags of one window; `start` and `end` are seconds from the beginning of the input."""

    start: float
    end: float
    tags: tuple[Tag, ...]

    def to_dict(self) -> dict[str, Any]:
        """`{"start", "end", "tags"}` with rounded numbers."""
        return {
            "start": round(self.start, SECONDS_DIGITS),
            "end": round(self.end, SECONDS_DIGITS),
            "tags": [tag.to_dict() for tag in self.tags],
        }


@dataclass(frozen=True, kw_only=True)
class Event:
    """A label that is heard from `start` to `end` (seconds of the input); `score` is the highest in between.

    `head` is that of `Tag`.
    """

    label: str
    start: float
    end: float
    score: float
    head: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """`{"label", "start", "end", "score"}` with rounded numbers, plus `head` where a model has several."""
        shown: dict[str, Any] = {
            "label": self.label,
            "start": round(self.start, SECONDS_DIGITS),
            "end": round(self.end, SECONDS_DIGITS),
            "score": round(self.score, SCORE_DIGITS),
        }
        return shown if self.head is None else {**shown, "head": self.head}


@dataclass(frozen=True, kw_only=True)
class ClipResult:
    """What is heard in one input (or, with `channel`, in one of its channels).

    `tags` are sorted by falling score; none reached its threshold where the tuple is empty.
    `windows` and `events` are None unless they were asked for; with events, `tags` are the labels that have one, with
    the score of the likeliest. `start` is where tagging began (seconds into the input), `duration` how many seconds
    were tagged. `warning` says what was wrong with an input that was only partly read.
    """

    path: str
    duration: float
    tags: tuple[Tag, ...]
    start: float = 0.0
    windows: tuple[WindowResult, ...] | None = None
    events: tuple[Event, ...] | None = None
    channel: int | None = None
    warning: str | None = None

    @property
    def status(self) -> Literal["ok", "empty"]:
        """`ok`, or `empty` where no label reached its threshold."""
        return "ok" if self.tags else "empty"

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of product contract version `SCHEMA_VERSION`; optional keys are left out when unset."""
        shown: dict[str, Any] = {
            "path": self.path,
            "status": self.status,
            "duration": round(self.duration, SECONDS_DIGITS),
        }
        if self.start:
            shown["start"] = round(self.start, SECONDS_DIGITS)
        if self.channel is not None:
            shown["channel"] = self.channel
        shown["tags"] = [tag.to_dict() for tag in self.tags]
        if self.windows is not None:
            shown["windows"] = [window.to_dict() for window in self.windows]
        if self.events is not None:
            shown["events"] = [event.to_dict() for event in self.events]
        if self.warning is not None:
            shown["warning"] = self.warning
        return shown


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An input that could not be tagged, and why in one line."""

    path: str
    error: str

    @property
    def status(self) -> Literal["failed"]:
        """Always `failed`."""
        return "failed"

    def to_dict(self) -> dict[str, Any]:
        """`{"path", "status", "error"}`."""
        return {"path": self.path, "status": self.status, "error": self.error}


Result = ClipResult | Failure


_TEXTS = ("path", "label", "head", "error", "warning")
# Numbers that every format can show, up to these; Parquet's channels have 32 bits.
_LARGEST = {"score": 1, "start": 2**31, "end": 2**31, "duration": 2**31, "channel": 2**31 - 1}


def result_from_dict(shown: dict[str, Any]) -> Result:
    """The record that `to_dict` showed, its numbers as rounded as they were shown; null stands for no value.

    Raises:
        KeyError, TypeError: it is not the dictionary of a result.
    """
    values = _checked(shown)
    if values["status"] == "failed":
        return Failure(path=values["path"], error=values["error"])
    windows, events = values.get("windows"), values.get("events")
    return ClipResult(
        path=values["path"],
        duration=values["duration"],
        tags=_tags_from(values["tags"]),
        start=values.get("start", 0.0),
        windows=None if windows is None else tuple(_window_from(_checked(window)) for window in windows),
        events=None if events is None else tuple(Event(**_checked(event)) for event in events),
        channel=values.get("channel"),
        warning=values.get("warning"),
    )


def _tags_from(shown: list[dict[str, Any]]) -> tuple[Tag, ...]:
    return tuple(Tag(**_checked(tag)) for tag in shown)


def _window_from(values: dict[str, Any]) -> WindowResult:
    return WindowResult(start=values["start"], end=values["end"], tags=_tags_from(values["tags"]))


def _checked(shown: Any) -> dict[str, Any]:
    """What an object of JSON holds but nulls, if text is text and numbers are numbers."""
    if not isinstance(shown, dict):
        raise TypeError(f"{shown!r} is no object")
    values = {key: value for key, value in shown.items() if value is not None}
    for key, value in values.items():
        if key in _TEXTS and not isinstance(value, str):
            raise TypeError(f"{key} must be text, not {value!r}")
        if key in _LARGEST and not (type(value) in (int, float) and 0 <= value <= _LARGEST[key]):
            raise TypeError(f"{key} must be a number from 0 to {_LARGEST[key]}, not {value!r}")
    return values
