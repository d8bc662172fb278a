"""What a run asks for: which windows and tags, and on which engine. Checked here, before anything heavy is imported.

`tagger` carries it out; the command line takes its defaults from these records.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, get_args

from audiotag.config import Aggregate, ModelConfig
from audiotag.errors import UsageError

EngineName = Literal["auto", "onnx", "torch"]
PrecisionName = Literal["auto", "fp32", "int8", "fp16", "bf16"]

CHANNELS = ("mix", "left", "right", "each")  # or a number from 0
AGGREGATES: tuple[Aggregate, ...] = get_args(Aggregate)
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
PRECISIONS: tuple[PrecisionName, ...] = get_args(PrecisionName)
MAX_SECONDS = 1e9  # thirty years; sample numbers stay exact
WINDOWS_OF_MOMENT = 4  # windows that hear each moment where events are looked for; see `events`
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:[0-9]{1,2})?")  # torch counts GPUs in 8 bits, and wraps


@dataclass(frozen=True, kw_only=True)
class EventOptions:
    """Which stretches of time become events.

    Raises:
        UsageError: a value is out of its range, or of another type.
    """

    min_duration: float = 0.0  # seconds; shorter ones are left out
    max_gap: float = 0.0  # seconds; events of a label that are no farther apart become one

    def __post_init__(self) -> None:
        for name, value in (("min-duration", self.min_duration), ("max-gap", self.max_gap)):
            _check(_is_number(value, 0, MAX_SECONDS), name, f"0 to {MAX_SECONDS:g} seconds", value)


@dataclass(frozen=True, kw_only=True)
class TagOptions:
    """Which part of a clip is heard, and which scores become tags.

    Raises:
        UsageError: a value is out of its range, or of another type.
    """

    hop: float | None = None  # seconds between windows; None: the model's window, for events a quarter of it
    max_windows: int | None = None  # that many views spread evenly, instead of a window every hop
    channels: str = "mix"  # mix (the mean), left, right, each, or a number from 0, as text
    start: float = 0.0  # seconds
    duration: float | None = None  # seconds; None: to the end
    aggregate: Aggregate | None = None  # over a clip's windows; None: the model's
    top_k: int = 5  # tags of each head; 0: all
    threshold: float | None = None  # least score; None: the model's, label by label
    thresholds: Mapping[str, float] | None = None  # least score of these labels; the others keep `threshold`
    include_labels: tuple[str, ...] = ()  # names or globs; empty: all
    exclude_labels: tuple[str, ...] = ()  # names or globs
    windows: bool = False  # tags of each window too
    events: EventOptions | None = None  # events, and the tags are theirs; `aggregate` and `top_k` are without effect

    def __post_init__(self) -> None:
        _check_seconds("hop", self.hop)
        _check_count("max-windows", self.max_windows)
        known = f"{', '.join(CHANNELS)} or a number such as '0'"
        _check(self.channels in CHANNELS or _is_channel_number(self.channels), "channels", known, self.channels)
        _check(_is_number(self.start, 0, MAX_SECONDS), "start", f"0 to {MAX_SECONDS:g} seconds", self.start)
        _check_seconds("duration", self.duration)
        _check(self.aggregate in (None, *AGGREGATES), "aggregate", " or ".join(AGGREGATES), self.aggregate)
        _check(_is_number(self.top_k, 0, kind=Integral), "top-k", "a whole number, 0 (all) or more", self.top_k)
        _check(self.threshold is None or _is_number(self.threshold, 0, 1), "threshold", "0 to 1", self.threshold)
        self._check_labels()
        _check(self.events is None or isinstance(self.events, EventOptions), "events", "EventOptions()", self.events)
        _check(self.hop is None or self.max_windows is None, "max-windows", "without hop", self.max_windows)
        _check(self.events is None or self.max_windows is None, "max-windows", "without events", self.max_windows)

    def _check_labels(self) -> None:
        thresholds = {} if self.thresholds is None else self.thresholds
        _check(isinstance(thresholds, Mapping), "thresholds", "a mapping, as {'Dog': 0.3}", thresholds)
        for label, value in thresholds.items():
            _check(_is_number(value, 0, 1), f"the threshold of {label!r}", "0 to 1", value)
        for name, labels in (("include-labels", self.include_labels), ("exclude-labels", self.exclude_labels)):
            _check(not isinstance(labels, str), name, "several, as ('Dog', 'Cat*')", labels)

    def hop_length(self, config: ModelConfig) -> int:
        """Samples between the starts of windows, at the model's rate."""
        if self.hop is not None:
            return max(1, round(self.hop * config.frontend.sample_rate))
        n_at_once = 1 if self.events is None else WINDOWS_OF_MOMENT
        return max(1, config.window.n_samples // n_at_once)


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What computes the logits, and how many windows and threads at a time.

    Raises:
        UsageError: a value is out of its range or of another type, or no engine has this device and precision together.
    """

    device: str = "auto"  # auto, cpu, cuda, cuda:N, mps
    engine: EngineName = "auto"
    precision: PrecisionName = "auto"
    batch_size: int | None = None  # windows that the engine gets at once, at most; None: fits the device
    workers: int | None = None  # threads that decode and compute log-mels; None: fits the machine
    threads: int | None = None  # threads of the engine on a CPU; None: one a core

    def __post_init__(self) -> None:
        is_device = isinstance(self.device, str) and _DEVICE.fullmatch(self.device) is not None
        _check(is_device, "device", "auto, cpu, cuda, cuda:N or mps", self.device)
        _check(self.engine in ENGINES, "engine", ", ".join(ENGINES), self.engine)
        _check(self.precision in PRECISIONS, "precision", ", ".join(PRECISIONS), self.precision)
        for name, value in (
            ("batch-size", self.batch_size), ("workers", self.workers), ("threads", self.threads)
        ):  # fmt: skip
            _check_count(name, value)
        self._check_together()

    def _check_together(self) -> None:
        on_gpu = self.device.startswith(("cuda", "mps"))
        if on_gpu and self.engine == "onnx":
            raise UsageError(f"engine onnx runs on the CPU only, not on {self.device}. Leave out one of the two")
        if self.precision == "int8" and (on_gpu or self.engine == "torch"):
            raise UsageError("precision int8 runs on the CPU with engine onnx only. Leave out device and engine")
        if self.precision in ("fp16", "bf16") and (self.device == "cpu" or self.engine == "onnx"):
            raise UsageError(
                f"precision {self.precision} needs a GPU and engine torch. Use fp32 or int8 on the CPU"
            )


def _check(is_allowed: bool, name: str, allowed: str, value: object) -> None:
    if not is_allowed:
        raise UsageError(f"{name} must be {allowed}, not {value!r}")


def _check_seconds(name: str, value: float | None) -> None:
    allowed = f"more than 0 seconds and at most {MAX_SECONDS:g}"
    _check(value is None or (_is_number(value, 0, MAX_SECONDS) and value > 0), name, allowed, value)


def _check_count(name: str, value: int | None) -> None:
    _check(value is None or _is_number(value, 1, kind=Integral), name, "a whole number, 1 or more", value)


def _is_number(value: Any, least: float, most: float = math.inf, *, kind: type[Any] = Real) -> bool:
    """Whether it is a number, which may be one of numpy's, in a range."""
    return isinstance(value, kind) and least <= value <= most


def _is_channel_number(text: object) -> bool:
    return isinstance(text, str) and text.isascii() and text.isdigit()
