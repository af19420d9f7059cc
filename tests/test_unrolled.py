"""Unrolled hypergradients: exact for the steps that were taken, and F's when there are enough."""

import gc
import math

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
    relative,
)

import hpo
from search_spaces.domains import Float

pytestmark = pytest.mark.slow

UNROLLED = ("reverse", "forward")


def ridge():
    problem, point = Ridge(), {"l2": (0.1,) * 12}
    leaf = torch.tensor(point["l2"], dtype=DOUBLE, requires_grad=True)
    (truth,) = torch.autograd.grad(problem.closed(leaf), leaf)
    return problem, point, None, {"l2": truth}, 500


def logistic():
    problem, point = Logistic(), {"l2": 0.05, "shrink": 1.2, "shape": "huber"}
    truth = {name: differences(problem, point, name) for name in ("l2", "shrink")}
    return problem, point, None, truth, 500


def quadratics():
    """Of condition 1000; the minimizer is pull times aims."""
    problem, point = Quadratics(), {"pull": (0.7, 1.9)}
    pull = torch.tensor(point["pull"], dtype=DOUBLE).repeat_interleave(4)
    slopes = ((pull * problem.aims - problem.goals) * problem.aims).sum(0)
    return problem, point, None, {"pull": slopes.view(2, 4).sum(1)}, 1000


def network():
    """Of condition 370 at the optimum where training begins; the steps bring the derivative."""
    problem, point = Network(), {"l2": (0.02, 0.02, 0.03, 0.05)}
    optimum = hpo.hypergradient(problem, point, 1e-12)[2].params
    truth = differences(problem, point, "l2", params=optimum)
    return problem, point, optimum, {"l2": truth}, 500


@pytest.mark.slow
@pytest.mark.parametrize("case", [ridge, logistic, quadratics, network])
def test_enough_steps_give_the_gradient_of_f(case):
    problem, point, params, truth, steps = case()
    for method in UNROLLED:
        momentum = 0.95 if case is quadratics else 0.9
        _, grad, certificate = hpo.hypergradient(
            problem, point, params=params, method=method, steps=steps, momentum=momentum
        )
        for name in truth:
            assert relative(grad[name].reshape(-1), truth[name]) < 1e-7, method
        assert certificate.slope < 1e-6


def test_a_network_is_trained_and_differentiated_from_its_start():
    problem, point = Network(), {"l2": (0.02, 0.02, 0.03, 0.05)}
    value, grad, certificate = hpo.hypergradient(problem, point, method="reverse", steps=700)
    exact, truth, _ = hpo.hypergradient(problem, point, 1e-10, params=certificate.params)
    assert value == pytest.approx(exact, rel=1e-9)
    assert relative(grad["l2"], truth["l2"]) < 1e-7


@pytest.mark.parametrize("method", UNROLLED)
def test_steps_go_through_a_prox(method):
    problem, point = ElasticNet(), {"l1": 0.4, "l2": (0.1,) * 12}
    _, truth, _ = hpo.hypergradient(problem, point, 1e-12)
    _, grad, certificate = hpo.hypergradient(problem, point, method=method, steps=400)
    assert 2 <= int((certificate.params == 0).sum()) <= 10
    for name in truth:
        assert relative(grad[name], truth[name]) < 1e-7
    assert certificate.slope < 1e-8


def value(point, **options):
    """What few steps come to, with everything else held."""
    return hpo.hypergradient(Logistic(), point, method="reverse", steps=7, **options)[0]


def test_few_steps_are_differentiated_as_they_were_taken():
    """In the knobs, in the step and in the momentum: training is nowhere near its end."""
    point, options = {"l2": 0.3, "shrink": 1.2, "shape": "huber"}, {"step": 2.0, "momentum": 0.6}
    found, grad, certificate = hpo.hypergradient(
        Logistic(), point, method="reverse", steps=7, **options
    )
    assert certificate.slope > 1e-3 * certificate.first_slope
    for name in ("l2", "shrink"):
        up, down = (value({**point, name: point[name] * (1 + e)}, **options) for e in (1e-6, -1e-6))
        assert float(grad[name]) == pytest.approx((up - down) / (2e-6 * point[name]), rel=1e-7)
    for name in ("step", "momentum"):
        up, down = (value(point, **{**options, name: options[name] + e}) for e in (1e-6, -1e-6))
        assert float(certificate.solver[name]) == pytest.approx((up - down) / 2e-6, rel=1e-7)
    again, ahead, other = hpo.hypergradient(Logistic(), point, method="forward", steps=7, **options)
    assert again == found
    assert not other.solver
    assert all(relative(ahead[name], grad[name]) < 1e-12 for name in grad)


def test_a_schedule_of_steps_has_a_derivative_for_each():
    point = {"l2": 0.3, "shrink": 1.2, "shape": "square"}
    steps = [2.0, 1.5, 1.0, 1.0, 0.5, 0.5, 0.2]
    _, _, certificate = hpo.hypergradient(
        Logistic(), point, method="reverse", steps=7, step=steps, momentum=0.5
    )
    assert certificate.solver["step"].shape == (7,)
    assert certificate.solver["momentum"].ndim == 0
    for k in (0, 3, 6):
        sides = []
        for e in (1e-6, -1e-6):
            moved = [one + e * (place == k) for place, one in enumerate(steps)]
            sides.append(value(point, step=moved, momentum=0.5))
        truth = (sides[0] - sides[1]) / 2e-6
        assert float(certificate.solver["step"][k]) == pytest.approx(truth, rel=1e-6)


def test_work_is_counted_and_what_is_not_known_is_not_claimed():
    for method, products in (("reverse", 20), ("forward", 20 * 2)):
        _, _, certificate = hpo.hypergradient(Logistic(), method=method, steps=20, step=1.0)
        passes = 2 if method == "reverse" else 1
        assert certificate.gradients == 2 + 20 * passes  # the first slope and the last
        assert certificate.crosses == products
        assert certificate.products == products + (method == "reverse")  # its linear residual
        assert math.isnan(certificate.value_error)
        assert math.isnan(certificate.linear_residual) == (method == "forward")
        assert not certificate.certified
    found, _, certificate = hpo.hypergradient(Ridge(), method="reverse", steps=20)
    assert certificate.certified
    truth = float(Ridge().closed(torch.full((12,), 0.1, dtype=DOUBLE)))
    assert 1e-6 < abs(found - truth) <= certificate.value_error


def test_the_linear_residual_tells_whether_the_steps_were_enough():
    """From an optimum the slope is zero however few they are."""
    optimum = hpo.hypergradient(Logistic(), tolerance=1e-12)[2].params
    _, truth, _ = hpo.hypergradient(Logistic(), tolerance=1e-12, params=optimum)
    for steps, least, most in ((5, 1e-2, 10.0), (400, 0.0, 1e-6)):
        _, grad, certificate = hpo.hypergradient(
            Logistic(), method="reverse", params=optimum, steps=steps
        )
        assert certificate.slope < 1e-10
        assert least <= certificate.linear_residual <= most
        assert least <= relative(grad["l2"].reshape(-1), truth["l2"].reshape(-1)) <= most


class Weighed(Ridge):
    """Notes what is held when the steps have been made, and the most that graphs ever hold."""

    def outer_loss(self, params, h):
        gc.collect()
        storages = {
            one.untyped_storage().data_ptr(): one.untyped_storage().nbytes()
            for one in gc.get_objects()
            if type(one) is torch.Tensor
        }
        self.held = sum(storages.values())
        return super().outer_loss(params, h)


def held(steps):
    """Bytes held between the passes, and the most that graphs held."""
    graphs = most = 0

    class Saved:
        def __init__(self, tensor):
            nonlocal graphs, most
            self.tensor = tensor
            graphs += tensor.nbytes
            most = max(most, graphs)

        def __del__(self):
            nonlocal graphs
            graphs -= self.tensor.nbytes

    problem = Weighed()
    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        hpo.hypergradient(problem, method="reverse", steps=steps, step=0.1)
    return problem.held, most


def test_memory_of_reverse_grows_by_the_parameters_alone():
    few, graph = held(10)
    many, graph_of_many = held(60)
    numbers = 12 + 2  # a step's parameters, its length and its momentum
    assert 50 * 12 * 8 <= many - few <= 50 * numbers * 8
    assert graph_of_many == graph > 0


class Many(Ridge):
    space = Ridge.space | {"more": Float(0.1, 1.0, start=0.5, size=19)}


def test_too_many_knobs_and_steps_that_do_not_fit_are_refused():
    with pytest.raises(hpo.HpoError, match="each of 31 knobs; 30 at most") as refused:
        hpo.hypergradient(Many(), method="forward")
    assert "method='reverse'" in str(refused.value.hint)
    with pytest.raises(hpo.HpoError, match="step has the shape"):
        hpo.hypergradient(Ridge(), method="reverse", steps=3, step=[0.1, 0.2])
    with pytest.raises(hpo.HpoError, match="steps is 0"):
        hpo.hypergradient(Ridge(), method="forward", steps=0)
    with pytest.raises(hpo.HpoError, match="not finite"):
        hpo.hypergradient(Ridge(), method="reverse", steps=900, step=100.0)
