"""A run over many inputs: results to a writer, every input accounted for, what is done already left out.

`cli` shows it; `journal` remembers it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Protocol

from audiotag.errors import AudioError, ExitCode
from audiotag.inputs import Input
from audiotag.journal import Entry
from audiotag.options import TagOptions
from audiotag.results import Failure, Result, Status, outcome_of
from audiotag.tagger import Tagger
from audiotag.writers import Writer


@dataclass
class Tally:
    """How many inputs ended how; `seconds` of audio."""

    n_ok: int = 0
    n_empty: int = 0
    n_failed: int = 0
    seconds: float = 0.0

    def add(self, status: Status, seconds: float) -> None:
        """Counts an input."""
        self.n_ok += status == "ok"
        self.n_empty += status == "empty"
        self.n_failed += status == "failed"
        self.seconds += seconds

    def add_all(self, other: Tally) -> None:
        """Counts what another tally has counted."""
        self.n_ok += other.n_ok
        self.n_empty += other.n_empty
        self.n_failed += other.n_failed
        self.seconds += other.seconds

    @property
    def n_inputs(self) -> int:
        """All of them."""
        return self.n_ok + self.n_empty + self.n_failed

    @property
    def exit_code(self) -> ExitCode:
        """What a run that reached its end ends with."""
        return ExitCode.SOME_FAILED if self.n_failed else ExitCode.OK

    def to_dict(self) -> dict[str, Any]:
        """For a run's provenance."""
        return {
            "inputs": {"ok": self.n_ok, "empty": self.n_empty, "failed": self.n_failed},
            "seconds_of_audio": round(self.seconds, 3),
        }


class Sink(Protocol):
    """Where results go: a stream, or a file with a journal."""

    writer: Writer

    def find(self, given: Input) -> Entry | None:
        """What an earlier session did of this input."""

    def keep(self, begin: int, end: int) -> None:
        """These bytes are the next inputs' records."""

    def vouch(self, given: Input, status: Status, seconds: float) -> None:
        """The record of an input is whole."""


class Stream:
    """A sink that remembers nothing."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer

    def find(self, given: Input) -> Entry | None:
        """Nothing is known."""
        return None

    def keep(self, begin: int, end: int) -> None:
        """Nothing is kept."""

    def vouch(self, given: Input, status: Status, seconds: float) -> None:
        """Nothing is remembered."""


def run(
    tagger: Tagger,
    inputs: Iterable[Input],
    sink: Sink,
    *,
    options: TagOptions,
    tally: Tally,
    strict: bool = False,
    on_seconds: Callable[[float], None] | None = None,
    on_input: Callable[[Input, tuple[Result, ...]], None] | None = None,
) -> None:
    """Tags what is not done yet and writes it in the order of `inputs`; `tally` counts every input as it is done.

    Raises:
        AudioError: an input failed, and the run is `strict`.
        OutputError: a result could not be written.
    """
    plan = _Plan(inputs, sink, tally)
    with closing(tagger.tag_many(plan, options=options, on_progress=on_seconds)) as results:
        for group in _by_input(results, several=options.channels == "each"):
            given = plan.next_input()
            status, seconds = _outcome(group)
            if strict and isinstance(group[0], Failure):
                raise AudioError(f"{group[0].path}: {group[0].error}. Leave out --strict to go on after a failure")
            for result in group:
                sink.writer.write(result)
            sink.vouch(given, status, seconds)
            tally.add(status, seconds)
            if on_input is not None:
                on_input(given, group)
    plan.keep_rest()


def _by_input(results: Iterator[Result], *, several: bool) -> Iterator[tuple[Result, ...]]:
    """The results of one input together; of several channels they are known when the next input's begin."""
    if not several:
        return ((result,) for result in results)
    return (tuple(group) for _, group in groupby(results, key=lambda result: result.path))


def _outcome(results: tuple[Result, ...]) -> tuple[Status, float]:
    """Status and seconds of an input with one result or one of each channel."""
    first = results[0]
    status = outcome_of({result.status for result in results})
    return status, 0.0 if isinstance(first, Failure) else first.duration


@dataclass
class _Kept:
    """Neighbouring inputs that are done already."""

    ranges: list[tuple[int, int]] = field(default_factory=list)  # bytes of the output, joined where they touch
    tally: Tally = field(default_factory=Tally)

    def add(self, entry: Entry) -> None:
        self.tally.add(entry.status, entry.seconds)
        if self.ranges and self.ranges[-1][1] == entry.begin:
            self.ranges[-1] = (self.ranges[-1][0], entry.end)
        else:
            self.ranges.append((entry.begin, entry.end))


class _Plan:
    """Gives the inputs that are not done yet (to the decode threads), and remembers what lay between them."""

    def __init__(self, inputs: Iterable[Input], sink: Sink, tally: Tally) -> None:
        self._inputs, self._sink, self._tally = inputs, sink, tally
        self._steps: deque[Input | _Kept] = deque()
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Input]:
        for given in self._inputs:
            entry = self._sink.find(given)
            with self._lock:
                self._append(given, entry)
            if entry is None:
                yield given

    def _append(self, given: Input, entry: Entry | None) -> None:
        if entry is None:
            self._steps.append(given)
            return
        if not (self._steps and isinstance(self._steps[-1], _Kept)):
            self._steps.append(_Kept())
        last = self._steps[-1]
        assert isinstance(last, _Kept)
        last.add(entry)

    def next_input(self) -> Input:
        """The input whose result has come; what lay before it is kept."""
        while True:
            with self._lock:
                step = self._steps.popleft()
            if isinstance(step, Input):
                return step
            self._keep(step)

    def keep_rest(self) -> None:
        """Keeps what lay after the last input that was tagged."""
        while self._steps:
            step = self._steps.popleft()
            assert isinstance(step, _Kept), "every input has a result"
            self._keep(step)

    def _keep(self, kept: _Kept) -> None:
        self._tally.add_all(kept.tally)
        for begin, end in kept.ranges:
            self._sink.keep(begin, end)
