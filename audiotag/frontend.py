"""From waveform windows to log-mels: one definition for inference, training and every engine.

Every window has its own short-time Fourier transform, with zeros beyond its edges. `windows` cuts what comes in here,
an engine takes what comes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.sparse

from audiotag.config import FrontEndConfig, WindowConfig

FloatArray = npt.NDArray[np.float32]


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
    frequencies = np.linspace(0.0, config.sample_rate / 2, 1 + config.n_fft // 2)
    corners = mel_to_hz(np.linspace(hz_to_mel(config.fmin), hz_to_mel(config.fmax), config.n_mels + 2))
    rising = (frequencies - corners[:-2, None]) / np.diff(corners)[:-1, None]
    falling = (corners[2:, None] - frequencies) / np.diff(corners)[1:, None]
    return np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)


class LogMel:
    """Log-mel of waveforms; the formula is `FrontEndConfig`'s.

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
        self._filterbank = scipy.sparse.csr_array(mel_filterbank(config))

    def __call__(self, waveforms: FloatArray) -> FloatArray:
        """Log-mels of waveforms of one length.

        Shape: `[n, sample]` -> `[n, 1 + sample // hop_length, mel]`, contiguous.
        """
        n_waveforms, n_samples = waveforms.shape
        n_frames = self.config.n_frames(n_samples)
        magnitudes = self._magnitudes(self._frames(waveforms, n_frames))  # [n * frame, frequency]
        mels = (self._filterbank @ magnitudes.T).T  # [n * frame, mel]
        log_mels = np.log(mels + np.float32(self.config.log_offset))
        return np.ascontiguousarray(log_mels).reshape(n_waveforms, n_frames, self.config.n_mels)

    def _frames(self, waveforms: FloatArray, n_frames: int) -> npt.NDArray[Any]:
        # The window's first sample lies (n_fft - win_length) // 2 into the n_fft samples, which begin n_fft // 2
        # before the waveform.
        before = self.config.n_fft // 2 - (self.config.n_fft - self.config.win_length) // 2
        hop, win = self.config.hop_length, self.config.win_length
        after = max(0, (n_frames - 1) * hop + win - before - waveforms.shape[1])
        padded = np.pad(waveforms, ((0, 0), (before, after)))
        frames = np.lib.stride_tricks.sliding_window_view(padded, win, axis=1)[:, : n_frames * hop : hop]
        return np.asarray((frames * self._hann).reshape(-1, win))

    def _magnitudes(self, frames: npt.NDArray[Any]) -> FloatArray:
        spectra = scipy.fft.rfft(frames, n=self.config.n_fft, axis=1)
        magnitudes: FloatArray = np.abs(spectra).astype(np.float32, copy=False)
        return magnitudes


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
        if self.window.padding == "last_frame":
            log_mel = self.log_mel(samples[None])[0]
            missing = self.window.n_frames - len(log_mel)
            return np.pad(log_mel, ((0, missing), (0, 0)), mode="edge") if missing else log_mel
        missing = self.window.n_samples - len(samples)
        if missing and self.window.padding == "last_sample":
            samples = np.pad(samples, (0, missing), mode="edge")
        elif missing:
            samples = np.pad(samples, (0, missing))
        padded: FloatArray = self.log_mel(samples[None])[0]
        return padded
