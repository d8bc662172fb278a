"""Opens and checks a model folder: configuration, files, checksums. A folder is also a Hub repository.

`hub` finds folders, `tagger` and `export` use them; `training` writes them with `write_configs`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from audiotag.config import (
    ARCHITECTURE,
    PROBLEM_TYPE_OF,
    Activation,
    FrontEndConfig,
    HeadConfig,
    ModelConfig,
    NetworkConfig,
    WindowConfig,
    record_from_dict,
)
from audiotag.errors import ModelError, listed
from audiotag.labels import LabelSet

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
WEIGHTS = "model.safetensors"
ONNX = "onnx/model.onnx"
ONNX_INT8 = "onnx/model_int8.onnx"
CARD = "README.md"

# What a configuration may ask for before it is taken for a mistake or an attack.
MAX_JSON_BYTES = 32 * 2**20
MAX_WINDOW_SAMPLES = 100_000_000
MAX_LABELS = 1_000_000
MAX_STAGES = 8
MAX_BLOCKS = 1000
MAX_KERNEL = 1001
MAX_PARAMETERS = 1_000_000_000
MAX_N_FFT = 2**18
MAX_MEL_VALUES = 100_000_000  # of a window's log-mel, and of mels times n_fft, of which the filterbank has half
MAX_SAMPLE_RATE = 1_000_000  # Hz
# What comes of JSON that does not describe a model.
CONFIG_ERRORS = (ValueError, TypeError, KeyError, AttributeError, OverflowError)

WAY_TO_GET = {
    ONNX: "Run `audiotag export {path}`",
    ONNX_INT8: "Run `audiotag export {path} --int8 --calibrate FOLDER`, or use --precision fp32",
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelFolder:
    """A checked model on disk. `revision` is the Hub's commit, or None for a folder of one's own."""

    path: Path
    name: str
    revision: str | None
    config: ModelConfig
    weights_sha256: str | None = None  # as the Hub recorded it, for a folder that holds only some of the files

    def has(self, name: str) -> bool:
        """Whether the folder holds this file."""
        return (self.path / name).is_file()

    def file(self, name: str) -> Path:
        """The path of a file of the folder, such as `onnx/model.onnx`.

        Raises:
            ModelError: it is not there; the message says how to get it.
        """
        if not self.has(name):
            way = WAY_TO_GET.get(name, "Fetch or make the model again").format(path=self.path)
            raise ModelError(f"{self.path}: {name} is missing. {way}")
        return self.path / name

    @cached_property
    def sha256(self) -> str:
        """Checksum in hex of the weights: `model.safetensors`, or of what a model without it runs on."""
        if self.weights_sha256 is not None:
            return self.weights_sha256
        return sha256_of(self.file(next((name for name in (WEIGHTS, ONNX, ONNX_INT8) if self.has(name)), WEIGHTS)))

    @cached_property
    def config_sha256(self) -> str:
        """Checksum in hex of what the configuration says of results: labels, thresholds, windows, but no figures."""
        config = replace(self.config, int8_map_loss=None, license=None, provenance={}, metrics={})
        values = {**config.to_config_dict(), **config.to_preprocessor_dict()}
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while block := content.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def open_model_folder(
    path: str | os.PathLike[str], *, name: str | None = None, revision: str | None = None
) -> ModelFolder:
    """The model in a folder; `name` is the folder's own unless given.

    Raises:
        ModelError: the folder or one of its configurations is missing, broken, or of another architecture.
    """
    path = Path(path)
    config = _read_json(path / CONFIG)
    try:
        _check_architecture(config)  # before the second file, which others do not have
        model = model_config_from_json(config, _read_json(path / PREPROCESSOR), where=name or path)
    except CONFIG_ERRORS as error:
        raise ModelError(f"{path}: the configuration is not usable: {error}. Fetch or make the model again") from error
    return ModelFolder(path, name or path.resolve().name, revision, model)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.exists() and not path.is_file():  # a pipe or a device, which may never end
            raise ModelError(f"{path}: is no file. Fetch or make the model again")
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ModelError(f"{path}: is larger than {MAX_JSON_BYTES >> 20} MiB: no configuration is. Check the file")
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path.parent}: is no model folder: {path.name} is missing. Check the path") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read: {error}. Fetch or make the model again") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path}: holds no JSON object. Fetch or make the model again")
    return values


def model_config_from_json(config: dict[str, Any], preprocessor: dict[str, Any], *, where: str | Path) -> ModelConfig:
    """What `ModelConfig.to_config_dict` and `to_preprocessor_dict` gave, or a Hub repository has, checked.

    What can be made good is warned of, as a fault of `where`.

    Raises:
        one of CONFIG_ERRORS: something is missing or not allowed.
    """
    _check_architecture(config)
    network = record_from_dict(NetworkConfig, _object(config, "network"), where="network")
    dirt: list[str] = []
    labels, activation = _labels(config, network.n_labels, dirt), _activation(config, dirt)
    thresholds = _thresholds(config, labels, dirt)
    if dirt:
        logger.warning("%s: the configuration %s", where, "; it ".join(dirt))
    window = record_from_dict(WindowConfig, _object(preprocessor, "window"), where="window")
    frontend = record_from_dict(FrontEndConfig, _object(preprocessor, "frontend"), where="frontend")
    check_sizes(network, window, frontend)
    return ModelConfig(
        network=network,
        frontend=frontend,
        window=window,
        labels=labels,
        activation=activation,
        aggregate=config.get("aggregate", "mean"),
        heads=tuple(record_from_dict(HeadConfig, head, where="heads") for head in config.get("heads", ())),
        thresholds=thresholds,
        int8_map_loss=config.get("int8_map_loss"),
        license=config.get("license"),
        provenance=dict(config.get("provenance") or {}),
        metrics=dict(config.get("metrics") or {}),
    )


def _check_architecture(config: dict[str, Any]) -> None:
    found = config.get("architectures") or [config.get("model_type", "of an unknown kind")]
    if ARCHITECTURE not in found:
        raise ValueError(f"it is a {', '.join(map(str, found))}, audiotag runs {ARCHITECTURE} only")


def _object(values: dict[str, Any], key: str) -> dict[str, Any]:
    if not isinstance(values.get(key), dict):
        raise ValueError(f"{key!r} is missing")
    return dict(values[key])


def _labels(config: dict[str, Any], n_labels: int, dirt: list[str]) -> tuple[str, ...]:
    """Names in the order of the outputs; the Hub has seen ids as text or numbers, and names that are numbers."""
    if not 0 < n_labels <= MAX_LABELS:
        raise ValueError(f"n_labels must be 1 to {MAX_LABELS}, not {n_labels}")
    id2label = config.get("id2label")
    if not isinstance(id2label, dict) or not id2label:
        dirt.append(f"names no labels: they are called LABEL_0 to LABEL_{n_labels - 1}")
        return tuple(f"LABEL_{index}" for index in range(n_labels))
    names = {_label_id(key): str(value) for key, value in id2label.items()}
    if sorted(names) != list(range(n_labels)):
        raise ValueError(f"id2label does not name the outputs 0 to {n_labels - 1}")
    if any(not isinstance(value, str) for value in id2label.values()):
        dirt.append("has labels that are not text: they are shown as text")
    return LabelSet(tuple(names[index] for index in range(n_labels))).names


def _label_id(key: str) -> int:
    match = re.fullmatch(r"(?:LABEL_)?(\d+)", str(key))
    if match is None:
        raise ValueError(f"id2label has the id {key!r}, which is no number")
    return int(match.group(1))


def _thresholds(config: dict[str, Any], labels: tuple[str, ...], dirt: list[str]) -> tuple[float, ...]:
    given = config.get("thresholds") or {}
    unknown = sorted(given.keys() - set(labels))
    if unknown:
        dirt.append(f"has thresholds of what it has no label for: {listed(unknown)}")
    return tuple(float(given.get(label, 0.0)) for label in labels)


def _activation(config: dict[str, Any], dirt: list[str]) -> Activation:
    known = {problem: activation for activation, problem in PROBLEM_TYPE_OF.items()}
    problem = config.get("problem_type")
    if problem is None:
        dirt.append("does not name its problem_type: single_label_classification is assumed")
        return "softmax"
    if problem not in known:
        raise ValueError(f"problem_type must be {' or '.join(known)}, not {problem!r}")
    return known[problem]


def check_sizes(network: NetworkConfig, window: WindowConfig, frontend: FrontEndConfig) -> None:
    """Raises `ValueError` for what no model has, and would cost hours or all memory."""
    # The number of stages first: a width is a power of two of it.
    if len(network.depths) > MAX_STAGES or sum(network.depths) > MAX_BLOCKS or max(network.kernel_sizes) > MAX_KERNEL:
        raise ValueError("the network's depths or kernel_sizes are out of all proportion")
    if network.n_parameters > MAX_PARAMETERS:
        raise ValueError(f"a network of {network.n_parameters:.1e} parameters is out of all proportion")
    if window.n_samples > MAX_WINDOW_SAMPLES or window.view_length > 2 * MAX_WINDOW_SAMPLES:
        raise ValueError(f"a window of {window.n_samples} samples is out of all proportion")
    if frontend.n_fft > MAX_N_FFT or frontend.n_mels > frontend.n_fft or frontend.sample_rate > MAX_SAMPLE_RATE:
        raise ValueError("the front-end's n_fft, n_mels or sample_rate is out of all proportion")
    if frontend.n_mels * max(frontend.n_fft, window.n_frames) > MAX_MEL_VALUES:
        raise ValueError(f"{frontend.n_mels} mels of {window.n_frames} frames are out of all proportion")


def write_configs(path: Path, config: ModelConfig) -> None:
    """Writes `config.json` and `preprocessor_config.json`, each whole or not at all."""
    path.mkdir(parents=True, exist_ok=True)
    for name, values in ((CONFIG, config.to_config_dict()), (PREPROCESSOR, config.to_preprocessor_dict())):
        write_whole(path / name, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Writes a file of text, whole or not at all; what UTF-8 cannot hold as JSON and Python escape it: `\\udcff`."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    partial.replace(path)
