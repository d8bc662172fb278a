"""An evaluation as a table for people: figures, labels, and the first of confusions and of worst clips."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from audiotag.errors import listed
from audiotag.training.evaluation import Choice, Evaluation, Interval
from audiotag.writers import visible

SHOWN_CONFUSIONS = 10
SHOWN_WORST = 5


def evaluation_table(about: Mapping[str, Any], measured: Evaluation) -> str:
    """The table. `about` says of what model and data."""
    return "\n".join([*_summary(about, measured), "", *_labels(measured), *_confusions(measured), *_worst(measured)])


def _summary(about: Mapping[str, Any], measured: Evaluation) -> list[str]:
    defaults = measured.at_defaults
    lines = [
        f"model {visible(about['model'])}, {about['precision']}, on {measured.n_clips} clips "
        f"of {measured.n_groups} groups ({measured.n_failed} unreadable)",
        f"macro mAP {measured.macro_map:.4f}{_spread(measured.macro_map_interval)} over {measured.n_labels} labels, "
        f"micro mAP {measured.micro_map:.4f}, weighted by groups {measured.group_weighted_map:.4f}",
        f"top-1 hit rate {measured.top1:.4f}{_spread(measured.top1_interval)}, top-5 hit rate {measured.top5:.4f}, "
        f"calibration error (ECE) {measured.ece:.4f}",
        f"at the model's thresholds: precision {defaults.precision:.3f}, recall {defaults.recall:.3f}, "
        f"F1 {defaults.f1:.3f} (mean of labels {defaults.macro_f1:.3f}), {100 * defaults.empty:.0f} % of clips empty",
        f"best threshold for all labels: {measured.threshold:.3f}, F1 {measured.micro_f1:.3f}",
    ]  # fmt: skip
    return lines if measured.among is None else [*lines, _choice(measured.among)]


def _choice(choice: Choice) -> str:
    return (f"choosing among {len(choice.among)} labels: right in {choice.top1:.4f}{_spread(choice.interval)} "
            f"of {choice.n_clips} clips")  # fmt: skip


def _spread(interval: Interval | None) -> str:
    return f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else ""


def _labels(measured: Evaluation) -> list[str]:
    lines = ["    AP  95 %            clips  groups  threshold  precision  recall     F1  label"]
    for each in sorted(measured.per_label, key=lambda each: -each.average_precision):
        spread = "-" if each.interval is None else f"{each.interval[0]:.3f} to {each.interval[1]:.3f}"
        figures = f"{each.threshold:9.3f}  {each.precision:9.3f}  {each.recall:6.3f}  {each.f1:5.3f}"
        counts = f"{each.n_clips:5d}  {each.n_groups:6d}"
        lines.append(f"{each.average_precision:6.3f}  {spread:14}  {counts}  {figures}  {visible(each.label)}")
    if measured.unknown_labels:
        names = listed(measured.unknown_labels, show=visible)
        lines += ["", f"labels that the model does not know did not count: {names}"]
    return lines


def _confusions(measured: Evaluation) -> list[str]:
    shown = measured.confusions[:SHOWN_CONFUSIONS]
    lines = [f"{each.n_clips:6d}  {visible(each.label)} -> {visible(each.said)}" for each in shown]
    return ["", "clips in which another label outranks their own, most frequent first", *lines] if lines else []


def _worst(measured: Evaluation) -> list[str]:
    lines = [
        f"{visible(each.path)}\n        is {', '.join(map(visible, each.labels))}; said "
        + ", ".join(f"{visible(label)} {score:.2f}" for label, score in each.said)
        for each in measured.worst_clips[:SHOWN_WORST]
    ]
    return ["", "worst clips", *lines] if lines else []
