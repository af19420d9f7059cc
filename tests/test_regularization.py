"""The hooks of regularizers in a run: losses of examples, weights of a step, knobs not given.

Run with: pytest tests/test_regularization.py
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from toy_tasks import SHORT, Blobs, constant, numbers, regularizers, run, weights

from objectives.digits import Digits
from objectives.training.loop import train
from objectives.training.options import Training
from objectives.training.tuner import Follow
from search_spaces.domains import Float
from search_spaces.errors import HpoError
from search_spaces.regularizer import Batch
from search_spaces.schedule import Schedule
from search_spaces.space import SearchSpace

ONE_STEP = Training(steps=1, optimizer="sgd", learning_rate=0.5, learning_rate_schedule="constant")
FROZEN = Training(steps=2, evaluations=2, optimizer="sgd", learning_rate=1e-30)


class Given(Follow):
    """Gives the knobs that a function makes for a number of rows; the point is a plain value."""

    def __init__(self, knobs: Callable[[int], Mapping[str, Any]], **point: Any) -> None:
        self._knobs, self._point = knobs, point

    def knobs(self, progress: float, rows: int) -> Mapping[str, Any]:
        return self._knobs(rows)

    def point(self, progress: float) -> Mapping[str, Any]:
        return self._point

    def moving(self, progress: float) -> bool:
        return False


def vector(name: str, *strengths: float) -> Follow:
    domain = Float(0.0, 1e9, size=len(strengths))
    return Follow(Schedule.constant(SearchSpace({name: domain}), {name: strengths}))


class Watching(Blobs):
    """Keeps the weights that the model had in the last training loss."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        if model.training:
            self.used = weights(model)
        return super().loss(model, batch)


# the weights of one step


def test_the_gradient_at_noisy_weights_moves_the_clean_ones() -> None:
    start, task = Blobs(), Watching()
    run(start, FROZEN)
    before = weights(start.models[0])
    run(task, ONE_STEP, knobs={"weight_noise": 0.3, "dropout": 0.0})
    twin = task.model(0).eval()
    twin.load_state_dict(task.used)
    batch = task.seen[0]
    functional.cross_entropy(twin(batch.inputs), batch.targets).backward()
    trained = task.models[0].parameters()
    for (name, parameter), after in zip(twin.named_parameters(), trained, strict=True):
        assert torch.equal(task.used[name], before[name]) == (parameter.ndim < 2)
        assert parameter.grad is not None
        torch.testing.assert_close(after.detach(), before[name] - 0.5 * parameter.grad)


class Breaking(Blobs):
    """A loss that fails at its third call, after the forward pass."""

    calls = 0

    def model(self, seed: int) -> nn.Module:
        model = super().model(seed)
        self.own = dict(model.named_parameters())
        return model

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        losses = super().loss(model, batch)
        self.calls += 1
        if self.calls == 3:
            self.at_failure = dict(model.named_parameters())
            raise RuntimeError("broken")
        return losses


def test_after_a_loss_that_raises_the_model_has_its_own_weights() -> None:
    task = Breaking()
    with pytest.raises(RuntimeError, match="broken"):
        run(task, Training(steps=9, evaluations=1), knobs={"weight_noise": 0.3})
    assert task.at_failure["0.weight"] is not task.own["0.weight"]
    after = dict(task.models[0].named_parameters())
    assert list(after) == list(task.own)
    assert all(after[name] is parameter for name, parameter in task.own.items())


def test_weight_noise_restores_every_bit_and_stays_out_of_evaluation() -> None:
    plain, noisy = Blobs(), Blobs()
    without, with_noise = run(plain, FROZEN), run(noisy, FROZEN, knobs={"weight_noise": 0.5})
    before, after = weights(plain.models[0]), weights(noisy.models[0])
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert without[-1].metrics["train_loss"] != with_noise[-1].metrics["train_loss"]
    assert without[-1].metrics["val_loss"] == with_noise[-1].metrics["val_loss"]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.LSTM(1, 6, batch_first=True)
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Any:
        return self.last(self.cells(x[..., None])[0][:, -1])


def test_weight_noise_reaches_recurrent_cells_and_leaves_them() -> None:
    class Sequence(Blobs):
        def model(self, seed: int) -> nn.Module:
            return Recurrent()

    def first(*noise: float) -> Any:
        tuner = vector("weight_noise", *noise)
        return run(Sequence(), FROZEN, knobs={"weight_noise": None}, tuner=tuner)[0].metrics

    cells_only, none = first(0.5, 0.0), first(0.0, 0.0)
    assert cells_only["train_loss"] != none["train_loss"]
    assert cells_only["val_loss"] == none["val_loss"]


def test_weight_noise_is_the_same_wherever_a_weight_is_shared() -> None:
    seen: list[bool] = []

    class Tied(Blobs):
        def model(self, seed: int) -> nn.Module:
            first, second = nn.Linear(4, 4), nn.Linear(4, 4)
            second.weight = self.own = first.weight
            return nn.Sequential(first, nn.ReLU(), second, nn.Linear(4, 3))

        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            if model.training:
                used = model.get_submodule("0").weight
                seen.append(used is model.get_submodule("2").weight and used is not self.own)
            return super().loss(model, batch)

    task = Tied()
    run(task, knobs={"weight_noise": 0.2})
    assert seen == [True] * 12
    assert task.own.grad is not None


def test_a_vector_of_weight_noise_has_one_strength_for_each_layer() -> None:
    task = Watching()
    tuner = vector("weight_noise", 0.0, 0.5, 0.0)
    run(task, FROZEN, knobs={"weight_noise": None}, tuner=tuner)
    own = weights(task.models[0])
    moved = [name for name in own if not torch.equal(own[name], task.used[name])]
    assert moved == ["3.weight"]
    with pytest.raises(HpoError, match="weight_noise has size 2, but this model has 3 layers"):
        run(Blobs(), knobs={"weight_noise": None}, tuner=vector("weight_noise", 0.1, 0.1))


def test_the_knob_of_weight_noise_has_a_gradient_in_the_loss() -> None:
    strength = torch.tensor(0.3, requires_grad=True)
    tuner = Given(lambda rows: {"weight_noise": strength}, weight_noise=0.3)
    run(Blobs(), ONE_STEP, knobs={"weight_noise": None}, tuner=tuner)
    assert strength.grad is not None and float(strength.grad) != 0


# the losses of the examples


def test_focal_changes_the_training_loss_and_no_other() -> None:
    plain, focal = (run(Blobs(), FROZEN, knobs=knobs) for knobs in ({}, {"focal": 2.0}))
    assert focal[-1].metrics["train_loss"] < 0.8 * plain[-1].metrics["train_loss"]
    assert focal[-1].metrics["val_loss"] == plain[-1].metrics["val_loss"]
    off = run(Blobs(), knobs={"focal": 0.0})
    assert [m.metrics for m in off] == [m.metrics for m in run(Blobs())]


def test_focal_takes_one_strength_for_each_example() -> None:
    gamma = torch.arange(10) / 2
    tuner = Given(lambda rows: {"focal": gamma, "dropout": 0.0}, focal=1.0, dropout=0.0)
    task = Blobs()
    first = run(task, FROZEN, knobs={"dropout": None, "focal": None}, tuner=tuner)[0]
    batch, model = task.seen[0], task.models[0].eval()
    loss = functional.cross_entropy(model(batch.inputs), batch.targets, reduction="none")
    expected = (loss * (1 - (-loss).exp()) ** gamma).mean()
    assert first.metrics["train_loss"] == pytest.approx(float(expected.detach()), rel=1e-5)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_focal_needs_the_loss_of_each_example(shape: tuple[int, ...]) -> None:
    class Mean(Blobs):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            return super().loss(model, batch).mean().reshape(shape)

    with pytest.raises(HpoError, match="objective blobs: focal needs the loss of each") as error:
        run(Mean(), knobs={"focal": 1.0})
    assert error.value.code == "bad-loss"
    assert "one number for 10" in error.value.message
    with pytest.raises(HpoError, match="focal is a vector"):
        run(Blobs(), knobs={"focal": None}, tuner=vector("focal", 0.1, 0.1))


# knobs that need not be given, and what a site does by itself


def test_a_knob_without_off_that_nothing_gives_stays_at_its_start() -> None:
    start = regularizers("lq")["lq"].knobs["lq_power"].start_value()

    def trained(**knobs: Any) -> Any:
        records = regularizers("lq")
        task = Digits(train_rows=100)
        return list(train(task, records, constant(**knobs), SHORT, 0))

    alone = trained(lq=0.01)
    both, half = (trained(lq=0.01, lq_power=power) for power in (start, 1.9))
    assert [m.metrics for m in alone] == [m.metrics for m in both]
    assert alone[-1].metrics != half[-1].metrics
    assert alone[-1].point == {"lq": 0.01}
    with pytest.raises(HpoError, match="nothing gives a value for lq") as error:
        trained(lq_power=0.5)
    assert error.value.code == "missing-knob"


def test_noise_at_a_dropout_site_leaves_its_own_rate_alone() -> None:
    def rates(**knobs: float) -> list[float]:
        task = Blobs()
        trial = train(task, regularizers(*knobs), constant(**knobs), SHORT, 0)
        next(trial)
        found = [site.p for site in task.models[0].modules() if isinstance(site, nn.Dropout)]
        trial.close()
        return found

    assert rates(activation_noise=0.1) == [0.3, 0.3]
    assert rates(activation_noise=0.1, dropout=0.2) == [0.0, 0.0]


# auxiliary losses


class Assisted(Blobs):
    """Blobs with two auxiliary losses; one has the weight 0.5 where no knob says otherwise."""

    space: ClassVar = {"size": Float(1e-3, 10.0, "log", start=0.5), "zero": Float(0.0, 1.0)}

    def auxiliary_losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        outputs = model(batch.inputs)
        return {"size": outputs.square().mean(1), "zero": 0.0 * outputs[:, 0]}


def trained(task: Any, **knobs: float) -> dict[str, float]:
    tuner = constant(dropout=0.0, **knobs)
    return next(train(task, regularizers("dropout"), tuner, FROZEN, 0)).metrics


def test_auxiliary_losses_are_added_in_training_with_the_weights_of_their_knobs() -> None:
    plain = trained(Blobs())
    one, three, start = (trained(Assisted(), **k) for k in ({"size": 1.0}, {"size": 3.0}, {}))
    size = one["train_loss"] - plain["train_loss"]
    assert size > 0.01
    assert three["train_loss"] - plain["train_loss"] == pytest.approx(3 * size, rel=1e-4)
    assert start["train_loss"] - plain["train_loss"] == pytest.approx(0.5 * size, rel=1e-4)
    assert one["val_loss"] == plain["val_loss"]


def test_the_weight_of_an_auxiliary_loss_may_differ_between_examples() -> None:
    def given(weight: Callable[[int], Tensor]) -> float:
        tuner = Given(lambda rows: {"dropout": 0.0, "size": weight(rows)}, dropout=0.0, size=1.0)
        return next(train(Assisted(), regularizers("dropout"), tuner, FROZEN, 0)).metrics[
            "train_loss"
        ]

    plain = trained(Blobs())["train_loss"]
    whole = given(torch.ones) - plain
    assert whole == pytest.approx(trained(Assisted(), size=1.0)["train_loss"] - plain)
    first = given(lambda rows: (torch.arange(rows) < 5).float()) - plain
    last = given(lambda rows: (torch.arange(rows) >= 5).float()) - plain
    assert min(first, last) > 0 and first != pytest.approx(last)
    assert first + last == pytest.approx(whole, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {}}, "auxiliary loss size has no knob for its weight"),
        ({"auxiliary_losses": lambda s, model, batch: 3}, "auxiliary_losses gave int, not a dict"),
        ({"auxiliary_losses": lambda s, m, batch: {"size": 3.0}}, "gave float for size"),
        ({"auxiliary_losses": lambda s, m, batch: {"size": torch.tensor(3.0)}}, "gave () for size"),
    ],
)
def test_mistakes_in_auxiliary_losses_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(HpoError) as error:
        run(type("Broken", (Assisted,), {"name": "mine", **changes})())
    assert message in error.value.message
    assert "objective mine" in error.value.message
    with pytest.raises(HpoError, match="knob size is a vector"):
        run(Assisted(), tuner=vector("size", 0.1, 0.2))


# everything together


def test_a_resumed_run_with_the_new_hooks_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    knobs = {"focal": 1.0, "weight_noise": 0.1, "activation_noise": 0.2}
    knobs |= {"augment.rotate": 20.0, "augment.translate": 0.1, "augment.brightness": 0.3}
    records = regularizers(*knobs)

    def start(path: Path | None) -> Any:
        task = Digits(train_rows=100, network="cnn", hidden=16)
        options: dict[str, Any] = {"checkpoint": path, "checkpoint_seconds": 0.0 if path else None}
        return train(task, records, constant(**knobs), SHORT, 3, **options)

    whole = list(start(None))
    path = tmp_path / "c.pt"
    trial = start(path)
    next(trial), next(trial)
    trial.close()
    assert numbers(list(start(path))) == numbers(whole)
    assert all(m.finite for m in whole)
