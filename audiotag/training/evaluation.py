"""What an evaluation says, as records; `measuring` makes them, `evaluation_table` and `evaluation_page` show them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from audiotag.results import SCORE_DIGITS

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class LabelMeasure:
    """What was measured of one label; shares are 0 to 1.

    `precision`, `recall` and `f1` are those at `threshold`, the best one on these very clips; `suggested_threshold` is
    the one that holds for others too (`metrics.f1_thresholds`). No interval is given for fewer than three groups.
    """

    label: str
    average_precision: float
    interval: Interval | None  # of average_precision, 95 %, by resampling groups
    n_clips: int  # that have the label
    n_groups: int  # independent ones among them
    threshold: float
    precision: float
    recall: float
    f1: float
    suggested_threshold: float


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """On how many clips of `label` the highest score of a wrong leaf label, that of `said`, is above its own."""

    label: str
    said: str
    n_clips: int


@dataclass(frozen=True, kw_only=True)
class WorstClip:
    """A clip whose best wrong label beats its best true one by `gap` (a difference of scores)."""

    path: str
    labels: tuple[str, ...]
    said: tuple[tuple[str, float], ...]
    gap: float


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How often the best of some labels is right, on the clips that have one of them; `among` names them."""

    among: tuple[str, ...]
    n_clips: int
    top1: float
    interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class AtDefaults:
    """What the model's own thresholds give: precision, recall and F1 of all labels that a clip has, together."""

    precision: float
    recall: float
    f1: float
    macro_f1: float  # mean over labels
    empty: float  # share of clips that get no tag


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured on a set of clips; shares and precisions are 0 to 1, intervals 95 % by resampling groups.

    Labels of the data that the model does not know are left out and named in `unknown_labels`. Labels of the model that
    no clip has are left out of means, thresholds and calibration, but compete with the others in hit rates, confusions
    and worst clips. Hit rates are over the clips with at least one label that the model knows.
    """

    n_clips: int
    n_groups: int
    n_failed: int
    n_labels: int  # that the means are over
    macro_map: float
    macro_map_interval: Interval | None
    micro_map: float
    group_weighted_map: float  # each label weighs as many independent groups as it is heard in
    top1: float
    top1_interval: Interval | None
    top5: float
    ece: float  # expected calibration error
    threshold: float  # the one for all of these labels with the best F1
    micro_f1: float  # at that threshold
    at_defaults: AtDefaults
    among: Choice | None
    per_label: tuple[LabelMeasure, ...]
    unknown_labels: tuple[str, ...]
    confusions: tuple[Confusion, ...]
    worst_clips: tuple[WorstClip, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON values, numbers with six digits."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)), parse_float=_rounded)  # lists for tuples
        return values

    def figures(self) -> dict[str, Any]:
        """What a model's configuration keeps of `to_dict`: nothing that names a clip."""
        left_out = ("confusions", "worst_clips", "unknown_labels", "among")
        return {name: value for name, value in self.to_dict().items() if name not in left_out}

    def suggested_thresholds(self) -> dict[str, float]:
        """The suggested threshold of each label that a clip has; of the others nothing was measured."""
        return {each.label: each.suggested_threshold for each in self.per_label}


def _rounded(number: str) -> float:
    return round(float(number), SCORE_DIGITS)
