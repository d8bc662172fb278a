"""The log-mels of whole labelled clips, as they are or damaged: computed once, and mapped from a file afterwards."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from audiotag.audio import read_audio
from audiotag.config import FrontEndConfig
from audiotag.engines import FloatArray
from audiotag.errors import AudioError, DataError
from audiotag.frontend import LogMel
from audiotag.journal import explained
from audiotag.machine import core_count
from audiotag.training.damage import damage
from audiotag.training.dataset import LabelledClip

HalfArray = npt.NDArray[np.float16]

MAX_CLIP_SECONDS = 60.0  # of a clip that training and validation look at

logger = logging.getLogger(__name__)


def log_mels_of(
    clips: Sequence[LabelledClip],
    frontend: FrontEndConfig,
    *,
    cache: Path,
    kind: str | None = None,
    on_clip: Callable[[int, int], None] = lambda done, total: None,
) -> list[HalfArray]:
    """The log-mel of every clip, `[frame, mel]` in float16, computed once and mapped from `cache` afterwards.

    With a `kind` of damage, of every clip after that damage. A clip that cannot be read is logged and comes back with
    no frames; once it can be, all are computed again.

    Raises:
        DataError: none of the clips can be read.
        OutputError: `cache` cannot be made or written.
    """
    stem = cache / f"log_mels-{_fingerprint(clips, frontend)}{f'-{kind}' if kind else ''}"
    index = stem.with_suffix(".npy")
    if not index.exists() or (kind is None and _reads_more_now(clips, np.load(index), frontend.sample_rate)):
        with explained(cache):
            _write_cache(clips, frontend, kind, stem, on_clip)
    ends = np.load(index)
    if not len(ends) or not ends[-1]:
        raise DataError("none of the clips could be read. The log names each and why")
    frames = np.memmap(stem.with_suffix(".f16"), dtype=np.float16, mode="r").reshape(-1, frontend.n_mels)
    return np.split(frames, ends[:-1])


def _reads_more_now(clips: Sequence[LabelledClip], ends: npt.NDArray[np.intp], sample_rate: int) -> bool:
    """Whether a clip that the cache was made without can be read, as after a drive's failure; names them if none can.

    A clip that has changed since is not of this cache, but one of which only the permissions have is.
    """
    reasons = []  # the cache does not keep why
    for clip in (clip for clip, n_frames in zip(clips, np.diff(ends, prepend=0), strict=True) if not n_frames):
        try:
            if len(read_audio(clip.path, sample_rate=sample_rate, duration=MAX_CLIP_SECONDS).samples):
                return True
        except AudioError as error:
            reasons.append(str(error))
    for reason in reasons:
        logger.warning("left out: %s", reason)
    return False


def _fingerprint(clips: Sequence[LabelledClip], frontend: FrontEndConfig) -> str:
    digest = hashlib.sha256(json.dumps(asdict(frontend)).encode())
    for clip in clips:
        try:
            status = clip.path.stat()
        except OSError:
            digest.update(f"{clip.path}:missing\n".encode("utf-8", "surrogateescape"))
            continue
        digest.update(f"{clip.path}:{status.st_size}:{status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def _write_cache(
    clips: Sequence[LabelledClip],
    frontend: FrontEndConfig,
    kind: str | None,
    stem: Path,
    on_clip: Callable[[int, int], None],
) -> None:
    transform = LogMel(frontend)

    def log_mel(number: int, clip: LabelledClip) -> HalfArray:
        samples = _samples(number, clip, frontend.sample_rate, kind)
        if not len(samples):
            return np.zeros((0, frontend.n_mels), dtype=np.float16)
        return transform(samples).astype(np.float16)

    stem.parent.mkdir(parents=True, exist_ok=True)
    # Its own of each process: trainings may share a cache, and make the same files at the same time.
    partial = stem.with_suffix(f".{os.getpid()}.partial")
    try:
        ends, total = [], 0
        with partial.open("wb") as out, ThreadPoolExecutor(core_count()) as pool:
            for done, frames in enumerate(pool.map(log_mel, range(len(clips)), clips), start=1):
                out.write(frames.tobytes())
                total += len(frames)
                ends.append(total)
                on_clip(done, len(clips))
        partial.replace(stem.with_suffix(".f16"))
        with partial.open("wb") as out:
            np.save(out, np.asarray(ends))
        partial.replace(stem.with_suffix(".npy"))
    finally:
        partial.unlink(missing_ok=True)


def _samples(number: int, clip: LabelledClip, sample_rate: int, kind: str | None) -> FloatArray:
    """A clip after its damage, which depends on its number; none, with a warning, where it cannot be read."""
    try:
        samples = read_audio(clip.path, sample_rate=sample_rate, duration=MAX_CLIP_SECONDS).samples
    except AudioError as error:
        logger.warning("left out: %s", error)
        return np.zeros(0, dtype=np.float32)
    if not len(samples) or kind is None:
        return samples
    return damage(samples, sample_rate=sample_rate, kind=kind, rng=np.random.default_rng((number, *kind.encode())))
