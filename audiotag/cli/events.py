"""`audiotag events`: what is heard from when to when, of as many inputs as `batch` takes."""

from __future__ import annotations

from dataclasses import replace

import typer

from audiotag.cli import options
from audiotag.cli.options import ENGINE, EVENT, TAG, record_of
from audiotag.cli.running import run_batch
from audiotag.options import EventOptions, TagOptions


def events(
    context: typer.Context,
    inputs: options.SomeInputs = None,
    out: options.Out = None,
    form: options.Format = None,
    header: options.Header = False,
    threshold: options.Threshold = TAG.threshold,
    thresholds: options.Thresholds = None,
    include_labels: options.IncludeLabels = options.NO_NAMES,
    exclude_labels: options.ExcludeLabels = options.NO_NAMES,
    min_duration: options.MinDuration = EVENT.min_duration,
    max_gap: options.MaxGap = EVENT.max_gap,
    hop: options.EventHop = TAG.hop,
    channels: options.Channels = TAG.channels,
    start: options.Start = TAG.start,
    duration: options.Duration = TAG.duration,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    strict: options.Strict = False,
    dry_run: options.DryRun = False,
    progress: options.ShowProgress = True,
    files_from: options.FilesFrom = None,
    null: options.Null = False,
    include: options.Include = options.NO_NAMES,
    exclude: options.Exclude = options.NO_NAMES,
    shard: options.ShardOption = None,
    model: options.Model = None,
    device: options.Device = ENGINE.device,
    engine: options.Engine = ENGINE.engine,
    precision: options.Precision = ENGINE.precision,
    batch_size: options.BatchSize = ENGINE.batch_size,
    workers: options.Workers = ENGINE.workers,
    threads: options.Threads = ENGINE.threads,
    offline: options.Offline = False,
    update: options.Update = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Say from when to when each label is heard. Windows overlap, so that several hear each moment.

    Example: audiotag events dawn.wav --out dawn.labels.txt
    """
    return run_batch(context, replace(record_of(TagOptions, context), events=record_of(EventOptions, context)))
