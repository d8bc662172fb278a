"""A batch that is killed again and again loses nothing: resumed to its end, it has written the same bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import TINY_RATE, noise

N_FILES = 300
N_KILLS = 20
SECONDS_OF_A_FILE = 0.25

WriteWav = Callable[..., Path]

# Batches that sleep before they vouch for a record, so that a kill meets them anywhere. What they need is imported
# once; each runs in a fork, which costs no start.
_BATCHES = """
import json, os, sys, time
import onnxruntime
from audiotag import cli, journal, run, tagger
from audiotag.engines import onnx

vouch = journal.JournaledFile.vouch

def slow_vouch(self, *arguments):
    self._output.flush()  # the record is on disk, and nobody vouches for it yet
    time.sleep(delay)
    vouch(self, *arguments)

journal.JournaledFile.vouch = slow_vouch
for line in sys.stdin:
    delay, arguments = json.loads(line)
    child = os.fork()
    if not child:
        os._exit(cli._run(arguments, debug=False))
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Batches:
    """Runs one batch after the other, each in a process of its own that can be killed."""

    def __init__(self, model: Path) -> None:
        environment = {**os.environ, "AUDIOTAG_MODEL": str(model), "OMP_NUM_THREADS": "1"}
        self._parent = subprocess.Popen(
            [sys.executable, "-c", _BATCHES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def start(self, *arguments: str | Path, delay: float) -> int:
        """Starts a batch that is `delay` seconds slower for each input; gives its process."""
        assert self._parent.stdin is not None
        self._parent.stdin.write(json.dumps([delay, ["batch", "-q", "--resume", *map(str, arguments)]]) + "\n")
        self._parent.stdin.flush()
        return self._answer()

    def _answer(self) -> int:
        assert self._parent.stdout is not None
        return int(self._parent.stdout.readline())

    def wait(self) -> int:
        """Its exit code; the negative signal that ended it."""
        return self._answer()

    def close(self) -> None:
        self._parent.communicate()


@pytest.fixture
def batches(tiny_model_folder: Path) -> Iterator[Batches]:
    opened = Batches(tiny_model_folder)
    yield opened
    opened.close()


@pytest.fixture
def recordings(write_wav: WriteWav, tmp_path: Path) -> Path:
    for number in range(N_FILES):
        name = f"in/{number // 100}/clip {number:03d}.wav"
        write_wav(name, noise(seconds=SECONDS_OF_A_FILE, seed=number), sample_rate=TINY_RATE)
    (tmp_path / "in" / "broken.wav").write_text("no sound")
    return tmp_path / "in"


def journal_lines(out: Path) -> int:
    journal = out.with_name(out.name + ".journal")
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def wait_for_lines(out: Path, n_lines: int) -> None:
    deadline = time.monotonic() + 10
    while journal_lines(out) < n_lines and time.monotonic() < deadline:
        time.sleep(0.002)


@pytest.mark.parametrize("suffix", ["csv", "ndjson"])
def test_a_batch_killed_at_random_moments_ends_with_the_bytes_of_an_uninterrupted_one(
    recordings: Path, batches: Batches, tmp_path: Path, suffix: str
) -> None:
    whole, out = tmp_path / f"whole.{suffix}", tmp_path / f"killed.{suffix}"
    batches.start(recordings, "--out", whole, delay=0)
    assert batches.wait() == 3
    chance = random.Random(suffix)
    ends = []
    for kill in range(N_KILLS):
        process = batches.start(recordings, "--out", out, delay=0.004)
        if kill % 5:  # the others die before their first record
            wait_for_lines(out, journal_lines(out) + chance.randrange(2, N_FILES // N_KILLS))
        time.sleep(chance.uniform(0, 0.05))
        os.kill(process, signal.SIGKILL)
        ends.append(batches.wait())
    assert ends == [-signal.SIGKILL] * N_KILLS
    n_done = journal_lines(out) - 1
    assert N_FILES // 4 < n_done < N_FILES
    batches.start(recordings, "--out", out, delay=0)
    assert batches.wait() == 3
    assert out.read_bytes() == whole.read_bytes()
    assert set(tmp_path.glob("killed*")) == {out, out.with_name(out.name + ".run.json")}
