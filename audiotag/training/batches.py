"""The two sides of a labelled data set, and the augmented batches that are learnt from one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from audiotag.config import ModelConfig, TrainConfig
from audiotag.engines import FloatArray
from audiotag.errors import DataError, listed
from audiotag.frontend import LogMel
from audiotag.training.augment import Augmenter, Sound, active_frames, synthetic_negatives
from audiotag.training.damage import KINDS
from audiotag.training.dataset import LabelledClip, label_matrix, unknown_labels
from audiotag.training.log_mels import HalfArray, log_mels_of

N_NEGATIVES = 360  # synthetic clips
# Their lengths, in windows. Many are longer than one: a network that sees noise end in every window learns the end, and
# not the noise.
SHORTEST_NEGATIVE, LONGEST_NEGATIVE = 0.2, 2.0


@dataclass(frozen=True)
class Data:
    """Clips that can be read: log-mels `[frame, mel]` and targets `[clip, class]`.

    `damaged` holds the same clips' log-mels after each kind of damage; `n_unreadable` clips are not among them.
    """

    clips: tuple[LabelledClip, ...]
    log_mels: list[HalfArray]
    targets: FloatArray
    damaged: tuple[list[HalfArray], ...] = ()
    n_unreadable: int = 0

    def part(self, rows: Iterable[int]) -> Data:
        """Only the clips of these rows."""
        rows = list(rows)
        return Data(
            tuple(self.clips[row] for row in rows), [self.log_mels[row] for row in rows], self.targets[rows],
            damaged=tuple([each[row] for row in rows] for each in self.damaged),
        )  # fmt: skip


def load(
    clips: Sequence[LabelledClip],
    model: ModelConfig,
    config: TrainConfig,
    *,
    cache: Path,
    on_clip: Callable[[int, int], None] = lambda done, total: None,
) -> Data:
    """All clips that can be read, with their damaged copies where the recipe asks for damage.

    `on_clip` gets how many log-mels are there of how many, the damaged ones among them.
    """
    kinds = tuple(KINDS) if config.damage_probability else ()

    def on_log_mel(done: int, total: int, *, rounds_before: int) -> None:
        on_clip(done + rounds_before * total, total * (1 + len(kinds)))

    log_mels = log_mels_of(clips, model.frontend, cache=cache, on_clip=partial(on_log_mel, rounds_before=0))
    readable = [row for row, log_mel in enumerate(log_mels) if len(log_mel)]
    read = tuple(clips[row] for row in readable)
    damaged = tuple(
        log_mels_of(read, model.frontend, cache=cache, kind=kind, on_clip=partial(on_log_mel, rounds_before=number))
        for number, kind in enumerate(kinds, start=1)
    )
    return Data(
        read, [log_mels[row] for row in readable], label_matrix(read, model.labels), damaged,
        n_unreadable=len(clips) - len(read),
    )  # fmt: skip


def split(data: Data, fold: str) -> tuple[Data, Data]:
    """What is learnt from, and the held-out fold.

    Raises:
        DataError: one of the two has no clip, or the held-out fold none with a label of the model.
    """
    check_fold(data.clips, fold)
    is_held_out = np.array([clip.fold == fold for clip in data.clips])
    learning, held_out = data.part(np.flatnonzero(~is_held_out)), data.part(np.flatnonzero(is_held_out))
    if not held_out.targets.any():
        raise DataError(f"no readable clip of fold {fold!r} has a label that is learnt. Choose another --fold")
    return learning, held_out


def check_fold(clips: Sequence[LabelledClip], fold: str) -> None:
    """Raises `DataError` unless some clips are in this fold and others are not."""
    folds = sorted({clip.fold for clip in clips})
    if fold not in folds:
        raise DataError(f"no readable clip is in fold {fold!r}. Choose --fold among {', '.join(folds)}")
    if len(folds) == 1:
        raise DataError(f"every readable clip is in fold {fold!r}: none is left to learn from. Add others")


def check_groups(clips: Iterable[LabelledClip], fold: str) -> None:
    """Raises `DataError` if a group has clips in this fold and in others: its figures would be of what is learnt."""
    held_out, learnt = set[str](), set[str]()
    for clip in clips:
        (held_out if clip.fold == fold else learnt).add(clip.group)
    split_groups = sorted(held_out & learnt)
    if split_groups:
        raise DataError(f"groups are in fold {fold!r} and in others: {listed(split_groups, show=repr)}. "
                        "Give each group one fold")  # fmt: skip


def check_learnt(clips: Iterable[LabelledClip], labels: Sequence[str], fold: str) -> None:
    """Raises `DataError` unless each of the labels is on a clip outside this fold, to be learnt from."""
    learnt = {label for clip in clips if clip.fold != fold for label in clip.labels}
    others = [label for label in labels if label not in learnt]
    if others:
        raise DataError(f"no readable clip outside fold {fold!r} is labelled {listed(others, show=repr)}. "
                        "Choose another --fold, or raise --min-clips")  # fmt: skip


class BatchSource:
    """Augmented batches, each drawn from its own generator and made one step ahead on another thread.

    Their targets are those of the labels `taught`, the model's among them.
    """

    def __init__(self, data: Data, model: ModelConfig, config: TrainConfig, *, taught: tuple[str, ...]) -> None:
        self._data, self._model, self._config = data, model, config
        self._cumulative = np.cumsum(_sampling_weights(data.targets))
        unknown = unknown_labels(data.clips, taught)
        self._targets = np.where(unknown, np.float32(np.nan), label_matrix(data.clips, taught))
        self._negatives = self._make_negatives()
        self._active: dict[tuple[int | None, int], npt.NDArray[np.intp]] = {}

    def _make_negatives(self) -> list[Sound]:
        transform, window = LogMel(self._model.frontend), self._model.window_seconds
        noises = synthetic_negatives(
            self._model.frontend.sample_rate, np.random.default_rng(self._config.seed),
            n_clips=N_NEGATIVES if self._config.negatives else 0,
            seconds=(SHORTEST_NEGATIVE * window, LONGEST_NEGATIVE * window),
        )  # fmt: skip
        absent = np.zeros(self._targets.shape[1], dtype=np.float32)
        log_mels = [transform(noise).astype(np.float16) for noise in noises]
        return [Sound(log_mel, absent, np.arange(len(log_mel))) for log_mel in log_mels]

    def from_step(self, step: int) -> Iterator[tuple[FloatArray, FloatArray]]:
        """The batches of this step and all that follow, without end."""
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(self.batch, step)
            while True:
                batch = coming.result()
                step += 1
                coming = pool.submit(self.batch, step)
                yield batch

    def batch(self, step: int) -> tuple[FloatArray, FloatArray]:
        """`[batch, 1, frame, mel]` and `[batch, class]`."""
        rng = np.random.default_rng((self._config.seed, step))
        augmenter = Augmenter(self._model.frontend, self._model.window, self._config, rng)
        windows = [augmenter.window(self._draw(rng), self._draw(rng)) for _ in range(self._config.batch_size)]
        log_mels, targets = zip(*windows, strict=True)
        return np.stack(log_mels)[:, None], np.stack(targets)

    def _draw(self, rng: np.random.Generator) -> Sound:
        if rng.random() < self._config.negatives:
            return self._negatives[rng.integers(len(self._negatives))]
        clip = int(np.searchsorted(self._cumulative, rng.random() * self._cumulative[-1]))
        kind = None
        if rng.random() < self._config.damage_probability:
            kind = int(rng.integers(len(self._data.damaged)))
            if not len(self._data.damaged[kind][clip]):  # a codec swallowed a clip of a few samples
                kind = None
        log_mel = self._data.log_mels[clip] if kind is None else self._data.damaged[kind][clip]
        if (kind, clip) not in self._active:
            self._active[kind, clip] = active_frames(log_mel)
        return Sound(log_mel, self._targets[clip], self._active[kind, clip])


def _sampling_weights(targets: FloatArray) -> FloatArray:
    """A clip weighs as its rarest label: one over the square root of the number of clips with that label.

    As in Mahajan et al.: "Exploring the limits of weakly supervised pretraining", ECCV 2018.
    """
    rarity = 1.0 / np.sqrt(np.maximum(targets.sum(axis=0), 1.0))
    weights = (targets * rarity).max(axis=1)
    # Clips without a known label still show what the labels do not sound like.
    return np.asarray(np.where(weights > 0, weights, rarity.min()), dtype=np.float32)
