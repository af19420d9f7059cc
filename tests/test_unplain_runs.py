"""Runs that diverge, and tasks that are not plain: what is searched must not fall over for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from objectives.training.loop import train
from objectives.training.options import Training
from objectives.training.tuner import Follow
from search_spaces import Batch, HpoError, Schedule, SearchSpace, catalogue, plugins
from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.values import UNIT
from search_spaces.augmentation.warps import displaced, warped


class Net(nn.Module):
    """Gives two things; the first is what counts."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 3)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        assert inputs.is_floating_point() and float(inputs.detach().max()) <= 1.0
        return self.layer(inputs.flatten(1)), inputs.sum()


class Bytes:
    """Images in whole numbers, which the loss scales."""

    splits = ("train", "validation")
    classes = 3

    def __init__(self, one_hot: bool = False) -> None:
        rng = torch.Generator().manual_seed(0)
        self._inputs = torch.randint(0, 256, (12, 1, 4, 4), generator=rng, dtype=torch.uint8)
        numbers = torch.arange(12) % 3
        self._targets = functional.one_hot(numbers, 3) if one_hot else numbers

    def model(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return Net()

    def batches(self, split: str, rng: torch.Generator) -> Iterator[Batch]:
        yield Batch(self._inputs, self._targets)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        targets = batch.targets
        if targets.ndim == 2:
            targets = targets.float()
        outputs, _ = model(batch.inputs.float() / 255)
        return functional.cross_entropy(outputs, targets, reduction="none")


def last_loss(task: Any, point: dict[str, float]) -> float:
    """The training loss at the end of a few steps at these knobs."""
    records = {name: record for name, record in catalogue.records().items() if name in point}
    knobs = {k: d for record in records.values() for k, d in record.knobs.items()}
    schedule = Schedule.constant(SearchSpace(knobs), point)
    training = Training(steps=4, evaluations=1, learning_rate=0.1)
    measured = list(train(task, records, Follow(schedule), training, 0))
    return measured[-1].metrics["train_loss"]


@pytest.mark.parametrize(("name", "strength"), [("lwf", 3.0), ("mean_teacher", 3.0), ("ewc", 1.0)])
def test_other_models_are_asked_as_the_loss_asks_the_model(name: str, strength: float) -> None:
    held = last_loss(Bytes(), {name: strength})
    assert held > last_loss(Bytes(), {name: 0.0}) + 1e-5  # it acts, and pulls against the loss


@pytest.mark.parametrize("name", ["label_smoothing", "imbsam"])
def test_one_hot_rows_of_whole_numbers_are_refused(name: str) -> None:
    strength = catalogue.load(name).knobs[name].start_value()
    assert isinstance(strength, float)
    with pytest.raises(HpoError, match="class number"):
        last_loss(Bytes(one_hot=True), {name: strength})


def test_a_diverged_amount_has_a_derivative_that_is_no_number_and_ends_no_process() -> None:
    images = torch.rand(2, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    for value in (float("nan"), float("inf")):
        matrices = torch.full((2, 2, 3), value, requires_grad=True)
        torch.autograd.grad(warped(images, matrices).sum(), matrices)
        ways = torch.full((2, 2, 5, 5), value, requires_grad=True)
        torch.autograd.grad(displaced(images, ways).sum(), ways)
        amounts = torch.full((2,), value, requires_grad=True)
        for name in ("rotate", "elastic", "scale"):
            operation = plugins.load(catalogue.OPERATIONS, name, "OPERATION")
            assert isinstance(operation, Operation)
            changed = operation.apply(images, amounts, torch.Generator().manual_seed(0))
            torch.autograd.grad(changed.sum(), amounts)


def test_equalise_leaves_to_the_loss_what_is_no_number() -> None:
    operation = plugins.load(catalogue.OPERATIONS, "equalise", "OPERATION")
    assert isinstance(operation, Operation)
    images = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    broken = images.clone()
    broken[0, 0, 0, 0] = float("nan")
    found = operation.apply(broken, torch.ones(2), torch.Generator())
    whole = operation.apply(images, torch.ones(2), torch.Generator())
    assert torch.equal(found[1], whole[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_policies_work_on_images_of_half_precision(dtype: torch.dtype) -> None:
    images = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    record = catalogue.load("randaugment")
    assert record.remember is not None and record.batch is not None
    h = {"randaugment.magnitude": 9.0, "randaugment.operations": 3}
    rng = torch.Generator().manual_seed(0)
    changed = record.batch(UNIT, Batch(images, torch.zeros(64)), h, rng).inputs
    assert bool(changed.isfinite().all()) and not torch.equal(changed.to(dtype), images)
