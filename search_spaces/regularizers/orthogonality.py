"""Orthogonality penalty: how far layers are from keeping lengths and angles, in the loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strengths
from search_spaces.regularizers._matrices import matrices, precise, scaled_sum

if TYPE_CHECKING:
    from torch import Tensor

    from search_spaces.passes import Beginning


@dataclass(frozen=True)
class Map:
    """How a weight is used: a filter bank with its stride and groups, or `parts` matrices, one
    above the other."""

    stride: tuple[int, ...] = ()
    groups: int = 1
    parts: int = 1


def maps(beginning: Beginning) -> Mapping[str, Map | None]:
    """How each weight of the model is used, by name; None for tables, which map no vectors."""
    from torch import nn

    found: dict[str, Map | None] = {}
    for path, module in beginning.model.named_modules():
        for slot, weight in module.named_parameters(recurse=False):
            use = Map() if weight.ndim == 2 else None
            if isinstance(module, nn.modules.conv._ConvNd) and slot == "weight":
                # Zeros between the entries of a kernel only stretch the shifts that count.
                shifts = zip(module.stride, module.dilation, strict=True)
                use = Map(tuple(s // math.gcd(s, d) for s, d in shifts), module.groups)
            elif isinstance(module, nn.Embedding | nn.EmbeddingBag):
                use = None
            elif isinstance(module, nn.MultiheadAttention) and slot == "in_proj_weight":
                use = Map(parts=3)
            found[f"{path}.{slot}" if path else slot] = use
    return found


def penalty(
    used: Mapping[str, Map | None], parameters: Mapping[str, Tensor], h: Strengths
) -> Tensor:
    """strength * sum over layers of |W W^T - I|^2, or |W^T W - I|^2 if that is smaller.

    Of convolutions W is not the matrix of the filters but that of the whole operation: per place,
    |conv(K, K) - I|^2 with K over itself at every shift that the stride allows, to be one at no
    shift and zero elsewhere (Wang et al. 2020). With more outputs than inputs that cannot be; then
    outputs - inputs * stride is taken off, which leaves the penalty of W^T W (Achour et al. 2022;
    tested against the matrix of the operation on periodic images). Each group of a grouped
    convolution is a convolution of its own. Tables of embeddings and tensors of other layers that
    are no matrix stay out.
    """
    terms = []
    for name, weight in matrices(parameters).items():
        use = used.get(name, Map())
        if use is None:
            continue
        if weight.ndim == 2:
            terms += [of_matrix(part) for part in precise(weight).chunk(use.parts)]
        else:
            terms.append(of_filters(precise(weight), use.stride, use.groups))
    return scaled_sum(h["orthogonality"], terms)


def of_matrix(matrix: Tensor) -> Tensor:
    """|W W^T - I|^2 over the smaller side."""
    import torch

    wide = matrix.shape[0] <= matrix.shape[1]
    gram = matrix @ matrix.mT if wide else matrix.mT @ matrix
    return (gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).square().sum()


def of_filters(kernel: Tensor, stride: tuple[int, ...] = (), groups: int = 1) -> Tensor:
    """|conv(K, K) - I|^2 - max(outputs - inputs * stride, 0), for filters (out, in, ...)."""
    import torch
    from torch.nn import functional

    sizes = kernel.shape[2:]
    stride = stride or (1,) * len(sizes)
    outputs, inputs = kernel.shape[0] // groups, kernel.shape[1]
    padding = tuple((size - 1) // step * step for size, step in zip(sizes, stride, strict=True))
    # One batch entry holds the filter of the same place in every group.
    filters = kernel.reshape(groups, outputs, *kernel.shape[1:]).transpose(0, 1).flatten(1, 2)
    convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[len(sizes) - 1]
    overlap = convolve(filters, kernel, None, stride, padding, 1, groups)
    target = torch.zeros_like(overlap[0, 0])
    target[tuple(pad // step for pad, step in zip(padding, stride, strict=True))] = 1.0
    same = torch.eye(outputs, dtype=kernel.dtype, device=kernel.device).repeat(1, groups)
    apart = overlap - same.reshape(outputs, -1, *[1] * len(sizes)) * target
    excess = max(outputs - inputs * math.prod(stride), 0)
    return apart.square().sum() - groups * excess


REGULARIZER = Regularizer(
    knobs={
        "orthogonality": Float(
            1e-5, 1.0, scale="log", start=1e-3, off=0.0, limits=(0.0, float("inf"))
        )
    },
    remember=maps,
    penalty=penalty,
    differentiable=True,
    note="coupled; of convolutions that of the whole operation, with their stride and groups",
)
