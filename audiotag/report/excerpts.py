"""Which stretches of an input are shown: those around its events."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from audiotag.results import ClipResult, Event, Result

CONTEXT = 1.0  # seconds that are shown before and after an event
LONGEST = 20.0  # seconds of an excerpt; what goes on for longer is shown by its beginning


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """From `start` to `end` (seconds of the input), with all events that are heard in it."""

    path: str
    start: float
    end: float
    events: tuple[Event, ...]

    @property
    def score(self) -> float:
        """That of the likeliest event that begins in it."""
        return max(event.score for event in self.events if event.start >= self.start)


def excerpts_of(results: Iterable[Result], *, most: int) -> tuple[tuple[Excerpt, ...], int]:
    """The `most` likeliest excerpts, in the order of inputs and time, and how many there are in all."""
    found = [each for result in results if isinstance(result, ClipResult) for each in _excerpts(result)]
    likeliest = sorted(range(len(found)), key=lambda index: -found[index].score)[:most]
    return tuple(found[index] for index in sorted(likeliest)), len(found)


def _excerpts(result: ClipResult) -> Iterator[Excerpt]:
    """Stretches in which an event begins; neighbours are cut where the longest excerpt ends."""
    events = result.events or ()  # in the order of their starts
    last = result.start + result.duration
    end, number_before, going_on = result.start, 0, list[Event]()
    for number, event in enumerate(events):
        if event.start < end:
            continue
        start = max(end, event.start - CONTEXT)
        going_on = [other for other in (*going_on, *events[number_before:number]) if other.end > start]
        number_before = number
        begun = events[number : bisect_left(events, start + LONGEST, key=lambda other: other.start)]
        end = min(last, start + LONGEST, _reach(begun))
        heard = (*going_on, *(other for other in begun if other.start < end))
        yield Excerpt(path=result.path, start=start, end=end, events=heard)


def _reach(events: Sequence[Event]) -> float:
    """Where the first of the events and all that overlap it with their contexts end."""
    end = events[0].end + CONTEXT
    for event in events[1:]:
        if event.start - CONTEXT > end:
            break
        end = max(end, event.end + CONTEXT)
    return end
