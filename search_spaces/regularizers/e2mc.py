"""E2MC: each dimension of the embedding has the most entropy it can have, and none repeats."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strengths
from search_spaces.regularizers._embeddings import (
    cross_correlation,
    embedded,
    off_diagonal,
    one,
    standardised,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from search_spaces.passes import Pass

LEAST_GAP = 1e-6  # rows that agree in a dimension leave no gap there


def marginal_entropies(values: Tensor) -> Tensor:
    """The entropy (D,) of each column of values (B, D), in nats, from gaps between sorted values.

    With x_(1) <= ... <= x_(B) and m = round(sqrt(B)) it is

        1/(B - m) * sum over i of log((B + 1)/m * (x_(i+m) - x_(i)))

    (the m-spacings estimate of Vasicek 1976, as Learned-Miller and Fisher 2003 have it).
    """
    count = len(values)
    if count < 2:
        return values.sum(0) * 0  # one value says nothing about a density
    apart = max(round(math.sqrt(count)), 1)
    ordered = values.sort(dim=0).values
    gaps = ordered[apart:] - ordered[:-apart]
    return ((count + 1) / apart * (gaps + LEAST_GAP)).log().mean(0)


def shortfall(rows: Tensor, pairs: Tensor | float) -> Tensor:
    """How far embeddings (B, D) are from independent uniform dimensions in the unit cube.

    Each dimension is standardised and mapped to [0, 1] by the normal distribution function, where
    0 is the largest entropy there is; the result is minus the mean of the entropies, plus `pairs`
    times the mean squared correlation of two dimensions. Effective entropy maximization
    (Chakraborty et al. 2024) rests on these two: entropies of single dimensions, which can be
    estimated, and decorrelation of pairs. The map into the cube and the weights are reconstructed.
    """
    import torch

    cube = torch.special.ndtr(standardised(rows))
    entropy = marginal_entropies(cube).mean()
    unit = standardised(cube)
    width = rows.shape[1]
    correlations = off_diagonal(cross_correlation(unit, unit)).square().sum()
    return pairs * correlations / max(width * (width - 1), 1) - entropy


def term(p: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
    """strength * how much entropy is missing."""
    rows = embedded(p, "e2mc")
    return one(h["e2mc"], rows) * shortfall(rows, one(h["e2mc_pairs"], rows))


REGULARIZER = Regularizer(
    knobs={
        "e2mc": Float(1e-2, 10.0, scale="log", start=0.1, off=0.0, limits=(0.0, float("inf"))),
        "e2mc_pairs": Float(0.1, 100.0, scale="log", start=1.0, limits=(0.0, float("inf"))),
    },
    loss_batch=term,
    differentiable=True,
    note="entropies from gaps between sorted values: batches of some dozens of rows or more",
)
