"""Measures the peak memory of two batches: 24 hours in one file, and 20,000 short files. Not a test: it takes minutes.

    python tests/measure_memory.py [--hours 24] [--files 20000] [--model DIR]

Prints a line of JSON for each batch and for one of a quarter of the size, which needs as much if nothing grows.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Callable
from functools import partial
from pathlib import Path

SAMPLE_RATE = 44_100
LIMIT_MB = 500


def write_long(folder: Path, *, hours: float) -> None:
    """A stereo WAV of 16 bits (RF64 above 4 GB), sparse: it takes no place on the disk."""
    data_bytes = int(hours * 3600) * SAMPLE_RATE * 4
    # EBU Tech 3306: sizes that do not fit into 32 bits are -1 there and stand in the chunk ds64.
    ds64 = (data_bytes + 72).to_bytes(8, "little") + data_bytes.to_bytes(8, "little") + bytes(12)
    numbers = ((1, 2), (2, 2), (SAMPLE_RATE, 4), (SAMPLE_RATE * 4, 4), (4, 2), (16, 2))
    fmt = b"".join(value.to_bytes(size, "little") for value, size in numbers)
    with (folder / "long.wav").open("wb") as file:
        file.write(b"RF64\xff\xff\xff\xffWAVE")
        file.write(b"ds64" + len(ds64).to_bytes(4, "little") + ds64)
        file.write(b"fmt " + len(fmt).to_bytes(4, "little") + fmt + b"data\xff\xff\xff\xff")
        file.truncate(file.tell() + data_bytes)


def write_short(folder: Path, *, n_files: int) -> None:
    """Files of 0.1 s in folders of a thousand."""
    content = io.BytesIO()
    with wave.open(content, "wb") as out:
        out.setparams((1, 2, SAMPLE_RATE, 0, "NONE", "not compressed"))
        out.writeframes(bytes(2 * SAMPLE_RATE // 10))
    for number in range(n_files):
        place = folder / f"{number // 1000:03d}"
        place.mkdir(exist_ok=True)
        (place / f"{number:06d}.wav").write_bytes(content.getvalue())


def measure(name: str, size: float, make: Callable[[Path], None], model: str | None) -> None:
    """Runs a batch over what `make` puts into a folder, and prints what it took."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "in"
        folder.mkdir()
        make(folder)
        arguments = [sys.executable, "-m", "audiotag", "batch", str(folder), "--out", f"{place}/out.csv"]
        arguments += ["--model", model] if model else []
        begun = time.perf_counter()
        process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        told = process.stderr.read().splitlines()[-1]
        _, status, usage = os.wait4(process.pid, 0)
        peak = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        shown = {
            "batch": name, "size": size, "peak_mb": round(peak), "limit_mb": LIMIT_MB,
            "seconds": round(time.perf_counter() - begun, 1), "exit": os.waitstatus_to_exitcode(status), "said": told,
        }  # fmt: skip
        print(json.dumps(shown), flush=True)


def main() -> None:
    """Both batches, the smaller of each first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--model")
    given = parser.parse_args()
    for hours in (given.hours / 4, given.hours):
        measure("hours in one file", hours, partial(write_long, hours=hours), given.model)
    for n_files in (given.files // 4, given.files):
        measure("short files", n_files, partial(write_short, n_files=n_files), given.model)


if __name__ == "__main__":
    main()
