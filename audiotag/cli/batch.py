"""`audiotag batch`: many inputs, one answer that is never lost."""

from __future__ import annotations

import typer

from audiotag.cli import options
from audiotag.cli.options import ENGINE, TAG, record_of
from audiotag.cli.running import run_batch
from audiotag.options import TagOptions


def batch(
    context: typer.Context,
    inputs: options.SomeInputs = None,
    out: options.Out = None,
    form: options.Format = None,
    header: options.Header = False,
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
    top_k: options.TopK = TAG.top_k,
    threshold: options.Threshold = TAG.threshold,
    thresholds: options.Thresholds = None,
    include_labels: options.IncludeLabels = options.NO_NAMES,
    exclude_labels: options.ExcludeLabels = options.NO_NAMES,
    windows: options.Windows = TAG.windows,
    hop: options.Hop = TAG.hop,
    max_windows: options.MaxWindows = TAG.max_windows,
    aggregate: options.Aggregate = TAG.aggregate,
    channels: options.Channels = TAG.channels,
    start: options.Start = TAG.start,
    duration: options.Duration = TAG.duration,
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
    """Tag folders, globs and lists of files. A run that was cut off goes on with --resume.

    Example: audiotag batch recordings --out tags.csv
    """
    return run_batch(context, record_of(TagOptions, context))
