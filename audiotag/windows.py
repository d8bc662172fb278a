"""Where windows start: index arithmetic over a stream of samples, nothing else.

`audio` gives the blocks, `frontend` takes the windows and fills up a short one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from audiotag.config import WindowConfig

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Window:
    """An excerpt: `start` in samples from the first of the stream; `[sample]` or `[row, sample]`, a window at most."""

    start: int
    samples: FloatArray


def window_starts(n_samples: int, *, window: WindowConfig, hop: int) -> tuple[int, ...]:
    """Starts of the windows of a clip of `n_samples`: every `hop`, the last one ending where the clip ends.

    A clip that is not longer than a window has one window at 0; a clip without samples has none.

    >>> window_starts(25, window=WindowConfig(n_samples=10, n_frames=1), hop=10)
    (0, 10, 15)
    """
    if n_samples <= 0:
        return ()
    last = n_samples - window.n_samples
    if last <= 0:
        return (0,)
    return (*range(0, last, hop), last)


def view_starts(n_samples: int, *, window: WindowConfig, n_views: int) -> tuple[int, ...]:
    """Starts of `n_views` windows spread evenly over a clip of `n_samples`.

    The authors' rule, `int(linspace(0, n_samples - view_length, n_views))`: one view stands at the start, several
    reach to the end. A clip shorter than `view_length` has one view at 0: all of them would be the same.

    >>> view_starts(25, window=WindowConfig(n_samples=10, n_frames=1), n_views=3)
    (0, 7, 15)
    """
    if n_samples <= 0:
        return ()
    last = n_samples - window.view_length
    if last <= 0:
        return (0,)
    return tuple(int(start) for start in np.linspace(0, last, n_views))


def cut_windows(blocks: Iterable[FloatArray], *, window: WindowConfig, hop: int) -> Iterator[Window]:
    """The windows at `window_starts` of a stream whose length is not known beforehand.

    Shape: blocks `[sample]` (or `[row, sample]`) of any length -> windows `[n_samples]` (`[row, n_samples]`); a single
    shorter one where the stream is shorter. Holds two windows and a block at most.
    """
    length = window.n_samples
    pieces: list[FloatArray] = []  # what may still be needed; its first sample is number `offset`
    n_held = offset = next_start = 0
    for block in blocks:
        pieces.append(block)
        n_held += block.shape[-1]
        # A window is cut only when a sample follows it: the window that ends the clip is cut below.
        if n_held <= min(next_start - offset, length) + length:
            continue
        held = np.concatenate(pieces, axis=-1)
        while offset + n_held > next_start + length:
            yield Window(next_start, held[..., next_start - offset : next_start - offset + length])
            next_start += hop
        pieces, n_held, offset = [held[..., -length:]], length, offset + n_held - length
    if n_held:
        held = np.concatenate(pieces, axis=-1)
        start = max(0, offset + n_held - length)
        yield Window(start, held[..., start - offset :])
