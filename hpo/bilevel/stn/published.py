"""Self-Tuning Networks as they were published, to compare with: options and steps of their codes.

MacKay, Vicol, Lorraine, Duvenaud and Grosse, Self-Tuning Networks (ICLR 2019), and Bae and Grosse,
Delta-STN (NeurIPS 2020). Where these leave room, the run decides: its optimizer trains the weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from hpo.bilevel.gates.full_response import FullResponse, linearised
from hpo.bilevel.gates.sites import sites_of
from hpo.bilevel.stn.freeknobs import FreeKnobs
from hpo.bilevel.stn.options import SelfTuningOptions
from hpo.bilevel.stn.published_forms import FORMS, PublishedForm, as_published, require_tunable
from objectives.training.evaluation import checked_loss
from objectives.training.optimizers import (
    build_optimizer,
    highest_rate,
    scale_gradients,
    set_rate,
)
from objectives.training.randomness import derived_seed
from search_spaces.domains import Domain, Int, Point
from search_spaces.evaluating import evaluating
from search_spaces.regularizer import Batch, Regularizer, Scope, scopes_of

if TYPE_CHECKING:
    from objectives.training.state import Run


class Published:
    """Tunes the knobs of `domains` within a run, from the values of `start`, as published.

    options.response "full": the network of 2019, in which one pass at perturbed knobs trains
    everything and the response sees the knobs themselves (`centred`: how far they are from their
    centre). "delta": Delta-STN of 2020. Of `options`, what stands at the default of the present
    method has that of the published code. When the run ends, the model is the tuned network at the
    centre of the knobs, as a plain module.
    """

    def __init__(
        self,
        domains: Mapping[str, Domain],
        regularizers: Mapping[str, Regularizer],
        start: Point,
        options: SelfTuningOptions,
        form: PublishedForm | None = None,
    ) -> None:
        self._form = FORMS[options.response] if form is None else form
        self._options = as_published(options, self._form)
        self._centred = options.centred
        self._domains, self._start = dict(domains), dict(start)
        self._held = {name: value for name, value in start.items() if name not in domains}
        known = scopes_of(regularizers)
        self._scopes: dict[str, Scope] = {name: known.get(name, "example") for name in domains}
        self._penalised = any(r.penalty is not None for r in regularizers.values())
        for name, domain in domains.items():
            require_tunable(name, domain, regularizers)

    # -- the protocol of a tuner ------------------------------------------------------------------

    def begin(self, run: Run) -> None:
        """Gives the layers their second weights, and sets the knobs to start."""
        form, like = self._form, next(iter(run.parameters.values()))
        precise = torch.promote_types(like.dtype, torch.float32)
        self.free = FreeKnobs(self._domains, self._scopes, like.device, precise)
        self.center = self.free.initial(self._start).requires_grad_()
        first = math.log(math.expm1(self._options.scale))
        self.latent_scale = torch.full_like(self.center, first, requires_grad=True)
        both = [self.center, self.latent_scale]
        kind = torch.optim.Adam if form.optimizer == "adam" else torch.optim.RMSprop
        rate = form.rate if self._options.rate is None else self._options.rate
        self._optimizer: torch.optim.Optimizer = kind(both, lr=rate)
        self._rng = torch.Generator(like.device).manual_seed(derived_seed(run.seed, "stn"))
        self.response = self._respond(run)
        for undo in self.response.attach():
            run.keep(undo)
        run.keep(lambda: self._leave(run))
        run.effective = lambda: self._effective(run)
        self._learner = build_optimizer(self.response.parameters(), run.training)
        self._rows = 0
        self._resting = False
        self._pooled: Tensor | None = None  # what one set of weights for a whole batch sees
        self._see_centre()

    def _respond(self, run: Run) -> FullResponse:
        form, seed = self._form, derived_seed(run.seed, "response")
        return FullResponse(sites_of(run), len(self.free), form.own_scale, form.factor_spread, seed)

    def _leave(self, run: Run) -> None:
        """Makes the model what the tuned network is; in two passes it is that already."""
        if not self._form.two_passes:
            self.response.write(run.model, self._seen(self.center.detach()))

    def knobs(self, progress: float, rows: int) -> Mapping[str, Any]:
        """The strengths of one training pass: perturbed for each row, or at the centre where the
        weights are trained there."""
        self._rows = rows
        if self._resting or self._form.two_passes:
            return {**self._held, **self.free.point(self.center)}
        with torch.no_grad():
            free = self._perturbed(self._draws(rows))
            self.response.seen = self._seen(free)
            self._pooled = self._pool(self.response.seen)
            return {**self._held, **self._values(free)}

    def after_step(self, run: Run, progress: float) -> None:
        """Steps the response, and, when it is time, the knobs."""
        options = self._options
        if not (self._resting and self._form.two_passes):
            if self._form.two_passes:
                self._differentiate_response(run)
            else:  # its gradients are of the pass whose gradients were clipped
                scale_gradients(self.response.parameters(), run.clipped)
            set_rate(self._learner, highest_rate(run.optimizer) * options.response_rate)
            self._learner.step()
            self._learner.zero_grad()
        due = progress >= options.warmup and run.step % options.pace(run.training.steps) == 0
        if due and not self._resting:
            self._tune(run)
        self._see_centre()
        self._resting = options.settle > 0 and progress >= 1 - options.settle

    def point(self, progress: float) -> Point:
        """The knobs at their centre."""
        if not hasattr(self, "center"):
            return dict(self._start)
        return {**self._held, **self.free.point(self.center)}

    def spread(self) -> Point:
        """The scale of the perturbation of each knob, in free units; zero at rest."""
        scale = softplus(self.latent_scale)
        return self.free.by_knob(torch.zeros_like(scale) if self._resting else scale)

    def moving(self, progress: float) -> bool:
        """Whether the knobs still move."""
        return not self._resting

    def state_dict(self) -> dict[str, Any]:
        """Centre, scales, response, both optimizers, draws: all that decides what comes next."""
        return {
            "center": self.center.detach(),
            "latent_scale": self.latent_scale.detach(),
            "optimizer": self._optimizer.state_dict(),
            "gates": [gate.state_dict() for gate in self.response.gates],
            "learner": self._learner.state_dict(),
            "rng": self._rng.get_state(),
            "resting": self._resting,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a saved state; to be called after `begin`."""
        with torch.no_grad():
            self.center.copy_(state["center"])
            self.latent_scale.copy_(state["latent_scale"])
        self._optimizer.load_state_dict(state["optimizer"])
        for gate, saved in zip(self.response.gates, state["gates"], strict=True):
            gate.load_state_dict(saved)
        self._learner.load_state_dict(state["learner"])
        self._rng.set_state(state["rng"])
        self._resting = state["resting"]
        self._see_centre()

    # -- values -----------------------------------------------------------------------------------

    def _draws(self, rows: int) -> Tensor:
        """Standard normal draws (rows, columns), the same in each row where a knob is shared."""
        shape = (rows, len(self.free))
        draws = torch.randn(
            shape, generator=self._rng, device=self._rng.device, dtype=self.center.dtype
        )
        return torch.where(self.free.shared, draws[:1], draws)

    def _perturbed(self, draws: Tensor) -> Tensor:
        return self.center + softplus(self.latent_scale) * draws

    def _seen(self, free: Tensor) -> Tensor:
        """What the response sees of free numbers; moving the centre alone is not seen by one that
        is centred, though a gradient passes."""
        return free - self.center.detach() if self._centred else free

    def _see_centre(self) -> None:
        """What holds between training passes, in evaluation too."""
        centre = self._seen(self.center.detach())
        self.response.seen = None if self._form.two_passes else centre[None]
        self._pooled = None if self._form.two_passes else centre

    def _pool(self, seen: Tensor) -> Tensor:
        """What one set of weights for the whole batch would see: its knobs, the rest centred."""
        return torch.where(self.free.shared, seen[0], self._seen(self.center.detach()))

    def _values(self, free: Tensor) -> dict[str, Tensor]:
        """Strengths at free numbers (rows, columns), as the regularizers take them."""
        found = {}
        for name, value in self.free.values(free).items():
            domain = self._domains[name]
            if isinstance(domain, Int):
                value = value.round().clamp(domain.low, domain.high)
            found[name] = value[0] if self._scopes[name] == "batch" else value
        return found

    def _effective(self, run: Run) -> Mapping[str, Tensor]:
        """The weights as a penalty sees them: with the response to the knobs of the batch."""
        if self._pooled is None or not self._penalised:
            return run.parameters
        folded = self.response.folded(self._pooled)
        return {name: folded.get(name, weight) for name, weight in run.parameters.items()}

    # -- the step of the response -----------------------------------------------------------------

    def _differentiate_response(self, run: Run) -> None:
        """The second pass over the batch, at perturbed knobs; its gradients are for the response.

        Buffers, such as the statistics of norms, are left as the first pass made them.
        """
        rows = len(run.batch.targets)
        with torch.no_grad():
            free = self._perturbed(self._draws(rows))
            seen, values = self._seen(free), self._values(free)
        buffers = [(buffer, buffer.clone()) for buffer in run.model.buffers()]
        parameters = self.response.parameters()
        self._pooled = self._pool(seen)
        with self._responding(run, seen):
            loss, penalty = run.regularized_loss(run.batch, {**self._held, **values})
            total = loss if penalty is None else loss + penalty
            grads = torch.autograd.grad(total, parameters, allow_unused=True)
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        run.spend(gradients=3 if self._form.linearised else 1, examples=rows)

    def _responding(self, run: Run, seen: Tensor) -> AbstractContextManager[None]:
        if self._form.linearised:
            return linearised(run.model, self.response, seen)
        self.response.seen = seen
        return nullcontext()

    # -- the step of the knobs --------------------------------------------------------------------

    def _tune(self, run: Run) -> None:
        """One step of the knobs and, if they are learned, of their scales; none where a gradient
        is not finite, because no optimizer comes back from that."""
        batch = run.next_batch("validation").sample(self._rows, self._rng)
        rows = len(batch.targets)
        learned = self._options.learn_scale
        draws = self._draws(rows) if learned else self.center.new_zeros(rows, len(self.free))
        loss = self._tuning_loss(run, batch, draws)
        grads = torch.autograd.grad(loss, [self.center, self.latent_scale])
        run.spend(gradients=1, examples=rows)
        if all(bool(grad.isfinite().all()) for grad in grads):
            self.center.grad = grads[0]
            self.latent_scale.grad = grads[1] if learned else None
            self._optimizer.step()

    def _tuning_loss(self, run: Run, batch: Batch, draws: Tensor) -> Tensor:
        """The plain loss of a validation batch at perturbed knobs, less weighted entropy."""
        self.response.seen = self._seen(self._perturbed(draws))
        with evaluating(run.model):
            losses = checked_loss(run.task.loss(run.model, batch), len(batch.targets), run.task)
        if not self._options.learn_scale:
            return losses.mean()
        scale = softplus(self.latent_scale)
        entropy = (scale * math.sqrt(2 * math.pi * math.e)).log().sum()
        return losses.mean() - self._options.entropy * entropy
