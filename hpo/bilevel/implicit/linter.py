"""A look at a bilevel problem before the first step: whether the derivatives that a method is to
follow are those of the losses, knob by knob.

Nothing a hypergradient says is right where the inner loss draws at random or can be differentiated
once only; and it says nothing of a knob that reaches the losses as a plain number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import torch
from torch import Tensor

from hpo.bilevel.implicit.curvature import Curvature
from hpo.bilevel.implicit.evaluation import Evaluation, Rules, Warm, evaluate, not_finite
from hpo.bilevel.implicit.problem import Bilevel, Work
from hpo.bilevel.implicit.proximal_curvature import curvature_at
from objectives.training.bilevel import BilevelProblem
from search_spaces.domains import Domain, Float, Point
from search_spaces.errors import HpoError

SEPARATELY = 8  # knobs that are re-solved one by one; the others are, in one direction together
_STEP = 0.2  # how far a knob is moved for that, in units of its coordinate
_SOLVED = 1e-2  # of the first inner gradient, that the first solve leaves
_SHARE = 0.1  # of the predicted change, that the error of a re-solved value may be
_AGREES = 0.05  # of the derivative, that a difference may be off besides its known errors
_SHARPER, _SHORTER = 100.0, 5.0  # how a disagreement is looked at again
_ASYMMETRY = 1e4  # roundings
_ONCE = 0.5  # of a Hessian product: kinks (ReLU) are no part of it, and bend gradients all the same
_FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of a range, at which a knob is tried


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
        flat = Bilevel(problem, point, domains, seed)
        t = flat.coordinates.of(point)
        nearby = _Dice(flat).near(flat.start)
        if not torch.equal(flat.start, Bilevel(problem, point, domains, seed).start):
            _refuse_chance("init_params", "the parameters of one seed differ from call to call")
        first = _refuse_chance_in_losses(flat, t, (flat.start, nearby))
        if not twice:
            places = [(flat.start, t), (nearby, _Dice(flat).knobs())]
            return Findings(_without_derivative(flat, places, names, _in_knobs), (), flat.work)
        _refuse_once_only(flat, t, nearby)
        steps = (flat.coordinates.spans / 4).clamp(max=_STEP)
        t = t.maximum(steps).minimum(flat.coordinates.spans - steps)
        rules = Rules(relative=1e-2)
        here = evaluate(flat, t, Warm(flat.start), rules, slope=_SOLVED * first)
        if not here.finite:
            raise not_finite()
        places = [(here.x, here.t), (nearby, _Dice(flat).knobs())]
        idle = _without_derivative(flat, places, names, _mixed)
        moving = [name for name in names if name not in idle]
        groups = [[name] for name in moving[:SEPARATELY]] + [moving[SEPARATELY:]]
        around = _Around(flat, here, rules)
        for group in groups:
            idle |= _contradicted(flat, around, steps, group)
    notes = (_CURVED,) if here.damping > 0 else ()
    return Findings({name: idle[name] for name in names if name in idle}, notes, flat.work)


_CURVED = (
    "the inner loss is not curved upward in every direction where it was solved: its Hessian is"
    " damped there, and hypergradients are estimates at best"
)


class _Dice:
    """Random vectors, the same in every look."""

    def __init__(self, flat: Bilevel) -> None:
        self._flat = flat
        self._rng = torch.Generator().manual_seed(0)

    def like(self, v: Tensor) -> Tensor:
        drawn = torch.randn(len(v), generator=self._rng, dtype=torch.float64)
        return drawn.to(v)

    def near(self, x: Tensor) -> Tensor:
        """Parameters at no special place: a little way from x."""
        return x + 0.05 * _size(x) * self.like(x)

    def knobs(self) -> Tensor:
        """A point anywhere in the box."""
        spans = self._flat.coordinates.spans
        return spans * torch.rand(len(spans), generator=self._rng, dtype=torch.float64).to(spans)


def _size(x: Tensor) -> float:
    """What is typical of an entry; 1 if all are zero."""
    return float(x.square().mean().sqrt()) or 1.0


def _rounding(x: Tensor) -> float:
    return float(torch.finfo(x.dtype).eps)


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two results differ by no more than a device that sums in any order may make them."""
    if torch.equal(a, b):
        return True
    return bool((a - b).norm() <= 100 * _rounding(a) * a.norm())


# -- the problem as a whole -----------------------------------------------------------------------


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
        if not _same(slope, again):
            _refuse_chance("inner_loss", "its gradient at one and the same point differs each time")
        if not _same(b, c) or not _same(torch.tensor(value), torch.tensor(other)):
            _refuse_chance("outer_loss", "its value at one and the same point differs each time")
    return first


def _refuse_chance(method: str, what: str) -> NoReturn:
    raise HpoError(
        f"{method} draws at random: {what}",
        hint="draw once, in __init__ and from a seeded generator, and keep what was drawn (in"
        " init_params: seed the generator with its argument); a network with dropout: .eval()",
        code="not-deterministic",
    )


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
    dice = _Dice(flat)
    u, v = dice.like(x), dice.like(x)
    try:
        curvature = Curvature(flat, x, t)
        hu, hv = curvature.product(u), curvature.product(v)
    except RuntimeError as error:  # what torch says of an operation without a second derivative
        raise _once_only(str(error).strip().splitlines()[0]) from error
    off = abs(float(u @ hv) - float(v @ hu))
    if off > _ASYMMETRY * _rounding(x) * float((u * hv).norm() + (v * hu).norm()):
        raise _once_only("products with its Hessian are not symmetric")
    small = _rounding(x) ** (1 / 3) * _size(x)
    near, far = (_difference(flat, t, x, step * v) / step for step in (small, 2 * small))
    noise = 100 * _rounding(x) * float(curvature.slope.norm()) / small
    largest = max(float(hv.norm()), float(near.norm()))
    if float((near - hv).norm()) > _ONCE * largest + 4 * float((near - far).norm()) + noise:
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


# -- knob by knob ---------------------------------------------------------------------------------


def _without_derivative(
    flat: Bilevel,
    places: Sequence[tuple[Tensor, Tensor]],
    names: Sequence[str],
    indirect: Callable[[Bilevel, Tensor, Tensor], Tensor],
) -> dict[str, str]:
    """The knobs whose derivatives are zero at all of the places, with what they do instead."""
    direct, crosses, through = [], [], False
    for x, t in places:
        _, b, part = flat.outer_gradients(x, t)
        direct.append(part)
        crosses.append(indirect(flat, x, t))
        through = through or bool((b != 0).any())
    x, t = places[-1]
    found: dict[str, str] = {}
    for name in names:
        columns = flat.coordinates.slices[name]
        is_direct, is_cross = (
            any(bool((part[columns] != 0).any()) for part in parts) for parts in (direct, crosses)
        )
        if is_direct or (is_cross and through):
            continue
        if is_cross:
            found[name] = "has no derivative: outer_loss passes none to params (detach, .item()?)"
        elif _acts(flat, t, x, columns):
            found[name] = "changes the result but has no derivative (float(), detach, rounding?)"
        else:
            found[name] = "has no effect on either loss"
    return found


def _mixed(flat: Bilevel, x: Tensor, t: Tensor) -> Tensor:
    """The derivative in t (m,) of a random sum of the inner gradient's entries."""
    return curvature_at(flat, x, t).cross(_Dice(flat).like(x))


def _in_knobs(flat: Bilevel, x: Tensor, t: Tensor) -> Tensor:
    """The derivative in t (m,) of the inner loss, which needs no second derivatives."""
    t = t.detach().requires_grad_()
    loss = flat.inner(x, t)
    if not loss.requires_grad:
        return torch.zeros_like(t)
    (found,) = torch.autograd.grad(loss, t, allow_unused=True, materialize_grads=True)
    return found


def _acts(flat: Bilevel, t: Tensor, x: Tensor, columns: slice) -> bool:
    """Whether anything at x depends on these knobs, tried all over their ranges."""
    seen: list[Tensor] = []
    for fraction in _FRACTIONS:
        at = t.clone()
        at[columns] = fraction * flat.coordinates.spans[columns]
        parts = [flat.gradient(x, at)[1], x.new_tensor([flat.outer_value(x, at)])]
        if not flat.smooth:
            parts.append(flat.proximal(x, at, 1.0).detach())
        seen.append(torch.cat(parts))
    return not all(torch.equal(seen[0], other) for other in seen[1:])


class _Around:
    """The outer loss around a point, solved anew at each move; every solve begins where the last
    one ended."""

    def __init__(self, flat: Bilevel, here: Evaluation, rules: Rules) -> None:
        self._flat, self.here, self._rules, self._warm = flat, here, rules, here.warm

    def sharper(self) -> _Around:
        rules = Rules(relative=self._rules.relative / _SHARPER)
        slope = self.here.slope / _SHARPER
        again = evaluate(self._flat, self.here.t, self._warm, rules, slope=slope)
        return _Around(self._flat, again, rules)

    def disagreement(self, move: Tensor) -> tuple[float, float] | None:
        """How much the outer loss grows by a move, as re-solved values and as the derivative say,
        if these disagree by more than their errors and what the derivative changes on the way."""
        slope = float(self.here.gradient @ move)
        noise = 16 * _rounding(self.here.x) * abs(self.here.value)
        target = max(_SHARE * abs(slope), noise)
        ahead, behind = (self._at(sign * move, target) for sign in (1, -1))
        if not (ahead.finite and behind.finite):
            return None
        found = (ahead.value - behind.value) / 2
        slopes = [slope, float(ahead.gradient @ move), float(behind.gradient @ move)]
        low, high = min(slopes), max(slopes)  # across a kink the difference lies between them
        allowed = (ahead.error + behind.error) / 2 + noise + (high - low)
        allowed += _AGREES * max(abs(low), abs(high))
        return None if low - allowed <= found <= high + allowed else (found, slope)

    def _at(self, move: Tensor, target: float) -> Evaluation:
        t, slope = self.here.t + move, self.here.slope
        found = evaluate(self._flat, t, self._warm, self._rules, slope=slope, value=target)
        if found.finite:
            self._warm = found.warm
        return found


def _contradicted(
    flat: Bilevel, around: _Around, steps: Tensor, names: Sequence[str]
) -> dict[str, str]:
    """The knobs whose derivative is not what values re-solved on both sides say. Several are moved
    together, and halved until those are left that disagree."""
    if not names:
        return {}
    move = _direction(flat, around.here, names) * steps
    if around.disagreement(move) is None:
        return {}
    short = move / _SHORTER
    told = around.sharper().disagreement(short)
    if told is None:
        return {}
    if len(names) == 1:
        found, slope = (number / float(short.norm()) for number in told)
        return {
            names[0]: f"has the derivative {slope:.2g} where values solved anew say {found:.2g}"
            " (part of a loss detached?)"
        }
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    return {
        k: why for half in halves for k, why in _contradicted(flat, around, steps, half).items()
    }


def _direction(flat: Bilevel, here: Evaluation, names: Sequence[str]) -> Tensor:
    """A random direction (m,) in these knobs in which the outer loss grows, no entry above 1."""
    drawn = _Dice(flat).knobs() / flat.coordinates.spans
    signs = torch.where(here.gradient != 0, here.gradient.sign(), (drawn - 0.5).sign())
    direction = torch.zeros_like(drawn)
    for name in names:
        columns = flat.coordinates.slices[name]
        direction[columns] = (signs * (0.5 + drawn / 2))[columns]
    return direction
