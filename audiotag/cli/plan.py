"""What `--dry-run` shows: how much of every input is tagged, what is skipped and why, and how long a run would take."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING

import typer

from audiotag.cli.status import counted, length_of
from audiotag.config import ModelConfig
from audiotag.errors import AudioError, ExitCode
from audiotag.inputs import Found, Input, Shard, Skipped, is_read_once
from audiotag.options import EngineOptions, TagOptions
from audiotag.writers import visible

if TYPE_CHECKING:
    from audiotag.model_folder import ModelFolder
    from audiotag.tagger import Tagger

N_TIMED = 8  # windows that are computed to learn how fast the engine is


def show_plan(
    found: Iterable[Found],
    folder: ModelFolder,
    tag_options: TagOptions,
    engine_options: EngineOptions,
    *,
    shard: Shard | None,
) -> ExitCode:
    """Prints the plan of a run, or of a shard of it; nothing is tagged or written."""
    from audiotag.tagger import Tagger

    n_inputs, n_skipped, n_bytes, seconds = 0, 0, 0, 0.0
    n_elsewhere, n_windows = 0, 0
    for item in found:
        if shard is not None and item.path not in shard:
            n_elsewhere += isinstance(item, Input)
            continue
        if isinstance(item, Skipped):
            n_skipped += 1
            typer.echo(f"skip  {visible(item.path)}  {visible(item.reason)}".encode())
            continue
        length, n_rows, note = _extent(item, tag_options)
        typer.echo(f"tag   {visible(item.path)}  {note}".encode())
        n_inputs, n_bytes, seconds = n_inputs + 1, n_bytes + (item.size or 0), seconds + length
        n_windows += n_rows * _window_count(length, folder.config, tag_options)
    about = ""
    if n_windows:
        seconds_to_run = _seconds_per_window(Tagger(folder, options=engine_options)) * n_windows
        about = f"; about {timedelta(seconds=math.ceil(seconds_to_run))} to tag"
    if shard is not None:
        typer.echo(f"shard {shard}; inputs in the others: {n_elsewhere:,}")
    what = f"{counted(n_inputs, 'input')}, {length_of(seconds)}, {n_bytes / 1e6:,.1f} MB"
    typer.echo(f"{what}; {n_skipped:,} skipped{about}")
    return ExitCode.OK if n_inputs + n_elsewhere else ExitCode.NO_INPUTS


def seconds_to_tag(given: Input, tag_options: TagOptions) -> float:
    """What is tagged of an input, by its header; 0 where that does not tell."""
    return _extent(given, tag_options)[0]


def _extent(given: Input, tag_options: TagOptions) -> tuple[float, int, str]:
    """By an input's header: the seconds that will be tagged, how many results they have, and a note for the plan."""
    from audiotag.audio import probe

    if given.source is None:
        return 0.0, 0, "stdin"
    if is_read_once(given):
        return 0.0, 0, "a pipe"
    try:
        info = probe(given.source)
    except AudioError as error:
        return 0.0, 0, f"cannot be read: {visible(str(error))}"
    if info.duration is None:
        return 0.0, 0, "of unknown length"
    length = min(max(0.0, info.duration - tag_options.start), tag_options.duration or math.inf)
    return length, info.n_channels if tag_options.channels == "each" else 1, f"{length:.3f} s"


def _window_count(seconds: float, config: ModelConfig, tag_options: TagOptions) -> int:
    """How many windows this much audio is cut into."""
    from audiotag.windows import view_starts, window_starts

    n_samples, n_views = round(seconds * config.frontend.sample_rate), tag_options.max_windows
    if n_views is not None:
        return len(view_starts(n_samples, window=config.window, n_views=n_views))
    return len(window_starts(n_samples, window=config.window, hop=tag_options.hop_length(config)))


def _seconds_per_window(tagger: Tagger) -> float:
    """Seconds of the engine for a window: those of one timed call, shared by the calls that run at once."""
    import numpy as np

    window, frontend = tagger.config.window, tagger.config.frontend
    log_mels = np.zeros((N_TIMED, 1, window.n_frames, frontend.n_mels), dtype=np.float32)
    tagger.engine(log_mels)
    begun = time.perf_counter()
    tagger.engine(log_mels)
    return (time.perf_counter() - begun) / N_TIMED / tagger.engine.concurrency
