"""The training loop does what its options say, and leaves nothing behind.

Run with: pytest tests/test_training.py
"""

import math
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from toy_tasks import SHORT, Blobs, Restless, constant, numbers, regularizers, run, weights

from objectives.training.evaluation import evaluate
from objectives.training.loop import train
from objectives.training.measurement import Measurement
from objectives.training.options import Training
from objectives.training.stopping import Patience
from objectives.training.task import is_task, locked
from objectives.training.tuner import Follow
from search_spaces.domains import Float
from search_spaces.errors import HpoError
from search_spaces.regularizer import Batch
from search_spaces.schedule import Schedule
from search_spaces.space import SearchSpace


class Fixed:
    """A tuner that gives what a function says; the point is a plain value of the same name."""

    def __init__(self, knobs: Callable[[float, int], dict[str, Any]], **point: Any) -> None:
        self._knobs, self._point = knobs, point
        self.rates: list[float] = []
        self.moves_until = 0.0

    def begin(self, run: Any) -> None: ...

    def knobs(self, progress: float, rows: int) -> dict[str, Any]:
        return self._knobs(progress, rows)

    def after_step(self, run: Any, progress: float) -> None:
        self.rates.append(run.optimizer.param_groups[0]["lr"])

    def point(self, progress: float) -> dict[str, Any]:
        return self._point

    def moving(self, progress: float) -> bool:
        return progress < self.moves_until

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


# measurements


def test_measurements_are_evenly_spaced_and_end_with_the_last_step() -> None:
    measured = run(Blobs(), Training(steps=10, evaluations=4))
    assert [m.step for m in measured] == [2, 5, 8, 10]
    assert [m.progress for m in measured] == [0.2, 0.5, 0.8, 1.0]
    assert [m.step for m in run(Blobs(), Training(steps=3, evaluations=20))] == [1, 2, 3]


def test_a_measurement_holds_metrics_point_and_cost() -> None:
    last = run(Blobs(), knobs={"dropout": 0.1})[-1]
    held_out = {f"{part}_{what}" for part in ("val", "holdout") for what in ("loss", "error")}
    assert set(last.metrics) == {"train_loss", *held_out}
    assert last.finite
    assert last.point == {"dropout": 0.1}
    assert last.cost["gradients"] == 12
    assert last.cost["examples"] == 2 * 45 + 2 * 10  # two passes of 4 x 10 + 5, two batches more
    assert last.cost["seconds"] > 0
    assert Measurement.from_json(last.to_json()) == last


def test_the_loss_falls() -> None:
    measured = run(Blobs(), Training(steps=150, learning_rate=0.02))
    assert measured[-1].metrics["train_loss"] < 0.5 * measured[0].metrics["train_loss"]
    assert measured[-1].metrics["val_loss"] < 0.9 * measured[0].metrics["val_loss"]
    assert measured[-1].metrics["val_error"] < 0.4


def test_train_loss_is_the_mean_since_the_last_measurement() -> None:
    class Counted(Blobs):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            self.calls = getattr(self, "calls", 0) + model.training
            return 0.0 * super().loss(model, batch) + self.calls

    measured = run(Counted(), Training(steps=6, evaluations=2), knobs={"l2": 1e-3})
    assert [m.metrics["train_loss"] for m in measured] == [2.0, 5.0]


def test_without_a_selection_split_there_is_no_holdout() -> None:
    task = Blobs()
    task.splits = ("train", "validation", "test")
    assert set(run(task)[-1].metrics) == {"train_loss", "val_loss", "val_error"}


def test_metrics_of_the_task_are_averaged_over_examples() -> None:
    class WithMetrics(Blobs):
        def metrics(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
            return {"first_input": batch.inputs[:, 0], "two": torch.tensor(2.0)}

    task = WithMetrics()
    last = run(task)[-1].metrics
    assert last["val_first_input"] == pytest.approx(float(task.data["validation"][0][:, 0].mean()))
    assert last["holdout_two"] == pytest.approx(2.0)


# randomness


def test_the_same_seed_gives_the_same_numbers() -> None:
    knobs = {"dropout": 0.3, "input_noise": 0.2, "mixup": 0.4}
    first, again, other = (run(Restless(), knobs=knobs, seed=seed) for seed in (1, 1, 2))
    assert numbers(first) == numbers(again)
    assert first[-1].metrics != other[-1].metrics


def test_global_generators_are_neither_used_nor_disturbed() -> None:
    expected = numbers(run(Restless()))
    random.seed(11), np.random.seed(11), torch.manual_seed(11)
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert numbers(run(Restless())) == expected
    after = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert before == after


def test_two_runs_that_take_turns_do_not_mix() -> None:
    def start(seed: int) -> Iterator[Measurement]:
        return train(Restless(), {}, constant(), SHORT, seed)

    pairs = list(zip(start(1), start(2), strict=True))
    assert numbers([first for first, _ in pairs]) == numbers(run(Restless(), seed=1))
    assert numbers([second for _, second in pairs]) == numbers(run(Restless(), seed=2))


def test_the_order_in_which_regularizers_are_named_does_not_matter() -> None:
    knobs = {"dropout": 0.2, "input_noise": 0.3, "label_smoothing": 0.1, "mixup": 0.5}
    backwards = dict(reversed(knobs.items()))
    measured, same = run(Blobs(), knobs=knobs), run(Blobs(), knobs=backwards)
    assert [m.metrics for m in measured] == [m.metrics for m in same]


# optimizer and learning rate


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 0.0, [1.0, 1.0, 1.0, 1.0]),
        ("linear", 0.0, [0.875, 0.625, 0.375, 0.125]),
        ("cosine", 0.0, [0.5 * (1 + math.cos(math.pi * x / 8)) for x in (1, 3, 5, 7)]),
        ("constant", 0.5, [0.25, 0.75, 1.0, 1.0]),
        ("linear", 0.5, [0.25, 0.75, 0.75, 0.25]),
    ],
)
def test_learning_rate_schedules(schedule: str, warmup: float, expected: list[float]) -> None:
    training = Training(steps=4, learning_rate=0.1, learning_rate_schedule=schedule, warmup=warmup)
    tuner = Fixed(lambda progress, rows: {})
    run(Blobs(), training, tuner=tuner)
    assert tuner.rates == pytest.approx([0.1 * factor for factor in expected])


def test_a_learning_rate_knob_takes_the_place_of_the_base_rate() -> None:
    training = Training(steps=4, learning_rate=9.0, learning_rate_schedule="linear")
    tuner = Fixed(lambda progress, rows: {"learning_rate": 0.1 + progress}, learning_rate=0.1)
    run(Blobs(), training, tuner=tuner)
    assert tuner.rates == pytest.approx([0.1 * 0.875, 0.35 * 0.625, 0.6 * 0.375, 0.85 * 0.125])


def reference(optimizer: torch.optim.Optimizer, model: nn.Module, batches: list[Batch]) -> None:
    """Plain training of a model on given batches."""
    for batch in batches:
        optimizer.zero_grad()
        functional.cross_entropy(model(batch.inputs), batch.targets).backward()
        optimizer.step()


def initial(task: Blobs) -> nn.Module:
    """A second copy of the model that the task made last."""
    torch.manual_seed(0)
    model = task.model(0)
    for site in (2, 5):
        model[site].p = 0.0  # type: ignore[index]
    return model


def groups(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    return [
        {"params": matrices, "weight_decay": decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


@pytest.mark.parametrize(
    ("name", "knob", "build"),
    [
        ("adamw", "weight_decay", lambda g: torch.optim.AdamW(g, lr=0.01)),
        ("momentum", "l2", lambda g: torch.optim.SGD(g, lr=0.01, momentum=0.8)),
        ("sgd", "l2", lambda g: torch.optim.SGD(g, lr=0.01)),
    ],
)
def test_optimizers_agree_with_torch(name: str, knob: str, build: Callable[..., Any]) -> None:
    task = Blobs()
    training = Training(
        steps=12,
        optimizer=name,
        learning_rate=0.01,
        momentum=0.8,
        learning_rate_schedule="constant",
    )
    run(task, training, knobs={knob: 0.05, "dropout": 0.0})
    twin = initial(task)
    reference(build(groups(twin, 0.05)), twin, task.seen)
    for mine, theirs in zip(task.models[0].parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_the_norm_of_the_gradient_is_clipped() -> None:
    task = Blobs()
    training = Training(
        steps=1, optimizer="sgd", learning_rate=1.0, clip=1e-3, learning_rate_schedule="constant"
    )
    run(task, training, knobs={"dropout": 0.0})
    twin = initial(task)
    before, after = weights(twin), weights(task.models[0])
    moved = torch.cat([(after[name] - before[name]).flatten() for name in before])
    assert float(moved.norm()) == pytest.approx(1e-3, rel=1e-3)


# where regularizers enter


def test_dropout_acts_at_the_sites_with_the_strength_of_the_knob_alone() -> None:
    class Watching(Blobs):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            self.own = [m.p for m in model.modules() if isinstance(m, nn.Dropout)]
            kept: list[float] = []
            handle = model[3].register_forward_pre_hook(  # type: ignore[index]
                lambda module, inputs: kept.append(float((inputs[0] != 0).float().mean()))
            )
            loss = super().loss(model, batch)
            handle.remove()
            self.share = {**getattr(self, "share", {}), model.training: kept[0]}
            return loss

    task = Watching()
    trial = train(task, regularizers("dropout"), constant(dropout=0.7), SHORT, 0)
    next(trial)
    assert task.own == [0.0, 0.0]
    assert task.share[True] < 0.5 * task.share[False]
    trial.close()
    model = task.models[0]
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.3, 0.3]
    assert not any(module._forward_hooks for module in model.modules())


def test_without_the_dropout_knob_a_models_own_dropout_stays() -> None:
    task = Blobs()
    trial = train(task, {}, constant(), SHORT, 0)
    next(trial)
    assert [m.p for m in task.models[0].modules() if isinstance(m, nn.Dropout)] == [0.3, 0.3]
    trial.close()


def test_evaluation_is_free_of_regularizers() -> None:
    strong = {"dropout": 0.7, "input_noise": 1.0, "mixup": 1.0, "label_smoothing": 0.4, "l2": 1.0}
    frozen = Training(steps=2, evaluations=2, optimizer="sgd", learning_rate=1e-30)
    with_all, without = run(Blobs(), frozen, knobs=strong), run(Blobs(), frozen)
    assert with_all[-1].metrics["train_loss"] != without[-1].metrics["train_loss"]
    for name in ("val_loss", "val_error", "holdout_loss", "holdout_error"):
        assert with_all[-1].metrics[name] == without[-1].metrics[name]


def test_one_strength_per_example_equals_the_same_strength_for_all() -> None:
    knobs = {"dropout": 0.3, "input_noise": 0.2, "label_smoothing": 0.1, "mixup": 0.3}
    tuner = Fixed(
        lambda progress, rows: {k: torch.full((rows,), v) for k, v in knobs.items()}, **knobs
    )
    scalar, example = run(Blobs(), knobs=knobs), run(Blobs(), knobs=knobs, tuner=tuner)
    for one, other in zip(scalar, example, strict=True):
        assert one.metrics == pytest.approx(other.metrics, rel=1e-5)


def test_class_numbers_become_soft_only_where_a_regularizer_needs_it() -> None:
    for knobs, soft in (
        ({"input_noise": 0.1}, False),
        ({"mixup": 0.0}, True),
        ({"label_smoothing": 0.3, "input_noise": 0.1}, True),
    ):
        task = Blobs()
        run(task, knobs=knobs)
        assert task.seen[0].targets.is_floating_point() == soft, knobs
    targets = task.seen[0].targets
    assert targets.shape == (10, 3)
    assert targets.max() == pytest.approx(0.7 + 0.1)


def test_real_targets_are_blended_by_mixup() -> None:
    class Regression(Blobs):
        classes = None  # type: ignore[assignment]

        def batches(self, split: str, rng: torch.Generator) -> Iterator[Any]:
            for inputs, targets in super().batches(split, rng):
                yield inputs, targets.float()

        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            return (model(batch.inputs)[:, 0] - batch.targets).square()

    last = run(Regression(), knobs={"mixup": 0.5})[-1]
    assert set(last.metrics) == {"train_loss", "val_loss", "holdout_loss"}
    with pytest.raises(HpoError, match="label_smoothing"):
        run(Regression(), knobs={"label_smoothing": 0.5})


def vector(name: str, *strengths: float) -> Follow:
    domain = Float(0.0, 1e9, size=len(strengths))
    return Follow(Schedule.constant(SearchSpace({name: domain}), {name: strengths}))


def test_a_vector_of_dropout_strengths_has_one_for_each_site() -> None:
    def only_first(progress: float, rows: int) -> dict[str, Any]:
        return {"dropout": torch.stack([torch.full((rows,), 0.5), torch.zeros(rows)], dim=-1)}

    knobs = {"dropout": None}
    plain = run(Blobs(), knobs=knobs, tuner=vector("dropout", 0.5, 0.0))
    tensors = run(Blobs(), knobs=knobs, tuner=Fixed(only_first, dropout=(0.5, 0.0)))
    both = run(Blobs(), knobs=knobs, tuner=vector("dropout", 0.5, 0.5))
    assert plain[-1].metrics == pytest.approx(tensors[-1].metrics, rel=1e-5)
    assert plain[-1].metrics != both[-1].metrics


@pytest.mark.parametrize("knob", ["weight_decay", "l2"])
def test_a_vector_of_decay_strengths_has_one_for_each_layer(knob: str) -> None:
    training = Training(steps=5, optimizer="sgd", learning_rate=0.1)

    def trained(*strengths: float) -> dict[str, Tensor]:
        task = Blobs()
        run(task, training, knobs={knob: None}, tuner=vector(knob, *strengths))
        return weights(task.models[0])

    same, reference_run = trained(0.2, 0.2, 0.2), Blobs()
    run(
        reference_run,
        training,
        knobs={knob: 0.2},
        tuner=Fixed(lambda p, r: {knob: 0.2}, **{knob: 0.2}),
    )
    for name, value in weights(reference_run.models[0]).items():
        torch.testing.assert_close(same[name], value)
    last_only = trained(0.0, 0.0, 5.0)
    assert last_only["6.weight"].norm() < 0.7 * trained(0.0, 0.0, 0.0)["6.weight"].norm()


# stopping


def test_patience_ends_a_run_that_does_not_improve() -> None:
    stuck = Training(steps=40, evaluations=20, patience=3, optimizer="sgd", learning_rate=1e-30)
    assert [m.step for m in run(Blobs(), stuck)] == [2, 4, 6, 8]


def test_patience_waits_while_a_knob_moves() -> None:
    stuck = Training(steps=40, evaluations=20, patience=3, optimizer="sgd", learning_rate=1e-30)
    tuner = Fixed(lambda progress, rows: {})
    tuner.moves_until = 0.5
    measured = run(Blobs(), stuck, tuner=tuner)
    assert measured[-1].step == 26  # the first counted evaluation is at step 20


def test_patience_forgets_what_was_best_before_the_knobs_settled() -> None:
    patience = Patience(2)
    assert not any(patience.exhausted(value, moving=True) for value in (0.1, 0.2, 0.3, 0.4))
    values = [patience.exhausted(value, moving=False) for value in (0.9, 0.8, 0.85, 0.8)]
    assert values == [False, False, False, True]


def test_a_loss_that_is_not_finite_ends_the_run_with_nan() -> None:
    class Explodes(Blobs):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            loss = super().loss(model, batch)
            return loss / 0.0 if model.training and len(self.seen) == 8 else loss

    measured = run(Explodes())
    assert [m.step for m in measured] == [3, 6, 8]
    assert measured[-1].metrics.keys() == measured[0].metrics.keys()
    assert math.isnan(measured[-1].metrics["val_loss"])
    assert math.isnan(measured[-1].metrics["holdout_error"])


def test_closing_ends_a_run_and_undoes_the_tuners_hooks_too() -> None:
    class Hooking(Fixed):
        undone = False

        def begin(self, run: Any) -> None:
            run.keep(run.model.register_forward_hook(lambda *a: None).remove)
            run.keep(lambda: setattr(self, "undone", True))

    tuner, task = Hooking(lambda progress, rows: {}), Blobs()
    trial = train(task, {}, tuner, SHORT, 0)
    next(trial)
    assert len(task.models[0]._forward_hooks) == 1
    trial.close()
    assert tuner.undone and not task.models[0]._forward_hooks
    assert list(trial) == []


def test_hooks_are_gone_after_an_error_too() -> None:
    class Breaks(Blobs):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            if len(self.seen) == 5:
                raise ZeroDivisionError("theirs")
            return super().loss(model, batch)

    task = Breaks()
    with pytest.raises(ZeroDivisionError, match="theirs"):
        run(task, knobs={"dropout": 0.5})
    assert not any(module._forward_hooks for module in task.models[0].modules())


# the seam for tuners that learn within a run


def test_a_tuner_can_learn_from_validation_batches() -> None:
    class Learns(Fixed):
        def after_step(self, run: Any, progress: float) -> None:
            batch = run.next_batch("validation")
            loss = run.task.loss(run.model, batch).mean()
            gradients = torch.autograd.grad(loss, list(run.parameters.values()))
            run.spend(gradients=1, examples=len(batch.targets), hessian_products=2)
            self.gradient = sum(float(g.norm()) for g in gradients)

    tuner = Learns(lambda progress, rows: {})
    last = run(Blobs(), tuner=tuner)[-1]
    assert tuner.gradient > 0
    assert last.cost["gradients"] == 24
    assert last.cost["hessian_products"] == 24


def test_the_gradient_reaches_a_knob_that_is_a_tensor() -> None:
    free = torch.tensor(0.1, requires_grad=True)
    found: list[float] = []

    class Gradient(Fixed):
        def after_step(self, run: Any, progress: float) -> None:
            found.append(float(free.grad))  # type: ignore[arg-type]
            free.grad = None

    knobs = Gradient(lambda progress, rows: {"l2": free.exp()}, l2=1.0)
    run(Blobs(), knobs={"l2": None}, tuner=knobs)
    assert len(found) == 12 and all(value > 0 for value in found)


# the test split


def test_the_test_split_is_locked_while_training_and_open_to_evaluate() -> None:
    task = Blobs()
    with pytest.raises(HpoError, match="locked during run\nhpo verify opens it"):
        next(iter(locked(task).batches("test", torch.Generator())))
    metrics = evaluate(task, task.model(0), "test")
    assert set(metrics) == {"loss", "error"}

    class Peeks(Fixed):
        def begin(self, run: Any) -> None:
            run.task.batches("test", torch.Generator())

    with pytest.raises(HpoError, match="locked"):
        run(task, tuner=Peeks(lambda progress, rows: {}))
    assert is_task(locked(task)) and locked(task).classes == 3  # type: ignore[attr-defined]


def test_evaluation_weighs_examples_not_batches() -> None:
    task = Blobs(rows=11, batch_size=10)
    model = task.model(0).eval()
    inputs, targets = task.data["validation"]
    expected = float(functional.cross_entropy(model(inputs), targets).detach())
    assert evaluate(task, model, "validation")["loss"] == pytest.approx(expected, rel=1e-5)
    wrong = float((model(inputs).argmax(1) != targets).float().mean())
    assert evaluate(task, model, "validation")["error"] == pytest.approx(wrong)


def test_evaluation_leaves_each_module_in_its_mode() -> None:
    task = Blobs()
    model = task.model(0).train()
    model[2].eval()  # type: ignore[index]
    evaluate(task, model, "validation")
    assert [m.training for m in model] == [True, True, False, True, True, True, True]  # type: ignore[union-attr]


def test_a_mean_loss_is_accepted_like_one_for_each_example() -> None:
    class Mean(Blobs):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            return super().loss(model, batch).mean()

    for one, other in zip(run(Mean()), run(Blobs()), strict=True):
        assert one.metrics == pytest.approx(other.metrics, rel=1e-5)


# what users get wrong


def broken(**changes: Any) -> Blobs:
    return type("Broken", (Blobs,), {"name": "mine", **changes})()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batches": lambda s, split, rng: iter([1])}, "batches('train') gave a int, not a pair"),
        ({"batches": lambda s, split, rng: iter([(1, 2, 3)])}, "gave a tuple of 3, not a pair"),
        ({"batches": lambda s, split, rng: iter([([1], [2])])}, "inputs of the kind list"),
        ({"batches": lambda s, split, rng: iter([(torch.ones(3), torch.ones(2))])},
         "gave 3 inputs with 2 targets"),
        ({"batches": lambda s, split, rng: iter([])}, "batches('train') gave no batch"),
        ({"batches": lambda s, split, rng: None}, "a NoneType, which cannot be iterated"),
        ({"model": lambda s, seed: "net"}, "model(seed) gave str"),
        ({"model": lambda s, seed: nn.Flatten()}, "its model has no parameters to train"),
        ({"loss": lambda s, model, batch: 1.0}, "loss gave float, not a tensor"),
        ({"loss": lambda s, model, batch: model(batch.inputs)}, "loss gave shape (10, 3)"),
        ({"loss": lambda s, model, batch: torch.tensor(3)}, "gave whole numbers"),
        ({"loss": lambda s, model, batch: model(batch.inputs).detach().sum(1)}, "has no gradient"),
        ({"classes": "ten"}, "classes is 'ten'"),
        ({"splits": ("train",)}, "has no split 'validation'"),
        ({"metrics": lambda s, model, batch: 3}, "metrics gave int, not a dict"),
        ({"metrics": lambda s, model, batch: {"x": torch.ones(3, 3)}}, "metric x has shape (3, 3)"),
    ],
)  # fmt: skip
def test_mistakes_in_a_task_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(HpoError) as error:
        run(broken(**changes))
    assert message in error.value.message
    assert "objective mine" in error.value.message


@pytest.mark.parametrize("knob", ["label_smoothing", "mixup"])
def test_soft_targets_need_the_number_of_classes(knob: str) -> None:
    with pytest.raises(HpoError, match=f"objective mine: {knob} needs a number of classes"):
        run(broken(classes=None), knobs={knob: 0.1})
    with pytest.raises(HpoError, match="found class 2, but its attribute classes is 2"):
        run(broken(classes=2), knobs={knob: 0.1})


def test_knobs_that_do_not_fit_the_model_are_named() -> None:
    with pytest.raises(HpoError, match="dropout has size 3, but this model has 2 dropout sites"):
        run(Blobs(), knobs={"dropout": None}, tuner=vector("dropout", 0.1, 0.1, 0.1))
    with pytest.raises(HpoError, match="l2 has size 2, but this model has 3 layers"):
        run(Blobs(), knobs={"l2": None}, tuner=vector("l2", 0.1, 0.1))
    with pytest.raises(HpoError, match="input_noise is a vector"):
        run(Blobs(), knobs={"input_noise": None}, tuner=vector("input_noise", 0.1, 0.1))
    with pytest.raises(HpoError, match="nothing gives a value for dropout"):
        run(Blobs(), knobs={"dropout": None}, tuner=constant(l2=0.1))


def test_unknown_and_missing_devices_are_named() -> None:
    with pytest.raises(HpoError, match="unknown device 'gpu'"):
        run(Blobs(), device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(HpoError, match="torch sees no GPU"):
            run(Blobs(), device="cuda")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"optimizer": "adam"}, "did you mean 'adamw'"),
        ({"learning_rate_schedule": "cosin"}, "did you mean 'cosine'"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"warmup": 1.5}, "warmup is 1.5"),
        ({"clip": -1.0}, "clip is -1.0"),
        ({"patience": 0}, "patience is 0"),
        ({"step": 3}, "did you mean 'steps'"),
        ({"steps": "many"}, "must be a whole number"),
        ({"steps": True}, "must be a whole number"),
        ({"clip": "hard"}, "must be a number or null"),
    ],
)
def test_training_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(HpoError) as error:
        Training.parse(options)
    assert message in str(error.value)
    assert error.value.path == ("training", next(iter(options)))


def test_training_options_replace_those_of_the_task() -> None:
    base = Training(steps=7, clip=1.0)
    assert Training.parse({"learning_rate": 1, "clip": None}, base) == Training(
        steps=7, learning_rate=1.0, clip=None
    )
    assert Training.parse(base.to_json()) == base


def test_importing_objectives_does_not_import_torch() -> None:
    code = (
        "import sys, objectives, objectives.training.measurement, objectives.digits, "
        "objectives.fashion_mnist, objectives.table, objectives.ridge; "
        "print([m for m in ('torch', 'numpy', 'pandas', 'sklearn', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
