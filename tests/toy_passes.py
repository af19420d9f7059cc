"""Passes of a model made by hand, for tests of regularizers that look at them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces import Batch, Regularizer, plugins
from search_spaces.passes import Pass


def load(name: str) -> Regularizer:
    found = plugins.load("search_spaces.regularizers", name, "REGULARIZER")
    assert isinstance(found, Regularizer)
    return found


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def looked(
    model: Callable[[Tensor], Tensor],
    inputs: Tensor,
    view: Tensor | None = None,
    features: Callable[[Tensor], Tensor] | None = None,
    asked: list[Tensor] | None = None,
) -> Pass:
    """A pass of a model on inputs. view: the inputs of another view; asked: gets the inputs of
    further passes."""
    batch = Batch(inputs, torch.zeros(len(inputs), dtype=torch.long))

    def again(x: Tensor) -> Tensor:
        if asked is not None:
            asked.append(x.detach())
        return model(x)

    return Pass(
        nn.Identity(),
        batch,
        batch,
        model(inputs),
        again=again,
        embed=features or again,
        view=lambda: batch if view is None else batch._replace(inputs=view),
        features=None if features is None else features(inputs),
    )


def added(name: str, passed: Pass, rng: torch.Generator | None = None, **h: Any) -> Tensor:
    """What a regularizer adds to the losses; knobs that are not given have their start."""
    record = load(name)
    assert record.loss_output is not None
    start = {knob: domain.start_value() for knob, domain in record.knobs.items()}
    result: Tensor = record.loss_output(passed, {**start, **h}, rng or seeded())
    assert result.shape == (len(passed.outputs),)
    return result


def network(seed: int = 0, dropout: float = 0.0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Linear(6, 9), nn.Tanh(), nn.Dropout(dropout), nn.Linear(9, 4)]
        return nn.Sequential(*layers).double()


def points(rows: int, seed: int = 3) -> Tensor:
    return torch.randn(rows, 6, generator=seeded(seed), dtype=torch.float64)
