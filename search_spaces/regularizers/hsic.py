"""HSIC bottleneck: features keep what tells labels apart, and forget the rest of the inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strengths, real
from search_spaces.regularizers._embeddings import doubly_centred, embedded, one, squared_distances

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from search_spaces.passes import Pass


def kernel(rows: Tensor, width: Tensor | float = 1.0) -> Tensor:
    """exp(-|x_i - x_j|^2 / (2 s^2)) of all pairs of rows (B, D), (B, B).

    s is `width` times the median of the distances between rows that differ, taken as a constant.
    """
    import torch

    squares = squared_distances(rows)
    found = squares.detach()
    # Among few classes most pairs are alike, and a median of zero would be no width.
    differ = found > 1e-6 * found.amax()
    median = torch.where(differ, found, torch.nan).flatten().nanmedian().nan_to_num(nan=1.0)
    return (-squares / (2 * width**2 * median)).exp()


def hsic(first: Tensor, second: Tensor) -> Tensor:
    """tr(K H L H) / (B - 1)^2 of two kernel matrices (B, B), H taking the mean out.

    The biased estimate of the Hilbert-Schmidt independence criterion (Gretton et al. 2005,
    equation 9).
    """
    return (doubly_centred(first) * doubly_centred(second)).sum() / max(len(first) - 1, 1) ** 2


def term(p: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
    """strength * (HSIC(features, inputs) - labels * HSIC(features, labels)).

    The HSIC bottleneck (Ma, Lewis and Kleijn 2020) at the input of the last linear layer.
    """
    features = embedded(p, "hsic")
    inputs = real(p.batch.inputs, "hsic, which measures distances of inputs,").detach()
    width = one(h["hsic_width"], features)
    rows = inputs.flatten(1) if inputs.ndim > 1 else inputs[:, None]
    ours, theirs = kernel(features, width), kernel(rows.to(features), width)
    told = kernel(_labels(p).to(features), width)
    forget, keep = hsic(ours, theirs), hsic(ours, told)
    return one(h["hsic"], features) * (forget - one(h["hsic_labels"], features) * keep)


REGULARIZER = Regularizer(
    knobs={
        "hsic": Float(1e-4, 1e3, scale="log", start=0.1, off=0.0, limits=(0.0, float("inf"))),
        "hsic_labels": Float(0.1, 100.0, scale="log", start=1.0, limits=(0.0, float("inf"))),
        "hsic_width": Float(0.3, 3.0, scale="log", start=1.0, limits=(0.01, float("inf"))),
    },
    loss_batch=term,
    differentiable=True,
    note="Gaussian kernels; hsic_width is in units of the median distance",
)


def _labels(p: Pass) -> Tensor:
    """The targets as rows of numbers; of class numbers, with a one at the class."""
    from torch.nn.functional import one_hot

    targets = p.batch.targets
    if not targets.is_floating_point() and p.outputs.ndim == 2 and targets.ndim == 1:
        targets = one_hot(targets.long(), p.outputs.shape[1])
    return targets.detach().flatten(1) if targets.ndim > 1 else targets.detach()[:, None]
