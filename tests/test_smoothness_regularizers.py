"""Regularizers that ask for the same outputs beside an example, or for another view of it.

Run with: pytest tests/test_smoothness_regularizers.py
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from toy_tasks import Blobs, constant, run

from objectives.digits import Digits
from objectives.training.options import Training
from search_spaces import Batch, HpoError, Regularizer, plugins
from search_spaces.passes import Pass

NAMES = ("vat", "consistency", "mutex", "jacobian", "contractive")
SHORT = Training(steps=30, evaluations=2, learning_rate=2e-3)


def load(name: str) -> Regularizer:
    found = plugins.load("search_spaces.regularizers", name, "REGULARIZER")
    assert isinstance(found, Regularizer)
    return found


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def looked(
    model: Callable[[Tensor], Tensor],
    inputs: Tensor,
    view: Tensor | None = None,
    features: Callable[[Tensor], Tensor] | None = None,
    asked: list[Tensor] | None = None,
) -> Pass:
    """A pass of a model on inputs. view: the inputs of another view; asked: gets the inputs of
    further passes."""
    batch = Batch(inputs, torch.zeros(len(inputs), dtype=torch.long))

    def again(x: Tensor) -> Tensor:
        if asked is not None:
            asked.append(x.detach())
        return model(x)

    return Pass(
        nn.Identity(),
        batch,
        batch,
        model(inputs),
        again=again,
        embed=features or again,
        view=lambda: batch if view is None else batch._replace(inputs=view),
        features=None if features is None else features(inputs),
    )


def added(name: str, passed: Pass, rng: torch.Generator | None = None, **h: Any) -> Tensor:
    """What a regularizer adds to the losses; knobs that are not given have their start."""
    record = load(name)
    assert record.loss_output is not None
    start = {knob: domain.start_value() for knob, domain in record.knobs.items()}
    result: Tensor = record.loss_output(passed, {**start, **h}, rng or seeded())
    assert result.shape == (len(passed.outputs),)
    return result


def network(seed: int = 0, dropout: float = 0.0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Linear(6, 9), nn.Tanh(), nn.Dropout(dropout), nn.Linear(9, 4)]
        return nn.Sequential(*layers).double()


def points(rows: int, seed: int = 3) -> Tensor:
    return torch.randn(rows, 6, generator=seeded(seed), dtype=torch.float64)


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


def test_vat_at_inputs_that_move_nothing_is_zero() -> None:
    flat = looked(lambda x: 0 * x[:, :3], torch.zeros(4, 6))
    assert torch.equal(added("vat", flat), torch.zeros(4))
    assert torch.equal(added("jacobian", flat), torch.zeros(4))


# consistency and mutex


def views() -> tuple[Pass, Tensor, Tensor]:
    """A pass whose outputs are its inputs, with the predictions here and in the other view."""
    here = torch.tensor([[4.0, 0, 0], [0.5, 0, 0.1], [0, 1, 3], [-1, -1.5, -1.2]]).double()
    there = torch.tensor([[1.0, 0, 2], [0, 2, 0], [0, 1, 3], [3, 0, 0]]).double()
    there.requires_grad_()
    return looked(lambda x: x, here, there), here, there


def test_consistency_is_the_cross_entropy_of_the_likeliest_class_where_that_is_clear() -> None:
    passed, here, there = views()
    h: Any = {"consistency_threshold": 0.8, "consistency_temperature": 0.0}
    found = added("consistency", passed, consistency=2.0, **h)
    loss = functional.cross_entropy(there, here.argmax(1), reduction="none")
    clear = here.softmax(1).amax(1) >= 0.8
    assert clear.tolist() == [True, False, True, False]
    torch.testing.assert_close(found, 2 * torch.where(clear, loss, 0))


def test_consistency_with_a_soft_target_is_a_divergence() -> None:
    passed, here, there = views()
    for temperature in (0.4, 1.0):
        h: Any = {"consistency_threshold": 0.0, "consistency_temperature": temperature}
        found = added("consistency", passed, consistency=1.0, **h)
        powered = here.softmax(1) ** (1 / temperature)
        sharp = powered / powered.sum(1, keepdim=True)
        expected = (sharp * (sharp.log() - there.log_softmax(1))).sum(1)
        torch.testing.assert_close(found, expected)
    assert float(found[2]) == pytest.approx(0, abs=1e-12), "the views agree"


def test_consistency_teaches_the_new_view_and_not_the_old_one() -> None:
    here = points(6)[:, :4].requires_grad_()
    there = points(6, seed=4)[:, :4].requires_grad_()
    total = added("consistency", looked(lambda x: x, here, there), consistency_threshold=0.0).sum()
    old, new = torch.autograd.grad(total, [here, there], allow_unused=True)
    assert old is None and float(new.abs().sum()) > 0


def test_mutex_excludes_the_least_likely_classes_of_unclear_examples() -> None:
    passed, here, there = views()
    unclear = here.softmax(1).amax(1) < 0.8
    for count in (1, 2, 7):
        found = added("mutex", passed, mutex=3.0, mutex_threshold=0.8, mutex_classes=count)
        least = here.argsort(1)[:, : min(count, 2)]
        excluded = there.softmax(1).gather(1, least).sum(1)
        torch.testing.assert_close(found, 3 * torch.where(unclear, -(1 - excluded).log(), 0))
    (slope,) = torch.autograd.grad(found[3], there)
    assert bool((slope[3].gather(0, least[3]) > 0).all()), "a step lowers what is excluded"
    assert torch.equal(slope[:3], torch.zeros(3, 3))


def test_mutex_is_finite_where_an_excluded_class_is_certain() -> None:
    sure = torch.tensor([[0.0, 0.1, 0.2]])
    there = torch.tensor([[200.0, 0, 0]], requires_grad=True)
    found = added("mutex", looked(lambda x: x, sure, there), mutex_threshold=0.99)
    (slope,) = torch.autograd.grad(found.sum(), there)
    assert float(found[0]) > 100 and bool(slope.isfinite().all())


# all of them


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_of_zero_adds_exactly_nothing(name: str) -> None:
    model, x = network(), points(5)
    passed, h = looked(model, x, x + 1, features=model[:2]), dict[str, Any]({name: 0.0})
    assert torch.equal(added(name, passed, **h), torch.zeros(5).double())


@pytest.mark.parametrize("name", ["vat", "jacobian", "contractive"])
def test_inputs_of_whole_numbers_are_refused(name: str) -> None:
    tokens = torch.zeros(3, 6, dtype=torch.long)
    passed = looked(lambda x: x.double(), tokens, features=lambda x: x.double())
    with pytest.raises(HpoError, match=f"{name} needs floating-point numbers"):
        added(name, passed)


@pytest.mark.parametrize("name", ["vat", "consistency", "mutex"])
def test_outputs_that_are_no_classes_are_refused(name: str) -> None:
    with pytest.raises(HpoError, match=f"{name} needs outputs"):
        added(name, looked(lambda x: x[:, 0], points(3)))


@pytest.mark.parametrize("knob", ["vat", "vat_radius", "jacobian", "contractive"])
def test_the_gradient_in_a_knob_is_that_of_finite_differences(knob: str) -> None:
    model, x = network(), points(5)
    passed, name = looked(model, x, features=model[:2]), knob.split("_")[0]

    def total(value: Tensor | float) -> Tensor:
        h: Any = {knob: value}
        return added(name, passed, **h).sum()

    leaf = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(total(leaf), leaf)
    expected = float(total(0.7 + 1e-5) - total(0.7 - 1e-5)) / 2e-5
    assert float(slope) == pytest.approx(expected, rel=1e-5) and expected != 0


# in a run


class Normed(Blobs):
    """A network with batch norm, which remembers how it was last."""

    def model(self, seed: int) -> nn.Module:
        layers = [nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3)]
        self.models.append(nn.Sequential(*layers, nn.Linear(8, 3)))
        return self.models[-1]


ALONE = Training(steps=1, evaluations=1, learning_rate=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_running_averages_do_not_learn_from_further_passes(name: str) -> None:
    plain, task = Normed(), Normed()
    run(plain, ALONE)
    run(task, ALONE, knobs={name: 1.0})
    for one, other in zip(plain.models[0].buffers(), task.models[0].buffers(), strict=True):
        assert torch.equal(one, other)
    assert len(plain.seen) == 1 and len(task.seen) > 1


class Tokens(Blobs):
    """Sequences of four tokens for a small transformer."""

    def model(self, seed: int) -> nn.Module:
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True)
        parts = [nn.Unflatten(1, (4, 1)), nn.Linear(1, 8), nn.TransformerEncoder(layer, 1)]
        self.models.append(nn.Sequential(*parts, nn.Flatten(), nn.Linear(32, 3)))
        return self.models[-1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("task", [lambda: Digits(network="cnn"), Normed, Tokens])
def test_a_run_changes_and_stays_finite(task: Any, name: str) -> None:
    losses = {}
    for strength in (0.0, 1.0):
        knobs = {name: strength, "input_noise": 0.3, "dropout": 0.2}
        if name == "consistency":
            knobs["consistency_threshold"] = 0.3
        last = run(task(), SHORT, tuner=constant(**knobs), knobs=knobs)[-1]
        losses[strength] = torch.tensor([last.metrics["train_loss"], last.metrics["val_loss"]])
    assert bool(losses[1.0].isfinite().all())
    assert bool((losses[0.0] != losses[1.0]).all())
