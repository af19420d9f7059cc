"""What a bilevel problem gives: an inner loss that training minimizes, an outer one that judges.

    x*(h) = argmin over x of inner_loss(x, h)        F(h) = outer_loss(x*(h), h)

Methods that need the derivative of F in the knobs h get it through the optimum x*.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

    from search_spaces.domains import Domain

Params: TypeAlias = "Tensor | Mapping[str, Tensor]"
METHODS = ("init_params", "inner_loss", "outer_loss")


class BilevelProblem(Protocol):
    """Two losses as pure functions of parameters and knobs, and the knobs' ranges in `space`.

    `h` maps each knob to a tensor: no dimension, or (size,) for a vector; a choice to its option.
    Both losses must be deterministic: whatever is drawn at random is drawn once, beforehand.

    A problem may have more:

    batch_axis      0: the parameters' first dimension counts problems that share nothing but the
                    knobs; `inner_loss` then gives one loss for each of them
    mu(h)           a number that the curvature of the inner loss never falls below, where known:
                    error bounds are then proofs and not estimates
    outer_smoothness(h)  the largest eigenvalue that the Hessian of the outer loss in x can have;
                    such proofs need it too
    prox(x, h, s)   argmin over y of r(y, h) + |y - x|^2 / (2 s): the inner problem is then to
                    minimize inner_loss + r; r must be a sum over single parameters, as L1 is
    selection_loss(x, h), final_metric(x, h)
                    a loss on rows kept apart for choosing among trials, and named numbers that
                    are shown beside the losses (PSNR, an error rate)
    row_counts      {"inner": n, "outer": m}: how many rows of data the losses average over. Both
                    then take `rows=`, a tensor of numbers below that, and give the mean over those
                    rows together with what belongs to no row; without it, all. Methods that look
                    at a few rows a step need it
    inner_parts(x, h)  outputs (a tensor), loss_of_outputs (a function of them) and rest (a number),
                    with inner_loss = loss_of_outputs(outputs) + rest: the Gauss-Newton matrix is
                    made of these
    views(x, h)     pictures by name to look at, (rows, columns) or (rows, columns, 3), 0 to 1
    """

    space: "Mapping[str, Domain]"

    def init_params(self, seed: int) -> Params:
        """Where training starts: a tensor, or tensors by name; their type is the precision."""

    def inner_loss(self, params: Any, h: Mapping[str, Any]) -> "Tensor":
        """What training minimizes: no dimension, or (problems,) with a `batch_axis`."""

    def outer_loss(self, params: Any, h: Mapping[str, Any]) -> "Tensor":
        """What the knobs are to minimize, without dimension."""


def is_bilevel(target: object) -> bool:
    """Whether this is a bilevel problem: it has the three methods."""
    return all(callable(getattr(target, name, None)) for name in METHODS)
