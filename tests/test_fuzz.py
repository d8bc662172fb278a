"""Thousands of damaged files: the decoders are written in C, and strangers' files are not to be trusted.

The mutants are read in a process of its own, so that a crash or a hang in a decoder names its mutant. More of them:
`AUDIOTAG_FUZZ_MUTANTS=3000 pytest tests/test_fuzz.py`, as many for each container.
"""

from __future__ import annotations

import faulthandler
import io
import itertools
import logging
import os
import random
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import chirp
from sounds import write_audio

from audiotag.audio import AudioStream, open_audio, read_excerpts
from audiotag.errors import AudioError

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


def repair_ogg(mutant: bytes) -> bytes:
    """The mutant with the check sums of its Ogg pages put right: without them no decoder looks at the damage.

    RFC 3533, section 6: CRC-32 with polynomial 0x04C11DB7, neither reflected nor inverted, over the page.
    """
    repaired = bytearray(mutant)
    begins = [match.start() for match in re.finditer(b"OggS", mutant)]
    for begin, end in itertools.pairwise([*begins, len(mutant)]):
        if end - begin > 26:
            repaired[begin + 22 : begin + 26] = bytes(4)
            check_sum = 0
            for byte in repaired[begin:end]:
                check_sum = (check_sum << 8 & 0xFFFFFFFF) ^ OGG_CRC[check_sum >> 24 ^ byte]
            repaired[begin + 22 : begin + 26] = check_sum.to_bytes(4, "little")
    return bytes(repaired)


def _ogg_crc_of_byte(byte: int) -> int:
    rest = byte << 24
    for _ in range(8):
        rest = rest << 1 ^ (0x104C11DB7 if rest & 0x80000000 else 0)
    return rest


OGG_CRC = tuple(map(_ogg_crc_of_byte, range(256)))


def test_repairing_an_ogg_file_that_is_whole_changes_nothing(tmp_path: Path) -> None:
    content = write_audio(tmp_path / "clip.ogg", chirp(), 8000).read_bytes()
    assert repair_ogg(content) == content


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_mutants_neither_crash_nor_hang_nor_surprise(suffix: str, tmp_path: Path) -> None:
    original = write_audio(tmp_path / f"original{suffix}", chirp(seconds=1, sample_rate=8000), 8000)
    command = [sys.executable, "-X", "faulthandler", __file__, str(original), str(N_MUTANTS)]
    ended = subprocess.run(command, capture_output=True, text=True)
    lines = ended.stdout.splitlines()
    assert ended.returncode == 0, f"at mutant {lines[-1] if lines else 0}: {ended.stderr[-3000:]}"
    assert ended.stderr == "", "decoders must not write to stderr"
    assert [int(line.split()[0]) for line in lines] == list(range(N_MUTANTS))
    assert any("failed" in line for line in lines)
    assert any("whole" in line for line in lines)


# --- the process that reads the mutants: one line for each, its number first ---


def _read_mutants(original: Path, n_mutants: int) -> None:
    logging.disable()
    _limit_memory()
    content = original.read_bytes()
    for seed in range(n_mutants):
        path = original.with_name(f"mutant{original.suffix}")
        mutant = mutate(content, seed=seed)
        path.write_bytes(repair_ogg(mutant) if seed % 2 else mutant)
        print(seed, end=" ", flush=True)
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        print(_read(path), flush=True)


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))


def _read(path: Path) -> str:
    """What came of each way to read a file: whole, in part, from a pipe, in excerpts."""
    return " | ".join(_outcome(read, path) for read in (_read_file, _read_part, _read_pipe, _read_excerpts))


def _outcome(read: Callable[[Path], str | None], path: Path) -> str:
    try:
        warning = read(path)
    except AudioError as error:
        return f"failed: {_in_one_line(str(error))}"
    return "whole" if warning is None else f"part: {_in_one_line(warning)}"


def _in_one_line(message: str) -> str:
    assert message.isprintable(), message
    assert len(message) < 300, message
    return message


def _read_file(path: Path) -> str | None:
    with open_audio(path, sample_rate=16000, channels="each") as stream:
        return _drain(stream)


def _read_part(path: Path) -> str | None:
    with open_audio(path, sample_rate=11025, start=0.6, duration=0.2) as stream:
        return _drain(stream)


def _read_pipe(path: Path) -> str | None:
    with open(path, "rb", buffering=0) as file, open_audio(_Pipe(file), sample_rate=8000) as stream:
        return _drain(stream)


def _read_excerpts(path: Path) -> None:
    for excerpt in read_excerpts(path, sample_rate=8000, starts=(0, 6500, 5000), n_samples=500):
        assert excerpt.shape[1] <= 500
        assert np.isfinite(excerpt).all()


def _drain(stream: AudioStream) -> str | None:
    for block in stream:
        assert block.dtype == np.float32
        assert np.isfinite(block).all()
    return stream.warning


class _Pipe(io.RawIOBase):
    """A file that pretends it cannot seek."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes | None:
        return self._file.read(size)


if __name__ == "__main__":
    _read_mutants(Path(sys.argv[1]), int(sys.argv[2]))
