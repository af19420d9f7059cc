"""Path norm penalty: what all paths from inputs to outputs amplify, summed, in the loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.errors import HpoError
from search_spaces.regularizer import Regularizer, Strengths
from search_spaces.regularizers._matrices import lengths, matrices, precise, rows, scaled_sum

if TYPE_CHECKING:
    from torch import Tensor


def penalty(parameters: Mapping[str, Tensor], h: Strengths) -> Tensor:
    """strength * sum over the outputs of |W_L| ... |W_2| n_1, where n_1 has the length of each row
    of the first layer and |W| is taken entry by entry.

    With two layers this is sum of |v_k| |w_k|, which L2 on both amounts to in a network of
    homogeneous units and which makes it sparse in functions (Parhi and Nowak 2023); beyond, the
    product form of the path norm (Neyshabur et al. 2015, "Path-SGD"). It does not change when a
    hidden unit's inputs are scaled by c and its outputs by 1 / c. After the first, each layer
    counts 1 / sqrt(its inputs): a strength then means about the same at every width (this
    project's choice).

    It assumes layers in sequence, in the order of their names in the model, with homogeneous units
    between them: biases, gains of norms and shortcuts are not seen. A filter counts by the sum of
    its absolute entries; a linear layer after filters takes their places channel by channel.
    HpoError where layers do not follow each other, as in a transformer. Meant for one strength; a
    vector of them takes every layer by itself.
    """
    reached: Tensor | None = None
    before = ""
    for name, weight in matrices(parameters).items():
        if reached is None:
            reached = lengths(rows(weight))
        else:
            reached = _through(precise(weight), reached, f"{name} after {before}")
        before = name
    return scaled_sum(h["path_norm"], [] if reached is None else [reached.sum()])


def _through(weight: Tensor, reached: Tensor, where: str) -> Tensor:
    """What arrives behind a layer when `reached` arrives before it."""
    inputs = math.prod(weight.shape[1:])
    gains = weight.abs().flatten(2).sum(2) if weight.ndim > 2 else weight.abs()
    channels, outputs = gains.shape[1], gains.shape[0]
    if len(reached) == channels:
        arrived = gains @ reached
    elif weight.ndim == 2 and channels % len(reached) == 0:  # images flattened channel by channel
        arrived = gains @ reached.repeat_interleave(channels // len(reached))
    elif weight.ndim > 2 and len(reached) % channels == 0 == outputs % (len(reached) // channels):
        groups = len(reached) // channels
        arrived = (gains.view(groups, -1, channels) @ reached.view(groups, channels, 1)).flatten()
    else:
        raise HpoError(
            f"path_norm needs layers in sequence, found {where}, which has {channels} inputs "
            f"where {len(reached)} outputs come before it",
            hint="it is for plain networks without branches: leave its knob out of the space",
            code="unsuited-model",
        )
    return arrived / math.sqrt(inputs)


REGULARIZER = Regularizer(
    knobs={
        "path_norm": Float(1e-6, 1.0, scale="log", start=1e-3, off=0.0, limits=(0.0, float("inf")))
    },
    penalty=penalty,
    differentiable=True,
    note="coupled; for layers in sequence with ReLU-like units; transformers are refused",
)
