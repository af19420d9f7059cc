"""Replays under perturbations: their law, their mirror images, and resuming with the same bits."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_tasks import SHORT, Blobs, numbers, regularizers

from objectives.training.loop import train
from objectives.training.perturbed import Perturbed, replay_tuner
from objectives.training.tuner import Follow
from search_spaces.domains import Choice, Domain, Float, Int, Value
from search_spaces.errors import HpoError
from search_spaces.regularizer import scopes_of
from search_spaces.schedule import Schedule, Track
from search_spaces.space import SearchSpace

EXAMPLE: dict[str, Any] = {"x": "example"}
BATCH: dict[str, Any] = {"x": "batch"}


def held(domain: Domain, value: Value, sigma: Any) -> Schedule:
    schedule = Schedule.constant(SearchSpace({"x": domain}), {"x": value})
    return replace(schedule, spreads={"x": Track("constant", (0.0,), (sigma,))})


def free(domain: Float, values: Tensor) -> Tensor:
    """The free coordinates of values on a linear scale."""
    unit = (values.double() - domain.low) / (domain.high - domain.low)
    return (unit / (1 - unit)).log()


# -- one draw a row -----------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [2, 7, 64])
def test_the_second_half_mirrors_the_first_and_an_odd_row_is_its_own(rows: int) -> None:
    domain = Float(-1, 3)
    values = Perturbed(held(domain, 1.5, 0.7), EXAMPLE, 0).knobs(0.3, rows)["x"]
    assert values.shape == (rows,) and values.dtype == torch.float32
    eps = (free(domain, values) - domain.to_free(1.5)) / 0.7
    half = rows // 2
    torch.testing.assert_close(eps[:half], -eps[half : 2 * half], atol=1e-5, rtol=0)
    assert len(set(values.tolist())) == rows and float(eps.abs().min()) > 1e-4


def test_a_batch_of_one_row_has_a_draw() -> None:
    values = Perturbed(held(Float(0, 1), 0.5, 1.0), EXAMPLE, 0).knobs(0.0, 1)["x"]
    assert values.shape == (1,) and float(values) != 0.5


def test_draws_have_the_stated_law() -> None:
    domain = Float(0, 2)
    eps = free(domain, Perturbed(held(domain, 0.4, 0.5), EXAMPLE, 1).knobs(0.0, 40_001)["x"])
    assert float(eps.mean()) == pytest.approx(domain.to_free(0.4), abs=1e-4)
    assert float(eps.std()) == pytest.approx(0.5, rel=0.02)
    within = (eps - domain.to_free(0.4)).abs() < 0.5
    assert float(within.double().mean()) == pytest.approx(math.erf(1 / math.sqrt(2)), abs=0.01)


LAWS: list[tuple[Domain, Value, float]] = [
    (Float(0, 0.7, off=0), 0.1, 1.5),
    (Float(1e-5, 1e-1, "log", off=0), 1e-3, 1.0),
    (Float(0.01, 0.9, "logit"), 0.2, 2.0),
    (Float(0, 1, "log+0"), 0.01, 1.0),
]


@pytest.mark.parametrize(("domain", "value", "sigma"), LAWS, ids=str)
def test_the_mean_of_draws_is_what_expected_says(
    domain: Domain, value: Value, sigma: float
) -> None:
    schedule = held(domain, value, sigma)
    draws = Perturbed(schedule, EXAMPLE, 2).knobs(0.0, 100_000)["x"].double()
    error = float(draws.std()) / math.sqrt(len(draws))
    assert float(draws.mean()) == pytest.approx(schedule.expected().at(0)["x"], abs=5 * error)
    assert all(domain.contains(v) for v in draws[:100].tolist())


def test_whole_numbers_are_rounded_at_random_and_right_on_average() -> None:
    domain = Int(1, 6)
    values = Perturbed(held(domain, 4, 1.0), EXAMPLE, 3).knobs(0.0, 100_000)["x"]
    assert values.dtype == torch.int64 and {*values.tolist()} == {1, 2, 3, 4, 5, 6}
    bins = Float(0.5, 6.5)
    normal = torch.randn(200_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    real = bins.from_free(bins.to_free(4) + normal).clamp(1, 6)
    assert float(values.double().mean()) == pytest.approx(float(real.mean()), abs=0.02)
    near = Perturbed(held(domain, 4, 0.1), EXAMPLE, 3).knobs(0.0, 100_000)["x"]
    moved = (bins.from_free(bins.to_free(4) + 0.1 * normal) - 4).abs().mean()
    assert float((near != 4).double().mean()) == pytest.approx(float(moved), rel=0.05)
    for value in (1, 6):
        ends = Perturbed(held(domain, value, 3.0), EXAMPLE, 3).knobs(0.0, 5000)["x"]
        assert int(ends.min()) >= 1 and int(ends.max()) <= 6


def test_the_rounding_of_whole_numbers_is_mirrored_too() -> None:
    values = Perturbed(held(Int(1, 7), 4, 1.0), EXAMPLE, 3).knobs(0.0, 200)["x"]
    assert (values[:100] + values[100:]).tolist() == [8] * 100
    tuner = Perturbed(held(Int(1, 7), 4, 1.0), BATCH, 3)
    assert [int(tuner.knobs(0.0, 4)["x"] + tuner.knobs(0.0, 4)["x"]) for _ in range(9)] == [8] * 9


def test_vectors_have_a_draw_for_each_strength() -> None:
    schedule = held(Float(0, 1, off=0, size=3), (0.5, 0.5, 0.0), (1.0, 0.0, 1.0))
    values = Perturbed(schedule, EXAMPLE, 0).knobs(0.0, 8)["x"]
    assert values.shape == (8, 3)
    assert len(set(values[:, 0].tolist())) == 8
    assert values[:, 1:].tolist() == [[0.5, 0.0]] * 8, "no spread, and off"
    torch.testing.assert_close(values[:4, 0] + values[4:, 0], torch.ones(4))
    assert Perturbed(schedule, BATCH, 0).knobs(0.0, 8)["x"].shape == (3,)


OFF: list[tuple[Domain, Value]] = [
    (Float(0, 0.7, off=0), 0.0),
    (Float(1e-5, 1e-1, "log", off=0), 0.0),
    (Float(0, 1, "log+0"), 0.0),
    (Int(1, 9, off=0), 0),
]


@pytest.mark.parametrize(("domain", "value"), OFF, ids=str)
def test_what_is_off_stays_off(domain: Domain, value: Value) -> None:
    assert (
        Perturbed(held(domain, value, 2.0), EXAMPLE, 0).knobs(0.0, 4)["x"].tolist() == [value] * 4
    )
    assert Perturbed(held(domain, value, 2.0), BATCH, 0).knobs(0.0, 4)["x"].item() == value


# -- one draw a batch ---------------------------------------------------------------------------


def test_a_knob_of_the_batch_changes_sign_at_every_second_step() -> None:
    domain = Float(-1, 3)
    tuner = Perturbed(held(domain, 1.5, 0.7), {}, 0)  # not of a regularizer: one for the batch
    values = [tuner.knobs(step / 6, 5)["x"] for step in range(6)]
    assert all(value.shape == () for value in values)
    eps = (free(domain, torch.stack(values)) - domain.to_free(1.5)) / 0.7
    torch.testing.assert_close(eps[0::2], -eps[1::2], atol=1e-5, rtol=0)
    assert len({round(abs(e), 4) for e in eps.tolist()}) == 3


def test_a_held_draw_uses_the_spread_of_its_own_step() -> None:
    domain = Float(0, 1)
    schedule = replace(held(domain, 0.5, 1.0), spreads={"x": Track("linear", (0, 1), (1.0, 3.0))})
    tuner = Perturbed(schedule, BATCH, 0)
    first, second = (float(free(domain, tuner.knobs(p, 4)["x"])) for p in (0.0, 1.0))
    assert second == pytest.approx(-3 * first, rel=1e-4)


# -- what else the tuner says -------------------------------------------------------------------


def test_other_knobs_and_the_point_are_the_nominal_ones() -> None:
    space = SearchSpace(
        {"x": Float(0, 1), "mode": Choice(("a", "b")), "rate": Float(1e-4, 1, "log")}
    )
    rows: list[tuple[float, dict[str, Any], dict[str, float]]] = [
        (0.0, {"x": 0.2, "mode": "a", "rate": 1e-3}, {"x": 1.0}),
        (0.5, {"x": 0.6, "mode": "b", "rate": 1e-3}, {"x": 0.5}),
        (1.0, {"x": 0.6, "mode": "b", "rate": 1e-3}, {"x": 0.1}),
    ]
    schedule = Schedule.recorded(space, rows)
    tuner = Perturbed(schedule, EXAMPLE, 0)
    for place in (0.0, 0.3, 0.5, 0.8, 1.0):
        assert tuner.point(place) == schedule.at(place)
        assert tuner.moving(place) == schedule.moving(place) == (place < 0.5)
        knobs = tuner.knobs(place, 4)
        assert {**knobs, "x": None} == {**schedule.at(place), "x": None}
        assert list(knobs) == list(space)
    spread = [float(free(Float(0, 1), tuner.knobs(p, 2000)["x"]).std()) for p in (0.5, 0.75, 1.0)]
    assert spread == pytest.approx([0.5, 0.3, 0.1], rel=0.1), "the values stand still meanwhile"


def test_draws_depend_on_the_seed_alone() -> None:
    x, y = Float(0, 1), Float(0, 1, off=0)
    orders = [SearchSpace({"x": x, "y": y}), SearchSpace({"y": y, "x": x})]
    spread = {"x": 1.0, "y": 1.0}
    one, other = (Schedule.recorded(s, [(0.0, {"x": 0.2, "y": 0.3}, spread)]) for s in orders)
    off = Schedule.recorded(orders[0], [(0.0, {"x": 0.2, "y": 0.0}, spread)])
    scopes: dict[str, Any] = {"x": "example", "y": "example"}
    torch.manual_seed(1)
    before = torch.get_rng_state()

    def two(schedule: Schedule, seed: int) -> list[list[float]]:
        tuner = Perturbed(schedule, scopes, seed)
        return [tuner.knobs(0.0, 5)["x"].tolist() for _ in range(2)]

    assert two(one, 7) == two(other, 7) == two(off, 7)
    assert two(one, 7) != two(one, 8) and two(one, 7)[0] != two(one, 7)[1]
    assert torch.equal(torch.get_rng_state(), before)


def test_scopes_are_those_of_the_regularizers() -> None:
    found = scopes_of(regularizers("dropout", "weight_decay", "input_noise"))
    assert found == {"dropout": "example", "weight_decay": "batch", "input_noise": "example"}
    shared = regularizers("dropout", "weight_decay")
    both = replace(shared["weight_decay"], knobs=shared["dropout"].knobs)
    for pair in ({"a": both, "b": shared["dropout"]}, {"a": shared["dropout"], "b": both}):
        assert scopes_of(pair) == {"dropout": "batch"}


# -- replays ------------------------------------------------------------------------------------


def found() -> tuple[Schedule, dict[str, Any]]:
    """A schedule of built-in knobs as a self-tuned run would record it, and its regularizers."""
    records = regularizers("dropout", "weight_decay", "input_noise", "label_smoothing")
    space = SearchSpace({k: d for record in records.values() for k, d in record.knobs.items()})
    start = {"dropout": 0.3, "weight_decay": 1e-3, "input_noise": 0.1, "label_smoothing": 0.0}
    spread = dict.fromkeys(start, 1.0)
    end = {"dropout": 0.1, "weight_decay": 1e-2, "input_noise": 0.4, "label_smoothing": 0.1}
    return Schedule.recorded(
        space, [(0.0, start, spread), (1.0, end, dict.fromkeys(start, 0.5))]
    ), records


def test_each_mode_has_its_tuner() -> None:
    schedule, records = found()
    scopes = scopes_of(records)
    values = replay_tuner(schedule, "values", scopes, 0)
    expected = replay_tuner(schedule, "expected", scopes, 0)
    assert isinstance(values, Follow) and values.point(0.3) == schedule.at(0.3)
    assert isinstance(expected, Follow) and expected.point(0.3) == schedule.expected().at(0.3)
    assert expected.point(0.3) != schedule.at(0.3)
    assert isinstance(replay_tuner(schedule, "perturbed", scopes, 0), Perturbed)
    with pytest.raises(HpoError, match="unknown replay mode 'pertubed', did you mean 'perturbed'"):
        replay_tuner(schedule, "pertubed", scopes, 0)


def test_without_spreads_the_modes_train_alike() -> None:
    schedule, records = found()
    bare = replace(schedule, spreads={})
    runs = [
        numbers(list(train(Blobs(), records, replay_tuner(bare, mode, {}, 0), SHORT, 3)))
        for mode in ("values", "expected", "perturbed")
    ]
    assert runs[0] == runs[1] == runs[2]


class KilledError(Exception):
    """What stands for a process that dies."""


class Mortal(Blobs):
    """Dies when it trains on this batch; batches have an odd number of rows."""

    def __init__(self, dies_at: int | None = None) -> None:
        super().__init__(batch_size=9)
        self.dies_at = dies_at

    def loss(self, model: torch.nn.Module, batch: Any) -> Tensor:
        if model.training and len(self.seen) == self.dies_at:
            raise KilledError
        return super().loss(model, batch)


def test_a_perturbed_replay_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    schedule, records = found()

    def begin(task: Blobs, path: Path | None, seed: int = 5) -> Any:
        tuner = Perturbed(schedule, scopes_of(records), seed)
        options: dict[str, Any] = {"checkpoint": path, "checkpoint_seconds": 0.0}
        return train(task, records, tuner, SHORT, 3, **options)

    expected = list(begin(Mortal(), None))
    assert len(expected) == 4 and expected[1].point == schedule.at(0.5)
    assert numbers(list(begin(Mortal(), None, 6))) != numbers(expected)
    nominal = train(Mortal(), records, Follow(schedule), SHORT, 3)
    assert numbers(list(nominal)) != numbers(expected)
    for dies_at in (4, 6, 7, 10):
        path = tmp_path / f"{dies_at}.pt"
        with pytest.raises(KilledError):
            list(begin(Mortal(dies_at), path))
        assert path.exists()
        assert numbers(list(begin(Mortal(), path))) == numbers(expected)


def test_state_holds_the_sign_of_the_next_step() -> None:
    schedule = held(Float(0, 1), 0.5, 1.0)
    for steps in (0, 1, 2, 3):
        one, other = Perturbed(schedule, BATCH, 0), Perturbed(schedule, BATCH, 99)
        for _ in range(steps):
            one.knobs(0.0, 4)
        other.knobs(0.0, 4)
        other.load_state_dict(one.state_dict())
        for _ in range(3):
            assert torch.equal(one.knobs(0.0, 4)["x"], other.knobs(0.0, 4)["x"])
