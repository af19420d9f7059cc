"""Gaussian noise on the inputs; the strength is its standard deviation."""

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer

REGULARIZER = Regularizer(
    knobs={"input_noise": Float(0.0, 1.0, start=0.05, off=0.0, limits=(0.0, float("inf")))},
    batch=lambda batch, h, rng: batch.shift_inputs(h["input_noise"], rng),
    differentiable=True,
    note="in units of the inputs: bring them to unit variance first",
)
