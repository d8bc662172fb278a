"""Which batch, and how many calls at once, suit an engine best on this machine: measured once, kept in the cache.

`audiotag bench --tune` measures. Where it was never run, an engine chooses by rules of its own. No score depends on it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from audiotag.config import ModelConfig
from audiotag.engines import Engine, facts_of
from audiotag.errors import OutputError
from audiotag.hub import audiotag_cache
from audiotag.hub.places import write_small
from audiotag.machine import core_count, cpu_name

logger = logging.getLogger(__name__)

# A quicker choice that costs more memory has to be quicker by more than measurements differ.
MIN_GAIN = 0.03


@dataclass(frozen=True, order=True)
class Tuning:
    """How an engine is called."""

    batch_size: int  # windows of a call
    concurrency: int  # calls at once


def quickest(seconds: Mapping[Tuning, float]) -> Tuning:
    """The smallest choice that takes at most `MIN_GAIN` longer than the quickest; `seconds` are those of a window."""
    limit = min(seconds.values()) * (1 + MIN_GAIN)
    return min(tuning for tuning, taken in seconds.items() if taken <= limit)


def tuning_folder() -> Path:
    """Where tunings are kept, a file each; without it, engines choose for themselves again."""
    return audiotag_cache() / "tuning"


def remember(tuning: Tuning, engine: Engine, config: ModelConfig) -> Path:
    """Keeps a tuning for this engine with networks of this shape, on this machine, and gives its file.

    Raises:
        OutputError: the cache cannot be written.
    """
    circumstances = _circumstances(engine, config)
    path = _path_of(circumstances)
    try:
        write_small(path, json.dumps({**asdict(tuning), **circumstances}, indent=2) + "\n")
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written: {error.strerror or error}. Set AUDIOTAG_CACHE to another folder"
        ) from error
    return path


def recall(engine: Engine, config: ModelConfig) -> Tuning | None:
    """The tuning kept for this engine with networks of this shape; None without one that can be read."""
    # Most machines have none: then the processor's name need not be read. Where the home may not be entered (sudo -u),
    # `os.path.isdir` says no; that of Path raises.
    if not os.path.isdir(tuning_folder()):
        return None
    path = _path_of(_circumstances(engine, config))
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return Tuning(batch_size=_count(kept["batch_size"]), concurrency=_count(kept["concurrency"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        logger.warning("%s: cannot be read, so it is not used (%s). Run `audiotag bench --tune` again", path, error)
        return None


def _count(value: object) -> int:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{value!r} is no count")
    return value


def _circumstances(engine: Engine, config: ModelConfig) -> dict[str, object]:
    """What decides how fast it is: the engine, what it runs on, and the network's shape, not its weights."""
    return {
        "hardware": _hardware(engine),
        **facts_of(engine),
        "network": asdict(config.network),
        "n_frames": config.window.n_frames,
        "n_mels": config.frontend.n_mels,
    }


def _hardware(engine: Engine) -> str:
    if engine.device == "cpu":
        return f"{cpu_name()}, {core_count()} cores"
    from audiotag.engines.torch import device_name

    return device_name(engine.device)


def _path_of(circumstances: Mapping[str, object]) -> Path:
    digest = hashlib.sha256(json.dumps(circumstances, sort_keys=True).encode()).hexdigest()
    return tuning_folder() / f"{digest[:16]}.json"
