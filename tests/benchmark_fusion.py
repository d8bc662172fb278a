"""What fusing is worth on this machine: run `python tests/benchmark_fusion.py`; a script, not a test.

Three forms of the published size (VGG-Sound, windows of 512 x 128) on torch and on ONNX Runtime: multi-branch as
trained; the authors' merge, which keeps the BatchNorms of dense convolutions and the identities; complete fusion.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from audiotag.config import NetworkConfig
from audiotag.export import _Graph
from audiotag.network import AudioRepInceptionNeXt, Block, ConvNorm, MultiBranchConv, fuse

N_FRAMES, N_MELS = 512, 128
BATCH_SIZES = (1, 8)


class WithIdentity(nn.Module):
    """The authors' merged mixer: one depth-wise convolution, and the identity added at run time."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + x  # type: ignore[no-any-return]


def authors_merge(network: AudioRepInceptionNeXt) -> AudioRepInceptionNeXt:
    merged = copy.deepcopy(network).eval()
    for block in merged.modules():
        if isinstance(block, Block):
            for axis in ("time", "frequency"):
                conv = getattr(block, axis).fuse()
                with torch.no_grad():
                    conv.weight[:, 0, conv.kernel_size[0] // 2, conv.kernel_size[1] // 2] -= 1.0
                setattr(block, axis, WithIdentity(conv))
    return merged


class UnfusedGraph(_Graph):
    """Writes the parts that a fused network does not have."""

    def conv(self, module: nn.Module, x: str, name: str) -> str:
        if isinstance(module, ConvNorm):
            y, norm = self._plain(module.conv, x, f"{name}.conv"), module.norm
            parts = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
            weights = [self.weight(part, f"{name}.norm{i}") for i, part in enumerate(parts) if part is not None]
            return self.add("BatchNormalization", [y, *weights], name, epsilon=norm.eps)
        if isinstance(module, MultiBranchConv):
            total = self.conv(module.branches[0], x, f"{name}.0")
            for i, branch in enumerate(module.branches[1:], start=1):
                total = self.add("Add", [total, self.conv(branch, x, f"{name}.{i}")], f"{name}.sum{i}")
            return self.add("Add", [total, x], name)
        if isinstance(module, WithIdentity):
            return self.add("Add", [self._plain(module.conv, x, f"{name}.conv"), x], name)
        return self._plain(module, x, name)

    def _plain(self, module: nn.Module, x: str, name: str) -> str:
        assert isinstance(module, nn.Conv2d)
        inputs = [x, self.weight(module.weight, f"{name}.weight")]
        if module.bias is not None:
            inputs.append(self.weight(module.bias, f"{name}.bias"))
        rows, columns = module.kernel_size[0] // 2, module.kernel_size[1] // 2
        return self.add(
            "Conv", inputs, name, kernel_shape=list(module.kernel_size), strides=list(module.stride),
            pads=[rows, columns, rows, columns], group=module.groups,
        )  # fmt: skip


def session(network: AudioRepInceptionNeXt, folder: Path, threads: int, *, optimised: bool) -> Any:
    """ONNX Runtime with this graph; its own optimiser folds most of a BatchNorm too, unless it is told not to."""
    graph = UnfusedGraph()
    graph.network(network)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes, "benchmark",
            [helper.make_tensor_value_info("log_mel", TensorProto.FLOAT, ["batch", 1, N_FRAMES, N_MELS])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", network.config.n_labels])],
            graph.weights,
        ),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
    )  # fmt: skip
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])


def milliseconds_per_window(call: Callable[[], object], batch_size: int, repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return 1000 * min(times) / batch_size  # what else runs on the machine only adds


def gmacs(network: nn.Module) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 1, N_FRAMES, N_MELS))
    return counter.get_total_flops() / 2e9


def make_network(size: NetworkConfig) -> AudioRepInceptionNeXt:
    torch.manual_seed(0)
    network = AudioRepInceptionNeXt(size).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.2, 0.4)
            nn.init.normal_(module.bias, std=0.1)
    return network


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    network = make_network(NetworkConfig(n_labels=309))
    forms = {"multi-branch": network, "authors' merge": authors_merge(network), "fused": fuse(network)}
    log_mels = {n: torch.randn(n, 1, N_FRAMES, N_MELS) for n in BATCH_SIZES}
    expected = network(log_mels[1])
    print(f"torch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}, {given.threads} thread(s); "
          f"best of {given.repeats}, milliseconds a window")  # fmt: skip
    runners = ("torch", "torch channels-last", "ONNX as written", "ONNX optimised")
    columns = "".join(f" {f'{runner} x{n}':>23}" for runner in runners for n in BATCH_SIZES)
    print(f"{'form':<15} {'parameters':>11} {'GMACs':>7}{columns}")
    for name, form in forms.items():
        assert torch.allclose(form(log_mels[1]), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
        shown = f"{name:<15} {sum(p.numel() for p in form.parameters()):>11,} {gmacs(form):>7.4f}"
        last = copy.deepcopy(form).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with tempfile.TemporaryDirectory() as folder:
            sessions = [session(form, Path(folder), given.threads, optimised=optimised) for optimised in (False, True)]
        for run in (form, last, *sessions):
            for n, x in log_mels.items():
                if isinstance(run, nn.Module):
                    x = x.to(memory_format=torch.channels_last) if run is last else x
                    took = milliseconds_per_window(lambda run=run, x=x: run(x), n, given.repeats)  # type: ignore[misc]
                else:
                    feed = {"log_mel": np.asarray(x)}
                    took = milliseconds_per_window(
                        lambda run=run, feed=feed: run.run(None, feed), n, given.repeats)  # type: ignore[misc]
                shown += f" {took:>23.1f}"
        print(shown, flush=True)


if __name__ == "__main__":
    main()
