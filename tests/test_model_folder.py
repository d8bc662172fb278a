"""Model folders: what is written is read back, dirt from the Hub is survived, everything else is refused."""

from __future__ import annotations

import hashlib
import json
import logging
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from audiotag.config import ModelConfig
from audiotag.errors import ModelError
from audiotag.model_card import model_card, write_model_card
from audiotag.model_folder import CONFIG, ONNX, ONNX_INT8, PREPROCESSOR, WEIGHTS, open_model_folder, write_configs

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def folder(tiny_config: ModelConfig, tmp_path: Path) -> Path:
    write_configs(tmp_path / "model", tiny_config)
    return tmp_path / "model"


def change(path: Path, edit: Change) -> None:
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))


def test_what_is_written_is_read_back(tiny_config: ModelConfig, folder: Path) -> None:
    opened = open_model_folder(folder)
    assert (opened.name, opened.revision, opened.config) == ("model", None, tiny_config)
    assert not list(folder.glob("*.partial"))


@pytest.mark.parametrize(
    ("edit", "labels", "n_warnings"),
    [
        (lambda c: c.update(id2label={"0": 10, "1": 20, "2": 30}), ("10", "20", "30"), 1),
        (lambda c: c.update(id2label={"2": "c", "0": "a", "1": "b"}), ("a", "b", "c"), 0),
        (lambda c: c.update(id2label={f"LABEL_{i}": name for i, name in enumerate("abc")}), ("a", "b", "c"), 0),
        (lambda c: c.pop("id2label"), ("LABEL_0", "LABEL_1", "LABEL_2"), 1),
        (lambda c: c.pop("label2id"), None, 0),
        (lambda c: c.update(label2id={"LABEL_0": "0"}), None, 0),
        (lambda c: c.pop("problem_type"), None, 1),
        (lambda c: (c.pop("problem_type"), c.pop("id2label")), ("LABEL_0", "LABEL_1", "LABEL_2"), 1),
        (lambda c: c.update(thresholds={"Dog": 0.5, "Cat": 0.5}), None, 1),
    ],
    ids=["numbers", "text ids", "LABEL_n ids", "no labels", "no label2id", "odd label2id", "no problem_type", "two",
         "a threshold of no label"],
)  # fmt: skip
def test_dirt_seen_on_the_hub_is_survived_with_one_warning(
    folder: Path, caplog: pytest.LogCaptureFixture, edit: Change, labels: tuple[str, ...] | None, n_warnings: int
) -> None:
    expected = labels or open_model_folder(folder).config.labels
    change(folder / CONFIG, edit)
    with caplog.at_level(logging.WARNING, logger="audiotag"):
        assert open_model_folder(folder).config.labels == expected
    assert len(caplog.records) == n_warnings
    assert all(str(folder) in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("name", "edit", "complaint"),
    [
        (CONFIG, lambda c: c.update(architectures=["ASTForAudioClassification"]), "ASTForAudioClassification"),
        (CONFIG, lambda c: (c.pop("architectures"), c.update(model_type="wav2vec2")), "wav2vec2"),
        (CONFIG, lambda c: c.update(id2label={"0": "a", "1": "b"}), "does not name the outputs 0 to 2"),
        (CONFIG, lambda c: c.update(id2label={"one": "a"}), "'one'"),
        (CONFIG, lambda c: c.update(id2label={"0": "a", "1": "b", "2": "a"}), "label 'a' stands more than once"),
        (CONFIG, lambda c: c.update(id2label={"0": "a", "1": "", "2": "c"}), "label 1 has an empty name"),
        (CONFIG, lambda c: c.update(problem_type="regression"), "'regression'"),
        (CONFIG, lambda c: c.pop("network"), "'network' is missing"),
        (CONFIG, lambda c: c["network"].update(width=10**9), "out of all proportion"),
        (CONFIG, lambda c: c["network"].update(width=10**9, depths=[10**9]), "out of all proportion"),
        (CONFIG, lambda c: c["network"].update(depths=[1] * 100_000), "out of all proportion"),
        (CONFIG, lambda c: c["network"].update(n_labels=10**12), "n_labels must be 1 to"),
        (CONFIG, lambda c: c["network"].update(kernel_sizes=[10**9 + 1]), "out of all proportion"),
        (CONFIG, lambda c: c["network"].update(width="wide"), "width must be a whole number, not 'wide'"),
        (CONFIG, lambda c: c["network"].update(width=4.0), "width must be a whole number"),
        (CONFIG, lambda c: c["network"].update(n_labels=float("inf")), "n_labels must be a whole number"),
        (CONFIG, lambda c: c["network"].update(depths=[1.0, 1, 1, 1]), "depths must be a list of whole numbers"),
        (CONFIG, lambda c: c["network"].update(dropout="0.5"), "dropout must be a finite number"),
        (CONFIG, lambda c: c["network"].update(dropout=1.5), "dropout must be 0 to 1"),
        (CONFIG, lambda c: c.update(heads=[{"name": "a", "size": 3.0}]), "size must be a whole number"),
        (CONFIG, lambda c: c.update(heads=[{"name": None, "size": 3}]), "name must be text"),
        (CONFIG, lambda c: c.update(heads=[{"name": "a", "size": 2}]), "do not add up to 3 outputs"),
        (CONFIG, lambda c: c.update(heads=[{"name": "a", "size": 0}]), "a head needs one output at least"),
        (CONFIG, lambda c: c.update(aggregate="median"), "aggregate must be mean or max, not 'median'"),
        (CONFIG, lambda c: c["network"].update(width=0), "n_labels, width and depths must be positive"),
        (CONFIG, lambda c: c["network"].update(kernel_sizes=[6]), "kernel_sizes must be odd"),
        (CONFIG, lambda c: c["network"].update(kernel_sizes=[3, 7]), "kernel_sizes must begin with the largest"),
        (CONFIG, lambda c: c.update(int8_map_loss="0.2"), "not usable"),
        (CONFIG, lambda c: c.update(int8_map_loss=[]), "not usable"),
        (CONFIG, lambda c: c.update(license=["MIT"]), "license must be text"),
        (CONFIG, lambda c: c.update(thresholds={"Dog": float("nan")}), "is no finite number"),
        (CONFIG, lambda c: c["network"].update(width=10**400), "not usable"),
        (CONFIG, lambda c: c.update(thresholds={"Dog": 10**400}), "not usable"),
        (PREPROCESSOR, lambda c: c["frontend"].update(sample_rate=10**400), "not usable"),
        (PREPROCESSOR, lambda c: c["frontend"].update(hop_length=80.0), "hop_length must be a whole number"),
        (PREPROCESSOR, lambda c: c["frontend"].update(log_offset=float("nan")), "log_offset must be a finite number"),
        (PREPROCESSOR, lambda c: c["window"].update(n_samples=3999.0), "n_samples must be a whole number"),
        (PREPROCESSOR, lambda c: c["window"].update(n_samples=10**15), "out of all proportion"),
        (PREPROCESSOR, lambda c: c["frontend"].update(n_fft=2**40, win_length=200), "out of all proportion"),
        (PREPROCESSOR, lambda c: c["frontend"].update(n_mels=10**9), "out of all proportion"),
        (PREPROCESSOR, lambda c: c["frontend"].update(sample_rate=10**9), "sample_rate is out of all proportion"),
        (PREPROCESSOR, lambda c: c["frontend"].update(n_fft=2**18, n_mels=2**15), "out of all proportion"),
        (PREPROCESSOR, lambda c: c["window"].update(n_samples=10**8, n_frames=10**8), "out of all proportion"),
        (PREPROCESSOR, lambda c: c["frontend"].update(colour="red"), "unknown key 'colour'"),
        (PREPROCESSOR, lambda c: c["frontend"].pop("n_fft"), "frontend: .* missing .* 'n_fft'"),
        (PREPROCESSOR, lambda c: c["frontend"].update(win_length=300), "must rise and be positive, not 80, 300, 256"),
        (PREPROCESSOR, lambda c: c["frontend"].update(fmax=4001.0), r"must rise within 0 and 4000\.0 Hz"),
        (PREPROCESSOR, lambda c: c["frontend"].update(log_offset=0.0), "n_mels and log_offset must be positive"),
        (PREPROCESSOR, lambda c: c["window"].update(n_frames=0), "n_samples and n_frames must be positive"),
        (PREPROCESSOR, lambda c: c["window"].update(n_frames=51), "of 3999 samples has 50 frames, not 51"),
        (PREPROCESSOR, lambda c: c["window"].update(padding="mirror"), "padding must be one of .* not 'mirror'"),
        (PREPROCESSOR, lambda c: c["window"].update(repeat_gap=-1), "repeat_gap must be 0 or more, not -1"),
    ],
)
def test_what_is_not_ours_or_out_of_proportion_is_refused(
    folder: Path, name: str, edit: Change, complaint: str
) -> None:
    change(folder / name, edit)
    with pytest.raises(ModelError, match=complaint):
        open_model_folder(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000], ids=lambda value: repr(value[:4]))
@pytest.mark.parametrize("name", [CONFIG, PREPROCESSOR])
def test_a_broken_file_is_a_model_error(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match=name):
        open_model_folder(folder)


@pytest.mark.parametrize("name", [CONFIG, PREPROCESSOR])
def test_a_link_to_a_device_that_never_ends_is_no_configuration(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/null")  # as /dev/zero, but for a test that fails
    with pytest.raises(ModelError, match=f"{name}: is no file"):
        open_model_folder(folder)


def test_another_architecture_is_named_even_without_our_second_file(folder: Path) -> None:
    (folder / PREPROCESSOR).unlink()
    change(folder / CONFIG, lambda c: c.update(architectures=["Wav2Vec2ForCTC"]))
    with pytest.raises(ModelError, match="Wav2Vec2ForCTC"):
        open_model_folder(folder)


def test_a_missing_file_is_named_with_the_way_to_get_it(folder: Path) -> None:
    opened = open_model_folder(folder)
    assert not opened.has(ONNX)
    with pytest.raises(ModelError, match=r"onnx/model\.onnx is missing\. Run `audiotag export "):
        opened.file(ONNX)
    with pytest.raises(ModelError, match="--precision fp32"):
        opened.file(ONNX_INT8)


def test_the_checksum_is_that_of_the_weights_or_else_of_the_onnx_file(folder: Path) -> None:
    (folder / ONNX).parent.mkdir()
    (folder / ONNX).write_bytes(b"onnx")
    assert open_model_folder(folder).sha256 == hashlib.sha256(b"onnx").hexdigest()
    (folder / WEIGHTS).write_bytes(b"weights")
    assert open_model_folder(folder).sha256 == hashlib.sha256(b"weights").hexdigest()


def test_parameters_are_those_of_a_fused_network(tiny_network: Any, tiny_config: ModelConfig) -> None:
    from audiotag.network import fuse

    fused = sum(parameter.numel() for parameter in fuse(tiny_network).parameters())
    assert tiny_config.network.n_parameters == fused


@pytest.mark.parametrize(("spdx", "hub_license", "hub_license_name"), [
    (None, "other", None),
    ("CC-BY-SA-4.0", "cc-by-sa-4.0", None),
    ("GPL-3.0-or-later", "other", "gpl-3.0-or-later"),
    ("CC-BY-4.0 AND MIT", "other", "cc-by-4.0-and-mit"),
])  # fmt: skip
def test_the_card_satisfies_the_hubs_own_classes(
    tiny_config: ModelConfig, tmp_path: Path, spdx: str | None, hub_license: str, hub_license_name: str | None
) -> None:
    from huggingface_hub import ModelCard

    metrics = {"fp32": {"macro_map": 0.5, "micro_map": 0.6, "top1": 0.7, "top5": 0.9, "n_clips": 10, "n_labels": 3,
                        "per_label": []}}  # fmt: skip
    config = replace(tiny_config, license=spdx, metrics=metrics, provenance={"data": "FSD"})
    write_model_card(tmp_path, config)
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.pipeline_tag, data.library_name) == ("audio-classification", "audiotag")
    assert (data.license, data.license_name) == (hub_license, hub_license_name)
    assert data.eval_results is not None
    assert {result.metric_value for result in data.eval_results} == {0.5, 0.7, 0.9}


def test_a_name_that_is_not_utf_8_is_no_obstacle(tiny_config: ModelConfig, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    # A folder of clips, or a checkpoint, with bytes of Latin-1 in its name.
    metrics = {"fp32": {"macro_map": 0.5, "top1": 0.7, "top5": 0.9, "n_clips": 10, "n_labels": 3, "per_label": []}}
    config = replace(tiny_config, metrics=metrics, provenance={"data": "V\udcf6gel"})
    write_configs(tmp_path, config)
    write_model_card(tmp_path, config)
    assert open_model_folder(tmp_path).config.provenance == config.provenance
    (first, *_) = ModelCard.load(tmp_path / "README.md").data.eval_results or ()
    assert first.dataset_name == "V\udcf6gel, held-out fold"


def test_a_card_without_figures_satisfies_the_hub_too(tiny_config: ModelConfig) -> None:
    from huggingface_hub import ModelCard

    data = ModelCard(model_card(tiny_config)).data
    assert data.pipeline_tag == "audio-classification"
    assert "AudioRepInceptionNeXt" in (data.tags or [])


def test_the_embedded_models_card_satisfies_the_hub() -> None:
    from huggingface_hub import ModelCard

    path = Path(__file__).parents[1] / "weights" / "default" / "README.md"
    data = ModelCard.load(path).data
    assert data.pipeline_tag == "audio-classification"
    assert data.eval_results is not None
    assert data.eval_results[0].dataset_name == "manifest.csv, held-out fold, by the weights before the refit"


def test_the_package_names_the_licence_of_the_embedded_weights_beside_that_of_the_code() -> None:
    root = Path(__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    weights = json.loads((root / "weights" / "default" / CONFIG).read_text())
    assert project["license"] == f"Apache-2.0 AND {weights['license']}"
