"""The ONNX file that a repository lacks: made once from its weights, and kept in a cache of our own."""

from __future__ import annotations

import logging
import shutil
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from audiotag.errors import HubError, ModelError, install_line
from audiotag.hub.files import has_needed
from audiotag.hub.places import audiotag_cache
from audiotag.model_folder import (
    CONFIG,
    ONNX,
    ONNX_INT8,
    PREPROCESSOR,
    WEIGHTS,
    ModelFolder,
    open_model_folder,
    sha256_of,
)
from audiotag.options import EngineOptions

logger = logging.getLogger(__name__)


def with_onnx(folder: ModelFolder, engine: EngineOptions) -> ModelFolder:
    """The folder with the ONNX file that an engine needs, as an earlier run or this one makes it.

    Raises:
        HubError: it needs int8, which takes sound to make.
        ModelError: what `export` raises.
    """
    exported = open_exported(folder) or export(folder)
    if not has_needed(exported, engine):
        raise HubError(f"{folder.name}: has no {ONNX_INT8}. Use --precision fp32")
    return exported


def exported_folder(repo: str, commit: str) -> Path:
    """Where the ONNX file made from a commit's weights is kept."""
    return audiotag_cache() / "exported" / repo.replace("/", "--") / commit


def _checksum_file(path: Path) -> Path:
    return path / (ONNX + ".sha256")


def open_exported(folder: ModelFolder) -> ModelFolder | None:
    """What an earlier run exported, if it is still what that run wrote."""
    path = exported_folder(folder.name, str(folder.revision))
    try:
        expected = _checksum_file(path).read_text(encoding="utf-8").strip()
        if sha256_of(path / ONNX) != expected:
            return None
    except (OSError, ValueError):
        return None
    return open_model_folder(path, name=folder.name, revision=folder.revision)


def export(folder: ModelFolder) -> ModelFolder:
    """Exports a model's weights once, in a folder that appears whole or not at all.

    Raises:
        HubError: PyTorch is not installed.
        ModelError: the weights do not fit, or the cache cannot be written.
    """
    if find_spec("torch") is None or find_spec("onnx") is None:
        raise HubError(f"{folder.name}: has no ONNX file, and making one needs PyTorch. {install_line('torch')}")
    from audiotag.export import export_folder

    target = exported_folder(folder.name, str(folder.revision))
    logger.info("%s: has no ONNX file; exporting it once to %s", folder.name, target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as room:
            partial = Path(room) / "model"
            partial.mkdir()
            for name in (CONFIG, PREPROCESSOR, WEIGHTS):
                shutil.copyfile(folder.file(name), partial / name)
            export_folder(replace(folder, path=partial))
            _checksum_file(partial).write_text(sha256_of(partial / ONNX) + "\n", encoding="utf-8")
            if open_exported(folder) is None:  # another process may have made one meanwhile, and read it
                shutil.rmtree(target, ignore_errors=True)  # an earlier one that did not match its checksum
            if not target.exists():
                partial.rename(target)
    except OSError as error:
        raise ModelError(
            f"{target}: cannot be written: {error.strerror or error}. Set AUDIOTAG_CACHE to another folder"
        ) from error
    return open_model_folder(target, name=folder.name, revision=folder.revision)
