"""Self-Tuning Networks as a tuner: one run trains the weights, learns how they answer to the knobs,
and moves the knobs downhill on validation batches.

MacKay, Vicol, Lorraine, Duvenaud and Grosse (ICLR 2019); centred as in Bae and Grosse, Delta-STN
(NeurIPS 2020), but with one pass a step, whose perturbations come in pairs of opposite sign.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hpo.bilevel.diagnostics.observer import Observer, precision_of
from hpo.bilevel.gates.response import Response
from hpo.bilevel.gates.sites import sites_of
from hpo.bilevel.stn import lookahead
from hpo.bilevel.stn.descent import Descent
from hpo.bilevel.stn.freeknobs import FreeKnobs
from hpo.bilevel.stn.options import SelfTuningOptions
from hpo.bilevel.stn.perturbation import Perturbation, antithetic, chained
from objectives.training.evaluation import checked_loss
from objectives.training.optimizers import (
    build_optimizer,
    highest_rate,
    scale_gradients,
    set_rate,
)
from objectives.training.randomness import derived_seed
from search_spaces.domains import Choice, Domain, Point
from search_spaces.evaluating import evaluating
from search_spaces.regularizer import Regularizer, Scope, scopes_of

if TYPE_CHECKING:
    from hpo.bilevel.diagnostics.diagnostics import Diagnostics
    from objectives.training.state import Run


_NEAR_THE_END = -3.9  # a free number that far down stands for less than 2% of the range


class SelfTuning:
    """Tunes the knobs of `domains` within a run, from the values of `start`.

    Every row of a training batch has knobs of its own, drawn around the centre, and the response
    learns what that does to the best weights. Every few steps a validation batch is seen through
    the response, and its gradient moves the centre. Knobs of `start` without a domain are held.
    Of a loop of one's own it uses what there is of `clipped`, `skips_steps`, `autocast` (the
    context of a training pass) and `optimizer_like`.
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
        self._odds = [k for k in self._stepped if isinstance(columns[k].domain, Choice)]
        self.answered = len(self._stepped) < len(columns)
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
        # Asking a GPU whether numbers are finite makes the host wait for it: for nothing, where a
        # run ends anyway as soon as they are not.
        self._wary = run.device.type == "cpu" or getattr(run, "skips_steps", True)
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
        if self._odds:
            delta[:, self._odds] = 0.0
        self.response.delta = delta
        return {**self.held, **strengths}

    def after_step(self, run: Run, progress: float) -> None:
        """Steps the response, and, when it is time, the knobs."""
        if self._observer.aside is not None:
            return
        if not self._resting:
            try:
                self._advance(run, progress)
            finally:
                self.response.delta = None
        options = self.options
        # Rates rise again where they restart: what has faded comes back, what has settled does not.
        faded = run.training.rate_factor(progress) < options.freeze
        self._resting = progress >= 1 - options.settle or (faded and progress > options.warmup)

    def _advance(self, run: Run, progress: float) -> None:
        due = progress >= self.options.warmup and run.step % self.every == 0
        if due:
            self._observer.look(run)
        self._learn(run)
        if due:
            self._observer.tune(run)
            if self.diagnostics.tried in self._chances:
                self._give_another_chance()

    def _learn(self, run: Run) -> None:
        """A step of the response, with the gradients of the pass that the weights learned from:
        clipped as theirs were, and none where they are not finite."""
        grads = scale_gradients(self.response.parameters(), getattr(run, "clipped", 1.0))
        if grads and self._wary and not _finite(grads):
            self.diagnostics.unlearn()
        else:
            set_rate(self.answers, highest_rate(run.optimizer) * self.options.response_rate)
            self.answers.step()
            self.response.average(1 / max(1, self.options.average))
        self.answers.zero_grad()

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
            "observer": self._observer.state_dict(),
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
        self._observer.load_state_dict(state["observer"])

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
            with precision_of(run):
                loss = checked_loss(run.task.loss(run.model, batch), rows, run.task).mean()
            each, *grads = torch.autograd.grad(loss, [delta, *wanted.values()], allow_unused=True)
        run.spend(gradients=1, examples=rows)
        by_delta = each.sum(0)
        if self._stepped:
            known = {n: g for n, g in zip(wanted, grads, strict=True) if g is not None}
            weights = {name: wanted[name] for name in known}
            for column in self._stepped:
                by_delta[column] = self._ahead(run, weights, known, column) if known else 0.0
        grad_center = chained(by_delta, self.descent.center, self.free, self.options.entropy)
        center, scale = self.descent.center.clone(), self.descent.scale
        with torch.no_grad():
            if self.descent.step(grad_center, (each * draws).sum(0)):
                self.diagnostics.step(grad_center, each, scale, center)
            else:
                self.diagnostics.refuse()

    def _ahead(
        self, run: Run, weights: Mapping[str, Tensor], grads: Mapping[str, Tensor], column: int
    ) -> float:
        """What a knob that only the optimizer's step uses does to the validation loss there, at
        unit learning rate: the slope in its free number, or the change with one of its options."""
        center, at = self.descent.center, self.free.columns[column]

        def step(moved: Mapping[str, Tensor], knobs: Mapping[str, Any], rate: float) -> None:
            run.regularization.before_step(moved, {**self._nominal(), **knobs}, rate)

        if isinstance(at.domain, Choice):
            numbers = [abs(o) for o in at.domain.options if isinstance(o, int | float)]
            rate = 0.5 / max([1.0, *numbers])
            option = at.domain.options[at.place or 0]
            return lookahead.change(step, weights, grads, {at.knob: option}, rate) / rate

        def step_at(moved: Mapping[str, Tensor], free: Tensor, rate: float) -> None:
            step(moved, self.free.values(free), rate)

        strength = float(self.free.flat_values(center)[column])
        # Half the step at which such hooks stop: beyond it there is nothing left to shrink.
        rate = 0.5 / max(1.0, abs(strength))
        return lookahead.slope(step_at, weights, grads, center, column, rate)


def _finite(grads: list[Tensor]) -> bool:
    # One sum over all of them: asking each would cost several times as much.
    return math.isfinite(torch._utils._flatten_dense_tensors(grads).sum().item())  # type: ignore[no-untyped-call]


def _optimizer_like(run: Run, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The response learns as the weights do: what it says is where they would have gone."""
    own = getattr(run, "optimizer_like", None)  # a loop with an optimizer of its own
    if own is not None:
        return own(parameters)  # type: ignore[no-any-return]
    return build_optimizer(parameters, run.training)
