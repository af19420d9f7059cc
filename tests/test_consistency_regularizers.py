"""Regularizers that compare two views of an example, and runs with all that look beside one.

Run with: pytest tests/test_consistency_regularizers.py
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from toy_passes import added, looked, network, points, seeded
from toy_tasks import Blobs, constant, run

from objectives.digits import Digits
from objectives.training.options import Training
from search_spaces import HpoError
from search_spaces.passes import Pass

pytestmark = pytest.mark.slow

NAMES = ("vat", "consistency", "mutex", "jacobian", "contractive")
SHORT = Training(steps=30, evaluations=2, learning_rate=2e-3)


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
    assert abs(float(found[2].detach())) < 1e-12, "the views agree"


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
    assert float(found[0].detach()) > 100 and bool(slope.isfinite().all())


@pytest.mark.parametrize("knob", ["consistency", "consistency_temperature", "mutex"])
def test_the_gradient_in_a_knob_is_that_of_finite_differences(knob: str) -> None:
    passed, _, _ = views()

    def total(value: Tensor | float) -> Tensor:
        h: Any = {f"{knob.split('_')[0]}_threshold": 0.6, knob: value}
        return added(knob.split("_")[0], passed, **h).sum()

    leaf = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(total(leaf), leaf)
    expected = float((total(0.7 + 1e-5) - total(0.7 - 1e-5)).detach()) / 2e-5
    assert float(slope) == pytest.approx(expected, rel=1e-5) and expected != 0


@pytest.mark.parametrize("name", ["consistency", "mutex"])
def test_the_gradient_in_a_threshold_is_how_the_mean_moves_with_it(name: str) -> None:
    here = torch.randn(40_000, 4, generator=seeded(), dtype=torch.float64)
    passed = looked(lambda x: x, here, torch.randn(40_000, 4, generator=seeded(1)).double())

    def mean(threshold: Tensor | float) -> Tensor:
        h: Any = {f"{name}_threshold": threshold}
        return added(name, passed, **h).mean()

    leaf = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(mean(leaf), leaf)
    expected = float(mean(0.65) - mean(0.55)) / 0.1
    assert float(slope) == pytest.approx(expected, rel=0.05)
    assert torch.equal(mean(leaf).detach(), mean(0.6)), "the value is that of the step"


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_of_zero_adds_exactly_nothing(name: str) -> None:
    model, x = network(), points(5)
    passed, h = looked(model, x, x + 1, features=model[:2]), dict[str, Any]({name: 0.0})
    assert torch.equal(added(name, passed, **h), torch.zeros(5).double())


@pytest.mark.parametrize("name", ["vat", "consistency", "mutex"])
def test_outputs_that_are_no_classes_are_refused(name: str) -> None:
    with pytest.raises(HpoError, match=f"{name} needs outputs"):
        added(name, looked(lambda x: x[:, 0], points(3)))


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
