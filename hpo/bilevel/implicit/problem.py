"""A bilevel problem as functions of two vectors: parameters x and knobs t; and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from hpo.bilevel.implicit.coordinates import Coordinates
from objectives.training.bilevel import BilevelProblem
from search_spaces.domains import Domain, Float, Point
from search_spaces.errors import HpoError


@dataclass
class Work:
    """Units of work, counted whoever does it.

    gradients: of the inner loss. products: Hessian times vector. crosses: the mixed second
    derivative times vector. outer: values and gradients of the outer loss.
    """

    gradients: int = 0
    products: int = 0
    crosses: int = 0
    outer: int = 0

    @property
    def units(self) -> int:
        """What methods are compared by: inner gradients and Hessian-vector products."""
        return self.gradients + self.products

    def copy(self) -> Work:
        return Work(**vars(self))

    def since(self, before: Work) -> Work:
        """What has been done since `before` was copied."""
        return Work(
            **{f.name: getattr(self, f.name) - getattr(before, f.name) for f in fields(self)}
        )


class Bilevel:
    """inner(x, t) and outer(x, t) for vectors x (n,) and t (m,).

    `tunable` are the domains of the knobs that t holds; the others stay at their values in `point`.
    `row_counts` says how many rows of data the losses average over, where the problem tells; the
    losses then take the numbers of those to look at. `problems` is how many independent inner
    problems there are, which lie one after the other in x; `inner_each` gives their losses
    (problems,), `inner` their sum.
    """

    def __init__(
        self,
        problem: BilevelProblem,
        point: Point,
        tunable: Mapping[str, Domain] | None = None,
        seed: int = 0,
    ) -> None:
        self.problem = problem
        self.work = Work()
        first = problem.init_params(seed)
        self._shapes = _shapes(first)
        self._named = not isinstance(first, Tensor)
        axis = getattr(problem, "batch_axis", None)
        tensors = list(first.values()) if isinstance(first, Mapping) else [first]
        self.problems = _count(axis, tensors)
        self.start = self._joined(tensors).detach().clone()
        domains = problem.space if tunable is None else tunable
        self.coordinates = Coordinates(domains, point, self.start.device)
        self.mu: Callable[[Tensor], float] | None = None
        if callable(getattr(problem, "mu", None)):
            self.mu = lambda t: float(problem.mu(self.coordinates.values(t)))  # type: ignore[attr-defined]
        self.smoothness: Callable[[Tensor], float] | None = None
        if callable(getattr(problem, "outer_smoothness", None)):
            self.smoothness = lambda t: float(
                problem.outer_smoothness(self.coordinates.values(t))  # type: ignore[attr-defined]
            )
        self.smooth = not callable(getattr(problem, "prox", None))
        self.row_counts: Mapping[str, int] | None = getattr(problem, "row_counts", None)

    def __len__(self) -> int:
        return len(self.start)

    def flat(self, params: Any) -> Tensor:
        """The vector x (n,) that holds these parameters."""
        given = {"": params} if isinstance(params, Tensor) else dict(params)
        found = {name: getattr(one, "shape", None) for name, one in given.items()}
        if found != self._shapes:
            raise HpoError(
                f"params are {_told(found)}, and the problem's are {_told(self._shapes)}",
                hint="give what init_params gives, or what a certificate holds",
                code="bad-params",
                path=("params",),
            )
        tensors = [given[name].to(self.start) for name in self._shapes]
        return self._joined(tensors).detach().clone()

    def params(self, x: Tensor) -> Any:
        """The parameters that the vector x holds, as the problem knows them."""
        rows = x.view(self.problems, -1)
        found, at = {}, 0
        for name, shape in self._shapes.items():
            size = shape.numel() // self.problems
            found[name] = rows[:, at : at + size].reshape(shape)
            at += size
        return found if self._named else found[""]

    def knobs(self, t: Tensor) -> dict[str, Any]:
        """The strengths at t in the precision of the parameters."""
        values, like = self.coordinates.values(t), self.start
        for name, domain in self.problem.space.items():
            if isinstance(domain, Float) and name in values:  # those that are held too
                values[name] = torch.as_tensor(values[name], dtype=like.dtype, device=like.device)
        return values

    def inner_each(self, x: Tensor, t: Tensor, rows: Tensor | None = None) -> Tensor:
        """The inner losses (problems,)."""
        some = {} if rows is None else {"rows": rows}
        loss = self.problem.inner_loss(self.params(x), self.knobs(t), **some)
        if loss.ndim > 1 or (loss.ndim == 1 and len(loss) != self.problems):
            raise HpoError(
                f"inner_loss gave shape {tuple(loss.shape)}",
                hint="one number, or with batch_axis = 0 one for each problem",
                code="bad-loss",
            )
        return loss if loss.ndim else loss[None]

    def inner(self, x: Tensor, t: Tensor, rows: Tensor | None = None) -> Tensor:
        return self.inner_each(x, t, rows).sum()

    def gradient(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The inner losses (problems,) and the gradient of their sum in x (n,)."""
        x = x.detach().requires_grad_()
        each = self.inner_each(x, t.detach())
        (slope,) = torch.autograd.grad(each.sum(), x)
        self.work.gradients += 1
        return each.detach(), slope

    def outer(self, x: Tensor, t: Tensor, rows: Tensor | None = None) -> Tensor:
        """The outer loss, without dimension."""
        some = {} if rows is None else {"rows": rows}
        loss = self.problem.outer_loss(self.params(x), self.knobs(t), **some)
        if loss.ndim:
            raise HpoError(
                f"outer_loss gave shape {tuple(loss.shape)}, not one number", code="bad-loss"
            )
        return loss

    def outer_value(self, x: Tensor, t: Tensor) -> float:
        with torch.no_grad():
            self.work.outer += 1
            return float(self.outer(x, t))

    def outer_gradients(self, x: Tensor, t: Tensor) -> tuple[float, Tensor, Tensor]:
        """The outer loss, its gradient in x (n,), and the direct part of it in t (m,)."""
        x, t = x.detach().requires_grad_(), t.detach().requires_grad_()
        loss = self.outer(x, t)
        self.work.outer += 1
        if not loss.requires_grad:
            return float(loss.detach()), torch.zeros_like(x), torch.zeros_like(t)
        in_x, in_t = torch.autograd.grad(loss, (x, t), allow_unused=True)
        return (
            float(loss.detach()),
            torch.zeros_like(x) if in_x is None else in_x,
            torch.zeros_like(t) if in_t is None else in_t,
        )

    def proximal(self, x: Tensor, t: Tensor, step: float | Tensor) -> Tensor:
        """What `prox` makes of x."""
        moved = self.problem.prox(self.params(x), self.knobs(t), step)  # type: ignore[attr-defined]
        return self._joined(list(moved.values()) if isinstance(moved, Mapping) else [moved])

    def _joined(self, tensors: list[Tensor]) -> Tensor:
        return torch.cat([one.reshape(self.problems, -1) for one in tensors], dim=1).flatten()


def _told(shapes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {tuple(shape or ())}".strip() for name, shape in shapes.items())


def _shapes(params: Any) -> dict[str, torch.Size]:
    if isinstance(params, Tensor):
        return {"": params.shape}
    if (
        isinstance(params, Mapping)
        and params
        and all(isinstance(p, Tensor) for p in params.values())
    ):
        return {name: one.shape for name, one in params.items()}
    raise HpoError(
        f"init_params gave {type(params).__name__}",
        hint="a tensor, or a dict of tensors",
        code="bad-problem",
    )


def _count(axis: int | None, tensors: list[Tensor]) -> int:
    if axis is None:
        return 1
    counts = {one.shape[0] if one.ndim else 0 for one in tensors}
    if axis != 0 or len(counts) != 1 or 0 in counts:
        raise HpoError(
            f"batch_axis is {axis} and the parameters' first dimensions are {sorted(counts)}",
            hint="with batch_axis = 0 the first dimension of each of them counts the problems",
            code="bad-problem",
        )
    return counts.pop()
