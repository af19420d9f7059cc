"""Regularizers that ask for the outputs a little beside an example.

Run with: pytest tests/test_smoothness_regularizers.py
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from toy_passes import added, looked, network, points, seeded

from search_spaces import HpoError

# jacobian and contractive


def exact_slope(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """||d model / d x||_F^2 of each example."""
    jacobian: Any = torch.func.jacrev(lambda row: model(row[None])[0])
    return torch.stack([jacobian(row).square().sum() for row in x])


def test_jacobian_is_half_the_squared_norm_of_the_weights_of_a_linear_model() -> None:
    weight = torch.randn(4, 6, generator=seeded(), dtype=torch.float64)
    passed = looked(lambda x: x @ weight.T + 1, points(20_000))
    found = added("jacobian", passed, jacobian=1.0)
    assert float(found.mean()) == pytest.approx(0.5 * float(weight.square().sum()), rel=0.01)
    # No draw gives more than the squared spectral norm, six times over.
    assert float(found.max()) <= 3 * float(torch.linalg.matrix_norm(weight, 2)) ** 2 * (1 + 1e-9)


def test_jacobian_of_a_single_number_and_of_pictures() -> None:
    weight = points(1)[0]
    one = added("jacobian", looked(lambda x: x @ weight, points(20_000)), jacobian=2.0)
    assert float(one.mean()) == pytest.approx(float(weight.square().sum()), rel=0.03)
    pictures = points(300).reshape(300, 1, 2, 3)
    same = added("jacobian", looked(lambda x: 3 * x, pictures), jacobian=2.0)
    torch.testing.assert_close(same, torch.full((300,), 9.0 * 6).double())


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_jacobian_is_that_of_a_network_at_inputs_of_every_size(scale: float) -> None:
    model = network()
    x = points(3)

    def scaled(inputs: Tensor) -> Tensor:
        result: Tensor = model(inputs / scale)
        return result

    exact = exact_slope(scaled, scale * x)
    rows = 8_000
    found = added("jacobian", looked(scaled, scale * x.repeat(rows, 1)), jacobian=2.0)
    torch.testing.assert_close(found.reshape(rows, 3).mean(0), exact, rtol=0.03, atol=0)


def test_jacobian_of_a_model_in_single_precision_is_near_that_in_double() -> None:
    x, single = points(50), network().float()
    expected = added("jacobian", looked(network(), x))
    found = added("jacobian", looked(lambda v: single(v.float()), x))  # the same directions
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=0)


def test_the_gradient_of_jacobian_in_the_weights_is_that_of_the_exact_norm() -> None:
    model, x = network(), points(2)
    exact = exact_slope(model, x).mean()
    weights = list(model.parameters())[:3]  # the last bias has none
    expected = torch.autograd.grad(exact, weights)
    found = added("jacobian", looked(model, x.repeat(20_000, 1)), jacobian=2.0).mean()
    for one, other in zip(torch.autograd.grad(found, weights), expected, strict=True):
        assert float((one - other).norm()) < 0.03 * float(other.norm())


def test_contractive_is_the_slope_of_the_features() -> None:
    model, x = network(), points(3)
    features, rows = model[:2], 8_000
    expected = exact_slope(features, x)
    passed = looked(model, x.repeat(rows, 1), features=features)
    found = added("contractive", passed, contractive=1.0)
    torch.testing.assert_close(found.reshape(rows, 3).mean(0), expected, rtol=0.03, atol=0)
    with pytest.raises(HpoError, match="contractive works on what the last"):
        added("contractive", looked(model, x))


@pytest.mark.parametrize("name", ["jacobian", "vat"])
def test_dropout_is_not_taken_for_a_slope(name: str) -> None:
    x = points(400)
    h: Any = {name: 1.0} if name == "jacobian" else {name: 1.0, "vat_radius": 1e-3}
    with torch.random.fork_rng():
        torch.manual_seed(5)
        noisy = added(name, looked(network(dropout=0.5).train(), x), **h).detach()
    calm = added(name, looked(network(), x), **h).detach()
    assert 0.3 < float(noisy.mean() / calm.mean()) < 4


# vat


def softmax_model(classes: int = 4) -> tuple[Tensor, Tensor]:
    """The weights and inputs of a linear softmax model."""
    weight = torch.randn(classes, 6, generator=seeded(8), dtype=torch.float64)
    return weight, points(5)


def fisher(weight: Tensor, x: Tensor) -> Tensor:
    """W^T (diag p - p p^T) W of each example: the Hessian of the divergence at no change."""
    p = functional.softmax(x @ weight.T, dim=1)
    middle = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return weight.T @ middle @ weight


def test_vat_finds_the_direction_in_which_the_prediction_moves_most() -> None:
    weight, x = softmax_model()
    asked: list[Tensor] = []
    passed = looked(lambda v: v @ weight.T, x, asked=asked)
    radius = 1e-3
    found = added("vat", passed, vat=1.0, vat_radius=radius, vat_steps=60)
    change = asked[-1] - x
    torch.testing.assert_close(change.norm(dim=1), torch.full((5,), radius).double())
    values, vectors = torch.linalg.eigh(fisher(weight, x))
    alike = (change / radius * vectors[:, :, -1]).sum(1).abs()
    assert bool((alike > 0.9999).all())
    torch.testing.assert_close(found, 0.5 * radius**2 * values[:, -1], rtol=1e-2, atol=0)


def test_more_steps_of_vat_find_no_smaller_change() -> None:
    weight, x = softmax_model()
    by_steps = [
        added("vat", looked(lambda v: v @ weight.T, x), vat=1.0, vat_radius=1e-2, vat_steps=steps)
        for steps in (1, 2, 3, 8)
    ]
    for fewer, more in pairwise(by_steps):
        assert bool((more >= fewer * (1 - 1e-3)).all())
    assert bool((by_steps[-1] > by_steps[0]).any())


def test_vat_holds_the_prediction_at_the_example_fixed() -> None:
    weight, x = softmax_model()
    weight.requires_grad_()
    asked: list[Tensor] = []
    total = added("vat", looked(lambda v: v @ weight.T, x, asked=asked)).sum()
    (slope,) = torch.autograd.grad(total, weight)
    fixed = functional.softmax(x @ weight.T, dim=1).detach()
    moved = functional.log_softmax(asked[-1] @ weight.T, dim=1)
    (expected,) = torch.autograd.grad(functional.kl_div(moved, fixed, reduction="sum"), weight)
    torch.testing.assert_close(slope, expected)


def test_an_example_of_vat_takes_its_own_steps_and_radius() -> None:
    weight, x = softmax_model()

    def found(**h: Any) -> Tensor:
        return added("vat", looked(lambda v: v @ weight.T, x), **h)

    steps, radii = torch.tensor([1.0, 3, 2, 1, 3]), torch.tensor([0.1, 1, 2, 3, 4]).double()
    mixed = found(vat=2.0, vat_radius=radii, vat_steps=steps)
    for row in range(5):
        alone = found(vat=2.0, vat_radius=float(radii[row]), vat_steps=int(steps[row]))
        torch.testing.assert_close(mixed[row], alone[row])


def test_vat_leaves_no_gradient_and_as_many_draws_whatever_its_steps() -> None:
    model, x = network(), points(5)
    ends = []
    for steps in (1, 3):
        rng = seeded()
        before = torch.get_rng_state()
        added("vat", looked(model, x), rng, vat_steps=steps)
        assert torch.equal(torch.get_rng_state(), before)
        ends.append(rng.get_state())
    assert torch.equal(*ends)
    assert all(p.grad is None for p in model.parameters())
    value = added("vat", looked(model, x)).mean()
    value.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for p in model.parameters())


def test_vat_works_without_gradients_and_leaves_every_pass_to_be_differentiated() -> None:
    model, x = network(), points(5)
    with torch.no_grad():
        looked_at = added("vat", looked(model, x))
    assert not looked_at.requires_grad
    put_out: list[Tensor] = []
    handle = model.register_forward_hook(lambda *given: put_out.append(given[2]))
    torch.testing.assert_close(added("vat", looked(model, x)).detach(), looked_at)
    handle.remove()
    weights = list(model.parameters())
    slopes = torch.autograd.grad([one.sum() for one in put_out], weights)
    assert len(put_out) == 4 and all(bool(slope.isfinite().all()) for slope in slopes)


def test_vat_at_inputs_that_move_nothing_is_zero() -> None:
    flat = looked(lambda x: 0 * x[:, :3], torch.zeros(4, 6))
    assert torch.equal(added("vat", flat), torch.zeros(4))
    assert torch.equal(added("jacobian", flat), torch.zeros(4))


# both


@pytest.mark.parametrize("name", ["vat", "jacobian", "contractive"])
def test_inputs_of_whole_numbers_are_refused(name: str) -> None:
    tokens = torch.zeros(3, 6, dtype=torch.long)
    passed = looked(lambda x: x.double(), tokens, features=lambda x: x.double())
    with pytest.raises(HpoError, match=f"{name} needs floating-point numbers"):
        added(name, passed)


@pytest.mark.parametrize("knob", ["vat", "vat_radius", "jacobian", "contractive"])
def test_the_gradient_in_a_knob_is_that_of_finite_differences(knob: str) -> None:
    model, x = network(), points(5)
    passed, name = looked(model, x, features=model[:2]), knob.split("_")[0]

    def total(value: Tensor | float) -> Tensor:
        h: Any = {knob: value}
        return added(name, passed, **h).sum()

    leaf = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(total(leaf), leaf)
    expected = float((total(0.7 + 1e-5) - total(0.7 - 1e-5)).detach()) / 2e-5
    assert float(slope) == pytest.approx(expected, rel=1e-5) and expected != 0
