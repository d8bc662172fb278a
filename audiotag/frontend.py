"""From waveform windows to log-mels: one definition for inference, training and every engine.

Every window has its own short-time Fourier transform, with zeros beyond its edges. `windows` cuts what comes in here,
an engine takes what comes out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from audiotag.config import FrontEndConfig, WindowConfig

FloatArray = npt.NDArray[np.float32]

# Samples under the windows of the frames that are transformed at once: their spectra stay in a cache of 1 MB, and a
# window takes half the time that it takes in one go. Smaller blocks are as fast alone, but each of their steps gives
# the interpreter's lock away and waits for it again: with 32 frames of 1024 a whole run took 1.04 times as long.
BLOCK_SAMPLES = 75_000
# Mels of a piece of the filterbank, and multiplications of a product with it at most: OpenBLAS would wake threads from
# there on, which the decode threads do not want.
MELS_OF_BAND = 16
MAX_PRODUCT = 2**18 - 1


def hz_to_mel(frequency: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """HTK mel of a frequency in Hz (Young et al., The HTK Book, section 5.4)."""
    return np.asarray(2595.0 * np.log10(1.0 + np.asarray(frequency, dtype=np.float64) / 700.0))


def mel_to_hz(mel: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Frequency in Hz of an HTK mel; the inverse of `hz_to_mel`."""
    return np.asarray(700.0 * (10.0 ** (np.asarray(mel, dtype=np.float64) / 2595.0) - 1.0))


def mel_filterbank(config: FrontEndConfig) -> FloatArray:
    """Triangles evenly spaced in mel between `fmin` and `fmax`, peak 1, evaluated at the FFT's frequencies.

    Shape: `[mel, 1 + n_fft // 2]`.
    """
    frequencies = np.arange(1 + config.n_fft // 2) * (config.sample_rate / config.n_fft)
    corners = mel_to_hz(np.linspace(hz_to_mel(config.fmin), hz_to_mel(config.fmax), config.n_mels + 2))
    rising = (frequencies - corners[:-2, None]) / np.diff(corners)[:-1, None]
    falling = (corners[2:, None] - frequencies) / np.diff(corners)[1:, None]
    return np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)


class LogMel:
    """The log-mel of a waveform; the formula is `FrontEndConfig`'s.

    Only the `win_length` samples under the Hann window are transformed: where they lie within the `n_fft` samples
    changes the phase, which the magnitude drops.
    """

    def __init__(self, config: FrontEndConfig) -> None:
        self.config = config
        phase = 2 * np.pi * np.arange(config.win_length) / config.win_length
        # Written out: importing scipy.signal costs more than the rest of a start together. The transform's precision
        # follows the window's: where the rounding of a loud frame in float32 would show above the offset, float64.
        loud = config.win_length * np.finfo(np.float32).eps
        precision = np.float64 if loud > config.log_offset else np.float32
        self._hann: npt.NDArray[Any] = (0.5 - 0.5 * np.cos(phase)).astype(precision)
        self._bands = tuple(_bands(mel_filterbank(config)))
        largest = max(weights.size for _, _, weights in self._bands)
        self._block_frames = max(1, min(BLOCK_SAMPLES // config.n_fft, MAX_PRODUCT // largest))

    def __call__(self, samples: FloatArray, *, n_samples: int | None = None) -> FloatArray:
        """The log-mel of a waveform, or of one with zeros behind it up to `n_samples`.

        Shape: `[sample]` -> `[1 + n_samples // hop_length, mel]`, contiguous.
        """
        n_frames = self.config.n_frames(n_samples or len(samples))
        mels = np.empty((n_frames, self.config.n_mels), dtype=np.float32)
        self._transform(self._frames(samples, n_frames), mels)
        mels += np.float32(self.config.log_offset)
        return np.log(mels, out=mels)

    def _frames(self, samples: FloatArray, n_frames: int) -> npt.NDArray[Any]:
        """A view `[frame, win_length]` of the samples with zeros around them."""
        # The window's first sample lies (n_fft - win_length) // 2 into the n_fft samples, which begin n_fft // 2
        # before the waveform.
        before = self.config.n_fft // 2 - (self.config.n_fft - self.config.win_length) // 2
        hop, win = self.config.hop_length, self.config.win_length
        after = max(0, (n_frames - 1) * hop + win - before - len(samples))
        padded = np.zeros(before + len(samples) + after, dtype=self._hann.dtype)
        padded[before : before + len(samples)] = samples
        # As sliding_window_view does, in a fiftieth of the time.
        step = padded.itemsize
        return np.ndarray((n_frames, win), padded.dtype, padded, strides=(hop * step, step))

    def _transform(self, frames: npt.NDArray[Any], mels: FloatArray) -> None:
        """Fills `mels` `[frame, mel]`, a few frames at a time: their spectra fit the cache, a window's do not."""
        windowed = np.zeros((min(self._block_frames, len(frames)), self.config.n_fft), dtype=self._hann.dtype)
        for first in range(0, len(frames), len(windowed)):
            of_frames = slice(first, first + len(windowed))
            block = windowed[: len(frames) - first]
            np.multiply(frames[of_frames], self._hann, out=block[:, : len(self._hann)])
            magnitudes = np.abs(_rfft(block).astype(np.complex64, copy=False))
            for of_mels, of_frequencies, weights in self._bands:
                np.matmul(magnitudes[:, of_frequencies], weights, out=mels[of_frames, of_mels])


def _bands(filterbank: FloatArray) -> Iterator[tuple[slice, slice, FloatArray]]:
    """The filterbank in pieces without most of its zeros: mels, their frequencies, weights `[frequency, mel]`.

    Dense products of these pieces are as fast as a sparse product, and importing scipy.sparse costs 0.2 s.
    """
    for mels in np.array_split(np.arange(len(filterbank)), -(-len(filterbank) // MELS_OF_BAND)):
        frequencies = np.flatnonzero(filterbank[mels].any(axis=0))
        first, end = (frequencies[0], frequencies[-1] + 1) if len(frequencies) else (0, 1)
        weights = filterbank[mels[0] : mels[-1] + 1, first:end].T
        yield slice(mels[0], mels[-1] + 1), slice(first, end), np.ascontiguousarray(weights)


def _find_rfft() -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]]:
    """The real Fourier transform over the last axis of `[frame, sample]`, in the precision of its input: scipy.fft's.

    numpy's takes twice as long in float32. Importing scipy.fft takes 0.3 s, nearly all of it for what is not needed
    here; the extension module behind it (the same code, the same numbers) is loaded alone where it is found.
    """
    try:
        r2c = _load_pocketfft().r2c
        r2c(np.zeros((1, 2), dtype=np.float32), (1,), True, 0, None, 1)
    except (ImportError, AttributeError, TypeError):
        import scipy.fft

        return partial(scipy.fft.rfft, axis=1)
    return lambda frames: r2c(frames, (1,), True, 0, None, 1)


def _load_pocketfft() -> Any:
    scipy = find_spec("scipy")  # does not import it
    places = [] if scipy is None else [f"{place}/fft/_pocketfft" for place in scipy.submodule_search_locations or ()]
    spec = PathFinder.find_spec("pypocketfft", places)
    if spec is None or spec.loader is None:
        raise ImportError("scipy has no pypocketfft")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_rfft = _find_rfft()


def filled_up(log_mel: npt.NDArray[Any], frontend: FrontEndConfig, window: WindowConfig) -> npt.NDArray[Any]:
    """The log-mel of a clip that is shorter than the window, with the frames that are missing.

    Where the window's rule is to repeat, the clip comes again and again with a gap of silence between, the last time
    perhaps cut off. Whole frames are repeated, not samples: all repetitions look alike, as they do in training. For any
    other rule silence follows.

    Shape: `[frame, mel]` -> `[n_frames, mel]`.
    """
    gap = window.repeat_gap // frontend.hop_length if window.padding == "repeat" else window.n_frames
    filled = np.full((window.n_frames, frontend.n_mels), math.log(frontend.log_offset), dtype=log_mel.dtype)
    for first in range(0, window.n_frames, len(log_mel) + gap):
        filled[first : first + len(log_mel)] = log_mel[: window.n_frames - first]
    return filled


class WindowLogMel:
    """Log-mels of windows, the short ones filled up by the model's padding rule."""

    def __init__(self, frontend: FrontEndConfig, window: WindowConfig) -> None:
        self.window = window
        self.log_mel = LogMel(frontend)

    def __call__(self, windows: Sequence[FloatArray]) -> FloatArray:
        """Engine input for windows of 1 to `n_samples` samples each.

        Shape: n times `[sample]` -> `[n, 1, frame, mel]`.
        """
        # One by one: a window's spectrum fits the cache, a batch's does not.
        return np.stack([self._pad_and_transform(samples) for samples in windows])[:, None]

    def _pad_and_transform(self, samples: FloatArray) -> FloatArray:
        missing = self.window.n_samples - len(samples)
        if missing and self.window.padding == "repeat":
            return filled_up(self.log_mel(samples), self.log_mel.config, self.window)
        if missing and self.window.padding == "last_frame":
            log_mel = self.log_mel(samples)
            return np.pad(log_mel, ((0, self.window.n_frames - len(log_mel)), (0, 0)), mode="edge")
        if missing and self.window.padding == "last_sample":
            samples = np.pad(samples, (0, missing), mode="edge")
        return self.log_mel(samples, n_samples=self.window.n_samples)
