"""Hypergradients against closed forms, and against outer losses solved anew at knobs nearby."""

import math
from itertools import pairwise

import pytest
import torch
from toy_bilevel import (
    DOUBLE,
    ElasticNet,
    Logistic,
    Network,
    Quadratics,
    Ridge,
    differences,
    drawn,
    relative,
    resolved,
)

import hpo
from hpo.bilevel.implicit.coordinates import Coordinates
from search_spaces.domains import Choice, Float
from search_spaces.errors import HpoError


def test_ridge_agrees_with_the_closed_form():
    problem = Ridge()
    l2 = (10 ** drawn(12, seed=7)).clamp(1e-3, 10)
    leaf = l2.clone().requires_grad_()
    value = problem.closed(leaf)
    (truth,) = torch.autograd.grad(value, leaf)
    found, grad, certificate = hpo.hypergradient(problem, {"l2": tuple(l2.tolist())}, 1e-11)
    assert found == pytest.approx(value.item(), rel=1e-9)
    assert relative(grad["l2"], truth) < 1e-7
    assert certificate.certified
    assert abs(found - value.item()) <= certificate.value_error + 1e-15


@pytest.mark.parametrize("method", ["cg", "neumann"])
def test_the_error_falls_with_the_tolerance(method):
    problem = Ridge()
    leaf = torch.full((12,), 0.1, dtype=DOUBLE, requires_grad=True)
    (truth,) = torch.autograd.grad(problem.closed(leaf), leaf)
    errors = []
    for tolerance in (1e-1, 1e-3, 1e-5, 1e-7):
        _, grad, _ = hpo.hypergradient(problem, None, tolerance, method=method)
        errors.append(relative(grad["l2"], truth))
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
    assert relative(grad["pull"], truth) < 1e-7


def test_elastic_net_agrees_on_the_support_with_re_solved_differences():
    problem, point = ElasticNet(), {"l1": 0.4, "l2": (0.1,) * 12}
    value, grad, certificate = hpo.hypergradient(problem, point, 1e-12)
    weights = certificate.params
    assert 2 <= int((weights == 0).sum()) <= 10
    for name in ("l1", "l2"):
        truth = differences(problem, point, name)
        found = grad[name].reshape(-1)
        assert relative(found, truth) < 1e-7
    assert not grad["l2"][weights == 0].any()
    assert value == pytest.approx(resolved(problem, point), rel=1e-10)


def test_a_network_agrees_with_re_solved_differences_about_its_optimum():
    problem, point = Network(), {"l2": (0.02, 0.02, 0.03, 0.05)}
    _, grad, certificate = hpo.hypergradient(problem, point, 1e-11)
    assert certificate.damping == 0
    truth = differences(problem, point, "l2", params=certificate.params)
    assert relative(grad["l2"], truth) < 1e-7


def test_a_solver_that_does_not_fit_the_prox_is_refused():
    with pytest.raises(hpo.HpoError, match="lower is lbfgs, and the inner problem has a prox"):
        hpo.hypergradient(ElasticNet(), lower="lbfgs")
    with pytest.raises(hpo.HpoError, match="has no prox"):
        hpo.hypergradient(Ridge(), lower="proximal")


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
    with pytest.raises(hpo.HpoError, match="unknown method 'cgg', did you mean 'cg'"):
        hpo.hypergradient(Ridge(), method="cgg")
    with pytest.raises(hpo.HpoError, match="unknown option 'stepz', did you mean 'step'"):
        hpo.hypergradient(Ridge(), method="neumann", stepz=1.0)
    with pytest.raises(hpo.HpoError, match="unknown option 'lower'"):
        hpo.hypergradient(Ridge(), method="reverse", lower="lbfgs")

    class Falling(Ridge):
        def inner_loss(self, params, h):
            return (h["l2"] * params).sum()

    with pytest.raises(hpo.HpoError, match="was not solved"):
        hpo.hypergradient(Falling())


class Net(ElasticNet):
    """The whole elastic net in the prox, which then shrinks as well as cuts."""

    def inner_loss(self, params, h):
        return super().inner_loss(params, {**h, "l2": torch.zeros(())})

    def prox(self, params, h, step):
        return super().prox(params, h, step) / (1 + step * h["l2"])


class Group(Net):
    def prox(self, params, h, step):
        size = params.norm()
        return params * (1 - step * h["l1"] / size).clamp(min=0)


def test_a_prox_that_shrinks_has_a_curvature_of_its_own():
    point = {"l1": 0.05, "l2": (0.3,) * 12}
    value, grad, _ = hpo.hypergradient(ElasticNet(), point, 1e-12)
    same, through, _ = hpo.hypergradient(Net(), point, 1e-12)
    assert same == pytest.approx(value, rel=1e-8)
    for name in point:
        assert relative(through[name], grad[name]) < 1e-5


def test_a_prox_that_mixes_parameters_is_refused():
    with pytest.raises(HpoError, match="changes several parameters together"):
        hpo.hypergradient(Group(), {"l1": 0.05, "l2": (0.3,) * 12})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"knobs": {"l3": (0.1,) * 12}}, "unknown knob 'l3'"),
        ({"knobs": {"l2": 0.1}}, "knob l2 is 0.1, which is not in its range"),
        ({"knobs": {"l2": (1e9,) * 12}}, "which is not in its range"),
        ({"knobs": {"l2": "much"}}, "which is not in its range"),
        ({"tolerance": 0.0}, "tolerance is 0"),
        ({"tolerance": 2.0}, "tolerance is 2"),
    ],
)
def test_what_cannot_be_asked_is_said(given, message):
    with pytest.raises(HpoError, match=message):
        hpo.hypergradient(Ridge(), **given)


def test_a_class_is_no_problem():
    with pytest.raises(HpoError, match="Ridge is no bilevel problem"):
        hpo.hypergradient(Ridge)


def test_knobs_may_be_lists_and_tensors():
    values = [
        hpo.hypergradient(Ridge(), {"l2": given})[0]
        for given in ((0.2,) * 12, [0.2] * 12, torch.full((12,), 0.2, dtype=torch.float64))
    ]
    assert values[0] == values[1] == values[2]
