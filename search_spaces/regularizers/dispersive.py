"""Dispersive loss: the embeddings of a batch push each other apart."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strengths
from search_spaces.regularizers._embeddings import embedded, one, squared_distances

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from search_spaces.passes import Pass


def dispersion(rows: Tensor, temperature: Tensor | float) -> Tensor:
    """log of the mean over all pairs (i, j) of exp(-|z_i - z_j|^2 / (D * temperature)).

    From 0, where all embeddings (B, D) are the same, down to -log B (Wang and He 2025, without the
    positive pairs of the contrastive loss; pairs i = j count too). Distances are per dimension, so
    that a temperature means the same for every width: reconstructed from the formula alone.
    """
    closeness = -squared_distances(rows) / (rows.shape[1] * temperature)
    return closeness.flatten().logsumexp(0) - 2 * math.log(len(rows))


def term(p: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
    """strength * log mean exp of minus the distances."""
    rows = embedded(p, "dispersive")
    temperature = one(h["dispersive_temperature"], rows)
    return one(h["dispersive"], rows) * dispersion(rows, temperature)


REGULARIZER = Regularizer(
    knobs={
        "dispersive": Float(1e-2, 1.0, scale="log", start=0.1, off=0.0, limits=(0.0, float("inf"))),
        "dispersive_temperature": Float(
            0.1, 5.0, scale="log", start=0.5, limits=(0.0, float("inf"))
        ),
    },
    loss_batch=term,
    differentiable=True,
    note="on the input of the last linear layer",
)
