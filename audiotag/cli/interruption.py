"""Ctrl-C in a run: a word on how to go on, and an end within 2 s, even where a thread is in the midst of something."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from audiotag.cli.status import counted
from audiotag.errors import ExitCode

if TYPE_CHECKING:
    from audiotag.run import Tally

SECONDS_TO_CLOSE = 1.5


@contextmanager
def interruptible(tally: Tally, out: Path | None) -> Iterator[None]:
    """On Ctrl-C, says how to go on, and ends the process soon, whatever its threads do."""

    def stop(signal_number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _exit_later()
        _say_bytes(_farewell(tally, out))
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is stop:
            signal.signal(signal.SIGINT, before)


def _exit_later() -> None:
    timer = threading.Timer(SECONDS_TO_CLOSE, os._exit, (int(ExitCode.INTERRUPTED),))
    timer.daemon = True
    timer.start()


def _farewell(tally: Tally, out: Path | None) -> bytes:
    # None are counted yet while the model is being opened, although --resume may have found some.
    done = f"audiotag: done: {counted(tally.n_inputs, 'input')}. " if tally.n_inputs else "audiotag: "
    if out is None:
        return f"{done}With --out FILE a run can be resumed\n".encode()
    return f"{done}Go on with: ".encode() + resume_command(sys.argv[1:]) + b"\n"


def resume_command(arguments: list[str]) -> bytes:
    """The command line that goes on with the run of `arguments`.

    >>> resume_command(["batch", "my sounds", "--out", "a.csv", "--overwrite"])
    b"audiotag batch 'my sounds' --out a.csv --resume"
    """
    kept = [argument for argument in arguments if argument not in ("--resume", "--overwrite")]
    end = kept.index("--") if "--" in kept else len(kept)
    return os.fsencode(shlex.join(["audiotag", *kept[:end], "--resume", *kept[end:]]))


def _say_bytes(line: bytes) -> None:
    erased = b"\r\033[K\033[?25h" if sys.stderr.isatty() else b""  # the bar, and the cursor it hides
    with suppress(OSError):
        os.write(2, erased + line)  # at once, whoever holds the lock of sys.stderr
