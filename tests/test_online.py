"""Hypergradients in training, on bilevel problems: right in the end, drawn fairly, to the bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from toy_bilevel import DOUBLE, Quadratics, Ridge, relative

import hpo
from hpo.bilevel.implicit.measuring import descended
from hpo.bilevel.implicit.problem import Bilevel
from hpo.bilevel.online import chain
from hpo.bilevel.online.chain import Training
from hpo.bilevel.online.knobsteps import Knobs, rate_of, stepped
from hpo.bilevel.online.methods._method import Method
from hpo.bilevel.online.methods.amigo import Amigo
from hpo.bilevel.online.methods.f2sa import F2sa
from hpo.bilevel.online.methods.hypergrad import Hypergrad
from hpo.bilevel.online.methods.saba import Saba
from hpo.bilevel.online.methods.soba import Soba
from hpo.bilevel.online.rows import RowsView, steepness
from hpo.errors import exit_code
from objectives.training.measurement import Measurement
from search_spaces.domains import Float
from search_spaces.errors import HpoError
from search_spaces.space import SearchSpace

pytestmark = pytest.mark.slow

METHODS = {
    "cg": Hypergrad("cg"),
    "neumann": Hypergrad("neumann"),
    "nystrom": Hypergrad("nystrom", products=12),
    "identity": Hypergrad("identity"),
    "amigo": Amigo(),
    "soba": Soba(),
    "saba": Saba(16),
    "f2sa": F2sa(),
}


class Rows(Ridge):
    """The ridge problem by its rows, with a knob in the outer loss as well."""

    space: ClassVar = {
        "l2": Float(1e-3, 1e2, "log", start=1.0, size=12),
        "shrink": Float(0.1, 3.0, start=1.5),
    }
    row_counts: ClassVar = {"inner": 60, "outer": 40}

    def inner_loss(self, params: Any, h: Any, rows: Any = None) -> Any:
        rows = slice(None) if rows is None else rows
        fit = ((self.x[rows] @ params - self.y[rows]) ** 2).mean() / 2
        return fit + (h["l2"] * params**2).sum() / 2

    def outer_loss(self, params: Any, h: Any, rows: Any = None) -> Any:
        rows = slice(None) if rows is None else rows
        return ((h["shrink"] * self.z[rows] @ params - self.w[rows]) ** 2).mean() / 2

    def optimum(self, h: Any) -> Any:
        matrix = self.x.t() @ self.x / 60 + torch.diag(h["l2"])
        return torch.linalg.solve(matrix, self.x.t() @ self.y / 60)


def at_optimum(batch: int = 1000) -> tuple[RowsView, torch.Tensor, torch.Tensor]:
    """A view of the ridge problem at its optimum, the knobs, and the true hypergradient."""
    problem = Rows()
    point = SearchSpace(problem.space).start
    flat = Bilevel(problem, point)
    t = flat.coordinates.of(point).requires_grad_()
    h = flat.coordinates.values(t)
    x = problem.optimum(h)
    (truth,) = torch.autograd.grad(problem.outer_loss(x, h), t)
    view = RowsView(flat, x.detach(), batch, seed=0)
    view.sum = 1e14
    view.rate = 1 / (1.2 * steepness(view, t.detach(), torch.ones(12, dtype=DOUBLE), 30)[0])
    return view, t.detach(), truth


def settled(method: Method, view: RowsView, t: torch.Tensor, times: int) -> torch.Tensor:
    """The hypergradient after so many training steps of a method at fixed knobs."""
    state: Any = {}
    for step in range(times):
        view.at(step)
        if not method.simultaneous:
            state = method.learn(view, t, state)
        found = method.gradient(view, t, state)
        state = found.state
        if method.simultaneous and found.slope is not None:
            view.x = view.x - view.rate * found.slope
    return found.gradient


# -- each method at its optimum -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "times", "allowed"),
    [
        (Hypergrad("cg", products=13), 1, 1e-3),
        (Hypergrad("cg", products=2), 12, 1e-3),  # warm starts add up
        (Hypergrad("neumann", products=10), 30, 2e-3),
        (Hypergrad("nystrom", products=12), 1, 1e-6),
        (Amigo(), 300, 1e-6),
        (Soba(), 300, 1e-6),
        (Saba(1000), 900, 1e-6),
    ],
    ids=lambda v: type(v).__name__ + getattr(v, "inverse", "") if hasattr(v, "every") else "",
)
def test_hypergradients_at_the_optimum_are_those_of_the_closed_form(
    method: Method, times: int, allowed: float
) -> None:
    view, t, truth = at_optimum()
    if isinstance(method, Hypergrad) and method.inverse == "nystrom":
        view.sum = 1e8  # its shift: too small a one is rounding
    assert relative(settled(method, view, t, times), truth) < allowed


def test_without_an_inverse_only_signs_are_right() -> None:
    view, t, truth = at_optimum()
    found = settled(Hypergrad("identity"), view, t, 1)
    assert float(found @ truth) > 0.5 * float(found.norm() * truth.norm())
    assert found[-1] == pytest.approx(float(truth[-1]))  # the direct knob needs no inverse
    assert relative(found, truth) > 1e-2


@pytest.mark.slow
def test_the_error_of_f2sa_falls_as_one_over_the_penalty() -> None:
    errors = []
    for penalty in (10.0, 100.0, 1000.0):
        view, t, truth = at_optimum()
        errors.append(relative(settled(F2sa(penalty, leak=0.0), view, t, 400), truth))
    assert errors[2] < 3e-3
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.3)
    assert errors[1] / errors[2] == pytest.approx(10, rel=0.3)


def test_damping_is_that_of_training_cut_short() -> None:
    """After a total of learning rates s, as if 1/s were added to the Hessian."""
    view, t, _ = at_optimum()
    view.sum = 2.0
    h = view.problem.coordinates.values(t)
    hessian = view.problem.problem.x.t() @ view.problem.problem.x / 60 + torch.diag(h["l2"])
    outer, direct = view.outer(view.x, t)
    q = torch.linalg.solve(hessian + torch.eye(12, dtype=DOUBLE) / 2, outer)
    expected = direct - view.curved(t).cross(q)
    for method, times in ((Hypergrad("cg", products=13), 1), (Amigo(), 200), (Saba(1000), 600)):
        view.x = view.x.clone()
        assert relative(settled(method, view, t, times), expected) < 1e-3


# -- rows -----------------------------------------------------------------------------------------


def test_rows_are_a_function_of_seed_and_step() -> None:
    def rows(seed: int, step: int) -> list[Any]:
        view, _, _ = at_optimum(batch=8)
        view = RowsView(view.problem, view.x, 8, seed)
        view.at(step + 1)
        view.at(step)
        return [view._rows[which].tolist() for which in ("inner", "outer")]  # type: ignore[union-attr]

    assert rows(0, 3) == rows(0, 3)
    assert len({str(rows(seed, step)) for seed in (0, 1) for step in (3, 4)}) == 4
    inner, outer = rows(0, 3)
    assert len({*inner}) == len({*outer}) == 8 and inner != outer


def test_a_larger_batch_is_all_rows_and_a_smaller_one_is_right_on_average() -> None:
    view, t, _ = at_optimum(batch=50)
    x = view.x + 0.3
    outer = view.outer(x, t)
    view.at(0)
    assert all(map(torch.equal, view.outer(x, t), outer))  # 40 rows fit
    view = RowsView(view.problem, view.x, 10, 0)
    whole = [*view.inner(x, t), *view.outer(x, t)]
    total = [torch.zeros_like(one) for one in whole]
    for rows in (torch.arange(k, 60, 6) for k in range(6)):
        few = rows[rows < 40]
        view.look({"inner": rows, "outer": few})
        parts = [one / 6 for one in view.inner(x, t)]
        parts += [len(few) / 40 * one for one in view.outer(x, t)]
        total = [a + b for a, b in zip(total, parts, strict=True)]
    assert all(map(torch.allclose, total, whole))
    many = torch.stack([_inner_at(view, step, x, t) for step in range(400)])
    spread = many.std(0) / 20
    assert bool(((many.mean(0) - whole[0]).abs() < 4 * spread).all()) and bool((spread > 0).all())


def _inner_at(view: RowsView, step: int, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    view.at(step)
    return view.inner(x, t)[0]


def by_block(method: Saba, view: RowsView, t: torch.Tensor, state: Any) -> dict[Any, Any]:
    """What a step finds, by the blocks of inner and outer rows that it draws."""
    found = {}
    for seed in range(200):
        draws = torch.Generator().manual_seed(seed).get_state()
        rng = torch.Generator().manual_seed(seed)
        inner, outer = -(-60 // method.batch), -(-40 // method.batch)
        drawn = tuple(int(torch.randint(n, (), generator=rng)) for n in (inner, outer))
        if drawn not in found:
            found[drawn] = method.gradient(view, t, {**state, "draws": draws})
    assert len(found) == inner * outer
    return found


def test_directions_of_saba_are_unbiased_whatever_it_remembers() -> None:
    view, t, _ = at_optimum()
    method = Saba(16)  # the last blocks are smaller than the others
    state: Any = {"steepest": torch.tensor(0.0)}
    state = method.gradient(view, t, {}).state
    for _ in range(3):
        state = method.gradient(view, t, state).state
    view.x = view.x + 0.5  # now the table is out of date
    found = by_block(method, view, t, state).values()
    view.look({"inner": None, "outer": None})
    curved, q = view.curved(t), state["q"]
    slope = torch.stack([one.slope for one in found]).mean(0) * 3
    assert torch.allclose(slope, curved.slope)
    gradient = torch.stack([one.gradient for one in found]).mean(0)
    assert torch.allclose(gradient, view.outer(view.x, t)[1] - curved.cross(q))


@pytest.mark.slow
def test_saba_has_no_noise_at_convergence_where_soba_has() -> None:
    view, t, truth = at_optimum(batch=16)
    method, state = Saba(16), {}
    for _ in range(1500):
        found = method.gradient(view, t, state)
        view.x, state = view.x - view.rate * found.slope, found.state  # type: ignore[operator, assignment]
    each = [one.gradient for one in by_block(method, view, t, state).values()]
    assert max(relative(one, truth) for one in each) < 1e-4
    view, t, truth = at_optimum(batch=16)
    state = {}
    noisy = []
    for step in range(200):
        view.at(step)
        found = Soba().gradient(view, t, state)
        state = found.state
        noisy.append(relative(found.gradient, truth))
    assert min(noisy[100:]) > 1e-2


# -- steps of the knobs ---------------------------------------------------------------------------


def test_knobs_go_downhill_within_their_box_and_stay_where_there_is_no_gradient() -> None:
    spans = torch.tensor([4.0, 4.0, 4.0], dtype=DOUBLE)
    knobs = Knobs.at(torch.tensor([2.0, 2.0, 2.0], dtype=DOUBLE))
    for _ in range(100):
        knobs = stepped(knobs, torch.tensor([1e-9, -1e6, 0.0], dtype=DOUBLE), 0.1, spans)
    assert knobs.t.tolist() == [0.0, 4.0, 2.0]
    refused = stepped(knobs, torch.tensor([torch.nan, 0.0, 0.0], dtype=DOUBLE), 0.1, spans)
    assert refused == replace(knobs, refused=1)
    assert rate_of(2.0, 0) == rate_of(2.0, 1) == 2.0 and rate_of(2.0, 40) == 0.05


# -- training a problem ---------------------------------------------------------------------------

SHORT = {"iterations": 24, "batch": 16, "looks": 4}


def measurements(
    problem: Any, training: Training, path: Path | None = None, stop: int | None = None
) -> list[Measurement]:
    point = SearchSpace(problem.space).start
    found: list[Measurement] = []
    way = chain.way(training)
    for measurement in descended(problem, problem.space, point, 0, way, None, path):
        found.append(replace(measurement, cost={**measurement.cost, "seconds": 0.0}))
        if len(found) == stop:
            break
    return found


def same(one: list[Measurement], other: list[Measurement]) -> bool:
    return [str(m.to_json()) for m in one] == [str(m.to_json()) for m in other]  # nan is nan


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_chain_killed_at_any_measurement_goes_on_to_the_bit(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("objectives.training.checkpoint._SHARE", 0)  # a save each time
    training = Training(METHODS[name], **SHORT)
    whole = measurements(Rows(), training)
    assert len(whole) == 5 and whole[-1].progress == 1.0
    assert whole[-1].point != whole[0].point
    for stop in range(1, len(whole) + 1):
        path = tmp_path / f"{stop}.pt"
        assert same(measurements(Rows(), training, path, stop), whole[:stop])
        assert same(measurements(Rows(), training, path), whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_comes_near_the_best_knobs(name: str) -> None:
    rounds = 2500 if METHODS[name].simultaneous else 200
    found = measurements(Rows(), Training(METHODS[name], iterations=rounds, batch=1000, looks=2))
    best = hpo_best()
    start = found_at_start()
    share = (start - found[-1].metrics["val_loss"]) / (start - best)
    assert share > (0.5 if name == "identity" else 0.85)


def found_at_start() -> float:
    problem = Rows()
    h = {"l2": torch.full((12,), 1.0, dtype=DOUBLE), "shrink": 1.5}
    return float(problem.outer_loss(problem.optimum(h), h))


def hpo_best() -> float:
    problem = Rows()
    flat = Bilevel(problem, SearchSpace(problem.space).start)
    t = flat.coordinates.of(SearchSpace(problem.space).start)
    t = t.requires_grad_()
    for _ in range(400):
        h = flat.coordinates.values(t)
        loss = problem.outer_loss(problem.optimum(h), h)
        (slope,) = torch.autograd.grad(loss, t)
        t = flat.coordinates.inside(t.detach() - 0.5 * slope / slope.norm()).requires_grad_()
    return float(loss.detach())


# -- what goes wrong ------------------------------------------------------------------------------


class Single(Rows):
    """Parameters in single precision, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.y, self.z, self.w = (v.float() for v in (self.x, self.y, self.z, self.w))

    def init_params(self, seed: int) -> Any:
        return {"first": torch.zeros(2, 4), "last": torch.zeros(4)}

    def inner_loss(self, params: Any, h: Any, rows: Any = None) -> Any:
        return super().inner_loss(_joined(params), h, rows)

    def outer_loss(self, params: Any, h: Any, rows: Any = None) -> Any:
        return super().outer_loss(_joined(params), h, rows)


def _joined(params: Any) -> torch.Tensor:
    return torch.cat([params["first"].flatten(), params["last"]])


@pytest.mark.parametrize("name", METHODS)
def test_parameters_may_be_a_dict_in_single_precision(name: str) -> None:
    found = measurements(Single(), Training(METHODS[name], **SHORT))
    assert all(m.metrics["val_loss"] > 0 for m in found)
    assert found[-1].point != found[0].point


@pytest.mark.parametrize("name", METHODS)
def test_problems_that_tell_of_no_rows_and_problems_in_a_batch(name: str) -> None:
    for problem in (Ridge(), Quadratics()):
        found = measurements(problem, Training(METHODS[name], **SHORT))
        assert all(m.metrics["val_loss"] > 0 for m in found)


@pytest.mark.parametrize("name", METHODS)
def test_one_row_at_a_time_and_every_step_beyond_the_run(name: str) -> None:
    for given in ({"batch": 1}, {"every": 1}, {"iterations": 1}):
        found = measurements(Rows(), Training(METHODS[name], **{**SHORT, **given}))
        assert found[-1].progress == 1.0
        assert found[-1].metrics["val_loss"] > 0


class Gap(Rows):
    """Of which one derivative is not a number where a step first comes by."""

    looks = 0

    def outer_loss(self, params: Any, h: Any, rows: Any = None) -> Any:
        loss = super().outer_loss(params, h, rows)
        if loss.requires_grad:
            self.looks += 1
            if self.looks in (20, 21):
                return loss * torch.nan
        return loss


@pytest.mark.parametrize("name", METHODS)
def test_a_gradient_that_is_no_number_is_passed_by_and_forgotten(name: str) -> None:
    training = Training(METHODS[name], iterations=60, batch=1000, looks=10)
    found = measurements(Gap(), training)
    norms = [m.metrics["hypergradient/norm"] for m in found]
    assert all(norm == norm for norm in norms[-4:])
    assert found[-4].point != found[-2].point


def test_a_problem_with_a_prox_or_without_a_slope_is_refused() -> None:
    class Sparse(Rows):
        def prox(self, params: Any, h: Any, step: Any) -> Any:
            return params

    with pytest.raises(HpoError, match="has a prox") as caught:
        measurements(Sparse(), Training(Soba(), **SHORT))
    assert "maid or hoag" in (caught.value.hint or "")

    class Flat(Rows):
        def inner_loss(self, params: Any, h: Any, rows: Any = None) -> Any:
            return (params * 0).sum()

    with pytest.raises(HpoError, match="not finite, or flat"):
        measurements(Flat(), Training(Soba(), **SHORT))


def test_a_run_that_begins_at_the_optimum_is_no_error() -> None:
    class Ready(Ridge):
        def __init__(self) -> None:
            super().__init__()
            self.y = self.y * 0

    assert measurements(Ready(), Training(Hypergrad(), **SHORT))[-1].progress == 1.0


# -- studies --------------------------------------------------------------------------------------

MINE = """
import torch
from search_spaces import Choice, Float

class Problem:
    space = {"l2": Float(1e-4, 1e2, "log", start=10.0), "scale": Float(0.2, 3.0, start=2.5),
             "power": Choice((1, 2))}

    def __init__(self):
        rng = torch.Generator().manual_seed(0)
        self.x = torch.randn(80, 20, generator=rng)
        self.y = self.x[:, 0] + 0.5 * torch.randn(80, generator=rng)

    def init_params(self, seed):
        return {"weights": torch.zeros(20)}

    def inner_loss(self, params, h):
        w = params["weights"]
        penalty = (w**2).sum() if h["power"] == 2 else (1e-2 + w**2).sqrt().sum()
        return ((self.x[:40] @ w - self.y[:40]) ** 2).mean() + h["l2"] * penalty

    def outer_loss(self, params, h):
        return ((h["scale"] * (self.x[40:] @ params["weights"]) - self.y[40:]) ** 2).mean()

class Sparse(Problem):
    def prox(self, params, h, step):
        return params
"""
SAMPLERS = ("maid", "hoag", "hypergrad", "amigo", "soba", "saba", "f2sa")


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(MINE)
    return f"{tmp_path / 'mine.py'}"


def study(folder: Path, **given: Any) -> hpo.Result:
    return hpo.run(mlruns=folder, mlflow=False, quiet=True, workers=0, seed=0, **given)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_tunes_ones_own_problem(sampler: str, mine: str, tmp_path: Path) -> None:
    few = {"iterations": 2000} if sampler in ("soba", "saba") else {}
    few = {"iterations": 100} if sampler in ("hypergrad", "amigo", "f2sa") else few
    result = study(
        tmp_path, objective=f"{mine}:Problem", sampler=sampler, sampler_options=few, trials=2
    )
    held, first = result.records[0], result.records[1]
    assert held.value is not None and first.value is not None and result.best is not None
    assert first.value < 0.8 * held.value
    assert first.coordinates["power"] == held.coordinates["power"]
    final = result.schedule_of(first).at(1.0)
    assert final["l2"] < 10.0 and final["scale"] != 2.5


@pytest.mark.parametrize("sampler", SAMPLERS[2:])
def test_a_study_of_a_problem_with_a_prox_is_refused(
    sampler: str, mine: str, tmp_path: Path
) -> None:
    with pytest.raises(HpoError, match="has a prox") as caught:
        study(tmp_path, objective=f"{mine}:Sparse", sampler=sampler, trials=2)
    assert "maid or hoag" in (caught.value.hint or "") and exit_code(caught.value) == 2
