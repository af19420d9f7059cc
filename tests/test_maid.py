"""MAID: chains that go downhill, say how far off they may be, and go on after any kill."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import hpo
from hpo.bilevel.implicit import maid
from hpo.bilevel.implicit.evaluation import Rules
from hpo.bilevel.implicit.lower import solvers
from hpo.bilevel.implicit.maid import Descent
from hpo.bilevel.implicit.measuring import descended
from hpo.bilevel.implicit.problem import Bilevel
from objectives.logistic import Logistic
from objectives.training.measurement import Measurement
from search_spaces.domains import Choice, Float, Int
from search_spaces.errors import HpoError
from search_spaces.space import SearchSpace

DOUBLE = torch.float64
MINE = """
import torch
from search_spaces import Choice, Float

class Problem:
    space = {"l2": Float(1e-4, 1e2, "log", start=10.0), "scale": Float(0.2, 3.0, start=2.5),
             "power": Choice((1, 2))}

    def __init__(self):
        rng = torch.Generator().manual_seed(0)
        self.x = torch.randn(80, 20, generator=rng, dtype=torch.float64)
        self.y = self.x[:, 0] + 0.5 * torch.randn(80, generator=rng, dtype=torch.float64)

    def init_params(self, seed):
        return torch.zeros(20, dtype=torch.float64)

    def inner_loss(self, w, h):
        penalty = (w**2).sum() if h["power"] == 2 else (1e-2 + w**2).sqrt().sum()
        return ((self.x[:40] @ w - self.y[:40]) ** 2).mean() + h["l2"] * penalty

    def outer_loss(self, w, h):
        return ((h["scale"] * (self.x[40:] @ w) - self.y[40:]) ** 2).mean()
"""


def small() -> Logistic:
    return Logistic(train_rows=60)


def chain_of(problem: Any, descent: Descent) -> tuple[Bilevel, list[maid.Chain]]:
    point = SearchSpace(problem.space).start
    flat = Bilevel(problem, point)
    first = maid.begin(flat, flat.coordinates.of(point), descent)
    return flat, [first, *maid.chain(flat, first, descent)]


def true_value(flat: Bilevel, t: torch.Tensor) -> float:
    return flat.outer_value(solvers.minimize(flat, t, flat.start, 1e-10, name="newton").x, t)


class Bowl:
    """F(a, b) = (log a - 1)^2 / 2 + 5 (b - 0.3)^2, through an inner problem of condition 1000."""

    space: ClassVar = {"a": Float(1e-3, 1e3, "log", start=0.01), "b": Float(0.0, 1.0, start=0.9)}

    def init_params(self, seed: int) -> torch.Tensor:
        return torch.zeros(2, dtype=DOUBLE)

    def inner_loss(self, x: torch.Tensor, h: Any) -> torch.Tensor:
        return (1000 * (x[0] - h["a"].log()) ** 2 + (x[1] - h["b"]) ** 2) / 2

    def outer_loss(self, x: torch.Tensor, h: Any) -> torch.Tensor:
        return (x[0] - 1) ** 2 / 2 + 5 * (x[1] - 0.3) ** 2

    def mu(self, h: Any) -> float:
        return 1.0

    def outer_smoothness(self, h: Any) -> float:
        return 10.0


def test_it_comes_to_the_minimum_and_stops_there() -> None:
    flat, states = chain_of(Bowl(), Descent())
    point = flat.coordinates.point(states[-1].here.t)
    assert point["a"] == pytest.approx(2.718281828, rel=1e-2)
    assert point["b"] == pytest.approx(0.3, abs=1e-2)
    assert states[-1].ended and states[-1].iteration < 30


def test_a_minimum_on_the_edge_of_the_box_is_found() -> None:
    class Edge(Bowl):
        space: ClassVar = {**Bowl.space, "b": Float(0.5, 1.0, start=0.9)}

    flat, states = chain_of(Edge(), Descent())
    assert flat.coordinates.point(states[-1].here.t)["b"] == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("accuracy", [1e1, 1e-5])
@pytest.mark.parametrize("first", [0.1, 1.0])
def test_no_setting_keeps_it_from_going_down(accuracy: float, first: float) -> None:
    flat, states = chain_of(small(), Descent(iterations=10, accuracy=accuracy, first=first))
    assert true_value(flat, states[-1].here.t) < 0.6 * true_value(flat, states[0].here.t)


@pytest.mark.slow
def test_true_values_fall_and_lie_within_what_is_reported() -> None:
    flat, states = chain_of(small(), Descent(iterations=8))
    states = states[:-1]  # the last says only that it is over
    truth = [true_value(flat, state.here.t) for state in states]
    assert all(later < earlier for earlier, later in pairwise(truth))
    for state, value in zip(states, truth, strict=True):
        assert abs(state.here.value - value) <= state.here.error


def test_certified_errors_are_bounds() -> None:
    flat, states = chain_of(small(), Descent(iterations=4, rules=Rules(certified=True)))
    for state in states:
        assert state.here.certified
        assert abs(state.here.value - true_value(flat, state.here.t)) <= state.here.error


def test_the_last_point_is_solved_a_hundred_times_more_exactly() -> None:
    descent = Descent(iterations=3)
    flat, states = chain_of(small(), descent)
    last = maid.certified(flat, states[-1], descent)
    assert last.slope <= states[-1].here.slope / 100
    assert last.error < states[-1].here.error / 10


# -- measurements ---------------------------------------------------------------------------------


def measurements(path: Path | None = None, stop: int | None = None) -> list[Measurement]:
    problem = small()
    point = SearchSpace(problem.space).start
    descent = Descent(iterations=5)
    found = []
    for measurement in descended(problem, problem.space, point, 0, maid.way(descent), 5, path):
        found.append(replace(measurement, cost={**measurement.cost, "seconds": 0.0}))
        if len(found) == stop:
            break
    return found


def test_a_chain_killed_at_any_measurement_goes_on_to_the_bit(tmp_path: Path) -> None:
    whole = measurements()
    assert len(whole) > 4
    for stop in range(1, len(whole) + 1):
        path = tmp_path / f"{stop}.pt"
        assert measurements(path, stop) == whole[:stop]
        assert measurements(path) == whole


def test_a_checkpoint_of_another_problem_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "chain.pt"
    measurements(path, 2)
    problem = Bowl()
    point = SearchSpace(problem.space).start
    way = maid.way(Descent())
    with pytest.raises(HpoError, match="belongs to another trial"):
        next(descended(problem, problem.space, point, 0, way, 5, path))


@pytest.mark.slow
def test_losses_that_are_not_finite_are_a_backtrack_then_a_named_failure() -> None:
    class Cliff(Bowl):
        def outer_loss(self, x: torch.Tensor, h: Any) -> torch.Tensor:
            loss = super().outer_loss(x, h)
            return loss * torch.nan if h["a"].detach() > 1.0 else loss

    flat, states = chain_of(Cliff(), Descent())
    assert flat.coordinates.point(states[-1].here.t)["a"] <= 1.0
    assert all(torch.isfinite(torch.tensor(state.here.value)) for state in states)

    class Nowhere(Bowl):
        def outer_loss(self, x: torch.Tensor, h: Any) -> torch.Tensor:
            return super().outer_loss(x, h) * torch.nan

    with pytest.raises(HpoError, match="not finite at the knobs' start"):
        chain_of(Nowhere(), Descent())


# -- studies --------------------------------------------------------------------------------------


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(MINE)
    return f"{tmp_path / 'mine.py'}:Problem"


def study(folder: Path, **given: Any) -> hpo.Result:
    return hpo.run(mlruns=folder, mlflow=False, quiet=True, workers=0, seed=0, **given)


def test_a_study_of_ones_own_problem_with_a_choice_beside_both_kinds_of_knob(
    mine: str, tmp_path: Path
) -> None:
    result = study(tmp_path, objective=mine, sampler="maid", trials=5)
    held, first = result.records[0], result.records[1]
    assert held.value is not None and first.value is not None and result.best is not None
    assert first.value < 0.7 * held.value
    assert first.coordinates["power"] == held.coordinates["power"]
    assert {record.coordinates["power"] for record in result.records} == {1, 2}
    assert result.best.value <= first.value
    final = result.schedule.at(1.0)
    assert final["l2"] < 10.0 and final["scale"] != 2.5


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_other_samplers_search_bilevel_problems_too(
    mine: str, tmp_path: Path, sampler: str
) -> None:
    result = study(tmp_path, objective=mine, sampler=sampler, trials=6)
    assert all(record.state == "complete" for record in result.records)
    assert len({record.value for record in result.records}) > 1


@pytest.mark.slow
def test_hundreds_of_strengths_are_told_apart(tmp_path: Path) -> None:
    result = study(
        tmp_path,
        objective="logistic",
        objective_options={"train_rows": 60},
        sampler="maid",
        sampler_options={"iterations": 6},
        trials=2,
    )
    held, tuned = result.records
    assert held.holdout is not None and tuned.holdout is not None
    assert tuned.holdout < 0.8 * held.holdout
    strengths = result.schedule.at(1.0)["l2"]
    assert isinstance(strengths, tuple) and len(strengths) == 640
    assert max(strengths) > 10 * min(strengths)
    journal = next((tmp_path / "studies").rglob("journal.log"))
    params = [json.loads(line) for line in journal.read_text().splitlines()]
    assert sum("param_name" in line for line in params) == 2  # one number a trial stands for all


def test_final_strengths_are_held_one_by_one(tmp_path: Path) -> None:
    options = {"iterations": 3, "hold": True}
    given = {"objective": "logistic", "objective_options": {"train_rows": 60}, "sampler": "maid"}
    result = study(tmp_path, sampler_options=options, trials=3, **given)
    start, tuned, held = result.records
    assert start.value is not None and tuned.value is not None and held.value is not None
    best = result.schedule_of(tuned)
    assert result.schedule_of(held).at(0.0) == best.at(1.0) != result.schedule_of(start).at(0.0)
    final = tuned.metrics["final/val_loss"]
    assert held.value == pytest.approx(final, rel=1e-2) and held.value < 0.7 * start.value


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"objective": "digits", "sampler": "maid"}, "needs an inner and an outer loss"),
        ({"objective": "logistic", "sampler": "stn"}, "is a bilevel problem"),
        ({"objective": "logistic", "sampler": "maid", "seeds": 2}, "cannot be averaged"),
        (
            {"objective": "logistic", "sampler": "maid", "sampler_options": {"propose": "maid"}},
            "tunes within runs itself",
        ),
        (
            {"objective": "logistic", "sampler": "maid", "sampler_options": {"propose": "pbt"}},
            "propose is pbt, which tunes within runs itself",
        ),
        ({"objective": "logistic", "sampler": "maid", "steps": 5}, "its inner loss is solved"),
    ],
)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(HpoError, match=message):
        study(tmp_path, trials=1, **given)


def test_half_a_bilevel_problem_is_named(tmp_path: Path) -> None:
    (tmp_path / "half.py").write_text(
        "class Half:\n    def init_params(self, seed): ...\n    def inner_loss(self, p, h): ...\n"
    )
    with pytest.raises(HpoError, match="no bilevel problem: it has no outer_loss"):
        study(tmp_path, objective=f"{tmp_path / 'half.py'}:Half", trials=1)


def test_whole_numbers_and_choices_are_held_within_a_chain() -> None:
    class Mixed(Bowl):
        space: ClassVar = {**Bowl.space, "power": Int(1, 3, start=2), "kind": Choice(("u", "v"))}

        def inner_loss(self, x: torch.Tensor, h: Any) -> torch.Tensor:
            assert h["power"] == 2 and h["kind"] == "u"
            return super().inner_loss(x, h)

    flat, states = chain_of(Mixed(), Descent(iterations=2))
    assert flat.coordinates.point(states[-1].here.t)["power"] == 2


@pytest.mark.slow
def test_pictures_are_kept_beside_the_trial_and_in_mlflow(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    from mlflow.tracking import MlflowClient
    from PIL import Image

    result = hpo.run(
        objective="tv_denoise",
        objective_options={"size": 24, "pictures": 2},
        sampler="maid",
        sampler_options={"iterations": 12},
        trials=2,
        workers=0,
        quiet=True,
        mlruns=tmp_path,
    )
    held, tuned = result.records
    assert held.value is not None and tuned.value is not None and tuned.value < held.value
    assert tuned.metrics["best/psnr"] > held.metrics["best/psnr"] + 1
    for record in result.records:
        folder = tmp_path / "studies" / "tv_denoise-maid" / "trials" / f"{record.number:05d}"
        with Image.open(folder / "pictures" / "clean_noisy_denoised.png") as picture:
            assert picture.size == (3 * 24, 2 * 24)
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(children) == 2
    for run in children:
        assert [f.path for f in client.list_artifacts(run.info.run_id)] == [
            "clean_noisy_denoised.png"
        ]
