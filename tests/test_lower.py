"""Solvers of the inner problem: on a few rows of data a step, and on networks."""

import pytest
import torch
from torch.nn import functional
from toy_bilevel import Logistic, Network, Ridge, drawn, relative

import hpo
from hpo.bilevel.implicit import maid
from hpo.bilevel.implicit.evaluation import Rules
from hpo.bilevel.implicit.lower import adam, lbfgs, solvers
from hpo.bilevel.implicit.problem import Bilevel


class MiniBatches(Network):
    """Notes which rows it was asked for."""

    row_counts = {"inner": 150}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.x = drawn(150, 6)
        self.y = self.x[:, :3].argmax(1)
        self.asked = []

    def inner_loss(self, params, h, rows=None):
        x, y = (self.x, self.y) if rows is None else (self.x[rows], self.y[rows])
        if rows is not None:
            self.asked.append(rows.tolist())
        squares = torch.stack([(one**2).sum() for one in params.values()])
        return functional.cross_entropy(self.outputs(params, x), y) + (h["l2"] * squares).sum() / 2


def solved(problem, start=None, tolerance=1e-6):
    point = {name: domain.start_value() for name, domain in problem.space.items()}
    flat = Bilevel(problem, point)
    t = flat.coordinates.of(point)
    return flat, solvers.minimize(
        flat, t, flat.start if start is None else start, tolerance, name="adam"
    )


def test_adam_sees_each_row_once_a_pass_and_ends_at_an_optimum():
    problem = MiniBatches()
    flat, found = solved(problem)
    assert found.reached
    assert float(found.slope.norm()) <= 1e-6
    a_pass = -(-150 // adam.BATCH)
    assert len(problem.asked) == adam.PASSES * a_pass
    asked = iter(problem.asked)
    orders = [[row for _ in range(a_pass) for row in next(asked)] for _ in range(adam.PASSES)]
    assert all(sorted(order) == list(range(150)) for order in orders)
    assert orders[0] != orders[1]
    assert flat.work.gradients == found.iterations > adam.PASSES


def test_adam_is_the_same_each_time_and_brings_the_loss_down_before_the_polish(monkeypatch):
    first, second = (solved(MiniBatches())[1].x for _ in range(2))
    assert torch.equal(first, second)
    begun, polish = [], lbfgs.minimize

    def noting(problem, t, x, *rest, **options):
        begun.append(float(problem.inner(x, t)))
        return polish(problem, t, x, *rest, **options)

    monkeypatch.setattr(lbfgs, "minimize", noting)
    flat, _ = solved(MiniBatches())
    start = float(flat.inner(flat.start, flat.coordinates.of({"l2": (0.02,) * 4})))
    assert begun[0] < 0.8 * start


def test_parameters_that_were_trained_before_are_only_polished():
    problem = MiniBatches()
    _, found = solved(problem)
    problem.asked.clear()
    _, again = solved(problem, start=found.x)
    assert not problem.asked
    assert again.iterations == 1
    assert torch.equal(again.x, found.x)


@pytest.mark.parametrize("problem", [Ridge(), Logistic()])
def test_without_rows_adam_looks_at_all_and_the_hypergradient_is_the_same(problem):
    _, truth, _ = hpo.hypergradient(problem, tolerance=1e-10)
    _, grad, _ = hpo.hypergradient(problem, tolerance=1e-10, lower="adam")
    assert relative(grad["l2"], truth["l2"]) < 1e-8


def test_adam_is_refused_where_there_is_a_prox():
    class Sparse(Ridge):
        def prox(self, params, h, step):
            return params

    with pytest.raises(hpo.HpoError, match="lower is adam, and the inner problem has a prox"):
        hpo.hypergradient(Sparse(), lower="adam")


def test_maid_descends_with_adam():
    flat = Bilevel(MiniBatches(), {"l2": (0.02,) * 4})
    descent = maid.Descent(iterations=3, rules=Rules(lower="adam"))
    first = maid.begin(flat, flat.coordinates.of({"l2": (0.02,) * 4}), descent)
    *_, last = maid.chain(flat, first, descent)
    assert last.iteration >= 1
    assert last.here.value < first.here.value


def test_newton_passes_regions_where_a_network_curves_downwards():
    problem = Network()
    point = {name: domain.start_value() for name, domain in problem.space.items()}
    flat = Bilevel(problem, point)
    t = flat.coordinates.of(point)
    found, other = (
        solvers.minimize(flat, t, flat.start, 1e-8, name=name) for name in ("newton", "lbfgs")
    )
    assert found.reached
    assert float(flat.inner(found.x, t)) < float(flat.inner(other.x, t)) + 1e-2
