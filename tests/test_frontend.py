"""The log-mel against independent sources: torchaudio, the authors' recorded views, and what a spectrum must obey."""

from __future__ import annotations

import subprocess
import sys
import types
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
import scipy.fft
import torch
from conftest import chirp, noise

from audiotag import frontend
from audiotag.config import FrontEndConfig, Padding, WindowConfig
from audiotag.frontend import LogMel, WindowLogMel, hz_to_mel, mel_filterbank, mel_to_hz
from audiotag.published import DATASETS
from audiotag.windows import view_starts

FIXTURES = Path(__file__).parents[2] / "shared" / "reference" / "fixtures"

SAME_LOG_MEL = 1e-4  # float32 on either side
RECORDED_MAX, RECORDED_MEAN = 1e-3, 1e-5  # what the authors' front-end may differ by

SMALL = FrontEndConfig(sample_rate=8000, n_fft=512, win_length=400, hop_length=160, n_mels=40, fmin=50.0, fmax=3800.0)


@pytest.fixture(scope="module")
def torchaudio() -> Any:
    """torchaudio without its compiled part, which refuses to load beside other builds of torch."""
    stub = types.ModuleType("torchaudio._extension")
    for name, value in {
        "_IS_TORCHAUDIO_EXT_AVAILABLE": False, "_IS_ALIGN_AVAILABLE": False, "_check_cuda_version": lambda: None,
        "fail_if_no_align": lambda function: function,
    }.items():  # fmt: skip
        setattr(stub, name, value)
    sys.modules["torchaudio._extension"] = stub
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torchaudio")


SPARSE = replace(SMALL, hop_length=350)  # the last frame ends before the waveform


@pytest.mark.parametrize(
    "config", [SMALL, SPARSE, *(d.audio.frontend for d in DATASETS.values())], ids=["small", "sparse", *DATASETS]
)
def test_log_mel_is_torchaudios(config: FrontEndConfig, torchaudio: Any) -> None:
    transform = torchaudio.transforms.MelSpectrogram(
        sample_rate=config.sample_rate, n_fft=config.n_fft, win_length=config.win_length, hop_length=config.hop_length,
        f_min=config.fmin, f_max=config.fmax, n_mels=config.n_mels, power=1.0, center=True, pad_mode="constant",
        norm=None, mel_scale="htk", wkwargs={"dtype": torch.float64},
    ).double()  # fmt: skip
    sounds = np.stack([chirp(seconds=1.0), 0.3 * noise(seconds=1.0)[:8000]]).astype(np.float32)
    expected = np.log(transform(torch.from_numpy(sounds).double()).numpy() + config.log_offset).transpose(0, 2, 1)
    np.testing.assert_allclose([LogMel(config)(sound) for sound in sounds], expected, rtol=0, atol=SAME_LOG_MEL)


def test_a_loud_constant_lifts_no_quiet_band() -> None:
    # UrbanSound8K fills up with the last sample. Rounding in float32 showed in the bands that a constant leaves quiet,
    # and moved scores by 2e-4.
    config = DATASETS["urbansound8k"].audio.frontend
    phase = 2 * np.pi * np.arange(config.win_length) / config.win_length
    spectrum = np.abs(np.fft.rfft(0.9 * (0.5 - 0.5 * np.cos(phase)), config.n_fft))
    expected = np.log(mel_filterbank(config) @ spectrum + config.log_offset)
    found = LogMel(config)(np.full(8000, 0.9, np.float32))[20]
    np.testing.assert_allclose(found, expected, rtol=0, atol=SAME_LOG_MEL)


def test_silence_is_the_logarithm_of_the_offset() -> None:
    np.testing.assert_allclose(LogMel(SMALL)(np.zeros(1600, np.float32)), np.log(SMALL.log_offset), rtol=1e-6)


@pytest.mark.parametrize("n_samples", [1, 159, 160, 161, 4000])
def test_the_number_of_frames_is_one_and_the_hops_that_fit(n_samples: int) -> None:
    found = LogMel(SMALL)(np.ones(n_samples, np.float32))
    assert found.shape == (1 + n_samples // 160, 40)
    assert (found.dtype, found.flags.c_contiguous) == (np.float32, True)


def test_mel_and_hz_are_inverses_and_a_thousand_is_a_thousand() -> None:
    frequencies = np.array([0.0, 60.0, 440.0, 15999.0])
    np.testing.assert_allclose(mel_to_hz(hz_to_mel(frequencies)), frequencies, atol=1e-9)
    assert hz_to_mel(1000.0) == pytest.approx(1000.0, abs=0.02)


def test_filters_are_triangles_that_add_up_to_one_between_their_centres() -> None:
    filters = mel_filterbank(SMALL)
    centres = mel_to_hz(np.linspace(hz_to_mel(50.0), hz_to_mel(3800.0), 42))[[1, -2]]
    frequencies = np.linspace(0, 4000, 257)
    inside = (frequencies > centres[0]) & (frequencies < centres[1])
    np.testing.assert_allclose(filters[:, inside].sum(axis=0), 1.0, atol=1e-5)


@pytest.mark.parametrize("n_fft", [201, 512])
def test_a_transform_of_twice_the_length_has_the_same_frequencies_and_those_between(n_fft: int) -> None:
    config = replace(SMALL, n_fft=n_fft, win_length=200, hop_length=100, fmax=4000.0)
    # Of an odd length the last frequency lies below half the sample rate.
    twice = mel_filterbank(replace(config, n_fft=2 * n_fft))
    np.testing.assert_allclose(mel_filterbank(config), twice[:, ::2], atol=1e-6)


@pytest.mark.parametrize("precision", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 2), (7, 400), (32, 1024), (5, 2048)])
def test_the_transform_is_that_of_scipy_to_the_last_bit(
    precision: Any, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = np.random.default_rng(0).normal(size=shape).astype(precision)
    expected = scipy.fft.rfft(frames, axis=1)
    assert frontend._rfft(frames).dtype == expected.dtype
    np.testing.assert_array_equal(frontend._rfft(frames), expected)

    def not_there() -> Any:
        raise ImportError("scipy has no pypocketfft")

    for load in (not_there, types.SimpleNamespace, lambda: types.SimpleNamespace(r2c=abs)):  # as a later scipy may have
        monkeypatch.setattr(frontend, "_load_pocketfft", load)
        np.testing.assert_array_equal(frontend._find_rfft()(frames), expected)


def test_the_first_tag_imports_nothing_of_scipy(tiny_model_folder: Path, write_wav: Callable[..., Path]) -> None:
    # scipy.fft, scipy.sparse and scipy.special cost 0.35 s of a start of 0.9 s.
    code = (
        "import sys, audiotag; audiotag.load(sys.argv[1]).tag(sys.argv[2]);"
        "assert not {name.split('.')[0] for name in sys.modules} & {'scipy', 'torch', 'rich', 'huggingface_hub'}"
    )
    subprocess.run([sys.executable, "-c", code, tiny_model_folder, write_wav("a.wav", chirp())], check=True, timeout=60)


@pytest.mark.parametrize("block_frames", [1, 31, 50, 99, 100, 101])
def test_a_frame_does_not_depend_on_where_blocks_of_frames_end(
    block_frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = noise(seconds=3.0)[: 100 * SMALL.hop_length - 1].astype(np.float32)
    expected = LogMel(SMALL)(samples)
    assert expected.shape == (100, SMALL.n_mels)
    monkeypatch.setattr(frontend, "BLOCK_SAMPLES", block_frames * SMALL.n_fft)
    np.testing.assert_allclose(LogMel(SMALL)(samples), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("config", [SMALL, *(d.audio.frontend for d in DATASETS.values())], ids=["small", *DATASETS])
def test_no_product_wakes_the_threads_of_blas(config: FrontEndConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    products, matmul = [], np.matmul

    def counted(left: Any, right: Any, **options: Any) -> Any:
        products.append(left.size * right.shape[1])
        return matmul(left, right, **options)

    monkeypatch.setattr(np, "matmul", counted)
    LogMel(config)(noise(seconds=5.0).astype(np.float32))
    assert max(products) < 2**18  # https://github.com/OpenMathLib/OpenBLAS, interface/gemm.c: 4 * 65536


# --- filling up short windows ---


def padded(samples: npt.NDArray[np.float32], padding: Any, *, repeat_gap: int = 0) -> npt.NDArray[np.float32]:
    window = WindowConfig(n_samples=1600, n_frames=11, padding=padding, repeat_gap=repeat_gap)
    (log_mel,) = WindowLogMel(SMALL, window)([samples])
    return np.asarray(log_mel[0])


def test_short_clip_repeats_last_frame() -> None:
    short = chirp()[:500]
    found, alone = padded(short, "last_frame"), LogMel(SMALL)(short)
    np.testing.assert_array_equal(found[:4], alone)
    np.testing.assert_array_equal(found[4:], np.repeat(alone[-1:], 7, axis=0))


@pytest.mark.parametrize(("padding", "fill"), [("silence", 0.0), ("last_sample", None)])
def test_short_clip_is_filled_up_before_the_transform(padding: str, fill: float | None) -> None:
    short = chirp()[:500]
    filled = np.concatenate([short, np.full(1100, short[-1] if fill is None else fill, np.float32)])
    np.testing.assert_array_equal(padded(short, padding), LogMel(SMALL)(filled))


def test_short_clip_comes_again_in_whole_frames_after_a_gap() -> None:
    short = chirp()[:500]
    alone, gap = LogMel(SMALL)(short), np.full((1, 40), np.log(SMALL.log_offset), np.float32)
    found = padded(short, "repeat", repeat_gap=200)  # 1.25 hops
    np.testing.assert_array_equal(found, np.concatenate([alone, gap, alone, gap, alone[:1]]))


def test_a_gap_that_is_longer_than_the_window_is_silence() -> None:
    short = chirp()[:500]
    found, alone = padded(short, "repeat", repeat_gap=10**12), LogMel(SMALL)(short)
    np.testing.assert_array_equal(found[:4], alone)
    np.testing.assert_array_equal(found[4:], padded(short, "silence")[-1:].repeat(7, axis=0))


@pytest.mark.parametrize("padding", get_args(Padding))
@pytest.mark.parametrize("n_samples", [1, 1599, 1600])
def test_every_window_fills_the_frames(padding: str, n_samples: int) -> None:
    assert padded(noise()[:n_samples].astype(np.float32), padding).shape == (11, 40)


# --- the authors' recorded views ---


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="../shared/reference is not there")
@pytest.mark.parametrize("clip", ["10s", "3s", "0p4s"])
def test_recorded_views(clip: str) -> None:
    recorded = np.load(FIXTURES / "logmel_vggsound.npz")
    samples = recorded[f"{clip}_pcm16"].astype(np.float32) / 32768
    audio = DATASETS["vggsound"].audio
    starts = view_starts(len(samples), window=audio.window, n_views=2)
    views = WindowLogMel(audio.frontend, audio.window)([samples[at : at + audio.window.n_samples] for at in starts])
    difference = np.abs(views - recorded[f"{clip}_views"])
    assert difference.max() <= RECORDED_MAX
    assert difference.mean() <= RECORDED_MEAN
    np.testing.assert_array_equal(mel_filterbank(audio.frontend), recorded["mel_basis"])
