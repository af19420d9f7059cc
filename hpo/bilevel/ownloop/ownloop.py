"""A user's own training loop, as a tuner sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hpo.bilevel.ownloop.alike import optimizer_like, parameters_of
from hpo.bilevel.ownloop.steps import Steps
from objectives.training.beginning import beginning
from objectives.training.evaluation import checked_loss
from objectives.training.randomness import GlobalStreams, derived_seed, packed, unpacked
from objectives.training.regularization import Regularization
from objectives.training.stream import Stream
from search_spaces.errors import HpoError
from search_spaces.regularizer import Batch, Regularizer

Loss = Callable[..., Tensor]
Validation = Iterable[Any] | Callable[[], Any]

_LONGEST = 1000  # batches of a pass: some loaders never end


@dataclass
class OwnTask:
    """The part of a task that a loop of one's own has: validation batches and a loss.

    loss: of outputs and targets; `each` asks it for the losses of the examples where it can say.
    """

    loss_of: Loss
    validation: Validation
    classes: int | None
    each: bool = False
    name: str = "self_tune"

    def __post_init__(self) -> None:
        self.each = self.each and "reduction" in parameters_of(self.loss_of)

    def rows(self) -> int | None:
        """How many validation examples there are, 0 if nobody can know; None: they can be counted
        by reading them."""
        given = self.validation
        if not isinstance(given, Iterable):
            return 0
        if isinstance(given, DataLoader):
            try:
                return min(len(given.dataset), len(given.sampler))  # type: ignore[arg-type]
            except TypeError:  # a data set of the kind that is only read
                return None
        return None

    def batches(self, split: str, rng: torch.Generator) -> Iterator[Any]:
        """One pass over the validation data; a callable gives one batch, or a pass, at a time."""
        if isinstance(self.validation, Iterable):
            return islice(iter(self.validation), _LONGEST)
        found = self.validation()
        pair = isinstance(found, tuple | list) and len(found) == 2
        given = (found,) if pair and isinstance(found[0], Tensor) else found
        return islice(iter(given), _LONGEST)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss of a batch: one number for each example, or their mean."""
        return self.losses(model(batch.inputs), batch.targets)

    def losses(self, outputs: Any, targets: Tensor) -> Tensor:
        """The same from what the model put out."""
        options = {"reduction": "none"} if self.each else {}
        return by_example(self.loss_of(outputs, targets, **options), len(targets))


def by_example(losses: Tensor, rows: int) -> Tensor:
    """Losses of parts of examples (tokens, pixels) as one for each example, or as their mean."""
    if not isinstance(losses, Tensor) or losses.ndim == 0 or losses.shape == (rows,):
        return losses
    return losses.flatten(1).mean(1) if len(losses) == rows and losses.ndim > 1 else losses.mean()


@dataclass
class Pace:
    """How far a loop goes, and how its learning rate stands to the highest there was."""

    steps: int
    optimizer: torch.optim.Optimizer
    peak: float = 0.0

    def rate_factor(self, progress: float) -> float:
        """The present learning rate as a share of its peak so far; of several groups the highest
        counts."""
        rate = max(float(group["lr"]) for group in self.optimizer.param_groups)
        self.peak = max(self.peak, rate)
        return rate / self.peak if self.peak > 0 else 1.0

    def highest(self) -> float:
        """The peak, the present rate included."""
        self.rate_factor(0.0)
        return self.peak


class OwnLoop:
    """What a tuner uses of a run, on top of the model and the optimizer of a user's loop.

    Validation batches are drawn from random streams of their own, so that the loop's are left as
    they would be without it.
    """

    skips_steps = False  # a step that the loop leaves out is none of the gates

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        task: OwnTask,
        steps: int,
        seed: int,
    ) -> None:
        self.model, self.optimizer, self.task = model, optimizer, task
        self.training = Pace(steps, optimizer)
        self.seed, self.step = seed, 0
        self.notes: list[str] = []
        self._find_parameters()
        if not self.parameters:
            raise HpoError(
                "the optimizer steps none of the model's parameters, or complex ones only",
                hint="build it from model.parameters(), after the model is on its device",
                code="bad-optimizer",
            )
        self.effective: Callable[[], Mapping[str, Tensor]] = lambda: self.parameters
        self.device = next(iter(self.parameters.values())).device
        self.noise = torch.Generator(self.device).manual_seed(derived_seed(seed, "noise"))
        self.streams = GlobalStreams(seed, self.device)
        self.cost = {"gradients": 0.0, "examples": 0.0}
        stream_seed = derived_seed(seed, "validation")
        self._stream = Stream(task, "validation", stream_seed, self.device, self.streams)  # type: ignore[arg-type]
        self.batch: Batch  # the last of the loop's own; there is none before the first
        self._held: Batch | None = None  # drawn, and to be drawn once more
        self._undo: list[Callable[[], None]] = []
        self._paused: list[tuple[dict[str, Any], Any]] = []  # groups with their own decay
        self._precision: torch.dtype | None = None  # of autocast in the loop
        self._decays = False
        self.steps = Steps(lambda: self.parameters.values())
        self.regularization: Regularization

    def regularize(self, regularizers: Mapping[str, Regularizer], point: Mapping[str, Any]) -> None:
        """Puts the regularizers on the model; those of the optimizer's own that a knob takes the
        place of rest until `close`."""
        task: Any = self.task
        self.regularization = Regularization(
            task,
            self.model,
            regularizers,
            point,
            self.noise,
            lambda: beginning(task, self.model, self.seed, self.device, "validation"),
        )
        self._undo += self.regularization.attach()
        self._decays = any(r.optimizer is not None for r in regularizers.values())
        if self._decays:
            pause = self.optimizer.register_step_pre_hook(lambda *_: self._pause_decay())
            resume = self.optimizer.register_step_post_hook(lambda *_: self._resume_decay())
            self._undo += [self._resume_decay, pause.remove, resume.remove]

    def keep(self, undo: Callable[[], None]) -> None:
        """Registers what `close` must call."""
        self._undo.append(undo)

    def close(self) -> None:
        """Undoes every change made to model and optimizer, the last one first."""
        while self._undo:
            self._undo.pop()()

    @property
    def clipped(self) -> float | Tensor:
        """How much smaller the loop made its gradients before the optimizer stepped; at most 1."""
        return self.steps.clipped

    def validation_rows(self) -> int | None:
        """How many validation examples there are, as `OwnTask.rows` says."""
        return self.task.rows()

    def notice_autocast(self) -> None:
        """Takes note of whether the loop runs the model under autocast."""
        kind = self.device.type
        within = torch.is_autocast_enabled(kind)
        self._precision = torch.get_autocast_dtype(kind) if within else None

    def autocast(self) -> torch.autocast:
        """The autocast that the loop last ran the model under; to be entered by passes beside."""
        precision = self._precision
        return torch.autocast(self.device.type, dtype=precision, enabled=precision is not None)

    def decay(self, knobs: Mapping[str, Any]) -> None:
        """Shrinks the weights before the optimizer's step, each at the rate of its group."""
        groups = self.optimizer.param_groups
        if sum(len(group["params"]) for group in groups) != self._stepped:
            self._find_parameters()
        if not self._decays:
            return
        rates = [float(group["lr"]) for group in groups]
        if len(set(rates)) == 1:
            self.regularization.before_step(self.parameters, knobs, rates[0])
            return
        for group, rate in zip(groups, rates, strict=True):
            own = {id(parameter) for parameter in group["params"]}
            parameters = {n: p for n, p in self.parameters.items() if id(p) in own}
            self.regularization.before_step(parameters, knobs, rate)

    def saw(self, batch: Batch) -> None:
        """Takes note of a training batch."""
        self.batch = batch

    def next_batch(self, split: str = "validation") -> Batch:
        """The next validation batch, on the model's device; the training batches are the loop's."""
        assert split == "validation"
        held, self._held = self._held, None
        if held is not None:
            return held
        with self.streams.active():
            return self._stream.next()

    def first_batch(self) -> Batch:
        """The next validation batch, which `next_batch` then gives once more."""
        self._held = self.next_batch()
        return self._held

    def regularized_loss(
        self, batch: Batch, knobs: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor | None]:
        """The mean loss of a batch under the regularizers, and the penalty that goes with it."""
        losses, _ = self.regularization.loss(self.model, batch, knobs)
        return losses.mean(), self.penalty(knobs)

    def mean(self, losses: Tensor, rows: int, knobs: Mapping[str, Any]) -> Tensor:
        """The mean of what the loss of a batch gave."""
        losses = checked_loss(losses, rows, self.task)
        return self.regularization.losses(losses, rows, knobs).mean()

    def penalty(self, knobs: Mapping[str, Any]) -> Tensor | None:
        """What the knobs add to the loss of a batch."""
        return self.regularization.penalty(self.effective(), knobs)

    def spend(self, gradients: float = 0.0, examples: float = 0.0, **other: float) -> None:
        """Counts work."""
        for name, amount in {"gradients": gradients, "examples": examples, **other}.items():
            self.cost[name] = self.cost.get(name, 0.0) + amount

    def optimizer_like(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """An optimizer as the loop's own for other parameters, without decay of weights."""
        found, note = optimizer_like(self.optimizer, parameters, self.training.highest)
        self.notes += [] if note is None else [note]
        return found

    def state_dict(self) -> dict[str, Any]:
        """Position and draws, as tensors and plain data."""
        with self.streams.active():
            streams = packed(self.streams.now())
        return {
            "step": self.step,
            "peak": self.training.peak,
            "cost": dict(self.cost),
            "noise": self.noise.get_state(),
            "validation": self._stream.state_dict(),
            "streams": streams,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a saved position."""
        self.step, self.training.peak = state["step"], state["peak"]
        self.cost = dict(state["cost"])
        self.noise.set_state(state["noise"])
        self._held = None
        with self.streams.active():
            self._stream.load_state_dict(state["validation"])
            self.streams.rewind(unpacked(state["streams"]))

    # -- within -----------------------------------------------------------------------------------

    def _find_parameters(self) -> None:
        """The parameters of the model that the optimizer steps, by name, but for complex ones."""
        given = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._stepped, stepped = len(given), {id(p) for p in given}
        named = self.model.named_parameters()
        found = {name: p for name, p in named if p.requires_grad and id(p) in stepped}
        self.parameters = {name: p for name, p in found.items() if not p.is_complex()}
        for name in found.keys() - self.parameters.keys():
            note = f"{name} is complex: no decay and no penalty of a knob reaches it"
            self.notes += [] if note in self.notes else [note]

    def _pause_decay(self) -> None:
        self._resume_decay()  # of a step that has failed
        for group in self.optimizer.param_groups:
            if group.get("weight_decay"):
                self._paused.append((group, group["weight_decay"]))
                group["weight_decay"] = 0.0

    def _resume_decay(self) -> None:
        while self._paused:
            group, own = self._paused.pop()
            group["weight_decay"] = own
