"""Dropout of the inputs; the strength is the rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Batch, Regularizer, Strengths, real, spread, uniform

if TYPE_CHECKING:
    import torch


def drop(batch: Batch, h: Strengths, rng: torch.Generator) -> Batch:
    """Keeps a number where a uniform draw reaches the rate p, and scales it by 1 / (1 - p).

    (Srivastava et al. 2014, where inputs have a smaller rate than hidden units.) Zero is the mean
    of standardised inputs.
    """
    inputs = real(batch.inputs, "input_dropout")
    rate = spread(h["input_dropout"], inputs)
    kept = uniform(inputs.shape, inputs, rng) >= rate
    return batch._replace(inputs=inputs * kept / (1 - rate))


REGULARIZER = Regularizer(
    knobs={"input_dropout": Float(0.0, 0.7, start=0.05, off=0.0, limits=(0.0, 0.99))},
    batch=drop,
    note="single numbers of the inputs become zero: bring them to zero mean first",
)
