"""The laws of a run: a clip's answer depends on nothing but the clip, and nothing grows with the run."""

from __future__ import annotations

import itertools
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import (
    TINY_CONFIG,
    TINY_RATE,
    assert_no_threads_left,
    chirp,
    click_train,
    noise,
    silence,
    siren,
    stereo,
    tone,
)
from sounds import write_audio

import audiotag
from audiotag.audio import Waveform, read_audio
from audiotag.audio.libsndfile import READ_FRAMES
from audiotag.config import NetworkConfig
from audiotag.engines import FloatArray
from audiotag.engines.onnx import OnnxEngine
from audiotag.errors import AudioError, EngineError, UsageError
from audiotag.frontend import WindowLogMel
from audiotag.inputs import Input
from audiotag.model_folder import ModelFolder, open_model_folder
from audiotag.options import EngineOptions, EventOptions, TagOptions
from audiotag.pipeline import MAX_CLIPS_AHEAD, Pipeline
from audiotag.results import ClipResult, Failure, Result
from audiotag.scores import to_scores
from audiotag.tagger import Tagger, choose_cpu_precision, load
from audiotag.windows import view_starts, window_starts

WriteWav = Callable[..., Path]

FLOAT32 = 1e-5  # the product's promise for float32
ALL = TagOptions(top_k=0, threshold=0.0)  # every label's score
WINDOW = TINY_CONFIG.window.n_samples


@pytest.fixture
def folder(tiny_model_folder: Path) -> ModelFolder:
    return open_model_folder(tiny_model_folder)


@pytest.fixture
def tagger(folder: ModelFolder) -> Tagger:
    return Tagger(folder, options=EngineOptions(device="cpu", engine="onnx", precision="fp32"))


@pytest.fixture
def clips(write_wav: WriteWav) -> list[Path]:
    """Clips of one to seven windows, some shorter than one."""
    sounds = {
        "tone": tone(seconds=1.3), "chirp": chirp(seconds=3.2), "clicks": click_train(seconds=0.7),
        "siren": siren(seconds=2.0), "short": tone(900.0, seconds=0.1), "noise": noise(seconds=1.0),
    }  # fmt: skip
    return [write_wav(f"{name}.wav", samples) for name, samples in sounds.items()]


def scores_of(result: Result) -> dict[str, float]:
    assert isinstance(result, ClipResult), result
    return {tag.label: tag.score for tag in result.tags}


def scores_by_path(results: Iterator[Result]) -> dict[str, list[float]]:
    return {result.path: [scores_of(result)[label] for label in TINY_CONFIG.labels] for result in results}


def expected_scores(samples: FloatArray, starts: tuple[int, ...], network: Any) -> FloatArray:
    """Window scores computed the straight way: one window at a time, through the multi-branch torch network."""
    import torch

    log_mel = WindowLogMel(TINY_CONFIG.frontend, TINY_CONFIG.window)
    rows = [
        network(torch.from_numpy(log_mel([samples[start : start + WINDOW]]))).detach().numpy() for start in starts
    ]
    return to_scores(np.concatenate(rows), TINY_CONFIG)


# --- the answer ---


def test_one_path_is_not_taken_for_many_of_one_letter(tiny_model_folder: Path) -> None:
    with pytest.raises(TypeError, match=r"write tag\('a.wav'\) or tag_many\(\['a.wav'\]\)"):
        load(tiny_model_folder).tag_many("a.wav")


@pytest.mark.parametrize("options", [ALL, TagOptions(top_k=0, threshold=0.0, start=0.4, max_windows=2)])
def test_samples_in_memory_get_the_scores_of_the_file_that_holds_them(
    tagger: Tagger, tmp_path: Path, options: TagOptions
) -> None:
    path, rate = tmp_path / "a.wav", 2 * TINY_RATE
    samples = chirp(seconds=3.4)
    soundfile.write(path, samples, rate, subtype="FLOAT")
    expected = tagger.tag(path, options=options)
    floats = [Waveform(samples, rate), Waveform(samples.astype(np.float64), rate), read_audio(path)]  # type: ignore[arg-type]
    with open(path, "rb") as file:
        results = list(tagger.tag_many([*floats, file, BytesIO(path.read_bytes())], options=options))
    assert [result.path for result in results] == ["waveform"] * 3 + [str(path), "open file"]
    for result in results:
        assert isinstance(result, ClipResult)
        assert replace(result, path=expected.path) == expected


def test_samples_that_are_not_finite_are_told_like_those_of_a_file(tagger: Tagger) -> None:
    samples = chirp(seconds=0.5)
    samples[100] = np.nan
    assert "not finite" in (tagger.tag(Waveform(samples, TINY_RATE)).warning or "")


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((2, 100), np.float32), r"one dimension, \[sample\], not \(2, 100\)"),
        (np.zeros(100, np.int16), "not int16"),
        ([0, 1], "not int64"),
    ],
)
def test_a_waveform_of_another_shape_or_kind_is_refused_as_it_is_made(samples: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Waveform(samples, TINY_RATE)


def test_a_rate_with_a_point_is_refused_as_a_waveform_is_made() -> None:
    assert Waveform(chirp(), np.int64(TINY_RATE)).sample_rate == TINY_RATE  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"a whole number of Hz, not 44100\.0"):
        Waveform(chirp(), 44100.0)  # type: ignore[arg-type]


def test_a_waveform_of_an_impossible_rate_fails_like_a_file_of_one(tagger: Tagger) -> None:
    with pytest.raises(AudioError, match="waveform: has a sample rate of 0 Hz"):
        tagger.tag(Waveform(chirp(seconds=0.5), 0))


@pytest.mark.parametrize("source", [StringIO("text"), chirp(seconds=0.5), None])
def test_what_is_no_recording_is_refused_with_what_is_one(tagger: Tagger, source: Any) -> None:
    with pytest.raises(TypeError, match=r"a path, a file that is open in mode 'rb', or a Waveform can be tagged, not "):
        tagger.tag(source)


def test_a_clip_has_the_mean_of_its_windows_scores(tagger: Tagger, write_wav: WriteWav, tiny_network: Any) -> None:
    samples = chirp(seconds=1.7)
    result = tagger.tag(write_wav("a.wav", samples), options=ALL)
    starts = window_starts(len(samples), window=TINY_CONFIG.window, hop=WINDOW)
    expected = expected_scores(samples, starts, tiny_network).mean(axis=0)
    assert [scores_of(result)[label] for label in TINY_CONFIG.labels] == pytest.approx(expected, abs=FLOAT32)
    assert [tag.score for tag in result.tags] == sorted((tag.score for tag in result.tags), reverse=True)
    assert result.duration == pytest.approx(1.7)


def test_the_windows_can_be_told_apart(tagger: Tagger, write_wav: WriteWav, tiny_network: Any) -> None:
    """Guards the other tests: a network that says the same of every sound would pass them."""
    rows = expected_scores(chirp(seconds=1.7), (0, WINDOW, 2 * WINDOW), tiny_network)
    assert np.ptp(rows, axis=0).max() > 0.01


def test_aggregate_max_takes_the_highest_window(tagger: Tagger, write_wav: WriteWav) -> None:
    path = write_wav("a.wav", chirp(seconds=2.0))
    result = tagger.tag(path, options=replace(ALL, aggregate="max", windows=True))
    assert result.windows is not None
    for label, score in scores_of(result).items():
        highest = max(tag.score for window in result.windows for tag in window.tags if tag.label == label)
        assert score == highest


@pytest.mark.parametrize("hop", [None, 0.1, 0.25, 2.0])
def test_windows_start_every_hop_and_end_with_the_clip(
    hop: float | None, tagger: Tagger, write_wav: WriteWav, tiny_network: Any
) -> None:
    samples = siren(seconds=1.9)
    result = tagger.tag(write_wav("a.wav", samples), options=replace(ALL, windows=True, hop=hop))
    starts = window_starts(
        len(samples), window=TINY_CONFIG.window, hop=WINDOW if hop is None else round(hop * TINY_RATE)
    )
    assert result.windows is not None
    assert [window.start for window in result.windows] == pytest.approx([start / TINY_RATE for start in starts])
    assert result.windows[-1].end == pytest.approx(1.9)
    expected = expected_scores(samples, starts, tiny_network)
    for window, row in zip(result.windows, expected, strict=True):
        found = {tag.label: tag.score for tag in window.tags}
        assert [found[label] for label in TINY_CONFIG.labels] == pytest.approx(row, abs=FLOAT32)


@pytest.mark.parametrize("n_views", [1, 3, 10])
def test_max_windows_are_the_authors_views(
    n_views: int, tagger: Tagger, write_wav: WriteWav, tiny_network: Any
) -> None:
    samples = chirp(seconds=3.3)
    result = tagger.tag(write_wav("a.wav", samples), options=replace(ALL, windows=True, max_windows=n_views))
    starts = view_starts(len(samples), window=TINY_CONFIG.window, n_views=n_views)
    assert result.windows is not None
    assert [round(window.start * TINY_RATE) for window in result.windows] == list(starts)
    expected = expected_scores(samples, starts, tiny_network).mean(axis=0)
    assert [scores_of(result)[label] for label in TINY_CONFIG.labels] == pytest.approx(expected, abs=FLOAT32)
    assert result.duration == pytest.approx(3.3)


def test_max_windows_of_a_clip_shorter_than_a_window_is_one_padded_window(
    tagger: Tagger, write_wav: WriteWav
) -> None:
    path = write_wav("a.wav", tone(seconds=0.2))
    skimmed, whole = (tagger.tag(path, options=replace(ALL, max_windows=n, windows=True)) for n in (7, None))
    assert skimmed == whole
    assert skimmed.windows is not None
    assert [(window.start, window.end) for window in skimmed.windows] == [(0.0, pytest.approx(0.2))]


@pytest.mark.parametrize("suffix", [".flac", ".wav", ".mp3"])
def test_views_of_a_file_that_is_cut_short_are_spread_over_what_is_there(
    suffix: str, tagger: Tagger, tmp_path: Path
) -> None:
    path = write_audio(tmp_path / f"clip{suffix}", chirp(seconds=12.0), TINY_RATE)
    os.truncate(path, path.stat().st_size // 4)
    whole, skimmed = (tagger.tag(path, options=replace(ALL, windows=True, max_windows=n)) for n in (None, 4))
    assert 1.5 < whole.duration < 4.5
    assert skimmed.duration == whole.duration
    assert skimmed.warning == whole.warning is not None
    assert skimmed.windows is not None
    assert len(skimmed.windows) == 4
    assert whole.duration - READ_FRAMES / TINY_RATE <= skimmed.windows[-1].end <= whole.duration


def test_views_that_damage_leaves_without_a_sample_are_left_out(tagger: Tagger, tmp_path: Path) -> None:
    path = write_audio(tmp_path / "clip.flac", noise(seconds=60.0), TINY_RATE)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle - 9000 : middle + 9000] = bytes(18000)  # more than a second
    path.write_bytes(content)
    whole, skimmed = (tagger.tag(path, options=replace(ALL, windows=True, max_windows=n)) for n in (None, 3))
    assert skimmed.windows is not None
    assert [window.start for window in skimmed.windows] == [0.0]
    assert (skimmed.duration, skimmed.warning) == (whole.duration, whole.warning)
    assert whole.duration == pytest.approx(29, abs=1)
    every, one = (tagger.tag(path, options=replace(ALL, start=28.0, duration=2.4, max_windows=n)) for n in (None, 2))
    assert one.duration == every.duration < 2  # the other view is lost
    lost, none = (tagger.tag(path, options=replace(ALL, start=29.9, duration=0.6, max_windows=n)) for n in (None, 3))
    assert lost == none
    assert (none.tags, none.duration) == ((), 0.0)


def test_views_behind_the_end_are_none_with_the_warning_of_a_whole_decode(tagger: Tagger, write_wav: WriteWav) -> None:
    path = write_wav("a.wav", tone())
    whole, skimmed = (tagger.tag(path, options=replace(ALL, start=5.0, max_windows=n)) for n in (None, 4))
    assert skimmed == whole
    assert skimmed.warning == "ends before 5.000 s, where it was to start"


def test_start_and_duration_hear_a_part(tagger: Tagger, write_wav: WriteWav) -> None:
    samples = chirp(seconds=3.0)
    part = write_wav("part.wav", samples[TINY_RATE : 2 * TINY_RATE])
    whole = write_wav("whole.wav", samples)
    heard = tagger.tag(whole, options=replace(ALL, start=1.0, duration=1.0, windows=True))
    alone = tagger.tag(part, options=replace(ALL, windows=True))
    assert scores_of(heard) == pytest.approx(scores_of(alone), abs=FLOAT32)
    assert (heard.start, heard.duration) == (1.0, 1.0)
    assert heard.windows is not None
    assert heard.windows[0].start == 1.0


def test_each_channel_gets_its_own_result(tagger: Tagger, write_wav: WriteWav) -> None:
    left, right = tone(seconds=1.2), noise(seconds=1.2)
    both = write_wav("both.wav", stereo(left, right))
    results = list(tagger.tag_many([both, both], options=replace(ALL, channels="each")))
    assert [result.channel for result in results if isinstance(result, ClipResult)] == [0, 1, 0, 1]
    for result, samples in zip(results, (left, right), strict=False):
        alone = tagger.tag(write_wav("alone.wav", samples), options=ALL)
        assert scores_of(result) == pytest.approx(scores_of(alone), abs=FLOAT32)


def test_tag_refuses_each_channel(tagger: Tagger) -> None:
    with pytest.raises(UsageError, match="tag_many"):
        tagger.tag("a.wav", options=TagOptions(channels="each"))


def test_top_k_threshold_and_labels_choose_the_tags(tagger: Tagger, write_wav: WriteWav) -> None:
    path = write_wav("a.wav", tone())
    everything = tagger.tag(path, options=ALL)
    assert tagger.tag(path, top_k=1, threshold=0.0).tags == everything.tags[:1]
    assert tagger.tag(path, threshold=1.0).status == "empty"
    chosen = replace(ALL, include_labels=("musical*", "dog"), exclude_labels=("Dog",))
    only = tagger.tag(path, options=chosen)
    assert [tag.label for tag in only.tags] == ["Musical instrument, plucked"]
    assert tagger.tag(path, threshold=0, options=chosen).tags == only.tags, "a whole number is a score too"


@pytest.mark.parametrize(
    ("options_of", "given"),
    [
        (TagOptions, {"hop": 0.0}), (TagOptions, {"duration": 0.0}), (TagOptions, {"start": -0.1}),
        (TagOptions, {"max_windows": 0}), (TagOptions, {"channels": "middle"}), (TagOptions, {"aggregate": "median"}),
        (TagOptions, {"top_k": -1}), (TagOptions, {"threshold": 1.1}), (TagOptions, {"threshold": -0.1}),
        (EventOptions, {"min_duration": -0.1}), (EngineOptions, {"batch_size": 0}), (EngineOptions, {"engine": "jax"}),
        (EngineOptions, {"precision": "fp8"}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_an_option_out_of_its_range_is_refused_by_its_name(options_of: Any, given: dict[str, Any]) -> None:
    [(name, value)] = given.items()
    with pytest.raises(UsageError, match=f"^{name.replace('_', '-')} must be .*, not {value!r}$"):
        options_of(**given)


@pytest.mark.parametrize("other", [{"device": "cpu"}, {"engine": "onnx"}])
def test_half_precision_is_refused_where_nothing_computes_it(other: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"^precision fp16 needs a GPU and engine torch\. Use fp32 or int8"):
        EngineOptions(precision="fp16", **other)


def test_an_unknown_label_is_refused_before_the_first_input(tagger: Tagger) -> None:
    with pytest.raises(UsageError, match="Did you mean 'Dog'"):
        tagger.tag_many(iter([]), options=TagOptions(include_labels=("Dogg",)))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: TagOptions(top_k="3"), "top-k must be a whole number, 0 (all) or more, not '3'"),
        (lambda: TagOptions(max_windows=2.5), "max-windows must be a whole number, 1 or more, not 2.5"),
        (lambda: TagOptions(threshold="0.3"), "threshold must be 0 to 1, not '0.3'"),
        (lambda: TagOptions(threshold=np.array([0.3])), "threshold must be 0 to 1, not array([0.3])"),
        (lambda: TagOptions(thresholds="my.json"), "thresholds must be a mapping, as {'Dog': 0.3}, not 'my.json'"),
        (lambda: TagOptions(start=None), "start must be 0 to 1e+09 seconds, not None"),
        (lambda: TagOptions(hop="0.5"), "hop must be more than 0 seconds and at most 1e+09, not '0.5'"),
        (lambda: TagOptions(channels=1), "channels must be mix, left, right, each or a number such as '0', not 1"),
        (lambda: TagOptions(include_labels="Dog"), "include-labels must be several, as ('Dog', 'Cat*'), not 'Dog'"),
        (lambda: TagOptions(events=True), "events must be EventOptions(), not True"),
        (lambda: EventOptions(max_gap="1"), "max-gap must be 0 to 1e+09 seconds, not '1'"),
        (lambda: EngineOptions(batch_size=2.5), "batch-size must be a whole number, 1 or more, not 2.5"),
        (lambda: EngineOptions(device=0), "device must be auto, cpu, cuda, cuda:N or mps, not 0"),
    ],
)  # fmt: skip
def test_an_option_of_another_type_is_refused_by_its_name(make: Callable[[], object], told: str) -> None:
    with pytest.raises(UsageError) as refused:
        make()
    assert str(refused.value) == told


def test_silence_is_an_answer_like_any_other(tagger: Tagger, write_wav: WriteWav) -> None:
    assert len(tagger.tag(write_wav("a.wav", silence(seconds=0.9)), options=ALL).tags) == 3


# --- it depends on nothing but the clip ---


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize(
    "change",
    [{"batch_size": 1}, {"batch_size": 3}, {"batch_size": 64}, {"workers": 1}, {"workers": 5},
     {"threads": 1}, {"threads": 2}, {"threads": 3}],
    ids=str,
)  # fmt: skip
def test_batch_size_workers_and_threads_do_not_matter(
    change: dict[str, int], precision: Any, folder: ModelFolder, clips: list[Path]
) -> None:
    usual = EngineOptions(device="cpu", engine="onnx", precision=precision)
    expected = scores_by_path(Tagger(folder, options=usual).tag_many(clips, options=ALL))
    found = scores_by_path(Tagger(folder, options=replace(usual, **change)).tag_many(clips, options=ALL))
    assert found == expected  # to the last bit: a resumed run writes the same bytes


def test_order_and_neighbours_do_not_matter(tagger: Tagger, clips: list[Path]) -> None:
    alone = {str(path): next(tagger.tag_many([path], options=ALL)) for path in clips}
    for order in (clips, clips[::-1], clips * 2):
        assert list(tagger.tag_many(order, options=ALL)) == [alone[str(path)] for path in order]


def test_torch_gives_what_onnx_gives(tagger: Tagger, folder: ModelFolder, clips: list[Path]) -> None:
    reference = Tagger(folder, options=EngineOptions(device="cpu", engine="torch"))
    assert (reference.engine.name, reference.engine.device, reference.engine.precision) == ("torch", "cpu", "fp32")
    expected = scores_by_path(reference.tag_many(clips, options=ALL))
    found = scores_by_path(tagger.tag_many(clips, options=ALL))
    assert found.keys() == expected.keys()
    for path, scores in found.items():
        assert scores == pytest.approx(expected[path], abs=FLOAT32)


# --- a run ---


def test_a_failed_input_stands_in_its_place(tagger: Tagger, clips: list[Path], tmp_path: Path) -> None:
    text = tmp_path / "notes.mp3"
    text.write_text("this is not audio\n" * 100)
    missing = tmp_path / "gone.wav"
    results = list(tagger.tag_many([clips[0], text, missing, clips[1]]))
    assert [result.path for result in results] == [str(path) for path in (clips[0], text, missing, clips[1])]
    assert [result.status for result in results] == ["ok", "failed", "failed", "ok"]
    assert isinstance(results[1], Failure)
    assert results[1].error.startswith("not decodable: ")
    assert "\n" not in results[1].error


def test_tag_raises_what_tag_many_gives_as_a_failure(tagger: Tagger, tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"gone\.wav: "):
        tagger.tag(tmp_path / "gone.wav")


def test_a_result_shows_the_path_of_the_input_as_given(tagger: Tagger, clips: list[Path]) -> None:
    given = Input(path="shown/as this", source=clips[0], size=None, mtime_ns=None)
    assert [result.path for result in tagger.tag_many([given, str(clips[1])])] == ["shown/as this", str(clips[1])]


def test_no_inputs_give_no_results(tagger: Tagger) -> None:
    assert list(tagger.tag_many([])) == []


def test_progress_adds_up_to_the_seconds_of_audio(tagger: Tagger, clips: list[Path]) -> None:
    seconds: list[float] = []
    results = list(tagger.tag_many(clips, options=TagOptions(hop=0.2), on_progress=seconds.append))
    assert sum(seconds) == pytest.approx(sum(r.duration for r in results if isinstance(r, ClipResult)))
    assert min(seconds) > 0


def test_endless_inputs_are_read_a_bounded_number_ahead(tagger: Tagger, clips: list[Path]) -> None:
    n_read = 0

    def endless() -> Iterator[Path]:
        nonlocal n_read
        for path in itertools.cycle(clips):
            n_read += 1
            yield path

    results = tagger.tag_many(endless())
    assert len(list(itertools.islice(results, 5))) == 5
    time.sleep(0.3)
    assert n_read <= 5 + MAX_CLIPS_AHEAD + 1
    results.close()


def test_results_come_while_the_inputs_are_still_being_found(tagger: Tagger, clips: list[Path]) -> None:
    more = threading.Event()

    def slow() -> Iterator[Path]:
        yield clips[0]
        more.wait(30)
        yield clips[1]

    results = tagger.tag_many(slow())
    assert next(results).path == str(clips[0])
    more.set()
    assert next(results).path == str(clips[1])


def test_an_error_of_the_inputs_reaches_the_caller(tagger: Tagger, clips: list[Path]) -> None:
    def broken() -> Iterator[Path]:
        yield from clips * (MAX_CLIPS_AHEAD // len(clips) + 1)  # so that a thread waits for room
        raise UsageError("the list is gone")

    with pytest.raises(UsageError, match="the list is gone"):
        list(tagger.tag_many(broken()))
    assert_no_threads_left()


def test_what_came_before_an_error_of_the_inputs_is_not_lost(tagger: Tagger, clips: list[Path]) -> None:
    def broken() -> Iterator[Path]:
        yield from clips
        raise UsageError("the list is gone")

    results = tagger.tag_many(broken())
    assert [next(results).path for _ in clips] == [str(path) for path in clips]
    with pytest.raises(UsageError, match="the list is gone"):
        next(results)


@pytest.fixture
def long_clip(tmp_path: Path) -> Path:
    """Ten hours of silence that hardly take room on the disk."""
    n_bytes = 2 * 36_000 * TINY_RATE
    path = tmp_path / "long.wav"
    path.write_bytes(
        b"RIFF" + struct.pack("<I", 36 + n_bytes) + b"WAVEfmt "
        + struct.pack("<IHHIIHH", 16, 1, 1, TINY_RATE, 2 * TINY_RATE, 2, 16) + b"data" + struct.pack("<I", n_bytes)
    )  # fmt: skip
    os.truncate(path, 44 + n_bytes)
    return path


def test_closing_a_run_stops_its_threads_in_the_middle_of_a_clip(tagger: Tagger, long_clip: Path) -> None:
    with pytest.raises(RuntimeError, match="stop here"):  # as Ctrl-C would, from inside the run
        list(tagger.tag_many([long_clip, long_clip], on_progress=raise_stop))
    assert_no_threads_left()


def raise_stop(seconds: float) -> None:
    raise RuntimeError("stop here")


def test_a_long_clip_is_skimmed_without_decoding_it(tagger: Tagger, long_clip: Path) -> None:
    begun = time.monotonic()
    result = tagger.tag(long_clip, options=TagOptions(max_windows=4, windows=True))
    assert result.duration == 36_000.0
    assert time.monotonic() - begun < 2.0


# --- memory ---


class _SmallDevice:
    """An engine on which only batches of two fit."""

    name, device, precision, batch_size = "onnx", "cpu", "fp32", 8

    def __init__(self, engine: Any, *, fits: int, concurrency: int = 1) -> None:
        self.concurrency = concurrency
        self._engine = engine
        self._fits = fits
        self.batch_sizes: list[int] = []

    def __call__(self, log_mels: FloatArray) -> FloatArray:
        self.batch_sizes.append(len(log_mels))
        if len(log_mels) > self._fits:
            raise MemoryError("the batch is too large")
        return self._engine(log_mels)  # type: ignore[no-any-return]


def inputs_of(paths: list[Path]) -> Iterator[Input]:
    return iter([Input(path=str(path), source=path, size=None, mtime_ns=None) for path in paths])


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_batch_that_does_not_fit_is_halved_and_the_run_goes_on(
    precision: Any, concurrency: int, folder: ModelFolder, clips: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    tagger = Tagger(folder, options=EngineOptions(device="cpu", engine="onnx", precision=precision))
    small = _SmallDevice(tagger.engine, fits=2, concurrency=concurrency)
    with caplog.at_level("INFO", logger="audiotag.pipeline"):
        groups = Pipeline(small, TINY_CONFIG, ALL).run(inputs_of(clips * 4))
        found = scores_by_path(itertools.chain.from_iterable(groups))
    assert found == scores_by_path(tagger.tag_many(clips, options=ALL))
    assert "out of memory: the batch is now 2 windows" in caplog.messages
    too_large = [size for size in small.batch_sizes if size > 2]
    assert too_large
    assert len(too_large) < len(small.batch_sizes) / 2  # it learns


def test_a_window_that_does_not_fit_is_an_error(tagger: Tagger, clips: list[Path]) -> None:
    with pytest.raises(EngineError, match=r"not even one window fits into memory: .*\. Free memory"):
        list(Pipeline(_SmallDevice(tagger.engine, fits=0), TINY_CONFIG, ALL).run(inputs_of(clips)))
    assert_no_threads_left()


def test_an_input_that_does_not_fit_fails_alone(tagger: Tagger, clips: list[Path]) -> None:
    class TooLarge(BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise MemoryError

    failed, other = tagger.tag_many([TooLarge(b"RIFF"), clips[0]], options=ALL)
    assert isinstance(failed, Failure)
    assert failed.error == "does not fit into memory while it is decoded"
    assert other.status == "ok"


def test_a_network_that_gives_no_numbers_is_an_error_and_not_an_empty_clip(tagger: Tagger, clips: list[Path]) -> None:
    broken = _SmallDevice(lambda log_mels: tagger.engine(log_mels) * np.float32("nan"), fits=8)
    with pytest.raises(EngineError, match=r"engine onnx: gives scores that are no numbers\. Try --precision fp32"):
        list(Pipeline(broken, TINY_CONFIG, TagOptions()).run(inputs_of(clips)))
    assert_no_threads_left()


LEFT_OPEN = """
import sys, audiotag
results = audiotag.load("default", device="cpu").tag_many([sys.argv[1]] * 2000)
next(results)
"""


def test_python_ends_quietly_with_results_left_open(write_wav: WriteWav) -> None:
    path = write_wav("a.wav", noise(seconds=5.0, sample_rate=44100), sample_rate=44100)
    done = subprocess.run([sys.executable, "-c", LEFT_OPEN, path], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


FORKED = """
import os, sys, audiotag
results = audiotag.load("default", device="cpu").tag_many([sys.argv[1]] * 2000)
for result, _ in zip(results, range(10)):
    if os.fork() == 0:
        sys.exit(7)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 7
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_in_the_midst_of_a_run_does_not_wait_for_threads_that_it_has_not(write_wav: WriteWav) -> None:
    path = write_wav("a.wav", noise(seconds=5.0, sample_rate=44100), sample_rate=44100)
    assert subprocess.run([sys.executable, "-c", FORKED, path], timeout=60).returncode == 0


# --- the choice of an engine ---


def test_load_takes_a_folder(tiny_model_folder: Path, write_wav: WriteWav) -> None:
    tagger = audiotag.load(tiny_model_folder, device="cpu")
    assert isinstance(tagger, Tagger)
    assert tuple(tagger.labels) == TINY_CONFIG.labels
    assert tagger.config.labels == TINY_CONFIG.labels
    assert tagger.tag(write_wav("a.wav", tone()), top_k=2, threshold=0.0).status == "ok"


def test_the_engine_of_a_cpu_is_onnx(folder: ModelFolder) -> None:
    engine = Tagger(folder, options=EngineOptions(device="cpu")).engine
    assert isinstance(engine, OnnxEngine)


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps"])
def test_a_device_that_is_not_there_is_an_error(device: str, tiny_model_folder: Path) -> None:
    import torch

    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(EngineError, match=f"device {device}"):
        load(tiny_model_folder, device=device)


@pytest.mark.parametrize(
    ("loss", "width", "asked", "taken"),
    [(None, 256, "auto", "fp32"), (0.2, 256, "auto", "int8"), (0.5, 256, "auto", "int8"), (0.51, 256, "auto", "fp32"),
     (0.2, 4, "auto", "fp32"), (0.0, 256, "fp32", "fp32"), (9.0, 4, "int8", "int8")],
)  # fmt: skip
def test_int8_is_taken_where_it_costs_little_and_is_faster(
    loss: float | None, width: int, asked: Any, taken: str, folder: ModelFolder
) -> None:
    network = NetworkConfig(n_labels=len(TINY_CONFIG.labels), width=width)
    model = replace(folder, config=replace(TINY_CONFIG, network=network, int8_map_loss=loss))
    assert choose_cpu_precision(model, EngineOptions(precision=asked)) == taken
