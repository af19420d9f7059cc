"""Everything that lives while one trial trains, and what a tuner may use of it."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from objectives.training import checkpoint as checkpoints
from objectives.training.ascent import backward_uphill
from objectives.training.beginning import beginning
from objectives.training.evaluation import require_gradient
from objectives.training.optimizers import build_optimizer, set_rate
from objectives.training.options import Training
from objectives.training.randomness import GlobalStreams, derived_seed, packed, unpacked
from objectives.training.regularization import Regularization
from objectives.training.stream import Stream
from objectives.training.task import Task, task_name
from objectives.training.tuner import Tuner
from search_spaces.errors import HpoError
from search_spaces.regularizer import Batch, Regularizer


@dataclass(frozen=True)
class Setting:
    """What is trained, under whose knobs, how, from which seed, and where."""

    task: Task
    regularizers: Mapping[str, Regularizer]
    tuner: Tuner
    training: Training
    seed: int
    device: torch.device


class Run:
    """A model in training.

    For tuners: `model`, `optimizer`, `task`, `training`, `device`, `seed`, `step`; `next_batch`
    (validation batches, with a position of their own that is part of the checkpoint); `batch`, the
    one of the last training step; `regularized_loss`; `keep` for what must be undone at the end;
    `spend` for the work they do; `effective`, the parameters as penalties see them, which a tuner
    whose response changes the weights may replace; `clipped`, the factor by which clipping has just
    scaled the gradients. Randomness: `noise` is the generator of the regularizers' draws.
    """

    skips_steps = False  # one whose gradient is not finite is taken, and ends the run

    def __init__(self, setting: Setting, streams: GlobalStreams) -> None:
        task, seed, device = setting.task, setting.seed, setting.device
        self.task, self.tuner, self.training = task, setting.tuner, setting.training
        self.seed, self.device, self.step = seed, device, 0
        self.streams = streams
        self.noise = torch.Generator(device).manual_seed(derived_seed(seed, "noise"))
        self.model = build_model(task, seed).to(device)
        self.parameters = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        if not self.parameters:
            raise HpoError(
                f"objective {task_name(task)}: its model has no parameters to train",
                code="bad-task",
            )
        self.effective: Callable[[], Mapping[str, Tensor]] = lambda: self.parameters
        self.optimizer = build_optimizer(self.parameters.values(), self.training)
        self.regularization = Regularization(
            task,
            self.model,
            setting.regularizers,
            self.tuner.point(0.0),
            self.noise,
            lambda: beginning(task, self.model, seed, device),
        )
        self.cost = {"gradients": 0.0, "examples": 0.0, "seconds": 0.0}
        self._batches = {
            split: Stream(task, split, derived_seed(seed, split), device, streams)
            for split in ("train", "validation")
        }
        self.clipped: float | Tensor = 1.0
        self.batch: Batch  # of the last training step; there is none before the first
        self._undo: list[Callable[[], None]] = []

    def begin(self) -> None:
        """Attaches the regularizers and lets the tuner prepare."""
        self.model.train()
        self._undo += self.regularization.attach()
        self.tuner.begin(self)

    def keep(self, undo: Callable[[], None]) -> None:
        """Registers what must be called when the run ends, for instance the `remove` of a hook."""
        self._undo.append(undo)

    def close(self) -> None:
        """Undoes every change made to the model's modules, the last one first."""
        while self._undo:
            self._undo.pop()()

    def next_batch(self, split: str = "validation") -> Batch:
        """The next batch of an endless sequence, on the run's device."""
        return self._batches[split].next()

    def spend(self, gradients: float = 0.0, examples: float = 0.0, **other: float) -> None:
        """Counts work: backward passes, the examples they saw, and units of the caller's own."""
        for name, amount in {"gradients": gradients, "examples": examples, **other}.items():
            self.cost[name] = self.cost.get(name, 0.0) + amount

    def regularized_loss(
        self, batch: Batch, knobs: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor | None]:
        """The mean loss of a batch under the regularizers, and the penalty that goes with it."""
        losses, auxiliary = self.regularization.loss(self.model, batch, knobs)
        mean = losses.mean()
        if auxiliary is not None:
            mean = mean + auxiliary
        return mean, self.regularization.penalty(self.effective(), knobs)

    def train_step(self) -> tuple[Tensor, Tensor]:
        """One step of the optimizer; gives back the loss and the loss with its penalty."""
        progress = self.step / self.training.steps
        batch = self.batch = self.next_batch("train")
        rows = len(batch.targets)
        knobs = self.tuner.knobs(progress, rows)
        rate = self.rate(progress, knobs)
        set_rate(self.optimizer, rate)
        self.optimizer.zero_grad()
        loss, total = self._backward(batch, knobs)
        if self.training.clip is not None:
            self.clipped = clip(self.parameters.values(), self.training.clip)
        self.regularization.before_step(self.parameters, knobs, rate)
        self.optimizer.step()
        self.step += 1
        passed = self.regularization.last_pass()
        self.tuner.after_step(self, self.step / self.training.steps)
        # After the tuner, which may look at the loss of this step once more, as it was.
        self.regularization.learn(passed, knobs)
        return loss.detach(), total.detach()

    def _backward(self, batch: Batch, knobs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Leaves the gradient of a step in the parameters; gives back the loss, and the loss with
        its penalty."""
        rows = len(batch.targets)
        if self.regularization.ascending is not None:
            self.spend(gradients=2, examples=2 * rows)
            return backward_uphill(self, batch, knobs)
        loss, penalty = self.regularized_loss(batch, knobs)
        total = loss if penalty is None else loss + penalty
        require_gradient(total, self.task)
        total.backward()  # type: ignore[no-untyped-call]
        self.spend(gradients=1, examples=rows)
        return loss, total

    def rate(self, progress: float, knobs: Mapping[str, Any]) -> float:
        """The learning rate of a step: base rate, or the knob in its place, times its schedule."""
        knob = knobs.get("learning_rate", self.training.learning_rate)
        base = float(knob.detach() if isinstance(knob, Tensor) else knob)
        if not (math.isfinite(base) and base >= 0):
            raise HpoError(
                f"learning_rate is {base!r} at progress {progress:.3g}",
                hint="it must be a number of at least 0",
                code="bad-knob",
            )
        return base * self.training.rate_factor(progress)

    def state_dict(self) -> dict[str, Any]:
        """All that decides how the run goes on, as tensors and plain data."""
        return {
            "step": self.step,
            "cost": dict(self.cost),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "tuner": self.tuner.state_dict(),
            "batches": {split: stream.state_dict() for split, stream in self._batches.items()},
            "noise": self.noise.get_state(),
            "regularization": self.regularization.state_dict(),
            "evaluated": self.regularization.evaluated(),
            "globals": packed(self.streams.now()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a saved state; to be called after `begin`."""
        self.step = state["step"]
        self.cost = dict(state["cost"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.tuner.load_state_dict(state["tuner"])
        for split, stream in self._batches.items():
            stream.load_state_dict(state["batches"][split])
        self.noise.set_state(state["noise"])
        self.regularization.load_state_dict(state["regularization"])
        self.regularization.rest_at(self.tuner.point(self.step / self.training.steps))
        # Last: walking through the batches has drawn from the global generators.
        self.streams.rewind(unpacked(state["globals"]))


def clip(parameters: Iterable[Tensor], most: float) -> Tensor:
    """Scales gradients so that the norm of them all is at most this; gives back the factor."""
    norm = nn.utils.clip_grad_norm_(parameters, most)
    return (most / (norm + 1e-6)).clamp(max=1.0)  # the one that torch has used


def build_model(task: Task, seed: int) -> nn.Module:
    """A task's model as `seed` initialises it; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed % 2**63)
        model = task.model(seed)
    if not isinstance(model, nn.Module):
        raise HpoError(
            f"objective {task_name(task)}: model(seed) gave {type(model).__name__}",
            hint="it must be a torch.nn.Module",
            code="bad-task",
        )
    return model


def restored_model(task: Task, path: Path) -> nn.Module:
    """The model as a checkpoint holds it, on the CPU, for evaluation: without any regularizer, with
    the weights that evaluations in its run used."""
    content = checkpoints.load(path)
    try:
        model = build_model(task, int(content["trial"]["seed"]))
        model.load_state_dict({**content["run"]["model"], **content["run"]["evaluated"]})
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise checkpoints.unfit(path, error) from error
    return model
