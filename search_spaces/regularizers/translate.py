"""Each image is shifted by a way of its own; the strength is the largest share of its size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Batch, Regularizer, Strengths
from search_spaces.regularizers._images import images, symmetric, warped

if TYPE_CHECKING:
    import torch


def shift(batch: Batch, h: Strengths, rng: torch.Generator) -> Batch:
    """Shifts by U(-strength, strength) of the width and, drawn apart, of the height.

    Ways between whole pixels interpolate linearly; what comes in from outside is zero, which is
    the mean of standardised images. (Tuned within a run by Bae and Grosse 2020.)
    """
    import torch

    inputs = images(batch.inputs, "translate")
    # The image is 2 wide and high in the coordinates of the map.
    right, down = (2 * symmetric(h["translate"], 2, inputs, rng)).unbind(1)
    one, zero = torch.ones_like(right), torch.zeros_like(right)
    rows = [[one, zero, right], [zero, one, down]]
    return batch._replace(inputs=warped(inputs, rows, h["translate"]))


REGULARIZER = Regularizer(
    knobs={"translate": Float(0.0, 0.5, start=0.05, off=0.0, limits=(0.0, 1.0))},
    batch=shift,
    differentiable=True,
    note="images only; a share of the image's size, drawn for each axis by itself",
)
