"""Engines: the same logits from each, and a clear word where one cannot be had."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import TINY_CONFIG, tone

from audiotag.config import FrontEndConfig, NetworkConfig
from audiotag.engines import FloatArray
from audiotag.engines.onnx import FILE_OF_PRECISION, GMACS_OF_CALL, OnnxEngine, open_session
from audiotag.errors import EngineError, ModelError
from audiotag.model_folder import open_model_folder

EMBEDDED = Path(__file__).parents[1] / "weights" / "default"
LOGITS = 1e-4  # between engines, on logits of about 10 (float32 has 7 digits)
HALF = 0.1  # fp16 and bf16 keep 3 and 2 digits


@pytest.fixture
def log_mels() -> FloatArray:
    """Four log-mels as they come of sound: mostly between -13 (silence) and 3."""
    shape = (4, 1, TINY_CONFIG.window.n_frames, TINY_CONFIG.frontend.n_mels)
    return np.random.default_rng(0).normal(-4.0, 2.0, shape).astype(np.float32)


@pytest.fixture
def expected(tiny_network: Any, log_mels: FloatArray) -> FloatArray:
    """Logits of the multi-branch network."""
    with torch.inference_mode():
        return tiny_network(torch.from_numpy(log_mels)).numpy()  # type: ignore[no-any-return]


def onnx_engine(folder: Path, precision: str) -> OnnxEngine:
    return OnnxEngine(folder / FILE_OF_PRECISION[precision], TINY_CONFIG, precision=precision)


def torch_engine(folder: Path, device: str, precision: str) -> Any:
    from audiotag.engines.torch import TorchEngine
    from audiotag.network import load_fused

    network = load_fused(folder / "model.safetensors", TINY_CONFIG.network)
    return TorchEngine(network, device=device, precision=precision)


def test_onnx_gives_the_network_s_logits(tiny_model_folder: Path, log_mels: FloatArray, expected: FloatArray) -> None:
    np.testing.assert_allclose(onnx_engine(tiny_model_folder, "fp32")(log_mels), expected, atol=LOGITS)


def test_torch_gives_the_network_s_logits(tiny_model_folder: Path, log_mels: FloatArray, expected: FloatArray) -> None:
    np.testing.assert_allclose(torch_engine(tiny_model_folder, "cpu", "fp32")(log_mels), expected, atol=LOGITS)


@pytest.mark.parametrize("device", ["cuda", "mps"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", LOGITS), ("fp16", HALF), ("bf16", 4 * HALF)])
def test_a_gpu_gives_the_network_s_logits(
    device: str, precision: str, tolerance: float, tiny_model_folder: Path, log_mels: FloatArray, expected: FloatArray
) -> None:
    try:
        engine = torch_engine(tiny_model_folder, device, precision)
    except EngineError as error:
        pytest.skip(str(error))
    np.testing.assert_allclose(engine(log_mels), expected, atol=tolerance)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_onnx_logits_are_the_same_to_the_last_bit_in_every_batch(
    precision: str, tiny_model_folder: Path, log_mels: FloatArray
) -> None:
    engine = onnx_engine(tiny_model_folder, precision)
    alone = np.concatenate([engine(log_mels[row : row + 1]) for row in range(len(log_mels))])
    np.testing.assert_array_equal(engine(log_mels), alone)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_embedded_model_s_logits_are_the_same_to_the_last_bit_in_every_batch_and_on_two_threads(
    precision: str,
) -> None:
    """Its layers are wide enough for the kernels of ONNX Runtime that the tiny model's do not reach."""
    folder = open_model_folder(EMBEDDED)
    shape = (5, 1, folder.config.window.n_frames, folder.config.frontend.n_mels)
    log_mels = np.random.default_rng(0).normal(-4.0, 2.0, shape).astype(np.float32)
    engine = OnnxEngine(folder.file(FILE_OF_PRECISION[precision]), folder.config, precision=precision)
    with ThreadPoolExecutor(2) as executor:
        alone = np.concatenate(list(executor.map(engine, np.split(log_mels, len(log_mels)))))
    np.testing.assert_array_equal(engine(log_mels), alone)


def test_in_int8_the_pool_behind_the_stem_stays_float32_for_which_it_has_a_fast_kernel(tmp_path: Path) -> None:
    open_session(EMBEDDED / "onnx/model_int8.onnx", tmp_path / "optimised.onnx")
    graph = onnx.load(tmp_path / "optimised.onnx").graph
    (pool,) = (node for node in graph.node if node.op_type == "MaxPool")
    users = {node.op_type for node in graph.node if pool.output[0] in node.input}
    assert users <= {"QuantizeLinear", "ReorderOutput"}, "what it gives is float32"


def test_a_file_that_is_no_graph_is_a_model_error(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no graph" * 100)
    with pytest.raises(ModelError, match=r"model\.onnx: not a graph that runs"):
        OnnxEngine(path, TINY_CONFIG, precision="fp32")


def test_a_graph_that_does_not_fit_the_configuration_is_a_model_error(tiny_model_folder: Path) -> None:
    frontend: FrontEndConfig = replace(TINY_CONFIG.frontend, n_mels=40)
    with pytest.raises(ModelError, match=r"takes .* but the configuration says"):
        OnnxEngine(tiny_model_folder / "onnx/model.onnx", replace(TINY_CONFIG, frontend=frontend), precision="fp32")


def test_a_graph_that_gives_other_rows_than_it_declares_is_an_engine_error(
    tiny_model_folder: Path, log_mels: FloatArray, tmp_path: Path
) -> None:
    model = onnx.load(tiny_model_folder / "onnx/model.onnx")
    model.graph.node[-1].output[0] = "rows"
    model.graph.node.append(onnx.helper.make_node("ReduceMean", ["rows"], ["logits"], axes=[0]))
    onnx.save(model, tmp_path / "model.onnx")
    engine = OnnxEngine(tmp_path / "model.onnx", TINY_CONFIG, precision="fp32")
    with pytest.raises(EngineError, match=r"gives \(1, 3\) for 4 windows"):
        engine(log_mels)


@pytest.fixture
def new_name_in_use() -> Iterator[None]:
    """A program that sets the precision of convolutions by the name that torch 2.9 gave it."""
    convolutions = pytest.importorskip("torch", minversion="2.9").backends.cudnn.conv
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "ieee"
    yield
    convolutions.fp32_precision = before


@pytest.mark.usefixtures("new_name_in_use")
def test_torch_runs_in_a_program_that_sets_precisions_by_their_new_names(
    tiny_model_folder: Path, log_mels: FloatArray, expected: FloatArray
) -> None:
    np.testing.assert_allclose(torch_engine(tiny_model_folder, "cpu", "fp32")(log_mels), expected, atol=LOGITS)


def test_calls_at_once_compute_without_tf32_and_give_back_what_was_set() -> None:
    from audiotag.engines.torch import _IEEE, _NAME, _PRECISION, _without_tf32

    before = getattr(_PRECISION, _NAME)
    assert before != _IEEE

    def is_exact_to_the_end(seconds: float) -> bool:
        with _without_tf32():
            time.sleep(seconds)
            return bool(getattr(_PRECISION, _NAME) == _IEEE)

    with ThreadPoolExecutor(4) as executor:
        assert all(executor.map(is_exact_to_the_end, [0.02, 0.01, 0.03, 0.0]))
    assert getattr(_PRECISION, _NAME) == before


def test_a_device_that_torch_does_not_have_is_an_engine_error(tiny_model_folder: Path) -> None:
    missing = "cuda:99" if torch.cuda.is_available() else "cuda"
    with pytest.raises(EngineError, match=f"device {missing}: "):
        torch_engine(tiny_model_folder, missing, "fp32")


def test_onnx_does_not_import_torch(tiny_model_folder: Path) -> None:
    code = (
        "import sys; from audiotag.model_folder import open_model_folder; from audiotag.tagger import Tagger;"
        "Tagger(open_model_folder(sys.argv[1])); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tiny_model_folder)], check=True, timeout=60)


def test_a_small_network_gets_eight_windows_a_call_and_the_published_size_one(tiny_model_folder: Path) -> None:
    assert onnx_engine(tiny_model_folder, "fp32").batch_size == 8
    published = NetworkConfig(n_labels=309)
    assert round(GMACS_OF_CALL / (published.n_macs(512, 128) / 1e9)) == 0, "so one"


_STARVED = """
import resource, sys
import numpy as np
from pathlib import Path
from audiotag.engines.onnx import OnnxEngine
from audiotag.model_folder import open_model_folder
folder = open_model_folder(sys.argv[1])
window, frontend = folder.config.window, folder.config.frontend
engine = OnnxEngine(folder.path / "onnx/model.onnx", folder.config, precision="fp32")
one = np.zeros((1, 1, window.n_frames, frontend.n_mels), np.float32)
expected = engine(one)
many = np.zeros((6000, *one.shape[1:]), np.float32)
in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + (16 << 20),) * 2)
try:
    engine(many)
except MemoryError as error:
    assert (engine(one) == expected).all()
    print("MemoryError")
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells and limits its memory so")
def test_onnxruntime_out_of_memory_is_a_memory_error_and_the_engine_lives_on(tiny_model_folder: Path) -> None:
    command = [sys.executable, "-c", _STARVED, str(tiny_model_folder)]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout == "MemoryError\n"


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), MemoryError),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory"), MemoryError),
        (RuntimeError("MPS backend out of memory (MPS allocated: 5.50 GB, max allowed: 20.40 GB)."), MemoryError),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), EngineError),
    ],
    ids=["CUDA", "CPU", "MPS", "other"],
)
def test_torch_out_of_memory_is_a_memory_error(
    tiny_model_folder: Path, log_mels: FloatArray, error: Exception, raised: type[Exception]
) -> None:
    engine = torch_engine(tiny_model_folder, "cpu", "fp32")
    network = engine._network

    def starved(batch: Any) -> Any:
        if len(batch) > 2:
            raise error
        return network(batch)

    engine._network = starved
    with pytest.raises(raised):
        engine(log_mels)
    np.testing.assert_array_equal(engine(log_mels[:2]).shape, (2, len(TINY_CONFIG.labels)))


@pytest.mark.parametrize("home", ["home", "/proc/nowhere"], ids=["a home", "a home that cannot be written"])
def test_a_run_leaves_nothing_in_the_home_and_says_nothing_of_it(
    tiny_model_folder: Path, tmp_path: Path, write_wav: Callable[..., Path], home: str
) -> None:
    # onnxruntime 1.29 to 1.31 write an identifier for their telemetry into ~/.cache/Microsoft, or complain that they
    # cannot, when they are imported.
    (tmp_path / "home").mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "HF_", "ORT_"))}
    command = [sys.executable, "-m", "audiotag", "predict", str(write_wav("a.wav", tone()))]
    done = subprocess.run(
        [*command, "--model", str(tiny_model_folder)], env={**kept, "HOME": str(tmp_path / home)},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    assert not list((tmp_path / "home").rglob("*"))


def test_a_missing_file_names_the_file_and_the_way_out(tiny_model_folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((tiny_model_folder / name).read_bytes())
    from audiotag.options import EngineOptions
    from audiotag.tagger import Tagger

    with pytest.raises(ModelError, match=r"model\.onnx"):
        Tagger(open_model_folder(tmp_path), options=EngineOptions(device="cpu", engine="onnx"))
