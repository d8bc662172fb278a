"""From inputs to results, on several threads.

    decode threads: audio -> windows -> log-mels  --bounded channel-->  engine threads: logits -> scores
                                                                   -->  caller's thread: pool, tags, results in order

Batches mix windows of different clips. The channel and the number of open clips are bounded, so memory follows the
batch and the workers, never the length of a clip or the number of inputs. Scores are pooled in window order, so that
nothing depends on which batch a window travelled in.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from audiotag.audio import AudioStream, Source, open_audio, read_excerpts
from audiotag.config import ModelConfig
from audiotag.engines import Engine, FloatArray
from audiotag.errors import AudioError, EngineError
from audiotag.frontend import WindowLogMel
from audiotag.inputs import Input
from audiotag.labels import LabelSet
from audiotag.options import TagOptions, core_count
from audiotag.results import ClipResult, Failure, Result, WindowResult
from audiotag.scores import ScoreArray, ScorePool, TagSelection, to_scores, top_tags
from audiotag.windows import cut_windows, view_starts

logger = logging.getLogger(__name__)

# Clips that may be open or finished ahead of the one whose result is next: a long clip holds up no more than these.
MAX_CLIPS_AHEAD = 64
# A thread that blocks in a read (of stdin) cannot be woken; closing does not wait for it longer than this.
JOIN_SECONDS = 1.0


class Pipeline:
    """An engine, a model's configuration and the options of a run.

    Raises:
        UsageError: an option does not fit the model.
    """

    def __init__(
        self,
        engine: Engine,
        config: ModelConfig,
        options: TagOptions,
        *,
        batch_size: int | None = None,
        workers: int | None = None,
    ) -> None:
        self._config = config
        self._options = options
        self._selection = selection_of(options, config)
        self._scorer = _Scorer(engine, config, batch_size or engine.batch_size)
        self._n_calls = engine.concurrency
        self._n_workers = workers or core_count()

    def run(
        self, inputs: Iterator[Input], *, on_progress: Callable[[float], None] | None = None
    ) -> Generator[Result, None, None]:
        """A result for each input, in their order; see `Tagger.tag_many`."""
        collector = _Collector(self._config, self._options, self._selection, on_progress or _ignore)
        decoders = _Decoders(
            inputs, self._config, self._options, n_threads=self._n_workers, group_size=self._scorer.batch_size
        )
        executor = ThreadPoolExecutor(self._n_calls, thread_name_prefix="audiotag-engine")
        try:
            for item, scores in self._scored_items(decoders.channel, executor):
                for clip_results in collector.add(item, scores):
                    decoders.clip_is_out()
                    yield from clip_results
        finally:
            decoders.stop()
            executor.shutdown(wait=True, cancel_futures=True)

    def _scored_items(
        self, channel: _Channel, executor: ThreadPoolExecutor
    ) -> Iterator[tuple[_Item, ScoreArray | None]]:
        """The channel's items in its order, windows with their scores; one batch waits while the others compute."""
        pending: deque[tuple[list[_Item], Future[Iterator[ScoreArray]]]] = deque()
        while True:
            while len(pending) <= self._n_calls:
                batch = channel.take(self._scorer.batch_size, wait=not pending)
                if not batch:
                    break
                pending.append((batch, executor.submit(self._scorer.score_windows, batch)))
            if not pending:
                return
            batch, future = pending.popleft()
            scores = future.result()
            yield from ((item, next(scores) if isinstance(item, _WindowItem) else None) for item in batch)


def selection_of(options: TagOptions, config: ModelConfig) -> TagSelection:
    """Which scores of a model become tags.

    Raises:
        UsageError: an option names a label that the model does not know.
    """
    labels = LabelSet(config.labels)
    of_all = config.thresholds if options.threshold is None else (options.threshold,) * len(labels)
    is_limited = options.include_labels or options.exclude_labels
    return TagSelection(
        top_k=options.top_k,
        thresholds=labels.fill(options.thresholds or {}, of_all),
        labels=labels.select(options.include_labels, options.exclude_labels) if is_limited else None,
    )


def _ignore(seconds: float) -> None:
    pass


# --- what travels from the decode threads to the caller ---


@dataclass(frozen=True)
class _WindowItem:
    clip: int  # position among the inputs
    row: int  # of the clip's channels
    start: float  # seconds into the input
    end: float  # seconds into the input; padding does not count
    log_mel: FloatArray  # [1, frame, mel]


@dataclass(frozen=True)
class _ClipEnd:
    clip: int
    path: str
    n_rows: int = 1
    n_samples: int = 0  # at the model's rate
    warning: str | None = None
    error: str | None = None


_Item = _WindowItem | _ClipEnd


class _Channel:
    """A bounded queue of items that ends when all producers are done, with the error that one of them met, if any.

    Items are put in groups: waking a thread costs more than a small network takes for a window.
    """

    def __init__(self, *, capacity: int, n_producers: int) -> None:
        self._capacity = capacity
        self._n_producers = n_producers
        self._items: deque[_Item] = deque()
        lock = threading.Lock()
        self._has_room = threading.Condition(lock)
        self._has_news = threading.Condition(lock)
        self._error: BaseException | None = None
        self._is_closed = False

    def put(self, group: list[_Item]) -> bool:
        """Waits for room; False if nobody takes items any more."""
        with self._has_room:
            self._has_room.wait_for(lambda: self._is_closed or len(self._items) < self._capacity)
            self._items.extend(group)
            self._has_news.notify()
            return not self._is_closed

    def producer_is_done(self, error: BaseException | None = None) -> None:
        """Counts a producer out; `error` is raised where items are taken, after all that were put."""
        with self._has_news:
            self._n_producers -= 1
            self._error = self._error or error
            self._has_news.notify()

    def take(self, n_windows: int, *, wait: bool) -> list[_Item]:
        """Up to `n_windows` windows and the clip ends between them; none: nothing yet, or with `wait` the end."""
        with self._has_news:
            if wait:
                self._has_news.wait_for(lambda: bool(self._items or not self._n_producers))
                if not self._items and self._error is not None:
                    raise self._error
            taken: list[_Item] = []
            while self._items and (n_windows > 0 or isinstance(self._items[0], _ClipEnd)):
                taken.append(self._items.popleft())
                n_windows -= isinstance(taken[-1], _WindowItem)
            if len(self._items) < self._capacity:
                self._has_room.notify_all()
            return taken

    def close(self) -> None:
        """Lets every producer go."""
        with self._has_room:
            self._is_closed = True
            self._has_room.notify_all()


# --- decode threads ---


class _Decoders:
    """The threads that turn inputs into log-mels; each takes the next input when it is done with one."""

    def __init__(
        self, inputs: Iterator[Input], config: ModelConfig, options: TagOptions, *, n_threads: int, group_size: int
    ) -> None:
        self.channel = _Channel(capacity=2 * group_size * n_threads, n_producers=n_threads)
        self._group_size = group_size
        self._inputs = enumerate(inputs)
        self._inputs_lock = threading.Lock()
        self._room_ahead = threading.Semaphore(MAX_CLIPS_AHEAD)
        self._is_over = False
        self._config = config
        self._options = options
        # Daemons: a thread that blocks in a read of stdin must not keep the process from ending.
        self._threads = [
            threading.Thread(target=self._work, name=f"audiotag-decode-{number}", daemon=True)
            for number in range(n_threads)
        ]
        for thread in self._threads:
            thread.start()

    def clip_is_out(self) -> None:
        """A clip's results have left: one more may be begun."""
        self._room_ahead.release()

    def stop(self) -> None:
        """Ends the threads, in the middle of a clip too."""
        self.channel.close()
        self._begin_no_more()
        for thread in self._threads:
            thread.join(JOIN_SECONDS)

    def _begin_no_more(self) -> None:
        self._is_over = True
        self._room_ahead.release(len(self._threads))

    def _work(self) -> None:
        try:
            decoder = _ClipDecoder(self._config, self._options)
            for clip, given in iter(self._next_input, None):
                if not all(map(self.channel.put, _groups(decoder.items(clip, given), self._group_size))):
                    break
        except BaseException as error:  # raised again on the caller's thread
            self._begin_no_more()
            self.channel.producer_is_done(error)
        else:
            self.channel.producer_is_done()

    def _next_input(self) -> tuple[int, Input] | None:
        self._room_ahead.acquire()
        with self._inputs_lock:
            found = None if self._is_over else next(self._inputs, None)
        if found is None:
            self._room_ahead.release()  # no clip has begun; a thread beyond `MAX_CLIPS_AHEAD` waits to learn of the end
        return found


def _groups(items: Iterator[_Item], size: int) -> Iterator[list[_Item]]:
    while group := list(islice(items, size)):
        yield group


class _ClipDecoder:
    """One input at a time into the items of its windows and of its end."""

    def __init__(self, config: ModelConfig, options: TagOptions) -> None:
        self._options = options
        self._window = config.window
        self._sample_rate = config.frontend.sample_rate
        self._log_mel = WindowLogMel(config.frontend, config.window)

    def items(self, clip: int, given: Input) -> Iterator[_Item]:
        """Windows in the order of time, then the end; only the end, with the error, where nothing can be read."""
        try:
            yield from self._views(clip, given) if self._options.max_windows else self._windows(clip, given)
        except AudioError as error:
            yield _ClipEnd(clip, given.path, error=str(error))
        except MemoryError:
            yield _ClipEnd(clip, given.path, error="does not fit into memory while it is decoded")

    def _windows(self, clip: int, given: Input) -> Iterator[_Item]:
        hop_seconds = self._options.hop
        hop = self._window.n_samples if hop_seconds is None else max(1, round(hop_seconds * self._sample_rate))
        with self._open(_source(given)) as stream:
            blocks = _Counted(stream)
            for window in cut_windows(blocks, window=self._window, hop=hop):
                yield from self._window_items(clip, window.start, window.samples)
            yield _ClipEnd(clip, given.path, blocks.n_rows, blocks.n_samples, warning=stream.warning)

    def _views(self, clip: int, given: Input) -> Iterator[_Item]:
        with _reopenable(given) as source:
            n_samples, n_rows = self._extent(source)
            starts = view_starts(n_samples, window=self._window, n_views=self._options.max_windows or 1)
            first = round(self._options.start * self._sample_rate)
            warnings: list[str] = []
            excerpts = read_excerpts(
                source, sample_rate=self._sample_rate, channels=self._options.channels,
                starts=[first + start for start in starts], n_samples=min(n_samples, self._window.n_samples),
                warnings=warnings,
            )  # fmt: skip
            for start, samples in zip(starts, excerpts, strict=True):
                yield from self._window_items(clip, start, samples)
        yield _ClipEnd(clip, given.path, n_rows, n_samples, warning="; ".join(warnings) or None)

    def _extent(self, source: Source) -> tuple[int, int]:
        """Samples and rows between start and end; decodes to the end where the header does not tell."""
        with self._open(source) as stream:
            n_rows = stream.info.n_channels if self._options.channels == "each" else 1
            if stream.n_samples is not None:
                return stream.n_samples, n_rows
            return sum(block.shape[1] for block in stream), n_rows

    def _open(self, source: Source) -> AudioStream:
        return open_audio(
            source, sample_rate=self._sample_rate, channels=self._options.channels,
            start=self._options.start, duration=self._options.duration,
        )  # fmt: skip

    def _window_items(self, clip: int, start: int, samples: FloatArray) -> Iterator[_WindowItem]:
        begin = self._options.start + start / self._sample_rate
        end = begin + samples.shape[1] / self._sample_rate
        for row, log_mel in enumerate(self._log_mel(tuple(samples))):
            yield _WindowItem(clip, row, begin, end, log_mel)


def _source(given: Input) -> Source:
    # Unbuffered: a thread that blocks in a read of the buffered sys.stdin holds its lock, and Python cannot end.
    return open(0, "rb", buffering=0, closefd=False) if given.source is None else given.source


@contextmanager
def _reopenable(given: Input) -> Iterator[Source]:
    """A source that can be opened twice: stdin goes through a temporary file."""
    if given.source is not None:
        yield given.source
        return
    with open(0, "rb", buffering=0, closefd=False) as stdin, tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(stdin, copy)
        yield copy


class _Counted:
    """Blocks `[row, sample]` as they pass, and how much has passed."""

    def __init__(self, blocks: Iterable[FloatArray]) -> None:
        self._blocks = blocks
        self.n_rows = 1
        self.n_samples = 0

    def __iter__(self) -> Iterator[FloatArray]:
        for block in self._blocks:
            self.n_rows = block.shape[0]
            self.n_samples += block.shape[1]
            yield block


# --- engine threads ---


class _Scorer:
    """Window scores from log-mels; what does not fit into memory is computed in halves, from then on."""

    def __init__(self, engine: Engine, config: ModelConfig, batch_size: int) -> None:
        self._engine = engine
        self._config = config
        self.batch_size = batch_size

    def score_windows(self, items: Sequence[_Item]) -> Iterator[ScoreArray]:
        """Scores `[class]` of the windows among `items`."""
        log_mels = [item.log_mel for item in items if isinstance(item, _WindowItem)]
        return iter(self._scores(log_mels)) if log_mels else iter(())

    def _scores(self, log_mels: list[FloatArray]) -> ScoreArray:
        try:
            return to_scores(self._engine(np.stack(log_mels)), self._config)
        except MemoryError as error:
            if len(log_mels) == 1:
                raise EngineError(f"engine: not even one window fits into memory: {error}") from error
        half = (len(log_mels) + 1) // 2
        self.batch_size = min(self.batch_size, half)
        logger.info("out of memory: the batch is now %d windows", self.batch_size)
        return np.concatenate([self._scores(log_mels[:half]), self._scores(log_mels[half:])])


# --- the caller's thread ---


@dataclass
class _OpenClip:
    """What is known so far of a clip; rows are its channels."""

    pools: dict[int, ScorePool] = field(default_factory=dict)
    windows: dict[int, list[WindowResult]] = field(default_factory=dict)
    done: float = 0.0  # seconds reported as progress


class _Collector:
    """Window scores into results, and results into the order of the inputs."""

    def __init__(
        self, config: ModelConfig, options: TagOptions, selection: TagSelection, on_progress: Callable[[float], None]
    ) -> None:
        self._config = config
        self._options = options
        self._selection = selection
        self._on_progress = on_progress
        self._open: dict[int, _OpenClip] = {}
        self._finished: dict[int, list[Result]] = {}
        self._next_clip = 0

    def add(self, item: _Item, scores: ScoreArray | None) -> Iterator[list[Result]]:
        """Takes the next item; gives the results of each clip whose turn has come."""
        clip = self._open.setdefault(item.clip, _OpenClip())
        if isinstance(item, _WindowItem):
            assert scores is not None
            self._add_window(clip, item, scores)
            self._report(clip, item.end - self._options.start)
            return
        self._report(clip, item.n_samples / self._config.frontend.sample_rate)
        self._finished[item.clip] = self._results(item, self._open.pop(item.clip))
        while self._next_clip in self._finished:
            yield self._finished.pop(self._next_clip)
            self._next_clip += 1

    def _add_window(self, clip: _OpenClip, item: _WindowItem, scores: ScoreArray) -> None:
        if item.row not in clip.pools:
            clip.pools[item.row] = ScorePool(self._options.aggregate or self._config.aggregate)
        clip.pools[item.row].add(scores)
        if self._options.windows:
            tags = top_tags(scores, self._config, self._selection)
            shown = WindowResult(start=item.start, end=item.end, tags=tags)
            clip.windows.setdefault(item.row, []).append(shown)

    def _report(self, clip: _OpenClip, seconds: float) -> None:
        if seconds > clip.done:
            self._on_progress(seconds - clip.done)
            clip.done = seconds

    def _results(self, end: _ClipEnd, clip: _OpenClip) -> list[Result]:
        if end.error is not None:
            return [Failure(path=end.path, error=end.error)]
        return [self._result(end, clip, row) for row in range(end.n_rows)]

    def _result(self, end: _ClipEnd, clip: _OpenClip, row: int) -> ClipResult:
        pool = clip.pools.get(row)
        scores = None if pool is None else pool.result()
        return ClipResult(
            path=end.path,
            duration=end.n_samples / self._config.frontend.sample_rate,
            tags=() if scores is None else top_tags(scores, self._config, self._selection),
            start=self._options.start,
            windows=tuple(clip.windows.get(row, ())) if self._options.windows else None,
            channel=row if self._options.channels == "each" else None,
            warning=end.warning,
        )
