"""Members of an ensemble are measured as runs of their own are, whatever becomes of the others."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from toy_tasks import Blobs, Restless, regularizers

from objectives.training.loop import train
from objectives.training.measurement import Measurement
from objectives.training.options import Training
from objectives.training.together import train_together
from objectives.training.tuner import Follow
from search_spaces import plugins
from search_spaces.domains import Float, Value
from search_spaces.errors import HpoError
from search_spaces.regularizer import Batch, Regularizer
from search_spaces.schedule import Schedule, Track
from search_spaces.space import SearchSpace

# Without those that `hpo.packable` refuses: they do more than change the loss of a step, or take
# derivatives themselves.
NAMES = [
    name
    for name, r in regularizers(*plugins.names("search_spaces.regularizers")).items()
    if not (r.ascent or r.learn or r.evaluated) and name not in ("vat", "functional_entropy")
]
FIRST = [
    *("activation_noise", "dropout", "focal", "input_noise", "l2", "label_smoothing", "mixup"),
    *("weight_decay", "weight_noise"),
]
BRIEF = Training(steps=2, evaluations=2, learning_rate=0.02)
TRAINING = Training(steps=12, evaluations=4, learning_rate=0.02)
# Rounding in single precision, magnified by twelve steps; members differ by far more.
CLOSE = 1e-4

Point = Mapping[str, Value]


class Pictures(Blobs):
    """Small pictures and a network with convolutions and two kinds of dropout sites."""

    name = "pictures"

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.norm = norm
        rng = torch.Generator().manual_seed(7)
        means = torch.randn(3, 1, 6, 6, generator=rng)
        for split, (_, targets) in self.data.items():
            inputs = means[targets] + torch.randn(len(targets), 1, 6, 6, generator=rng)
            self.data[split] = (inputs, targets)

    def model(self, seed: int) -> nn.Module:
        middle = [nn.BatchNorm2d(4)] if self.norm else []
        # With a bias before the norm, whose gradient is rounding alone, Adam would be chaotic.
        first = [
            nn.Conv2d(1, 4, 3, padding=1, bias=not self.norm),
            *middle,
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        last = [nn.Linear(36, 8), nn.ReLU(), nn.Dropout(0.0), nn.Linear(8, 3)]
        return nn.Sequential(*first, nn.Dropout2d(0.0), nn.Flatten(), *last)


class Everything(Restless):
    """Own dropout, draws from global generators, metrics, auxiliary losses, a frozen parameter."""

    space: ClassVar = {"shrink": Float(0.01, 1.0, "log", start=0.1)}

    def model(self, seed: int) -> nn.Module:
        model = super().model(seed)
        next(model.parameters()).requires_grad_(False)
        return model

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, Any]:
        return {"size": model(batch.inputs).square().mean(1), "one": 1.0}

    def auxiliary_losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"shrink": model(batch.inputs).square().sum(1)}


def schedules(points: Sequence[Point | tuple[Point, Point]]) -> list[Schedule]:
    """One for each: a point that stays, or the first and the last of a way between."""
    known = {k: d for r in regularizers(*NAMES).values() for k, d in r.knobs.items()}
    found = []
    for given_point in points:
        ends = given_point if isinstance(given_point, tuple) else (given_point, given_point)
        domains = {name: known.get(name, Float(0.0, 1e9)) for name in ends[0]}
        domains |= {
            name: dataclasses.replace(domains[name], size=len(value))  # type: ignore[call-arg]
            for name, value in ends[0].items()
            if isinstance(value, tuple)
        }
        tracks = {
            name: Track("linear", (0.0, 1.0), (ends[0][name], ends[1][name])) for name in domains
        }
        if ends[0] == ends[1]:
            found.append(Schedule.constant(SearchSpace({}), {}).pin(domains, dict(ends[0])))
        else:
            found.append(Schedule(SearchSpace(domains), tracks))
    return found


def alone(
    task: Any, ways: Sequence[Schedule], training: Training = TRAINING
) -> list[list[Measurement]]:
    used = needed(ways)
    return [[*train(task, used, Follow(way), training, 3)] for way in ways]


def together(
    task: Any,
    ways: Sequence[Schedule],
    training: Training = TRAINING,
    ends: Callable[[int, Measurement], bool] = lambda number, measurement: False,
) -> list[list[Measurement]]:
    """What each member measured; `ends` says which are sent back to be ended."""
    found: list[list[Measurement]] = [[] for _ in ways]
    run = train_together(task, needed(ways), ways, training, 3)
    try:
        reached = next(run)
        while True:
            for one in reached:
                found[one.member].append(one.measurement)
            reached = run.send({r.member for r in reached if ends(r.member, r.measurement)})
    except StopIteration:
        return found


def needed(ways: Sequence[Schedule]) -> dict[str, Regularizer]:
    point = ways[0].at(0.0)
    return {n: r for n, r in regularizers(*NAMES).items() if set(r.knobs) & set(point)}


def assert_same(ones: Sequence[Measurement], others: Sequence[Measurement]) -> None:
    assert [m.step for m in ones] == [m.step for m in others]
    for one, other in zip(ones, others, strict=True):
        assert list(one.metrics) == list(other.metrics)
        expected = pytest.approx(one.metrics, rel=CLOSE, abs=CLOSE, nan_ok=True)
        assert other.metrics == expected
        assert (one.progress, one.point) == (other.progress, other.point)
        assert {**one.cost, "seconds": 0} == {**other.cost, "seconds": 0}


def assert_told_apart(runs: Sequence[Sequence[Measurement]]) -> None:
    """The knobs matter: else equality would say nothing."""
    values = [run[-1].metrics["train_loss"] for run in runs]
    assert max(values) - min(values) > 10 * CLOSE


def check(
    task: Callable[[], Any], points: Sequence[Any], training: Training = TRAINING
) -> list[list[Measurement]]:
    ways = schedules(points)
    expected, found = alone(task(), ways, training), together(task(), ways, training)
    for one, other in zip(expected, found, strict=True):
        assert_same(one, other)
    assert_told_apart(expected)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_each_regularizer_acts_on_a_member_as_on_a_run_of_its_own(name: str) -> None:
    (record,) = regularizers(name).values()
    weak, strong = ({n: d.from_unit(u) for n, d in record.knobs.items()} for u in (0.3, 0.7))
    ways = schedules([weak, strong, (strong, weak)])
    try:
        expected = alone(Pictures(), ways, BRIEF)
    except HpoError as error:
        assert error.hint  # it is not for pictures
        return
    for one, other in zip(expected, together(Pictures(), ways, BRIEF), strict=True):
        assert_same(one, other)


def test_many_regularizers_and_the_learning_rate_at_once_on_their_ways() -> None:
    points = []
    for unit in (0.1, 0.4, 0.7):
        records = regularizers(*FIRST).values()
        point = {k: d.from_unit(unit / 2) for r in records for k, d in r.knobs.items()}
        points.append({**point, "learning_rate": 0.01 + 0.02 * unit})
    check(Pictures, [points[0], (points[1], points[2]), (points[2], points[0])])


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd", "learning_rate": 0.1},
        {"optimizer": "momentum", "clip": 0.5, "learning_rate_schedule": "linear"},
        {"clip": 0.1, "warmup": 0.3},
        {"learning_rate_schedule": "constant"},
    ],
    ids=str,
)
def test_optimizers_clipping_and_rate_schedules_are_those_of_a_run(options: Any) -> None:
    training = dataclasses.replace(TRAINING, **options)
    check(Blobs, [{"weight_decay": 0.1}, {"weight_decay": 5.0}, {"weight_decay": 1.0}], training)
    check(Blobs, [{"learning_rate": r, "weight_decay": 5.0} for r in (0.0, 0.01, 0.1)], training)


def test_batch_norm_keeps_the_averages_of_each_member() -> None:
    check(lambda: Pictures(norm=True), [{"input_noise": 0.1}, {"input_noise": 2.0}])


def test_own_dropout_global_draws_metrics_and_auxiliary_losses_are_those_of_a_run() -> None:
    found = check(Everything, [{"shrink": 0.01, "l2": 0.1}, {"shrink": 1.0, "l2": 0.01}])
    assert "val_size" in found[0][0].metrics


def test_vector_knobs_act_place_by_place() -> None:
    check(Blobs, [{"l2": (0.0, 0.1, 1.0)}, {"l2": (1.0, 0.1, 0.0)}])
    check(Blobs, [{"dropout": (0.0, 0.6)}, {"dropout": (0.6, 0.0)}])


def test_one_that_diverges_ends_at_that_step_and_leaves_the_others_alone() -> None:
    for training in (TRAINING, dataclasses.replace(TRAINING, clip=0.5, optimizer="sgd")):
        points = [{"learning_rate": rate} for rate in (0.01, 1e30, 0.02)]
        found = check_diverging(points, training)
        assert math.isnan(found[1][-1].metrics["val_loss"])
        assert len(found[0]) == len(found[2]) == 4


def test_one_that_diverges_at_an_evaluation_has_no_metrics_there_either() -> None:
    ways = schedules([{"learning_rate": rate} for rate in (0.01, 1e30)])
    training = dataclasses.replace(TRAINING, evaluations=6)
    expected, found = alone(Blobs(), ways, training), together(Blobs(), ways, training)
    assert math.isnan(expected[1][-1].metrics["val_error"])
    for one, other in zip(expected, found, strict=True):
        assert_same(one, other)


def check_diverging(points: Sequence[Any], training: Training) -> list[list[Measurement]]:
    ways = schedules(points)
    expected, found = alone(Blobs(), ways, training), together(Blobs(), ways, training)
    assert expected[1][-1].step not in training.evaluation_steps()
    for one, other in zip(expected, found, strict=True):
        assert_same(one, other)
    return found


def test_all_that_diverge_end_the_run() -> None:
    ways = schedules([{"learning_rate": 1e30}, {"learning_rate": 1e31}])
    found = together(Blobs(), ways)
    assert [len(run) for run in found] == [1, 1]
    assert all(math.isnan(run[0].metrics["val_error"]) for run in found)


def test_members_that_are_sent_back_end_and_the_others_go_on() -> None:
    ways = schedules([{"weight_decay": decay} for decay in (0.1, 1.0, 5.0, 10.0)])
    expected = alone(Blobs(), ways)
    cut = {0: 3, 2: 6}
    found = together(Blobs(), ways, ends=lambda number, m: m.step == cut.get(number))
    assert [len(run) for run in found] == [1, 4, 2, 4]
    for one, other in zip(expected, found, strict=True):
        assert_same(one[: len(other)], other)


def test_patience_counts_for_each_member() -> None:
    training = dataclasses.replace(TRAINING, steps=40, evaluations=20, patience=2)
    ways = schedules([{"learning_rate": rate} for rate in (0.0, 0.002, 0.3)])
    expected, found = alone(Blobs(), ways, training), together(Blobs(), ways, training)
    assert len({len(run) for run in expected}) > 1
    for one, other in zip(expected, found, strict=True):
        assert_same(one, other)


@settings(max_examples=8, deadline=None)
@given(st.permutations(range(5)))
def test_the_order_of_the_members_does_not_matter(order: list[int]) -> None:
    points = [{"weight_decay": 2.0 * i, "dropout": 0.1 * i} for i in range(5)]
    straight = together(Blobs(), schedules(points))
    mixed = together(Blobs(), schedules([points[i] for i in order]))
    for place, number in enumerate(order):
        assert_same(straight[number], mixed[place])


def test_seconds_are_shared_out_and_grow() -> None:
    ways = schedules([{"l2": 0.1}, {"l2": 0.2}])
    for run in together(Blobs(), ways):
        seconds = [m.cost["seconds"] for m in run]
        assert seconds[0] > 0 and seconds == sorted(seconds)


def test_the_model_is_left_as_a_run_leaves_it_and_so_is_the_world() -> None:
    task, before = Blobs(), torch.get_rng_state()
    ways = schedules([{"dropout": 0.1}, {"dropout": 0.2}])
    run = train_together(task, needed(ways), ways, TRAINING, 3)
    next(run)
    assert torch.equal(torch.get_rng_state(), before)
    run.close()
    (model,) = task.models
    assert all(isinstance(p, nn.Parameter) for p in model.parameters())
    sites = [site for site in model.modules() if isinstance(site, nn.Dropout)]
    assert [site.p for site in sites] == [0.3, 0.3] and not any(s._forward_hooks for s in sites)


def test_a_loss_without_a_gradient_is_an_error() -> None:
    class Cut(Blobs):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            return functional.cross_entropy(model(batch.inputs).detach(), batch.targets)

    with pytest.raises(HpoError, match="the loss has no gradient"):
        together(Cut(), schedules([{"dropout": 0.1}, {"dropout": 0.2}]))
