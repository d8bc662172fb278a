"""An evaluation as one HTML page: figures, precision-recall curves, confusions, worst clips.

Curves are inline SVG; there is no script.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from audiotag.training.dataset import LabelledClip, label_matrix
from audiotag.training.evaluation import Evaluation, Interval, LabelMeasure
from audiotag.training.metrics import precision_recall_curve
from audiotag.web_page import END_OF_PAGE, begin_page, safe

MOST_POINTS = 150  # of a curve
SIZE, MARGIN = 100.0, 4.0  # of a curve's drawing, in its own units

STYLE = """
h2 { font-size: 1.15rem; margin-top: 2.5rem; }
table { width: 100%; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: 1rem; }
dt { color: var(--faint); } dd { margin: 0; font-size: 1.3rem; }
dd small { display: block; font-size: .8rem; }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: 1.2rem; }
figcaption b { color: var(--ink); font-weight: 600; display: block; }
svg { width: 100%; height: auto; } svg .frame { fill: none; stroke: var(--line); stroke-width: .7; }
svg .curve { fill: none; stroke: var(--mark); stroke-width: 1.6; stroke-linejoin: round; }
svg .best { fill: var(--dot); }
"""


def evaluation_page(
    about: Mapping[str, Any],
    measured: Evaluation,
    scores: npt.NDArray[np.float64],
    clips: Sequence[LabelledClip],
    labels: Sequence[str],
) -> str:
    """The page. `about` says of what model and data; scores are `[clip, class]`, columns in the order of `labels`."""
    title = f"Evaluation of {about['model']}"
    parts = [
        f"<h1>{safe(title)}</h1>", _about(about, measured), _figures(measured),
        "<h2>Labels</h2>", _labels(measured), "<h2>Precision and recall</h2>",
        "<p class=note>Recall to the right, precision up; the dot is the threshold with the best F1.</p>",
        _curves(measured, scores, label_matrix(clips, labels), labels), *_confusions(measured), *_worst(measured),
        *_unknown(measured),
    ]  # fmt: skip
    return begin_page(title, style=STYLE) + "\n".join(parts) + "\n" + END_OF_PAGE


def _about(about: Mapping[str, Any], measured: Evaluation) -> str:
    facts = ", ".join(f"{name} {value}" for name, value in about.items() if value is not None)
    counts = f"{measured.n_clips} clips of {measured.n_groups} groups, {measured.n_failed} unreadable"
    return f"<p class=note>{safe(facts)}. {counts}.</p>"


def _figures(measured: Evaluation) -> str:
    defaults, choice = measured.at_defaults, measured.among
    figures = [
        ("macro mAP", f"{measured.macro_map:.3f}", _spread(measured.macro_map_interval)),
        ("micro mAP", f"{measured.micro_map:.3f}", ""),
        ("mAP weighted by groups", f"{measured.group_weighted_map:.3f}", ""),
        ("top-1 hit rate", f"{measured.top1:.3f}", _spread(measured.top1_interval)),
        ("top-5 hit rate", f"{measured.top5:.3f}", ""),
        ("calibration error (ECE)", f"{measured.ece:.4f}", ""),
        ("F1, best common threshold", f"{measured.micro_f1:.3f}", f"at {measured.threshold:.3f}"),
        ("F1, model's thresholds", f"{defaults.f1:.3f}",
         f"precision {defaults.precision:.3f}, recall {defaults.recall:.3f}"),
        ("clips without a tag", f"{100 * defaults.empty:.1f} %", "at the model's thresholds"),
    ]  # fmt: skip
    if choice is not None:
        figures.append((f"choosing among {len(choice.among)} labels", f"{choice.top1:.3f}",
                        f"{choice.n_clips} clips {_spread(choice.interval)}"))  # fmt: skip
    items = (f"<div><dt>{name}</dt><dd>{value} <small>{more}</small></dd></div>" for name, value, more in figures)
    return f"<dl>{''.join(items)}</dl>\n<p class=note>Ranges are 95 %, by resampling groups of clips.</p>"


def _spread(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def _labels(measured: Evaluation) -> str:
    rows = (
        (each.label, f"{each.average_precision:.3f}", _spread(each.interval), each.n_clips, each.n_groups,
         f"{each.threshold:.3f}", f"{each.precision:.3f}", f"{each.recall:.3f}", f"{each.f1:.3f}",
         f"{each.suggested_threshold:.3f}")
        for each in _best_first(measured)
    )  # fmt: skip
    columns = ("label", "AP", "95 %", "clips", "groups", "best threshold", "precision", "recall", "F1",
               "suggested threshold")  # fmt: skip
    note = ("<p class=note>Precision, recall and F1 are those at the best threshold on these clips. With few clips it "
            "is mostly chance; the suggested one is drawn towards the common threshold.</p>")  # fmt: skip
    return note + _table(columns, rows, text_columns=1)


def _best_first(measured: Evaluation) -> list[LabelMeasure]:
    return sorted(measured.per_label, key=lambda each: (-each.average_precision, each.label))


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, text_columns: int) -> str:
    """A table whose first columns are text, the others numbers; every cell is escaped."""

    def row(cells: Sequence[Any], tag: str) -> str:
        kinds = (" class=text" if index < text_columns else "" for index in range(len(cells)))
        return "".join(f"<{tag}{kind}>{safe(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))

    body = "\n".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
    return f"<table><thead><tr>{row(columns, 'th')}</tr></thead>\n<tbody>{body}</tbody></table>"


def _curves(
    measured: Evaluation,
    scores: npt.NDArray[np.float64],
    targets: npt.NDArray[np.float32],
    labels: Sequence[str],
) -> str:
    heard = targets.any(axis=0)
    together = precision_recall_curve(scores[:, heard].ravel(), targets[:, heard].ravel())
    figures = [_figure("All labels together", f"micro mAP {measured.micro_map:.3f}", together, measured.threshold)]
    position = {label: index for index, label in enumerate(labels)}
    for each in _best_first(measured):
        curve = precision_recall_curve(scores[:, position[each.label]], targets[:, position[each.label]])
        note = f"AP {each.average_precision:.3f}, {each.n_clips} clips"
        figures.append(_figure(each.label, note, curve, each.threshold))
    return f"<div class=curves>{''.join(figures)}</div>"


def _figure(name: str, note: str, curve: npt.NDArray[np.float64], threshold: float) -> str:
    best = curve[:2, np.flatnonzero(curve[2] >= threshold)[-1]]
    dot = '<circle class=best cx="{:.1f}" cy="{:.1f}" r="2.6"/>'.format(*_place(*best))
    wide = SIZE + 2 * MARGIN
    drawing = (
        f'<svg viewBox="0 0 {wide:g} {wide:g}" role="img" aria-label="{safe(f"{name}: {note}")}">'
        f'<path class=frame d="{_grid()}"/><path class=curve d="{_path(curve)}"/>{dot}</svg>'
    )
    return f"<figure>{drawing}<figcaption><b>{safe(name)}</b>{safe(note)}</figcaption></figure>\n"


def _place(recall: float, precision: float) -> tuple[float, float]:
    return MARGIN + SIZE * recall, MARGIN + SIZE * (1 - precision)


def _grid() -> str:
    """A frame and the lines of one half."""
    far, middle = MARGIN + SIZE, MARGIN + SIZE / 2
    return (f"M{MARGIN} {MARGIN}H{far}V{far}H{MARGIN}ZM{MARGIN} {middle}H{far}M{middle} {MARGIN}V{far}")  # fmt: skip


def _path(curve: npt.NDArray[np.float64]) -> str:
    """The curve from recall 0 on, thinned out evenly along recall; where it rises, both ends of the step are kept."""
    recall = curve[0]
    kept = np.arange(len(recall))
    if len(recall) > MOST_POINTS:
        # Few positives would be joined by lines far above the curve without what precision fell to before each step.
        steps = np.searchsorted(recall, np.linspace(recall[0], 1.0, MOST_POINTS // 2))
        kept = np.unique([*np.maximum(steps - 1, 0), *steps, len(recall) - 1])
    points = [(0.0, float(curve[1, 0])), *zip(*curve[:2, kept].tolist(), strict=True)]
    return "M" + "L".join("{:.1f} {:.1f}".format(*_place(*point)) for point in points)


def _confusions(measured: Evaluation) -> list[str]:
    if not measured.confusions:
        return []
    note = "<p class=note>Clips in which another label outranks their own; labels that stand above others left out.</p>"
    rows = ((each.label, each.said, each.n_clips) for each in measured.confusions)
    return ["<h2>Confusions</h2>", note, _table(("is", "said", "clips"), rows, text_columns=2)]


def _worst(measured: Evaluation) -> list[str]:
    if not measured.worst_clips:
        return []
    rows = (
        (each.path, ", ".join(each.labels), ", ".join(f"{label} {score:.2f}" for label, score in each.said),
         f"{each.gap:.2f}")
        for each in measured.worst_clips
    )  # fmt: skip
    note = "<p class=note>By how far the best wrong label beats the best true one.</p>"
    return ["<h2>Worst clips</h2>", note, _table(("clip", "is", "said", "by"), rows, text_columns=3)]


def _unknown(measured: Evaluation) -> list[str]:
    if not measured.unknown_labels:
        return []
    names = safe(", ".join(measured.unknown_labels))
    return ["<h2>Not known to the model</h2>", f"<p class=note>These labels of the data did not count: {names}.</p>"]
