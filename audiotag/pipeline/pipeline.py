"""The options of a run, its threads, and the collector on the caller's thread."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

from audiotag.config import ModelConfig
from audiotag.engines import Engine
from audiotag.events import EventFinder, tags_of
from audiotag.machine import core_count
from audiotag.options import TagOptions
from audiotag.pipeline.clips import ClipDecoder
from audiotag.pipeline.crew import Crew, CrewSize
from audiotag.pipeline.items import ClipEnd, Given, Item, WindowItem
from audiotag.pipeline.scorer import Scorer
from audiotag.results import ClipResult, Failure, Result, Tag, WindowResult
from audiotag.scores import ScoreArray, ScorePool, least_scores_of, top_tags


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
        self._least_scores = least_scores_of(config, options)
        self._scorer = Scorer(engine, config, batch_size or engine.batch_size)
        self._size = _crew_size(engine, workers or core_count())

    def run(
        self, inputs: Iterator[Given], *, on_progress: Callable[[float], None] | None = None
    ) -> Generator[tuple[Result, ...], None, None]:
        """The results of each input, in their order; see `Tagger.tag_by_input`."""
        report = on_progress or (lambda seconds: None)
        collector = _Collector(self._config, self._options, self._least_scores, report)
        crew = Crew(inputs, ClipDecoder(self._config, self._options).items, self._scorer, self._size)
        try:
            for item, scores in crew.scored_items():
                for clip_results in collector.add(item, scores):
                    crew.clip_is_out()
                    yield clip_results
        finally:
            crew.stop()


def _crew_size(engine: Engine, n_workers: int) -> CrewSize:
    """On a CPU the thread that calls the engine computes itself; on a GPU it waits, and another one may decode."""
    n_calls = engine.concurrency
    # Two at least: one may wait for the next input, or for more of a stream, while what is there is computed.
    n_threads = max(n_workers, n_calls, 2) if engine.device == "cpu" else n_workers + n_calls
    return CrewSize(n_decoding=n_workers, n_computing=n_calls, n_threads=n_threads)


# --- the caller's thread ---


class _Channel:
    """One channel of a clip, or the mix of all: what its windows have told so far."""

    def __init__(self, config: ModelConfig, options: TagOptions, least_scores: ScoreArray) -> None:
        self._config, self._options, self._least_scores = config, options, least_scores
        self._pool = ScorePool(options.aggregate or config.aggregate)
        self._windows: list[WindowResult] = []
        self._finder = None
        if options.events is not None:
            self._finder = EventFinder(config, options.events, least_scores=least_scores)

    def add(self, window: WindowItem, scores: ScoreArray) -> None:
        """Takes the next window. Shape: `[class]`."""
        if self._options.windows:
            self._windows.append(WindowResult(start=window.start, end=window.end, tags=self._tags(scores)))
        if self._finder is None:
            self._pool.add(scores)
        else:
            self._finder.add(window.start, window.end, scores)

    def result(self, end: ClipEnd, number: int) -> ClipResult:
        """What was heard in it, after its last window."""
        events = None if self._finder is None else self._finder.result()
        return ClipResult(
            path=end.path,
            duration=end.n_samples / self._config.frontend.sample_rate,
            tags=self._tags(self._pool.result()) if events is None else tags_of(events, self._config),
            start=self._options.start,
            windows=tuple(self._windows) if self._options.windows else None,
            events=events,
            channel=number if self._options.channels == "each" else None,
            warning=end.warning,
        )

    def _tags(self, scores: ScoreArray | None) -> tuple[Tag, ...]:
        if scores is None:  # there was no window
            return ()
        return top_tags(scores, self._config, least_scores=self._least_scores, top_k=self._options.top_k)


@dataclass
class _OpenClip:
    """What is known so far of a clip."""

    channels: dict[int, _Channel] = field(default_factory=dict)
    done: float = 0.0  # seconds reported as progress


class _Collector:
    """Window scores into results, and results into the order of the inputs."""

    def __init__(
        self, config: ModelConfig, options: TagOptions, least_scores: ScoreArray, on_progress: Callable[[float], None]
    ) -> None:
        self._config = config
        self._options = options
        self._least_scores = least_scores
        self._on_progress = on_progress
        self._open: dict[int, _OpenClip] = {}
        self._finished: dict[int, tuple[Result, ...]] = {}
        self._next_clip = 0

    def add(self, item: Item, scores: ScoreArray | None) -> Iterator[tuple[Result, ...]]:
        """Takes the next item; gives the results of each clip whose turn has come."""
        clip = self._open.setdefault(item.clip, _OpenClip())
        if isinstance(item, WindowItem):
            assert scores is not None
            self._channel(clip, item.row).add(item, scores)
            self._report(clip, item.end - self._options.start)
            return
        self._report(clip, item.n_samples / self._config.frontend.sample_rate)
        self._finished[item.clip] = self._results(item, self._open.pop(item.clip))
        while self._next_clip in self._finished:
            yield self._finished.pop(self._next_clip)
            self._next_clip += 1

    def _report(self, clip: _OpenClip, seconds: float) -> None:
        if seconds > clip.done:
            self._on_progress(seconds - clip.done)
            clip.done = seconds

    def _results(self, end: ClipEnd, clip: _OpenClip) -> tuple[Result, ...]:
        if end.error is not None:
            return (Failure(path=end.path, error=end.error),)
        return tuple(self._channel(clip, row).result(end, row) for row in range(end.n_rows))

    def _channel(self, clip: _OpenClip, row: int) -> _Channel:
        if row not in clip.channels:
            clip.channels[row] = _Channel(self._config, self._options, self._least_scores)
        return clip.channels[row]
