"""Operations on the maps of each image that gates need, written for the layout they come in.

Maps are channels_last, bfloat16 in training. Autograd would do the same with float32 copies, sums
over strided axes and gradients in another layout, which then slow down every layer behind: twice
the time of the whole step was measured. Here nothing leaves the layout.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_LEAST = 1e-12
"""Below this product of squared norms there is no angle: one of the maps is all zero."""


def _flat(maps: Tensor) -> Tensor:
    """[N, C, H, W] as [N, H * W * C]: no copy where the maps are channels_last."""
    return maps.permute(0, 2, 3, 1).flatten(1)


def _wide(maps: Tensor) -> Tensor:
    return _flat(maps).to(torch.promote_types(maps.dtype, torch.float32))


def _per_image(values: Tensor, like: Tensor) -> Tensor:
    return values[:, None, None, None].to(like.dtype)


def _pick(maps: Tensor, images: Tensor) -> Tensor:
    return maps.permute(0, 2, 3, 1).index_select(0, images).permute(0, 3, 1, 2)


def _add(maps: Tensor, images: Tensor, more: Tensor) -> Tensor:
    """`maps` with `more` added to some images."""
    rows = maps.permute(0, 2, 3, 1).index_add(0, images, more.permute(0, 2, 3, 1))
    return rows.permute(0, 3, 1, 2)


def _sums(maps: Tensor) -> Tensor:
    """Sum of each image's map, [N], in float32 or wider."""
    # Pooling adds up in float32 without a float32 copy of the map; summing makes one first.
    side = min(4, *maps.shape[2:])
    whole = maps.shape[2] % side == 0 and maps.shape[3] % side == 0
    pooled = functional.avg_pool2d(maps, side) * side**2 if whole else maps
    return _wide(pooled).sum(1)


class _Cosine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        x, y = _wide(a), _wide(b)
        a_square, b_square = (torch.linalg.vector_norm(each, dim=1).square() for each in (x, y))
        squares = a_square * b_square
        scale = squares.rsqrt().where(squares > _LEAST, 0.0)
        cosine: Tensor = (x * y).sum(1) * scale
        along = (
            (cosine / square.clamp(min=_LEAST)).where(squares > _LEAST, 0.0)
            for square in (a_square, b_square)
        )
        ctx.save_for_backward(a, b, scale, *along)
        return cosine

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        a, b, scale, along_a, along_b = ctx.saved_tensors
        cross, to_a, to_b = (_per_image(grads[0] * each, a) for each in (scale, along_a, along_b))
        return cross * b - to_a * a, cross * a - to_b * b


class _Branch(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, stream: Tensor, residual: Tensor, gates: Tensor, images: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(residual, gates, images)
        actual = stream + residual * _per_image(gates, residual)
        some = _pick(stream, images)
        return actual, some + _pick(residual, images), _pick(actual, images)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        residual, gates, images = ctx.saved_tensors
        whole, opened, kept = grads
        to_gates = _sums(whole * residual)
        to_residual = whole * _per_image(gates, residual)
        to_stream = whole
        if len(images):
            weighted = kept * _per_image(gates[images], kept)
            to_gates = to_gates.index_add(0, images, _sums(kept * _pick(residual, images)))
            to_residual = _add(to_residual, images, opened + weighted)
            to_stream = _add(whole, images, opened + kept)
        return to_stream, to_residual, to_gates.to(gates.dtype), None


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        ctx.dtype = maps.dtype
        ctx.shape = maps.shape
        wide = torch.promote_types(maps.dtype, torch.float32)
        return maps.permute(0, 2, 3, 1).flatten(1, 2).to(wide).mean(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        count, channels, height, width = ctx.shape
        share = (grads[0] / (height * width)).to(ctx.dtype)[:, None, None, :]
        # Spread out in memory too: what adds it to other gradients is slow on a broadcast.
        spread: Tensor = share.expand(count, height, width, channels).contiguous()
        return spread.permute(0, 3, 1, 2)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of the angle between two maps, flattened, of each image; differentiable.

    Args:
        a, b: [N, C, H, W] of the same type; sums are taken in float32 or wider.

    Returns:
        float32 (float64 for float64 maps) [N]; 0 where a map is all zero, and no gradient.
    """
    result: Tensor = _Cosine.apply(a, b)  # type: ignore[no-untyped-call]
    return result


def mean(maps: Tensor) -> Tensor:
    """Mean of [N, C, H, W] over the map, [N, C] in float32 or wider; differentiable."""
    result: Tensor = _Mean.apply(maps)  # type: ignore[no-untyped-call]
    return result


def peak(maps: Tensor) -> Tensor:
    """Maximum of [N, C, H, W] over the map, [N, C] in float32 or wider; differentiable."""
    wide = torch.promote_types(maps.dtype, torch.float32)
    return functional.max_pool2d(maps, tuple(maps.shape[2:]))[:, :, 0, 0].to(wide)


def branch(
    stream: Tensor, residual: Tensor, gates: Tensor, images: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A gated addition, and what it would have been with the gate open; differentiable.

    Args:
        stream, residual: [N, C, H, W] of the same type.
        gates: float32 [N].
        images: indices int64 [M] of some images, each at most once.

    Returns:
        stream + gates * residual [N, C, H, W]; of `images` only, [M, C, H, W]: stream + residual,
        and the first result again.
    """
    result: tuple[Tensor, Tensor, Tensor] = _Branch.apply(stream, residual, gates, images)  # type: ignore[no-untyped-call]
    return result
