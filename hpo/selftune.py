"""Self-tuning in a training loop of one's own: five lines, and the model stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from hpo.bilevel.ownloop.copies import noted
from hpo.bilevel.ownloop.ownloop import Loss, OwnLoop, OwnTask, Validation, by_example
from hpo.bilevel.ownloop.passes import Passes
from hpo.bilevel.stn.options import SelfTuningOptions
from hpo.bilevel.stn.selftuning import SelfTuning
from hpo.ownchecks import (
    check_batch,
    check_loop,
    claim,
    look,
    never_stepped,
    out_of_order,
    refuse_scaled,
    refuse_second_tuner,
    try_targets,
)
from hpo.ownspace import Knobs, knobs_of
from hpo.samplers._options import read
from search_spaces.errors import HpoError
from search_spaces.regularizer import Batch
from search_spaces.schedule import Schedule

_PATH = 200  # at most about so many points of the knobs' path are kept
_PATIENCE = 10  # steps of a loop in which its optimizer must have stepped once


def self_tune(
    model: nn.Module,
    space: object,
    *,
    optimizer: torch.optim.Optimizer,
    validation: Validation,
    loss: Loss,
    steps: int,
    fixed: Mapping[str, Any] | None = None,
    classes: int | None = None,
    seed: int = 0,
    **options: Any,
) -> SelfTuner:
    """A tuner that finds regularization while your own loop trains `model`.

    space       a preset ("regularization"), a list of knobs, or a mapping as in a study file
    optimizer   the one that steps the model, with any learning rate scheduler; any but LBFGS and
                SparseAdam, and of one that wraps another the inner one
    validation  a loader of (inputs, targets) that can be iterated again and again, or a callable
                that gives a batch each time; every few steps one batch tells the knobs where to go
    loss        of (model(inputs), targets), as nn.functional.cross_entropy
    steps       how many optimizer steps the loop takes in all
    fixed       knobs to hold at a value
    classes     how many, for label smoothing and mixup; if left out, what the model puts out
    options     those of sampler stn, such as every=5 (hpo list samplers)

    >>> tuner = hpo.self_tune(model, "regularization", optimizer=optimizer, validation=loader,
    ...                       loss=functional.cross_entropy, steps=epochs * len(train))
    >>> for inputs, targets in batches:
    ...     optimizer.zero_grad()
    ...     inputs, targets = tuner.batch(inputs, targets)
    ...     loss = tuner.loss(model(inputs), targets)
    ...     loss.backward()
    ...     optimizer.step()
    ...     tuner.step()
    >>> schedule = tuner.close()

    `tuner.batch` adds noise, mixup or soft targets and moves nothing between devices. Outside of
    `batch` ... `step`, and whenever the model is in evaluation mode, it is its plain self. With
    gradient accumulation every part of a batch goes through `batch` and `loss`; `step` follows
    each `optimizer.step`. A step that the loop leaves out is no step of the gates, and gradients
    that it clips are clipped there. Where dropout or weight_decay is a knob, the model's and the
    optimizer's own rates rest until `close`; copies of the model have them, and none of the hooks.
    """
    settings = read(SelfTuningOptions, options, "self_tune", ())
    refuse_second_tuner(model)
    check_loop(model, optimizer, validation, loss, steps, settings)
    knobs = knobs_of(space, fixed or {}, model)
    each = any(r.loss_example is not None for r in knobs.regularizers.values())
    task = OwnTask(loss, validation, classes, each)
    return SelfTuner(OwnLoop(model, optimizer, task, steps, seed), knobs, settings)


class SelfTuner:
    """Tunes the knobs of a loop; made by `self_tune`, and usable as a context manager."""

    def __init__(self, loop: OwnLoop, knobs: Knobs, options: SelfTuningOptions) -> None:
        self._loop, self._knobs = loop, knobs
        self._tuner = SelfTuning(knobs.tunable, knobs.regularizers, knobs.start, options)
        self._rows: int | None = None  # of a batch that has no step yet
        self._strengths: Mapping[str, Any] = {}
        self._has_loss = False
        self._penalised = -1  # backward passes that had begun when this batch got its penalty
        self._closed = False
        self._stride = max(options.pace(loop.training.steps), loop.training.steps // _PATH)
        try:
            self._notes = self._begun()
        except BaseException:
            loop.close()
            raise
        self._told: list[str] = []
        self._unseen = 0  # steps, while the optimizer has never stepped
        self._path = [self._now()]

    def __enter__(self) -> SelfTuner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def progress(self) -> float:
        """The share of the steps that is done."""
        return min(1.0, self._loop.step / self._loop.training.steps)

    @property
    def point(self) -> dict[str, Any]:
        """Every knob where it stands now."""
        return dict(self._tuner.point(self.progress))

    def notes(self) -> list[str]:
        """What cannot be tuned here, and all that has begun to go wrong so far, in plain words."""
        self._told += [note for note in self._tuner.notes() if note not in self._told]
        return [*self._notes, *self._loop.notes, *self._told]

    def report(self) -> dict[str, float]:
        """Metrics about the tuning itself, by name."""
        return self._tuner.report()

    def batch(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The batch as the model is to see it in this step; targets may become probabilities."""
        self._require_open()
        check_batch(inputs, targets)
        loop = self._loop
        loop.steps.begin()
        loop.steps.settle(self._tuner.answers.zero_grad)
        loop.saw(Batch(inputs, targets))
        self._rows, self._has_loss, self._penalised = len(targets), False, -1
        self._strengths = self._tuner.knobs(self.progress, self._rows)
        batch = loop.regularization.batch(Batch(inputs, targets), self._strengths)
        self._passes.begin(self._strengths)
        return batch.inputs, batch.targets

    def loss(self, outputs: Any, targets: Tensor | None = None) -> Tensor:
        """The loss to go back from: the mean over the batch, and the penalties of the knobs.

        Without `targets`, `outputs` are the losses themselves.
        """
        self._require_open()
        if self._rows is None:
            raise out_of_order("tuner.loss was called before tuner.batch")
        rows, loop = self._rows, self._loop
        self._passes.check()
        given = by_example(outputs, rows) if targets is None else loop.task.losses(outputs, targets)
        total = loop.mean(given, rows, self._strengths)
        penalty = loop.penalty(self._strengths) if self._lacks_penalty() else None
        total = total if penalty is None else total + penalty
        if total.requires_grad:
            total.register_hook(self._backward)  # type: ignore[no-untyped-call]
        self._has_loss = True
        return total

    def step(self) -> None:
        """Learns from the step that the optimizer has just taken, and moves the knobs when it is
        time. If the optimizer has left this step out, as after a gradient that is not finite,
        nothing is learned from it."""
        self._require_open()
        if self._rows is None or not self._has_loss:
            missing = "tuner.batch" if self._rows is None else "tuner.loss"
            raise out_of_order(f"tuner.step was called without {missing}")
        loop: Any = self._loop
        loop.step += 1
        self._rows, self._has_loss = None, False
        self._passes.end()
        try:
            if loop.steps.taken():
                self._tuner.after_step(loop, self.progress)
        finally:
            self._passes.end()
        self._unseen = 0 if loop.steps.ever else self._unseen + 1
        if self._unseen >= _PATIENCE:
            raise never_stepped(loop.optimizer, _PATIENCE)
        if loop.step % self._stride == 0:
            self._path.append(self._now())

    def schedule(self) -> Schedule:
        """The path of the knobs so far."""
        recorded = Schedule.recorded(self._knobs.space, [*self._path, self._now()])
        return recorded.pin(self._knobs.fixed_domains, self._knobs.fixed)

    def close(self) -> Schedule:
        """Gives the model and the optimizer back as they were, but for what they have learned, and
        the path of the knobs. To be called once more does no harm."""
        if not self._closed:
            self._closed = True
            self._passes.end()
            self._loop.close()
        return self.schedule()

    def state_dict(self) -> dict[str, Any]:
        """All that decides how tuning goes on, for your checkpoint; between two steps."""
        if self._rows is not None:
            raise out_of_order("tuner.state_dict was called between tuner.batch and tuner.step")
        self.notes()  # an alarm that has begun is told once
        return {
            "knobs": list(self._knobs.tunable),
            "steps": self._loop.training.steps,
            "loop": self._loop.state_dict(),
            "tuner": self._tuner.state_dict(),
            "path": [list(row) for row in self._path],
            "notes": list(self._told),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a saved state. The model, the optimizer, its scheduler, the global random
        generators and those of loaders are yours to restore."""
        self._require_open()
        for what, mine in (
            ("knobs", list(self._knobs.tunable)),
            ("steps", self._loop.training.steps),
        ):
            if state.get(what) != mine:
                raise HpoError(
                    f"the saved tuner has {what} {state.get(what)}, this one {mine}",
                    hint="go on with the same space and steps, or start anew without its state",
                    code="other-state",
                )
        self._loop.load_state_dict(state["loop"])
        self._tuner.load_state_dict(state["tuner"])
        self._path = [(place, point, spread) for place, point, spread in state["path"]]
        self._told = list(state.get("notes", ()))

    # -- within -----------------------------------------------------------------------------------

    def _now(self) -> tuple[float, Any, Any]:
        tuned = self._knobs.tunable
        point = {name: value for name, value in self.point.items() if name in tuned}
        return self.progress, point, dict(self._tuner.spread())

    def _begun(self) -> tuple[str, ...]:
        """Looks at the loop, and puts on the model all that tuning needs; gives back the notes."""
        loop, knobs = self._loop, self._knobs
        run: Any = loop
        seen = look(loop)
        plainly = noted(loop.model)
        loop.regularize(knobs.regularizers, knobs.start)
        self._tuner.begin(run)
        for site in self._tuner.response.sites:
            if site.module in seen.blind:
                raise seen.blind[site.module]
        try_targets(loop, seen, knobs.regularizers, knobs.start)
        noisy = any(r.parameter is not None for r in knobs.regularizers.values())
        self._passes = Passes(loop, self._tuner.response, noisy)
        loop.keep(loop.optimizer.register_step_pre_hook(self._before_step).remove)
        loop.keep(claim(loop.model))
        loop.keep(plainly(self._passes.settle))
        return (*knobs.notes, *seen.notes)

    def _before_step(self, optimizer: Any, args: Any, options: Any) -> Any:
        """Decay of weights goes before the optimizer's step."""
        if self._rows is not None:
            self._loop.decay(self._strengths)
        return self._loop.steps.before_step(args, options)

    def _backward(self, grad: Tensor) -> None:
        """A backward pass begins."""
        if self._loop.step == 0:
            refuse_scaled(grad)
        self._loop.steps.backward(self._tuner.answers.zero_grad)

    def _lacks_penalty(self) -> bool:
        """Whether the gradients of this batch have no penalty in them yet, or none any more, for
        the loop has cleared them between two backward passes."""
        steps = self._loop.steps
        if self._penalised >= 0 and (steps.passes == self._penalised or not steps.cleared()):
            return False
        self._penalised = steps.passes
        return True

    def _require_open(self) -> None:
        if self._closed:
            raise out_of_order("this tuner is closed")
