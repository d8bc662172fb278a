"""Thresholds label by label, as a file that people and `evaluate --thresholds-out` write and `--thresholds` reads.

JSON is one object, `{"Dog": 0.31}`; CSV has the columns `label` and `threshold`. A file need not name every label.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from audiotag.errors import OutputError, UsageError
from audiotag.results import SCORE_DIGITS

CSV_SUFFIX = ".csv"  # of a file that is written; what is read is told by its content


def read_thresholds(path: str | os.PathLike[str]) -> dict[str, float]:
    """The least score of each label that the file names.

    Raises:
        UsageError: it cannot be read, is neither JSON nor CSV, names a label twice, or has a value outside 0 to 1.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        pairs = _pairs_of_json(text) if text.lstrip().startswith("{") else _pairs_of_csv(text)
        return _checked(pairs)
    except OSError as error:
        raise UsageError(f"thresholds: {path}: cannot be read: {error.strerror}. Check the path") from error
    except (ValueError, RecursionError, csv.Error) as error:  # not UTF-8 and not JSON are ValueErrors too
        way_out = 'Write {"label": threshold} or CSV with the columns label and threshold'
        raise UsageError(f"thresholds: {path}: {error}. {way_out}") from error


def _pairs_of_json(text: str) -> Iterable[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = json.loads(text, object_pairs_hook=list)
    return pairs


def _pairs_of_csv(text: str) -> Iterable[tuple[str, Any]]:
    rows = csv.DictReader(StringIO(text, newline=""), strict=True)
    if not {"label", "threshold"} <= set(rows.fieldnames or ()):
        raise ValueError("has no columns label and threshold")
    pairs = []
    for row in rows:
        if None in row:  # cells that no column has, such as those of Speech,0,9
            raise ValueError(f"line {rows.line_num} has more cells than the first. Is it a decimal comma?")
        pairs.append((row["label"], _number(row["threshold"])))
    return pairs


def _number(text: str | None) -> Any:
    try:
        return float(text or "")
    except ValueError:
        return text


def _checked(pairs: Iterable[tuple[str, Any]]) -> dict[str, float]:
    thresholds: dict[str, float] = {}
    for label, value in pairs:
        if label in thresholds:
            raise ValueError(f"label {label!r} stands twice")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ValueError(f"the threshold of {label!r} must be 0 to 1, not {value!r}")
        thresholds[label] = float(value)
    if not thresholds:
        raise ValueError("names no label")
    return thresholds


def write_thresholds(path: Path, thresholds: Mapping[str, float]) -> None:
    """Writes what `read_thresholds` reads: CSV where the suffix is .csv, else JSON.

    Raises:
        OutputError: it cannot be written.
    """
    rounded = {label: round(value, SCORE_DIGITS) for label, value in thresholds.items()}
    try:
        with path.open("w", encoding="utf-8", newline="") as out:
            if path.suffix.lower() == CSV_SUFFIX:
                csv.writer(out, lineterminator="\n").writerows([("label", "threshold"), *rounded.items()])
            else:
                out.write(json.dumps(rounded, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}. Choose another --thresholds-out") from error
