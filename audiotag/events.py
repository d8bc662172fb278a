"""From the scores of overlapping windows to events: labels with the time from when to when they are heard.

    scores of windows --geometric mean--> scores of moments --threshold--> stretches --gaps, lengths--> events

A moment is a stretch of time that the same windows hear; its score is the geometric mean of theirs. While a sound lasts
it is in all windows that hear the moment, before and after only in some, and the geometric mean falls as soon as one
of them has nothing. `tests/measure_events.py` compares it with other rules.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from audiotag.config import ModelConfig
from audiotag.options import EventOptions
from audiotag.results import Event, Tag
from audiotag.scores import ScoreArray

ROUNDING = 1e-6  # seconds, less than a sample: times that should be the same differ by less
LEAST_SCORE = float(np.finfo(np.float64).tiny)  # for the logarithm of a score that came out as 0


class EventFinder:
    """Takes the windows of one channel in the order of time; holds those that hear one moment, and what was found.

    `least_scores` are those from which on a moment belongs to an event of a label. Shape: `[class]`.
    """

    def __init__(self, config: ModelConfig, options: EventOptions, *, least_scores: ScoreArray) -> None:
        self._config, self._options, self._least_scores = config, options, least_scores
        self._hearing: deque[tuple[float, ScoreArray]] = deque()  # end and log scores of windows, the first ends first
        self._time = 0.0  # seconds; moments before it are done
        self._open: dict[int, _Stretch] = {}  # the last one of each label, which may go on
        self._closed: list[_Stretch] = []

    def add(self, start: float, end: float, scores: ScoreArray) -> None:
        """Takes a window, which neither starts nor ends before the last one; `start` and `end` in seconds.

        Shape: `[class]`.
        """
        self._finish_moments(start)
        self._time = start
        self._hearing.append((end, np.log(np.maximum(scores, LEAST_SCORE))))

    def result(self) -> tuple[Event, ...]:
        """The events by their start, the likelier first; no window may come after."""
        self._finish_moments(float("inf"))
        least = self._options.min_duration - ROUNDING
        found = [each for each in (*self._closed, *self._open.values()) if each.end - each.start >= least]
        found.sort(key=lambda each: (each.start, -each.score, each.label))
        return tuple(map(self._event, found))

    def _finish_moments(self, until: float) -> None:
        while self._hearing:
            next_end = self._hearing[0][0]
            end = min(next_end, until)
            if end - self._time > ROUNDING:
                scores = np.exp(np.mean([logarithms for _, logarithms in self._hearing], axis=0))
                self._add_moment(self._time, end, scores)
                self._time = end
            if next_end > until:
                return
            self._hearing.popleft()

    def _add_moment(self, start: float, end: float, scores: ScoreArray) -> None:
        for label in np.flatnonzero(scores >= self._least_scores).tolist():
            score, last = float(scores[label]), self._open.get(label)
            if last is not None and start - last.end <= self._options.max_gap + ROUNDING:
                last.end, last.score = end, max(last.score, score)
                continue
            if last is not None:
                self._closed.append(last)
            self._open[label] = _Stretch(label, start, end, score)

    def _event(self, found: _Stretch) -> Event:
        label, head = self._config.labels[found.label], self._config.head_of(found.label)
        return Event(label=label, start=found.start, end=found.end, score=found.score, head=head)


@dataclass
class _Stretch:
    """Moments in which a label reaches its threshold; `score` is the highest of them."""

    label: int
    start: float  # seconds
    end: float
    score: float


def tags_of(events: Iterable[Event], config: ModelConfig) -> tuple[Tag, ...]:
    """Each label once, with the score of its likeliest event, highest first, head by head."""
    best: dict[tuple[str | None, str], Tag] = {}
    for event in sorted(events, key=lambda event: -event.score):
        best.setdefault((event.head, event.label), Tag(event.label, event.score, event.head))
    heads = [name for name, _ in config.head_slices]
    return tuple(sorted(best.values(), key=lambda tag: heads.index(tag.head)))
