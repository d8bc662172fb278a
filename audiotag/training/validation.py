"""Scores of whole clips from their cached log-mels: quick, for use while training and before a model is exported."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from audiotag.config import ModelConfig, WindowConfig
from audiotag.engines import FloatArray
from audiotag.frontend import filled_up
from audiotag.network import AudioRepInceptionNeXt
from audiotag.training.log_mels import HalfArray
from audiotag.windows import window_starts

VALIDATION_BATCH = 64  # windows


@torch.no_grad()
def window_logits(
    network: AudioRepInceptionNeXt,
    log_mels: Sequence[HalfArray],
    model: ModelConfig,
    *,
    to_device: Callable[[FloatArray], Tensor] = torch.from_numpy,
) -> tuple[FloatArray, npt.NDArray[np.intp]]:
    """Logits `[window, class]` of all windows of the clips, and the clip `[window]` that each is of.

    `log_mels` are n times `[frame, mel]`.
    """
    pieces = [(owner, window) for owner, log_mel in enumerate(log_mels) for window in cut(log_mel, model)]
    logits = []
    for start in range(0, len(pieces), VALIDATION_BATCH):
        batch = np.stack([window for _, window in pieces[start : start + VALIDATION_BATCH]])[:, None]
        logits.append(network(to_device(batch)).cpu().numpy())
    return np.concatenate(logits), np.array([owner for owner, _ in pieces])


def cut(log_mel: HalfArray, model: ModelConfig) -> list[FloatArray]:
    """The windows `[n_frames, mel]` of a clip, a short one filled up as `filled_up` does."""
    frames = model.window.n_frames
    if len(log_mel) < frames:
        log_mel = filled_up(log_mel, model.frontend, model.window)
    starts = window_starts(len(log_mel), window=WindowConfig(n_samples=frames, n_frames=1), hop=frames)
    return [log_mel[start : start + frames].astype(np.float32) for start in starts]
