"""`audiotag models` and `audiotag labels`: what is embedded and cached, downloading, checking and removing it.

Only `pull`, `rm` and a model that is not here yet touch `huggingface_hub`; `models list` reads folders and JSON alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from audiotag.cli import options
from audiotag.cli.status import say
from audiotag.errors import ExitCode, UsageError
from audiotag.hub import (
    DEFAULT,
    DOWNLOADED,
    HubId,
    cached_models,
    embedded_folder,
    files_recorded,
    is_intact,
    names_of,
    parse_hub_id,
    pull,
    remove_cached,
    resolve_model,
)
from audiotag.labels import LabelSet
from audiotag.model_folder import ModelFolder, open_model_folder
from audiotag.options import EngineOptions
from audiotag.writers import visible

MOST_IN_A_LINE = 30  # values of a list or an object within a line of `models show`; of more it tells the number

models = typer.Typer(
    name="models", help="List, show, download, check and remove models.\n\nExample: audiotag models list",
    no_args_is_help=True, rich_markup_mode=None,
)  # fmt: skip

Name = Annotated[str, typer.Argument(metavar="MODEL", help="default, a folder, or org/name[@revision].")]
HubIds = Annotated[list[str], typer.Argument(metavar="ID", help="org/name[@revision] on the Hub.")]


@models.command("list")
def list_models(form: options.TableOrJson = "table") -> None:
    """List the embedded model and those in the Hub's cache.

    Example: audiotag models list -f json
    """
    embedded = _row(open_model_folder(embedded_folder(), name=DEFAULT), ())
    rows = [embedded, *(_row(folder, names_of(hub_id)) for hub_id, folder in cached_models())]
    columns = ("name", "revision", "refs", "labels", "bytes", "path")
    _show(rows, form, columns)


def _row(folder: ModelFolder, refs: Sequence[str]) -> dict[str, Any]:
    sizes = _sizes(folder)
    return {
        "name": folder.name, "revision": folder.revision, "refs": list(refs), "labels": len(folder.config.labels),
        "bytes": sum(sizes.values()), "files": sizes, "path": str(folder.path),
    }  # fmt: skip


@models.command("show")
def show_model(
    model: Name = DEFAULT,
    form: options.TableOrJson = "table",
    update: options.Update = False,
    offline: options.Offline = False,
) -> None:
    """Say what a model is and where it comes from. Shows weights, size, front-end, window and labels.

    The table counts long lists, in brackets; -f json has them.

    Example: audiotag models show default
    """
    shown = _described(resolve_model(model, update=update, offline=offline))
    if form == "json":
        _echo(json.dumps(shown, indent=2, ensure_ascii=False))
        return
    for key, value in shown.items():
        for name, cell in _lines(key, value):
            _echo(f"{name:<17} {cell}")


def _described(folder: ModelFolder) -> dict[str, Any]:
    config = folder.config
    window = config.window
    return {
        "name": folder.name,
        "path": str(folder.path.absolute()),
        "revision": folder.revision,
        "sha256": folder.sha256,
        "files": _sizes(folder),
        "form": "fused",
        "parameters": config.network.n_parameters,
        "gmacs_per_window": config.gmacs_per_window,
        "network": asdict(config.network),
        "frontend": asdict(config.frontend),
        "window": {"seconds": config.window_seconds, "samples": window.n_samples, "frames": window.n_frames,
                   "padding": window.padding, "repeat_gap": window.repeat_gap},
        "activation": config.activation,
        "aggregate": config.aggregate,
        "heads": [asdict(head) for head in config.heads],
        "int8_map_loss": config.int8_map_loss,
        "license": config.license,
        "provenance": config.provenance,
        "metrics": config.metrics,
        "labels": list(config.labels),
    }  # fmt: skip


@models.command("pull")
def pull_models(
    ids: HubIds,
    precision: Annotated[
        str | None,
        typer.Option("--precision", parser=options.one_of(("fp32", "int8")), metavar="fp32|int8", show_default=False,
                     help="Only what this precision needs on a CPU. [default: every file]"),
    ] = None,
    quiet: options.Quiet = False,
    form: options.TableOrJson = "table",
) -> None:
    """Download models, or bring them up to date. Nothing that is here already is downloaded again.

    Example: audiotag models pull org/name org/other@v2 --precision int8
    """  # fmt: skip
    options.set_verbosity(quiet=quiet, verbose=False)
    engine = None if precision is None else EngineOptions(engine="onnx", device="cpu", precision=precision)  # type: ignore[arg-type]
    wanted = [_hub_id(text) for text in ids]
    rows: list[dict[str, Any]] = []
    try:
        for hub_id in wanted:
            rows.append(_row(pull(hub_id, engine=engine), [hub_id.revision]))
    finally:
        if rows:  # those before one that fails are here
            _show(rows, form, ("name", "revision", "labels", "bytes", "path"))


@models.command("rm")
def remove_models(
    ids: HubIds,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    form: options.TableOrJson = "table",
) -> None:
    """Remove models from the Hub's cache. All revisions go, or only the one after the @.

    Example: audiotag models rm org/name --yes
    """
    wanted = {text: _hub_id(text) for text in ids}
    if not yes:
        _ask(ids)
    rows = []
    for text, hub_id in wanted.items():
        commits, freed = remove_cached(hub_id, whole="@" not in text)
        rows.append({"name": text, "revisions": list(commits), "bytes": freed})
    _show(rows, form, ("name", "revisions", "bytes"))


def _ask(ids: Sequence[str]) -> None:
    if not sys.stdin.isatty():
        raise UsageError("rm: cannot ask, since stdin is no terminal. Add --yes")
    typer.confirm(f"Remove {', '.join(ids)} from the cache?", abort=True, err=True)


@models.command("verify")
def verify_models(
    wanted: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL", help="Ids or folders. [default: all cached]")
    ] = None,
    offline: options.Offline = False,
    form: options.TableOrJson = "table",
) -> int:
    """Compare the files of models with the checksums of the Hub. The exit code is 1 if one differs.

    Example: audiotag models verify org/name
    """
    rows = [row for folder in _to_verify(wanted or []) for row in _verified(folder, offline=offline)]
    _show(rows, form, ("status", "name", "file", "checksum"))
    is_damaged = any(row["status"] == "damaged" for row in rows)
    return ExitCode.COULD_NOT_RUN if is_damaged else ExitCode.OK


def _to_verify(wanted: Sequence[str]) -> Iterator[ModelFolder]:
    if not wanted:
        yield from (folder for _, folder in cached_models())
    for name in wanted:
        yield resolve_model(name, offline=True)


def _verified(folder: ModelFolder, *, offline: bool) -> Iterator[dict[str, Any]]:
    recorded = files_recorded(folder, offline=offline)
    for name in filter(folder.has, DOWNLOADED):
        intact = is_intact(folder.path / name, recorded.get(name, ""))
        status = {True: "ok", False: "damaged", None: "unknown"}[intact]  # unknown: nothing was recorded
        yield {"status": status, "name": folder.name, "revision": folder.revision, "file": name,
               "checksum": recorded.get(name) or None}  # fmt: skip


def labels(
    model: options.Model = None,
    search: Annotated[str | None, typer.Option("--search", "-s", metavar="TEXT", help="Only names with it.")] = None,
    update: options.Update = False,
    offline: options.Offline = False,
    form: options.TableOrJson = "table",
) -> None:
    """List the labels that a model knows, in its order.

    Example: audiotag labels --search bird
    """
    config = resolve_model(model, update=update, offline=offline).config
    known = LabelSet(config.labels)
    found = known.search(search or "")
    if search and not found:
        say(f"audiotag: label {search!r}: {known.suggest(search)}")
    if form == "json":
        rows = [{"index": i, "label": config.labels[i], "threshold": config.thresholds[i]} for i in found]
        _echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for index in found:
        _echo(visible(config.labels[index]))


# --- shared by the commands above ---


def _sizes(folder: ModelFolder) -> dict[str, int]:
    return {name: (folder.path / name).stat().st_size for name in filter(folder.has, DOWNLOADED)}


def _hub_id(text: str) -> HubId:
    hub_id = parse_hub_id(text)
    if hub_id is None:
        raise UsageError(f"{text!r}: is no model on the Hub. Write org/name or org/name@revision")
    return hub_id


def _show(rows: Sequence[dict[str, Any]], form: str, columns: Sequence[str]) -> None:
    if form == "json":
        _echo(json.dumps(list(rows), indent=2, ensure_ascii=False))
        return
    cells = [columns, *([_cell(row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[position]) for line in cells) for position in range(len(columns))]
    for line in cells:
        _echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _lines(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Lines of a table for a value of JSON: one, and one more for each object in it that is not long."""
    own_lines = {}
    if isinstance(value, dict):
        own_lines = {key: inner for key, inner in value.items() if isinstance(inner, dict) and not _is_long(inner)}
        value = {key: inner for key, inner in value.items() if key not in own_lines}
    yield name, _cell(value)
    for key, inner in own_lines.items():
        yield f"{name}.{visible(key)}", _cell(inner)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        shown = {key: f"({len(inner):,})" if _is_long(inner) else _cell(inner) for key, inner in value.items()}
        return ", ".join(f"{visible(key)} {cell}" for key, cell in shown.items()) or "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_cell, value)) or "-"
    return "-" if value is None or value == "" else f"{value:,}" if type(value) is int else visible(str(value))


def _is_long(value: Any) -> bool:
    return isinstance(value, (dict, list, tuple)) and len(value) > MOST_IN_A_LINE


def _echo(text: str) -> None:
    typer.echo(text.encode("utf-8", "backslashreplace"))
