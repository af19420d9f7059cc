"""A look at a bilevel problem before the first step: whether the derivatives that a method is to
follow are those of the losses, knob by knob.

Nothing a hypergradient says is right where the inner loss draws at random or can be differentiated
once only; and it says nothing of a knob that reaches the losses as a plain number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import torch
from torch import Tensor

from hpo.bilevel.implicit.curvature import Curvature
from hpo.bilevel.implicit.dice import Dice, rounding, same, size
from hpo.bilevel.implicit.evaluation import Warm, evaluate, not_finite
from hpo.bilevel.implicit.knob_derivatives import (
    RULES,
    STEP,
    contradicted_knobs,
    in_knobs,
    mixed,
    without_derivative,
)
from hpo.bilevel.implicit.problem import Bilevel, Work
from objectives.training.bilevel import BilevelProblem
from search_spaces.domains import Domain, Float, Point
from search_spaces.errors import HpoError

_SOLVED = 1e-2  # of the first inner gradient, that the first solve leaves
_ASYMMETRY = 1e4  # roundings
# Of a Hessian product. Kinks (ReLU) are no part of it and bend gradients all the same: the shortest
# difference that single precision resolves runs over many of them, that of double over hardly any.
_ONCE = {torch.float32: 0.5, torch.float64: 1e-2}
_CURVED = (
    "the inner loss is not curved upward in every direction where it was solved: its Hessian is"
    " damped there, and hypergradients are estimates at best"
)
_ONCE_AND_FOR_ALL = (
    "draw once, in __init__ and from a seeded generator, and keep what was drawn; put a network"
    " that has dropout into .eval()"
)


@dataclass(frozen=True)
class Findings:
    """What was found, short of a reason to refuse the problem.

    idle: the knobs that a hypergradient tells nothing right about, each with why, in words that
    follow its name; notes: what else the user should hear; work: what the look has cost.
    """

    idle: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    work: Work = field(default_factory=Work)


def lint(
    problem: BilevelProblem,
    domains: Mapping[str, Domain],
    point: Point,
    seed: int = 0,
    *,
    twice: bool = True,
) -> Findings:
    """What stands in the way of descending in the knobs of `domains` from `point`.

    twice: whether the method needs second derivatives of the inner loss; without them, nothing is
    solved. Deterministic, and global generators are left as they were. HpoError where no knob can
    be descended in: a loss draws at random, is not finite at the point, or cannot be differentiated
    as often as need be.
    """
    names = [n for n, d in domains.items() if isinstance(d, Float) and d.smallest < d.high]
    with torch.random.fork_rng(devices=[]):
        flat = _begun(problem, domains, point, seed)
        t = flat.coordinates.of(point)
        _refuse_false_rows(flat, t)
        nearby = Dice(flat).near(flat.start)
        first = _refuse_chance_in_losses(flat, t, (flat.start, nearby))
        elsewhere = [(nearby, t) for t in Dice(flat).spread()]
        if not twice:
            idle = without_derivative(flat, [(flat.start, t), *elsewhere], names, in_knobs)
            return Findings(idle, work=flat.work)
        _refuse_once_only(flat, t, nearby)
        steps = (flat.coordinates.spans / 4).clamp(max=STEP)
        t = t.maximum(steps).minimum(flat.coordinates.spans - steps)
        here = evaluate(flat, t, Warm(flat.start), RULES, slope=_SOLVED * first)
        if not (here.finite or here.damping):
            raise not_finite()
        idle = without_derivative(flat, [(here.x, here.t), *elsewhere], names, mixed)
        if here.damping == 0 and here.slope <= 2 * _SOLVED * first:  # else no value is known enough
            idle |= contradicted_knobs(flat, here, steps, [n for n in names if n not in idle])
    notes = (_CURVED,) if here.damping > 0 else ()
    return Findings({name: idle[name] for name in names if name in idle}, notes, flat.work)


def _refuse_false_rows(flat: Bilevel, t: Tensor) -> None:
    """Raises HpoError where `row_counts` and the losses do not agree."""
    for which, count in (flat.row_counts or {}).items():
        loss = {"inner": flat.inner, "outer": flat.outer}[which]
        rows = torch.arange(count, device=flat.start.device)
        with torch.no_grad():
            whole = float(loss(flat.start, t))
            halves = [(part, float(loss(flat.start, t, part))) for part in rows.tensor_split(2)]
        mean = sum(len(part) * value for part, value in halves) / count
        if not abs(mean - whole) <= 1e-3 * (abs(whole) + abs(mean)) + 1e-6:
            raise HpoError(
                f"{which}_loss is {whole:.6g} on all {count} rows and {mean:.6g} in the mean of two"
                " halves",
                hint="with row_counts a loss takes rows= and gives the mean over those rows",
                code="bad-rows",
            )


def _begun(
    problem: BilevelProblem, domains: Mapping[str, Domain], point: Point, seed: int
) -> Bilevel:
    flat, again = (Bilevel(problem, point, domains, seed) for _ in range(2))
    if not torch.equal(flat.start, again.start):
        _refuse_chance(
            "init_params",
            "the parameters of one seed differ from call to call",
            "draw from a generator that is seeded with its argument",
        )
    return flat


def _refuse_chance_in_losses(flat: Bilevel, t: Tensor, places: Sequence[Tensor]) -> float:
    """The size of the inner gradient at the first of the places, at which all must be finite."""
    first = math.nan
    for x in places:
        _refuse_without_gradient(flat, x, t)
        (_, slope), (_, again) = (flat.gradient(x, t) for _ in range(2))
        (value, b, _), (other, c, _) = (flat.outer_gradients(x, t) for _ in range(2))
        told = math.isfinite(value) and bool(torch.isfinite(slope).all() & torch.isfinite(b).all())
        if x is places[0]:
            first = float(slope.norm())
            if not told:
                raise not_finite()
        if not told:
            continue
        if not same(slope, again):
            _refuse_chance("inner_loss", "its gradient at one and the same point differs each time")
        if not same(b, c) or not same(x.new_tensor(value), x.new_tensor(other)):
            _refuse_chance("outer_loss", "its value at one and the same point differs each time")
    return first


def _refuse_chance(method: str, found: str, hint: str = _ONCE_AND_FOR_ALL) -> NoReturn:
    raise HpoError(f"{method} draws at random: {found}", hint=hint, code="not-deterministic")


def _refuse_without_gradient(flat: Bilevel, x: Tensor, t: Tensor) -> None:
    x = x.detach().requires_grad_()
    loss = flat.inner(x, t.detach())
    if loss.requires_grad:
        (slope,) = torch.autograd.grad(loss, x, allow_unused=True)
        if slope is not None:
            return
    raise HpoError(
        "inner_loss has no derivative in the parameters",
        hint="compute it from params by operations of torch, without detach, .item(), numpy or"
        " torch.no_grad",
        code="not-differentiable",
    )


def _refuse_once_only(flat: Bilevel, t: Tensor, x: Tensor) -> None:
    """Raises HpoError unless Hessian products are symmetric, and the change of the gradient."""
    dice = Dice(flat)
    u, v = dice.like(x), dice.like(x)
    try:
        curvature = Curvature(flat, x, t)
        hu, hv = curvature.product(u), curvature.product(v)
    except RuntimeError as error:  # what torch says of an operation without a second derivative
        raise _once_only(str(error).strip().splitlines()[0]) from error
    off = abs(float(u @ hv) - float(v @ hu))
    if off > _ASYMMETRY * rounding(x) * float((u * hv).norm() + (v * hu).norm()):
        raise _once_only("products with its Hessian are not symmetric")
    small = rounding(x) ** (1 / 3) * size(x)
    near, far = (_difference(flat, t, x, step * v) / step for step in (small, 2 * small))
    noise = 100 * rounding(x) * float(curvature.slope.norm()) / small
    allowed = noise + 4 * float((near - far).norm())
    allowed += _ONCE.get(x.dtype, 0.5) * max(float(hv.norm()), float(near.norm()))
    if float((near - hv).norm()) > allowed:
        raise _once_only("its gradient does not change as products with its Hessian say")


def _difference(flat: Bilevel, t: Tensor, x: Tensor, step: Tensor) -> Tensor:
    return (flat.gradient(x + step, t)[1] - flat.gradient(x - step, t)[1]) / 2


def _once_only(found: str) -> HpoError:
    return HpoError(
        f"inner_loss cannot be differentiated twice as it is written: {found}",
        hint="look for detach, .data, .item() and torch.no_grad on the way from params to the loss,"
        " for changes in place, for a backward of your own",
        code="not-twice-differentiable",
    )
