"""The names of the outputs: given in a file, or known of a published data set."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

from audiotag.errors import UsageError
from audiotag.labels import LabelSet
from audiotag.published import PublishedDataset, known_labels

logger = logging.getLogger(__name__)


def read_labels(path: Path) -> tuple[str, ...]:
    """Names in the order of the outputs: one a line, or a CSV with the columns `index` and `name`.

    Raises:
        UsageError: it cannot be read, an index is missing, or a name is empty or stands twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
        if lines and {"index", "name"} <= set(next(csv.reader(lines[:1]))):
            rows = list(csv.DictReader(lines, restval=""))
            if any(None in row for row in rows):
                raise ValueError("a line has more cells than the first. Are there commas in names without quotes?")
            named = sorted((int(row["index"]), row["name"]) for row in rows)
            if [index for index, _ in named] != list(range(len(named))):
                raise ValueError(f"its indices are not 0 to {len(named) - 1}")
            return LabelSet(tuple(name for _, name in named)).names
        return LabelSet(tuple(line.strip() for line in lines)).names
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(f"{path}: is no list of labels: {error}. Give a name a line") from error


def label_names(
    dataset: PublishedDataset, sizes: list[int], given: tuple[str, ...] | None
) -> tuple[str, ...]:
    """Names of all outputs, those of several heads as `head:name`; `LABEL_n` where none is known.

    Raises:
        UsageError: there are more names than outputs, or not as many as outputs are given.
    """
    if given is not None:
        check_label_count(given, sum(sizes))
    names: list[str] = []
    for head, size in zip(dataset.heads, sizes, strict=True):
        known = known_labels(head) if given is None else dict(enumerate(given[len(names) : len(names) + size]))
        if max(known) >= size:
            raise UsageError(f"{dataset.name} has {max(known) + 1} labels, the checkpoint has {size} outputs. "
                             "Give its own names with --labels")  # fmt: skip
        if len(known) < size:
            logger.warning("%s: the names of %d of %d outputs are not known: they are called LABEL_n",
                           head.name or dataset.name, size - len(known), size)  # fmt: skip
        prefix = f"{head.name}:" if head.name else ""
        shown = [known.get(index, f"LABEL_{index}") for index in range(size)]
        names += [name if name.startswith(prefix) else prefix + name for name in shown]
    return LabelSet(tuple(names)).names


def check_label_count(labels: tuple[str, ...], n_outputs: int) -> None:
    """Holds the number of given names to the number of outputs.

    Raises:
        UsageError: they differ.
    """
    if len(labels) != n_outputs:
        raise UsageError(f"labels: the file has {len(labels)} names, the checkpoint has {n_outputs} outputs. "
                         "Give a name for each output")  # fmt: skip
