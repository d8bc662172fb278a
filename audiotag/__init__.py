"""audiotag: tells what is in a recording, with AudioRepInceptionNeXt networks.

    import audiotag
    result = audiotag.load().tag("street.wav", top_k=5)
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audiotag.audio import Waveform, read_audio
    from audiotag.errors import AudiotagError
    from audiotag.results import ClipResult, Event, Failure, Tag
    from audiotag.tagger import Tagger, load

# A literal: importlib.metadata costs 27 to 77 ms at every start.
__version__ = "0.1.0"

# onnxruntime from 1.29 on uploads usage data from the moment it is imported, and writes an identifier below the home,
# unless this says not to (https://github.com/microsoft/onnxruntime/pull/27379). Who sets it otherwise is obeyed.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_MODULE_OF = {
    "load": "tagger", "Tagger": "tagger",
    "ClipResult": "results", "Tag": "results", "Event": "results", "Failure": "results",
    "Waveform": "audio", "read_audio": "audio",
    "AudiotagError": "errors",
}  # fmt: skip

__all__ = [  # noqa: RUF022 - the order of the README
    "load", "Tagger", "ClipResult", "Tag", "Event", "Failure", "Waveform", "read_audio", "AudiotagError",
]  # fmt: skip


if not TYPE_CHECKING:  # a checker that sees this takes any name for a public one

    def __getattr__(name: str) -> Any:
        """Resolves a public name on first use (PEP 562), so that `import audiotag` costs nothing."""
        if name not in _MODULE_OF:
            raise AttributeError(f"module 'audiotag' has no attribute {name!r}")
        return getattr(import_module(f"audiotag.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
