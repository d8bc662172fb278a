"""How good a model is on labelled clips, measured through the same pipeline that users run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from audiotag.config import ModelConfig
from audiotag.errors import DataError
from audiotag.model_card import write_model_card
from audiotag.model_folder import open_model_folder, write_configs
from audiotag.options import EngineOptions, PrecisionName, TagOptions
from audiotag.results import ClipResult
from audiotag.tagger import Tagger
from audiotag.training.dataset import LabelledClip, label_matrix
from audiotag.training.metrics import average_precisions, best_f1_threshold, hit_rate, macro_map, micro_map

LEAST_DEFAULT_THRESHOLD = 0.2  # a tag that is shown without being asked for should be likelier than that


@dataclass(frozen=True)
class LabelMeasure:
    """Average precision (0 to 1) of one label and the number of clips that have it."""

    label: str
    average_precision: float
    n_clips: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured on a set of clips; shares and precisions are 0 to 1.

    Labels of the data that the model does not know are left out and named in `unknown_labels`; labels of the model
    that no clip has do not count either. Hit rates are over the clips that have a label which the model knows.
    """

    n_clips: int
    n_failed: int
    n_labels: int  # that the means are over
    macro_map: float
    micro_map: float
    top1: float
    top5: float
    per_label: tuple[LabelMeasure, ...]
    unknown_labels: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON values, with six digits."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))  # lists for tuples, as JSON has them
        for measured in values["per_label"]:
            measured["average_precision"] = round(measured["average_precision"], 6)
        for name in ("macro_map", "micro_map", "top1", "top5"):
            values[name] = round(values[name], 6)
        return values


def evaluate(
    tagger: Tagger, clips: Sequence[LabelledClip], *, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Evaluation:
    """Tags every clip and compares with its labels. A clip that cannot be read is counted and left out.

    Raises:
        DataError: no clip could be read, or none has a label that the model knows.
    """
    scores, read = score_clips(tagger, clips, on_progress=on_progress)
    return measure(scores, read, tagger.config.labels, n_failed=len(clips) - len(read))


def score_clips(
    tagger: Tagger, clips: Sequence[LabelledClip], *, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[npt.NDArray[np.float64], list[LabelledClip]]:
    """Scores `[clip, class]` of the clips that could be read and had a sample at least, and those clips."""
    options = TagOptions(top_k=0, threshold=0.0)
    position = {label: index for index, label in enumerate(tagger.config.labels)}
    rows, read = [], []
    results = tagger.tag_many((clip.path for clip in clips), options=options)
    for done, (clip, result) in enumerate(zip(clips, results, strict=True), start=1):
        if isinstance(result, ClipResult) and result.tags:
            row = np.zeros(len(position))
            row[[position[tag.label] for tag in result.tags]] = [tag.score for tag in result.tags]
            rows.append(row)
            read.append(clip)
        on_progress(done, len(clips))
    if not rows:
        raise DataError("none of the clips could be read. `audiotag doctor FILE` says why")
    return np.stack(rows), read


def measure(
    scores: npt.NDArray[np.float64], clips: Sequence[LabelledClip], labels: Sequence[str], *, n_failed: int = 0
) -> Evaluation:
    """The measures of scores `[clip, class]`, columns in the order of `labels`."""
    targets = label_matrix(clips, labels)
    heard = np.flatnonzero(targets.any(axis=0))
    if not len(heard):
        raise DataError("no clip has a label that the model knows. `audiotag labels` lists them")
    each = average_precisions(scores[:, heard], targets[:, heard])
    counts = targets[:, heard].sum(axis=0)
    known = set(labels)
    return Evaluation(
        n_clips=len(clips), n_failed=n_failed, n_labels=len(heard),
        macro_map=macro_map(scores[:, heard], targets[:, heard]),
        micro_map=micro_map(scores[:, heard], targets[:, heard]),
        top1=hit_rate(scores, targets, k=1), top5=hit_rate(scores, targets, k=5),
        per_label=tuple(
            LabelMeasure(labels[int(index)], float(precision), int(count))
            for index, precision, count in zip(heard, each, counts, strict=True)
        ),
        unknown_labels=tuple(sorted({label for clip in clips for label in clip.labels} - known)),
    )  # fmt: skip


def measure_model(folder: Path, model: ModelConfig, clips: Sequence[LabelledClip]) -> ModelConfig:
    """Measures the float32 and the int8 file of a new model folder on held-out clips, and writes what was found.

    The figures, the default threshold (the one with the best F1 over all labels together) and what int8 costs go into
    `config.json`; the model card is written from them.
    """
    scores, read = score_clips(_tagger(folder, "fp32"), clips)
    exact = measure(scores, read, model.labels, n_failed=len(clips) - len(read))
    quantised = evaluate(_tagger(folder, "int8"), clips)
    threshold, f1 = best_f1_threshold(scores.ravel(), label_matrix(read, model.labels).ravel())
    threshold = round(max(threshold, LEAST_DEFAULT_THRESHOLD), 3)
    metrics = {"fp32": exact.to_dict(), "int8": _without_details(quantised), "micro_f1_at_threshold": round(f1, 6)}
    loss = round(100 * (exact.macro_map - quantised.macro_map), 3)
    model = replace(
        model, thresholds=(threshold,) * len(model.labels), int8_map_loss=max(0.0, loss), metrics=metrics
    )
    write_configs(folder, model)
    write_model_card(folder, model)
    return model


def _tagger(folder: Path, precision: PrecisionName) -> Tagger:
    return Tagger(open_model_folder(folder), options=EngineOptions(device="cpu", engine="onnx", precision=precision))


def _without_details(evaluation: Evaluation) -> dict[str, Any]:
    return {name: value for name, value in evaluation.to_dict().items()
            if name not in ("per_label", "unknown_labels")}  # fmt: skip
