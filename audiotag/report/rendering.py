"""What an excerpt looks and sounds like: a picture of what the network sees, and sound that browsers play."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from audiotag.audio import FloatArray, Waveform, encode_mp3, read_excerpts
from audiotag.config import FrontEndConfig
from audiotag.errors import AudioError
from audiotag.frontend import LogMel
from audiotag.machine import core_count
from audiotag.report.excerpts import Excerpt
from audiotag.report.page import Shown
from audiotag.report.picture import picture

SOUND_RATE = 32_000  # Hz: one that MP3 has, and enough for what is below 15 kHz


def render(
    excerpts: Iterable[Excerpt],
    sources: Mapping[str, Path],
    frontend: FrontEndConfig,
    *,
    channels: str = "mix",
    sound: bool = True,
    workers: int | None = None,
) -> Iterator[tuple[Excerpt, Shown]]:
    """Each excerpt with its picture and, with `sound`, its MP3; `sources` are the files by the paths of their results.

    A file that cannot be read any more is told of in the place of its picture. `workers` is how many threads make them.
    """
    log_mel = LogMel(frontend)

    def show(excerpt: Excerpt) -> tuple[Excerpt, Shown]:
        source = sources[excerpt.path]
        try:
            seen = picture(log_mel(_samples(source, excerpt, frontend.sample_rate, channels)[0]))
            heard = _samples(source, excerpt, SOUND_RATE, channels)[0] if sound else None
            return excerpt, Shown(seen, None if heard is None else encode_mp3(Waveform(heard, SOUND_RATE)))
        except AudioError as error:
            return excerpt, Shown(error=f"cannot be read any more: {error}")

    # Not on the caller's thread, also because Ctrl-C is lost in a callback of libsndfile's there.
    with ThreadPoolExecutor(workers or core_count()) as threads:
        yield from threads.map(show, excerpts)


def _samples(source: Path, excerpt: Excerpt, sample_rate: int, channels: str) -> FloatArray:
    """Shape: `[1, sample]`."""
    start, end = round(excerpt.start * sample_rate), round(excerpt.end * sample_rate)
    (samples,) = read_excerpts(
        source, sample_rate=sample_rate, channels=channels, starts=[start], n_samples=end - start
    )
    if not samples.size:
        raise AudioError("there is no sound where it was")
    return samples
