"""The authors' tensors: their names, and the layouts in which a file keeps the network.

A training file has the branches of each block, a merged one their sum without the identities, a union has both, and
then the two must agree.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from audiotag.config import HeadConfig, NetworkConfig
from audiotag.convert.filling import empty_network, fill_network
from audiotag.errors import CheckpointError
from audiotag.network import AudioRepInceptionNeXt, Block, check_tensors, fuse

# Largest difference of the two forms in one file, relative to a tensor's largest value: float32 in another order.
SAME_FORM_TOLERANCE = 1e-5

# Our name of a part of a block -> the authors'. `time` and `frequency` stand alone in the merged form.
_PARTS = {
    "shortcut.conv": "branch1", "shortcut.norm": "branch1_bn",
    "reduce.conv": "branch2.a_head", "reduce.norm": "branch2.a_head_bn",
    "expand.conv": "branch2.c", "expand.norm": "branch2.c_bn",
    "project.conv": "branch2.d", "project.norm": "branch2.d_bn",
    "time": "branch2.a_reparam", "frequency": "branch2.b_reparam",
    **{
        f"{axis}.branches.{number}.{ours}": f"branch2.{letter}{theirs}{size}"
        for axis, letter in (("time", "a"), ("frequency", "b"))
        for number, size in enumerate(("", "_medium", "_small"))
        for ours, theirs in (("conv", ""), ("norm", "_bn"))
    },
}  # fmt: skip
_STEM = {"stem.conv": "s1.pathway0_stem.conv", "stem.norm": "s1.pathway0_stem.bn", "head": "head.projection"}
_MERGED = re.compile(r"\.[ab]_reparam\.")
_BRANCH = re.compile(r"\.branch2\.[ab](_bn)?(_medium|_small)?\.")


def authors_name(name: str) -> str:
    """The authors' name of a tensor of ours.

    >>> authors_name("stages.1.0.time.branches.2.norm.weight")
    's3.pathway0_res0.branch2.a_bn_small.weight'
    """
    part, _, leaf = name.rpartition(".")
    if part in _STEM:
        return f"{_STEM[part]}.{leaf}"
    _, stage, position, part = part.split(".", 3)
    return f"s{int(stage) + 2}.pathway0_res{position}.{_PARTS[part]}.{leaf}"


def fuse_authors(
    tensors: dict[str, Tensor], config: NetworkConfig, heads: tuple[HeadConfig, ...], path: Path
) -> tuple[AudioRepInceptionNeXt, str]:
    """The fused network, and in which of three layouts the file keeps it: training, merged, or both (union).

    Raises:
        CheckpointError: a tensor is missing, unknown or misshapen, or the two forms of a union disagree.
    """
    has_merged = any(_MERGED.search(name) for name in tensors)
    has_branches = any(_BRANCH.search(name) for name in tensors)
    forms = []
    if has_branches or not has_merged:
        forms.append(empty_network(config))
    if has_merged:
        forms.append(_merged_form(config))
    names = [{name: authors_name(name) for name in form.state_dict()} for form in forms]
    expected = {
        their: tensor for form, named in zip(forms, names, strict=True)
        for their, tensor in _authors_state(form, named, heads)
    }  # fmt: skip
    check_tensors(tensors, expected, where=str(path), error=CheckpointError)
    joined = _join_heads(tensors, heads)
    for form, named in zip(forms, names, strict=True):
        fill_network(form, {their: joined[their] for their in named.values()}, named, path)
    if has_merged:
        _add_identities(forms[-1])
    fused = [fuse(form) for form in forms]
    if len(fused) == 2:
        _compare(fused[0], fused[1], path)
    layout = "union" if len(forms) == 2 else "merged" if has_merged else "training"
    return fused[0].float(), layout


def _merged_form(config: NetworkConfig) -> AudioRepInceptionNeXt:
    """The authors' merge: one depth-wise convolution an axis, every other BatchNorm and the identities as they were."""
    network = empty_network(config)
    for block in _blocks(network):
        block.time, block.frequency = block.time.fuse(), block.frequency.fuse()  # type: ignore[assignment]
    return network


def _blocks(network: AudioRepInceptionNeXt) -> list[Block]:
    return [module for module in network.modules() if isinstance(module, Block)]


@torch.no_grad()
def _add_identities(network: AudioRepInceptionNeXt) -> None:
    for block, conv in itertools.product(_blocks(network), ("time", "frequency")):
        weight = getattr(block, conv).weight
        weight[:, 0, weight.shape[2] // 2, weight.shape[3] // 2] += 1.0


def _authors_state(
    form: nn.Module, names: Mapping[str, str], heads: tuple[HeadConfig, ...]
) -> Iterator[tuple[str, Tensor]]:
    """What the authors' file has for this form; several heads are layers of their own there."""
    for name, tensor in form.state_dict().items():
        if name.startswith("head.") and len(heads) > 1:
            leaf = name.removeprefix("head.")
            parts = tensor.split([head.size for head in heads])
            yield from ((_head_name(head, leaf), part) for head, part in zip(heads, parts, strict=True))
        else:
            yield names[name], tensor


def _head_name(head: HeadConfig, leaf: str) -> str:
    return f"head.projection_{head.name}.{leaf}"


def _join_heads(tensors: dict[str, Tensor], heads: tuple[HeadConfig, ...]) -> dict[str, Tensor]:
    if len(heads) == 1:
        return tensors
    joined = {
        f"head.projection.{leaf}": torch.cat([tensors[_head_name(head, leaf)] for head in heads])
        for leaf in ("weight", "bias")
    }
    return {**tensors, **joined}


def _compare(branches: nn.Module, merged: nn.Module, path: Path) -> None:
    ours = merged.state_dict()
    for name, expected in branches.state_dict().items():
        difference = (ours[name] - expected).abs().max().item()
        if difference > SAME_FORM_TOLERANCE * expected.abs().max().item():
            raise CheckpointError(
                f"{path}: holds the network twice, and its two forms disagree: {authors_name(name)!r} is not what its "
                f"branches add up to (difference {difference:.1e}). Fetch it again, or merge it again"
            )
