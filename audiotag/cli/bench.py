"""`audiotag bench`: one table of how fast this machine tags, and what holds it up."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from audiotag import __version__
from audiotag.cli import options
from audiotag.errors import UsageError
from audiotag.options import EngineOptions
from audiotag.writers import visible

if TYPE_CHECKING:
    from audiotag.benchmark import Measure


def bench(
    model: options.Model = None,
    startup: Annotated[bool, typer.Option("--startup", help="Instead, measure a cold start, part by part.")] = False,
    tune: Annotated[
        bool, typer.Option("--tune", help="Instead, find each engine's best batch and threads, and keep them.")
    ] = False,
    offline: options.Offline = False,
    form: options.TableOrJson = "table",
) -> None:  # fmt: skip
    """Measure how fast this machine tags. Takes about a minute, stage by stage, on synthetic audio.

    Decoding, resampling and log-mels are measured alone on one core, engines on all; whole runs are compared with
    their floor, which is the engine's time and that of the others divided by the cores. The share is an engine's of
    the machine's matrix-product rate, and the floor's of a run's time.

    What --tune finds is kept in audiotag's cache, for this machine and models of this size; later runs use it unless
    --batch-size or --threads say otherwise. No score depends on it.

    Example: audiotag bench -f json
    """
    if startup and tune:
        raise UsageError("tune: measures engines, not a start. Leave out --tune or --startup")
    from audiotag import benchmark
    from audiotag.hub import resolve_model

    folder = resolve_model(model, offline=offline, engine=EngineOptions())
    measure = benchmark.measure_startup if startup else benchmark.tune if tune else benchmark.measure
    if form == "json":
        shown = [found.to_dict() for found in measure(folder)]
        about = {"audiotag": __version__, "model": folder.name, "machine": benchmark.machine()}
        typer.echo(json.dumps({**about, "measures": shown}, indent=2))
        return
    columns = f"{'stage':<14} {'ms a clip':>9} {'x real time':>11} {'share':>6}"
    typer.echo(f"{columns}  of a clip of {benchmark.CLIP_SECONDS:g} s, {visible(folder.name)}")
    for found in measure(folder):
        typer.echo(_line(found))


def _line(found: Measure) -> str:
    share = "" if found.share is None else f"{found.share:.0%}"
    return f"{found.stage:<14} {found.milliseconds:>9.2f} {found.x_real_time:>11,.0f} {share:>6}  {found.detail}"
