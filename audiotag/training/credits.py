"""Who to thank for a model: the sources of its training clips, as their manifest names them."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from audiotag.model_card import CREDITS
from audiotag.training.dataset import NO_CREDIT, LabelledClip


def write_credits(folder: Path, clips: Iterable[LabelledClip]) -> None:
    """Writes `CREDITS.csv`: one row per source, licence, person and place, with its number of clips.

    Nothing is written for data that name none of these.
    """
    credits = Counter(clip.credit for clip in clips if clip.credit != NO_CREDIT)
    if credits:
        with (folder / CREDITS).open("w", newline="", encoding="utf-8") as out:
            rows = csv.writer(out, lineterminator="\n")
            rows.writerow(["source", "license", "attribution", "origin", "clips"])
            rows.writerows([*each, count] for each, count in sorted(credits.items()))
