"""Everything in the catalogue does in a run what its record says, on models of several kinds.

Run with: pytest tests/conformance/test_catalogue.py
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_kinds import KINDS, LIVELY, ONE_STEP, ROWS, follow, kinds_of, off, on

from objectives.training.beginning import beginning
from objectives.training.loop import train
from objectives.training.options import Training
from objectives.training.regularization import Regularization
from objectives.training.tuner import Follow
from search_spaces import catalogue
from search_spaces.domains import Value
from search_spaces.regularizer import Regularizer
from search_spaces.schedule import Schedule
from search_spaces.space import SearchSpace

pytestmark = pytest.mark.slow

THREE_STEPS = Training(steps=3, evaluations=1, learning_rate=0.01)
UNMIXED = ("mlp", "transformer", "series", "restoring")  # no batch norm: rows are apart
NAMES = catalogue.names()


class Ready:
    """A task, its model, and one regularizer on it."""

    def __init__(self, name: str, kind: str, point: Mapping[str, Any]) -> None:
        self.task = KINDS[kind]()
        torch.manual_seed(0)
        self.model = self.task.model(0).train()
        self.rng = torch.Generator().manual_seed(1)
        cpu = torch.device("cpu")
        records = {name: catalogue.load(name)} if name else {}
        self.regularization = Regularization(
            self.task, self.model, records, point, self.rng,
            lambda: beginning(self.task, self.model, 0, cpu),
        )  # fmt: skip
        self.batch = next(self.task.batches("train", self.rng))
        self.undo = self.regularization.attach()

    def losses(self, knobs: Mapping[str, Any]) -> Tensor:
        """The losses of the examples, then what belongs to all of them, under the same draws."""
        self.rng.manual_seed(2)
        losses, added = self.regularization.loss(self.model, self.batch, knobs)
        parameters = dict(self.model.named_parameters())
        shared = [added, self.regularization.penalty(parameters, knobs)]
        more = [part.reshape(1) for part in shared if part is not None]
        return torch.cat([losses, *more]) if more else losses

    def total(self, knobs: Mapping[str, Any]) -> Tensor:
        found = self.losses(knobs)
        return found[:ROWS].mean() + found[ROWS:].sum()


@pytest.fixture(autouse=True)
def doubles() -> Iterator[None]:
    """Soft targets are made in the default type: finite differences need double precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_some_kind_of_model_can_be_trained_with_it(name: str) -> None:
    assert kinds_of(name)


def test_most_are_for_models_of_every_kind() -> None:
    everywhere = [name for name in NAMES if set(kinds_of(name)) >= {"mlp", "cnn", "transformer"}]
    assert {"weight_decay", "l2", "dropout", "label_smoothing"} <= {*everywhere}


def test_off_changes_no_loss_and_no_step(name: str) -> None:
    record = catalogue.load(name)
    for kind in kinds_of(name):
        with_it, without = Ready(name, kind, off(record)), Ready("", kind, {})
        assert torch.equal(with_it.total(off(record)), without.total({})), kind
        results = []
        for records, point in (({name: record}, off(record)), ({}, {})):
            task = KINDS[kind]()
            list(train(task, records, follow(record, point) if point else _none(), ONE_STEP, 0))
            results.append([p.detach() for p in task.built[0].parameters()])
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14, msg=kind)


def _beside_noise(
    name: str, kind: str, point: Mapping[str, Value]
) -> tuple[dict[str, Regularizer], Follow]:
    """A record and, where inputs have real values, noise on them: some compare two views."""
    record, noise = catalogue.load(name), catalogue.load("input_noise")
    if kind == "transformer" or name == "input_noise":
        return {name: record}, follow(record, point)
    domains, values = {**record.knobs, **noise.knobs}, {**point, "input_noise": 0.3}
    tuner = Follow(Schedule.constant(SearchSpace({}), {}).pin(domains, values))
    return {name: record, "input_noise": noise}, tuner


def _none() -> Follow:
    return Follow(Schedule.constant(SearchSpace({}), {}))


def test_on_changes_what_is_learned_and_stays_finite(name: str) -> None:
    record = catalogue.load(name)
    acted = False
    for kind in kinds_of(name):
        results = []
        for point in (off(record), {**on(record), **LIVELY.get(name, {})}):
            task = KINDS[kind]()
            records, tuner = _beside_noise(name, kind, point)
            found = list(train(task, records, tuner, THREE_STEPS, 0))
            assert all(torch.tensor(m.metrics["train_loss"]).isfinite() for m in found), kind
            results.append(torch.cat([p.detach().flatten() for p in task.built[0].parameters()]))
        assert results[1].isfinite().all()
        acted |= not torch.equal(*results)
    assert acted


def test_the_gradient_in_each_strength_is_that_of_finite_differences(name: str) -> None:
    record = catalogue.load(name)
    if not record.differentiable or record.by_optimizer_alone or record.surrogate:
        return
    told = set()
    for kind in kinds_of(name):
        ready = Ready(name, kind, on(record))
        values = on(record)
        numbers = {k: v for k, v in values.items() if isinstance(v, float)}
        leaves = {k: torch.tensor(v, dtype=torch.float64) for k, v in numbers.items()}
        for knob, at in leaves.items():
            leaf = at.clone().requires_grad_()
            total = ready.total({**values, knob: leaf})
            if not total.requires_grad or not _reaches(total, leaf):
                continue
            (gradient,) = torch.autograd.grad(total, leaf)
            step = 1e-5 * max(abs(float(at)), 1e-3)
            above, below = (
                ready.total({**values, knob: at + sign * step}).detach() for sign in (1, -1)
            )
            slope = (above - below) / (2 * step)
            torch.testing.assert_close(gradient, slope, rtol=2e-4, atol=1e-7, msg=f"{kind} {knob}")
            told.add(knob)
    assert told, "no strength has a gradient"


def _reaches(total: Tensor, leaf: Tensor) -> bool:
    return torch.autograd.grad(total, leaf, retain_graph=True, allow_unused=True)[0] is not None


def test_the_draws_do_not_depend_on_the_strength(name: str) -> None:
    record = catalogue.load(name)
    for kind in kinds_of(name):
        ends = []
        for unit in (0.3, 0.9):
            ready = Ready(name, kind, on(record, unit))
            ready.total(on(record, unit))
            ends.append(ready.rng.get_state())
        ready = Ready(name, kind, off(record))
        ready.total(off(record))
        assert torch.equal(*ends) and torch.equal(ends[0], ready.rng.get_state()), kind


def test_a_strength_for_each_example_is_what_its_scope_says(name: str) -> None:
    record = catalogue.load(name)
    if record.by_optimizer_alone or record.ascent is not None:
        return
    for kind in kinds_of(name):
        ready = Ready(name, kind, on(record, 0.3))
        values = on(record, 0.3)
        for knob, scope in record.scope.items():
            value = values[knob]
            if not isinstance(value, float):
                continue
            plain = ready.losses(values)
            rows = torch.full((ROWS,), value, dtype=torch.float64)
            torch.testing.assert_close(ready.losses({**values, knob: rows}), plain, msg=kind)
            moved = rows.clone()
            moved[0] = moved[0] * 1.5 + 0.01
            if scope == "example" and kind in UNMIXED:
                others = ready.losses({**values, knob: moved})[1:ROWS]
                torch.testing.assert_close(others, plain[1:ROWS], msg=f"{kind} {knob}")
            if scope == "batch":
                one = ready.losses({**values, knob: moved})
                other = ready.losses({**values, knob: moved.roll(2)})
                torch.testing.assert_close(one, other, msg=f"{kind} {knob}")


def test_the_record_says_what_it_is_about() -> None:
    for name in NAMES:
        record = catalogue.load(name)
        assert record.note, f"{name} has no note"
        assert any(d.off is not None for d in record.knobs.values()), f"{name} cannot be off"
