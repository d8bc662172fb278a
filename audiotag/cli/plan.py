"""What `--dry-run` shows: every input with its length, what is skipped and why, and how long a run would take."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING

import typer

from audiotag.cli.progress import hours
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
    shard: Shard | None = None,
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
            typer.echo(f"skip  {visible(item.path)}  {item.reason}")
            continue
        length, note = _length(item)
        typer.echo(f"tag   {visible(item.path)}  {note}")
        n_inputs, n_bytes, seconds = n_inputs + 1, n_bytes + (item.size or 0), seconds + length
        n_windows += _window_count(length, folder.config, tag_options)
    if n_inputs:
        took = _seconds_per_window(Tagger(folder, options=engine_options)) * n_windows
    if shard is not None:
        typer.echo(f"shard {shard}; {n_elsewhere:,} inputs are in the others")
    about = f"; about {timedelta(seconds=round(took))} to tag" if n_inputs else ""
    typer.echo(f"{n_inputs:,} inputs, {hours(seconds)}, {n_bytes / 1e6:,.1f} MB; {n_skipped:,} skipped{about}")
    return ExitCode.OK if n_inputs + n_elsewhere else ExitCode.NO_INPUTS


def _length(given: Input) -> tuple[float, str]:
    """Seconds by the header of an input, and what to say of it."""
    from audiotag.audio import probe

    if given.source is None:
        return 0.0, "stdin"
    if is_read_once(given):
        return 0.0, "a pipe"
    try:
        duration = probe(given.source).duration
    except AudioError as error:
        return 0.0, f"cannot be read: {visible(str(error))}"
    if duration is None:
        return 0.0, "of unknown length"
    return duration, f"{duration:.3f} s"


def _window_count(seconds: float, config: ModelConfig, tag_options: TagOptions) -> int:
    """Windows of an input that is so long."""
    heard = min(seconds - tag_options.start, tag_options.duration or math.inf)
    if heard <= 0:
        return 0
    hop = tag_options.hop_length(config) / config.frontend.sample_rate
    count = 1 + max(0, math.ceil((heard - config.window_seconds) / hop))
    return min(count, tag_options.max_windows or count)


def _seconds_per_window(tagger: Tagger) -> float:
    """What the engine takes for a window, where others are computed beside it."""
    import numpy as np

    window, frontend = tagger.config.window, tagger.config.frontend
    log_mels = np.zeros((N_TIMED, 1, window.n_frames, frontend.n_mels), dtype=np.float32)
    tagger.engine(log_mels)
    begun = time.perf_counter()
    tagger.engine(log_mels)
    return (time.perf_counter() - begun) / N_TIMED / tagger.engine.concurrency
