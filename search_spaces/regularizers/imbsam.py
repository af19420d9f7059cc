"""ImbSAM: sharpness-aware minimization for the classes that have few examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.errors import HpoError
from search_spaces.regularizer import Batch, Regularizer, Strengths, pooled
from search_spaces.regularizers._ascent import climbed

if TYPE_CHECKING:
    from torch import Tensor

    from search_spaces.passes import Beginning


def counts(beginning: Beginning) -> Tensor:
    """How many examples of the training split each class has, (C,)."""
    import torch

    if beginning.classes is None:
        raise HpoError(
            "imbsam needs class numbers as targets, to tell rare classes from frequent ones",
            hint="it is for classification: leave its knobs out of the space, or use sam",
            code="bad-batch",
        )
    found = torch.zeros(beginning.classes, dtype=torch.long, device=beginning.device)
    for batch in beginning.batches():
        found += torch.bincount(_classes(batch), minlength=beginning.classes)
    return found


def of_the_tail(found: Tensor, batch: Batch, h: Strengths) -> Tensor:
    """Which examples are of a class with fewer than `imbsam_tail` times the mean number, (B,)."""
    rare = found < pooled(h["imbsam_tail"]) * found.double().mean()
    return rare[_classes(batch)]


def climb(
    found: Tensor,
    parameters: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    h: Strengths,
) -> Mapping[str, Tensor]:
    """w + strength * g / |g|, g the gradient of the losses of the tail's examples alone.

    Zhou et al. 2023; the other examples' gradient is taken at w itself. Their threshold eta is a
    number of examples; here it is a share of the mean over classes, which does not change with the
    size of the data. A batch without such examples moves nothing.
    """
    return climbed(parameters, gradients, h["imbsam"])


def _classes(batch: Batch) -> Tensor:
    """The class of each example; of soft targets the likeliest."""
    soft = batch.targets.is_floating_point() and batch.targets.ndim == 2
    if not soft and batch.targets.numel() != len(batch.targets):
        raise HpoError(
            f"imbsam needs one class number an example, found targets {tuple(batch.targets.shape)}",
            hint="give class numbers (B,), or class probabilities (B, C) as .float()",
            code="bad-batch",
        )
    return (batch.targets.argmax(1) if soft else batch.targets.long()).flatten()


REGULARIZER = Regularizer(
    knobs={
        "imbsam": Float(0.01, 1.0, scale="log", start=0.05, off=0.0, limits=(0.0, float("inf"))),
        "imbsam_tail": Float(0.1, 1.0, start=0.5, limits=(0.0, float("inf"))),
    },
    remember=counts,
    ascent=climb,
    rows=of_the_tail,
    note="classification only; the knob is rho; imbsam_tail: which share of the mean number of "
    "examples makes a class rare",
)
