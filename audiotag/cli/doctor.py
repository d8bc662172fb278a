"""`audiotag doctor`: what decodes here, which engines and devices work, and why not; its self-test compares answers."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from glob import glob
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from audiotag import __version__
from audiotag.cli import options
from audiotag.cli.status import counted
from audiotag.errors import EXTRA_OF_PACKAGE, AudioError, AudiotagError, ExitCode, UsageError, install_line
from audiotag.machine import core_count
from audiotag.model_folder import ONNX, ONNX_INT8, WEIGHTS
from audiotag.options import EngineOptions
from audiotag.writers import visible

CORE_PACKAGES = ("numpy", "scipy", "soundfile", "soxr", "av", "onnxruntime", "huggingface_hub", "typer", "rich")
FILE_OF_FORM = {"fp32": ONNX, "int8": ONNX_INT8, "torch": WEIGHTS}

Status = Literal["ok", "absent", "failed"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `absent` is nothing to worry about, `failed` is."""

    what: str
    status: Status
    detail: str


def doctor(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="An audio file to try.")] = None,
    selftest: Annotated[
        bool, typer.Option("--selftest", help="Tag synthetic clips on every engine here and compare the answers.")
    ] = False,
    record: Annotated[
        bool, typer.Option("--record", help="Keep the answers in the model folder, for later self-tests to meet.")
    ] = False,
    model: options.Model = None,
    offline: options.Offline = False,
    form: options.TableOrJson = "table",
) -> int:  # fmt: skip
    """Say what works on this machine, and why the rest does not.

    Example: audiotag doctor --selftest
    """
    if record and not selftest:
        raise UsageError("record: keeps the answers of a self-test. Add --selftest")
    if file is not None and selftest:
        raise UsageError("selftest: tags sounds of its own. Leave out FILE, or --selftest")
    if file is not None:
        checks = file_checks(file)
    elif selftest:
        checks = selftest_checks(model, offline=offline, record=record)
    else:
        checks = machine_checks(model)
    shown = list(_show_rows(checks) if form == "table" else checks)
    if form == "json":
        typer.echo(json.dumps({"audiotag": __version__, "checks": [asdict(check) for check in shown]}, indent=2))
    return ExitCode.COULD_NOT_RUN if any(check.status == "failed" for check in shown) else ExitCode.OK


def _show_rows(checks: Iterator[Check]) -> Iterator[Check]:
    for check in checks:
        mark = {"ok": "ok", "absent": "--", "failed": "!!"}[check.status]
        typer.echo(f"{mark}  {check.what:<18} {visible(check.detail)}".encode())
        yield check


def _tried(what: str, look: Callable[[], str]) -> Check:
    try:
        return Check(what, "ok", look())
    except AudiotagError as error:
        return Check(what, "failed", " ".join(str(error).split()))


# --- the machine ---


def machine_checks(model: str | None) -> Iterator[Check]:
    """Versions, decoders, engines, devices, the cache and the model."""
    yield Check("audiotag", "ok", f"{__version__} at {Path(__file__).parents[1]}")
    yield Check("python", "ok", f"{platform.python_version()} ({sys.executable}), {platform.platform()}")
    yield Check("cores", "ok", f"{core_count()} of {os.cpu_count()}")
    yield from (_package(name, needed=True) for name in CORE_PACKAGES)
    yield from (_package(name, needed=False) for name in EXTRA_OF_PACKAGE)
    yield from _devices()
    yield _cache()
    yield _tuning()
    yield _tried("model", lambda: _describe_model(model))


def _package(name: str, *, needed: bool) -> Check:
    from importlib.metadata import version

    if find_spec(name) is None:
        return Check(name, "failed" if needed else "absent", f"not installed: {install_line(name)}")
    try:
        module = import_module(name)
        number = getattr(module, "__version__", None) or version(name)  # rich tells it in its distribution only
        return Check(name, "ok", str(number) + _libraries(name, module))
    except (ImportError, OSError, RuntimeError, AttributeError) as error:  # what broken binary packages raise
        return Check(name, "failed", f"does not import: {type(error).__name__}: {error}")


def _libraries(name: str, module: Any) -> str:
    """What a package carries in its wheel."""
    if name == "soundfile":
        return f", libsndfile {module.__libsndfile_version__}: decodes {', '.join(sorted(module.available_formats()))}"
    if name == "av":
        return f", FFmpeg {module.ffmpeg_version_info}: decodes what libsndfile does not"
    return f", {', '.join(module.get_available_providers())}" if name == "onnxruntime" else ""


def _devices() -> Iterator[Check]:
    yield Check("device cpu", "ok", "engine onnx, fp32 and int8, without torch")
    if find_spec("torch") is None:
        yield Check("device cuda, mps", "absent", f"torch is not installed: {install_line('torch')}")
        return
    for device in ("cuda", "mps"):
        found = _tried(f"device {device}", partial(_describe_device, device))
        yield found if found.status == "ok" else Check(found.what, "absent", found.detail)


def _describe_device(device: str) -> str:
    from audiotag.engines.torch import check_device

    return f"engine torch, {check_device(device)}"


def _cache() -> Check:
    from audiotag.hub import hub_cache

    folder = hub_cache()
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        names = []
    except OSError as error:  # mostly somebody else's, as after sudo -u
        return Check("cache", "failed", f"{folder}: {error.strerror}. Set HF_HOME to a folder of your own")
    n_models = sum(name.startswith("models--") for name in names)
    return Check("cache", "ok", f"{folder}, {counted(n_models, 'model')}")


def _tuning() -> Check:
    from audiotag.tuning import tuning_folder

    n_kept = len(glob("*.json", root_dir=tuning_folder()))
    if not n_kept:
        return Check("tuning", "absent", "engines choose their batches by rule; `audiotag bench --tune` measures")
    return Check("tuning", "ok", f"{tuning_folder()}, {counted(n_kept, 'engine')}")


def _describe_model(model: str | None) -> str:
    from audiotag.hub import resolve_model

    folder = resolve_model(model, offline=True, engine=EngineOptions())
    forms = [form for form, name in FILE_OF_FORM.items() if folder.has(name)]
    return f"{folder.name} at {folder.path}, {len(folder.config.labels)} labels, {', '.join(forms)}"


# --- a file ---


def file_checks(path: Path) -> Iterator[Check]:
    """What a file holds, and whether it decodes to its end."""
    from audiotag.audio import probe

    try:
        info = probe(path)
    except AudioError as error:
        yield Check("open", "failed", str(error))
        return
    length = "length unknown" if info.duration is None else f"{info.duration:.3f} s"
    yield Check("open", "ok", f"{info.decoder}: {info.container}, {info.codec}")
    yield Check("holds", "ok", f"{length}, {info.sample_rate} Hz, {counted(info.n_channels, 'channel')}")
    yield Check("seekable", "ok" if info.seekable else "absent", "--max-windows can skip" if info.seekable else "no")
    yield _decode_check(path, info.sample_rate)


def _decode_check(path: Path, sample_rate: int) -> Check:
    import numpy as np

    from audiotag.audio import open_audio

    begun, n_samples, peak = time.perf_counter(), 0, 0.0
    try:
        with open_audio(path, sample_rate=sample_rate) as stream:
            for block in stream:
                n_samples += block.shape[1]
                peak = max(peak, float(np.abs(block).max(initial=0.0)))
            warning = stream.warning
    except AudioError as error:
        return Check("decode", "failed", str(error))
    seconds = n_samples / sample_rate
    speed = seconds / (time.perf_counter() - begun)
    level = f"peak {20 * np.log10(peak):.1f} dB" if peak else "silent"
    detail = f"{seconds:.3f} s, {level}, {speed:,.0f} x real time"
    return Check("decode", "failed" if warning else "ok", f"{detail}; {warning}" if warning else detail)


# --- the answers ---


def selftest_checks(model: str | None, *, offline: bool, record: bool) -> Iterator[Check]:
    """Each engine's answers for synthetic clips against the reference."""
    from audiotag.hub import resolve_model
    from audiotag.selftest import compare, record_answers

    folder = resolve_model(model, offline=offline, engine=EngineOptions())
    if record:
        yield _tried("record", lambda: str(record_answers(folder)))
    for found in compare(folder):
        if found.difference is None:
            yield Check(found.engine, "failed", str(found.error))
            continue
        against = "is the reference" if found.reference == found.engine else f"against {found.reference}"
        detail = f"largest difference {found.difference:.1e} of {found.allowed:.0e} allowed, {against}"
        yield Check(found.engine, "ok" if found.is_within else "failed", detail)
