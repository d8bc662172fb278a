"""From an input to the log-mels of its windows."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator

from audiotag.audio import AudioStream, Source, open_audio, reaches_end, read_excerpts, reopenable
from audiotag.config import ModelConfig
from audiotag.engines import FloatArray
from audiotag.errors import AudioError
from audiotag.frontend import WindowLogMel
from audiotag.inputs import open_stdin
from audiotag.options import TagOptions
from audiotag.pipeline.items import ClipEnd, Given, Item, WindowItem
from audiotag.windows import cut_windows, view_starts


class ClipDecoder:
    """Inputs into the items of their windows and of their end; several threads may share it."""

    def __init__(self, config: ModelConfig, options: TagOptions) -> None:
        self._options = options
        self._window = config.window
        self._sample_rate = config.frontend.sample_rate
        self._hop_length = options.hop_length(config)
        self._log_mel = WindowLogMel(config.frontend, config.window)

    def items(self, clip: int, given: Given) -> Generator[Item, None, None]:
        """Windows in the order of time, then the end; only the end, with the error, where nothing can be read."""
        n_views = self._options.max_windows
        try:
            yield from self._windows(clip, given) if n_views is None else self._views(clip, given, n_views)
        except AudioError as error:
            yield ClipEnd(clip, given.path, error=str(error))
        except MemoryError:
            yield ClipEnd(clip, given.path, error="does not fit into memory while it is decoded")

    def _windows(self, clip: int, given: Given) -> Iterator[Item]:
        with self._open(_source(given)) as stream:
            blocks = _Counted(stream)
            for window in cut_windows(blocks, window=self._window, hop=self._hop_length):
                yield from self._window_items(clip, window.start, window.samples)
            yield ClipEnd(clip, given.path, blocks.n_rows, blocks.n_samples, warning=stream.warning)

    def _views(self, clip: int, given: Given, n_views: int) -> Iterator[Item]:
        with reopenable(_source(given)) as source:
            n_samples, warning = self._extent(source)
            starts = view_starts(n_samples, window=self._window, n_views=n_views)
            first = round(self._options.start * self._sample_rate)
            warnings: list[str] = []
            excerpts = read_excerpts(
                source, sample_rate=self._sample_rate, channels=self._options.channels,
                starts=[first + start for start in starts], n_samples=min(n_samples, self._window.n_samples),
                warnings=warnings,
            )  # fmt: skip
            n_rows, n_given = 1, 0
            for start, samples in zip(starts, excerpts, strict=True):
                if samples.shape[1]:  # else damage has taken all of it
                    n_rows, n_given = len(samples), n_given + 1
                    yield from self._window_items(clip, start, samples)
            if n_given < len(starts):
                n_samples, warning = self._decoded(source)
        yield ClipEnd(clip, given.path, n_rows, n_samples, warning=warning or "; ".join(warnings) or None)

    def _extent(self, source: Source) -> tuple[int, str | None]:
        """Samples between start and end; what `_decoded` gives where the header does not tell, or tells too much."""
        with self._open(source) as stream:
            promised = stream.n_samples
        return (promised, None) if promised and reaches_end(source) else self._decoded(source)

    def _decoded(self, source: Source) -> tuple[int, str | None]:
        """Samples that can be decoded between start and end, and the warning of doing so."""
        with self._open(source) as stream:
            return sum(block.shape[1] for block in stream), stream.warning

    def _open(self, source: Source) -> AudioStream:
        return open_audio(
            source, sample_rate=self._sample_rate, channels=self._options.channels,
            start=self._options.start, duration=self._options.duration,
        )  # fmt: skip

    def _window_items(self, clip: int, start: int, samples: FloatArray) -> Iterator[WindowItem]:
        begin = self._options.start + start / self._sample_rate
        end = begin + samples.shape[1] / self._sample_rate
        for row, log_mel in enumerate(self._log_mel(tuple(samples))):
            yield WindowItem(clip, row, begin, end, log_mel)


def _source(given: Given) -> Source:
    return open_stdin() if given.source is None else given.source


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
