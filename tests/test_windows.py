"""Where windows start, and that a stream cut in any way gives the same windows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from audiotag.config import WindowConfig
from audiotag.published import DATASETS
from audiotag.windows import cut_windows, view_starts, window_starts

WINDOW = WindowConfig(n_samples=10, n_frames=1)
LENGTHS = [1, 9, 10, 11, 19, 20, 21, 57]
HOPS = [1, 3, 10, 25]


@pytest.mark.parametrize("hop", HOPS)
@pytest.mark.parametrize("n_samples", LENGTHS)
def test_windows_cover_both_ends_and_stay_inside(n_samples: int, hop: int) -> None:
    starts = window_starts(n_samples, window=WINDOW, hop=hop)
    assert starts[0] == 0
    assert starts[-1] == max(0, n_samples - 10)
    assert all(0 < later - earlier <= hop for earlier, later in pairwise(starts))


@pytest.mark.parametrize("block", [1, 4, 10, 100])
@pytest.mark.parametrize("hop", HOPS)
@pytest.mark.parametrize("n_samples", LENGTHS)
def test_a_stream_gives_the_windows_of_its_length_whatever_its_blocks(n_samples: int, hop: int, block: int) -> None:
    samples = np.arange(n_samples, dtype=np.float32)
    blocks = [samples[at : at + block] for at in range(0, n_samples, block)]
    windows = list(cut_windows(iter(blocks), window=WINDOW, hop=hop))
    assert tuple(window.start for window in windows) == window_starts(n_samples, window=WINDOW, hop=hop)
    for window in windows:
        np.testing.assert_array_equal(window.samples, samples[window.start : window.start + 10])


def test_rows_are_cut_alike() -> None:
    samples = np.arange(46, dtype=np.float32).reshape(2, 23)
    windows = list(cut_windows([samples[:, :7], samples[:, 7:]], window=WINDOW, hop=10))
    assert [window.start for window in windows] == [0, 10, 13]
    np.testing.assert_array_equal(windows[-1].samples, samples[:, 13:])


def test_a_long_stream_is_not_held() -> None:
    held = [window.samples.base.shape[-1] for window in  # type: ignore[union-attr]
            cut_windows((np.zeros(7, np.float32) for _ in range(1000)), window=WINDOW, hop=10)]  # fmt: skip
    assert max(held) <= 10 + 7 + 7


@pytest.mark.parametrize("blocks", [[], [np.zeros(0, np.float32)]])
def test_nothing_has_no_window(blocks: list[np.ndarray]) -> None:
    assert list(cut_windows(blocks, window=WINDOW, hop=10)) == []
    assert window_starts(0, window=WINDOW, hop=10) == view_starts(0, window=WINDOW, n_views=3) == ()


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("extra", [-2, -1, 0, 1, 2, 100_001])
@pytest.mark.parametrize("n_views", [1, 2, 5, 10])
def test_views_stand_where_the_authors_put_them(dataset: str, extra: int, n_views: int) -> None:
    window = DATASETS[dataset].audio.window
    length = window.n_samples + 1  # their C
    starts = view_starts(length + extra, window=window, n_views=n_views)
    expected = [int(at) for at in np.linspace(0, max(extra, 0), n_views)]
    assert list(starts) == (expected if extra > 0 else [0])  # of equal views, one is enough
    assert starts[-1] + window.n_samples <= length + max(extra, -1)
