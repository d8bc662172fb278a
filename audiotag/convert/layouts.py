"""From a training checkpoint, the authors' `.pyth` or our own, to a fused model folder. No weight is ever random.

A checkpoint is looked through before torch opens it (`_check_archive`), its tensors are held to the network's shapes
before anything of that size is made, and the folder appears only when all of it is written and verified.
The authors' data sets are data in `published`.
"""

from __future__ import annotations

import csv
import io
import itertools
import logging
import math
import os
import pickle
import re
import shutil
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from audiotag import __version__
from audiotag.config import HeadConfig, ModelConfig, NetworkConfig
from audiotag.errors import AudiotagError, CheckpointError, OutputError, UsageError
from audiotag.export import calibration_log_mels, write_weights
from audiotag.labels import LabelSet
from audiotag.model_card import write_model_card
from audiotag.model_folder import CONFIG, model_config_from_json, sha256_of, write_configs
from audiotag.network import AudioRepInceptionNeXt, Block, check_tensors, fuse
from audiotag.published import DATASETS, AudioRecipe, PublishedDataset, known_labels

OUR_FORMAT = "audiotag-checkpoint"
AUTHORS_LICENSE = "CC-BY-NC-SA-4.0"  # of the authors' repository, which links their weights
AUTHORS_SOURCE = "https://github.com/StevenLauHKHK/AudioRepInceptionNeXt"
DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}  # the authors' RESNET.DEPTH
MAX_WIDTH = 1024  # the authors have 64; a larger one is a damaged file
MAX_PICKLE_BYTES = MAX_CFG_CHARS = 2**24
# Largest difference of the two forms in one file, relative to a tensor's largest value: float32 in another order.
SAME_FORM_TOLERANCE = 1e-5

# What a damaged pickle or storage ends in.
_DAMAGE = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError,
    MemoryError, NotImplementedError,
)  # fmt: skip

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Converted:
    """A checkpoint's fused network, in evaluation mode, and what it is."""

    network: AudioRepInceptionNeXt
    config: ModelConfig


def convert(
    checkpoint: Path,
    out: Path,
    *,
    dataset: str | None = None,
    labels: tuple[str, ...] | None = None,
    calibrate: Path | None = None,
    overwrite: bool = False,
) -> ModelConfig:
    """Writes the model folder `out` of a checkpoint: configurations, weights, verified ONNX, model card.

    `dataset` is a key of `published.DATASETS` and overrides what the checkpoint says; `labels` overrides the names.
    Int8 is written if `calibrate` holds audio to find its ranges with.

    Raises:
        CheckpointError: the checkpoint cannot be read, or does not fit.
        UsageError: `dataset` or `labels` do not fit the checkpoint.
        OutputError: `out` exists, or cannot be written.
    """
    check_out(out, overwrite=overwrite)
    converted = read_checkpoint(checkpoint, dataset=dataset, labels=labels)
    with _whole_or_not_at_all(out) as folder:
        _write_folder(folder, converted, calibrate)
    return converted.config


def check_out(out: Path, *, overwrite: bool) -> None:
    """Refuses a place that holds something else than an empty folder, or, with `overwrite`, a model.

    Raises:
        OutputError: it does.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / CONFIG).is_file():
        raise OutputError(f"{out}: exists and is no model folder. Choose another --out")
    if not overwrite:
        raise OutputError(f"{out}: holds a model already. Choose another --out, or --overwrite")


@contextmanager
def _whole_or_not_at_all(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place when the body is done, and is gone if the body fails."""
    parent = next(place for place in out.absolute().parents if place.is_dir())
    partial, replaced = (parent / f".{out.name}.{os.getpid()}.{state}" for state in ("partial", "replaced"))
    try:
        partial.mkdir()
        yield partial
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.exists():
            out.rename(replaced)
        partial.rename(out)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}. Choose another --out") from error
    finally:
        if replaced.exists() and not out.exists():
            replaced.rename(out)
        for leftover in (partial, replaced):
            shutil.rmtree(leftover, ignore_errors=True)


def _write_folder(folder: Path, converted: Converted, calibrate: Path | None) -> None:
    config = converted.config
    write_configs(folder, config)
    calibration = None if calibrate is None else calibration_log_mels(calibrate, config)
    write_weights(folder, converted.network, config, calibration)
    write_model_card(folder, config)


def read_checkpoint(path: Path, *, dataset: str | None = None, labels: tuple[str, ...] | None = None) -> Converted:
    """The fused network of a checkpoint, the authors' or ours.

    Raises:
        CheckpointError: it cannot be read, or a tensor is missing, unknown, misshapen or not finite.
        UsageError: `dataset` or `labels` do not fit it.
    """
    saved = load_archive(path)
    origin = {
        "made_by": f"audiotag {__version__} fuse",
        "checkpoint": path.name,
        "checkpoint_sha256": sha256_of(path),
    }
    if saved.get("format") == OUR_FORMAT:
        if dataset is not None:
            raise UsageError(f"{path}: is a checkpoint of `audiotag train`, which knows its audio. Leave out --dataset")
        return _convert_ours(saved, path, labels, origin)
    if "model_state" in saved:
        return _convert_authors(saved, path, dataset, labels, origin)
    raise CheckpointError(f"{path}: is neither a checkpoint of the authors' code nor of `audiotag train`")


# --- opening a file that a stranger wrote ---


def load_archive(path: Path) -> dict[str, Any]:
    """The content of a file that `torch.save` wrote: tensors on the CPU, numbers, text, and never code.

    Raises:
        CheckpointError: it is truncated, of another kind, holds code, or promises tensors that it does not hold.
    """
    try:
        _check_archive(path)
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except AudiotagError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: does not exist. Check the path") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}. Check the file") from error
    except zipfile.BadZipFile as error:
        what = "is truncated, or no checkpoint of PyTorch 1.6 or newer"
        raise CheckpointError(f"{path}: {what}. Fetch it again") from error
    except _DAMAGE as error:
        raise CheckpointError(f"{path}: is damaged: {error}. Fetch it again") from error
    if not isinstance(saved, dict):
        raise CheckpointError(f"{path}: holds a {type(saved).__name__} instead of a checkpoint")
    return saved


def _check_archive(path: Path) -> None:
    """Holds what the file promises to what it has.

    `torch.load` believes the sizes in the pickle: it would allocate a promised tensor, or read past a storage's end.
    """
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        if sum(member.file_size for member in members.values()) > path.stat().st_size:
            raise CheckpointError(f"{path}: its parts claim to be larger than the file. Do not use it")
        pickles = [name for name in members if name.endswith("/data.pkl")]
        if len(pickles) != 1 or members[pickles[0]].file_size > MAX_PICKLE_BYTES:
            raise CheckpointError(f"{path}: is no checkpoint of PyTorch 1.6 or newer. Check the file")
        root = pickles[0].removesuffix("data.pkl")
        sizes = {name.removeprefix(f"{root}data/"): member.file_size for name, member in members.items()}
        _Promises(archive.read(pickles[0]), path, sizes).load()


# Bytes of a value in each kind of storage that torch names.
_STORAGE_BYTES = {
    "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "LongStorage": 8, "IntStorage": 4,
    "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1,
}  # fmt: skip


class _Storage:
    """A promised storage; `n` values."""

    def __init__(self, n: int) -> None:
        self.n = n


class _Promises(pickle.Unpickler):
    """Goes through a checkpoint's pickle without making a tensor or calling anything that it names."""

    def __init__(self, content: bytes, path: Path, sizes: Mapping[str, int]) -> None:
        super().__init__(io.BytesIO(content))
        self._path = path
        self._sizes = sizes  # bytes of each storage in the file

    def find_class(self, module: str, name: str) -> Any:
        """Stands in for the few names that a checkpoint of tensors has."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._check_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _first
        if module == "torch" and name in _STORAGE_BYTES:
            return _STORAGE_BYTES[name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return None
        raise CheckpointError(f"{self._path}: holds code ({module}.{name}), not only tensors. Do not use it")

    def persistent_load(self, pid: Any) -> _Storage:
        """Checks that a promised storage is in the file as a whole."""
        _, n_bytes, key, _, n = pid
        if not isinstance(n, int) or n < 0 or n * n_bytes > self._sizes.get(key, -1):
            raise CheckpointError(f"{self._path}: promises {n} values that it does not hold. It is damaged or hostile")
        return _Storage(n)

    def _check_tensor(
        self, storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
    ) -> None:
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        is_inside = min((offset, *shape, *strides)) >= 0 and (0 in shape or last < storage.n)
        # Strides of 0 could blow one value up to any size.
        if not is_inside or math.prod(shape) > max(storage.n, 1):
            raise CheckpointError(
                f"{self._path}: promises a tensor of {list(shape)} where it holds {storage.n} values. "
                "It is damaged or hostile"
            )


def _first(value: Any, *_: Any) -> Any:
    return value


# --- our own checkpoints ---


def _convert_ours(
    saved: dict[str, Any], path: Path, labels: tuple[str, ...] | None, origin: dict[str, Any]
) -> Converted:
    try:
        described = saved["model"]
        config = model_config_from_json(described["config"], described["preprocessor"])
        tensors = saved["network"]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: does not describe its model: {error}. Train again") from error
    if labels is not None:
        _check_label_count(labels, config.network.n_labels)
        config = replace(config, labels=labels)
    network = _empty(config.network)
    _fill(network, _checked(tensors, path), {name: name for name in network.state_dict()}, path)
    provenance = {**config.provenance, **origin, "step": saved.get("step"), "recipe": saved.get("recipe")}
    return Converted(_fused(network), replace(config, provenance=provenance))


# --- the authors' checkpoints ---

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


def _convert_authors(
    saved: dict[str, Any], path: Path, dataset: str | None, labels: tuple[str, ...] | None, origin: dict[str, Any]
) -> Converted:
    settings = _Settings(saved.get("cfg"), path)
    published = _choose_dataset(settings, dataset, path)
    audio = published.audio if dataset is not None else settings.audio(published.audio.padding)
    sizes = [head.n_outputs for head in published.heads]
    if dataset is None:
        sizes = settings.head_sizes(len(sizes))
    heads = tuple(
        HeadConfig(name=head.name or "", size=size) for head, size in zip(published.heads, sizes, strict=True)
    )
    names = _label_names(published, sizes, labels)
    network_config = NetworkConfig(n_labels=sum(sizes), width=settings.width(), depths=settings.depths())
    network, layout = _fuse_authors(_checked(saved["model_state"], path), network_config, heads, path)
    try:
        config = ModelConfig(
            network=network_config, frontend=audio.frontend, window=audio.window, labels=names, activation="softmax",
            heads=heads if len(heads) > 1 else (), license=AUTHORS_LICENSE,
            provenance={
                **origin, "source": AUTHORS_SOURCE, "license_of": "the authors' repository", "dataset": published.name,
                "views": settings.n_views() if dataset is None else published.n_views, "layout": layout,
                "epoch": saved.get("epoch"),
                "label_names": "given with --labels" if labels is not None else published.credit,
            },
        )  # fmt: skip
    except ValueError as error:
        raise CheckpointError(f"{path}: its configuration contradicts itself: {error}. Name --dataset") from error
    return Converted(network, config)


class _Settings:
    """The YAML text `cfg` inside an authors' checkpoint; asks for what is needed, strictly."""

    def __init__(self, text: Any, path: Path) -> None:
        self._path = path
        self.values: dict[str, Any] = {}
        if text is None:
            return
        try:
            if not isinstance(text, str) or len(text) > MAX_CFG_CHARS:
                raise ValueError("it is no text of a reasonable length")
            self.values = yaml.safe_load(text) or {}
            if not isinstance(self.values, dict):
                raise ValueError("it is no mapping")
        except (ValueError, yaml.YAMLError, RecursionError) as error:
            raise CheckpointError(f"{path}: its cfg is not readable: {error}. Fetch it again") from error

    def _number(self, group: str, key: str) -> float:
        value = self._get(group, key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
            raise CheckpointError(f"{self._path}: its cfg has {group}.{key} = {value!r}. Name --dataset")
        return value

    def _get(self, group: str, key: str) -> Any:
        values = self.values.get(group)
        if not isinstance(values, dict) or key not in values:
            raise CheckpointError(f"{self._path}: its cfg has no {group}.{key}. Name --dataset")
        return values[key]

    def _has(self, group: str, key: str) -> bool:
        return isinstance(self.values.get(group), dict) and key in self.values[group]

    @property
    def dataset(self) -> str | None:
        """The authors' name of the data set, in lower case."""
        return str(self._get("TRAIN", "DATASET")).lower() if self._has("TRAIN", "DATASET") else None

    def audio(self, padding: Any) -> AudioRecipe:
        """How audio was cut and transformed; the padding rule is in the authors' code, by data set."""
        return AudioRecipe(
            sample_rate=round(self._number("AUDIO_DATA", "SAMPLING_RATE")),
            clip_seconds=self._number("AUDIO_DATA", "CLIP_SECS"),
            window_ms=self._number("AUDIO_DATA", "WINDOW_LENGTH"),
            hop_ms=self._number("AUDIO_DATA", "HOP_LENGTH"),
            n_frames=round(self._number("AUDIO_DATA", "NUM_FRAMES")),
            n_mels=round(self._number("AUDIO_DATA", "NUM_FREQUENCIES")),
            padding=padding,
        )

    def head_sizes(self, n_heads: int) -> list[int]:
        """Outputs of each head."""
        sizes = self._get("MODEL", "NUM_CLASSES")
        sizes = sizes if isinstance(sizes, list | tuple) else [sizes]
        if len(sizes) != n_heads or not all(isinstance(size, int) and 0 < size < 10**6 for size in sizes):
            raise CheckpointError(
                f"{self._path}: its cfg has MODEL.NUM_CLASSES = {sizes!r} where {n_heads} counts belong. Name --dataset"
            )
        return list(sizes)

    def n_views(self) -> int | None:
        """Views of the authors' evaluation."""
        return round(self._number("TEST", "NUM_ENSEMBLE_VIEWS")) if self._has("TEST", "NUM_ENSEMBLE_VIEWS") else None

    def depths(self) -> tuple[int, ...]:
        """Blocks of each stage."""
        depth = self._get("RESNET", "DEPTH") if self._has("RESNET", "DEPTH") else 50
        if depth not in DEPTHS:
            raise CheckpointError(f"{self._path}: its cfg has RESNET.DEPTH = {depth!r}, known are 50 and 101")
        return DEPTHS[depth]

    def width(self) -> int:
        """Channels of the first stage."""
        width = self._get("RESNET", "WIDTH_PER_GROUP") if self._has("RESNET", "WIDTH_PER_GROUP") else 64
        if not isinstance(width, int) or not 0 < width <= MAX_WIDTH:
            raise CheckpointError(f"{self._path}: its cfg has RESNET.WIDTH_PER_GROUP = {width!r}, not 1 to {MAX_WIDTH}")
        return width


def _choose_dataset(settings: _Settings, name: str | None, path: Path) -> PublishedDataset:
    if name is not None and name not in DATASETS:
        raise UsageError(f"dataset {name!r}: is not one of {', '.join(DATASETS)}. Choose one of them")
    inside = settings.dataset
    found = next((each for each in DATASETS.values() if each.authors_name == inside), None)
    if name is None:
        if found is None:
            what = f"names the unknown data set {inside!r}" if inside else "does not name its data set"
            raise CheckpointError(f"{path}: {what}. Name one with --dataset: {', '.join(DATASETS)}")
        return found
    if inside is not None and found is not DATASETS[name]:
        logger.warning("the checkpoint says that it is of %s; --dataset %s overrides it", inside, name)
    return DATASETS[name]


def _label_names(
    dataset: PublishedDataset, sizes: list[int], given: tuple[str, ...] | None
) -> tuple[str, ...]:
    """Names of all outputs, those of several heads as `head:name`; `LABEL_n` where none is known."""
    if given is not None:
        _check_label_count(given, sum(sizes))
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


def _check_label_count(labels: tuple[str, ...], n_outputs: int) -> None:
    if len(labels) != n_outputs:
        raise UsageError(f"labels: the file has {len(labels)} names, the checkpoint has {n_outputs} outputs. "
                         "Give a name for each output")  # fmt: skip


def read_labels(path: Path) -> tuple[str, ...]:
    """Names in the order of the outputs: one a line, or a CSV with the columns `index` and `name`.

    Raises:
        UsageError: it cannot be read, an index is missing, or a name is empty or stands twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
        if lines and {"index", "name"} <= set(next(csv.reader(lines[:1]))):
            rows = sorted((int(row["index"]), row["name"]) for row in csv.DictReader(lines))
            if [index for index, _ in rows] != list(range(len(rows))):
                raise ValueError(f"its indices are not 0 to {len(rows) - 1}")
            return LabelSet(tuple(name for _, name in rows)).names
        return LabelSet(tuple(line.strip() for line in lines)).names
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise UsageError(f"{path}: is no list of labels: {error}. Give a name a line") from error


# --- tensors ---


def _checked(tensors: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(tensors, dict) or not tensors:
        raise CheckpointError(f"{path}: holds no weights. Fetch it again")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            raise CheckpointError(f"{path}: its entry {name!r} is no plain tensor. Fetch it again")
        if tensor.is_complex() or not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: tensor {name!r} holds values that are not finite numbers. Fetch it again")
    return tensors


def _empty(config: NetworkConfig) -> AudioRepInceptionNeXt:
    """A multi-branch network without memory for its weights: none of them can stay random."""
    with torch.device("meta"):
        return AudioRepInceptionNeXt(config).eval()


def _fill(network: nn.Module, tensors: Mapping[str, Tensor], names: Mapping[str, str], path: Path) -> None:
    """Gives a network its tensors, by our name -> name in the file, with float64 for exact sums."""
    _check(tensors, {names[name]: tensor for name, tensor in network.state_dict().items()}, path)
    found = {name: tensors[names[name]] for name in names}
    network.load_state_dict(
        {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in found.items()}, assign=True
    )


def _check(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    check_tensors(dict(found), dict(expected), where=str(path), error=CheckpointError)


def _fused(network: AudioRepInceptionNeXt) -> AudioRepInceptionNeXt:
    return fuse(network).float()


def _fuse_authors(
    tensors: dict[str, Tensor], config: NetworkConfig, heads: tuple[HeadConfig, ...], path: Path
) -> tuple[AudioRepInceptionNeXt, str]:
    """The fused network, and in which of three layouts the file keeps it: training, merged, or both (union)."""
    has_merged = any(_MERGED.search(name) for name in tensors)
    has_branches = any(_BRANCH.search(name) for name in tensors)
    forms = []
    if has_branches or not has_merged:
        forms.append(_empty(config))
    if has_merged:
        forms.append(_merged_form(config))
    names = [{name: authors_name(name) for name in form.state_dict()} for form in forms]
    expected = {
        their: tensor for form, named in zip(forms, names, strict=True)
        for their, tensor in _authors_state(form, named, heads)
    }  # fmt: skip
    _check(tensors, expected, path)
    joined = _join_heads(tensors, heads)
    for form, named in zip(forms, names, strict=True):
        _fill(form, {their: joined[their] for their in named.values()}, named, path)
    if has_merged:
        _add_identities(forms[-1])
    fused = [fuse(form) for form in forms]
    if len(fused) == 2:
        _compare(fused[0], fused[1], path)
    layout = "union" if len(forms) == 2 else "merged" if has_merged else "training"
    return fused[0].float(), layout


def _merged_form(config: NetworkConfig) -> AudioRepInceptionNeXt:
    """The authors' merge: one depth-wise convolution an axis, every other BatchNorm and the identities as they were."""
    network = _empty(config)
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
