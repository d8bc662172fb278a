"""The model card: a model folder's README.md, made from its configuration alone. No figure is typed by hand.

The front matter is what the Hugging Face Hub reads (https://huggingface.co/docs/hub/model-cards).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from audiotag.config import ModelConfig

CARD = "README.md"


def write_model_card(folder: Path, config: ModelConfig) -> None:
    """Writes `README.md` into a model folder, whole or not at all."""
    partial = folder / (CARD + ".partial")
    partial.write_text(model_card(config, has_credits=(folder / "CREDITS.csv").exists()), encoding="utf-8")
    partial.replace(folder / CARD)


def model_card(config: ModelConfig, *, has_credits: bool = False) -> str:
    """The text of the card."""
    parts = [_front_matter(config), _introduction(config)]
    if "fp32" in config.metrics:
        parts += [_figures(config), _labels_measured(config)]
    else:
        parts.append(_labels_listed(config))
    if config.provenance:
        parts.append(_provenance(config, has_credits=has_credits))
    return "\n".join(parts)


def _front_matter(config: ModelConfig) -> str:
    values: dict[str, Any] = {
        "license": (config.license or "other").lower(),
        "pipeline_tag": "audio-classification",
        "library_name": "audiotag",
        "tags": ["audio-tagging", "audio-classification", "AudioRepInceptionNeXt", "onnx"],
    }
    if "fp32" in config.metrics:
        values["model-index"] = [_model_index(config)]
    # A JSON value is a YAML value; a key a line keeps the front matter readable.
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return "\n".join(["---", *lines, "---", ""])


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
    return {
        "name": "AudioRepInceptionNeXt",
        "results": [{
            "task": {"type": "audio-classification"},
            "dataset": {"name": f"{data}, held-out fold", "type": "audio"},
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
{config.frontend.n_mels} mel bands, {config.frontend.fmin:g} to {config.frontend.fmax:g} Hz). A shorter clip is filled \
up by the rule `{window.padding}`;
a longer one gets the {config.aggregate} of its windows' scores.

```
audiotag predict clip.wav --model FOLDER
```

Network: Lau, Rehman, Po: "AudioRepInceptionNeXt: A lightweight single-stream architecture for efficient audio
recognition", Neurocomputing 578, 2024.
"""


def _figures(config: ModelConfig) -> str:
    exact, quantised = config.metrics["fp32"], config.metrics.get("int8")
    rows = [("macro mAP", "macro_map"), ("micro mAP", "micro_map"), ("top-1 hit rate", "top1"),
            ("top-5 hit rate", "top5")]  # fmt: skip
    lines = [
        "## Measured", "",
        f"On {exact['n_clips']} held-out clips, {exact['n_labels']} labels, through the pipeline that users run. No "
        "recording, uploader or performer of these clips was trained on, where the data's groups are right; but the "
        "kept weights and the default threshold were chosen on the same clips, so expect a little less on others. A "
        "hit is a clip whose best label (best five labels) holds one of its own, parents included.", "",
        "| | float32 | int8 |", "|---|---|---|",
        *(f"| {name} | {exact[key]:.3f} | {quantised[key]:.3f} |" if quantised else f"| {name} | {exact[key]:.3f} | |"
          for name, key in rows),
        "",
    ]  # fmt: skip
    if any(config.thresholds) and len(set(config.thresholds)) == 1:
        lines += [f"Labels are shown from a score of {config.thresholds[0]:g} on by default: the threshold with the "
                  f"best F1 over all labels together ({config.metrics['micro_f1_at_threshold']:.3f}).", ""]  # fmt: skip
    return "\n".join(lines)


def _labels_measured(config: ModelConfig) -> str:
    measured = {each["label"]: each for each in config.metrics["fp32"]["per_label"]}
    counts = config.provenance.get("n_clips_of_label", {})
    lines = ["## Labels", "", "Average precision on the held-out clips, with how many of them have the label, and how "
             "many clips of the data have it in all. Few held-out clips make an unsure figure.", "",
             "| label | AP | held out | in all |", "|---|---|---|---|"]  # fmt: skip
    for label in config.labels:
        each = measured.get(label)
        precision, n_clips = (f"{each['average_precision']:.3f}", each["n_clips"]) if each else ("not measured", 0)
        lines.append(f"| {label} | {precision} | {n_clips} | {counts.get(label, '')} |")
    return "\n".join([*lines, ""])


def _labels_listed(config: ModelConfig) -> str:
    return "\n".join(["## Labels", "", ", ".join(config.labels), ""])


def _provenance(config: ModelConfig, *, has_credits: bool) -> str:
    facts = {key: value for key, value in config.provenance.items() if key != "n_clips_of_label"}
    lines = ["## Provenance", "", "```json", json.dumps(facts, indent=2, ensure_ascii=False), "```", ""]
    if has_credits:
        lines += ["Everyone whose recordings the model was trained on is named in [CREDITS.csv](CREDITS.csv), with "
                  "the licence of each. A label that a clip lacks is not a checked negative.", ""]  # fmt: skip
    return "\n".join(lines)
