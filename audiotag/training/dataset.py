"""Labelled clips, and which labels they have.

A data set is a folder with one sub-folder per label (`label/clip.wav`) or a CSV manifest with the columns `path`
(relative to the manifest), `labels` (or `label`, or `labels_all`, which counts first), `;` between labels or a line for
each, and where there are `fold` and `group`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from audiotag.engines import FloatArray
from audiotag.errors import DataError, listed
from audiotag.inputs import Input, find_inputs
from audiotag.training.hierarchy import ancestors_of_labels

LABEL_COLUMNS = ("labels_all", "labels", "label")
HASHED_FOLDS = 5  # folds that clips of a data set without folds are hashed into

logger = logging.getLogger(__name__)


class Credit(NamedTuple):
    """Whose recording a clip is; empty strings where the manifest does not say."""

    source: str = ""
    license: str = ""
    attribution: str = ""
    origin: str = ""  # repository or site, without the file's own path


NO_CREDIT = Credit()


@dataclass(frozen=True, kw_only=True)
class LabelledClip:
    """One recording and what is heard in it; clips of one group must not be split over folds."""

    path: Path
    labels: tuple[str, ...]
    fold: str
    group: str
    credit: Credit = NO_CREDIT


def read_dataset(data: Path) -> tuple[LabelledClip, ...]:
    """The clips of a labelled folder or a manifest.

    Raises:
        DataError: it does not exist, cannot be read, is empty, lacks a column or a cell, or contradicts itself.
    """
    try:
        clips = tuple(_clips_of(data))
    except OSError as error:
        raise DataError(f"{data}: cannot be read: {error.strerror}. Make it readable, or choose another") from error
    if not clips:
        raise DataError(f"{data}: holds no labelled clip. Expected label/clip.wav, or a CSV with path and labels")
    return clips


def name_of(data: Path) -> str:
    """What a model's provenance calls a data set: its own name as given, also where that is `.` or a link."""
    return os.path.basename(os.path.abspath(data))


def _clips_of(data: Path) -> Iterator[LabelledClip]:
    if data.is_dir():
        return _clips_of_folder(data)
    if data.is_file():
        return _clips_of_manifest(data)
    raise DataError(f"{data}: does not exist. Give a folder with a sub-folder per label, or a CSV manifest")


def _clips_of_folder(folder: Path) -> Iterator[LabelledClip]:
    for sub in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        _check_utf_8(sub)
        for found in find_inputs([str(sub)]):
            if isinstance(found, Input) and found.source is not None:
                name = os.fspath(found.source.relative_to(folder))
                yield LabelledClip(path=found.source, labels=(sub.name,), fold=_hashed_fold(name), group=name)


def _check_utf_8(sub: Path) -> None:
    try:
        sub.name.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{sub}: a label must be UTF-8 text. Rename the folder") from error


def _clips_of_manifest(manifest: Path) -> Iterator[LabelledClip]:
    try:
        text = manifest.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{manifest}: is not UTF-8 text ({error.reason}). Save the CSV as UTF-8") from error
    with io.StringIO(text, newline="") as lines:
        rows = csv.DictReader(lines, skipinitialspace=True, strict=True)
        try:
            column = _label_column(manifest, rows)
            clips: dict[str, LabelledClip] = {}
            for row in rows:
                line = f"{manifest}: line {rows.line_num}"
                clip = _clip_of_row(manifest, line, row, column)
                place = os.path.abspath(clip.path)  # a file may be named in two ways
                clips[place] = _joined(clips.get(place, clip), clip, line)
            yield from clips.values()
        except csv.Error as error:
            raise DataError(f"{manifest}: line {rows.line_num + 1} is not CSV: {error}. Close its quotes") from error


def _joined(first: LabelledClip, again: LabelledClip, line: str) -> LabelledClip:
    """A clip that several lines tell of, as where there is one for each label."""
    labels = tuple(dict.fromkeys((*first.labels, *again.labels)))
    if replace(first, labels=()) != replace(again, path=first.path, labels=()):
        raise DataError(f"{line} names {first.path} again, but not its group, fold and credit. Make them the same")
    return replace(first, labels=labels)


def _label_column(manifest: Path, rows: csv.DictReader[str]) -> str:
    """The column that the labels are in; the columns' names are read in any case."""
    columns = [name.strip().casefold() for name in rows.fieldnames or ()]
    rows.fieldnames = columns
    column = next((name for name in LABEL_COLUMNS if name in columns), None)
    if "path" not in columns or column is None:
        has = ", ".join(columns) or "none"
        hint = ". Put commas between the cells" if ";" in has or "\t" in has else ""
        raise DataError(f"{manifest}: needs the columns path and labels, has {has!r}{hint}")
    return column


def _clip_of_row(manifest: Path, line: str, row: dict[str, str], column: str) -> LabelledClip:
    if None in row:
        raise DataError(f"{line} has more cells than the first. Quote labels that hold commas")
    if not row["path"]:
        raise DataError(f"{line} has no path. Name its clip, or remove the line")
    labels = tuple(label.strip() for label in (row[column] or "").split(";") if label.strip())
    group = (row.get("group") or "").strip() or row["path"]
    fold = (row.get("fold") or "").strip() or _hashed_fold(group)
    return LabelledClip(
        path=manifest.parent / row["path"], labels=labels, group=group, fold=fold, credit=_credit(row)
    )  # fmt: skip


def _credit(row: dict[str, str]) -> Credit:
    origin = (row.get("origin") or "").split("@")[0]
    return Credit(row.get("source") or "", row.get("license") or "", row.get("attribution") or "", origin)


def _hashed_fold(group: str) -> str:
    digest = hashlib.sha256(group.encode("utf-8", "surrogateescape")).digest()
    return str(1 + digest[0] % HASHED_FOLDS)


def digest_of(clips: Iterable[LabelledClip]) -> str:
    """What tells data sets apart: fold, group and labels of every clip, in any order, wherever the files lie."""
    rows = sorted([clip.fold, clip.group, *sorted(clip.labels)] for clip in clips)
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def choose_labels(clips: Iterable[LabelledClip], *, min_clips: int, min_groups: int) -> tuple[str, ...]:
    """The labels with enough clips from enough independent groups, in alphabetical order. The others are logged.

    Raises:
        DataError: no label has enough, or two differ only by case or by how Unicode stores their accents.
    """
    n_clips: Counter[str] = Counter()
    groups: defaultdict[str, set[str]] = defaultdict(set)
    for clip in clips:
        for label in clip.labels:
            n_clips[label] += 1
            groups[label].add(clip.group)
    _check_case(sorted(n_clips))
    labels = tuple(sorted(
        label for label in n_clips if n_clips[label] >= min_clips and len(groups[label]) >= min_groups
    ))  # fmt: skip
    if not labels:
        raise DataError(f"no label has {min_clips} clips of {min_groups} groups. Lower --min-clips or --min-groups")
    left_out = sorted(n_clips.keys() - labels)
    if left_out:
        names = listed(left_out, show=repr)
        logger.warning("labels without %d clips of %d groups are not in the model: %s", min_clips, min_groups, names)
    return labels


def _check_case(labels: Iterable[str]) -> None:
    seen: dict[str, str] = {}
    for label in labels:
        other = seen.setdefault(_composed(label.casefold()), label)
        if other != label:
            how = "how their accents are stored (NFC or NFD)" if _composed(other) == _composed(label) else "case"
            raise DataError(f"the labels {other!r} and {label!r} differ only by {how}. Write them alike")


def _composed(label: str) -> str:
    return unicodedata.normalize("NFC", label)


def label_matrix(clips: Sequence[LabelledClip], labels: Sequence[str]) -> FloatArray:
    """1 where a clip has a label. Shape: `[clip, class]`."""
    position = {label: index for index, label in enumerate(labels)}
    targets = np.zeros((len(clips), len(labels)), dtype=np.float32)
    for row, clip in enumerate(clips):
        targets[row, [position[label] for label in clip.labels if label in position]] = 1.0
    return targets


def unknown_labels(clips: Sequence[LabelledClip], labels: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Where it is not known whether a clip has a label. Shape: `[clip, class]`.

    A label implies another, its ancestor, when every clip that has it has the other too. A clip with an ancestor but
    with none of those that imply it was labelled coarsely: any of them may be heard ("Music" with no instrument named),
    while a clip with one of them was labelled finely, and the rest are absent.
    """
    ancestors = ancestors_of_labels(clip.labels for clip in clips)
    descendants: defaultdict[str, set[str]] = defaultdict(set)
    for label, above in ancestors.items():
        for ancestor in above:
            descendants[ancestor].add(label)
    position = {label: index for index, label in enumerate(labels)}
    unknown = np.zeros((len(clips), len(labels)), dtype=bool)
    for row, clip in enumerate(clips):
        for label in clip.labels:
            if not descendants[label].intersection(clip.labels):
                unknown[row, [position[below] for below in descendants[label] if below in position]] = True
    return unknown
