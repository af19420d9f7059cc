"""Knob by knob: whether a derivative reaches it, and whether values solved anew agree with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hpo.bilevel.implicit.curvatures import curvature_at
from hpo.bilevel.implicit.dice import Dice, rounding, same
from hpo.bilevel.implicit.evaluation import Evaluation, Rules, evaluate
from hpo.bilevel.implicit.problem import Bilevel

# Knobs that are re-solved one by one. The others are moved together, where only a fault shows that
# is much of their derivative.
SEPARATELY = 8
_DEAR = 2000  # units of work after which no further knob is re-solved
STEP = 0.1  # how far a knob is moved for that, in units of its coordinate
_SHARE = 0.1  # of the predicted change, that the error of a re-solved value may be
_SMALL = 1e-8  # of the outer loss, below which no change of it is sought
_AGREES = 0.05  # of the derivative, that a difference may be off besides its known errors
_SHARPER, _SHORTER = 100.0, 5.0  # how a disagreement is looked at again
_PROX = 1e-3  # the length of a proximal step; any will do
_FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of a range, at which a knob is tried
RULES = Rules(relative=0.03)


def without_derivative(
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


def mixed(flat: Bilevel, x: Tensor, t: Tensor) -> Tensor:
    """The derivative in t (m,) of a random sum of the inner gradient's entries."""
    return curvature_at(flat, x, t).cross(Dice(flat).like(x))


def in_knobs(flat: Bilevel, x: Tensor, t: Tensor) -> Tensor:
    """The derivative in t (m,) of the inner loss and of its prox: second ones are not needed."""
    t = t.detach().requires_grad_()
    loss = flat.inner(x, t)
    if not flat.smooth:
        loss = loss + flat.proximal(x, t, _PROX).sum()
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
            parts.append(flat.proximal(x, at, _PROX).detach())
        seen.append(torch.cat(parts))
    return not all(same(seen[0], other) for other in seen[1:])


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
        noise = 16 * rounding(self.here.x) * abs(self.here.value)
        target = max(_SHARE * abs(slope), _SMALL * abs(self.here.value), noise)
        ahead, behind = (self._at(sign * move, target) for sign in (1, -1))
        if not (ahead.finite and behind.finite) or ahead.damping or behind.damping:
            return None
        found = (ahead.value - behind.value) / 2
        slopes = [slope, float(ahead.gradient @ move), float(behind.gradient @ move)]
        low, high = min(slopes), max(slopes)  # across a kink the difference lies between them
        allowed = (ahead.error + behind.error) / 2 + noise + (high - low) / 2
        allowed += _AGREES * max(abs(low), abs(high))
        return None if low - allowed <= found <= high + allowed else (found, slope)

    def _at(self, move: Tensor, target: float) -> Evaluation:
        t, slope = self.here.t + move, self.here.slope
        found = evaluate(self._flat, t, self._warm, self._rules, slope=slope, value=target)
        if found.finite:
            self._warm = found.warm
        return found


def contradicted_knobs(
    flat: Bilevel, here: Evaluation, steps: Tensor, names: Sequence[str]
) -> dict[str, str]:
    """The knobs whose derivative is not what values solved anew on both sides of `here` say, at
    moves of `steps` (m,), each with both numbers; looked for until it has cost enough."""
    around = _Around(flat, here, RULES)
    found: dict[str, str] = {}
    for group in [*([name] for name in names[:SEPARATELY]), names[SEPARATELY:]]:
        if flat.work.units < _DEAR:
            found |= _contradicted(flat, around, steps, group)
    return found


def _contradicted(
    flat: Bilevel, around: _Around, steps: Tensor, names: Sequence[str]
) -> dict[str, str]:
    """Of one knob; several are moved together, and halved until those are left that disagree."""
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
    drawn = Dice(flat).knobs() / flat.coordinates.spans
    signs = torch.where(here.gradient != 0, here.gradient.sign(), (drawn - 0.5).sign())
    direction = torch.zeros_like(drawn)
    for name in names:
        columns = flat.coordinates.slices[name]
        direction[columns] = (signs * (0.5 + drawn / 2))[columns]
    return direction
