"""The regularizers of one run, applied where each of them enters the training step."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from objectives.training.auxiliary import auxiliary_loss
from objectives.training.evaluation import checked_loss
from objectives.training.rerun import refuse_again
from objectives.training.softtargets import SoftTargets
from objectives.training.standin import StandIns
from objectives.training.task import Task, task_name
from search_spaces.errors import HpoError
from search_spaces.regularizer import Batch, Regularizer

_SITES = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)

# A strength is a plain value, a 0-d tensor, a (rows,) tensor, or a vector of these.
Knobs = Mapping[str, Any]


def dropout_sites(model: nn.Module) -> dict[str, nn.Module]:
    """The modules at which activation regularizers act, by name: nn.Dropout, 1d, 2d and 3d.

    Alpha dropout has rules of its own and keeps its own probability.
    """
    return {name: module for name, module in model.named_modules() if isinstance(module, _SITES)}


def layers(model: nn.Module) -> list[list[str]]:
    """The names of the trained parameters, grouped by layer in the model's order.

    A layer is a module that owns a tensor of two or more dimensions; parameters of other modules
    (norms) belong to the layer before them. A vector knob has one strength for each layer.
    """
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    groups: list[list[str]] = [[]]
    filled = False
    for path, module in model.named_modules():
        own = [(n, p) for n, p in module.named_parameters(path, recurse=False) if n in trained]
        if any(p.ndim >= 2 for _, p in own):
            if filled:
                groups.append([])
            filled = True
        groups[-1] += [name for name, _ in own]
    return groups


class Regularization:
    """The regularizers of one run, by name, with their random draws and the places they act at.

    point: the knobs at the start; a knob whose value there is a tuple is a vector, with one
    strength for each dropout site or each layer.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        regularizers: Mapping[str, Regularizer],
        point: Mapping[str, Any],
        rng: torch.Generator,
    ) -> None:
        # In the order of their names: the draws must not depend on how a spec was written.
        self._regularizers = dict(sorted(regularizers.items()))
        self._task = task
        self._targets = SoftTargets(task)
        self._widths = {knob: len(v) for knob, v in point.items() if isinstance(v, tuple)}
        self._sites = list(dropout_sites(model).values())
        self._layers = layers(model)
        self._stand_ins = StandIns(model)
        self._shaking = any(r.parameter is not None for r in self._regularizers.values())
        self._resting: Knobs = {}  # knobs that nothing gives and nothing has to
        self._rng = rng
        self._in_force: Knobs | None = None
        self._soft_for: str | None = None  # found out at the first batch; empty: nobody
        self._needs_probabilities = next((n for n, r in self._regularizers.items() if r.target), "")
        for name, regularizer in self._regularizers.items():
            for knob in regularizer.knobs:
                self._check(name, regularizer, knob, point)

    @property
    def names(self) -> list[str]:
        """The names of the regularizers, in the order in which they are applied."""
        return list(self._regularizers)

    @property
    def steps(self) -> bool:
        """Whether one of them changes the parameters before a step."""
        return any(regularizer.optimizer for regularizer in self._regularizers.values())

    def _check(
        self, name: str, regularizer: Regularizer, knob: str, point: Mapping[str, Any]
    ) -> None:
        if knob not in point:
            domain = regularizer.knobs[knob]
            if domain.off is None and any(other in point for other in regularizer.knobs):
                self._resting = {**self._resting, knob: domain.start_value()}
                return
            raise HpoError(
                f"regularizer {name} is in use, but nothing gives a value for {knob}",
                hint=f"add {knob} to space: or to fixed:",
                code="missing-knob",
            )
        width = self._widths.get(knob)
        if width is None:
            return
        if any((regularizer.batch, regularizer.target, regularizer.loss_example)):
            raise HpoError(
                f"knob {knob} is a vector, but {name} takes one strength",
                hint=f"leave out size: of {knob}",
                code="bad-vector",
            )
        at_sites = regularizer.activation is not None
        places, what = (self._sites, "dropout sites") if at_sites else (self._layers, "layers")
        if width != len(places):
            raise HpoError(
                f"knob {knob} has size {width}, but this model has {len(places)} {what}",
                hint=f"size: {len(places)} gives one strength to each",
                code="bad-vector",
            )

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
        for regularizer in self._regularizers.values():
            if regularizer.batch is not None:
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
        soft = torch.zeros(len(batch.targets), 2, device=batch.targets.device)
        for name, regularizer in self._regularizers.items():
            if regularizer.target is not None:
                return name
            if regularizer.batch is not None:
                draws = torch.Generator(self._rng.device).manual_seed(0)  # not the run's own
                tried = regularizer.batch(batch._replace(targets=soft), knobs, draws)
                if tried.targets is not soft:
                    return name
        return ""

    def loss(self, model: nn.Module, batch: Batch, knobs: Knobs) -> tuple[Tensor, Tensor | None]:
        """The losses of a batch under these knobs, as their mean is to be taken, and the mean of
        the auxiliary losses where the task has any; no penalty yet."""
        batch = self.batch(batch, knobs)
        self.in_force(knobs)
        try:
            loss = self._task.loss(model, batch)
            auxiliary = auxiliary_loss(self._task, model, batch, knobs)
        finally:
            self.in_force(None)
        rows = len(batch.targets)
        return self.losses(checked_loss(loss, rows, self._task), rows, knobs), auxiliary

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

    def penalty(self, parameters: Mapping[str, Tensor], knobs: Knobs) -> Tensor | None:
        """What is added to the loss; None when no regularizer adds anything."""
        total: Tensor | None = None
        knobs = self._all(knobs)
        for regularizer in self._regularizers.values():
            if regularizer.penalty is None:
                continue
            for group, strengths in self._by_layer(regularizer, parameters, knobs):
                value = regularizer.penalty(group, strengths)
                total = value if total is None else total + value
        return total

    @torch.no_grad()
    def before_step(self, parameters: Mapping[str, Tensor], knobs: Knobs, rate: float) -> None:
        """Changes the parameters in place, as decoupled weight decay does."""
        knobs = self._all(knobs)
        for regularizer in self._regularizers.values():
            if regularizer.optimizer is not None:
                for group, strengths in self._by_layer(regularizer, parameters, knobs):
                    regularizer.optimizer(list(group.values()), strengths, rate)

    def _by_layer(
        self, regularizer: Regularizer, parameters: Mapping[str, Tensor], knobs: Knobs
    ) -> list[tuple[Mapping[str, Tensor], Knobs]]:
        if not any(knob in self._widths for knob in regularizer.knobs):
            return [(parameters, knobs)]
        # Not all parameters need be given: an optimizer may step some of them only.
        groups = [{n: parameters[n] for n in layer if n in parameters} for layer in self._layers]
        return [(g, self._at(place, regularizer, knobs)) for place, g in enumerate(groups) if g]

    def _at(self, place: int, regularizer: Regularizer, knobs: Knobs) -> Knobs:
        """The knobs at one layer or site: of a vector knob, its strength there."""
        vectors = [knob for knob in regularizer.knobs if knob in self._widths]
        if not vectors:
            return knobs
        here = dict(knobs)
        for knob in vectors:
            vector = knobs[knob]
            here[knob] = vector[..., place] if isinstance(vector, Tensor) else vector[place]
        return here

    def in_force(self, knobs: Knobs | None) -> None:
        """Says what holds in the coming forward pass, at the sites and for the weights.

        None: nothing does, and the model reads its own parameters again.
        """
        knobs = None if knobs is None else self._all(knobs)
        if self._shaking:
            self._stand_ins.use({} if knobs is None else self._shaken(knobs))
        self._in_force = knobs

    def _shaken(self, knobs: Knobs) -> Mapping[str, Tensor]:
        """What the forward pass uses in place of the parameters, by name."""
        parameters: Mapping[str, Tensor] = self._stand_ins.originals()
        for regularizer in self._regularizers.values():
            if regularizer.parameter is not None:
                changed = dict(parameters)
                for group, strengths in self._by_layer(regularizer, parameters, knobs):
                    changed |= regularizer.parameter(group, strengths, self._rng)
                parameters = changed
        return parameters

    def attach(self) -> list[Callable[[], None]]:
        """Puts the activation regularizers on the dropout sites; gives back what undoes it.

        If dropout is among them the sites' own rates are zero meanwhile: its strength comes from
        the knob alone.
        """
        undo: list[Callable[[], None]] = []
        if self._shaking:
            modules = self._stand_ins.modules()
            undo += [m.register_forward_pre_hook(refuse_again).remove for m in modules]
        if not any(r.activation for r in self._regularizers.values()):
            return undo
        replaced = any(r.replaces_dropout for r in self._regularizers.values())
        for place, site in enumerate(self._sites):
            if replaced:
                undo.append(_without_own_probability(site))
            undo.append(site.register_forward_hook(self._site_hook(place)).remove)
        return undo

    def _site_hook(self, place: int) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
        active = [
            (r, r.activation) for r in self._regularizers.values() if r.activation is not None
        ]

        def hook(site: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
            if not site.training:
                return output
            refuse_again(site)
            if self._in_force is None:
                return output
            for regularizer, activation in active:
                here = self._at(place, regularizer, self._in_force)
                output = activation(output, here, self._rng, site).to(output.dtype)
            return output

        return hook


def _without_own_probability(site: nn.Module) -> Callable[[], None]:
    probability = site.p
    site.p = 0.0  # type: ignore[assignment]

    def restore() -> None:
        site.p = probability

    return restore
