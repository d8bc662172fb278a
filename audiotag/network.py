"""AudioRepInceptionNeXt: trained with parallel depth-wise branches, fused into one branch for inference.

Lau, Rehman, Po: "AudioRepInceptionNeXt: A lightweight single-stream architecture for efficient audio recognition",
Neurocomputing 578 (2024). One class serves both forms: `fuse` replaces each multi-branch part by the plain
convolution it equals, and every forward stays as it is. Logits come out; `scores` applies the activation.
Tensors are `[batch, channel, frame, mel]`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from audiotag.config import NetworkConfig
from audiotag.errors import ModelError


class ConvNorm(nn.Module):
    """A convolution without bias and its BatchNorm; padding keeps the size at stride 1."""

    def __init__(
        self, n_in: int, n_out: int, kernel_size: tuple[int, int] = (1, 1), *, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        padding = (kernel_size[0] // 2, kernel_size[1] // 2)
        self.conv = nn.Conv2d(n_in, n_out, kernel_size, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(n_out)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, n_in, frame, mel]` -> `[batch, n_out, frame / stride, mel / stride]`."""
        return self.norm(self.conv(x))  # type: ignore[no-any-return]

    @torch.no_grad()
    def fuse(self) -> nn.Conv2d:
        """The convolution with bias that gives the same output in evaluation mode.

        w' = w * gamma / sqrt(var + eps), b' = beta - mean * gamma / sqrt(var + eps)
        (Ding et al., "RepVGG", CVPR 2021, equation 3).
        """
        mean, variance = self.norm.running_mean, self.norm.running_var
        assert mean is not None
        assert variance is not None
        scale = self.norm.weight / torch.sqrt(variance + self.norm.eps)
        fused = _conv_with_bias_like(self.conv)
        fused.weight.copy_(self.conv.weight * scale[:, None, None, None])
        assert fused.bias is not None
        fused.bias.copy_(self.norm.bias - mean * scale)
        return fused


class MultiBranchConv(nn.Module):
    """Depth-wise mixing along one axis: a sum of branches with kernels of several sizes, plus the identity.

    `axis` 0 mixes frames (time), 1 mixes mel bands (frequency).
    """

    def __init__(self, channels: int, kernel_sizes: tuple[int, ...], *, axis: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            ConvNorm(channels, channels, (size, 1) if axis == 0 else (1, size), groups=channels)
            for size in kernel_sizes
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, channel, frame, mel]` -> the same shape."""
        mixed = self.branches[0](x)
        for branch in self.branches[1:]:
            mixed = mixed + branch(x)
        return mixed + x  # type: ignore[no-any-return]

    @torch.no_grad()
    def fuse(self) -> nn.Conv2d:
        """One depth-wise convolution: smaller kernels are centred in the largest, the identity adds 1 to its centre."""
        fused, *smaller = [branch.fuse() for branch in self.branches]  # type: ignore[operator]
        for other in smaller:
            rows, columns = (
                (large - small) // 2 for large, small in zip(fused.kernel_size, other.kernel_size, strict=True)
            )
            fused.weight += functional.pad(other.weight, (columns, columns, rows, rows))
            fused.bias += other.bias
        fused.weight[:, 0, fused.kernel_size[0] // 2, fused.kernel_size[1] // 2] += 1.0
        return fused  # type: ignore[no-any-return]


class Block(nn.Module):
    """Reduce, mix along time, mix along frequency, expand four times, project back, add the shortcut."""

    def __init__(self, n_in: int, n_out: int, kernel_sizes: tuple[int, ...], *, stride: int) -> None:
        super().__init__()
        self.reduce = ConvNorm(n_in, n_out, stride=stride)
        self.time = MultiBranchConv(n_out, kernel_sizes, axis=0)
        self.frequency = MultiBranchConv(n_out, kernel_sizes, axis=1)
        self.expand = ConvNorm(n_out, 4 * n_out)
        self.project = ConvNorm(4 * n_out, n_out)
        same = n_in == n_out and stride == 1
        self.shortcut = nn.Identity() if same else ConvNorm(n_in, n_out, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, n_in, frame, mel]` -> `[batch, n_out, frame / stride, mel / stride]`."""
        y = functional.relu(self.reduce(x))
        y = functional.relu(self.time(y))
        y = functional.relu(self.frequency(y))
        y = functional.relu(self.expand(y))  # [batch, 4 * n_out, frame / stride, mel / stride]
        return functional.relu(self.shortcut(x) + self.project(y))


class AudioRepInceptionNeXt(nn.Module):
    """The whole network, in either form.

    The last feature map is averaged over all its positions before the head. The published networks average it with a
    kernel that covers exactly one nominal window, which is the same for the windows that they are used with.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = ConvNorm(1, config.width, (5, 7), stride=2)
        self.stages = nn.Sequential()
        n_in = config.width
        for index, (n_out, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            strides = [1 if index == 0 else 2] + [1] * (depth - 1)
            blocks = [
                Block(n_in if position == 0 else n_out, n_out, config.kernel_sizes, stride=stride)
                for position, stride in enumerate(strides)
            ]
            self.stages.append(nn.Sequential(*blocks))
            n_in = n_out
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(n_in, config.n_labels)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of log-mels: `[batch, 1, frame, mel]` -> `[batch, class]`."""
        x = functional.relu(self.stem(x))  # [batch, width, frame / 2, mel / 2]
        x = functional.max_pool2d(x, 3, stride=2, padding=1)  # [batch, width, frame / 4, mel / 4]
        x = self.stages(x)  # [batch, 8 * width, frame / 32, mel / 32]
        x = functional.adaptive_avg_pool2d(x, 1).flatten(1)  # [batch, 8 * width]
        return self.head(self.dropout(x))  # type: ignore[no-any-return]


def initialise(network: AudioRepInceptionNeXt) -> None:
    """Random weights to train from, as the authors do: He initialisation, each block an identity at first."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, Block):
            nn.init.zeros_(module.project.norm.weight)
    nn.init.normal_(network.head.weight, std=0.01)
    nn.init.zeros_(network.head.bias)


@torch.no_grad()
def fuse(network: AudioRepInceptionNeXt) -> AudioRepInceptionNeXt:
    """A copy in the fused form, in evaluation mode: no BatchNorm and no identity path is left, the output is the same.

    A fused network comes back as a plain copy.
    """
    fused = copy.deepcopy(network).eval()
    _fuse_children(fused)
    return fused


def _fuse_children(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, ConvNorm | MultiBranchConv):
            setattr(module, name, child.fuse())
        else:
            _fuse_children(child)


def _conv_with_bias_like(conv: nn.Conv2d) -> nn.Conv2d:
    return nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding,  # type: ignore[arg-type]
        groups=conv.groups, bias=True, device=conv.weight.device, dtype=conv.weight.dtype,
    )  # fmt: skip


@torch.no_grad()
def round_to_half(network: AudioRepInceptionNeXt) -> None:
    """Rounds a network's weights to numbers that float16 holds as well, in place: its files then take half the bytes.

    They are computed with in float32 as before. Tensors with numbers beyond float16's range stay as they are.
    """
    for tensor in network.state_dict().values():
        if tensor.abs().max() <= torch.finfo(torch.float16).max:
            tensor.copy_(tensor.half())


def stored_type(network: AudioRepInceptionNeXt) -> torch.dtype:
    """What a network's files hold its weights in: float16 if that loses nothing of any of them, else float32."""
    lossless = all(torch.equal(tensor.half().float(), tensor) for tensor in network.state_dict().values())
    return torch.float16 if lossless else torch.float32


def save_fused(network: AudioRepInceptionNeXt, path: Path) -> None:
    """Writes the weights of a fused network as safetensors, in their `stored_type`."""
    dtype = stored_type(network)
    tensors = {name: tensor.to(dtype).contiguous() for name, tensor in network.state_dict().items()}
    # Not save_file: it makes files that only their owner can read.
    path.write_bytes(safetensors.torch.save(tensors, metadata={"format": "pt"}))


def load_fused(path: Path, config: NetworkConfig) -> AudioRepInceptionNeXt:
    """The fused network in evaluation mode, float32, with the weights of a safetensors file.

    Raises:
        ModelError: the file is no safetensors, or a tensor is missing, unknown or of another shape.
    """
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise ModelError(f"{path}: not a readable safetensors file: {error}. Fetch or make the model again") from error
    with torch.device("meta"):  # no memory for what the file may not hold
        network = fuse(AudioRepInceptionNeXt(config))
    check_tensors(tensors, network.state_dict(), where=str(path), error=ModelError)
    network.to_empty(device="cpu").load_state_dict(tensors)
    return network


def check_tensors(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, where: str, error: type[Exception]
) -> None:
    """Raises `error` for the first tensor that is missing, of another shape, or not expected at all."""
    for name, tensor in expected.items():
        if name not in found:
            raise error(f"{where}: tensor {name!r} {list(tensor.shape)} is missing. It does not fit the configuration")
        if found[name].shape != tensor.shape:
            shapes = f"has shape {list(found[name].shape)}, the configuration wants {list(tensor.shape)}"
            raise error(f"{where}: tensor {name!r} {shapes}. It does not fit the configuration")
    for name in found:
        if name not in expected:
            raise error(f"{where}: tensor {name!r} {list(found[name].shape)} is not part of this network")
