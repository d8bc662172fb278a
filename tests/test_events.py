"""Events: moments scored by all windows that hear them, stretches above thresholds, and `audiotag events`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from conftest import TINY_RATE, Ran, noise, siren, stereo, tone
from scipy.stats import gmean

from audiotag.config import HeadConfig, ModelConfig, WindowConfig
from audiotag.errors import UsageError
from audiotag.events import EventFinder, tags_of
from audiotag.model_folder import open_model_folder
from audiotag.options import EventOptions, TagOptions
from audiotag.results import ClipResult, Event, Tag
from audiotag.tagger import Tagger
from audiotag.windows import window_starts

Array = npt.NDArray[np.float64]
Window = tuple[float, float, Array]  # start and end in seconds, scores
Found = tuple[int, float, float, float]  # label, start and end in seconds, score
RunAudiotag = Callable[..., Ran]
WriteWav = Callable[..., Path]

HALF = np.full(3, 0.5)
NO_TIME = 1e-9  # seconds: what rounding may move a start or an end by


def found(
    config: ModelConfig, windows: list[Window], options: EventOptions | None = None,
    *, least_scores: Array = HALF,
) -> tuple[Event, ...]:  # fmt: skip
    finder = EventFinder(config, options or EventOptions(), least_scores=least_scores)
    for start, end, scores in windows:
        finder.add(start, end, scores)
    return finder.result()


def windows_of(scores: list[float], *, hop: float, length: float) -> list[Window]:
    """Windows in which the first label has these scores, the second a quarter of them, and the third none."""
    return [(hop * n, hop * n + length, np.array([score, score / 4, 0.0])) for n, score in enumerate(scores)]


def times(events: tuple[Event, ...]) -> list[tuple[float, float]]:
    return [(event.start, event.end) for event in events]


def by_the_definition(windows: list[Window], least_scores: Array) -> list[Found]:
    """Label, start, end and score of each event: every moment between neighbouring bounds by itself, with scipy."""
    bounds = sorted({round(bound, 9) for start, end, _ in windows for bound in (start, end)})
    events: list[Found] = []
    for label in range(len(least_scores)):
        last = None
        for begin, end in pairwise(bounds):
            middle = (begin + end) / 2
            heard = [scores[label] for start, stop, scores in windows if start < middle < stop]
            score = float(gmean(heard)) if heard else 0.0
            if score < least_scores[label]:
                last = None
            elif last is None:
                last = len(events)
                events.append((label, begin, end, score))
            else:
                events[last] = (label, events[last][1], end, max(events[last][3], score))
    return sorted(events, key=lambda event: (event[1], -event[3], event[0]))


def assert_same_events(events: tuple[Event, ...], expected: list[Found], labels: tuple[str, ...]) -> None:
    assert [event.label for event in events] == [labels[label] for label, *_ in expected]
    numbers = [(event.start, event.end, event.score) for event in events]
    np.testing.assert_allclose(numbers, [rest for _, *rest in expected], atol=NO_TIME, rtol=1e-9)


# --- the rule ---


def test_a_sound_is_where_all_windows_hear_it(tiny_config: ModelConfig) -> None:
    """Windows of 4 s, a second apart: those from 3 s to 6 s hear it, and only the moment from 6 to 7 s has no other."""
    windows = windows_of([0.01, 0.01, 0.01, 0.9, 0.9, 0.9, 0.9, 0.01, 0.01, 0.01], hop=1.0, length=4.0)
    assert found(tiny_config, windows) == (Event(label="Dog", start=6.0, end=7.0, score=pytest.approx(0.9)),)


@pytest.mark.parametrize("hop_seconds", [0.05, 0.1, 0.125, 0.2, 0.37, 0.4])
@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050])
def test_moments_are_scored_by_the_geometric_mean_of_the_windows_that_hear_them(
    tiny_config: ModelConfig, hop_seconds: float, rate: int
) -> None:
    window = WindowConfig(n_samples=round(0.4 * rate), n_frames=1)
    starts = window_starts(round(7.777 * rate), window=window, hop=round(hop_seconds * rate))
    rng = np.random.default_rng(rate)
    windows = [
        (2.0 + start / rate, 2.0 + start / rate + window.n_samples / rate, rng.uniform(size=3)) for start in starts
    ]
    least_scores = np.array([0.3, 0.4, 0.5])
    events = found(tiny_config, windows, least_scores=least_scores)
    assert len(events) > 10
    assert_same_events(events, by_the_definition(windows, least_scores), tiny_config.labels)


def test_a_score_of_nothing_ends_an_event_and_is_no_warning(tiny_config: ModelConfig) -> None:
    assert found(tiny_config, windows_of([0.0, 0.0], hop=1.0, length=2.0)) == ()
    windows = windows_of([1.0, 0.0, 1.0], hop=1.0, length=2.0)
    assert times(found(tiny_config, windows)) == [(0.0, 1.0), (3.0, 4.0)]


def test_no_windows_are_no_events(tiny_config: ModelConfig) -> None:
    assert found(tiny_config, []) == ()


def test_a_label_that_was_not_chosen_has_no_event(tiny_config: ModelConfig) -> None:
    windows = windows_of([0.9, 0.9], hop=1.0, length=2.0)
    least_scores = np.array([np.inf, 0.2, 0.2])
    assert [event.label for event in found(tiny_config, windows, least_scores=least_scores)] == ["Siren"]


@pytest.mark.parametrize(("max_gap", "expected"), [
    (0.0, [(0.0, 2.0), (4.0, 5.0), (8.0, 9.0)]),
    (1.999, [(0.0, 2.0), (4.0, 5.0), (8.0, 9.0)]),
    (2.0, [(0.0, 5.0), (8.0, 9.0)]),
    (3.0, [(0.0, 9.0)]),
])  # fmt: skip
def test_events_that_are_no_farther_apart_than_the_gap_are_one(
    tiny_config: ModelConfig, max_gap: float, expected: list[tuple[float, float]]
) -> None:
    windows = windows_of([0.9, 0.9, 0.0, 0.0, 0.8, 0.0, 0.0, 0.0, 0.7], hop=1.0, length=1.0)
    events = found(tiny_config, windows, EventOptions(max_gap=max_gap))
    assert times(events) == expected


def test_windows_that_leave_time_between_them_leave_it_between_events(tiny_config: ModelConfig) -> None:
    windows = windows_of([0.9, 0.8, 0.0], hop=3.0, length=1.0)
    assert times(found(tiny_config, windows)) == [(0.0, 1.0), (3.0, 4.0)]
    assert times(found(tiny_config, windows, EventOptions(max_gap=2.0))) == [(0.0, 4.0)]


def test_shorter_events_are_left_out_after_neighbours_are_joined(tiny_config: ModelConfig) -> None:
    windows = windows_of([0.9, 0.0, 0.9, 0.0, 0.0, 0.9, 0.9], hop=0.1, length=0.1)
    options = EventOptions(max_gap=0.1, min_duration=0.3)
    (event,) = found(tiny_config, windows, options)
    assert (event.start, event.end) == (0.0, pytest.approx(0.3))
    assert len(found(tiny_config, windows, EventOptions(min_duration=0.2))) == 1
    assert found(tiny_config, windows, EventOptions(min_duration=0.31)) == ()


def test_tags_are_the_labels_of_events_head_by_head_with_the_score_of_the_likeliest(tiny_config: ModelConfig) -> None:
    heads = (HeadConfig(name="verb", size=1), HeadConfig(name="noun", size=2))
    config = replace(tiny_config, activation="softmax", heads=heads, thresholds=())
    rows = [(0.6, 0.7, 0.1), (0.1, 0.1, 0.9), (0.5, 0.8, 0.1)]
    windows = [(float(second), second + 1.0, np.array(row)) for second, row in enumerate(rows)]
    events = found(config, windows)
    assert [(event.label, event.head, event.start) for event in events] == [
        ("Siren", "noun", 0.0), ("Dog", "verb", 0.0), ("Musical instrument, plucked", "noun", 1.0),
        ("Siren", "noun", 2.0), ("Dog", "verb", 2.0),
    ]  # fmt: skip
    tags = tags_of(events, config)
    assert [(tag.label, tag.head, round(tag.score, 6)) for tag in tags] == [
        ("Dog", "verb", 0.6), ("Musical instrument, plucked", "noun", 0.9), ("Siren", "noun", 0.8),
    ]  # fmt: skip


# --- the pipeline ---


def seven_seconds() -> npt.NDArray[np.float32]:
    """Noise with a tone and a siren in it."""
    parts = (noise(seconds=2.0), tone(seconds=1.2), noise(seconds=1.5, seed=1), siren(seconds=2.3))
    return np.concatenate(parts).astype(np.float32)


@pytest.mark.parametrize("start", [0.0, 1.5])
@pytest.mark.parametrize("hop", [None, 0.11])
def test_events_of_a_file_are_those_of_its_windows(
    tiny_model_folder: Path, write_wav: WriteWav, start: float, hop: float | None
) -> None:
    tagger = Tagger(open_model_folder(tiny_model_folder))
    path, labels = write_wav("long.wav", seven_seconds()), tagger.config.labels
    quarter = tagger.config.window.n_samples // 4 / TINY_RATE
    each = TagOptions(hop=hop or quarter, windows=True, threshold=0.0, top_k=0, start=start)
    windows = tagger.tag(path, options=each).windows
    assert windows is not None
    rows = [{tag.label: tag.score for tag in window.tags} for window in windows]
    scores = np.array([[row[label] for label in labels] for row in rows])
    least = np.quantile(scores, 0.6, axis=0)
    expected = by_the_definition([(w.start, w.end, row) for w, row in zip(windows, scores, strict=True)], least)
    thresholds = dict(zip(labels, map(float, least), strict=True))
    result = tagger.tag(path, options=TagOptions(hop=hop, thresholds=thresholds, start=start, events=EventOptions()))
    assert result.events is not None
    assert len(result.events) > 3
    assert_same_events(result.events, expected, labels)
    assert result.tags == tags_of(result.events, tagger.config)
    assert result.windows is None


def test_each_channel_has_its_events(tiny_model_folder: Path, write_wav: WriteWav) -> None:
    tagger, sound = Tagger(open_model_folder(tiny_model_folder)), seven_seconds()
    path, mono = write_wav("stereo.wav", stereo(sound, sound[::-1])), write_wav("mono.wav", sound)
    options = TagOptions(channels="each", threshold=0.5, events=EventOptions())
    left, right = tagger.tag_many([path], options=options)
    assert isinstance(left, ClipResult)
    assert isinstance(right, ClipResult)
    assert (left.channel, right.channel) == (0, 1)
    assert left.events == tagger.tag(mono, options=replace(options, channels="mix")).events != right.events


def test_events_and_views_contradict_each_other() -> None:
    with pytest.raises(UsageError, match="max-windows must be without events, not 3"):
        TagOptions(max_windows=3, events=EventOptions())
    with pytest.raises(UsageError, match="max-gap must be 0 to 1e\\+09 seconds, not -1"):
        EventOptions(max_gap=-1)


# --- the command ---

pytestmark = pytest.mark.usefixtures("in_folder_with_tiny_model")


@pytest.fixture
def recordings(write_wav: WriteWav, tmp_path: Path) -> Path:
    """Two recordings and what is none."""
    write_wav("in/long.wav", seven_seconds())
    write_wav("in/other.wav", noise(seconds=3.0, seed=4))
    (tmp_path / "in" / "broken.mp3").write_text("these are notes, not sound\n" * 50)
    return tmp_path / "in"


def test_every_format_shows_the_same_events(run_audiotag: RunAudiotag, recordings: Path) -> None:
    ran = run_audiotag("events", "in", "-t", "0.5", "--no-progress")
    assert ran.code == 3
    broken, long, _ = (json.loads(line) for line in ran.stdout.splitlines())
    assert broken["status"] == "failed"
    assert (long["path"], long["status"]) == ("in/long.wav", "ok")
    best = {event["label"]: 0.0 for event in long["events"]}
    for event in long["events"]:
        assert 0.0 <= event["start"] < event["end"] <= long["duration"]
        best[event["label"]] = max(best[event["label"]], event["score"])
    assert {tag["label"]: tag["score"] for tag in long["tags"]} == best

    rows = csv.DictReader(io.StringIO(run_audiotag("events", "in/long.wav", "-t", "0.5", "-f", "csv").stdout))
    shown = [(row["label"], float(row["start"]), float(row["end"]), float(row["score"])) for row in rows]
    assert shown == [(each["label"], each["start"], each["end"], each["score"]) for each in long["events"]]
    track = run_audiotag("events", "in/long.wav", "-t", "0.5", "-f", "audacity").stdout.splitlines()
    assert track[0] == f"{shown[0][1]:.3f}\t{shown[0][2]:.3f}\t{shown[0][0]} {shown[0][3]:.3f}"
    table = run_audiotag("events", "in/long.wav", "-t", "0.5", "-f", "table").stdout.splitlines()
    assert [line.split()[:2] for line in table[1:]] == [[f"{each[1]:.3f}", f"{each[2]:.3f}"] for each in shown]


def test_no_event_is_empty_and_its_row_is_the_whole_input(run_audiotag: RunAudiotag, recordings: Path) -> None:
    ran = run_audiotag("events", "in/other.wav", "-t", "1")
    assert (ran.code, json.loads(ran.stdout)) == (
        0, {"path": "in/other.wav", "status": "empty", "duration": 3.0, "tags": [], "events": []}
    )  # fmt: skip
    rows = run_audiotag("events", "in/other.wav", "-t", "1", "-f", "csv").stdout.splitlines()
    assert rows[1:] == ["in/other.wav,empty,0.000,3.000,,,,,"]
    table = run_audiotag("events", "in/other.wav", "-t", "1", "-f", "table")
    assert table.stdout == "in/other.wav  3.000 s  no event\n"
    hint, summary = table.stderr.splitlines()
    assert hint == "audiotag: no label reached its threshold in 1 of 1 input. A lower -t shows weaker ones"
    assert summary.startswith("0 ok, 1 empty, 0 failed")
    assert run_audiotag("events", "in/other.wav", "-t", "1", "-f", "table", "-q").stderr == ""


def test_events_are_resumed_merged_and_reformatted_as_tags_are(
    run_audiotag: RunAudiotag, recordings: Path, tmp_path: Path
) -> None:
    options = ("-t", "0.5", "--max-gap", "0.5", "--min-duration", "0:00:00.2", "--no-progress")
    whole = tmp_path / "whole.ndjson"
    assert run_audiotag("events", "in", *options, "--out", str(whole)).code == 3
    (recordings / "broken.mp3").unlink()
    assert run_audiotag("events", "in", *options, "--out", "once.ndjson").code == 0
    assert run_audiotag("events", "in", *options, "--out", str(whole), "--resume").code == 0
    assert whole.read_bytes() == (tmp_path / "once.ndjson").read_bytes()
    refused = run_audiotag("events", "in", *options, "--max-gap", "1", "--out", str(whole), "--resume")
    assert refused.code == 1
    assert "events" in refused.stderr

    for number in ("1", "2"):
        run_audiotag("events", "in", *options, "--out", f"{number}.ndjson", "--shard", f"{number}/2")
    assert run_audiotag("merge", "1.ndjson", "2.ndjson", "--out", "merged.ndjson").code == 0
    assert (tmp_path / "merged.ndjson").read_bytes() == whole.read_bytes()
    assert run_audiotag("reformat", "whole.ndjson", "--out", "again.csv").code == 0
    run_audiotag("events", "in", *options, "--out", "direct.csv")
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "direct.csv").read_bytes()


def test_an_event_of_one_of_several_heads_says_so() -> None:
    event = Event(label="wash", start=1.0, end=2.00049, score=0.25, head="verb")
    assert event.to_dict() == {"label": "wash", "start": 1.0, "end": 2.0, "score": 0.25, "head": "verb"}
    assert Tag("wash", 0.25, "verb").to_dict()["head"] == "verb"
