"""The model card: a model folder's README.md, made from its configuration. No figure is typed by hand.

What its makers have to add stands in `NOTES.md` beside it, and ends the card.

The front matter is what the Hugging Face Hub reads (https://huggingface.co/docs/hub/model-cards).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from audiotag.config import ModelConfig, Padding
from audiotag.model_folder import CARD, write_whole

NOTES = "NOTES.md"
CREDITS = "CREDITS.csv"  # `training` writes it

# Licences that the Hub knows (https://huggingface.co/docs/hub/repositories-licenses, and the answer of its check of
# cards, 2026): it refuses the upload of a card with another one, as of GPL-3.0-or-later, which has to be "other".
HUB_LICENSES = frozenset({
    "apache-2.0", "mit", "openrail", "bigscience-openrail-m", "creativeml-openrail-m", "bigscience-bloom-rail-1.0",
    "bigcode-openrail-m", "afl-3.0", "artistic-2.0", "bsl-1.0", "bsd", "bsd-2-clause", "bsd-3-clause",
    "bsd-3-clause-clear", "c-uda", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0",
    "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0",
    "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cdla-sharing-1.0",
    "cdla-permissive-1.0", "cdla-permissive-2.0", "wtfpl", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1",
    "eupl-1.2", "agpl-3.0", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "isc", "lppl-1.3c",
    "ms-pl", "mpl-2.0", "odc-by", "odbl", "openrail++", "osl-3.0", "postgresql", "ofl-1.1", "ncsa", "unlicense",
    "zlib", "pddl", "lgpl-lr", "unknown", "other",
})  # fmt: skip


def write_model_card(folder: Path, config: ModelConfig) -> None:
    """Writes `README.md` into a model folder, whole or not at all."""
    notes = (folder / NOTES).read_text(encoding="utf-8") if (folder / NOTES).exists() else ""
    write_whole(folder / CARD, model_card(config, has_credits=(folder / CREDITS).exists(), notes=notes))


def model_card(config: ModelConfig, *, has_credits: bool = False, notes: str = "") -> str:
    """The text of the card."""
    parts = [_front_matter(config), _introduction(config)]
    if "fp32" in config.metrics:
        parts += [_figures(config), _labels_measured(config)]
    else:
        parts.append(_labels_listed(config))
    if config.provenance:
        parts.append(_provenance(config, has_credits=has_credits))
    if notes:
        parts.append(notes)
    return "\n".join(parts)


def _front_matter(config: ModelConfig) -> str:
    values: dict[str, Any] = {
        **_license(config),
        "pipeline_tag": "audio-classification",
        "library_name": "audiotag",
        "tags": ["audio-tagging", "audio-classification", "AudioRepInceptionNeXt", "onnx"],
    }
    if "fp32" in config.metrics:
        values["model-index"] = [_model_index(config)]
    # A JSON value is a YAML value; a key a line keeps the front matter readable.
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return "\n".join(["---", *lines, "---", ""])


def _license(config: ModelConfig) -> dict[str, str]:
    license = (config.license or "other").lower()
    if license in HUB_LICENSES:
        return {"license": license}
    return {"license": "other", "license_name": re.sub("[^a-z0-9.]+", "-", license)}


def _model_index(config: ModelConfig) -> dict[str, Any]:
    measured = config.metrics["fp32"]
    metrics = [
        {"type": kind, "name": name, "value": measured[key]}
        for kind, name, key in (
            ("mAP", "macro mAP", "macro_map"), ("accuracy", "top-1 hit rate", "top1"),
            ("accuracy", "top-5 hit rate", "top5"),
        )
    ]  # fmt: skip
    data = str(config.provenance.get("data", "held-out clips"))
    # A refit has learnt from that fold: what the Hub shows beside the weights must not say that they were measured.
    of_others = ", by the weights before the refit" if "refit" in config.provenance else ""
    return {
        "name": "AudioRepInceptionNeXt",
        "results": [{
            "task": {"type": "audio-classification"},
            "dataset": {"name": f"{data}, held-out fold{of_others}", "type": "audio"},
            "metrics": metrics,
        }],
    }  # fmt: skip


def _introduction(config: ModelConfig) -> str:
    network, window = config.network, config.window
    depths = "-".join(map(str, network.depths))
    scores = "each label by itself (sigmoid)" if config.activation == "sigmoid" else "one label of each head (softmax)"
    return f"""# AudioRepInceptionNeXt, width {network.width}

Tags audio with {network.n_labels} labels, {scores}. Width {network.width}, depths {depths}, fused form; input is a
log-mel of {config.window_seconds:.3f} s at {config.frontend.sample_rate} Hz ({window.n_frames} frames, \
{config.frontend.n_mels} mel bands, {config.frontend.fmin:g} to {config.frontend.fmax:g} Hz). A shorter clip is \
filled up
with {_filling(config)}; a longer one gets the {config.aggregate} of its windows' scores.

```
audiotag predict clip.wav --model FOLDER
```

Network: Lau, Rehman, Po: "AudioRepInceptionNeXt: A lightweight single-stream architecture for efficient audio
recognition", Neurocomputing 578, 2024.
"""


def _filling(config: ModelConfig) -> str:
    gap = f"itself, {config.window.repeat_gap / config.frontend.sample_rate:g} s of silence between"
    fillings: dict[Padding, str] = {
        "silence": "silence", "last_frame": "its last frame", "last_sample": "its last sample", "repeat": gap,
    }  # fmt: skip
    return fillings[config.window.padding]


# Name and key of the figures of a precision, in the order in which they are shown; an older release's lack some.
FIGURES = (
    ("macro mAP", "macro_map"), ("micro mAP", "micro_map"), ("mAP weighted by groups", "group_weighted_map"),
    ("top-1 hit rate", "top1"), ("top-5 hit rate", "top5"), ("calibration error (ECE)", "ece"),
)  # fmt: skip


def _figures(config: ModelConfig) -> str:
    exact = config.metrics["fp32"]
    lines = [
        "## Measured", "",
        f"On {exact['n_clips']} held-out clips, {exact['n_labels']} labels, through the pipeline that users run. No "
        "recording, uploader or performer of these clips was trained on, where the data's groups are right; but the "
        "kept weights, the calibration and the default thresholds were chosen on the same clips, so expect a little "
        "less on others. A hit is a clip whose best label (best five labels) holds one of its own, parents included. "
        "Ranges are 95 %, by resampling groups.", "",
        *_begun_with(config), *_taught_by(config), *_refit(config), *figures_table(config), "",
    ]  # fmt: skip
    return "\n".join(
        [*lines, *_at_defaults(exact), *_calibration(config), *_outside(config), *_negatives(config)]
    )


def _begun_with(config: ModelConfig) -> list[str]:
    """That the training did not begin at random."""
    if "begun_with" not in config.provenance:
        return []
    name = config.provenance["begun_with"]["name"]
    return [f"The training began with the weights of the model `{name}`: the figures hold if that had not learnt from "
            "these clips.", ""]  # fmt: skip


def _taught_by(config: ModelConfig) -> list[str]:
    """That labels were not all that was taught."""
    if "taught_by" not in config.provenance:
        return []
    name, weight = config.provenance["taught_by"]["name"], config.provenance["recipe"]["teacher_weight"]
    return [f"The network was taught by the scores of the model `{name}`, trained on the same clips, as well as by "
            f"labels (with a weight of {weight:g} of 1).", ""]  # fmt: skip


def _refit(config: ModelConfig) -> list[str]:
    """That the shipped weights are later ones than the measured."""
    if "refit" not in config.provenance:
        return []
    refit = config.provenance["refit"]
    return [f"**These are the figures of the weights before the last {refit['steps']} steps.** Those steps learnt from "
            f"all {refit['n_clips']} clips, these ones included, so what is shipped cannot be measured on them any "
            "more. Calibration and thresholds are those of the measured weights; sounds without anything to name were "
            "tried on the shipped ones.", ""]  # fmt: skip


def figures_table(config: ModelConfig) -> list[str]:
    """What was measured on held-out clips, float32 beside int8, as the lines of a Markdown table."""
    exact, quantised = config.metrics["fp32"], config.metrics.get("int8", {})

    def cell(values: dict[str, Any], key: str) -> str:
        interval = values.get(f"{key}_interval")
        spread = f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
        return f"{values[key]:.3f}{spread}" if key in values else ""

    rows = [(name, cell(exact, key), cell(quantised, key)) for name, key in FIGURES if key in exact]
    rows += [
        (f"{each['name']}: right among its {len(each['labels'])} labels, {each['n_clips']} clips",
         cell(each["fp32"], "top1"), cell(each.get("int8", {}), "top1"))
        for each in config.metrics.get("subsets", ())
    ]  # fmt: skip
    return ["| | float32 | int8 |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]


def _at_defaults(exact: dict[str, Any]) -> list[str]:
    """What the model's own thresholds give."""
    if "at_defaults" not in exact:
        return []
    shown = exact["at_defaults"]
    if shown["empty"] == 1:
        return ["By default no tag is shown on any of these clips: ask for weaker ones with `-t`.", ""]
    return [f"By default a label is shown from its own threshold on (see the table below). Of the tags shown then "
            f"{100 * shown['precision']:.0f} % are right, and {100 * shown['recall']:.0f} % of the labels that are "
            f"there are shown (F1 {shown['f1']:.3f}, mean of the labels' F1 {shown['macro_f1']:.3f}); "
            f"{100 * shown['empty']:.0f} % of the clips get no tag.", ""]  # fmt: skip


def _calibration(config: ModelConfig) -> list[str]:
    """What calibration changed, where the trainer has measured it."""
    found = config.metrics
    if not {"ece_before", "ece_after"} <= set(found):
        return []
    return ["Scores are calibrated: Platt scaling of each label, folded into the last layer. On groups that it was not "
            f"fitted on, the expected calibration error is {found['ece_after']:.4f}; before it was "
            f"{found['ece_before']:.4f}.", ""]  # fmt: skip


def _outside(config: ModelConfig) -> list[str]:
    """How often a recording of something that the model has no label for gets a tag."""
    outside = config.metrics.get("outside", {})
    if "fp32" not in outside:
        return []
    quantised = f" (int8: {100 * outside['int8']:.0f} %)" if "int8" in outside else ""
    return [f"{outside['n_clips']} of these clips have no label that the model knows; {100 * outside['fp32']:.0f} % of "
            f"them{quantised} get a tag by default. Some of these tags are right: a label that a clip lacks is not a "
            "checked negative.", ""]  # fmt: skip


def _negatives(config: ModelConfig) -> list[str]:
    """How often a sound in which nothing is to be named gets a tag."""
    kinds = config.metrics.get("negatives", {})
    if not kinds:
        return []

    def share(each: dict[str, float], precision: str) -> str:
        return f"{100 * each[precision]:.0f} %" if precision in each else ""

    rows = [f"| {kind} | {share(each, 'fp32')} | {share(each, 'int8')} |" for kind, each in kinds.items()]
    return ["Synthetic sounds in which there is nothing to name, and how many of them get a tag by default:", "",
            "| sound | float32 | int8 |", "|---|---|---|", *rows, ""]  # fmt: skip


def _labels_measured(config: ModelConfig) -> str:
    measured = {each["label"]: each for each in config.metrics["fp32"]["per_label"]}
    counts = config.provenance.get("n_clips_of_label", {})
    lines = ["## Labels", "", "Average precision on the held-out clips, how many of them have the label and from how "
             "many independent groups they are, how many clips of the data have it in all, and the score from which "
             "on it is shown. Few held-out groups make an unsure figure.", "",
             "| label | AP | 95 % | held out | groups | in all | threshold |", f"|{'---|' * 7}"]  # fmt: skip
    for label, threshold in zip(config.labels, config.thresholds, strict=True):
        name = label.replace("|", r"\|")  # a bar would end the cell
        cells = [name, *_cells(measured.get(label, {})), str(counts.get(label, "")), f"{threshold:g}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _cells(measured: dict[str, Any]) -> list[str]:
    if not measured:
        return ["not measured", "", "0", "0"]
    interval = measured.get("interval")
    spread = f"{interval[0]:.2f} to {interval[1]:.2f}" if interval else ""
    return [f"{measured['average_precision']:.3f}", spread, str(measured["n_clips"]), str(measured.get("n_groups", ""))]


def _labels_listed(config: ModelConfig) -> str:
    return "\n".join(["## Labels", "", ", ".join(config.labels), ""])


def _provenance(config: ModelConfig, *, has_credits: bool) -> str:
    facts = {key: value for key, value in config.provenance.items() if key != "n_clips_of_label"}
    lines = ["## Provenance", "", "```json", json.dumps(facts, indent=2, ensure_ascii=False), "```", ""]
    if has_credits:
        lines += [f"Everyone whose recordings the model was trained on is named in [{CREDITS}]({CREDITS}), with "
                  "the licence of each. A label that a clip lacks is not a checked negative.", ""]  # fmt: skip
    return "\n".join(lines)
