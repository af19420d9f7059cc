"""Hypergradients from first derivatives: their bias falls as is said, and they make no product."""

import pytest
import torch
from toy_bilevel import DOUBLE, ElasticNet, Logistic, Network, Quadratics, Ridge, relative, resolved

import hpo


@pytest.mark.parametrize(("extrapolate", "order"), [(False, 1), (True, 2)])
@pytest.mark.parametrize("problem", [Ridge(), Logistic(), Quadratics(), Network()])
def test_the_bias_falls_with_the_penalty(problem, extrapolate, order):
    """Like 1 / s, and with Richardson's step like 1 / s^2."""
    options = {"method": "value_function", "extrapolate": extrapolate}
    first = 1e5 if isinstance(problem, Quadratics) else 1e3  # their condition is 1000
    _, _, optimum = hpo.hypergradient(problem, None, 1e-12)
    _, truth, _ = hpo.hypergradient(problem, None, 1e-12, params=optimum.params)
    truth = torch.cat([truth[name].reshape(-1) for name in truth])
    errors = []
    for penalty in (first, 4 * first):
        _, grad, certificate = hpo.hypergradient(
            problem, params=optimum.params, penalty=penalty, **options
        )
        errors.append(relative(torch.cat([grad[name].reshape(-1) for name in grad]), truth))
        assert certificate.products == certificate.crosses == 0
    assert errors[0] < 0.1
    assert errors[0] / errors[1] == pytest.approx(4**order, rel=0.3)


def test_the_default_is_close_on_an_easy_problem():
    value, grad, certificate = hpo.hypergradient(Ridge(), method="value_function")
    leaf = torch.full((12,), 0.1, dtype=DOUBLE, requires_grad=True)
    truth = Ridge().closed(leaf)
    truth.backward()
    assert relative(grad["l2"], leaf.grad) < 1e-6
    assert abs(value - truth.item()) <= certificate.value_error + 1e-15


def test_the_value_is_corrected_by_what_the_pull_has_told():
    truth = resolved(Logistic(), None)
    value, _, certificate = hpo.hypergradient(
        Logistic(), tolerance=0.1, method="value_function", penalty=1e3
    )
    assert 0 < abs(value - truth) < 0.1 * certificate.value_error


class Once(torch.autograd.Function):
    """The mean square of residuals, as a fused kernel gives it: one derivative and no second."""

    @staticmethod
    def forward(ctx, residual):
        ctx.save_for_backward(residual)
        return (residual**2).mean()

    @staticmethod
    def backward(ctx, slope):
        return slope * Slope.apply(*ctx.saved_tensors)


class Slope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, residual):
        return 2 * residual / len(residual)

    @staticmethod
    def backward(ctx, slope):
        raise NotImplementedError("no second derivative")


class Fused(Ridge):
    def inner_loss(self, params, h):
        return Once.apply(self.x @ params - self.y) / 2 + (h["l2"] * params**2).sum() / 2


def test_it_needs_no_second_derivative():
    _, grad, _ = hpo.hypergradient(Fused(), method="value_function")
    _, truth, _ = hpo.hypergradient(Ridge(), None, 1e-12)
    assert relative(grad["l2"], truth["l2"]) < 1e-6
    with pytest.raises(NotImplementedError, match="no second derivative"):
        hpo.hypergradient(Fused(), method="cg")


class Direct(Logistic):
    """An outer loss of the knobs alone."""

    def outer_loss(self, params, h):
        return (h["shrink"] - 1) ** 2


def test_an_outer_loss_without_parameters_has_its_direct_derivative():
    _, grad, _ = hpo.hypergradient(Direct(), {"shrink": 1.2}, method="value_function")
    assert float(grad["shrink"]) == pytest.approx(0.4)
    assert float(grad["l2"]) == 0


def test_a_prox_is_refused():
    with pytest.raises(hpo.HpoError, match="a prox gives none"):
        hpo.hypergradient(ElasticNet(), method="value_function")
