"""Threads that decode and compute in turns, each what there is to do.

    inputs -> open clips -> items -> batches -> scores, in the order in which the batches were taken

There are as many threads as cores. One set of threads to decode and one to compute would be twice as many, which push
each other's data out of the caches: with a small network that took an eighth of the time. A thread that is free takes

1. a full batch, for that makes room;
2. else some windows of an open clip that no thread is at, or else the next input;
3. else, when there is nothing to decode, the batch that is not full yet.

One thread at a time is at a clip, so that its windows stay in order.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue

from audiotag.errors import EngineError
from audiotag.pipeline.items import Given, Item, WindowItem
from audiotag.pipeline.scorer import Scorer
from audiotag.scores import ScoreArray

# Clips that may be open or finished ahead of the one whose result is next: a long clip holds up no more than these.
MAX_CLIPS_AHEAD = 64
# Batches for each that may be computed at once that wait for their windows, or for the caller.
BATCHES_AHEAD = 2
# A clip whose next batch takes longer, as of live audio, hands on the windows that are there: progress tells of them.
TURN_SECONDS = 1.0
# A thread that blocks in a read (of stdin) cannot be woken; closing does not wait for it longer than this.
JOIN_SECONDS = 1.0

_Decode = Callable[[int, Given], Generator[Item, None, None]]
_Task = Callable[[], None]
_Batch = tuple[list[Item], "Future[Iterator[ScoreArray]]"]


@dataclass(frozen=True, kw_only=True)
class CrewSize:
    """How many threads there are, and how many of them may do the same."""

    n_decoding: int
    n_computing: int
    n_threads: int


class Crew:
    """The threads of a run; they begin when its items are asked for, and end with the inputs or with `stop`."""

    def __init__(self, inputs: Iterator[Given], decode: _Decode, scorer: Scorer, size: CrewSize) -> None:
        self._inputs = enumerate(inputs)
        self._decode = decode
        self._scorer = scorer
        self._size = size
        self._process = os.getpid()
        self._news = threading.Condition()  # it guards all that follows
        self._is_asking = False  # a thread asks for the next input, which may take long
        self._is_over = False  # no input follows
        self._is_stopped = False
        self._error: BaseException | None = None  # of the inputs or of a clip
        self._n_ahead = 0  # clips that have begun and are not out
        self._n_decoding = 0
        self._n_computing = 0
        self._idle: deque[Generator[Item, None, None]] = deque()  # open clips that no thread is at
        self._waiting: deque[Item] = deque()  # decoded, and in no batch yet
        self._n_windows = 0  # among them
        self._batches: SimpleQueue[_Batch | None] = SimpleQueue()  # that the caller has not got
        # Daemons: a thread that blocks in a read of stdin must not keep the process from ending.
        self._threads = [
            threading.Thread(target=self._work, name=f"audiotag-{number}", daemon=True)
            for number in range(size.n_threads)
        ]

    def scored_items(self) -> Iterator[tuple[Item, ScoreArray | None]]:
        """All items, windows with their scores `[class]`; an error of a thread comes after what was decoded before.

        Raises:
            EngineError: the system does not allow so many threads.
            RuntimeError: Python is ending.
        """
        self._start()
        while (batch := self._batches.get()) is not None:
            with self._news:
                self._news.notify_all()  # there is room for another one
            items, future = batch
            scores = future.result()
            yield from ((item, next(scores) if isinstance(item, WindowItem) else None) for item in items)
        if self._error is not None:
            raise self._error
        if self._is_stopped:
            raise RuntimeError(_ENDING)

    def _start(self) -> None:
        _running.add(self)
        if _is_ending.is_set():
            raise RuntimeError(_ENDING)
        try:
            for thread in self._threads:
                thread.start()
        except RuntimeError as error:  # a limit of memory or processes, as ulimit and containers set
            raise EngineError(
                f"threads: not all {len(self._threads)} could be started: {error}. "
                "Use smaller --workers and --threads, or allow this process more"
            ) from error

    def clip_is_out(self) -> None:
        """A clip's results have left: one more may be begun."""
        with self._news:
            self._n_ahead -= 1
            self._news.notify_all()

    def stop(self) -> None:
        """Ends the threads, in the middle of a clip too, and where an interrupt let only some of them begin."""
        if os.getpid() != self._process:
            return  # a fork, which has none of the threads
        with self._news:
            self._is_stopped = True
            self._news.notify_all()
            self._news.wait_for(lambda: not self._n_computing)
        for thread in filter(threading.Thread.is_alive, self._threads):
            thread.join(JOIN_SECONDS)
        with self._news:
            clips = tuple(self._idle)  # a thread that was not waited for may put its clip back
        for clip in clips:
            clip.close()
        _running.discard(self)  # last: where an interrupt ends this early, it is done again when Python ends

    # --- what a thread does ---

    def _work(self) -> None:
        while (task := self._next_task()) is not None:
            task()

    def _next_task(self) -> _Task | None:
        """What there is to do, as soon as there is something; None: nothing any more."""
        with self._news:
            while not self._is_stopped:
                task = self._full_batch() or self._next_windows() or self._next_input() or self._rest()
                if task is not None:
                    return task
                if self._is_done():
                    break
                self._news.wait()
            self._batches.put(None)
            return None

    def _is_done(self) -> bool:
        """Whether nothing more will be decoded, and nothing that was waits."""
        return self._is_over and not (self._idle or self._n_decoding or self._waiting)

    # What follows, down to `_take`, is called with `_news` held, and gives None where it is not the time.

    def _full_batch(self) -> _Task | None:
        return self._take() if self._n_windows >= self._scorer.batch_size else None

    def _next_windows(self) -> _Task | None:
        if not (self._idle and self._may_decode()):
            return None
        self._n_decoding += 1
        return partial(self._decode_on, self._idle.popleft())

    def _next_input(self) -> _Task | None:
        if self._is_over or self._is_asking or self._n_ahead == MAX_CLIPS_AHEAD or not self._may_decode():
            return None
        self._is_asking = True
        self._n_decoding += 1
        return self._begin

    def _may_decode(self) -> bool:
        has_room = self._n_windows < BATCHES_AHEAD * self._scorer.batch_size * self._size.n_computing
        return has_room and self._n_decoding < self._size.n_decoding

    def _rest(self) -> _Task | None:
        return self._take() if self._waiting else None

    def _take(self) -> _Task | None:
        n_calls = self._size.n_computing
        if self._n_computing == n_calls or self._batches.qsize() >= BATCHES_AHEAD * n_calls:
            return None
        items, n_windows = [], 0
        while self._waiting and (n_windows < self._scorer.batch_size or not isinstance(self._waiting[0], WindowItem)):
            items.append(self._waiting.popleft())
            n_windows += isinstance(items[-1], WindowItem)
        self._n_windows -= n_windows
        self._n_computing += 1
        batch: _Batch = (items, Future())
        self._batches.put(batch)
        return partial(self._compute, *batch)

    # --- tasks ---

    def _begin(self) -> None:
        found = None
        try:
            found = next(self._inputs, None)
        except BaseException as error:
            self._begin_no_more(error)
        with self._news:
            self._is_asking = False
            self._is_over |= found is None
            self._n_decoding -= found is None
            self._n_ahead += found is not None
            self._news.notify_all()
        if found is not None:
            self._decode_on(self._decode(*found))

    def _decode_on(self, clip: Generator[Item, None, None]) -> None:
        items: list[Item] = []
        try:
            items = self._turn(clip)
        except BaseException as error:
            self._begin_no_more(error)
        with self._news:
            self._n_decoding -= 1
            self._waiting.extend(items)
            self._n_windows += sum(isinstance(item, WindowItem) for item in items)
            if items and isinstance(items[-1], WindowItem):
                self._idle.append(clip)
            self._news.notify_all()

    def _turn(self, clip: Generator[Item, None, None]) -> list[Item]:
        """A batch of a clip's next items, or what there is when the turn is over; an end is the last one."""
        items: list[Item] = []
        over = time.monotonic() + TURN_SECONDS
        for item in clip:
            items.append(item)
            if isinstance(item, WindowItem) and (len(items) >= self._scorer.batch_size or time.monotonic() > over):
                break
        return items

    def _begin_no_more(self, error: BaseException) -> None:
        """What is open is still decoded; then the caller's thread raises the error."""
        with self._news:
            self._error = self._error or error
            self._is_over = True

    def _compute(self, items: list[Item], future: Future[Iterator[ScoreArray]]) -> None:
        log_mels = [item.log_mel for item in items if isinstance(item, WindowItem)]
        try:
            future.set_result(iter(self._scorer(log_mels)) if log_mels else iter(()))
        except BaseException as error:  # raised again where the scores are read
            future.set_exception(error)
        with self._news:
            self._n_computing -= 1
            self._news.notify_all()


# Python kills daemon threads where they are when it ends; in the middle of a library's call that aborts the process.
# A caller's own daemon threads, such as those of a web server, go on after that, and may not begin others.
_running: weakref.WeakSet[Crew] = weakref.WeakSet()
_is_ending = threading.Event()
_ENDING = "tagging: Python is ending, and its threads with it"


@atexit.register
def _stop_all() -> None:
    _is_ending.set()
    for crew in tuple(_running):
        crew.stop()
