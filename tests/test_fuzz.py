"""Thousands of damaged files: the decoders are written in C, and strangers' files are not to be trusted.

The mutants are read in a process of its own, so that a crash or a hang in a decoder names its mutant. More of them:
`AUDIOTAG_FUZZ_MUTANTS=3000 pytest tests/test_fuzz.py`, as many for each container.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import chirp
from sounds import write_audio

from audiotag.audio import AudioError, open_audio

CONTAINERS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".webm")
# Read before the environment is cleaned for the tests.
N_MUTANTS = int(os.environ.get("AUDIOTAG_FUZZ_MUTANTS", "300"))
HANG_SECONDS = 10
MAX_MEMORY = 4 << 30  # bytes of address space; the libraries alone map one
SPECIAL_BYTES = (b"\0", b"\xff", b"\x7f", b"\x80", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff")


def mutate(original: bytes, *, seed: int) -> bytes:
    """A damaged copy: bits flipped, bytes replaced, pieces cut out, doubled or moved, most often near the beginning."""
    random_source = random.Random(seed)
    mutant = bytearray(original)
    for _ in range(random_source.choice((1, 1, 2, 4, 16))):
        reach = len(mutant) if random_source.random() < 0.5 else min(len(mutant), 256)
        at = random_source.randrange(max(1, reach))
        length = random_source.choice((1, 2, 8, 64, 512))
        kind = random_source.choice(("flip", "flip", "special", "special", "random", "cut", "double", "end"))
        if kind == "flip" and mutant:
            mutant[min(at, len(mutant) - 1)] ^= 1 << random_source.randrange(8)
        elif kind == "special":
            special = random_source.choice(SPECIAL_BYTES)
            mutant[at : at + len(special)] = special
        elif kind == "random":
            mutant[at : at + length] = random_source.randbytes(length)
        elif kind == "cut":
            del mutant[at : at + length]
        elif kind == "double":
            mutant[at:at] = mutant[at : at + length]
        elif kind == "end":
            del mutant[random_source.randrange(len(mutant) + 1) :]
    return bytes(mutant)


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_mutants_neither_crash_nor_hang_nor_surprise(suffix: str, tmp_path: Path) -> None:
    original = write_audio(tmp_path / f"original{suffix}", chirp(seconds=0.25, sample_rate=16000), 16000)
    command = [sys.executable, "-X", "faulthandler", __file__, str(original), str(N_MUTANTS)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=None)
    lines = ended.stdout.splitlines()
    assert ended.returncode == 0, f"at mutant {lines[-1] if lines else 0}: {ended.stderr[-3000:]}"
    assert ended.stderr == "", "decoders must not write to stderr"
    outcomes = [line.split(maxsplit=1)[1] for line in lines]
    assert len(outcomes) == N_MUTANTS
    assert {outcome.split(":")[0] for outcome in outcomes} <= {"whole", "part", "failed"}


# --- the process that reads the mutants: one line for each, its number first ---


def _read_mutants(original: Path, n_mutants: int) -> None:
    logging.disable()
    _limit_memory()
    content = original.read_bytes()
    for seed in range(n_mutants):
        path = original.with_name(f"mutant{original.suffix}")
        path.write_bytes(mutate(content, seed=seed))
        print(seed, end=" ", flush=True)
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        print(_read(path), flush=True)


def _limit_memory() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))


def _read(path: Path) -> str:
    outcomes = []
    for source in (path, None):
        for start in (0.0, 0.1):
            try:
                if source is None:
                    with (
                        open(path, "rb", buffering=0) as file,
                        open_audio(_Pipe(file), sample_rate=8000, start=start) as stream,
                    ):
                        n = _drain(stream)
                else:
                    with open_audio(path, sample_rate=8000, channels="each", start=start) as stream:
                        n = _drain(stream)
                outcomes.append(f"part: {stream.warning}" if stream.warning else "whole")
            except AudioError as error:
                outcomes.append("failed: " + str(error))
    return " | ".join(outcomes).replace("\n", "\\n")


class _Pipe:
    def __init__(self, file):
        self.read = file.read

    def seekable(self):
        return False

    def readable(self):
        return True


def _drain(stream):
    n = 0
    for block in stream:
        assert block.dtype == np.float32
        assert np.isfinite(block).all()
        n += block.shape[1]
    return n


if __name__ == "__main__":
    _read_mutants(Path(sys.argv[1]), int(sys.argv[2]))
