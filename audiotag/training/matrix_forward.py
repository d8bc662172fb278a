"""The training forward of the multi-branch network as matrix products, for CPUs.

What `AudioRepInceptionNeXt.forward` computes in training mode, without depth-wise convolutions and almost without a
BatchNorm over a feature map, both of which are slow there. Tensors are `[channel, frame, batch, mel]`, so that each
part is a plain or batched matrix product over contiguous rows:

- a 1 x 1 convolution is z = W x;
- a depth-wise convolution along an axis is z = A x with one band matrix A for each channel;
- the BatchNorm after such a product needs the mean and variance of its rows, which follow from the moments of x:
  mean(z) = A mean(x), var(z) = diag(A x x' A') / n - mean(z)^2. It then folds into the matrix, gamma / sigma * A, and
  so the parallel branches and the identity become one matrix before anything is multiplied.

Gradients are BatchNorm's (Ioffe, Szegedy, 2015, section 3), with the product put in: for g = dL/dy,
dL/dz = scale (g - mean(g) - z_hat mean(g z_hat)) = scale g - a - b z, where b = scale dgamma / (sigma n) and
a = scale sum(g) / n - b mean(z), and every sum over z follows from g x' and x x'.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

from audiotag.network import AudioRepInceptionNeXt, Block, ConvNorm, MultiBranchConv


def training_logits(network: AudioRepInceptionNeXt, log_mels: Tensor) -> Tensor:
    """Logits of a batch, with the gradients and running statistics of `network(log_mels)` in training mode.

    Shape: `[batch, 1, frame, mel]` -> `[batch, class]`.
    """
    x = functional.relu_(network.stem(log_mels))
    x = functional.max_pool2d(x, 3, stride=2, padding=1)
    x = x.permute(1, 2, 0, 3).contiguous()  # [width, frame / 4, batch, mel / 4]
    for stage in network.stages:
        for block in cast(nn.Sequential, stage):
            x = _block(cast(Block, block), x)
    features = x.mean(dim=(1, 3)).t()  # [batch, 8 * width]
    return cast(Tensor, network.head(network.dropout(features)))


def _block(block: Block, x: Tensor) -> Tensor:
    y = functional.relu_(_pointwise(block.reduce, x))
    y = functional.relu_(_mix(block.time, y, axis=0))
    y = functional.relu_(_mix(block.frequency, y, axis=1))
    y = functional.relu_(_pointwise(block.expand, y))
    y = _pointwise(block.project, y)
    shortcut = x if isinstance(block.shortcut, nn.Identity) else _pointwise(block.shortcut, x)
    return functional.relu_(y + shortcut)


def _pointwise(part: ConvNorm, x: Tensor) -> Tensor:
    """A 1 x 1 convolution and its BatchNorm. `[n_in, frame, batch, mel]` -> `[n_out, frame', batch, mel']`."""
    stride, norm = part.conv.stride[0], part.norm
    if stride > 1:
        x = x[:, ::stride, :, ::stride].contiguous()
    weight, rows = part.conv.weight.flatten(1), x.flatten(1)
    if len(weight) < len(rows):  # the moments of x would cost more than they save
        y = norm((weight @ rows)[None, :, :, None])
    else:
        y, mean, variance = _PointwiseNorm.apply(rows, weight, norm.weight, norm.bias, norm.eps)  # type: ignore[no-untyped-call]
        _update_statistics(norm, mean, variance, n=rows.shape[1])
    return cast(Tensor, y).view(-1, *x.shape[1:])


def _mix(part: MultiBranchConv, x: Tensor, *, axis: int) -> Tensor:
    """The branches and the identity along frames (axis 0) or mel bands (axis 1), shape kept."""
    branches = [cast(ConvNorm, branch) for branch in part.branches]
    size = max(branch.conv.kernel_size[axis] for branch in branches)
    kernels = torch.stack([_padded(branch.conv.weight, size) for branch in branches], dim=1)
    gamma = torch.stack([branch.norm.weight for branch in branches], dim=1)
    beta = torch.stack([branch.norm.bias for branch in branches], dim=1)
    rows = x.flatten(2) if axis == 0 else x.flatten(1, 2)
    y, mean, variance = _MixNorm.apply(rows, kernels, gamma, beta, branches[0].norm.eps, axis)  # type: ignore[no-untyped-call]
    for branch, branch_mean, branch_variance in zip(branches, mean.t(), variance.t(), strict=True):
        _update_statistics(branch.norm, branch_mean, branch_variance, n=rows[0].numel())
    return cast(Tensor, y).view(x.shape)


def _padded(kernels: Tensor, size: int) -> Tensor:
    """Depth-wise kernels of any axis, centred in `size` taps. Shape: `[channel, size]`."""
    kernels = kernels.flatten(1)
    missing = (size - kernels.shape[1]) // 2
    return functional.pad(kernels, (missing, missing))


@torch.no_grad()
def _update_statistics(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, *, n: int) -> None:
    """As PyTorch does it: the variance that is remembered is the unbiased one."""
    momentum = cast(float, norm.momentum)
    cast(Tensor, norm.running_mean).lerp_(mean, momentum)
    cast(Tensor, norm.running_var).lerp_(variance * (n / max(1, n - 1)), momentum)
    cast(Tensor, norm.num_batches_tracked).add_(1)


class _PointwiseNorm(Function):
    """BatchNorm of W x. Shape: x `[n_in, n]`, weight `[n_out, n_in]` -> `[n_out, n]`, and mean and variance."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> tuple[Tensor, ...]:
        n = x.shape[1]
        sums = x.sum(dim=1)
        products = weight @ (x @ x.t())  # z x'
        mean = (weight @ sums) / n
        variance = ((products * weight).sum(dim=1) / n - mean.square()).clamp_(min=0.0)  # a difference of large numbers
        inverse = torch.rsqrt(variance + eps)
        scale = gamma * inverse
        scaled = scale[:, None] * weight
        ctx.save_for_backward(x, weight, sums, products, mean, inverse, scale, scaled)
        ctx.mark_non_differentiable(mean, variance)
        return torch.addmm((beta - scale * mean)[:, None], scaled, x), mean, variance

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, sums, products, mean, inverse, scale, scaled = ctx.saved_tensors
        n = x.shape[1]
        by_input, dbeta = g @ x.t(), g.sum(dim=1)
        dgamma = ((by_input * weight).sum(dim=1) - mean * dbeta) * inverse
        b = scale * inverse * dgamma / n
        a = scale * dbeta / n - b * mean
        dweight = torch.addcmul(scale[:, None] * by_input, b[:, None], products, value=-1).sub_(torch.outer(a, sums))
        dx = torch.addmm(-(a @ weight)[:, None], -(weight.t() * b) @ weight, x).addmm_(scaled.t(), g)
        return dx, dweight, dgamma, dbeta, None


class _MixNorm(Function):
    """Sum of the BatchNorms of A x over the branches, plus x.

    Shape: x `[channel, length, n]` (axis 0) or `[channel, n, length]` (axis 1), kernels `[channel, branch, size]`,
    gamma and beta `[channel, branch]` -> the shape of x, and mean and variance `[channel, branch]`.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kernels: Tensor, gamma: Tensor, beta: Tensor, eps: float, axis: int
    ) -> tuple[Tensor, ...]:
        channels, branches, size = kernels.shape
        length, n = x.shape[1 + axis], x[0].numel()
        taps = _tap_matrix(size, length).to(x)
        bands = (kernels.flatten(0, 1) @ taps.t()).view(channels, branches * length, length)
        moments, sums = _outer(x, x, axis), x.sum(dim=2 - axis)
        products = bands @ moments  # z x'
        mean = (bands @ sums[:, :, None]).view(channels, branches, length).sum(dim=2) / n
        squares = (products * bands).view(channels, branches, -1).sum(dim=2) / n
        variance = (squares - mean.square()).clamp_(min=0.0)
        inverse = torch.rsqrt(variance + eps)
        scale = gamma * inverse
        total = (scale[:, None] @ bands.view(channels, branches, -1)).view(channels, length, length)
        total += torch.eye(length).to(x)
        offset = (beta - scale * mean).sum(dim=1)[:, None, None]
        y = torch.baddbmm(offset, total, x) if axis == 0 else torch.baddbmm(offset, x, total.mT)
        ctx.axis = axis
        ctx.save_for_backward(x, bands, taps, sums, products, mean, inverse, scale, total)
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, bands, taps, sums, products, mean, inverse, scale, total = ctx.saved_tensors
        (channels, branches), length, n = scale.shape, total.shape[1], x[0].numel()
        by_input, summed = _outer(g, x, ctx.axis), g.sum(dim=(1, 2))[:, None]
        each = bands.view(channels, branches, -1)
        dgamma = ((each @ by_input.view(channels, -1, 1))[:, :, 0] - mean * summed) * inverse
        b = scale * inverse * dgamma / n
        a = scale * summed / n - b * mean
        dbands = scale[:, :, None, None] * by_input[:, None] - a[:, :, None, None] * sums[:, None, None]
        dbands -= b[:, :, None, None] * products.view(channels, branches, length, length)
        dkernels = (dbands.view(channels * branches, -1) @ taps).view(channels, branches, -1)
        weighed = (b[:, :, None] * each).view(bands.shape)
        inner = -(bands.mT @ weighed)  # symmetric
        constant = -(a[:, None] @ each.view(channels, branches, length, length).sum(dim=2)).mT  # [channel, length, 1]
        if ctx.axis == 0:
            dx = torch.baddbmm(constant, inner, x).baddbmm_(total.mT, g)
        else:
            dx = torch.baddbmm(constant.mT, x, inner).baddbmm_(g, total)
        return dx, dkernels, dgamma, summed.expand(channels, branches), None, None


def _outer(left: Tensor, right: Tensor, axis: int) -> Tensor:
    """The sum over everything but the mixed axis of left times right. Shape: `[channel, length, length]`."""
    return left @ right.mT if axis == 0 else left.mT @ right


@lru_cache(maxsize=64)
def _tap_matrix(size: int, length: int) -> Tensor:
    """1 where tap k of a centred kernel connects input i to output o. Shape: `[output * input, tap]`."""
    positions = torch.arange(length)
    taps = positions - positions[:, None] + size // 2
    return (taps.reshape(-1, 1) == torch.arange(size)).float()
