"""Every option of the command line, defined once: same flag, same meaning everywhere.

A command's signature takes an alias from here and its default from the library's record. Where a command has an option
for each field of a record, `record_of` builds the record from what was typed.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from audiotag.errors import UsageError
from audiotag.inputs import Shard, parse_shard
from audiotag.options import AGGREGATES, CHANNELS, ENGINES, PRECISIONS, EngineOptions, EventOptions, TagOptions
from audiotag.thresholds import read_thresholds
from audiotag.writers import FORMATS, visible

DEVICES = ("auto", "cpu", "cuda", "mps")  # what completion offers; cuda:N is taken too

TAG = TagOptions()  # the library's defaults, which are the command line's
EVENT = EventOptions()
ENGINE = EngineOptions()
NO_NAMES: list[str] = []  # Typer wants a list where the records hold a tuple


def parse_seconds(text: str | float) -> float:
    """Seconds of `90`, `1:30`, `1:30.5` or `0:01:30`.

    >>> parse_seconds("1:02:03.5")
    3723.5
    """
    parts = str(text).split(":")  # a default comes as a number
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    is_clock = all(part.isdigit() for part in parts[:-1]) and all(0 <= number < 60 for number in numbers[1:])
    if not numbers or len(numbers) > 3 or not is_clock or not 0 <= numbers[0] < float("inf"):
        raise typer.BadParameter(f"{text!r} is not a time; write seconds (90.5) or h:mm:ss (0:01:30)")
    seconds = 0.0
    for number in numbers:
        seconds = seconds * 60 + number
    return seconds


def parse_score(text: str) -> float:
    """A score: a number from 0 to 1."""
    try:
        score = float(text)
    except ValueError:
        score = -1.0
    if not 0 <= score <= 1:
        raise typer.BadParameter(f"{text!r} is not a score; write a number from 0 to 1, with a point (0.3)")
    return score


def one_of(names: Iterable[str]) -> Callable[[str], str]:
    """A parser that takes one of `names`, and lists them where it was given another word."""
    allowed = tuple(names)

    def parse(text: str) -> str:
        if text not in allowed:
            raise typer.BadParameter(f"{text!r} is not one of {', '.join(allowed)}")
        return text

    return parse


def completing(names: Iterable[str]) -> Callable[[str], list[str]]:
    """What the shell offers for an option that takes one of `names`."""
    allowed = tuple(names)
    return lambda incomplete: [name for name in allowed if name.startswith(incomplete)]


def _shard(text: str | Shard) -> Shard:
    try:
        return text if isinstance(text, Shard) else parse_shard(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _thresholds(path: Any) -> dict[str, float]:
    return read_thresholds(path) if isinstance(path, str) else path


_Record = TypeVar("_Record")


def record_of(record: type[_Record], context: typer.Context) -> _Record:
    """The record whose fields are options of the command that runs.

    Raises:
        UsageError: the values do not go together.
    """
    names = [field.name for field in fields(record) if field.name in context.params]  # type: ignore[arg-type]
    values = {name: context.params[name] for name in names}
    return record(**{name: _as_field(value) for name, value in values.items()})


def _as_field(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def set_verbosity(*, quiet: bool, verbose: bool) -> None:
    """Sends the library's log to stderr as `audiotag: ...` lines: warnings, also notes if `verbose`, else nothing."""
    if quiet and verbose:
        raise UsageError("quiet and verbose: contradict each other. Leave out one of the two")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine())
    logger = logging.getLogger("audiotag")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING)


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        return visible(" ".join(f"audiotag: {level}{record.getMessage()}".split()))


# --- what is tagged ---

_FILES_HELP = "Files, folders and globs ('tapes/*.wav')"
_INPUTS_HELP = f"{_FILES_HELP}; - is audio on stdin."
Inputs = Annotated[list[str], typer.Argument(metavar="INPUT", help=_INPUTS_HELP)]
# None, not an empty list: click before 8.2 refuses any other default of an argument that takes several values.
SomeInputs = Annotated[list[str] | None, typer.Argument(metavar="INPUT", help=_INPUTS_HELP)]
SomeFiles = Annotated[list[str] | None, typer.Argument(metavar="INPUT", help=f"{_FILES_HELP}.")]
Include = Annotated[
    list[str], typer.Option("--include", metavar="GLOB", help="In folders, take only names like '*.wav' (repeatable).")
]
Exclude = Annotated[
    list[str], typer.Option("--exclude", metavar="GLOB", help="In folders, leave out names like '*.mp3' (repeatable).")
]
FilesFrom = Annotated[
    str | None,
    typer.Option("--files-from", metavar="FILE", help="Read more inputs from a list, one a line; - is stdin."),
]
Null = Annotated[
    bool, typer.Option("--null", "-0", help="The list of --files-from is separated by NUL instead of newlines.")
]
ShardOption = Annotated[
    Shard | None,
    typer.Option(
        "--shard", parser=_shard, metavar="I/N", show_default=False,
        help="Tag only part I of N of the inputs, split by their paths; `audiotag merge` joins the outputs.",
    ),
]  # fmt: skip

Data = Annotated[
    Path, typer.Argument(metavar="DATA", help="A folder label/clip.wav, or a CSV with path, labels and fold.")
]

_TABLE_OR_JSON = ("table", "json")
TableOrJson = Annotated[
    str,
    typer.Option("--format", "-f", parser=one_of(_TABLE_OR_JSON), metavar="|".join(_TABLE_OR_JSON),
                 autocompletion=completing(_TABLE_OR_JSON), help="A table to read or JSON."),
]  # fmt: skip

LogMelCache = Annotated[
    Path | None, typer.Option("--cache", metavar="DIR", help="Where log-mels are kept. [default: OUT.training]")
]

ResumeTraining = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")]

# --- which part of a clip, and which scores become tags: the fields of TagOptions ---

Hop = Annotated[
    float | None,
    typer.Option(
        "--hop", parser=parse_seconds, metavar="SECONDS", show_default=False,
        help="From a window's start to the next. [default: the model's window]",
    ),
]  # fmt: skip
EventHop = Annotated[
    float | None,
    typer.Option(
        "--hop", parser=parse_seconds, metavar="SECONDS", show_default=False,
        help="From a window's start to the next. [default: a quarter of the model's window]",
    ),
]  # fmt: skip
MaxWindows = Annotated[
    int | None,
    typer.Option(
        "--max-windows", metavar="N", min=1, help="Skim: hear only N windows, spread evenly over the clip."
    ),
]
Channels = Annotated[
    str,
    typer.Option(
        "--channels", metavar="|".join(CHANNELS) + "|N", autocompletion=completing(CHANNELS),
        help="What is heard of several channels: mix is their mean, N counts from 0.",
    ),
]  # fmt: skip
Start = Annotated[
    float, typer.Option("--start", parser=parse_seconds, metavar="TIME", help="Skip this much (seconds or h:mm:ss).")
]
Duration = Annotated[
    float | None,
    typer.Option("--duration", parser=parse_seconds, metavar="TIME", help="Hear only this much (seconds or h:mm:ss)."),
]
Aggregate = Annotated[
    str | None,
    typer.Option(
        "--aggregate", parser=one_of(AGGREGATES), metavar="|".join(AGGREGATES), autocompletion=completing(AGGREGATES),
        help="How the windows' scores become the clip's. [default: the model's]", show_default=False,
    ),
]  # fmt: skip
TopK = Annotated[int, typer.Option("--top-k", "-k", metavar="N", min=0, help="Tags of a clip, at most; 0 for all.")]
Threshold = Annotated[
    float | None,
    typer.Option(
        "--threshold", "-t", parser=parse_score, metavar="SCORE", show_default=False,
        help="Least score of a tag or event, 0 to 1. [default: the model's, label by label]",
    ),
]  # fmt: skip
Thresholds = Annotated[
    str | None,
    typer.Option(
        "--thresholds", parser=_thresholds, metavar="FILE", show_default=False,
        help="Least scores of single labels, JSON or CSV, as evaluate --thresholds-out writes them.",
    ),
]  # fmt: skip
IncludeLabels = Annotated[
    list[str],
    typer.Option("--include-labels", metavar="LABEL", help="Give only this label or those like '*bird*' (repeatable)."),
]
ExcludeLabels = Annotated[
    list[str],
    typer.Option("--exclude-labels", metavar="LABEL", help="Leave out this label or those like '*bird*' (repeatable)."),
]
Windows = Annotated[bool, typer.Option("--windows", help="Give the tags of each window (5 s with default) too.")]

# --- which stretches of time become events: the fields of EventOptions ---

MinDuration = Annotated[
    float, typer.Option("--min-duration", parser=parse_seconds, metavar="SECONDS", help="Leave out shorter events.")
]
MaxGap = Annotated[
    float,
    typer.Option(
        "--max-gap", parser=parse_seconds, metavar="SECONDS",
        help="Join events of a label that are no farther apart.",
    ),
]  # fmt: skip

# --- the model and what runs it: the fields of EngineOptions ---

Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", metavar="MODEL", envvar="AUDIOTAG_MODEL", show_default=False, show_envvar=False,
        help="A folder, org/name[@revision] on the Hub, or default. [default: $AUDIOTAG_MODEL or the embedded model]",
    ),
]  # fmt: skip
Update = Annotated[bool, typer.Option("--update", help="Ask the Hub for a newer revision than the cached one.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never touch the network.")]
Device = Annotated[
    str,
    typer.Option(
        "--device", metavar="auto|cpu|cuda[:N]|mps", autocompletion=completing(DEVICES), help="Where the network runs."
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        "--engine", parser=one_of(ENGINES), metavar="|".join(ENGINES), autocompletion=completing(ENGINES),
        help="What runs the network.",
    ),
]  # fmt: skip
Precision = Annotated[
    str,
    typer.Option(
        "--precision", parser=one_of(PRECISIONS), metavar="|".join(PRECISIONS), autocompletion=completing(PRECISIONS),
        help="The network's numbers; auto takes int8 on a CPU where the model's card allows it.",
    ),
]  # fmt: skip
BatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", metavar="N", min=1, show_default=False,
                 help="Windows computed at once, at most. [default: what suits the machine]"),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", metavar="N", min=1, show_default=False, help="Decoding threads. [default: 1 a core]"),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", metavar="N", min=1, show_default=False, help="Engine threads. [default: 1 a core]"),
]

# --- how a run over many inputs behaves ---

Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first input that fails.")]
DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="Only show what a whole run would tag, or skip and why.")]
ShowProgress = Annotated[bool, typer.Option("--progress/--no-progress", help="Show on stderr how far it is.")]

# --- what comes out ---

Format = Annotated[
    str | None,
    typer.Option(
        "--format", "-f", parser=one_of(FORMATS), metavar="|".join(FORMATS), autocompletion=completing(FORMATS),
        help="Format of the results. [default: from the suffix of --out; else table for a terminal, ndjson for a pipe]",
        show_default=False,
    ),
]  # fmt: skip


def _unless_stdout(out: Path | None) -> Path | None:
    return None if out == Path("-") else out


Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="FILE", callback=_unless_stdout,
                 help="Write to this file. [default: stdout, which is also -]"),
]  # fmt: skip
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run that was writing --out.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the file of --out if it exists.")]
Header = Annotated[bool, typer.Option("--header", help="Begin NDJSON with a line about the run; JSON always has it.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing on stderr but errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more on stderr: model, engine, device.")]
