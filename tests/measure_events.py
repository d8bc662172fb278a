"""Compares rules that make events of windows' scores, on clips laid over noise at known times; not a test.

    python tests/measure_events.py ../shared/data/manifest.csv --model my-model --fold 2

Give a model that has not learnt from the fold. Each mixture is a minute of quiet pink noise with excerpts of clips, 0.4
to 12 s long, 8 to 30 dB louder, 2 to 12 s apart. A rule makes scores of moments from those of the windows that hear
them; a moment is in an event where its score reaches a threshold, the same for all labels, and the best one for the
rule. Two F1: of the labels of seconds (segment-based, Mesaros, Heittola, Virtanen: "Metrics for polyphonic sound event
detection", Applied Sciences 6(6), 2016), and of events, where one is right if it and a true one of its label share
more than half of what they cover together.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import soundfile

from audiotag.audio import read_audio
from audiotag.hub import resolve_model
from audiotag.options import EngineOptions, TagOptions
from audiotag.results import ClipResult, Result
from audiotag.tagger import Tagger
from audiotag.training.dataset import LabelledClip, read_dataset
from audiotag.windows import window_starts

Array = npt.NDArray[np.float64]

SECONDS = 60  # of a mixture
TICK = 0.25  # seconds: events begin and end on its multiples
LEAST_SHARE = 0.5  # of what two events cover together; above it they are the same
THRESHOLDS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
WINDOWS_OF_MOMENT = (1, 2, 4, 8)
NOISE_LEVEL, LOUDER, LENGTH, PAUSE = -45.0, (8.0, 30.0), (0.4, 12.0), (2.0, 12.0)  # dB full scale, dB, seconds, seconds
TRIMMED_BELOW = -35.0  # dB under the loudest part of a clip: how its silent ends are told


def _centre(scores: Array) -> Array:
    return np.asarray(scores[len(scores) // 2])


def _geometric_mean(scores: Array) -> Array:
    return np.asarray(np.exp(np.log(np.maximum(scores, 1e-300)).mean(axis=0)))


RULES: dict[str, Callable[[Array], Array]] = {  # [window that hears the moment, class] -> [class]
    "mean": lambda scores: np.asarray(scores.mean(axis=0)),
    "median": lambda scores: np.asarray(np.median(scores, axis=0)),
    "window in the middle": _centre,
    "least": lambda scores: np.asarray(scores.min(axis=0)),
    "geometric mean": _geometric_mean,
}


@dataclass(frozen=True)
class Event:
    """A label from `start` to `end` (seconds)."""

    label: int
    start: float
    end: float


# --- mixtures ---


def mixture(
    clips: list[LabelledClip], labels: list[str], rate: int, rng: np.random.Generator
) -> tuple[Array, list[Event]]:
    """A minute of sound, and what is in it."""
    n_samples = SECONDS * rate
    sound, events = _pink_noise(n_samples, rng) * _gain(NOISE_LEVEL), list[Event]()
    start = round(rng.uniform(*PAUSE) * rate)
    while True:
        clip = clips[rng.integers(len(clips))]
        excerpt = _excerpt(clip, rate, rng)
        if start + len(excerpt) > n_samples - rate:
            return sound / max(1.0, float(np.abs(sound).max())), events
        level = float(np.sqrt(np.mean(excerpt**2)))
        if level == 0.0:
            continue
        sound[start : start + len(excerpt)] += excerpt / level * _gain(NOISE_LEVEL + rng.uniform(*LOUDER))
        known = [labels.index(label) for label in clip.labels if label in labels]
        events += [Event(label, start / rate, (start + len(excerpt)) / rate) for label in known]
        start += len(excerpt) + round(rng.uniform(*PAUSE) * rate)


def _excerpt(clip: LabelledClip, rate: int, rng: np.random.Generator) -> Array:
    """A random part of a clip without its silent ends, of a length whose logarithm is uniform."""
    samples = read_audio(clip.path, sample_rate=rate).samples.reshape(-1).astype(np.float64)
    step = rate // 50
    levels = np.sqrt(np.mean(samples[: len(samples) // step * step].reshape(-1, step) ** 2, axis=1))
    loud = np.flatnonzero(levels >= levels.max(initial=0.0) * _gain(TRIMMED_BELOW))
    if len(loud):
        samples = samples[loud[0] * step : (loud[-1] + 1) * step]
    length = min(len(samples), round(float(np.exp(rng.uniform(*np.log(LENGTH)))) * rate))
    first = int(rng.integers(len(samples) - length + 1))
    return samples[first : first + length]


def _pink_noise(n_samples: int, rng: np.random.Generator) -> Array:
    spectrum = np.fft.rfft(rng.standard_normal(n_samples))
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), n_samples)
    return np.asarray(noise / np.sqrt(np.mean(noise**2)))


def _gain(decibels: float) -> float:
    return float(10 ** (decibels / 20))


# --- rules ---


def scores_of_moments(rule: Callable[[Array], Array], starts: Array, ends: Array, scores: Array) -> Array:
    """Scores at the middle of each tick. Shape: `[window]`, `[window]`, `[window, class]` -> `[tick, class]`."""
    times = (np.arange(round(SECONDS / TICK)) + 0.5) * TICK
    return np.stack([rule(scores[(starts <= time) & (time < ends)]) for time in times])


def events_of(moments: Array, threshold: float) -> Iterator[Event]:
    """Every stretch of ticks in which a label reaches the threshold."""
    reached = np.pad(moments >= threshold, ((1, 1), (0, 0))).astype(np.int8)
    for label, column in enumerate(np.diff(reached, axis=0).T):
        for begin, end in zip(np.flatnonzero(column > 0), np.flatnonzero(column < 0), strict=True):
            yield Event(label, begin * TICK, end * TICK)


def same(found: Event, true: Event) -> bool:
    """Whether they share enough of what they cover together."""
    shared = min(found.end, true.end) - max(found.start, true.start)
    covered = max(found.end, true.end) - min(found.start, true.start)
    return found.label == true.label and shared > LEAST_SHARE * covered


def seconds_of(events: list[Event]) -> set[tuple[int, int]]:
    """Label and number of each second that has some of an event."""
    return {(each.label, second) for each in events for second in range(int(each.start), int(np.ceil(each.end)))}


@dataclass
class Counts:
    """What F1 is made of."""

    n_right: int = 0
    n_found: int = 0
    n_true: int = 0

    def add(self, n_right: int, n_found: int, n_true: int) -> None:
        """Counts one mixture."""
        self.n_right, self.n_found, self.n_true = self.n_right + n_right, self.n_found + n_found, self.n_true + n_true

    @property
    def f1(self) -> float:
        """2 right / (found + true)."""
        return 2 * self.n_right / max(1, self.n_found + self.n_true)


def measure(all_moments: list[Array], truths: list[list[Event]], threshold: float) -> tuple[float, float, float]:
    """F1 of seconds, F1 of events, and the median distance of starts and ends of right events (seconds)."""
    seconds, events, distances = Counts(), Counts(), list[float]()
    for moments, true in zip(all_moments, truths, strict=True):
        found = list(events_of(moments, threshold))
        pairs = [(each, other) for other in true for each in found if same(each, other)]
        events.add(len(pairs), len(found), len(true))
        distances += [abs(each.start - other.start) for each, other in pairs]
        distances += [abs(each.end - other.end) for each, other in pairs]
        of_found, of_true = seconds_of(found), seconds_of(true)
        seconds.add(len(of_found & of_true), len(of_found), len(of_true))
    return seconds.f1, events.f1, float(np.median(distances)) if distances else float("nan")


def write_mixtures(paths: list[Path], clips: list[LabelledClip], labels: list[str], rate: int) -> list[list[Event]]:
    """Writes a mixture to each path; what is in them."""
    rng, truths = np.random.default_rng(1), list[list[Event]]()
    for path in paths:
        sound, events = mixture(clips, labels, rate, rng)
        soundfile.write(path, sound, rate, subtype="FLOAT")
        truths.append(events)
    return truths


def rows(tagger: Tagger, paths: list[Path], truths: list[list[Event]]) -> Iterator[str]:
    """Markdown, one row for each rule and number of windows."""
    rate, window = tagger.config.frontend.sample_rate, tagger.config.window
    for n_windows in WINDOWS_OF_MOMENT:
        hop = window.n_samples // n_windows
        options = TagOptions(hop=hop / rate, windows=True, top_k=0, threshold=0.0)
        starts = np.array(window_starts(SECONDS * rate, window=window, hop=hop)) / rate
        ends = starts + window.n_samples / rate
        all_scores = [_scores(result, tagger.labels) for result in tagger.tag_many(paths, options=options)]
        for name, rule in RULES.items() if n_windows > 1 else [("the window's score", RULES["mean"])]:
            moments = [scores_of_moments(rule, starts, ends, scores) for scores in all_scores]
            measured = [measure(moments, truths, threshold) for threshold in THRESHOLDS]
            best = max(measured, key=lambda each: each[1])
            of_seconds = max(each[0] for each in measured)
            yield f"| {n_windows} | {name} | {of_seconds:.3f} | {best[1]:.3f} | {best[2]:.2f} s |"


def _scores(result: Result, labels: Iterable[str]) -> Array:
    """Shape: `[window, class]`."""
    assert isinstance(result, ClipResult), result
    by_label = [{tag.label: tag.score for tag in window.tags} for window in result.windows or ()]
    return np.array([[scores[label] for label in labels] for scores in by_label])


def main() -> None:
    """Parses the command line, makes the mixtures, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--fold", default="2")
    parser.add_argument("--mixtures", type=int, default=80)
    asked = parser.parse_args()

    options = EngineOptions(device="cpu", engine="onnx", precision="fp32")
    tagger = Tagger(resolve_model(asked.model, engine=options), options=options)
    labels, rate = list(tagger.labels), tagger.config.frontend.sample_rate
    held_out = [clip for clip in read_dataset(asked.manifest) if clip.fold == asked.fold]
    clips = [clip for clip in held_out if set(clip.labels) & set(labels)]
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number:04}.wav" for number in range(asked.mixtures)]
        truths = write_mixtures(paths, clips, labels, rate)
        print(f"{asked.mixtures} mixtures, {sum(map(len, truths))} labels of excerpts\n")
        print("| windows of a moment | rule | F1 of seconds | F1 of events | starts and ends off by (median) |")
        print("|---|---|---|---|---|")
        for row in rows(tagger, paths, truths):
            print(row, flush=True)


if __name__ == "__main__":
    main()
