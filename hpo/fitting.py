"""What of a ready-made space fits a task: found out by trying each regularizer on one batch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hpo.errors import HpoError

if TYPE_CHECKING:
    from search_spaces.domains import Point
    from search_spaces.regularizer import Regularizer
    from search_spaces.space import SearchSpace


_LOOKING = ("batch", "target", "loss_example", "loss_output", "loss_batch", "learn", "remember")


def unfit(
    task: Any,
    regularizers: Mapping[str, Regularizer],
    space: SearchSpace,
    fixed: Point,
    seed: int,
) -> dict[str, HpoError]:
    """The regularizers that refuse the task, each with what they say; on a training batch, with
    every knob of the space at the middle of its range. Nothing is trained.

    None where trying says nothing: they change no batch and look at no pass, or the task itself
    cannot be run, which the first trial will tell.
    """
    if not any(getattr(r, hook) for r in regularizers.values() for hook in _LOOKING):
        return {}
    try:
        return _tried(task, regularizers, space, fixed, seed)
    except Exception:
        return {}


def _tried(
    task: Any,
    regularizers: Mapping[str, Regularizer],
    space: SearchSpace,
    fixed: Point,
    seed: int,
) -> dict[str, HpoError]:
    import torch

    from objectives.training.beginning import beginning
    from objectives.training.regularization import Regularization
    from objectives.training.state import build_model

    model = build_model(task, seed).train()
    start = beginning(task, model, seed, torch.device("cpu"))
    batch = next(start.batches())
    point = {**{k: _middle(domain) for k, domain in space.items()}, **fixed}
    found = {}
    for name, record in regularizers.items():
        rng = torch.Generator().manual_seed(seed % 2**63)
        with warnings.catch_warnings(action="ignore"), torch.random.fork_rng(devices=[]):
            try:
                alone = Regularization(task, model, {name: record}, point, rng, lambda: start)
                undo = alone.attach()
                try:
                    alone.loss(model, batch, point)
                finally:
                    for back in reversed(undo):
                        back()
            except HpoError as error:
                found[name] = error
    return found


def _middle(domain: Any) -> Any:
    value = domain.from_unit(0.5)
    return value if domain.size is None else (value,) * domain.size
