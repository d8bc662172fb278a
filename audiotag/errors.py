"""The exception tree and the exit codes; every other room raises from here.

    AudiotagError                 exit code 1: the run could not be done
    ├── UsageError                2: the command line or an argument asks for something impossible
    ├── NoInputsError             4: nothing to tag
    ├── AudioError                one input could not be read (the run goes on: 3 at its end)
    ├── ModelError                a model folder is missing, incomplete or contradicts itself
    │   └── HubError              the Hugging Face Hub refused, is away, or has no such model
    ├── EngineError               an engine, device or precision is not available or failed
    ├── OutputError               a result could not be written
    ├── CheckpointError           a training checkpoint could not be read or does not fit
    └── DataError                 a data set for training or evaluation is not usable

Messages read `<what>: <cause>. <what to do>`; the command line puts `audiotag: error: ` before them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum

# The extras of this package that bring what only some commands import.
EXTRA_OF_PACKAGE = {"torch": "torch", "safetensors": "torch", "onnx": "torch", "yaml": "torch", "pyarrow": "parquet"}

N_LISTED = 5  # names that a message shows of many


def install_line(package: str) -> str:
    """The command that installs a package that audiotag can do without."""
    extra = EXTRA_OF_PACKAGE.get(package)
    return f"pip install {package}" if extra is None else f"pip install 'audiotag-cli[{extra}]'"


def listed(names: Sequence[str], *, show: Callable[[str], str] = str) -> str:
    """Names as a message shows them: the first few, each as `show` gives it, and how many more there are.

    >>> listed(["a", "b", "c", "d", "e", "f", "g"])
    'a, b, c, d, e and 2 more'
    """
    more = len(names) - N_LISTED
    return ", ".join(map(show, names[:N_LISTED])) + (f" and {more} more" if more > 0 else "")


class ExitCode(IntEnum):
    """What a shell sees when the program ends."""

    OK = 0
    COULD_NOT_RUN = 1
    USAGE = 2
    SOME_FAILED = 3
    NO_INPUTS = 4
    INTERRUPTED = 130


class AudiotagError(Exception):
    """Base of every error that audiotag raises about the world; `exit_code` is what the command line ends with."""

    exit_code: ExitCode = ExitCode.COULD_NOT_RUN


class UsageError(AudiotagError):
    """The command line, or an argument of the library, asks for something that cannot be."""

    exit_code = ExitCode.USAGE


class NoInputsError(AudiotagError):
    """No input was given or found."""

    exit_code = ExitCode.NO_INPUTS


class AudioError(AudiotagError):
    """One input could not be read as audio."""


class ModelError(AudiotagError):
    """A model folder is missing, incomplete, or its files contradict each other."""


class HubError(ModelError):
    """The Hugging Face Hub refused, could not be reached, or has no such model or revision."""


class EngineError(AudiotagError):
    """An engine, a device or a precision is not available here, or failed while running."""


class OutputError(AudiotagError):
    """A result could not be written."""


class CheckpointError(AudiotagError):
    """A training checkpoint could not be read, or its tensors do not fit the network."""


class DataError(AudiotagError):
    """Labelled clips for training or evaluation, or results of an earlier run, are not usable as they are."""
