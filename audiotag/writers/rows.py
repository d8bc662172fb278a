"""A result as a table sees it: a row for each tag or event, and at least one.

Tags of windows are rows also where the clip has none and its status is `empty`: a rare sound may reach its threshold in
one window only, and who asks for windows looks for it. Any other `empty` or `failed` input has one row without a label.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from audiotag.results import ClipResult, Event, Failure, Result


class Row(NamedTuple):
    """A tag, an event, or the one row of an input without any. Times in seconds; `rank` of a tag counts from 1."""

    path: str
    status: str
    start: float | None = None
    end: float | None = None
    channel: int | None = None
    rank: int | None = None
    label: str | None = None
    score: float | None = None
    error: str | None = None


def rows_of(result: Result) -> Iterator[Row]:
    """A row an event; else a row a tag, of the windows where any has one, else of the clip; at least one.

    `error` holds a warning too.
    """
    if isinstance(result, Failure):
        yield Row(result.path, result.status, error=result.error)
        return
    clip = Row(
        result.path, result.status, result.start, result.start + result.duration, result.channel, error=result.warning
    )
    rows = _rows_of_tags(result, clip) if result.events is None else _rows_of_events(result.events, clip)
    yield next(rows, clip)
    yield from rows


def _rows_of_events(events: Iterable[Event], clip: Row) -> Iterator[Row]:
    for event in events:
        yield clip._replace(start=event.start, end=event.end, label=event.label, score=event.score)


def _rows_of_tags(result: ClipResult, clip: Row) -> Iterator[Row]:
    parts = [(clip, result.tags)]
    if any(window.tags for window in result.windows or ()):
        parts = [(clip._replace(start=each.start, end=each.end), each.tags) for each in result.windows or ()]
    for row, tags in parts:
        for rank, tag in enumerate(tags, start=1):
            yield row._replace(rank=rank, label=tag.label, score=tag.score)
