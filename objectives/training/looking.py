"""Regularizers that look at a pass of the model: what they add to its loss, what they learn."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from objectives.training.attention import Attention
from objectives.training.places import Knobs
from objectives.training.task import Task
from objectives.training.watch import Seen, Watch, averages_kept
from search_spaces.asking import by_row
from search_spaces.passes import Pass, embedding
from search_spaces.regularizer import Batch, Regularizer


class Looking:
    """The regularizers of a run that look at passes, and the last pass of training."""

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        regularizers: Mapping[str, Regularizer],
        attention: Attention | None,
        rng: torch.Generator,
    ) -> None:
        looking = {
            name: r for name, r in regularizers.items() if r.loss_output or r.loss_batch or r.learn
        }
        self._task, self._rng = task, rng
        self._records = list(looking.values())
        self._who = next(iter(looking), "")
        attends = any(r.attends for r in self._records)
        self._watch = Watch(model, attention if attends else None)
        self._last: Pass | None = None

    def __bool__(self) -> bool:
        return bool(self._records)

    def attach(self) -> list[Callable[[], None]]:
        """Puts hooks on the model; gives back what takes them off."""
        return self._watch.attach() if self else []

    def watching(self) -> AbstractContextManager[Seen]:
        """Within it a pass of the model is noted, if anybody is to look at it."""
        return self._watch.watching() if self else nullcontext(Seen())

    def passed(
        self, model: nn.Module, raw: Batch, batch: Batch, seen: Seen, view: Callable[[], Batch]
    ) -> Pass:
        """The pass that has been seen, and ways to more of its kind."""
        rows = len(batch.targets)

        def again(inputs: Tensor) -> Seen:
            with averages_kept(model), self._watch.watching() as seen:
                self._task.loss(model, batch._replace(inputs=inputs))
            return seen

        passed = Pass(
            model,
            raw,
            batch,
            by_row(seen.outputs, rows, self._who),
            again=lambda inputs: by_row(again(inputs).outputs, rows, self._who),
            embed=lambda inputs: embedding(again(inputs).features, rows, self._who),
            view=view,
            features=seen.features,
            attention=tuple(seen.attention),
        )
        self._last = passed if self.learns else None
        return passed

    def added(
        self, passed: Pass, losses: Tensor, added: Tensor | None, knobs: Knobs
    ) -> tuple[Tensor, Tensor | None]:
        """The losses and what is added to their mean, with what follows from looking at a pass."""
        for regularizer in self._records:
            if regularizer.loss_output is not None:
                more = regularizer.loss_output(passed, knobs, self._rng)
                alike = losses.shape == more.shape
                losses = losses + (more if alike else more.mean())
            if regularizer.loss_batch is not None:
                value = regularizer.loss_batch(passed, knobs, self._rng)
                added = value if added is None else added + value
        return losses, added

    @property
    def learns(self) -> bool:
        """Whether one of them learns from passes."""
        return any(r.learn for r in self._records)

    def taken(self) -> Pass | None:
        """The last pass, if one of them learns; it is forgotten here."""
        passed, self._last = self._last, None
        return passed

    def keep(self, passed: Pass | None) -> None:
        """Makes a pass the last one again."""
        self._last = passed

    def learn(self, passed: Pass, knobs: Knobs) -> None:
        """Lets them learn from a pass."""
        for regularizer in self._records:
            if regularizer.learn is not None:
                regularizer.learn(passed, knobs, self._rng)
