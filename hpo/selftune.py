"""Self-tuning in a training loop of one's own: five lines, and the model stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from hpo.bilevel.options import SelfTuningOptions
from hpo.bilevel.ownloop import Loss, OwnLoop, OwnTask, Validation, by_example
from hpo.bilevel.selftuning import SelfTuning
from hpo.ownchecks import check_loop, kind_of, look
from hpo.ownspace import Knobs, knobs_of
from hpo.samplers._options import read
from search_spaces.errors import HpoError
from search_spaces.regularizer import Batch
from search_spaces.schedule import Schedule

_PATH = 200  # at most about so many points of the knobs' path are kept


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
    optimizer   the one that steps the model; any but LBFGS, with any learning rate scheduler
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
    each `optimizer.step`. Where dropout or weight_decay is a knob, the model's and the optimizer's
    own rates rest until `close`.
    """
    settings = read(SelfTuningOptions, options, "self_tune", ())
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
        self._suspended: Tensor | None = None
        self._closed = False
        self._stride = max(options.pace(loop.training.steps), loop.training.steps // _PATH)
        self._notes = (*knobs.notes, *look(loop))
        run: Any = loop
        try:
            loop.regularize(knobs.regularizers, knobs.start)
            self._tuner.begin(run)
            self._watch()
        except BaseException:
            loop.close()
            raise
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
        """What cannot be tuned here, and what has begun to go wrong, in plain words."""
        return [*self._notes, *self._tuner.notes()]

    def report(self) -> dict[str, float]:
        """Metrics about the tuning itself, by name."""
        return self._tuner.report()

    def batch(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The batch as the model is to see it in this step; targets may become probabilities."""
        self._require_open()
        for role, part in (("inputs", inputs), ("targets", targets)):
            if not isinstance(part, Tensor) or part.ndim == 0 or len(part) != len(targets):
                raise HpoError(
                    f"tuner.batch was given {role} of the kind {kind_of(part)}",
                    hint="inputs and targets are two tensors with one row for each example",
                    code="bad-batch",
                )
        self._loop.saw(Batch(inputs, targets))
        self._rows = len(targets)
        self._strengths = self._tuner.knobs(self.progress, self._rows)
        regularization = self._loop.regularization
        batch = regularization.batch(Batch(inputs, targets), self._strengths)
        regularization.in_force(self._strengths)
        return batch.inputs, batch.targets

    def loss(self, outputs: Any, targets: Tensor | None = None) -> Tensor:
        """The loss to go back from: the mean over the batch, and the penalties of the knobs.

        Without `targets`, `outputs` are the losses themselves.
        """
        if self._rows is None:
            raise _order("tuner.loss was called before tuner.batch")
        rows, loop = self._rows, self._loop
        loop.regularization.in_force(None)
        given = by_example(outputs, rows) if targets is None else loop.task.losses(outputs, targets)
        mean, penalty = loop.mean(given, rows, self._strengths)
        total = mean if penalty is None else mean + penalty
        if total.requires_grad and self._loop.step == 0:
            total.register_hook(_refuse_scaled)  # type: ignore[no-untyped-call]
        self._has_loss = True
        return total

    def step(self) -> None:
        """Learns from the step that the optimizer has just taken, and moves the knobs when it is
        time."""
        if self._rows is None or not self._has_loss:
            missing = "tuner.batch" if self._rows is None else "tuner.loss"
            raise _order(f"tuner.step was called without {missing}")
        loop: Any = self._loop
        loop.step += 1
        self._rows, self._has_loss = None, False
        self._tuner.after_step(loop, self.progress)
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
            self._tuner.response.delta = None
            self._loop.regularization.in_force(None)
            self._loop.close()
        return self.schedule()

    def state_dict(self) -> dict[str, Any]:
        """All that decides how tuning goes on, for your checkpoint; between two steps."""
        if self._rows is not None:
            raise _order("tuner.state_dict was called between tuner.batch and tuner.step")
        return {
            "knobs": list(self._knobs.tunable),
            "steps": self._loop.training.steps,
            "loop": self._loop.state_dict(),
            "tuner": self._tuner.state_dict(),
            "path": [list(row) for row in self._path],
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

    # -- within -----------------------------------------------------------------------------------

    def _now(self) -> tuple[float, Any, Any]:
        tuned = self._knobs.tunable
        point = {name: value for name, value in self.point.items() if name in tuned}
        return self.progress, point, dict(self._tuner.spread())

    def _watch(self) -> None:
        """Decay of weights goes before the optimizer's step; evaluation sees the plain model."""
        loop = self._loop

        def before_step(optimizer: Any, *_: Any) -> None:
            rate = float(optimizer.param_groups[0]["lr"])
            if self._rows is not None:
                loop.regularization.before_step(loop.parameters, self._strengths, rate)

        def before(model: nn.Module, *_: Any) -> None:
            if not model.training and self._rows is not None:
                self._suspended, self._tuner.response.delta = self._tuner.response.delta, None

        def after(model: nn.Module, *_: Any) -> None:
            if not model.training and self._rows is not None:
                self._tuner.response.delta, self._suspended = self._suspended, None

        loop.keep(loop.optimizer.register_step_pre_hook(before_step).remove)
        loop.keep(loop.model.register_forward_pre_hook(before).remove)
        loop.keep(loop.model.register_forward_hook(after, always_call=True).remove)

    def _require_open(self) -> None:
        if self._closed:
            raise _order("this tuner is closed")


def _refuse_scaled(grad: Tensor) -> None:
    if float(grad.detach()) > 1.0 + 1e-6:
        raise HpoError(
            f"the loss was multiplied by {float(grad.detach()):g} before its backward pass",
            hint="a GradScaler is for float16; tune in bfloat16, which needs none",
            code="scaled-loss",
        )


def _order(found: str) -> HpoError:
    return HpoError(
        found,
        hint="each step calls tuner.batch, tuner.loss, loss.backward, optimizer.step, tuner.step",
        code="bad-order",
    )
