"""Linear regression under dropout: the best weights, and so the slope of the validation loss in
the rates, are known exactly.

With inverted dropout at rate p_j on feature j the expected training loss is, for data X (rows,
features), y, the squared error plus sum_j p_j / (1 - p_j) (X^T X)_jj w_j^2 (Wager, Wang and Liang,
NeurIPS 2013), whose minimum is w*(p) = (X^T X + diag(p / (1 - p)) diag(X^T X))^-1 X^T y.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from hpo.bilevel.stn.freeknobs import FreeKnobs
from search_spaces import plugins
from search_spaces.domains import Float
from search_spaces.regularizer import Batch, Regularizer
from search_spaces.space import SearchSpace

GROUPS, FEATURES = 4, 20
_SIGNAL = (1.0, 0.75, 0.5, 0.0)  # size of the true weights of each group; the last has none


class Grouped(nn.Module):
    """One linear output of 20 features, with a dropout layer for each group of five."""

    def __init__(self) -> None:
        super().__init__()
        self.drops = nn.ModuleList(nn.Dropout(0.0) for _ in range(GROUPS))
        self.linear = nn.Linear(FEATURES, 1, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        parts = torch.split(inputs, FEATURES // GROUPS, dim=1)
        dropped = [drop(part) for drop, part in zip(self.drops, parts, strict=True)]
        output: Tensor = self.linear(torch.cat(dropped, dim=1))
        return output.squeeze(1)


class DropoutRegression:
    """The task, drawn from `seed`: 200 rows to train on and 200 to validate, each one batch."""

    splits = ("train", "validation")
    name = "dropout_regression"

    def __init__(self, seed: int, rows: int = 200, noise: float = 1.0) -> None:
        rng = torch.Generator().manual_seed(seed)
        sizes = torch.tensor(_SIGNAL).repeat_interleave(FEATURES // GROUPS)
        truth = sizes * torch.randn(FEATURES, generator=rng)
        self.data = {}
        for split in self.splits:
            inputs = torch.randn(rows, FEATURES, generator=rng)
            targets = inputs @ truth + noise * torch.randn(rows, generator=rng)
            self.data[split] = Batch(inputs, targets)

    def model(self, seed: int) -> nn.Module:
        return Grouped()

    def batches(self, split: str, rng: torch.Generator) -> Iterator[Batch]:
        yield self.data[split]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        losses: Tensor = (model(batch.inputs) - batch.targets).square()
        return losses

    def best_weights(self, rates: Tensor) -> Tensor:
        """w* (features,) at the rates (groups,), in double precision; differentiable."""
        inputs, targets = (part.double() for part in self.data["train"])
        each = rates.double().repeat_interleave(FEATURES // GROUPS)
        gram = inputs.t() @ inputs
        damped = gram + torch.diag(each / (1 - each) * gram.diagonal())
        weights: Tensor = torch.linalg.solve(damped, inputs.t() @ targets)
        return weights

    def validation_loss(self, rates: Tensor) -> Tensor:
        """The validation loss at the best weights for these rates."""
        inputs, targets = (part.double() for part in self.data["validation"])
        return (inputs @ self.best_weights(rates) - targets).square().mean()

    def slope(self, knobs: SearchSpace) -> Tensor:
        """d(validation loss at the best weights) / d(free numbers), (groups,), at the start."""
        free = FreeKnobs(knobs, {"dropout": "example"}, dtype=torch.float64)
        center = free.initial(knobs.start).requires_grad_()
        loss = self.validation_loss(free.flat_values(center))
        return torch.autograd.grad(loss, center)[0]


def regularizers() -> dict[str, Regularizer]:
    record = plugins.load("search_spaces.regularizers", "dropout", "REGULARIZER")
    assert isinstance(record, Regularizer)
    return {"dropout": record}


def space(rate: float = 0.3) -> SearchSpace:
    """One rate for each group; its free number is nearly its logit, for the range is 0 to 0.99."""
    domain = regularizers()["dropout"].knobs["dropout"]
    assert isinstance(domain, Float)
    return SearchSpace({"dropout": replace(domain, high=0.99, start=rate, size=GROUPS)})
