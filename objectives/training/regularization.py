"""The regularizers of one run, applied where each of them enters the training step."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from objectives.training.atsites import AtSites
from objectives.training.auxiliary import auxiliary_loss
from objectives.training.beginning import bound
from objectives.training.evaluation import checked_loss
from objectives.training.looking import Looking
from objectives.training.places import Knobs, Places
from objectives.training.reparametrisation import Reparametrisation
from objectives.training.softtargets import SoftTargets
from objectives.training.task import Task, task_name
from search_spaces.clashes import refuse_clashes
from search_spaces.errors import HpoError
from search_spaces.passes import Beginning, Pass
from search_spaces.regularizer import Batch, Regularizer, in_order
from search_spaces.space import resting


class Regularization:
    """The regularizers of one run, by name, with their random draws and the places they act at.

    point: the knobs at the start; a tuple there is a vector, with one strength for each site or
    layer. begun: gives the beginning of the run, to those that remember something of it.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        regularizers: Mapping[str, Regularizer],
        point: Mapping[str, Any],
        rng: torch.Generator,
        begun: Callable[[], Beginning],
    ) -> None:
        refuse_clashes(regularizers)
        self._regularizers, self._memories = in_order(regularizers), dict[str, Any]()
        if any(r.remember for r in regularizers.values()):
            self._regularizers, self._memories = bound(self._regularizers, begun())
        records = self._regularizers.values()
        self._task, self._model, self._rng = task, model, rng
        self._targets = SoftTargets(task)
        self._places = Places(model, point)
        self._resting: Knobs = {}  # knobs that nothing gives and nothing has to
        self._soft_for: str | None = None  # found out at the first batch; empty: nobody
        self._needs_probabilities = next((n for n, r in self._regularizers.items() if r.target), "")
        for name, regularizer in self._regularizers.items():
            for knob in regularizer.knobs:
                self._check(name, regularizer, knob, point)
        self._weights = Reparametrisation(model, self._places, records, rng)
        self._weights.rest_at(self._all(point))
        self._sites = AtSites(model, self._places, records, rng)
        self._looking = Looking(task, model, self._regularizers, self._sites.attention, rng)

    @property
    def names(self) -> list[str]:
        """The names of the regularizers, in the order in which they are applied."""
        return list(self._regularizers)

    @property
    def steps(self) -> bool:
        """Whether one of them changes the parameters before a step."""
        return any(regularizer.optimizer for regularizer in self._regularizers.values())

    @property
    def ascending(self) -> Regularizer | None:
        """The one that says where the gradient of a step is taken, if there is one."""
        return next((r for r in self._regularizers.values() if r.ascent is not None), None)

    def _check(
        self, name: str, regularizer: Regularizer, knob: str, point: Mapping[str, Any]
    ) -> None:
        if knob not in point:
            domain = regularizer.knobs[knob]
            given = [other for named, other in regularizer.knobs.items() if named in point]
            if any(other.off is not None for other in given) or (given and domain.off is None):
                self._resting = {**self._resting, knob: resting(domain)}
                return
            raise HpoError(
                f"regularizer {name} is in use, but nothing gives a value for {knob}",
                hint=f"add {knob} to space: or to fixed:",
                code="missing-knob",
            )
        self._places.check(name, regularizer, knob)

    def _all(self, knobs: Knobs) -> Knobs:
        """The knobs together with those that rest at their start."""
        return {**self._resting, **knobs} if self._resting else knobs

    def batch(self, batch: Batch, knobs: Knobs) -> Batch:
        """The batch as the model is to see it."""
        knobs = self._all(knobs)
        if not batch.targets.is_floating_point():
            if self._soft_for is None:
                self._soft_for = self._who_changes_targets(batch, knobs)
            if self._soft_for:
                soft = self._targets.made(batch.targets, self._soft_for)
                batch = batch._replace(targets=soft)
        elif self._needs_probabilities:
            self._targets.check(batch.targets, self._needs_probabilities)
        for name, regularizer in self._regularizers.items():
            if regularizer.batch is not None:
                if regularizer.stage == "augment":
                    _refuse_pictures(name, batch)
                changed = regularizer.batch(batch, knobs, self._rng)
                batch = changed._replace(inputs=changed.inputs.to(batch.inputs.dtype))
        for regularizer in self._regularizers.values():
            if regularizer.target is not None:
                batch = batch._replace(targets=regularizer.target(batch.targets, knobs, self._rng))
        return batch

    def _who_changes_targets(self, batch: Batch, knobs: Knobs) -> str:
        """The first regularizer that cannot do with class numbers; empty if all can.

        Of a batch hook only trying says whether it leaves the targets alone.
        """
        soft = self._targets.blank(batch.targets)
        for name, regularizer in self._regularizers.items():
            if regularizer.target is not None:
                return name
            if regularizer.batch is not None:
                draws = torch.Generator(self._rng.device).manual_seed(0)  # not the run's own
                tried = regularizer.batch(batch._replace(targets=soft), knobs, draws)
                if tried.targets is not soft:
                    return name
        return ""

    def loss(self, model: nn.Module, raw: Batch, knobs: Knobs) -> tuple[Tensor, Tensor | None]:
        """The losses of a batch under these knobs, as their mean is to be taken, and what is added
        to that mean: auxiliary losses of the task, and of regularizers that look at the batch as a
        whole. No penalty yet."""
        batch = self.batch(raw, knobs)
        rows = len(batch.targets)
        self.in_force(knobs)
        try:
            with self._looking.watching() as seen:
                loss = self._task.loss(model, batch)
            added = auxiliary_loss(self._task, model, batch, knobs)
            losses = self.losses(checked_loss(loss, rows, self._task), rows, knobs)
            if self._looking:
                view = partial(self.batch, raw, knobs)
                passed = self._looking.passed(model, raw, batch, seen, view)
                losses, added = self._looking.added(passed, losses, added, self._all(knobs))
        finally:
            self.in_force(None)
        return losses, added

    def losses(self, losses: Tensor, rows: int, knobs: Knobs) -> Tensor:
        """The losses of `rows` examples as their mean is to be taken.

        HpoError when a regularizer changes them and the task gives their mean alone.
        """
        for name, regularizer in self._regularizers.items():
            if regularizer.loss_example is None:
                continue
            if losses.shape != (rows,):
                raise HpoError(
                    f"objective {task_name(self._task)}: {name} needs the loss of each example, "
                    f"loss gave one number for {rows}",
                    hint='with reduction="none" cross_entropy gives them; or leave this knob out',
                    code="bad-loss",
                )
            losses = regularizer.loss_example(losses, self._all(knobs))
        return losses

    def last_pass(self) -> Pass | None:
        """The last pass that regularizers looked at, if one of them learns; it is given once."""
        return self._looking.taken()

    def keep_pass(self, passed: Pass | None) -> None:
        """Makes a pass the last one again."""
        self._looking.keep(passed)

    def learn(self, passed: Pass | None, knobs: Knobs) -> None:
        """Lets regularizers learn from a pass, after the step that it led to. The model has the
        weights of an evaluation then: what noise made of them is not to be remembered."""
        if passed is None:
            return
        knobs = self._all(knobs)
        self._weights.use_lasting(knobs)
        self._sites.in_force = knobs
        try:
            self._looking.learn(passed, knobs)
        finally:
            self.in_force(None)

    def penalty(self, parameters: Mapping[str, Tensor], knobs: Knobs) -> Tensor | None:
        """What is added to the loss; None when no regularizer adds anything."""
        total: Tensor | None = None
        knobs = self._all(knobs)
        for regularizer in self._regularizers.values():
            if regularizer.penalty is None:
                continue
            for group, strengths in self._places.by_layer(regularizer, parameters, knobs):
                value = regularizer.penalty(group, strengths)
                total = value if total is None else total + value
        return total

    @torch.no_grad()
    def before_step(self, parameters: Mapping[str, Tensor], knobs: Knobs, rate: float) -> None:
        """Changes the parameters in place, as decoupled weight decay does."""
        knobs = self._all(knobs)
        for regularizer in self._regularizers.values():
            if regularizer.optimizer is not None:
                for group, strengths in self._places.by_layer(regularizer, parameters, knobs):
                    regularizer.optimizer(group, strengths, rate)

    def ascent(
        self, parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor], knobs: Knobs
    ) -> Mapping[str, Tensor]:
        """The parameters at which the gradient of a step is taken."""
        record = self.ascending
        assert record is not None and record.ascent is not None
        return record.ascent(parameters, gradients, self._all(knobs))

    def uphill_rows(self, batch: Batch, knobs: Knobs) -> Tensor | None:
        """Which examples' losses that gradient is of, (B,); None: all."""
        record = self.ascending
        return record.rows(batch, self._all(knobs)) if record and record.rows else None

    def in_force(self, knobs: Knobs | None) -> None:
        """Says what holds in the coming forward pass, at the sites and for the weights.

        None: nothing does, and the model reads its own parameters again.
        """
        knobs = None if knobs is None else self._all(knobs)
        self._weights.use(knobs)
        self._sites.in_force = knobs

    def rest_at(self, knobs: Knobs) -> None:
        """Says which knobs hold where the model is evaluated."""
        self._weights.rest_at(self._all(knobs))

    def evaluated(self) -> dict[str, Tensor]:
        """The parameters that an evaluation uses in place of those of the same names."""
        return self._weights.evaluated()

    def state_dict(self) -> dict[str, Any]:
        """What is remembered and may have changed, by regularizer."""
        memories = self._memories.items()
        return {n: memory.state_dict() for n, memory in memories if hasattr(memory, "state_dict")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        for name, memory in self._memories.items():
            if hasattr(memory, "load_state_dict"):
                memory.load_state_dict(state[name])

    def attach(self) -> list[Callable[[], None]]:
        """Puts the regularizers on the model; gives back what undoes it."""
        return [*self._weights.attach(), *self._looking.attach(), *self._sites.attach()]


def _refuse_pictures(name: str, batch: Batch) -> None:
    """HpoError where targets have places as inputs do: what moves one must move the other."""
    targets = batch.targets
    if targets.ndim > 2 and targets.shape[2:] == batch.inputs.shape[2:]:
        raise HpoError(
            f"{name} changes inputs alone, and targets of shape {tuple(targets.shape)} go with them"
            " place by place",
            hint="augment inputs and targets together in batches(), and leave this knob out",
            code="bad-batch",
        )
