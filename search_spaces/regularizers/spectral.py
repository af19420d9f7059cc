"""Spectral penalty: the squared largest singular value of every weight matrix, in the loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strengths
from search_spaces.regularizers._matrices import finite, matrices, rows, scaled_sum, unknown

if TYPE_CHECKING:
    from torch import Tensor


def penalty(parameters: Mapping[str, Tensor], h: Strengths) -> Tensor:
    """strength / 2 * sum over layers of sigma_max(W)^2 (Yoshida and Miyato 2017).

    A filter bank counts as the matrix (out, in * k * k), as there. sigma_max^2 is the largest
    eigenvalue of W W^T or W^T W, whichever is smaller; its gradient in W is 2 sigma u v^T, also
    where singular values coincide (for one choice of u and v). There its second derivatives, which
    hypergradients use, do not exist.
    """
    terms = [0.5 * largest_squared(rows(weight)) for weight in matrices(parameters).values()]
    return scaled_sum(h["spectral"], terms)


def largest_squared(matrix: Tensor) -> Tensor:
    """The square of a matrix's largest singular value."""
    import torch

    wide = matrix.shape[0] <= matrix.shape[1]
    gram = matrix @ matrix.mT if wide else matrix.mT @ matrix
    largest: Tensor = torch.linalg.eigvalsh(finite(gram))[-1]
    return largest + unknown(gram)


REGULARIZER = Regularizer(
    knobs={
        "spectral": Float(1e-5, 0.1, scale="log", start=1e-3, off=0.0, limits=(0.0, float("inf")))
    },
    penalty=penalty,
    differentiable=True,
    note="coupled; bounds how much a layer can amplify; one eigenvalue problem a layer and step",
)
