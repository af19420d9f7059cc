"""Distance covariance: outputs do not depend on what a model protects, nor features on others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.errors import HpoError
from search_spaces.regularizer import Regularizer, Strengths
from search_spaces.regularizers._embeddings import doubly_centred, embedded, one, squared_distances

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from search_spaces.passes import Pass

_ROUNDING = 16  # times the machine precision: below that a difference of squares is noise


def distances(rows: Tensor) -> Tensor:
    """|x_i - x_j| of all pairs of rows (B, D), with gradient zero where two rows are the same."""
    import torch

    squares = squared_distances(rows)
    noise = _ROUNDING * torch.finfo(rows.dtype).eps * squares.detach().amax()
    apart = squares > noise
    return torch.where(apart, torch.where(apart, squares, torch.ones_like(squares)).sqrt(), 0.0)


def distance_covariance(first: Tensor, second: Tensor) -> Tensor:
    """The squared distance covariance of two samples, rows (B, D) and (B, E) that belong together.

    The mean over all pairs of A_ij * B_ij, where A are the distances of the first sample with the
    means of rows and of columns taken out, and B those of the second (Szekely, Rizzo and Bakirov
    2007, equation 2.9). In the population it is zero for independent samples alone.
    """
    return (doubly_centred(distances(first)) * doubly_centred(distances(second))).mean()


def dependence(first: Tensor, second: Tensor) -> Tensor:
    """The squared distance covariance of two samples in units of their mean distances: it does not
    fall when one of them shrinks."""
    import torch

    scaled = []
    for rows in (first, second):
        found = distances(rows)
        scaled.append(doubly_centred(found / (found.mean() + torch.finfo(rows.dtype).eps)))
    return (scaled[0] * scaled[1]).mean()


def term(p: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
    """strength * dependence of two things.

    If the model has a method `protected(inputs)`, which gives (B,) or (B, K) numbers such as the
    encoded attributes in some columns of a table, these are the outputs and what that method gives
    of the batch as the task gave it (the penalty for fairness under protected attributes of several
    types). Otherwise they are the two halves of the embedding, dimensions of even
    and of odd number: a redundancy that a covariance matrix sees the linear part of alone.
    """
    protected = getattr(p.model, "protected", None)
    if not callable(protected):
        rows = embedded(p, "distance_covariance")
        return one(h["distance_covariance"], rows) * dependence(rows[:, ::2], rows[:, 1::2])
    found = protected(p.raw.inputs).detach()
    if found.ndim == 0 or len(found) != len(p.outputs):
        raise HpoError(
            f"the model's protected(inputs) gave shape {tuple(found.shape)} for "
            f"{len(p.outputs)} examples",
            hint="it must give (B,) or (B, K) numbers, a row for each example",
            code="bad-batch",
        )
    outputs = p.outputs.flatten(1) if p.outputs.ndim > 1 else p.outputs[:, None]
    kept = found.to(outputs).reshape(len(outputs), -1)
    return one(h["distance_covariance"], outputs) * dependence(outputs, kept)


REGULARIZER = Regularizer(
    knobs={
        "distance_covariance": Float(
            1e-2, 1e3, scale="log", start=0.1, off=0.0, limits=(0.0, float("inf"))
        )
    },
    loss_batch=term,
    differentiable=True,
    note="of outputs and the model's protected(inputs); else of two halves of the embedding",
)
