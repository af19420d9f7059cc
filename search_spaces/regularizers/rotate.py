"""Each image is turned by an angle of its own; the strength is the largest one, in degrees."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Batch, Regularizer, Strengths
from search_spaces.regularizers._images import images, symmetric, warped

if TYPE_CHECKING:
    import torch


def turn(batch: Batch, h: Strengths, rng: torch.Generator) -> Batch:
    """Turns by an angle a from U(-strength, strength) about the centre, for each example.

    A place (x, y) of the result shows (x cos a - y sin a, x sin a + y cos a) of the source, in
    pixels; the corners that nothing turns into are zero, which is the mean of standardised
    images. (Tuned within a run by Bae and Grosse 2020.)
    """
    import torch

    inputs = images(batch.inputs, "rotate")
    angle = torch.deg2rad(symmetric(h["rotate"], 1, inputs, rng)[:, 0])
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    height, width = inputs.shape[2:]  # both run from -1 to 1: pixels that are not square
    rows = [
        [cosine, -sine * (height / width), zero],
        [sine * (width / height), cosine, zero],
    ]
    return batch._replace(inputs=warped(inputs, rows, h["rotate"]))


REGULARIZER = Regularizer(
    knobs={"rotate": Float(0.0, 45.0, start=5.0, off=0.0, limits=(0.0, 180.0))},
    batch=turn,
    differentiable=True,
    note="images only; degrees, each image turns by up to this much either way",
)
