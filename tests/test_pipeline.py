"""The crew of threads: what it promises of order, limits and ends, whatever a clip and a network cost."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import cast

import numpy as np
import pytest
from conftest import assert_no_threads_left

from audiotag.engines import FloatArray
from audiotag.errors import EngineError
from audiotag.inputs import Input
from audiotag.pipeline.crew import BATCHES_AHEAD, MAX_CLIPS_AHEAD, Crew, CrewSize, _stop_all
from audiotag.pipeline.items import ClipEnd, Item, WindowItem
from audiotag.pipeline.scorer import Scorer
from audiotag.scores import ScoreArray

BATCH_SIZE = 4


class Gauge:
    """How many are inside at once, now and at most."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.now = self.most = 0

    def __enter__(self) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.now -= 1


class FakeWork:
    """Clips of so many windows, and a network whose score of a window says which one it was."""

    def __init__(self, lengths: Sequence[int], *, decode_seconds: float = 0.0, score_seconds: float = 0.0) -> None:
        self._lengths = lengths
        self._decode_seconds, self._score_seconds = decode_seconds, score_seconds
        self.batch_size = BATCH_SIZE
        self.batch_sizes: list[int] = []
        self.decoding, self.computing = Gauge(), Gauge()
        self.n_decoded = 0

    def decode(self, clip: int, given: Input) -> Generator[Item, None, None]:
        for number in range(self._lengths[clip]):
            with self.decoding:
                time.sleep(self._decode_seconds * random.random())
            self.n_decoded += 1
            yield WindowItem(clip, 0, number, number + 1, np.full((1, 1, 1), 1000 * clip + number, dtype=np.float32))
        yield ClipEnd(clip, given.path, n_samples=self._lengths[clip])

    def __call__(self, log_mels: Sequence[FloatArray]) -> ScoreArray:
        with self.computing:
            self.batch_sizes.append(len(log_mels))
            time.sleep(self._score_seconds * random.random())
            return np.stack(log_mels)[:, 0, 0]

    def crew(self, inputs: Iterator[Input] | None = None, *, decoding: int = 2, computing: int = 2) -> Crew:
        size = CrewSize(n_decoding=decoding, n_computing=computing, n_threads=max(2, decoding, computing))
        return Crew(inputs or inputs_named(len(self._lengths)), self.decode, cast("Scorer", self), size)


def inputs_named(n: int) -> Iterator[Input]:
    return iter([Input(path=str(number), source=None, size=None, mtime_ns=None) for number in range(n)])


def run(crew: Crew) -> list[tuple[Item, ScoreArray | None]]:
    """Everything, each clip leaving as soon as its end comes."""
    found = []
    try:
        for item, scores in crew.scored_items():
            found.append((item, scores))
            if isinstance(item, ClipEnd):
                crew.clip_is_out()
    finally:
        crew.stop()
    return found


@pytest.mark.parametrize(("decoding", "computing"), [(1, 1), (2, 2), (1, 3), (5, 1)])
@pytest.mark.parametrize(("decode_seconds", "score_seconds"), [(0.0, 0.0), (0.002, 0.0), (0.0, 0.004)])
def test_every_window_comes_once_in_its_clips_order_with_its_score(
    decode_seconds: float, score_seconds: float, decoding: int, computing: int
) -> None:
    lengths = [1, 0, 9, 30, 4, 8, 0, 1, 1, 1, 17]
    work = FakeWork(lengths, decode_seconds=decode_seconds, score_seconds=score_seconds)
    found = run(work.crew(decoding=decoding, computing=computing))
    for clip, n_windows in enumerate(lengths):
        items = [(item, scores) for item, scores in found if item.clip == clip]
        windows = [(item.start, scores) for item, scores in items if isinstance(item, WindowItem)]
        assert windows == [(number, np.float32(1000 * clip + number)) for number in range(n_windows)]
        assert isinstance(items[-1][0], ClipEnd)
        assert len(items) == n_windows + 1
    assert work.decoding.most <= decoding
    assert work.computing.most <= computing
    assert max(work.batch_sizes) <= BATCH_SIZE


def test_one_long_clip_is_decoded_while_all_calls_compute() -> None:
    work = FakeWork([200], decode_seconds=0.0001, score_seconds=0.01)
    run(work.crew())
    assert work.computing.most == 2


def test_windows_of_many_clips_fill_batches() -> None:
    work = FakeWork([1] * 400, decode_seconds=0.0005, score_seconds=0.0005)
    run(work.crew())
    assert Counter(work.batch_sizes)[BATCH_SIZE] > 0.8 * len(work.batch_sizes)


def test_what_is_there_is_computed_while_the_only_decoder_waits_for_more() -> None:
    more = threading.Event()

    def slow_inputs() -> Iterator[Input]:
        yield from inputs_named(1)
        assert more.wait(30)

    crew = FakeWork([1]).crew(slow_inputs(), decoding=1, computing=1)
    items = crew.scored_items()
    assert [type(item) for item, _ in itertools.islice(items, 2)] == [WindowItem, ClipEnd]
    more.set()
    assert list(items) == []


def test_windows_of_live_audio_are_computed_before_a_batch_of_them_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audiotag.pipeline.crew.TURN_SECONDS", 0.01)
    more = threading.Event()

    def live(clip: int, given: Input) -> Generator[Item, None, None]:
        for item in FakeWork([3]).decode(clip, given):
            time.sleep(0.02)
            yield item
            assert not isinstance(item, WindowItem) or item.start < 1 or more.wait(5), "the first two were not computed"

    work = FakeWork([])
    crew = Crew(inputs_named(1), live, cast("Scorer", work), CrewSize(n_decoding=1, n_computing=1, n_threads=2))
    items = crew.scored_items()
    assert len(list(itertools.islice(items, 2))) == 2
    more.set()
    assert [type(item) for item, _ in items] == [WindowItem, ClipEnd]


def test_a_caller_that_does_not_read_on_bounds_what_is_decoded() -> None:
    work = FakeWork([100_000])
    crew = work.crew()
    items = crew.scored_items()
    next(items)
    wait_until_still(lambda: work.n_decoded)
    # Batches for the caller; what waits for a call, which each thread may exceed by a batch; what the caller has.
    assert work.n_decoded <= BATCH_SIZE * (2 * BATCHES_AHEAD * 2 + 2 + 1)
    crew.stop()


def test_clips_without_a_window_are_bounded_too() -> None:
    n_begun = 0

    def endless() -> Iterator[Input]:
        nonlocal n_begun
        for n_begun in itertools.count(1):  # noqa: B007 - it is looked at from outside
            yield Input(path="empty", source=None, size=None, mtime_ns=None)

    crew = FakeWork([0] * 1000).crew(endless())
    next(crew.scored_items())
    wait_until_still(lambda: n_begun)
    assert n_begun == MAX_CLIPS_AHEAD
    crew.stop()


def wait_until_still(value: Callable[[], int]) -> None:
    """Until nothing has changed for a while."""
    before = -1
    while (now := value()) != before:
        before = now
        time.sleep(0.1)


def test_a_clip_that_breaks_the_decoder_does_not_take_others_with_it() -> None:
    work = FakeWork([3, 3, 3])

    def decode(clip: int, given: Input) -> Generator[Item, None, None]:
        if clip == 2:
            raise ZeroDivisionError("a bug")
        yield from work.decode(clip, given)

    crew = Crew(inputs_named(3), decode, cast("Scorer", work), CrewSize(n_decoding=1, n_computing=1, n_threads=2))
    items = crew.scored_items()
    assert len(list(itertools.islice(items, 8))) == 8  # three windows and an end, twice
    with pytest.raises(ZeroDivisionError, match="a bug"):
        next(items)
    crew.stop()


def test_stopping_closes_clips_that_were_open() -> None:
    is_closed = threading.Event()

    def decode(clip: int, given: Input) -> Generator[Item, None, None]:
        try:
            yield from FakeWork([100_000]).decode(clip, given)
        finally:
            is_closed.set()

    work = FakeWork([])
    crew = Crew(inputs_named(1), decode, cast("Scorer", work), CrewSize(n_decoding=1, n_computing=1, n_threads=2))
    next(crew.scored_items())
    crew.stop()
    assert is_closed.is_set()
    assert_no_threads_left()


def test_stopping_bears_a_thread_that_puts_its_clip_back_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audiotag.pipeline.crew.JOIN_SECONDS", 0.01)
    work, is_closing = FakeWork([1000, 1000]), threading.Event()

    def decode(clip: int, given: Input) -> Generator[Item, None, None]:
        try:
            if clip == 1:
                assert is_closing.wait(30)
            yield from work.decode(clip, given)
        finally:
            if clip == 0:
                is_closing.set()
                time.sleep(0.2)  # the other one is put back now

    crew = Crew(inputs_named(2), decode, cast("Scorer", work), CrewSize(n_decoding=2, n_computing=1, n_threads=2))
    next(crew.scored_items())
    wait_until_still(lambda: work.n_decoded)
    crew.stop()
    wait_until_still(threading.active_count)
    assert_no_threads_left()


def test_threads_that_cannot_be_started_end_those_that_were(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def start_two(thread: threading.Thread) -> None:
        if thread.name == "audiotag-2":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_two)
    with pytest.raises(EngineError, match="not all 5 could be started"):
        run(FakeWork([100_000] * 9).crew(decoding=5))
    assert_no_threads_left()


def test_an_interrupt_while_threads_begin_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def interrupted_start(thread: threading.Thread) -> None:
        start(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted_start)
    with pytest.raises(KeyboardInterrupt):
        run(FakeWork([100_000]).crew())
    assert_no_threads_left()


def test_a_stop_that_is_interrupted_is_done_again_when_python_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audiotag.pipeline.crew._is_ending", threading.Event())
    monkeypatch.setattr("random.random", lambda: 1.0)
    crew = FakeWork([100_000], score_seconds=0.3).crew()
    next(crew.scored_items())
    with monkeypatch.context() as patched:
        patched.setattr(crew._news, "wait_for", interrupt)
        with pytest.raises(KeyboardInterrupt):
            crew.stop()
    _stop_all()
    assert_no_threads_left()


def test_when_python_ends_a_run_says_that_it_is_cut_short_and_none_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audiotag.pipeline.crew._is_ending", threading.Event())
    work = FakeWork([100_000])
    items = work.crew().scored_items()
    next(items)
    _stop_all()
    for rest in (items, work.crew().scored_items()):
        with pytest.raises(RuntimeError, match="Python is ending"):
            list(rest)
    assert_no_threads_left()


def interrupt(until: object) -> None:
    raise KeyboardInterrupt
