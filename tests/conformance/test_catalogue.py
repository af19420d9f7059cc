"""Everything in the catalogue does in a run what its record says, on models of several kinds.

Run with: pytest tests/conformance/test_catalogue.py
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from objectives import Branch
from objectives.training.beginning import beginning
from objectives.training.loop import train
from objectives.training.options import Training
from objectives.training.regularization import Regularization
from objectives.training.tuner import Follow
from search_spaces import catalogue
from search_spaces.domains import Choice, Domain, Value
from search_spaces.errors import HpoError
from search_spaces.regularizer import Batch, Regularizer
from search_spaces.schedule import Schedule
from search_spaces.space import SearchSpace

pytestmark = pytest.mark.slow

ROWS, CLASSES, WORDS = 12, 3, 11
ONE_STEP = Training(steps=1, optimizer="sgd", learning_rate=0.1, learning_rate_schedule="constant")
THREE_STEPS = Training(steps=3, evaluations=1, learning_rate=0.01)


class Toy:
    """A task of double precision whose inputs and model are of one kind."""

    classes: ClassVar[int | None] = CLASSES
    splits = ("train", "validation")
    name = "toy"

    def __init__(self) -> None:
        rng = torch.Generator().manual_seed(3)
        self.data = Batch(self.inputs(rng), torch.randint(0, CLASSES, (2 * ROWS,), generator=rng))
        self.built: list[nn.Module] = []

    def inputs(self, rng: torch.Generator) -> Tensor:
        return torch.randn(2 * ROWS, 6, generator=rng, dtype=torch.float64)

    def network(self) -> nn.Module:
        parts = [nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.0), nn.Linear(8, 8), nn.Tanh()]
        return nn.Sequential(*parts, nn.Dropout(0.0), nn.Linear(8, CLASSES))

    def model(self, seed: int) -> nn.Module:
        self.built.append(self.network().double())
        return self.built[-1]

    def teacher(self, seed: int) -> nn.Module:
        return self.network().double()

    def batches(self, split: str, rng: torch.Generator) -> Iterator[Batch]:
        for part in (slice(0, ROWS), slice(ROWS, 2 * ROWS)):
            yield Batch(self.data.inputs[part], self.data.targets[part])

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return functional.cross_entropy(model(batch.inputs), batch.targets, reduction="none")


class Pictures(Toy):
    """Images of three channels and a network of convolutions with batch norm."""

    channels = 3

    def inputs(self, rng: torch.Generator) -> Tensor:
        coarse = torch.rand(2 * ROWS, self.channels, 3, 3, generator=rng, dtype=torch.float64)
        return 3 * functional.interpolate(coarse, size=(8, 8), mode="bilinear") - 1

    def network(self) -> nn.Module:
        parts = [nn.Conv2d(self.channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh()]
        parts += [nn.Dropout2d(0.0), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 8), nn.Tanh()]
        return nn.Sequential(*parts, nn.Dropout(0.0), nn.Linear(8, CLASSES))


class GreyPictures(Pictures):
    """Images of one channel."""

    channels = 1


class Words(Toy):
    """Sentences of whole numbers and a small transformer, whose last branch has a marked end."""

    token_parts = torch.full((WORDS, 2), -1)
    token_parts[-4:] = torch.tensor([[1, 2], [3, 7], [8, 4], [5, 6]])

    def inputs(self, rng: torch.Generator) -> Tensor:
        return torch.randint(1, WORDS, (2 * ROWS, 6), generator=rng)

    def network(self) -> nn.Module:
        return Transformer()


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS + 1, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.branch, self.end, self.last = nn.Linear(8, 8), Branch(), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        read = self.block(self.embed(x)).mean(1)
        return self.last(read + self.end(self.branch(read)))


class Series(Toy):
    """Series of two channels and a convolution."""

    def inputs(self, rng: torch.Generator) -> Tensor:
        return torch.randn(2 * ROWS, 2, 16, generator=rng, dtype=torch.float64).cumsum(-1)

    def network(self) -> nn.Module:
        parts = [nn.Conv1d(2, 4, 3, padding=1), nn.Tanh(), nn.Dropout1d(0.0), nn.Flatten()]
        return nn.Sequential(*parts, nn.Linear(64, CLASSES))


class Restoring(Pictures):
    """A network whose outputs are images."""

    classes = None

    def __init__(self) -> None:
        super().__init__()
        self.data = Batch(self.data.inputs, self.data.inputs)

    def network(self) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 1))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return (model(batch.inputs) - batch.targets).square().flatten(1).mean(1)


KINDS = {
    "mlp": Toy,
    "cnn": Pictures,
    "grey": GreyPictures,
    "transformer": Words,
    "series": Series,
    "restoring": Restoring,
}
UNMIXED = ("mlp", "transformer", "series", "restoring")  # no batch norm: rows are apart
NAMES = catalogue.names()
# With what a fresh model puts out, these do nothing where their other knobs start.
LIVELY: dict[str, dict[str, Value]] = {
    "acls": {"acls_margin": 0.01},
    "consistency": {"consistency_threshold": 0.0},
    "imbsam": {"imbsam_tail": 1.0},
}


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


def off(record: Regularizer) -> dict[str, Value]:
    return {
        name: domain.off if domain.off is not None else domain.start_value()
        for name, domain in record.knobs.items()
    }


def on(record: Regularizer, unit: float = 0.6) -> dict[str, Value]:
    """A strength of every knob from this part of its range; choices keep their start."""
    return {name: _value(domain, unit) for name, domain in record.knobs.items()}


def _value(domain: Domain, unit: float) -> Value:
    if isinstance(domain, Choice) or domain.off is None:
        return domain.start_value()
    return domain.from_unit(unit) if domain.size is None else (domain.from_unit(unit),)  # type: ignore[return-value]


def follow(record: Regularizer, point: Mapping[str, Value]) -> Follow:
    return Follow(Schedule.constant(SearchSpace({}), {}).pin(record.knobs, point))


@cache
def kinds_of(name: str) -> tuple[str, ...]:
    """The kinds of model that a record works on; any other it has to refuse with a sentence."""
    fitting = []
    for kind in KINDS:
        record = catalogue.load(name)
        try:
            list(train(KINDS[kind](), {name: record}, follow(record, on(record)), ONE_STEP, 0))
        except HpoError as error:
            assert error.message and error.hint, f"{name} on {kind}: {error}"
            continue
        fitting.append(kind)
    return tuple(fitting)


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
