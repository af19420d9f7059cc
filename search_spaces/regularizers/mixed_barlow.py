"""Mixed Barlow Twins: a blend of two examples correlates with the others as their parts do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strengths, real, spread, uniform
from search_spaces.regularizers._embeddings import (
    cross_correlation,
    embedded,
    one,
    second_view,
    standardised,
)
from search_spaces.regularizers._matrices import precise
from search_spaces.regularizers.mixup import folded_beta

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from search_spaces.passes import Pass


def mixed_barlow(mixed: Tensor, first: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """1/(2 D) times the squared error of the cross-correlations of the blends with their parts.

    mixed: the embeddings (B, D) of share * x_i + (1 - share) * x'_i; first and partner: those of x
    and x', where x' are other examples in their second view. With standardised columns Z_M, Z_A and
    Z_P the correlation of the blends with each Z_K of Z_A, Z_P ought to be the expected one:

        Z_M^T Z_K = (share Z_A + (1 - share) Z_P)^T Z_K, both divided by B

    (Bandara, De Melo and Patel 2023, who draw one share for a batch and multiply by 1/2; from
    memory, their second Z_K is the other view of the examples in their own order). Dividing by D as
    in `barlow` is ours.
    """
    parts = standardised(first), standardised(partner)
    weight = share[:, None]
    expected = weight * parts[0] + (1 - weight) * parts[1]
    error = standardised(mixed) - expected
    squares = [cross_correlation(error, part).square().sum() for part in parts]
    return (squares[0] + squares[1]) / (2 * first.shape[1])


def term(p: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
    """strength * the loss of blends, whose shares are drawn from Beta(alpha, alpha) for each."""
    import torch

    first = embedded(p, "mixed_barlow")
    inputs = real(p.batch.inputs, "mixed_barlow, which blends inputs,")
    other = torch.randperm(len(inputs), generator=rng, device=rng.device).to(inputs.device)
    # Which of two prevails does not matter to the term, so the folded draws serve.
    draws = uniform((2, len(first)), first, rng)
    share = folded_beta(one(h["mixed_barlow_alpha"], first), *draws)
    view = second_view(p, rng)
    weight = spread(share.to(inputs.dtype), inputs)
    mixed = precise(p.embed(weight * inputs + (1 - weight) * view[other]))
    value = mixed_barlow(mixed, first, precise(p.embed(view))[other], share)
    return one(h["mixed_barlow"], first) * value


REGULARIZER = Regularizer(
    knobs={
        "mixed_barlow": Float(
            1e-3, 10.0, scale="log", start=0.1, off=0.0, limits=(0.0, float("inf"))
        ),
        "mixed_barlow_alpha": Float(0.1, 2.0, scale="log", start=1.0, limits=(0.0, float("inf"))),
    },
    loss_batch=term,
    differentiable=True,
    whole=True,
    note="the term on blends alone: beside barlow it is the whole loss of mixed Barlow Twins",
)
