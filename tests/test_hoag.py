"""HOAG: gradient descent with accuracies on a schedule; what makes things worse is taken back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from toy_bilevel import DOUBLE, Quadratics, Ridge

from hpo.bilevel.implicit import hoag
from hpo.bilevel.implicit.hoag import Chain, Descent
from hpo.bilevel.implicit.measuring import descended
from hpo.bilevel.implicit.problem import Bilevel
from objectives.training.measurement import Measurement
from search_spaces.domains import Float
from search_spaces.errors import HpoError
from search_spaces.space import SearchSpace

SCHEDULES = ("quadratic", "cubic", "exponential", "exact")


class Bowl:
    """F(a, b) = (log a - 1)^2 / 2 + 5 (b - 0.3)^2 + lift, with an inner problem of condition
    1000."""

    space: ClassVar = {"a": Float(1e-3, 1e3, "log", start=0.01), "b": Float(0.0, 1.0, start=0.9)}
    lift = 0.0

    def init_params(self, seed: int) -> torch.Tensor:
        return torch.ones(2, dtype=DOUBLE)

    def inner_loss(self, x: torch.Tensor, h: Any) -> torch.Tensor:
        return (1000 * (x[0] - h["a"].log()) ** 2 + (x[1] - h["b"]) ** 2) / 2

    def outer_loss(self, x: torch.Tensor, h: Any) -> torch.Tensor:
        return (x[0] - 1) ** 2 / 2 + 5 * (x[1] - 0.3) ** 2 + self.lift


def chain_of(problem: Any, descent: Descent) -> tuple[Bilevel, list[Chain]]:
    point = SearchSpace(problem.space).start
    flat = Bilevel(problem, point)
    states = [hoag.begin(flat, flat.coordinates.of(point), descent)]
    while not states[-1].ended:
        states.append(hoag.advance(flat, states[-1], descent))
    return flat, states


@pytest.mark.slow
@pytest.mark.parametrize("lift", [0.0, -1.0])  # a loss below zero is as good as any
@pytest.mark.parametrize("tolerances", SCHEDULES)
def test_every_schedule_comes_to_the_minimum(tolerances: Any, lift: float) -> None:
    problem = Bowl()
    problem.lift = lift
    flat, states = chain_of(problem, Descent(400, tolerances))
    point = flat.coordinates.point(states[-1].here.t)
    assert point["a"] == pytest.approx(2.718281828, rel=3e-2)
    assert point["b"] == pytest.approx(0.3, abs=1e-2)


def test_accuracies_follow_their_schedules() -> None:
    given = {name: Descent(tolerances=name, first=0.5) for name in SCHEDULES}  # type: ignore[arg-type]
    assert [given["quadratic"].accuracy(k) for k in (1, 2, 4)] == [0.5, 0.125, 0.03125]
    assert given["cubic"].accuracy(10) == pytest.approx(5e-4)
    assert given["exponential"].accuracy(2) == pytest.approx(0.5 * 0.81)
    assert {given["exact"].accuracy(k) for k in (1, 9)} == {1e-12}
    assert min(given[name].accuracy(10**6) for name in SCHEDULES) == 1e-12


@pytest.mark.parametrize("tolerances", SCHEDULES)
def test_inner_problems_are_solved_as_exactly_as_the_schedule_says(tolerances: Any) -> None:
    descent = Descent(iterations=6, tolerances=tolerances)
    _, states = chain_of(Ridge(), descent)
    for state in states[:-1]:
        assert state.here.slope <= descent.accuracy(state.iteration + 1) * state.size * 1.001


def test_a_step_that_makes_it_worse_is_taken_back() -> None:
    descent = Descent(iterations=40)
    problem = Ridge()
    point = SearchSpace(problem.space).start
    flat = Bilevel(problem, point)
    first = hoag.begin(flat, flat.coordinates.of(point), descent)
    uphill = replace(first, here=replace(first.here, gradient=-20 * first.here.gradient))
    after = hoag.advance(flat, uphill, descent)
    assert torch.equal(after.here.t, first.here.t)
    assert after.curvature == 2 * first.curvature and after.sharper == 2
    # the gradient is looked at anew, more exactly: it would go uphill for ever otherwise
    assert float(after.here.gradient @ first.here.gradient) > 0
    later = hoag.advance(flat, after, descent)
    assert later.here.raw < first.here.raw


def test_it_stays_in_its_box() -> None:
    class Edge(Bowl):
        space: ClassVar = {**Bowl.space, "b": Float(0.5, 1.0, start=0.9)}

    flat, states = chain_of(Edge(), Descent(400))
    spans = flat.coordinates.spans
    for state in states:
        assert bool(((state.here.t >= 0) & (state.here.t <= spans)).all())
    assert flat.coordinates.point(states[-1].here.t)["b"] == 0.5
    assert states[-1].ended == "the knobs move no more"


def test_losses_that_are_not_finite_are_taken_back_and_at_the_start_named() -> None:
    class Cliff(Bowl):
        def outer_loss(self, x: torch.Tensor, h: Any) -> torch.Tensor:
            return torch.where(h["a"] > 1.0, torch.nan, super().outer_loss(x, h))

    flat, states = chain_of(Cliff(), Descent())
    assert 0.3 < flat.coordinates.point(states[-1].here.t)["a"] <= 1.0  # type: ignore[operator]

    class Kink(Bowl):
        """Where the value is a number and its derivative is not."""

        def outer_loss(self, x: torch.Tensor, h: Any) -> torch.Tensor:
            beyond = 0 * (1 - h["a"]).clamp(min=0).sqrt()
            return super().outer_loss(x, h) + beyond

    flat, states = chain_of(Kink(), Descent())
    assert all(state.here.finite for state in states)

    class Nowhere(Bowl):
        lift = float("nan")

    with pytest.raises(HpoError, match="not finite at the knobs' start"):
        chain_of(Nowhere(), Descent())


def test_a_gradient_of_zero_is_the_end() -> None:
    class Still(Bowl):
        def outer_loss(self, x: torch.Tensor, h: Any) -> torch.Tensor:
            return 0 * x.sum() + 3.0

    _, states = chain_of(Still(), Descent())
    assert [state.ended for state in states] == ["", "the knobs move no more"]


def test_parameters_that_begin_at_the_optimum_are_no_error() -> None:
    class Ready(Ridge):
        def __init__(self) -> None:
            super().__init__()
            self.y = self.y * 0

    _, states = chain_of(Ready(), Descent(iterations=3))
    assert states[-1].ended


@pytest.mark.parametrize("tolerances", SCHEDULES)
def test_single_precision_has_an_end_too(tolerances: Any) -> None:
    class Single(Bowl):
        def init_params(self, seed: int) -> torch.Tensor:
            return torch.ones(2)

    flat, states = chain_of(Single(), Descent(30, tolerances))
    assert states[-1].here.value < 0.2 * states[0].here.value
    assert flat.work.units < 2000


def test_problems_in_a_batch() -> None:
    _, states = chain_of(Quadratics(), Descent(iterations=10))
    assert states[-1].here.value < states[0].here.value


def measurements(path: Path | None = None, stop: int | None = None) -> list[Measurement]:
    problem = Ridge()
    point = SearchSpace(problem.space).start
    found = []
    way = hoag.way(Descent(iterations=6))
    for measurement in descended(problem, problem.space, point, 0, way, 5, path):
        found.append(replace(measurement, cost={**measurement.cost, "seconds": 0.0}))
        if len(found) == stop:
            break
    return found


def test_a_chain_killed_at_any_measurement_goes_on_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("objectives.training.checkpoint._SHARE", 0)  # a save each time
    whole = measurements()
    assert len(whole) == 8
    for stop in range(1, len(whole) + 1):
        path = tmp_path / f"{stop}.pt"
        assert measurements(path, stop) == whole[:stop]
        assert measurements(path) == whole
