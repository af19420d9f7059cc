"""Hypergradients against closed forms, and against outer losses solved anew at knobs nearby."""

import math
from itertools import pairwise
from typing import ClassVar

import pytest
import torch
from torch.nn import functional

import hpo
from hpo.bilevel.implicit.coordinates import Coordinates
from hpo.bilevel.implicit.curvature import Curvature
from hpo.bilevel.implicit.inverse import cg, identity, neumann, nystrom
from hpo.bilevel.implicit.inverse.precondition import diagonal, jacobi, pairs, secants
from hpo.bilevel.implicit.lower import solvers
from hpo.bilevel.implicit.problem import Bilevel
from search_spaces.domains import Choice, Float

DOUBLE = torch.float64


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


class Ridge:
    """Weights in closed form: (X'X / n + diag l2)^-1 X'y / n."""

    space: ClassVar = {"l2": Float(1e-4, 1e2, "log", start=0.1, size=12)}

    def __init__(self):
        self.x, self.z = drawn(60, 12), drawn(40, 12, seed=1)
        truth = drawn(12, seed=2)
        self.y = self.x @ truth + drawn(60, seed=3)
        self.w = self.z @ truth + drawn(40, seed=4)

    def init_params(self, seed):
        return torch.zeros(12, dtype=DOUBLE)

    def inner_loss(self, params, h):
        fit = ((self.x @ params - self.y) ** 2).mean() / 2
        return fit + (h["l2"] * params**2).sum() / 2

    def outer_loss(self, params, h):
        return ((self.z @ params - self.w) ** 2).mean() / 2

    def mu(self, h):
        return h["l2"].min()

    def outer_smoothness(self, h):
        return torch.linalg.eigvalsh(self.z.t() @ self.z / 40)[-1]

    def closed(self, l2):
        """F, differentiable in l2."""
        matrix = self.x.t() @ self.x / 60 + torch.diag(l2)
        return self.outer_loss(torch.linalg.solve(matrix, self.x.t() @ self.y / 60), {})


class Logistic(Ridge):
    """No closed form; a direct knob beside an indirect one, and a choice."""

    space: ClassVar = {
        "l2": Float(1e-4, 1e2, "log", start=0.05),
        "shrink": Float(0.1, 3.0, start=1.5),
        "shape": Choice(("square", "huber")),
    }

    def inner_loss(self, params, h):
        fit = functional.softplus(-self.x @ params * self.y.sign()).mean()
        power = params**2 if h["shape"] == "square" else (1 + params**2).sqrt()
        return fit + h["l2"] * power.sum()

    def outer_loss(self, params, h):
        return functional.softplus(-h["shrink"] * (self.z @ params) * self.w.sign()).mean()

    mu = outer_smoothness = None


class Quadratics:
    """Three quadratic problems of condition 1000 that share their knobs."""

    batch_axis = 0
    space: ClassVar = {"pull": Float(1e-2, 1e2, "log", start=1.0, size=2)}

    def __init__(self):
        self.curves = torch.logspace(-3, 0, 8, dtype=DOUBLE)
        self.aims, self.goals = drawn(3, 8), drawn(3, 8, seed=5)

    def init_params(self, seed):
        return {"a": torch.zeros(3, 4, dtype=DOUBLE), "b": torch.zeros(3, 2, 2, dtype=DOUBLE)}

    def inner_loss(self, params, h):
        x = torch.cat([params["a"], params["b"].flatten(1)], 1)
        pull = h["pull"].repeat_interleave(4)
        return (self.curves * (x - pull * self.aims) ** 2).sum(1) / 2

    def outer_loss(self, params, h):
        x = torch.cat([params["a"], params["b"].flatten(1)], 1)
        return ((x - self.goals) ** 2).sum() / 2


def resolved(problem, point, **options):
    return hpo.hypergradient(problem, point, 1e-12, **options)[0]


def differences(problem, point, name, change=1e-5):
    """The gradient in one knob from outer losses at inner problems solved anew."""
    value = point[name]
    entries = value if isinstance(value, tuple) else (value,)
    found = []
    for place, entry in enumerate(entries):
        sides = []
        for sign in (1, -1):
            moved = tuple(
                v * (1 + sign * change) if k == place else v for k, v in enumerate(entries)
            )
            moved_value = moved if isinstance(value, tuple) else moved[0]
            sides.append(resolved(problem, {**point, name: moved_value}))
        found.append((sides[0] - sides[1]) / (2 * change * entry))
    return torch.tensor(found, dtype=DOUBLE)


def test_ridge_agrees_with_the_closed_form():
    problem = Ridge()
    l2 = (10 ** drawn(12, seed=7)).clamp(1e-3, 10)
    leaf = l2.clone().requires_grad_()
    value = problem.closed(leaf)
    (truth,) = torch.autograd.grad(value, leaf)
    found, grad, certificate = hpo.hypergradient(problem, {"l2": tuple(l2.tolist())}, 1e-11)
    assert found == pytest.approx(value.item(), rel=1e-9)
    assert float((grad["l2"] - truth).norm() / truth.norm()) < 1e-7
    assert certificate.certified
    assert abs(found - value.item()) <= certificate.value_error + 1e-15


@pytest.mark.parametrize("inverse", ["cg", "neumann"])
def test_the_error_falls_with_the_tolerance(inverse):
    problem = Ridge()
    leaf = torch.full((12,), 0.1, dtype=DOUBLE, requires_grad=True)
    (truth,) = torch.autograd.grad(problem.closed(leaf), leaf)
    errors = []
    for tolerance in (1e-1, 1e-3, 1e-5, 1e-7):
        _, grad, _ = hpo.hypergradient(problem, None, tolerance, inverse=inverse)
        errors.append(float((grad["l2"] - truth).norm() / truth.norm()))
    assert all(later < earlier / 10 for earlier, later in pairwise(errors))
    assert errors[-1] < 1e-6


@pytest.mark.parametrize("shape", ["square", "huber"])
def test_direct_and_indirect_knobs_agree_with_re_solved_differences(shape):
    problem, point = Logistic(), {"l2": 0.05, "shrink": 1.2, "shape": shape}
    _, grad, certificate = hpo.hypergradient(problem, point, 1e-11)
    assert set(grad) == {"l2", "shrink"}
    assert not certificate.certified
    for name in grad:
        truth = differences(problem, point, name)
        assert float(grad[name]) == pytest.approx(float(truth[0]), rel=1e-7)


@pytest.mark.parametrize("lower", ["lbfgs", "newton", "accelerated"])
def test_separate_problems_agree_with_re_solved_differences(lower):
    problem, point = Quadratics(), {"pull": (0.7, 1.9)}
    _, grad, _ = hpo.hypergradient(problem, point, 1e-11, lower=lower)
    truth = differences(problem, point, "pull")
    assert float((grad["pull"] - truth).norm() / truth.norm()) < 1e-7


class ElasticNet(Ridge):
    """L1 through the prox, L2 within the loss; one strength a feature and one for all."""

    space: ClassVar = {
        "l1": Float(1e-4, 1e2, "log", start=0.05),
        "l2": Float(1e-4, 1e2, "log", start=0.1, size=12),
    }
    mu = outer_smoothness = None

    def prox(self, params, h, step):
        return params.sign() * (params.abs() - step * h["l1"]).clamp(min=0)


def test_elastic_net_agrees_on_the_support_with_re_solved_differences():
    problem, point = ElasticNet(), {"l1": 0.4, "l2": (0.1,) * 12}
    value, grad, certificate = hpo.hypergradient(problem, point, 1e-12)
    weights = certificate.params
    assert 2 <= int((weights == 0).sum()) <= 10
    for name in ("l1", "l2"):
        truth = differences(problem, point, name)
        found = grad[name].reshape(-1)
        assert float((found - truth).norm() / truth.norm()) < 1e-7
    assert not grad["l2"][weights == 0].any()
    assert value == pytest.approx(resolved(problem, point), rel=1e-10)


def test_a_solver_that_does_not_fit_the_prox_is_refused():
    with pytest.raises(hpo.HpoError, match="lower is lbfgs, and the inner problem has a prox"):
        hpo.hypergradient(ElasticNet(), lower="lbfgs")
    with pytest.raises(hpo.HpoError, match="has no prox"):
        hpo.hypergradient(Ridge(), lower="proximal")


def curvature_of(problem):
    point = {name: domain.start_value() for name, domain in problem.space.items()}
    flat = Bilevel(problem, point)
    t = flat.coordinates.of(point)
    x = solvers.minimize(flat, t, flat.start, 1e-12).x
    curvature = Curvature(flat, x, t)
    return flat, curvature, curvature.products(torch.eye(len(x), dtype=DOUBLE))


def test_products_are_those_of_a_symmetric_matrix_and_are_counted():
    flat, curvature, dense = curvature_of(Ridge())
    v = drawn(12, seed=9)
    before = flat.work.copy()
    assert torch.allclose(curvature.product(v), dense @ v)
    in_x, in_t = curvature.both(v)
    assert torch.allclose(in_x, dense @ v)
    assert torch.allclose(in_t, curvature.cross(v))
    assert torch.allclose(dense, dense.t())
    done = flat.work.since(before)
    assert (done.gradients, done.products, done.crosses) == (0, 2, 2)


def test_every_inverse_solver_solves_or_says_how_far_it_is():
    _, curvature, dense = curvature_of(Ridge())
    b = drawn(12, seed=11)
    truth = torch.linalg.solve(dense, b)
    for solve, options in (
        (cg.solve, {}),
        (cg.solve, {"precondition": jacobi(dense.diagonal())}),
        (cg.solve, {"precondition": nystrom.sketch(curvature, b, 6, 0.1).precondition}),
        (cg.solve, {"start": truth + 0.1 * b}),
        (neumann.solve, {}),
        (neumann.solve, {"start": truth + 0.1 * b}),
        (nystrom.solve, {"rank": 12, "shift": 1e-3}),
    ):
        solved = solve(curvature, b, 1e-10, **options)
        assert float((solved.q - truth).norm()) < 1e-7, (solve, options)
        assert float((b - dense @ solved.q - solved.residual).norm()) < 1e-9
    rough = identity.solve(curvature, b, 1e-10, curvature=2.0)
    assert torch.equal(rough.q, b / 2)
    assert rough.residual is None


def test_a_warm_start_that_is_right_costs_one_product():
    _, curvature, dense = curvature_of(Ridge())
    b = drawn(12, seed=11)
    solved = cg.solve(curvature, b, 1e-8, start=torch.linalg.solve(dense, b))
    assert solved.iterations == 1


def test_ritz_values_are_the_ends_of_the_spectrum():
    _, curvature, dense = curvature_of(Ridge())
    solved = cg.solve(curvature, drawn(12, seed=11), 1e-12)
    values = torch.linalg.eigvalsh(dense)
    assert solved.least == pytest.approx(float(values[0]), rel=1e-6)
    assert solved.most == pytest.approx(float(values[-1]), rel=1e-6)


class Dense:
    """A matrix as an operator."""

    def __init__(self, matrix):
        self.matrix = matrix

    def product(self, v):
        return self.matrix @ v

    def products(self, vs):
        return vs @ self.matrix


def test_negative_curvature_is_damped_and_reported():
    values = torch.tensor([-0.5, 1.0, 2.0, 4.0], dtype=DOUBLE)
    basis, _ = torch.linalg.qr(drawn(4, 4))
    matrix = Dense(basis @ torch.diag(values) @ basis.t())
    b = drawn(4, seed=1)
    solved = cg.solve(matrix, b, 1e-10)
    assert solved.damping > 0.5
    shifted = matrix.matrix + solved.damping * torch.eye(4, dtype=DOUBLE)
    assert torch.allclose(shifted @ solved.q, b)


def test_pairs_of_a_quadratic_give_its_inverse():
    root = drawn(6, 6)
    matrix = root @ root.t() + torch.eye(6, dtype=DOUBLE)
    steps = torch.linalg.eigh(matrix).eigenvectors.t()
    apply = pairs([(s, matrix @ s) for s in steps])
    v = drawn(6, seed=3)
    assert torch.allclose(apply(v), torch.linalg.solve(matrix, v))
    assert pairs([]) is None


def test_all_secants_at_once_give_the_inverse_and_leave_out_those_of_another_matrix():
    root, steps = drawn(6, 6), drawn(6, 6, seed=8)
    matrix = root @ root.t() + torch.eye(6, dtype=DOUBLE)
    known = [(s, matrix @ s) for s in steps]
    other = [(s, s * torch.logspace(-3, 3, 6, dtype=DOUBLE)) for s in drawn(4, 6, seed=9)]
    v = drawn(6, seed=3)
    truth = torch.linalg.solve(matrix, v)
    for usable in (known, [*other, *known]):
        found = secants(usable)(v)
        assert float((found - truth).norm() / truth.norm()) < 0.05
    assert secants([]) is None


def test_conjugate_gradients_go_on_until_it_is_enough():
    _, curvature, _ = curvature_of(Ridge())
    asked = []

    def enough(q, residual):
        asked.append(float(residual.norm()))
        return len(asked) == 3

    solved = cg.solve(curvature, drawn(12, seed=11), 0.5, enough=enough)
    assert asked[1] <= asked[0] / 3 and asked[2] <= asked[1] / 3
    assert solved.left == asked[2]


def test_the_diagonal_of_a_diagonal_matrix_is_found_by_one_draw():
    truth = torch.tensor([0.1, 1.0, 10.0], dtype=DOUBLE)
    assert torch.allclose(diagonal(Dense(torch.diag(truth)).product, truth, 1), truth)


def test_coordinates_are_log_units_in_a_box_and_go_back_to_values():
    domains = {
        "a": Float(1e-3, 1.0, "log", start=0.1),
        "b": Float(0.0, 2.0, start=0.5, size=2),
        "c": Float(0.1, 0.9, "logit", start=0.5),
        "d": Float(0.0, 1.0, "log+0", start=0.0),
        "e": Choice(("x", "y")),
    }
    point = {"a": 0.1, "b": (0.5, 2.0), "c": 0.5, "d": 0.0, "e": "y"}
    found = Coordinates(domains, point)
    assert found.names() == ["a", "b[0]", "b[1]", "c", "d"]
    t = found.of(point)
    assert float(t[0]) == pytest.approx(math.log(100))
    assert float(found.spans[0]) == pytest.approx(math.log(1000))
    back = found.point(t)
    assert back["e"] == "y"
    assert back["a"] == pytest.approx(0.1)
    assert back["b"] == pytest.approx((0.5, 2.0))
    assert back["c"] == pytest.approx(0.5)
    assert back["d"] == pytest.approx(1e-6)  # the smallest that is not zero
    assert torch.equal(found.inside(t + 1e9), found.spans)


def test_faults_of_a_problem_are_named():
    class Vector(Ridge):
        def outer_loss(self, params, h):
            return params

    with pytest.raises(hpo.HpoError, match="outer_loss gave shape"):
        hpo.hypergradient(Vector())
    with pytest.raises(hpo.HpoError, match="unknown inverse 'cgg', did you mean 'cg'"):
        hpo.hypergradient(Ridge(), inverse="cgg")

    class Falling(Ridge):
        def inner_loss(self, params, h):
            return (h["l2"] * params).sum()

    with pytest.raises(hpo.HpoError, match="was not solved"):
        hpo.hypergradient(Falling())
