"""The laws of reading audio, for every container, and what is said of files that break them."""

from __future__ import annotations

import errno
import gc
import io
import itertools
import logging
import math
import os
import struct
import subprocess
import sys
import threading
import types
import zipfile
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from conftest import chirp, noise, silence, stereo, tone
from sounds import CONTAINERS, LOSSLESS, SOUNDFILE_FORMATS, wav_bytes, write_amr, write_audio
from test_fuzz import mutate, repair_ogg

import audiotag.audio
from audiotag.audio import open_audio, probe, read_audio, read_excerpts
from audiotag.audio.decoder import BLOCK_FRAMES, MAX_PACKET_FRAMES, frames_per_block
from audiotag.audio.reading import _unused_resamplers
from audiotag.errors import AudioError

FloatArray = npt.NDArray[np.float32]

RATE = 16000  # Hz, of most files here; Opus is 48 kHz whatever was asked for
PCM_16_STEP = 2.0**-15  # the coarsest lossless container here
ROUNDING = 2e-6  # float32 sums in another order
RESAMPLED = 1e-5  # two runs of libsoxr's HQ (20 bits), of which one began later
LOSSY_LEVEL = 0.06  # how far a codec may be from a tone of level 0.5


def samples_of(source: Any, **options: Any) -> FloatArray:
    """All rows of a source. Shape: `[row, sample]`."""
    with open_audio(source, **{"sample_rate": None, **options}) as stream:
        blocks = list(stream)
    return np.concatenate(blocks, axis=1) if blocks else np.zeros((1, 0), dtype=np.float32)


def warning_of(source: Any, **options: Any) -> str | None:
    with open_audio(source, **{"sample_rate": None, **options}) as stream:
        for _ in stream:
            pass
        return stream.warning


def level_of(samples: FloatArray, frequency: float, sample_rate: int) -> float:
    """The amplitude of one frequency."""
    time = np.arange(len(samples)) / sample_rate
    return float(2 * np.abs(np.mean(samples * np.exp(-2j * np.pi * frequency * time))))


class Pipe(io.RawIOBase):
    """Bytes that can only be read forward, and come in pieces, as from a pipe."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._content.read(min(size, 5000))


# --- every container ---


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_a_tone_stays_a_tone_in_every_container(suffix: str, tmp_path: Path) -> None:
    rate = 48000 if suffix in (".opus", ".webm") else 32000
    path = write_audio(tmp_path / f"tone{suffix}", tone(1000, seconds=1.5, sample_rate=rate), rate)
    waveform = read_audio(path)
    assert waveform.sample_rate == rate
    assert len(waveform.samples) / rate == pytest.approx(1.5, abs=0.1)  # lossy codecs pad the last packet
    middle = waveform.samples[rate // 4 : rate // 4 + rate]
    assert level_of(middle, 1000, rate) == pytest.approx(0.5, abs=LOSSY_LEVEL)


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_lossless_containers_keep_every_sample_of_every_channel(suffix: str, tmp_path: Path) -> None:
    samples = stereo(chirp(sample_rate=RATE), noise(sample_rate=RATE))
    path = write_audio(tmp_path / f"clip{suffix}", samples, RATE)
    np.testing.assert_allclose(samples_of(path, channels="each"), samples.T, atol=PCM_16_STEP)


@pytest.mark.parametrize("suffix", [".wav", ".rf64", ".w64", ".aiff", ".caf", ".au", ".flac", ".ogg", ".opus"])
def test_what_libsndfile_reads_goes_through_soundfile_and_equals_it(suffix: str, tmp_path: Path) -> None:
    rate = 48000 if suffix == ".opus" else RATE
    path = write_audio(tmp_path / f"clip{suffix}", stereo(chirp(sample_rate=rate), noise(sample_rate=rate)), rate)
    whole, _ = soundfile.read(path, dtype="float32")
    assert probe(path).decoder == "soundfile"
    assert probe(path).n_frames == len(whole)
    np.testing.assert_array_equal(samples_of(path, channels="each"), whole.T)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"])
def test_every_sample_format_has_full_scale_at_one(subtype: str, tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    soundfile.write(path, tone(seconds=0.1), 8000, subtype=subtype)
    expected, _ = soundfile.read(path, dtype="float32")
    np.testing.assert_array_equal(read_audio(path).samples, expected)
    given = samples_of(Pipe(path.read_bytes()))[0]
    assert given.dtype == np.float32
    np.testing.assert_allclose(given, expected, atol=ROUNDING)


def test_integers_of_64_bits_have_full_scale_at_one(tmp_path: Path) -> None:
    samples = tone(seconds=0.1)
    whole = (samples.astype(np.float64) * 2.0**63).astype("<i8")
    (tmp_path / "clip.wav").write_bytes(wav_bytes(whole.tobytes(), bits=64))
    np.testing.assert_allclose(read_audio(tmp_path / "clip.wav").samples, samples, atol=ROUNDING)


def test_the_suffix_does_not_matter(tmp_path: Path) -> None:
    for suffix in (".flac", ".m4a", ".mp3"):
        expected = read_audio(write_audio(tmp_path / f"clip{suffix}", tone(sample_rate=RATE), RATE)).samples
        (tmp_path / f"clip{suffix}").rename(tmp_path / "clip.txt")
        np.testing.assert_array_equal(read_audio(tmp_path / "clip.txt").samples, expected)


def test_a_title_in_latin_1_is_no_reason_to_fail(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "Etude"
        stream = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, RATE), dtype=np.int16), format="s16", layout="mono")
        frame.sample_rate = RATE
        container.mux([*stream.encode(frame), *stream.encode(None)])
    path.write_bytes(path.read_bytes().replace(b"Etude", b"\xc9tude"))
    assert len(read_audio(path).samples) == RATE


def test_amr_is_read_at_its_eight_kilohertz(tmp_path: Path) -> None:
    waveform = read_audio(write_amr(tmp_path / "call.amr", 50))
    assert (waveform.sample_rate, len(waveform.samples)) == (8000, 50 * 160)


def test_nist_and_ircam_files_that_libsndfile_rejects_are_read_by_ffmpeg(tmp_path: Path) -> None:
    whole = np.arange(-800, 800, dtype="<i4") << 16
    in_24_bits = whole.view(np.uint8).reshape(-1, 4)[:, 1:].tobytes()
    fields = ("sample_count -i 1600", "sample_n_bytes -i 3", "channel_count -i 1", "sample_byte_format -s2 01",
              "sample_rate -i 8000", "sample_coding -s3 pcm", "end_head")  # fmt: skip
    head = "NIST_1A\n   1024\n" + "\n".join(fields) + "\n"
    (tmp_path / "a.sph").write_bytes(head.encode("ascii").ljust(1024) + in_24_bits)
    # As sox writes it: the magic of a VAX, rate, channels, and 32-bit integers.
    ircam = struct.pack("<4sfII", b"\x64\xa3\x01\x00", 8000.0, 1, 0x40004)
    (tmp_path / "a.ircam").write_bytes(ircam.ljust(1024, b"\0") + whole.tobytes())
    for name in ("a.sph", "a.ircam"):
        np.testing.assert_array_equal(read_audio(tmp_path / name).samples, (whole / 2.0**31).astype(np.float32))


def test_mp3_without_xing_header_is_read_to_its_end(tmp_path: Path) -> None:
    """libsndfile 1.2.2 takes the length from the first frames' bit rate, and stops there."""
    rate, path = 44100, tmp_path / "vbr.mp3"
    quiet_then_loud = np.concatenate([silence(seconds=5, sample_rate=rate), noise(seconds=5, sample_rate=rate)])
    options = {"flags": "+qscale", "global_quality": "236"}
    with av.open(str(path), "w", format="mp3", options={"write_xing": "0"}) as container:
        stream = container.add_stream("libmp3lame", rate=rate, options=options)
        stream.codec_context.layout = "mono"
        frame = av.AudioFrame.from_ndarray(quiet_then_loud[np.newaxis], format="fltp", layout="mono")
        frame.sample_rate = rate
        for piece in (*av.AudioResampler("fltp", "mono", rate, frame_size=1152).resample(frame), None):
            container.mux(stream.encode(piece))
    assert len(read_audio(path).samples) / rate == pytest.approx(10, abs=0.1)
    assert (probe(path).n_frames, warning_of(path)) == (None, None)


@pytest.mark.parametrize("suffix", [".mp3", ".m4a"])
@pytest.mark.parametrize("name", ["clip", "it's [a]=b,c; d:e\\ 100%", "http:クリップ"])
def test_what_is_decoded_in_pieces_is_what_its_packets_give(
    suffix: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = stereo(chirp(seconds=3, sample_rate=44100), noise(seconds=3, sample_rate=44100))
    path = write_audio(tmp_path / f"clip{suffix}", samples, 44100).rename(tmp_path / f"{name}{suffix}")
    by_packets = samples_of(io.BytesIO(path.read_bytes()), channels="each")
    monkeypatch.delattr("audiotag.audio.ffmpeg.AvDecoder._read_frame")
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(samples_of(path.name, channels="each"), by_packets)


def test_a_file_is_read_itself_and_not_another_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_audio(tmp_path / "clip.mp3", chirp(sample_rate=RATE), RATE)
    expected = read_audio(path).samples
    with zipfile.ZipFile(tmp_path / "clips.zip", "w") as archive:
        archive.write(path, "clip.mp3")
    with path.open("rb", buffering=0) as opened:
        path.unlink()
        write_audio(path, silence(sample_rate=RATE), RATE)
        np.testing.assert_array_equal(samples_of(opened)[0], expected)
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("clips.zip") as archive, archive.open("clip.mp3") as opened:
        np.testing.assert_array_equal(samples_of(opened)[0], expected)


@pytest.mark.parametrize("suffix", [".mp3", ".m4a"])
def test_damaged_files_give_the_same_samples_and_warnings_in_pieces_and_in_packets(suffix: str, tmp_path: Path) -> None:
    def read(source: Any) -> tuple[FloatArray | None, str | None]:
        try:
            with open_audio(source, sample_rate=None) as stream:
                return np.concatenate([np.zeros((1, 0), dtype=np.float32), *stream], axis=1), stream.warning
        except AudioError as error:
            return None, str(error)

    path = write_audio(tmp_path / f"clip{suffix}", chirp(seconds=1, sample_rate=8000), 8000)
    content, n_warnings = path.read_bytes(), 0
    for seed in range(120):
        mutant = mutate(content, seed=seed)
        path.write_bytes(mutant)
        (in_pieces, warning), (by_packets, expected) = read(path), read(io.BytesIO(mutant))
        n_warnings += warning is not None and in_pieces is not None
        assert (warning, in_pieces is None) == (expected, by_packets is None), seed
        if in_pieces is not None and by_packets is not None:
            # A lying header may take more of the end with it: packets are known one by one, pieces are not.
            assert abs(in_pieces.shape[1] - by_packets.shape[1]) <= MAX_PACKET_FRAMES, seed
            n_common = min(in_pieces.shape[1], by_packets.shape[1])
            np.testing.assert_array_equal(in_pieces[:, :n_common], by_packets[:, :n_common], err_msg=str(seed))
    assert n_warnings or suffix == ".m4a", "some are damaged behind their header"


@pytest.mark.parametrize("suffix", [".ogg", ".opus"])
def test_chained_ogg_streams_are_read_to_the_end(suffix: str, tmp_path: Path) -> None:
    """libsndfile 1.2.2 reads the first of them only."""
    first = write_audio(tmp_path / f"first{suffix}", tone(440, seconds=2, sample_rate=48000), 48000)
    second = write_audio(tmp_path / f"second{suffix}", tone(880, seconds=2, sample_rate=48000), 48000)
    content = second.read_bytes()
    serial = content[14:18]
    other = repair_ogg(content.replace(serial, bytes(byte ^ 0x55 for byte in serial)))
    (tmp_path / "chain").write_bytes(first.read_bytes() + other)
    samples = read_audio(tmp_path / "chain").samples
    assert len(samples) / 48000 == pytest.approx(4, abs=0.05)
    assert level_of(samples[-48000:-24000], 880, 48000) == pytest.approx(0.5, abs=LOSSY_LEVEL)


@pytest.mark.parametrize("suffix", [".ogg", ".opus"])
def test_an_ogg_file_that_ends_within_a_page_is_known_to_be_cut_short(suffix: str, tmp_path: Path) -> None:
    whole = write_audio(tmp_path / f"whole{suffix}", noise(seconds=4, sample_rate=48000), 48000)
    content = whole.read_bytes()
    last_page = content.rindex(b"OggS")
    cuts = {"middle": content[: len(content) // 2], "last byte": content[:-1], "header": content[: last_page + 9]}
    # Without the mark of a last page, as Android writes it; and with what old taggers add.
    wholes = {"unmarked": content[:last_page], "tagged": content + b"TAG" + bytes(125)}
    for name, kept in (cuts | wholes).items():
        path = tmp_path / name
        path.write_bytes(kept)
        expected = "cut short: its last page is not whole" if name in cuts else None
        assert (name, warning_of(path)) == (name, expected)


# --- laws ---


def test_a_constant_stays_and_lengths_are_exact_at_every_rate(tmp_path: Path) -> None:
    for rate in (8000, 11025, 16000, 22050, 44100, 48000, 96000, 384000):
        for n_frames in (1, 441, 30001):
            path = tmp_path / "constant.wav"
            soundfile.write(path, np.full(n_frames, 0.25), rate, subtype="FLOAT")
            samples = read_audio(path, sample_rate=32000).samples
            assert len(samples) == int(n_frames * 32000 / rate + 0.5)
            inner = samples[2000:-2000]  # the ends ring
            np.testing.assert_allclose(inner, 0.25, atol=RESAMPLED)


def test_resampling_agrees_with_torchaudio(torchaudio: types.ModuleType, tmp_path: Path) -> None:
    import torch

    path = tmp_path / "noise.wav"
    for rate, target in ((44100, 32000), (48000, 16000), (8000, 32000)):
        samples = tone(900, seconds=1, sample_rate=rate) + tone(2500, seconds=1, sample_rate=rate)
        soundfile.write(path, samples, rate, subtype="FLOAT")
        expected = torchaudio.functional.resample(
            torch.from_numpy(samples), rate, target, lowpass_filter_width=64, rolloff=0.95
        ).numpy()
        given = read_audio(path, sample_rate=target).samples
        assert abs(len(given) - len(expected)) <= 1
        np.testing.assert_allclose(given[1000:-1000], expected[1000 : len(given) - 1000], atol=2e-3)


def test_resampling_removes_what_the_target_rate_cannot_hold(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "high.wav", tone(7000, sample_rate=RATE), RATE)
    assert np.abs(read_audio(path, sample_rate=8000).samples[500:-500]).max() < 1e-4


def test_a_resampler_that_is_used_again_remembers_nothing(tmp_path: Path) -> None:
    loud = write_audio(tmp_path / "loud.wav", noise(seconds=1, sample_rate=RATE), RATE)
    path = write_audio(tmp_path / "clip.wav", chirp(seconds=1.3, sample_rate=RATE), RATE)
    _unused_resamplers.cache_clear()
    expected = samples_of(path, sample_rate=11025)
    for _ in range(3):
        samples_of(loud, sample_rate=11025)
        np.testing.assert_array_equal(samples_of(path, sample_rate=11025), expected)
        assert len(_unused_resamplers(RATE, 11025, 1)) == 1
        with open_audio(loud, sample_rate=11025) as stream:
            next(iter(stream))  # and no more of it: that resampler is not used again
        assert not _unused_resamplers(RATE, 11025, 1)


def test_clips_that_are_read_by_turns_have_a_resampler_each(tmp_path: Path) -> None:
    samples = {seed: noise(seconds=1, sample_rate=RATE, seed=seed) for seed in (1, 2)}
    paths = [write_audio(tmp_path / f"{seed}.wav", given, RATE) for seed, given in samples.items()]
    expected = [samples_of(path, sample_rate=11025)[0] for path in paths]
    with open_audio(paths[0], sample_rate=11025) as one, open_audio(paths[1], sample_rate=11025) as two:
        by_turns = list(itertools.zip_longest(one, two))
    for given, wanted in zip(zip(*by_turns, strict=True), expected, strict=True):
        np.testing.assert_array_equal(np.concatenate([block[0] for block in given if block is not None]), wanted)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".m4a", ".webm"])
@pytest.mark.parametrize("sample_rate", [None, 11025])
def test_block_size_does_not_change_a_sample(
    suffix: str, sample_rate: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = stereo(chirp(seconds=2, sample_rate=48000), noise(seconds=2, sample_rate=48000))
    path = write_audio(tmp_path / f"clip{suffix}", samples, 48000)
    expected = samples_of(path, sample_rate=sample_rate, start=0.7)
    for block_frames in (17, 1000, 7777) if suffix == ".wav" else (1000, 7777):
        monkeypatch.setattr(audiotag.audio.decoder, "BLOCK_FRAMES", block_frames)
        np.testing.assert_array_equal(samples_of(path, sample_rate=sample_rate, start=0.7), expected)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3", ".webm"])
@pytest.mark.parametrize("is_stream", [False, True])
def test_a_long_recording_never_comes_as_a_whole(suffix: str, is_stream: bool, tmp_path: Path) -> None:
    path = write_audio(tmp_path / f"clip{suffix}", chirp(seconds=3, sample_rate=48000), 48000)
    with open_audio(Pipe(path.read_bytes()) if is_stream else path, sample_rate=None) as stream:
        assert max(block.shape[1] for block in stream) <= frames_per_block(1) + MAX_PACKET_FRAMES


@pytest.mark.parametrize("suffix", [suffix for suffix in CONTAINERS if suffix not in (".mpg", ".m2ts")])
@pytest.mark.parametrize("sample_rate", [None, 22050])
def test_start_and_duration_equal_a_slice_of_the_whole(suffix: str, sample_rate: int | None, tmp_path: Path) -> None:
    rate = 48000 if suffix in (".opus", ".webm") else 32000
    path = write_audio(tmp_path / f"clip{suffix}", chirp(seconds=3, sample_rate=rate), rate)
    whole = samples_of(path, sample_rate=sample_rate)[0]
    target = sample_rate or rate
    tolerance = ROUNDING if sample_rate is None else RESAMPLED
    block_and_one = (BLOCK_FRAMES + 1) / rate
    for start, duration in ((0.0, 0.5), (0.0, block_and_one), (0.001, 0.3), (1.234, 1.0), (2.5, None), (2.9, 5.0)):
        first = round(start * target)
        expected = whole[first:] if duration is None else whole[first : first + round(duration * target)]
        with open_audio(path, sample_rate=sample_rate, start=start, duration=duration) as stream:
            given = np.concatenate([block[0] for block in stream])
            assert stream.n_samples in (None, len(given))
            assert stream.warning is None
        assert len(given) == len(expected)
        np.testing.assert_allclose(given, expected, atol=tolerance)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".mka", ".webm", ".wma"])
@pytest.mark.parametrize("sample_rate", [48000, 16000])
def test_excerpts_equal_slices_of_the_whole(suffix: str, sample_rate: int, tmp_path: Path) -> None:
    path = write_audio(tmp_path / f"clip{suffix}", chirp(seconds=4, sample_rate=48000), 48000)
    whole = samples_of(path, sample_rate=sample_rate)
    starts = [0, 100, sample_rate, 2 * sample_rate + 1, len(whole[0]) - 50, len(whole[0]) + 7]
    tolerance = ROUNDING if sample_rate == 48000 else RESAMPLED
    excerpts = list(read_excerpts(path, sample_rate=sample_rate, starts=starts, n_samples=5000))
    assert len(excerpts) == len(starts)
    for start, excerpt in zip(starts, excerpts, strict=True):
        expected = whole[:, start : start + 5000]
        assert excerpt.shape == expected.shape
        np.testing.assert_allclose(excerpt, expected, atol=tolerance)


def test_excerpts_of_a_long_file_are_reached_by_seeking(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    with soundfile.SoundFile(path, "w", 8000, 1, format="RF64", subtype="PCM_16") as file:
        file.write(np.zeros(1))
    content = bytearray(path.read_bytes())
    data_bytes = 2 * 8000 * 86400  # a day
    at = content.index(b"ds64")
    struct.pack_into("<QQQ", content, at + 8, len(content) + data_bytes, data_bytes, data_bytes // 2)
    path.write_bytes(content)
    os.truncate(path, content.index(b"data") + 8 + data_bytes)  # sparse
    assert probe(path).duration == 86400
    excerpts = list(read_excerpts(path, sample_rate=16000, starts=[0, 16000 * 86000], n_samples=16000))
    assert [excerpt.shape for excerpt in excerpts] == [(1, 16000)] * 2


@pytest.mark.parametrize("suffix", [".mp3", ".m4a"])
def test_an_excerpt_soon_after_what_was_read_in_pieces_is_the_one_at_its_place(suffix: str, tmp_path: Path) -> None:
    path = write_audio(tmp_path / f"clip{suffix}", chirp(seconds=5, sample_rate=RATE), RATE)
    starts = [0, 5 * RATE // 2]
    excerpts = list(read_excerpts(path, sample_rate=RATE, starts=starts, n_samples=RATE))
    whole = samples_of(path)
    for start, excerpt in zip(starts, excerpts, strict=True):
        np.testing.assert_allclose(excerpt, whole[:, start : start + RATE], atol=ROUNDING)


# --- channels ---


def test_channels_are_mixed_picked_or_kept_apart(tmp_path: Path) -> None:
    left, right = tone(sample_rate=RATE), noise(sample_rate=RATE)
    path = write_audio(tmp_path / "stereo.wav", stereo(left, right), RATE)
    expected = {
        "mix": [(left + right) / 2], "left": [left], "right": [right], "0": [left], "1": [right], "each": [left, right],
    }  # fmt: skip
    for channels, rows in expected.items():
        np.testing.assert_allclose(samples_of(path, channels=channels), rows, atol=ROUNDING)
    for channels, rows in expected.items():
        resampled = samples_of(path, channels=channels, sample_rate=8000)
        assert resampled.shape == (len(rows), 8000)


def test_opposite_channels_mix_to_silence(tmp_path: Path) -> None:
    left = noise(sample_rate=RATE)
    path = write_audio(tmp_path / "opposite.flac", stereo(left, -left), RATE)
    assert np.abs(read_audio(path, sample_rate=8000).samples).max() <= PCM_16_STEP


def test_a_missing_channel_is_named(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "mono.wav", tone(), 8000)
    with pytest.raises(AudioError, match="has no channel 'right': it has 1, counted from 0"):
        open_audio(path, sample_rate=8000, channels="right")
    np.testing.assert_array_equal(samples_of(path, channels="left"), samples_of(path))
    with pytest.raises(ValueError, match="not 'middle'"):
        open_audio(path, sample_rate=8000, channels="middle")


def test_many_channels_are_read_and_too_many_refused(tmp_path: Path) -> None:
    path = tmp_path / "array.wav"
    soundfile.write(path, np.tile(np.arange(255) / 255, (100, 1)), 8000, subtype="FLOAT")
    np.testing.assert_allclose(samples_of(path), np.mean(np.arange(255) / 255), atol=1e-5)
    assert samples_of(path, channels="each").shape == (255, 100)
    soundfile.write(path, np.zeros((100, 300)), 8000)
    with pytest.raises(AudioError, match="has 300 channels; 1 to 256 are read"):
        probe(path)


# --- streams ---


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_a_pipe_gives_what_the_file_gives(suffix: str, tmp_path: Path) -> None:
    rate = 48000 if suffix in (".opus", ".webm") else 32000
    path = write_audio(tmp_path / f"clip{suffix}", stereo(chirp(sample_rate=rate), tone(sample_rate=rate)), rate)
    whole = samples_of(path)
    given = samples_of(Pipe(path.read_bytes()))
    if suffix == ".mp3":  # in a stream the padding of the last packet is not known
        assert 0 <= given.shape[1] - whole.shape[1] < 1152
        given = given[:, : whole.shape[1]]
    np.testing.assert_allclose(given, whole, atol=ROUNDING)


def test_an_8svx_from_a_pipe_is_not_called_empty(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "amiga.8svx", np.tile(tone(), 40), RATE, format="SVX", subtype="PCM_S8")
    whole = samples_of(tmp_path / "amiga.8svx")
    np.testing.assert_array_equal(samples_of(Pipe((tmp_path / "amiga.8svx").read_bytes())), whole)


@pytest.mark.parametrize("suffix", [".wav", ".rf64", ".w64", ".aiff", ".au", ".flac", ".ogg", ".opus", ".mp3", ".webm"])
def test_streamable_formats_need_no_temporary_file(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = write_audio(tmp_path / f"clip{suffix}", tone(sample_rate=48000), 48000).read_bytes()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a temporary file was made")

    monkeypatch.setattr(audiotag.audio.opening.tempfile, "TemporaryFile", refuse)
    assert samples_of(Pipe(content)).shape[1] == pytest.approx(48000, abs=2304)


def test_an_mp4_with_its_index_first_is_streamed_and_one_with_it_last_is_stored(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "last.m4a", chirp(sample_rate=RATE), RATE)
    with open_audio(Pipe(path.read_bytes()), sample_rate=None) as stream:
        assert stream.info.seekable
    content = path.read_bytes()
    fast = tmp_path / "first.m4a"
    with av.open(str(path)) as old, av.open(str(fast), "w", format="mp4", options={"movflags": "faststart"}) as new:
        stream_out = new.add_stream_from_template(old.streams.audio[0])
        for packet in old.demux(audio=0):
            if packet.dts is not None:
                packet.stream = stream_out
                new.mux(packet)
    assert fast.read_bytes().index(b"moov") < fast.read_bytes().index(b"mdat")
    with open_audio(Pipe(fast.read_bytes()), sample_rate=None) as stream:
        assert not stream.info.seekable
        given = np.concatenate(list(stream), axis=1)
    np.testing.assert_allclose(given, samples_of(io.BytesIO(content)), atol=ROUNDING)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000, 0])
def test_a_wav_from_a_pipe_whose_header_knows_no_length_is_read_whole(size: int, tmp_path: Path) -> None:
    samples = (tone(seconds=3) * 32767).astype("<i2")
    content = wav_bytes(samples.tobytes(), data_size=size)
    if size == 0:
        content = content[:4] + bytes(4) + content[8:]
    expected = samples[np.newaxis] / np.float32(32768)
    np.testing.assert_array_equal(samples_of(Pipe(content)), expected)
    (tmp_path / "unfinished.wav").write_bytes(content)
    np.testing.assert_array_equal(samples_of(tmp_path / "unfinished.wav"), expected)
    assert warning_of(tmp_path / "unfinished.wav") is None


def test_a_wav_from_a_pipe_goes_on_beyond_a_length_that_is_only_a_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = (tone(seconds=3) * 32767).astype("<i2")
    content = wav_bytes(samples.tobytes(), data_size=16000)
    assert samples_of(Pipe(content)).shape[1] == 8000
    # sox tells 0x7FFFF000 bytes, 3.4 hours of CD, and goes on after them.
    monkeypatch.setattr("audiotag.audio.opening.STAND_IN_SIZES", range(16000, 16001))
    np.testing.assert_array_equal(samples_of(Pipe(content)), samples[np.newaxis] / np.float32(32768))


def killed_while_writing(path: Path, container: str, samples: FloatArray) -> Path:
    """What libsndfile leaves of a file that it could not finish."""
    with soundfile.SoundFile(path, "w", RATE, 1, subtype="PCM_16", format=container) as file:
        file.write(samples)
        content = path.read_bytes()
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("container", ["WAV", "W64"])
def test_an_unfinished_recording_that_is_read_whole_lacks_nothing(container: str, tmp_path: Path) -> None:
    path = killed_while_writing(tmp_path / "clip", container, noise(seconds=3, sample_rate=RATE))
    assert samples_of(path).shape[1] == 3 * RATE
    assert warning_of(path) is None


@pytest.mark.parametrize("container", ["RF64", "AIFF", "AU", "CAF"])
def test_an_unfinished_recording_of_which_nothing_is_read_is_not_silence(container: str, tmp_path: Path) -> None:
    path = killed_while_writing(tmp_path / "clip", container, noise(seconds=3, sample_rate=RATE))
    with pytest.raises(AudioError, match=r"^not decodable: its header was not finished, and \d+ bytes are there"):
        probe(path)
    killed_while_writing(path, container, noise(seconds=0, sample_rate=RATE))
    assert samples_of(path).shape[1] == 0


def test_a_wav_longer_than_its_header_tells_is_no_whole_recording(tmp_path: Path) -> None:
    # Power was lost after the header's last update, or a recorder's sizes passed 4 GiB and began at 0 again.
    samples = (tone(seconds=3) * 32767).astype("<i2")
    path = tmp_path / "clip.wav"
    path.write_bytes(wav_bytes(samples.tobytes(), data_size=16000))
    assert samples_of(path).shape[1] == 8000
    assert warning_of(path) == (
        "longer than its header tells: 32000 bytes were not read. `sox --ignore-length` reads it all"
    )
    for size_of_file, behind in ((0, b"LIST"), (len(samples) * 2 + 36, bytes(512))):
        content = wav_bytes(samples.tobytes())
        path.write_bytes(content[:4] + size_of_file.to_bytes(4, "little") + content[8:] + behind)
        assert samples_of(path).shape[1] == 24000
        assert warning_of(path) is None


def test_a_flac_from_a_pipe_whose_header_knows_no_length_is_read_whole(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "clip.flac", chirp(seconds=3, sample_rate=RATE), RATE)
    expected = samples_of(path)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # STREAMINFO's 36 bits of total samples
    content[22:26] = bytes(4)
    path.write_bytes(content)
    np.testing.assert_array_equal(samples_of(path), expected)
    np.testing.assert_array_equal(samples_of(path, start=2.5), expected[:, round(2.5 * RATE) :])


@pytest.mark.parametrize("suffix", ["flac", "caf"])  # which is streamed, and which is stored first
def test_a_stream_is_closed_by_who_opened_it(suffix: str, tmp_path: Path) -> None:
    soundfile.write(tmp_path / f"a.{suffix}", np.zeros(8000), 8000)
    pipe = Pipe((tmp_path / f"a.{suffix}").read_bytes())
    assert samples_of(pipe).shape[1] == 8000
    gc.collect()
    assert not pipe.closed


def test_a_named_pipe_is_read_like_a_stream(tmp_path: Path) -> None:
    content = write_audio(tmp_path / "clip.wav", tone(), 8000).read_bytes()
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(content,))
    writer.start()
    samples = samples_of(tmp_path / "pipe")
    writer.join()
    np.testing.assert_array_equal(samples, samples_of(tmp_path / "clip.wav"))


def test_a_redirected_file_seeks_and_is_rewound(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "clip.flac", chirp(), 8000)
    with open(path, "rb", buffering=0) as file:
        for _ in range(2):
            np.testing.assert_array_equal(samples_of(file, start=0.5), samples_of(path, start=0.5))
    with open(path, "rb") as buffered:
        np.testing.assert_array_equal(samples_of(buffered), samples_of(path))


def test_start_in_a_stream_drops_what_comes_before(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "clip.flac", chirp(seconds=2, sample_rate=RATE), RATE)
    given = samples_of(Pipe(path.read_bytes()), start=1.0, sample_rate=8000)
    np.testing.assert_allclose(given, samples_of(path, start=1.0, sample_rate=8000), atol=RESAMPLED)


def test_a_part_of_a_stream_is_there_soon_after_its_end() -> None:
    # Of a microphone at 8 kHz, 5 s were waited for over 8 s, and 9 s over 16 s.
    n_bytes = 60 * 8000 * 2
    pipe = Pipe(wav_bytes(bytes(n_bytes)))
    with open_audio(pipe, sample_rate=32000, duration=9.0) as stream:
        assert sum(block.shape[1] for block in stream) == 9 * 32000
        n_left = sum(map(len, iter(pipe.read, b"")))
    assert (n_bytes - n_left) / 16000 < 12


def test_a_stream_that_needs_seeking_is_not_stored_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audiotag.audio.opening, "MAX_SPOOLED_BYTES", 1 << 20)
    with pytest.raises(AudioError, match="cannot be stored for seeking: is more than 0 GiB"):
        probe(Pipe(bytes(1 << 22)))


# --- files that are no audio, or not all of it ---


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "holds nothing (0 bytes)"),
        (b"This is a text, and not short: " * 100, "not decodable: Format not recognised (libsndfile)"),
        (bytes(5000), "not decodable: Format not recognised (libsndfile)"),
        (b"R", "not decodable: "),
        (b"\xff\xfb\x90\x64", "not decodable: "),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n", "not decodable: "),
        (b"ffconcat version 1.0\nfile 'clip.wav'\n", "not decodable: "),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), "not decodable: "),
        (wav_bytes(b"", data_size=16000), "not decodable: a header without audio"),
        (wav_bytes(bytes(999), sample_rate=1), "has a sample rate of 1 Hz; 1000 to 768000 are read"),
        (wav_bytes(bytes(999), sample_rate=10_000_000), "has a sample rate of 10000000 Hz; 1000 to 768000 are read"),
        (wav_bytes(bytes(999), n_channels=65535), "not decodable: "),
        (wav_bytes(bytes(999), format_tag=0x1234), "not decodable: Error in WAV"),
    ],
)
def test_what_is_no_audio_is_said_in_one_line(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "clip.wav").write_bytes(content)
    for source in (tmp_path / "clip.wav", io.BytesIO(content), Pipe(content)):
        if isinstance(source, Pipe) and "header without audio" in reason:
            continue  # from a pipe, a header promises nothing
        with pytest.raises(AudioError) as caught:
            samples_of(source)
        assert "\n" not in str(caught.value)
        assert "clip.wav" not in str(caught.value)
        if not isinstance(source, Pipe):
            assert str(caught.value).startswith(reason)


def test_what_cannot_be_opened_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    reasons = {
        tmp_path: "is a folder, not a file that can be read",
        tmp_path / "gone.wav": "does not exist",
        tmp_path / "loop": "is a loop of links",
        Path("/dev/zero"): "is a device, not a file",
        Path("a\0b"): "cannot be opened: embedded null byte",
    }
    for path, reason in reasons.items():
        with pytest.raises(AudioError) as caught:
            probe(path)
        assert str(caught.value) == reason


def test_a_disk_that_cannot_be_read_is_said_in_one_line() -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(AudioError, match=r"^cannot be read: Input/output error$"):
        probe(Failing(b"RIFF"))


@pytest.mark.skipif(os.name == "nt", reason="libsndfile reads no descriptor there")
@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_a_drive_that_is_pulled_in_the_midst_fails_instead_of_shortening_the_recording(
    name: str, tmp_path: Path
) -> None:
    write_audio(tmp_path / name, noise(seconds=20, sample_rate=48000), 48000)
    with (
        open(tmp_path / name, "rb", buffering=0) as file,
        open(os.devnull, "wb") as unreadable,
        open_audio(file, sample_rate=None) as stream,
    ):
        blocks = iter(stream)
        next(blocks)
        os.dup2(unreadable.fileno(), file.fileno())
        with pytest.raises(AudioError, match=r"^cannot be read: System error$"):
            list(blocks)


def test_a_file_object_that_fails_in_the_midst_fails_instead_of_shortening_the_recording(tmp_path: Path) -> None:
    class Failing(io.BytesIO):
        fails = False

        def read(self, size: int | None = -1) -> bytes:
            if self.fails:
                raise OSError(errno.EIO, "Input/output error")
            return super().read(size)

    write_audio(tmp_path / "a.mp3", noise(seconds=20, sample_rate=48000), 48000)
    file = Failing((tmp_path / "a.mp3").read_bytes())
    with open_audio(file, sample_rate=None) as stream:
        blocks = iter(stream)
        next(blocks)
        file.fails = True
        with pytest.raises(AudioError, match=r"^cannot be read: Input/output error$"):
            list(blocks)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_permission_denied_is_said(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "clip.wav", tone(), 8000)
    path.chmod(0)
    with pytest.raises(AudioError, match=r"^permission denied$"):
        probe(path)


def test_a_video_without_sound_is_said(tmp_path: Path) -> None:
    path = tmp_path / "silent.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for picture in (av.VideoFrame(64, 64, "yuv420p"), None):
            container.mux(stream.encode(picture))
    with pytest.raises(AudioError, match=r"no audio stream \(FFmpeg\)$"):
        probe(path)


@pytest.mark.parametrize("suffix", [".wav", ".w64", ".flac", ".aiff", ".caf"])
def test_a_valid_header_with_zero_samples_is_no_error(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"zero{suffix}"
    if (
        suffix == ".flac"
    ):  # libsndfile writes nothing at all; https://xiph.org/flac/format.html#metadata_block_streaminfo
        content = bytearray(write_audio(path, tone(), 8000).read_bytes()[:42])
        content[4] |= 0x80  # the last of the metadata
        content[21] &= 0xF0
        path.write_bytes(content[:22] + bytes(20))
    else:
        soundfile.write(path, np.zeros(0), 8000, format=SOUNDFILE_FORMATS[suffix][0])
    assert samples_of(path).shape == (1, 0)
    assert warning_of(path) is None
    assert samples_of(path, sample_rate=32000).shape == (1, 0)


def test_a_header_that_leads_beyond_all_files_writes_nothing_to_stderr(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content = bytearray(write_audio(tmp_path / "whole.caf", tone(), 8000).read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 8] = (1 << 62).to_bytes(8, "big")
    (tmp_path / "far.caf").write_bytes(content)
    assert samples_of(tmp_path / "far.caf").shape == (1, 8000)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("suffix", [".wav", ".rf64", ".w64", ".aiff", ".au", ".flac", ".mp3"])
def test_a_broken_tail_leaves_what_comes_before_and_a_warning(suffix: str, tmp_path: Path) -> None:
    whole_path = write_audio(tmp_path / f"whole{suffix}", noise(seconds=4, sample_rate=RATE), RATE)
    whole = samples_of(whole_path)
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(whole_path.read_bytes()[: whole_path.stat().st_size // 2])
    part = samples_of(path)
    assert 1.7 * RATE < part.shape[1] < 2.3 * RATE
    same = part.shape[1] - 2304  # the last packet may be half a packet
    np.testing.assert_allclose(part[:, :same], whole[:, :same], atol=ROUNDING)
    warning = warning_of(path)
    assert warning is not None
    assert "\n" not in warning
    assert warning.startswith(("cut short", "damaged after", "has damaged packets"))
    assert warning_of(whole_path) is None
    given = samples_of(path, start=1.0)
    np.testing.assert_allclose(given[:, : RATE // 2], whole[:, RATE : RATE + RATE // 2], atol=ROUNDING)


@pytest.mark.parametrize("suffix", [".ogg", ".opus", ".webm", ".mka", ".wma", ".aac", ".tta"])
def test_formats_that_tell_no_length_give_what_is_there(suffix: str, tmp_path: Path) -> None:
    whole_path = write_audio(tmp_path / f"whole{suffix}", noise(seconds=4, sample_rate=48000), 48000)
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(whole_path.read_bytes()[: whole_path.stat().st_size // 2])
    assert 0.9 < samples_of(path).shape[1] / 48000 < 3.0


def test_an_mp4_of_which_nothing_can_be_decoded_is_not_silence(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "clip.m4a", noise(seconds=2, sample_rate=RATE), RATE)
    content = path.read_bytes()
    at = content.index(b"mdat") + 4
    end = at - 8 + int.from_bytes(content[at - 8 : at - 4], "big")
    path.write_bytes(content[:at] + bytes(end - at) + content[end:])
    with pytest.raises(AudioError, match=r"nothing behind its header can be decoded \(FFmpeg\)$"):
        probe(path)


def test_an_mp4_cut_before_its_index_is_not_decodable(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "clip.m4a", noise(seconds=2, sample_rate=RATE), RATE)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(AudioError, match=r"^not decodable: Format not recognised"):
        probe(path)


@pytest.mark.parametrize("suffix", [".wav", ".aiff", ".flac"])
@pytest.mark.parametrize("n_channels", [1, 2])
def test_samples_of_16_bits_are_those_of_libsndfile_to_the_last_bit(
    suffix: str, n_channels: int, tmp_path: Path
) -> None:
    whole = np.arange(-32768, 32768, dtype=np.int16)
    samples = np.stack([np.roll(whole, 7 * channel) for channel in range(n_channels)], axis=1)
    path = tmp_path / f"every{suffix}"
    soundfile.write(path, samples, RATE, subtype="PCM_16")
    expected = soundfile.read(path, dtype="float32", always_2d=True)[0].T
    np.testing.assert_array_equal(samples_of(path, channels="each"), expected)


@pytest.mark.parametrize("seconds", [0.5, 3.0, 5.5])
def test_damage_in_the_middle_of_flac_leaves_all_but_a_few_frames_before_it(seconds: float, tmp_path: Path) -> None:
    # A block of 65536 frames is decoded in one call, and begun again in small ones where it is damaged.
    path = write_audio(tmp_path / "clip.flac", noise(seconds=6, sample_rate=RATE), RATE)
    whole, content = samples_of(path), bytearray(path.read_bytes())
    at = round(len(content) * seconds / 6)
    content[at : at + 4000] = bytes(4000)
    path.write_bytes(content)
    given = samples_of(path)
    n_frames = given.shape[1]
    assert seconds * RATE - 2048 - 4096 - 0.02 * RATE < n_frames, "a call, a block of FLAC, and what noise varies"
    sound = round(seconds * RATE - 4096 - 0.02 * RATE)
    np.testing.assert_array_equal(given[:, :sound], whole[:, :sound])
    assert warning_of(path) is not None
    np.testing.assert_array_equal(samples_of(path, start=0.25)[:, : sound - RATE // 4], whole[:, RATE // 4 : sound])


def test_a_second_damage_behind_the_start_ends_the_reading_with_a_warning(tmp_path: Path) -> None:
    # Reading again from the beginning, to lose less before the second damage, meets the first one.
    path = write_audio(tmp_path / "clip.flac", noise(seconds=30, sample_rate=RATE), RATE)
    whole, content = samples_of(path), bytearray(path.read_bytes())
    for at in (len(content) // 5, len(content) * 3 // 5):
        content[at : at + 4000] = bytes(4000)
    path.write_bytes(content)
    given = samples_of(path, start=10.0)
    n_frames = given.shape[1]
    assert 10 + n_frames / RATE == pytest.approx(18, abs=frames_per_block(1) / RATE)
    np.testing.assert_array_equal(given, whole[:, 10 * RATE : 10 * RATE + n_frames])
    assert str(warning_of(path, start=10.0)).startswith(f"damaged after {10 + n_frames / RATE:.3f} s, the rest was not")
    excerpts = list(read_excerpts(path, sample_rate=RATE, starts=[17 * RATE, 25 * RATE, 0], n_samples=3 * RATE))
    np.testing.assert_array_equal(excerpts[-1], whole[:, : 3 * RATE])


@pytest.mark.parametrize("suffix", [".mp3", ".m4a"])
def test_damage_in_the_middle_costs_only_its_packets_and_is_told(suffix: str, tmp_path: Path) -> None:
    path = write_audio(tmp_path / f"clip{suffix}", noise(seconds=4, sample_rate=RATE), RATE)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    path.write_bytes(content)
    assert samples_of(path).shape[1] > 3.5 * RATE
    assert str(warning_of(path)).startswith("has damaged packets, which were left out (")


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 3e38])
def test_numbers_that_are_no_samples_become_zero_with_a_warning(number: float, tmp_path: Path) -> None:
    samples = tone(seconds=10)
    samples[[10, BLOCK_FRAMES + 10]] = number  # the warning of both blocks is said once
    path = tmp_path / "nan.wav"
    soundfile.write(path, samples, 8000, subtype="FLOAT")
    given = samples_of(path)[0]
    bad = ~(np.abs(samples) <= 1)
    np.testing.assert_array_equal(given[bad], 0)
    np.testing.assert_array_equal(given[~bad], samples[~bad])
    warning = warning_of(path, sample_rate=16000)
    assert warning == "has samples that are not finite (NaN, infinite or absurdly large); they were read as 0"


def test_a_start_after_the_end_gives_nothing_and_a_warning(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "clip.wav", tone(), 8000)
    assert samples_of(path, start=5.0).shape == (1, 0)
    assert warning_of(path, start=5.0) == "ends before 5.000 s, where it was to start"


def test_no_time_at_all_has_no_samples_and_no_warning(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "clip.wav", tone(), 8000)
    assert samples_of(path, start=0.5, duration=0.0).shape == (1, 0)
    assert warning_of(path, start=0.5, duration=0.0) is None


def test_what_read_audio_cannot_do_is_said_with_the_path_or_the_value(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "clip.wav", tone(), 8000)
    with pytest.raises(AudioError, match=r"nowhere\.wav: does not exist"):
        read_audio(tmp_path / "nowhere.wav")
    with pytest.raises(TypeError, match="PathLike"):
        read_audio(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sample_rate must be more than 0 Hz, not 0"):
        read_audio(path, sample_rate=0)
    for seconds in (math.inf, math.nan, -1.0):
        with pytest.raises(ValueError, match="must be 0 or more seconds"):
            read_audio(path, start=seconds)


def test_reading_whole_files_logs_the_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_audio(tmp_path / "clip.wav", tone(), 8000)
    path.write_bytes(path.read_bytes()[:-8000])
    with caplog.at_level(logging.WARNING):
        read_audio(path)
    assert [record.getMessage() for record in caplog.records] == [f"{path}: cut short: 8000 bytes are missing"]


def test_a_small_file_with_a_huge_claim_costs_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "lie.flac"
    content = bytearray(write_audio(path, tone(seconds=0.2), 8000).read_bytes())
    content[21] |= 0x0F
    content[22:26] = b"\xff" * 4
    path.write_bytes(content)
    lying_wav = tmp_path / "lie.wav"
    lying_wav.write_bytes(wav_bytes(bytes(1000), data_size=2_000_000_000))
    program = (
        "import resource, sys\n"
        "from audiotag.audio import open_audio\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sys.argv[1:]:\n"
        "    with open_audio(path, sample_rate=8000) as stream:\n"
        "        print(sum(block.shape[1] for block in stream))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000)\n"
    )
    command = [sys.executable, "-c", program, str(path), str(lying_wav)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["1600", "500", "True"]


def test_names_may_hold_anything(tmp_path: Path) -> None:
    original = write_audio(tmp_path / "clip.wav", tone(seconds=0.1), 8000)
    movie = write_audio(tmp_path / "clip.m4a", tone(seconds=0.1), 8000)
    for source in (original, movie):
        for name in ("a b", "-x", "ä🐕", "new\nline", "concat:clip.wav", "http:", "%d", os.fsdecode(b"\xff\xfe.wav")):
            path = tmp_path / name
            path.write_bytes(source.read_bytes())
            assert samples_of(path).shape[1] >= 800


@pytest.fixture(scope="module")
def torchaudio() -> Any:
    """torchaudio as an independent source; its compiled half, which its pure Python does not need, is left out."""
    extension: Any = types.ModuleType("torchaudio._extension")
    extension._IS_TORCHAUDIO_EXT_AVAILABLE = extension._IS_ALIGN_AVAILABLE = False
    extension.fail_if_no_align = lambda function: function
    extension._check_cuda_version = lambda: None
    sys.modules.setdefault("torchaudio._extension", extension)
    return pytest.importorskip("torchaudio")
