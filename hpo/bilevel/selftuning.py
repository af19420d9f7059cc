"""Self-Tuning Networks as a tuner: one run trains the weights, learns how they answer to the knobs,
and moves the knobs downhill on validation batches.

MacKay, Vicol, Lorraine, Duvenaud and Grosse (ICLR 2019); centred as in Bae and Grosse, Delta-STN
(NeurIPS 2020), but with one pass a step, whose perturbations come in pairs of opposite sign.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hpo.bilevel import lookahead
from hpo.bilevel.descent import Descent
from hpo.bilevel.freeknobs import FreeKnobs
from hpo.bilevel.observer import Observer
from hpo.bilevel.options import SelfTuningOptions
from hpo.bilevel.perturbation import Perturbation, antithetic, chained
from hpo.bilevel.response import Response
from hpo.bilevel.sites import sites_of
from objectives.training.evaluation import checked_loss, evaluating
from objectives.training.optimizers import build_optimizer, set_rate
from objectives.training.randomness import derived_seed
from search_spaces.domains import Choice, Domain, Point
from search_spaces.regularizer import Regularizer, Scope, scopes_of

if TYPE_CHECKING:
    from hpo.bilevel.diagnostics import Diagnostics
    from objectives.training.state import Run


_NEAR_THE_END = -3.9  # a free number that far down stands for less than 2% of the range


class SelfTuning:
    """Tunes the knobs of `domains` within a run, from the values of `start`.

    Every row of a training batch has knobs of its own, drawn around the centre, and the response
    learns what that does to the best weights. Every few steps a validation batch is seen through
    the response, and its gradient moves the centre. Knobs of `start` without a domain are held.
    """

    def __init__(
        self,
        domains: Mapping[str, Domain],
        regularizers: Mapping[str, Regularizer],
        start: Point,
        options: SelfTuningOptions,
    ) -> None:
        self._domains, self._start, self.options = dict(domains), dict(start), options
        self.held = {name: value for name, value in start.items() if name not in domains}
        # The weight of an auxiliary loss belongs to no regularizer; it acts on each example.
        self._scopes: dict[str, Scope] = dict.fromkeys(domains, "example")
        self._scopes |= scopes_of(regularizers)
        self._penalised = any(r.penalty for r in regularizers.values())
        # What only the optimizer's step uses has no effect that a response could learn.
        self._steps_only = {
            knob for r in regularizers.values() if r.by_optimizer_alone for knob in r.knobs
        }

    # -- the protocol of a tuner ------------------------------------------------------------------

    def begin(self, run: Run) -> None:
        """Finds the layers that respond, puts the gates on them, and sets the knobs to start."""
        options, like = self.options, next(iter(run.parameters.values()))
        precise = torch.promote_types(like.dtype, torch.float32)
        self.free = FreeKnobs(self._domains, self._scopes, like.device, precise)
        columns = self.free.columns
        self._stepped = [k for k, column in enumerate(columns) if column.knob in self._steps_only]
        still = [c.knob in self._steps_only or isinstance(c.domain, Choice) for c in columns]
        self.every = options.pace(run.training.steps)
        steps = int(run.training.steps * max(0.0, 1 - options.warmup - options.settle))
        center = self.free.initial(self._start)
        still_here = torch.tensor(still, device=like.device)
        self.descent = Descent(center, still_here, steps // self.every, options)
        self._rng = torch.Generator(like.device).manual_seed(derived_seed(run.seed, "stn"))
        self.perturbation = Perturbation(self.free, self._rng)
        self.response = self._respond(run, like)
        for undo in self.response.attach(run.model):
            run.keep(undo)
        if self._penalised:
            run.effective = lambda: self._effective(run)
        self.answers = _optimizer_like(run, self.response.parameters())
        self._rows = 0
        self._resting = False
        tunings, again = steps // self.every, options.restarts
        self._chances = {tunings * (k + 1) // (again + 1) for k in range(again)}
        self._observer = Observer(self, run, tunings, options.audit)

    def _respond(self, run: Run, like: Tensor) -> Response:
        seed = derived_seed(run.seed, "response")
        return Response(sites_of(run), len(self.free), like, seed)

    def knobs(self, progress: float, rows: int) -> Mapping[str, Any]:
        """Strengths drawn around the centre: one for each row, or one for all of them."""
        if self._observer.aside is not None:
            return {**self.held, **self.free.point(self._observer.aside)}
        self._rows = rows
        if self._resting:
            return self._nominal()
        descent = self.descent
        delta, strengths = self.perturbation.draw(descent.center, descent.scale, rows)
        self.response.delta = delta
        return {**self.held, **strengths}

    def after_step(self, run: Run, progress: float) -> None:
        """Steps the response, and, when it is time, the knobs."""
        options = self.options
        if self._resting or self._observer.aside is not None:
            return
        set_rate(self.answers, run.optimizer.param_groups[0]["lr"] * options.response_rate)
        self.answers.step()
        self.answers.zero_grad()
        self.response.average(1 / max(1, options.average))
        if progress >= options.warmup and run.step % self.every == 0:
            self._observer.tune(run)
            if self.diagnostics.steps in self._chances:
                self._give_another_chance()
        self.response.delta = None
        faded = run.training.rate_factor(progress) < options.freeze
        self._resting = progress >= 1 - options.settle or (faded and progress > options.warmup)

    @property
    def diagnostics(self) -> Diagnostics:
        """What has been seen of the tuning so far."""
        return self._observer.diagnostics

    def _give_another_chance(self) -> None:
        """Puts knobs that have run into their lower end back to where they began."""
        descent = self.descent
        descent.restart((descent.center < _NEAR_THE_END) & (descent.start > _NEAR_THE_END))

    def point(self, progress: float) -> Point:
        """The knobs at their centre."""
        if not hasattr(self, "descent"):
            return dict(self._start)
        return {**self.held, **self.free.point(self.descent.center)}

    def spread(self) -> Point:
        """The scale of the perturbation of each number knob, in free units; zero at rest."""
        scale = self.descent.scale
        return self.free.by_knob(torch.zeros_like(scale) if self._resting else scale)

    def measured(self, run: Run, metrics: Mapping[str, float]) -> None:
        """Takes in the losses on the held-out splits."""
        self._observer.measured(run, self._rows, metrics)

    def report(self) -> dict[str, float]:
        """Metrics about the tuning itself."""
        return self.diagnostics.report()

    def notes(self) -> list[str]:
        """What has begun to go wrong, in plain words."""
        return self.diagnostics.warnings()

    def moving(self, progress: float) -> bool:
        """Whether the knobs still move."""
        return not self._resting

    def state_dict(self) -> dict[str, Any]:
        """Centre, scales, response, both optimizers, draws: all that decides what comes next."""
        return {
            "descent": self.descent.state_dict(),
            "gates": [gate.state_dict() for gate in self.response.gates],
            "averages": self.response.averages,
            "answers": self.answers.state_dict(),
            "perturbation": self.perturbation.state_dict(),
            "resting": self._resting,
            "rows": self._rows,
            "diagnostics": self.diagnostics.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a saved state; to be called after `begin`."""
        self.descent.load_state_dict(state["descent"])
        for gate, saved in zip(self.response.gates, state["gates"], strict=True):
            gate.load_state_dict(saved)
        for average, saved in zip(self.response.averages, state["averages"], strict=True):
            average.copy_(saved)
        self.answers.load_state_dict(state["answers"])
        self.perturbation.load_state_dict(state["perturbation"])
        self._resting, self._rows = state["resting"], state["rows"]
        self.diagnostics.load_state_dict(state["diagnostics"])

    # -- values ---------------------------------------------------------------------------------

    def _nominal(self) -> dict[str, Any]:
        return {**self.held, **self.free.point(self.descent.center)}

    def _effective(self, run: Run) -> Mapping[str, Tensor]:
        """The weights as a penalty sees them under this batch's perturbation."""
        if self.response.delta is None or not self.free.any_shared:
            return run.parameters
        shared = torch.where(self.free.shared, self.response.delta[0], 0.0)
        return self.response.effective(run.parameters, shared)

    # -- the step of the knobs --------------------------------------------------------------------

    def tune(self, run: Run) -> None:
        """One step of the knobs, from validation rows seen through the response: as many as a
        training batch has, so that it costs no more."""
        batch = run.next_batch("validation").sample(self._rows, self._rng)
        rows = len(batch.targets)
        draws = antithetic(rows, len(self.free), self._rng, self.descent.center)
        delta = (draws * self.descent.scale).requires_grad_()
        self.response.delta = delta
        wanted = {n: p for n, p in run.parameters.items() if p.ndim >= 2} if self._stepped else {}
        with evaluating(run.model), self.response.averaged():
            loss = checked_loss(run.task.loss(run.model, batch), rows, run.task).mean()
            each, *grads = torch.autograd.grad(loss, [delta, *wanted.values()], allow_unused=True)
        run.spend(gradients=1, examples=rows)
        self.response.delta = None
        grad_center = chained(each.sum(0), self.descent.center, self.free, self.options.entropy)
        if self._stepped:
            known = {n: g for n, g in zip(wanted, grads, strict=True) if g is not None}
            weights = {name: wanted[name] for name in known}
            for column in self._stepped:
                grad_center[column] = self._slope(run, weights, known, column)
        self.diagnostics.step(grad_center, each, self.descent.scale, self.descent.center)
        with torch.no_grad():
            self.descent.step(grad_center, (each * draws).sum(0))

    def _slope(
        self, run: Run, weights: Mapping[str, Tensor], grads: Mapping[str, Tensor], column: int
    ) -> float:
        def step(moved: Mapping[str, Tensor], free: Tensor, rate: float) -> None:
            knobs = {**self._nominal(), **self.free.values(free)}
            run.regularization.before_step(moved, knobs, rate)

        strength = float(self.free.flat_values(self.descent.center)[column])
        # Half the step at which such hooks stop: beyond it there is nothing left to shrink.
        rate = 0.5 / max(1.0, abs(strength))
        return lookahead.slope(step, weights, grads, self.descent.center, column, rate)


def _optimizer_like(run: Run, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The response learns as the weights do: what it says is where they would have gone."""
    own = getattr(run, "optimizer_like", None)  # a loop with an optimizer of its own
    if own is not None:
        return own(parameters)  # type: ignore[no-any-return]
    return build_optimizer(parameters, run.training)
