"""Checkpoints into model folders: the authors' numbers, and no folder where something is wrong."""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import authors
import numpy as np
import numpy.typing as npt
import pytest
import scipy.fft
import soundfile
import torch
from conftest import Ran
from torch import Tensor

from audiotag.config import ModelConfig
from audiotag.convert import convert, read_checkpoint, read_labels
from audiotag.errors import CheckpointError, OutputError, UsageError
from audiotag.export import verify_folder
from audiotag.model_folder import CONFIG, ONNX, ONNX_INT8, open_model_folder
from audiotag.network import load_fused
from audiotag.published import DATASETS, known_labels

FloatArray = npt.NDArray[np.float32]
Run = Callable[..., Ran]

FIXTURES = Path(__file__).parents[2] / "shared" / "reference" / "fixtures"
needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason="../shared/reference is not there")

SAME_LOGITS = 1e-5  # of the largest: float32 in another order of summation
SAME_SCORES = 1e-5  # the same, and six digits in the output


# --- the authors' numbers ---


@pytest.mark.parametrize("layout", authors.LAYOUTS)
@pytest.mark.parametrize("dataset", ["nsynth", "epickitchens"])
def test_each_layout_gives_the_logits_of_the_branches(dataset: str, layout: str, tmp_path: Path) -> None:
    state = authors.training_form(dataset)
    checkpoint = authors.write_pyth(tmp_path / "c.pyth", dataset, authors.LAYOUTS[layout](state))
    converted = read_checkpoint(checkpoint)
    x = torch.randn(2, 1, 416, 128, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, expected = converted.network(x), authors.logits(state, x)
    assert converted.config.provenance["layout"] == layout
    assert (found - expected).abs().max() <= SAME_LOGITS * expected.abs().max()


def test_weights_that_were_saved_as_parameters_are_weights(tmp_path: Path) -> None:
    state = authors.training_form("nsynth")
    kept = {name: torch.nn.Parameter(tensor, tensor.is_floating_point()) for name, tensor in state.items()}
    plain, parameters = (
        read_checkpoint(authors.write_pyth(tmp_path / "c.pyth", "nsynth", each)).network.state_dict()
        for each in (state, kept)
    )
    for name, tensor in plain.items():
        torch.testing.assert_close(parameters[name], tensor, rtol=0, atol=0)


def test_the_layouts_have_as_many_tensors_as_the_authors_files() -> None:
    state = authors.training_form("vggsound")
    assert [len(form(state)) for form in authors.LAYOUTS.values()] == [890, 954, 378]


def authors_log_mel(samples: npt.NDArray[np.float64], dataset: str) -> FloatArray:
    """The log-mel of a whole excerpt, written from the description only: `[frame, mel]`."""
    rate, _, _, window_ms, hop_ms, _, _ = authors.SETTINGS[dataset]
    win, hop, n_fft = round(window_ms * rate / 1000), round(hop_ms * rate / 1000), 2048
    hann = np.zeros(n_fft)
    hann[(n_fft - win) // 2 :][:win] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(win) / win)
    padded = np.pad(samples, n_fft // 2)
    frames = np.stack([padded[at : at + n_fft] * hann for at in range(0, len(samples) + 1, hop)])
    to_mel, to_hz = (lambda f: 2595 * np.log10(1 + f / 700)), (lambda m: 700 * (10 ** (m / 2595) - 1))
    corners = to_hz(np.linspace(0, to_mel(rate / 2), 130))
    basis = np.stack([np.interp(np.fft.rfftfreq(n_fft, 1 / rate), corners[m : m + 3], [0, 1, 0]) for m in range(128)])
    magnitudes = np.abs(scipy.fft.rfft(frames, axis=1))
    return np.asarray(np.log(magnitudes @ basis.T + 1e-6), dtype=np.float32)


def authors_views(samples: npt.NDArray[np.float64], dataset: str) -> FloatArray:
    """What the authors' loader gives the network for a clip: `[view, 1, frame, mel]`."""
    rate, seconds, n_frames, _, _, _, n_views = authors.SETTINGS[dataset]
    length = round(rate * seconds)
    if len(samples) < length:
        if dataset == "urbansound8k":
            samples = np.pad(samples, (0, length - 1 - len(samples)), mode="edge")
        log_mel = authors_log_mel(samples, dataset)[:n_frames]
        log_mel = np.pad(log_mel, ((0, n_frames - len(log_mel)), (0, 0)), mode="edge")
        return np.stack([log_mel] * n_views)[:, None]
    starts = [int(at) for at in np.linspace(0, len(samples) - length, n_views)]
    return np.stack([authors_log_mel(samples[at : at + length - 1], dataset) for at in starts])[:, None]


def write_clip(path: Path, n_samples: int, rate: int, *, channels: int = 1) -> npt.NDArray[np.float64]:
    """Noise that swells around a rising tone, as 16-bit PCM; gives the mean of the channels as it is decoded."""
    rng, time = np.random.default_rng(n_samples), np.arange(n_samples) / rate
    sound = 0.3 * np.sin(2 * np.pi * (200 + 300 * time) * time)[:, None] + 0.05 * rng.normal(size=(n_samples, channels))
    pcm = np.round(32767 * np.clip(sound * (0.2 + 0.8 * np.sin(time)[:, None] ** 2), -1, 1)).astype(np.int16)
    soundfile.write(path, pcm, rate, subtype="PCM_16")
    return np.asarray(pcm.astype(np.float64).mean(axis=1) / 32768)


@pytest.mark.parametrize("dataset", authors.SETTINGS)
def test_predict_gives_the_mean_of_the_authors_views(dataset: str, tmp_path: Path, run_audiotag: Run) -> None:
    rate, seconds, _, _, _, classes, n_views = authors.SETTINGS[dataset]
    length = round(rate * seconds)
    state = authors.training_form(dataset)
    model = tmp_path / "model"
    convert(authors.write_pyth(tmp_path / "c.pyth", dataset, state), model)
    # Long and stereo, short, and one of the lengths where a sample decides; each data set's own.
    edge = length + sorted(authors.SETTINGS).index(dataset) % 3 - 1
    for n_samples, channels in ((2 * length + 77, 2), (length // 3, 1), (edge, 1)):
        samples = write_clip(tmp_path / "clip.wav", n_samples, rate, channels=channels)
        with torch.no_grad():
            logits = authors.logits(state, torch.from_numpy(authors_views(samples, dataset))).double()
        expected = torch.cat([part.softmax(dim=1).mean(dim=0) for part in logits.split(classes, dim=1)]).numpy()
        ran = run_audiotag("predict", tmp_path / "clip.wav", "--model", model, "--max-windows", str(n_views),
                           "--top-k", "0", "-f", "json")  # fmt: skip
        assert ran.code == 0, ran.stderr
        found = {tag["label"]: tag["score"] for tag in json.loads(ran.stdout)["results"][0]["tags"]}
        labels = open_model_folder(model).config.labels
        assert len(found) == sum(classes)
        np.testing.assert_allclose([found[label] for label in labels], expected, rtol=0, atol=SAME_SCORES)


# --- what the folder says ---


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_records_are_what_the_checkpoints_say(dataset: str, tmp_path: Path) -> None:
    published = DATASETS[dataset]
    state = authors.training_form(published.authors_name)
    told = authors.write_pyth(tmp_path / "told.pyth", published.authors_name, state)
    silent = authors.write_pyth(tmp_path / "silent.pyth", published.authors_name, state, cfg=f"RESNET: "
                                f"{{WIDTH_PER_GROUP: {authors.WIDTH}}}")  # fmt: skip
    read, named = read_checkpoint(told).config, read_checkpoint(silent, dataset=dataset).config
    assert (read.frontend, read.window, read.labels, read.heads) == (
        named.frontend, named.window, named.labels, named.heads)  # fmt: skip
    assert read.provenance["views"] == named.provenance["views"] == published.n_views


@pytest.mark.parametrize(("dataset", "first", "another"), [
    ("vggsound", "ambulance siren", "writing on blackboard with chalk"),
    ("speech-commands-v2", "dog", None),
    ("urbansound8k", "air_conditioner", "LABEL_34"),
    ("epic-kitchens", "verb:take", None),
])  # fmt: skip
def test_labels_have_the_names_of_the_data_set(dataset: str, first: str, another: str | None, tmp_path: Path) -> None:
    theirs = DATASETS[dataset].authors_name
    config = read_checkpoint(authors.write_pyth(tmp_path / "c.pyth", theirs, authors.training_form(theirs))).config
    assert config.labels[0] == first
    assert another is None or another in config.labels
    assert len(config.labels) == len(set(config.labels)) == sum(head.n_outputs for head in DATASETS[dataset].heads)


def test_two_heads_name_their_tags(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = authors.training_form("epickitchens")
    config = read_checkpoint(authors.write_pyth(tmp_path / "c.pyth", "epickitchens", state)).config
    assert [(head.name, head.size) for head in config.heads] == [("verb", 97), ("noun", 300)]
    assert all(label.startswith("verb:") for label in config.labels[:97])
    assert all(label.startswith("noun:") for label in config.labels[97:])
    unknown = set(range(300)) - set(known_labels(DATASETS["epic-kitchens"].heads[1]))
    assert {f"noun:LABEL_{index}" for index in unknown} <= set(config.labels)
    assert f"noun: the names of {len(unknown)} of 300 outputs are not known: they are called LABEL_n" in caplog.text


@pytest.mark.parametrize("prefixes", [("", ""), ("verb:", "noun:")])
def test_names_that_are_given_for_two_heads_may_name_the_head_too(prefixes: tuple[str, str], tmp_path: Path) -> None:
    path = authors.write_pyth(tmp_path / "c.pyth", "epickitchens", authors.training_form("epickitchens"))
    given = [f"{prefix}{number}" for prefix, size in zip(prefixes, (97, 300), strict=True) for number in range(size)]
    labels = read_checkpoint(path, labels=tuple(given)).config.labels
    assert (labels[0], labels[96], labels[97], labels[-1]) == ("verb:0", "verb:96", "noun:0", "noun:299")


def test_a_checkpoint_s_own_settings_count_until_a_data_set_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = authors.cfg("nsynth")
    settings["TEST"]["NUM_ENSEMBLE_VIEWS"], settings["AUDIO_DATA"]["CLIP_SECS"] = 7, 4.155
    settings["AUDIO_DATA"]["NUM_FREQUENCIES"] = 96
    state = authors.training_form("nsynth")
    path = authors.write_pyth(tmp_path / "c.pyth", "nsynth", state, cfg=json.dumps(settings))
    own, named = read_checkpoint(path).config, read_checkpoint(path, dataset="nsynth").config
    assert (own.provenance["views"], own.window.n_samples, own.frontend.n_mels) == (7, 66479, 96)
    assert (named.provenance["views"], named.window.n_samples, named.frontend.n_mels) == (1, 66559, 128)
    assert not caplog.messages
    with pytest.raises(CheckpointError, match=r"\[11, 32\]"):
        read_checkpoint(path, dataset="vggsound")
    assert caplog.messages == ["the checkpoint says that it is of nsynth; --dataset vggsound overrides it"]


def test_fuse_writes_a_whole_folder_and_says_why_int8_is_missing(
    nsynth: Path, tmp_path: Path, run_audiotag: Run
) -> None:
    ran = run_audiotag("fuse", nsynth, "--out", tmp_path / "new" / "model")
    assert ran.code == 0, ran.stderr
    assert "no int8 file: it needs sound" in ran.stderr
    model = open_model_folder(tmp_path / "new" / "model")
    assert model.config.license == "CC-BY-NC-SA-4.0"
    assert model.config.provenance["epoch"] == 29
    assert sorted(path.name for path in model.path.rglob("*") if path.is_file()) == [
        "README.md", "config.json", "model.onnx", "model.safetensors", "preprocessor_config.json"]  # fmt: skip
    assert os.listdir(tmp_path / "new") == ["model"]


def test_fuse_calibrates_int8_on_a_folder_of_sound(nsynth: Path, tmp_path: Path, run_audiotag: Run) -> None:
    (tmp_path / "sounds").mkdir()
    write_clip(tmp_path / "sounds" / "a.wav", 120_000, 16000)
    ran = run_audiotag("fuse", nsynth, "--out", tmp_path / "model", "--calibrate", tmp_path / "sounds")
    assert (ran.code, ran.stdout) == (0, ""), ran.stderr
    assert (tmp_path / "model" / ONNX_INT8).stat().st_size < (tmp_path / "model" / ONNX).stat().st_size


def test_overwrite_replaces_a_model_and_nothing_else(nsynth: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    convert(nsynth, out)
    with pytest.raises(OutputError, match="--overwrite"):
        convert(nsynth, out)
    (out / ONNX_INT8).write_bytes(b"of the model before")
    convert(nsynth, out, overwrite=True)
    assert not (out / ONNX_INT8).exists()
    (out / ".git").mkdir()
    (out / ".git" / "HEAD").touch()
    with pytest.raises(OutputError, match=r"model: holds \.git/HEAD too, which fuse would delete"):
        convert(nsynth, out, overwrite=True)
    assert (out / ".git" / "HEAD").exists()
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").touch()
    with pytest.raises(OutputError, match="is no model folder"):
        convert(nsynth, tmp_path / "precious", overwrite=True)


def test_a_model_stays_where_the_one_that_replaces_it_cannot_take_its_place(
    nsynth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model"
    out.mkdir()
    (out / CONFIG).write_text("of the model before")
    # As if another program removed what is written before it gets its name.
    monkeypatch.setattr("audiotag.convert.writing._write_folder", lambda folder, *_: folder.rmdir())
    with pytest.raises(OutputError, match=r"model: cannot be written: No such file or directory\. Choose another"):
        convert(nsynth, out, overwrite=True)
    assert (os.listdir(tmp_path), (out / CONFIG).read_text()) == (["model"], "of the model before")


@pytest.mark.parametrize("text", ["{names}", "index,name\n{rows}"])
def test_labels_come_from_a_file(text: str, nsynth: Path, tmp_path: Path, run_audiotag: Run) -> None:
    names = [f"instrument {index}" for index in range(11)]
    rows = "\n".join(f"{index},{name}" for index, name in enumerate(names))
    (tmp_path / "labels").write_text(text.format(names="\n".join(names), rows=rows) + "\n")
    ran = run_audiotag("fuse", nsynth, "--out", tmp_path / "model", "--labels", tmp_path / "labels")
    assert ran.code == 0, ran.stderr
    assert open_model_folder(tmp_path / "model").config.labels == tuple(names)
    assert "not known" not in ran.stderr


def test_our_own_checkpoint_becomes_the_model_that_it_describes(
    tiny_config: ModelConfig, tiny_network: Any, tmp_path: Path
) -> None:
    torch.save({
        "format": "audiotag-checkpoint", "version": 1, "network": tiny_network.state_dict(), "step": 12,
        "model": {"config": tiny_config.to_config_dict(), "preprocessor": tiny_config.to_preprocessor_dict()},
    }, tmp_path / "checkpoint_best.pt")  # fmt: skip
    converted = read_checkpoint(tmp_path / "checkpoint_best.pt")
    assert converted.config.labels == tiny_config.labels
    assert converted.config.window == tiny_config.window
    x = torch.randn(2, 1, tiny_config.window.n_frames, tiny_config.frontend.n_mels)
    with torch.no_grad():
        torch.testing.assert_close(converted.network(x), tiny_network(x), rtol=1e-5, atol=1e-5)
    made = converted.config.provenance
    assert (made["checkpoint"], made["step"]) == ("checkpoint_best.pt", 12)
    assert read_checkpoint(tmp_path / "checkpoint_best.pt", labels=("a", "b", "c")).config.labels == ("a", "b", "c")
    with pytest.raises(UsageError, match="Leave out --dataset"):
        read_checkpoint(tmp_path / "checkpoint_best.pt", dataset="nsynth")


# --- what is refused ---


@pytest.fixture(scope="module")
def nsynth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the smallest head."""
    return authors.write_pyth(tmp_path_factory.mktemp("nsynth") / "c.pyth", "nsynth", authors.training_form("nsynth"))


class Code:
    """Runs a command when it is unpickled as pickle does it."""

    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/audiotag-was-here",)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def with_code(path: Path) -> None:
    torch.save({"model_state": {"x": torch.ones(1)}, "cfg": Code()}, path)


def plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"model_state": Code()}))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def rewritten(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Changes the pickle inside a checkpoint."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in parts.items():
            archive.writestr(name, change(content) if name.endswith("data.pkl") else content)


def huge_storage(path: Path) -> None:
    # How many values the storage of the head's weights has, as pickle writes it: BININT2 352 -> BININT 2**31 - 1.
    rewritten(path, lambda pickled: re.sub(rb"M\x60\x01(?=t)", b"J\xff\xff\xff\x7f", pickled))


def huge_tensor(path: Path) -> None:
    # The shape (11,) of the head's bias becomes (2**31 - 1,): torch would enlarge the storage.
    rewritten(path, lambda pickled: re.sub(rb"K\x0b\x85", b"J\xff\xff\xff\x7f\x85", pickled))


def blown_up(path: Path) -> None:
    # The same, with a stride of 0: all of it is the storage's first value.
    tensor = re.compile(rb"K\x0b\x85(q.|r.{4})K\x01\x85", re.DOTALL)
    rewritten(path, lambda pickled: tensor.sub(b"J\xff\xff\xff\x7f\x85\\1K\\0\x85", pickled))


def beyond_its_end(path: Path) -> None:
    # The head's bias begins at value 7 of its 11.
    rewritten(path, lambda pickled: re.sub(rb"K\x00(?=K\x0b\x85)", b"K\x07", pickled))


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 2**24)


def without_weights(path: Path) -> None:
    torch.save({**torch.load(path), "model_state": []}, path)


def no_mapping(path: Path) -> None:
    torch.save([torch.ones(1)], path)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def of_no_model(path: Path) -> None:
    torch.save({"format": "audiotag-checkpoint", "network": {}}, path)


def of_something_else(path: Path) -> None:
    torch.save({"state_dict": {}}, path)


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (truncated, "is truncated"),
    "empty": (empty, "is truncated, or no checkpoint"),
    "plain pickle": (plain_pickle, "no checkpoint of PyTorch"),
    "code": (with_code, "holds code"),
    "huge storage": (huge_storage, "promises 2147483647 values"),
    "huge tensor": (huge_tensor, r"promises a tensor of \[2147483647\]"),
    "blown up": (blown_up, r"promises a tensor of \[2147483647\] where it holds 11 values"),
    "beyond its end": (beyond_its_end, r"promises a tensor of \[11\] where it holds 11 values"),
    "bomb": (bomb, "claim to be larger than the file"),
    "something else": (of_something_else, "neither a checkpoint of the authors"),
    "no weights": (without_weights, "holds no weights"),
    "no model": (of_no_model, "does not describe its model: 'model'"),
    "no mapping": (no_mapping, "holds a list instead of a checkpoint. Check the file"),
    "missing": (Path.unlink, "does not exist"),
    "a folder": (a_folder, "cannot be read: Is a directory"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_or_hostile_file_is_one_line_and_no_folder(
    kind: str, nsynth: Path, tmp_path: Path, run_audiotag: Run
) -> None:
    path = tmp_path / "c.pyth"
    path.write_bytes(nsynth.read_bytes())
    breaks, message = BROKEN[kind]
    breaks(path)
    before = sorted(os.listdir(tmp_path))
    ran = run_audiotag("fuse", path, "--out", tmp_path / "model")
    assert ran.code == 1
    assert re.search(message, ran.stderr)
    assert ran.stderr.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == before
    assert not Path("/tmp/audiotag-was-here").exists()


def without(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {key: tensor for key, tensor in state.items() if key != name}


def replaced(name: str, tensor: Any) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {**state, name: tensor}


def disagreeing(state: dict[str, Tensor]) -> dict[str, Tensor]:
    name = "s4.pathway0_res3.branch2.b_reparam.bias"
    union = authors.union_form(state)
    return {**union, name: union[name] + 0.001}


MISFITS: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "missing": (without("s3.pathway0_res1.branch2.c_bn.bias"), r"'s3.pathway0_res1.branch2.c_bn.bias' .* is missing"),
    "extra": (replaced("s2.pathway0_res9.branch2.c.weight", torch.ones(2)), "'s2.pathway0_res9.*' .* not part"),
    "misshapen": (replaced("head.projection.weight", torch.ones(12, 32)), r"\[12, 32\], .*\[11, 32\]"),
    "no tensor": (replaced("head.projection.bias", "text"), "'head.projection.bias' is no plain tensor"),
    "not finite": (replaced("head.projection.bias", torch.full((11,), torch.nan)), "projection.bias' .*not finite"),
    "disagreeing": (disagreeing, "two forms disagree: 's4.pathway0_res3.branch2.b_reparam.bias'"),
    "half merged": (lambda state: without("s2.pathway0_res0.branch2.a_reparam.bias")(authors.merged_form(state)),
                    "'s2.pathway0_res0.branch2.a_reparam.bias' .* is missing"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MISFITS)
def test_a_tensor_that_does_not_fit_is_named(kind: str, tmp_path: Path) -> None:
    change, message = MISFITS[kind]
    path = authors.write_pyth(tmp_path / "c.pyth", "nsynth", change(authors.training_form("nsynth")))
    with pytest.raises(CheckpointError, match=message):
        convert(path, tmp_path / "model")
    assert os.listdir(tmp_path) == ["c.pyth"]


@pytest.mark.parametrize(("arguments", "code", "message"), [
    (["--dataset", "nsinth"], 2, "'nsinth' is not one of vggsound"),
    (["--dataset", "vggsound"], 1, r"\[11, 32\], .*\[309, 32\]"),
    (["--dataset", "epic-kitchens"], 1, "'head.projection_verb.weight' .* is missing"),
    (["--labels", "ten.txt"], 2, "the file has 10 names, the checkpoint has 11 outputs"),
    (["--labels", "none.txt"], 2, "is no list of labels"),
    (["--calibrate", "nowhere"], 1, "is no folder"),
])  # fmt: skip
def test_a_wrong_option_is_one_line_and_no_folder(
    arguments: list[str], code: int, message: str, nsynth: Path, tmp_path: Path, run_audiotag: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("ten.txt").write_text("\n".join("abcdefghij"))
    ran = run_audiotag("fuse", nsynth, "--out", "model", *arguments)
    assert ran.code == code
    assert re.search(message, ran.stderr)
    assert ran.stderr.splitlines()[-1].startswith("audiotag: error: ")
    assert os.listdir(tmp_path) == ["ten.txt"]


@pytest.mark.parametrize(("text", "message"), [
    ("TRAIN: [", "cfg is not readable"),
    ("- 1", "it is no mapping"),
    ("A: &a x\nB: [" + "*a, " * 30 + "]", "more than 20 aliases"),
    ("TRAIN: {DATASET: kinetics}", "unknown data set 'kinetics'"),
    ("TRAIN: {DATASET: nsynth}", "no AUDIO_DATA.SAMPLING_RATE"),
    ("!!python/object/apply:os.system ['true']", "cfg is not readable"),
    (None, "does not name its data set"),
])  # fmt: skip
def test_an_unusable_cfg_says_what_it_lacks(text: str | None, message: str, tmp_path: Path) -> None:
    path = authors.write_pyth(tmp_path / "c.pyth", "nsynth", authors.training_form("nsynth"), cfg=text)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path)


@pytest.mark.parametrize(("group", "values", "message"), [
    ("RESNET", {"DEPTH": [50]}, r"RESNET\.DEPTH = \[50\], not 50 or 101\. Check the file"),
    ("RESNET", {"WIDTH_PER_GROUP": 0}, r"RESNET\.WIDTH_PER_GROUP = 0, not 1 to 1024\. Check the file"),
    ("MODEL", {"NUM_CLASSES": [11, 3]}, r"MODEL\.NUM_CLASSES = \[11, 3\] where 1 counts belong"),
    ("AUDIO_DATA", {"SAMPLING_RATE": "fast"}, r"AUDIO_DATA\.SAMPLING_RATE = 'fast'\. Name --dataset"),
    # Eleven days: a folder of such a model would be refused, and comparing its ONNX file took all memory.
    ("AUDIO_DATA", {"CLIP_SECS": 1e6, "NUM_FRAMES": 10**8}, "window of 15999999999 samples is out of all proportion"),
])  # fmt: skip
def test_a_cfg_of_what_no_model_is_says_so(group: str, values: dict[str, Any], message: str, tmp_path: Path) -> None:
    settings = authors.cfg("nsynth")
    settings[group] |= values
    state = authors.training_form("nsynth")
    path = authors.write_pyth(tmp_path / "c.pyth", "nsynth", state, cfg=json.dumps(settings))
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path)


@pytest.mark.parametrize(("row", "message"), [
    ("0,Chicken, rooster", "more cells than the first. Are there commas in names without quotes"),  # was 'Chicken'
    ("0", "label 0 has an empty name"),
])  # fmt: skip
def test_a_row_of_labels_with_other_cells_than_the_first_says_so(row: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(f"index,name\n{row}\n1,Dog\n")
    with pytest.raises(UsageError, match=message):
        read_labels(tmp_path / "labels.csv")


def test_more_labels_than_outputs_ask_for_names(tmp_path: Path) -> None:
    settings = authors.cfg("nsynth")
    settings["MODEL"]["NUM_CLASSES"] = [9]
    state = authors.training_form("nsynth")
    for leaf in ("weight", "bias"):
        state[f"head.projection.{leaf}"] = state[f"head.projection.{leaf}"][:9].clone()
    path = authors.write_pyth(tmp_path / "c.pyth", "nsynth", state, cfg=json.dumps(settings))
    with pytest.raises(UsageError, match="11 labels, the checkpoint has 9 outputs"):
        read_checkpoint(path)
    assert read_checkpoint(path, labels=tuple("abcdefghi")).config.labels == tuple("abcdefghi")


# --- the recorded outputs of the authors' code, where they are at hand ---


def recorded_rule(dataset: str, rule: str) -> dict[str, Tensor]:
    """Rules A and B of the fixtures' README."""
    keys = json.loads((FIXTURES / f"model_{dataset}_keys.json").read_text())["training_form"]
    listed = keys if isinstance(keys, list) else keys["tensors"]
    sizes = {each["key"]: each["shape"] for each in listed}
    norms = {name.removesuffix(".running_mean") for name in sizes if name.endswith(".running_mean")}
    state = {}
    for seed, name in enumerate(sorted(sizes)):
        owner, leaf = name.rsplit(".", 1)
        generator = torch.Generator().manual_seed(seed)
        if leaf == "num_batches_tracked":
            state[name] = torch.tensor(100)
        elif leaf == "running_var" or (leaf == "weight" and owner in norms):
            state[name] = 0.5 + torch.rand(sizes[name], generator=generator)
        else:
            noise = torch.randn(sizes[name], generator=generator)
            state[name] = noise * (1 / noise[0].numel()) ** 0.5 if leaf == "weight" else 0.1 * noise
    if rule == "B":
        gains = {r"branch2\.[ab]_bn(_small|_medium)?\.weight$|branch2\.d_bn\.weight$": 0.25,
                 r"\.branch1_bn\.weight$": 0.75, r"^head\.projection(_verb|_noun)?\.weight$": 4.0}  # fmt: skip
        for name in state:
            for pattern, gain in gains.items():
                state[name] = state[name] * gain if re.search(pattern, name) else state[name]
    return state


@needs_fixtures
@pytest.mark.parametrize(("dataset", "rule", "layout"), [
    ("vggsound", "A", "training"), ("vggsound", "B", "union"), ("epickitchens", "A", "merged"),
    ("epickitchens", "B", "training"),
])  # fmt: skip
def test_recorded_logits_and_probabilities(dataset: str, rule: str, layout: str, tmp_path: Path) -> None:
    recorded = np.load(FIXTURES / f"model_{dataset}_io.npz")
    path = authors.write_pyth(tmp_path / "c.pyth", dataset, authors.LAYOUTS[layout](recorded_rule(dataset, rule)))
    convert(path, tmp_path / "model")
    model = open_model_folder(tmp_path / "model")
    network = load_fused(model.file("model.safetensors"), model.config.network)
    with torch.no_grad():
        found = network(torch.from_numpy(recorded["input"])).double()
    heads = ("_verb", "_noun") if dataset == "epickitchens" else ("",)
    prefix = "B_" if rule == "B" else ""
    expected = np.concatenate([recorded[f"{prefix}logits{head}"].reshape(2, -1) for head in heads], axis=1)
    probabilities = np.concatenate([recorded[f"{prefix}probs{head}"].reshape(2, -1) for head in heads], axis=1)
    scores = torch.cat([found[:, outputs].softmax(dim=1) for _, outputs in model.config.head_slices], dim=1)
    assert np.abs(found.numpy() - expected).max() <= SAME_LOGITS * np.abs(expected).max()
    assert np.abs(scores.numpy() - probabilities).max() <= SAME_SCORES
    assert verify_folder(model) <= 1e-4
