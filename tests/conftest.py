"""What every room's tests share: synthetic sound, a tiny model, a clean environment, and no way out of the machine."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from audiotag.config import FrontEndConfig, ModelConfig, NetworkConfig, WindowConfig

FloatArray = npt.NDArray[np.float32]

# Set before torch and the BLAS libraries are imported: the tests share two cores, and small sums gain nothing.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell's background job ignores Ctrl-C, and so do all programs that it starts: tests that press it would wait.
signal.signal(signal.SIGINT, signal.default_int_handler)

TINY_RATE = 8000  # Hz, the tiny model's


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No setting of the person who runs the tests reaches them, and nothing is written to their home."""
    for name in list(os.environ):
        if name.startswith(("HF_", "AUDIOTAG_", "HUGGING", "TRANSFORMERS_")) or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HF_HOME", str(home / "huggingface"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture(autouse=True)
def _untouched_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log as a new process has it: a command that ran in this one has turned it to its own use."""
    monkeypatch.setattr(logging.getLogger("audiotag"), "handlers", [])
    monkeypatch.setattr(logging.getLogger("audiotag"), "propagate", True)
    logging.getLogger("audiotag").setLevel(logging.NOTSET)


@pytest.fixture(autouse=True)
def _only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket to anything but this machine is an error, not a slow test."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else "localhost"
        if host not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test tried to reach {address!r}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


def assert_no_threads_left() -> None:
    """Every thread of a run has ended."""
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("audiotag-")] == []


# --- synthetic sound: float32 [sample], peak below 1 ---


def tone(frequency: float = 440.0, *, seconds: float = 1.0, sample_rate: int = TINY_RATE) -> FloatArray:
    """A sine of constant level."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    return (0.5 * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def chirp(*, seconds: float = 1.0, sample_rate: int = TINY_RATE) -> FloatArray:
    """A sine that rises linearly from 100 Hz to nine tenths of Nyquist."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    slope = (0.45 * sample_rate - 100.0) / seconds
    return (0.5 * np.sin(2 * np.pi * (100.0 * time + 0.5 * slope * time**2))).astype(np.float32)


def click_train(*, seconds: float = 1.0, sample_rate: int = TINY_RATE, per_second: float = 8.0) -> FloatArray:
    """Single samples of 0.9 at equal distances."""
    clicks = np.zeros(round(seconds * sample_rate), dtype=np.float32)
    clicks[:: round(sample_rate / per_second)] = 0.9
    return clicks


def siren(*, seconds: float = 1.0, sample_rate: int = TINY_RATE) -> FloatArray:
    """A sine whose pitch goes up and down once a second between 500 and 1500 Hz."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    phase = 2 * np.pi * 1000.0 * time - 500.0 * np.cos(2 * np.pi * time)
    return (0.5 * np.sin(phase)).astype(np.float32)


def noise(*, seconds: float = 1.0, sample_rate: int = TINY_RATE, seed: int = 0) -> FloatArray:
    """White noise, different for every seed."""
    n_samples = round(seconds * sample_rate)
    return np.random.default_rng(seed).uniform(-0.5, 0.5, n_samples).astype(np.float32)


def silence(*, seconds: float = 1.0, sample_rate: int = TINY_RATE) -> FloatArray:
    """Zeros."""
    return np.zeros(round(seconds * sample_rate), dtype=np.float32)


def stereo(left: FloatArray, right: FloatArray) -> FloatArray:
    """Two channels as soundfile writes them. Shape: `[sample]`, `[sample]` -> `[sample, 2]`."""
    return np.stack([left, right], axis=1)


@pytest.fixture
def write_wav(tmp_path: Path) -> Callable[..., Path]:
    """Writes samples (`[sample]` or `[sample, channel]`) under `tmp_path` and gives the path."""
    import soundfile

    def write(name: str, samples: FloatArray, *, sample_rate: int = TINY_RATE, subtype: str = "FLOAT") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, sample_rate, subtype=subtype)
        return path

    return write


# --- a tiny model: everything that a real one has, in a few kilobytes ---

TINY_CONFIG = ModelConfig(
    network=NetworkConfig(n_labels=3, width=4, depths=(1, 1, 1, 1), kernel_sizes=(7, 5, 3)),
    frontend=FrontEndConfig(
        sample_rate=TINY_RATE, n_fft=256, win_length=200, hop_length=80, n_mels=32, fmin=0.0, fmax=4000.0
    ),
    window=WindowConfig(n_samples=TINY_RATE // 2 - 1, n_frames=50),
    labels=("Dog", "Siren", "Musical instrument, plucked"),
    activation="sigmoid",
)


@pytest.fixture(scope="session")
def tiny_config() -> ModelConfig:
    """8 kHz, windows of half a second, three labels, sigmoid."""
    return TINY_CONFIG


@pytest.fixture(scope="session")
def tiny_network() -> Any:
    """The tiny network in its multi-branch form, with random weights and random BatchNorm statistics."""
    return make_tiny_network(seed=0)


def make_tiny_network(*, seed: int) -> Any:
    """A network that tells sounds apart: BatchNorm's statistics are drawn at random, then the head is scaled."""
    import torch

    from audiotag.network import AudioRepInceptionNeXt, initialise

    generator_state = torch.get_rng_state()
    torch.manual_seed(seed)
    network = AudioRepInceptionNeXt(TINY_CONFIG.network).eval()
    initialise(network)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.2, 0.2)
    torch.nn.init.normal_(network.head.weight, std=0.5)
    torch.set_rng_state(generator_state)
    _spread_logits(network)
    return network


def _spread_logits(network: Any) -> None:
    """Scales the head so that each label's logits have mean 0 and deviation 2 over the synthetic sounds."""
    import torch

    from audiotag.frontend import WindowLogMel

    n_samples = TINY_CONFIG.window.n_samples
    sounds = [tone(), tone(1500.0), chirp(), chirp()[n_samples:], siren(), click_train(), noise(), silence()]
    log_mels = WindowLogMel(TINY_CONFIG.frontend, TINY_CONFIG.window)([sound[:n_samples] for sound in sounds])
    with torch.no_grad():
        logits = network(torch.from_numpy(log_mels))
        network.head.weight.mul_(2.0 / logits.std(dim=0)[:, None])
        network.head.bias.copy_(-2.0 * logits.mean(dim=0) / logits.std(dim=0))


@pytest.fixture(scope="session")
def tiny_model_folder(tiny_network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real model folder of the tiny network: configurations, weights, ONNX in float32 and int8."""
    from audiotag.export import write_weights
    from audiotag.frontend import WindowLogMel
    from audiotag.model_folder import write_configs
    from audiotag.network import fuse

    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_configs(folder, TINY_CONFIG)
    fused = fuse(tiny_network)
    n_samples = TINY_CONFIG.window.n_samples
    sounds = [sound(seconds=0.5)[:n_samples] for sound in (tone, chirp, click_train, siren, noise, silence)]
    log_mels = WindowLogMel(TINY_CONFIG.frontend, TINY_CONFIG.window)(sounds)
    write_weights(folder, fused, TINY_CONFIG, [log_mels])
    return folder


class Ran(NamedTuple):
    """What a command left behind."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture
def run_audiotag(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Runs a command in this process, as `audiotag.cli.main` does; stdout is no terminal."""
    from audiotag import cli

    def run(*arguments: str | os.PathLike[str]) -> Ran:
        monkeypatch.setattr(sys, "argv", ["audiotag", *map(os.fspath, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as leaving:
            cli.main()
        return Ran(int(leaving.value.code or 0), *capfd.readouterr())

    return run


@pytest.fixture
def in_folder_with_tiny_model(tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The working folder is the test's own, and commands take the tiny model."""
    monkeypatch.setenv("AUDIOTAG_MODEL", str(tiny_model_folder))
    monkeypatch.chdir(tmp_path)
