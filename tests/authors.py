"""Checkpoints as the authors' code writes them, with weights drawn here; for the tests of `convert`."""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.nn import functional

STAGES = ((3, 1), (4, 2), (6, 4), (3, 8))  # blocks, and channels in units of the first stage's
SIZES = {"": 21, "_medium": 11, "_small": 3}
WIDTH = 4  # of the checkpoints made here; the authors' is 64

# AUDIO_DATA of each data set, classes, and views, as the authors' configurations have them.
SETTINGS: dict[str, tuple[int, float, int, int, int, list[int], int]] = {
    # sampling rate, clip seconds, frames, STFT window and hop in ms, classes, views
    "vggsound": (16000, 5.119, 512, 20, 10, [309], 2),
    "epicsound": (24000, 2.08, 416, 10, 5, [44], 5),
    "epickitchens": (24000, 2.08, 416, 10, 5, [97, 300], 10),
    "speechcommandv2": (16000, 1.023, 512, 5, 2, [35], 1),
    "urbansound8k": (16000, 4.16, 416, 20, 10, [35], 2),
    "nsynth": (16000, 4.16, 416, 20, 10, [11], 1),
}


def shapes(width: int, classes: list[int]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the training form."""
    found: dict[str, tuple[int, ...]] = {}

    def norm(name: str, channels: int) -> None:
        found.update({f"{name}.{leaf}": (channels,) for leaf in ("weight", "bias", "running_mean", "running_var")})
        found[f"{name}.num_batches_tracked"] = ()

    found["s1.pathway0_stem.conv.weight"] = (width, 1, 5, 7)
    norm("s1.pathway0_stem.bn", width)
    n_in = width
    for stage, (depth, times) in enumerate(STAGES):
        n = width * times
        for position in range(depth):
            block = f"s{stage + 2}.pathway0_res{position}"
            parts = {"a_head": (n, n_in, 1, 1), "c": (4 * n, n, 1, 1), "d": (n, 4 * n, 1, 1)}
            if n_in != n:
                found[f"{block}.branch1.weight"] = (n, n_in, 1, 1)
                norm(f"{block}.branch1_bn", n)
            for part, shape in parts.items():
                found[f"{block}.branch2.{part}.weight"] = shape
                norm(f"{block}.branch2.{part}_bn", shape[0])
            for size, length in SIZES.items():
                found[f"{block}.branch2.a{size}.weight"] = (n, 1, length, 1)
                found[f"{block}.branch2.b{size}.weight"] = (n, 1, 1, length)
                norm(f"{block}.branch2.a_bn{size}", n)
                norm(f"{block}.branch2.b_bn{size}", n)
            n_in = n
    for name, n_outputs in zip(("",) if len(classes) == 1 else ("_verb", "_noun"), classes, strict=True):
        found[f"head.projection{name}.weight"] = (n_outputs, n_in)
        found[f"head.projection{name}.bias"] = (n_outputs,)
    return found


def training_form(dataset: str, *, width: int = WIDTH, seed: int = 0) -> dict[str, Tensor]:
    """Weights that keep activations near 1 and logits within a few units."""
    generator = torch.Generator().manual_seed(seed)

    def draw(name: str, shape: tuple[int, ...]) -> Tensor:
        if name.endswith("num_batches_tracked"):
            return torch.tensor(7)
        noise = torch.randn(shape, generator=generator)
        if name.endswith("running_var") or (name.endswith(".weight") and len(shape) == 1):
            gain = 0.3 if re.search(r"branch2\.([ab]_bn|d_bn)", name) else 1.0
            return gain * (0.75 + 0.2 * noise.tanh())
        if name.endswith(".weight"):
            return noise * (4.0 if name.startswith("head") else 1.2) / noise[0].numel() ** 0.5
        return 0.1 * noise

    return {name: draw(name, shape) for name, shape in shapes(width, SETTINGS[dataset][5]).items()}


def union_form(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Training form and merged depth-wise convolutions, as the authors' export leaves them."""
    merged = {}
    for name in [name for name in state if re.search(r"branch2\.[ab]\.weight$", name)]:
        block, axis = name.removesuffix(".weight").rsplit(".", 1)
        weight = bias = torch.zeros(())
        for size in SIZES:
            norm = {leaf: state[f"{block}.{axis}_bn{size}.{leaf}"] for leaf in
                    ("weight", "bias", "running_mean", "running_var")}  # fmt: skip
            scale = norm["weight"] / torch.sqrt(norm["running_var"] + 1e-5)
            side = (SIZES[""] - SIZES[size]) // 2
            padding = (0, 0, side, side) if axis == "a" else (side, side, 0, 0)
            kernel = state[f"{block}.{axis}{size}.weight"] * scale[:, None, None, None]
            weight = weight + functional.pad(kernel, padding)
            bias = bias + norm["bias"] - norm["running_mean"] * scale
        merged[f"{block}.{axis}_reparam.weight"] = weight
        merged[f"{block}.{axis}_reparam.bias"] = bias
    return {**state, **merged}


def merged_form(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The union without its branches."""
    branch = re.compile(r"branch2\.[ab](_bn)?(_medium|_small)?\.")
    return {name: tensor for name, tensor in union_form(state).items() if not branch.search(name)}


LAYOUTS = {"training": dict, "union": union_form, "merged": merged_form}


def cfg(dataset: str, *, width: int = WIDTH) -> dict[str, Any]:
    """The part of the authors' configuration that matters."""
    rate, seconds, frames, window, hop, classes, views = SETTINGS[dataset]
    return {
        "TRAIN": {"DATASET": dataset},
        "AUDIO_DATA": {
            "SAMPLING_RATE": rate, "CLIP_SECS": seconds, "NUM_FRAMES": frames, "NUM_FREQUENCIES": 128,
            "WINDOW_LENGTH": window, "HOP_LENGTH": hop,
        },
        "TEST": {"NUM_ENSEMBLE_VIEWS": views},
        "MODEL": {"NUM_CLASSES": classes},
        "RESNET": {"DEPTH": 50, "WIDTH_PER_GROUP": width, "TEMP_KERNEL_SIZES": [[21]] * 4},
    }  # fmt: skip


def write_pyth(path: Path, dataset: str, state: dict[str, Tensor], **changes: Any) -> Path:
    """A `.pyth` of these weights."""
    width = state["s1.pathway0_stem.conv.weight"].shape[0]
    saved = {
        "epoch": 29, "model_state": OrderedDict(state), "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.1}]},
        "cfg": yaml.safe_dump(cfg(dataset, width=width)),
    }  # fmt: skip
    torch.save({**saved, **changes}, path)
    return path


def logits(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The network as the authors describe it, branch by branch: `[batch, 1, frame, mel]` -> `[batch, class]`."""

    def norm(name: str, y: Tensor) -> Tensor:
        part = [state[f"{name}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(y, *part, eps=1e-5)

    def conv(name: str, y: Tensor, **options: Any) -> Tensor:
        return functional.conv2d(y, state[f"{name}.weight"], **options)

    def mix(axis: str, y: Tensor) -> Tensor:
        total = y
        for size, length in SIZES.items():
            padding = (length // 2, 0) if axis.endswith("a") else (0, length // 2)
            total = total + norm(f"{axis}_bn{size}", conv(axis + size, y, padding=padding, groups=y.shape[1]))
        return total.relu()

    y = norm("s1.pathway0_stem.bn", conv("s1.pathway0_stem.conv", x, stride=2, padding=(2, 3))).relu()
    y = functional.max_pool2d(y, 3, stride=2, padding=1)
    for stage, (depth, _) in enumerate(STAGES):
        for position in range(depth):
            block = f"s{stage + 2}.pathway0_res{position}"
            has_shortcut, stride = f"{block}.branch1.weight" in state, 2 if stage and not position else 1
            shortcut = norm(f"{block}.branch1_bn", conv(f"{block}.branch1", y, stride=stride)) if has_shortcut else y
            inside = f"{block}.branch2"
            y = norm(f"{inside}.a_head_bn", conv(f"{inside}.a_head", y, stride=stride)).relu()
            y = mix(f"{inside}.b", mix(f"{inside}.a", y))
            y = norm(f"{inside}.c_bn", conv(f"{inside}.c", y)).relu()
            y = (shortcut + norm(f"{inside}.d_bn", conv(f"{inside}.d", y))).relu()
    pooled = functional.avg_pool2d(y, (y.shape[2], y.shape[3]), stride=1).flatten(1)
    heads = [name for name in ("head.projection", "head.projection_verb", "head.projection_noun")
             if f"{name}.weight" in state]  # fmt: skip
    return torch.cat([functional.linear(pooled, state[f"{h}.weight"], state[f"{h}.bias"]) for h in heads], dim=1)
