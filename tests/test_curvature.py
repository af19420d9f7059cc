"""Second derivatives of the inner loss, and systems solved with them, against dense matrices."""

import pytest
import torch
from torch.autograd.functional import hessian, jacobian
from toy_bilevel import DOUBLE, ElasticNet, Network, Quadratics, Ridge, drawn, relative

import hpo
from hpo.bilevel.implicit.curvature import Curvature
from hpo.bilevel.implicit.gauss_newton import GaussNewton
from hpo.bilevel.implicit.inverse import cg, identity, neumann, nystrom
from hpo.bilevel.implicit.inverse.precondition import diagonal, jacobi, pairs, secants
from hpo.bilevel.implicit.lower import solvers
from hpo.bilevel.implicit.problem import Bilevel
from search_spaces.errors import HpoError


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
    curvature.cross(v)
    assert torch.allclose(dense, dense.t())
    done = flat.work.since(before)
    assert (done.gradients, done.products, done.crosses) == (0, 1, 1)


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
    rough = identity.solve(curvature, b, 1e-10, step=0.5)
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


def at_random(problem, seed=21):
    """Far from the optimum, where the Hessian of a network is indefinite."""
    point = {name: domain.start_value() for name, domain in problem.space.items()}
    flat = Bilevel(problem, point)
    return flat, drawn(len(flat), seed=seed), flat.coordinates.of(point)


def test_damping_leaves_no_system_that_is_nearly_singular():
    """Where training of a network has just begun, a few eigenvalues of many are negative."""
    for seed in range(3):
        flat, x, t = at_random(Network(), seed)
        dense = Curvature(flat, x, t).products(torch.eye(len(x), dtype=DOUBLE))
        least = float(torch.linalg.eigvalsh(dense)[0])
        assert least < 0
        b = drawn(len(x), seed=seed)
        solved = cg.solve(Curvature(flat, x, t), b, 1e-8)
        assert least + solved.damping > 0.05 * solved.damping
        assert solved.left <= 1e-8
        assert solved.iterations < 1000


def test_pairs_of_a_quadratic_give_its_inverse():
    root = drawn(6, 6)
    matrix = root @ root.t() + torch.eye(6, dtype=DOUBLE)
    steps = torch.linalg.eigh(matrix).eigenvectors.t()
    apply = pairs([(s, matrix @ s) for s in steps])
    v = drawn(6, seed=3)
    assert torch.allclose(apply(v), torch.linalg.solve(matrix, v))
    assert pairs([]) is None


def test_the_diagonal_of_a_diagonal_matrix_is_found_by_one_draw():
    truth = torch.tensor([0.1, 1.0, 10.0], dtype=DOUBLE)
    assert torch.allclose(diagonal(Dense(torch.diag(truth)).product, truth, 1), truth)


def test_the_gauss_newton_matrix_is_that_of_the_outputs_and_is_positive():
    problem = Network()
    flat, x, t = at_random(problem)
    matrix = GaussNewton(flat, x, t)
    found = matrix.products(torch.eye(len(x), dtype=DOUBLE))

    def parts(x):
        return problem.inner_parts(flat.params(x), flat.knobs(t))

    _, loss, _ = parts(x)
    rates = jacobian(lambda x: parts(x)[0].flatten(), x)
    bend = hessian(lambda z: loss(z.view(-1, 3)), parts(x)[0].flatten())
    truth = rates.t() @ bend @ rates + hessian(lambda x: parts(x)[2], x)
    assert torch.allclose(found, truth, atol=1e-12)
    assert float(torch.linalg.eigvalsh(found)[0]) > 0
    dense = Curvature(flat, x, t).products(torch.eye(len(x), dtype=DOUBLE))
    assert float(torch.linalg.eigvalsh(dense)[0]) < -1e-3
    v = drawn(len(x), seed=22)
    before = flat.work.copy()
    in_x, in_t = matrix.product(v), matrix.cross(v)
    assert torch.allclose(in_x, truth @ v)
    assert torch.allclose(in_t, Curvature(flat, x, t).cross(v))
    assert torch.allclose(matrix.product(v), in_x)
    assert flat.work.since(before).products == 2


def test_gauss_newton_is_the_hessian_where_the_outputs_are_linear():
    _, exact, _ = hpo.hypergradient(Ridge(), tolerance=1e-11)
    _, found, _ = hpo.hypergradient(Ridge(), tolerance=1e-11, curvature="gauss_newton")
    assert relative(found["l2"], exact["l2"]) < 1e-9


def test_gauss_newton_in_a_network_needs_no_damping_far_from_an_optimum():
    """Only there: at an optimum the Hessian is positive and tells the truth."""
    flat, x, t = at_random(Network())
    b = drawn(len(x), seed=23)
    assert cg.solve(Curvature(flat, x, t), b, 1e-8).damping > 0
    solved = cg.solve(GaussNewton(flat, x, t), b, 1e-8)
    assert solved.damping == 0
    assert solved.left <= 1e-8


def test_parts_that_are_missing_or_wrong_are_refused():
    with pytest.raises(hpo.HpoError, match="gives no inner_parts"):
        hpo.hypergradient(Quadratics(), curvature="gauss_newton")
    with pytest.raises(hpo.HpoError, match="has a prox"):
        hpo.hypergradient(ElasticNet(), curvature="gauss_newton")
    with pytest.raises(hpo.HpoError, match="unknown curvature 'hesian', did you mean 'hessian'"):
        hpo.hypergradient(Ridge(), curvature="hesian")

    class Half(Ridge):
        def inner_parts(self, params, h):
            outputs, loss, rest = super().inner_parts(params, h)
            return outputs, loss, rest / 2

    with pytest.raises(hpo.HpoError, match="and inner_loss is"):
        hpo.hypergradient(Half(), curvature="gauss_newton")


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


@pytest.mark.parametrize("name", ["none", "pairs", "jacobi", "sketch"])
def test_a_preconditioner_changes_the_way_and_not_the_end(name):
    problem = Ridge()
    plain, preconditioned = (
        hpo.hypergradient(problem, None, 1e-10, precondition=one)[1]["l2"] for one in ("none", name)
    )
    assert relative(preconditioned, plain) < 1e-8


def test_what_is_no_preconditioner_is_named():
    with pytest.raises(HpoError, match=r"unknown precondition 'jacoby', did you mean 'jacobi'"):
        hpo.hypergradient(Ridge(), precondition="jacoby")
    with pytest.raises(HpoError, match="unknown option 'precondition'"):
        hpo.hypergradient(Ridge(), method="neumann", precondition="jacobi")
