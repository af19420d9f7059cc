"""Regularizers of activations and attention: what they keep, how often, and how it is scaled.

Run with: pytest tests/test_activation_regularizers.py
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_tasks import Blobs, constant, run

from objectives.digits import Digits
from objectives.training.options import Training
from objectives.training.sites import Branch
from search_spaces import Batch, HpoError, Regularizer, plugins
from search_spaces.domains import Float
from search_spaces.schedule import Schedule
from search_spaces.space import SearchSpace

pytestmark = pytest.mark.slow

SHORT = Training(steps=30, evaluations=2, learning_rate=2e-3)
ROWS = 20_000


def load(name: str) -> Regularizer:
    found = plugins.load("search_spaces.regularizers", name, "REGULARIZER")
    assert isinstance(found, Regularizer)
    return found


def act(
    name: str, x: Tensor, strength: Any, site: nn.Module | None = None, seed: int = 0
) -> Tensor:
    hook = load(name).activation
    assert hook is not None
    rng = torch.Generator().manual_seed(seed)
    result: Tensor = hook(x, {name: strength}, rng, site or nn.Dropout())
    return result


# dropout of channels and inputs


def one_draw_along(x: Tensor, *dims: int) -> bool:
    """Whether it is the same at all places of these dimensions."""
    first = x
    for dim in dims:
        first = first.narrow(dim, 0, 1)
    return torch.equal(x, first.expand_as(x))


def test_channel_dropout_drops_whole_channels_wherever_it_is() -> None:
    rate = torch.linspace(0.1, 0.7, 60)
    pictures = act("channel_dropout", torch.ones(60, 32, 5, 5), rate)
    assert one_draw_along(pictures, 2, 3) and not one_draw_along(pictures, 1)
    tokens = act("channel_dropout", torch.ones(60, 7, 32), rate)
    assert one_draw_along(tokens, 1) and not one_draw_along(tokens, 2)
    signals = act("channel_dropout", torch.ones(60, 32, 7), rate, nn.Dropout1d())
    assert one_draw_along(signals, 2) and not one_draw_along(signals, 1)
    for dropped in (pictures, tokens, signals):
        assert not one_draw_along(dropped, 0)
        assert float(dropped.mean()) == pytest.approx(1, abs=0.06)
        assert torch.equal(torch.unique(dropped[-1]), torch.tensor([0.0, 1 / (1 - rate[-1])]))


def test_channel_dropout_and_dropout_together_keep_the_mean() -> None:
    x = torch.ones(ROWS, 8)
    both = act("dropout", act("channel_dropout", x, 0.3), 0.4, seed=1)
    assert float(both.mean()) == pytest.approx(1, abs=0.02)
    assert float((both == 0).float().mean()) == pytest.approx(1 - 0.7 * 0.6, abs=0.01)
    assert not load("channel_dropout").replaces_dropout


def test_input_dropout_keeps_the_mean_and_refuses_whole_numbers() -> None:
    hook = load("input_dropout").batch
    assert hook is not None
    rates = torch.tensor([0.0, 0.2, 0.6])
    rng = torch.Generator().manual_seed(0)
    dropped = hook(Batch(torch.ones(3, ROWS), torch.zeros(3)), {"input_dropout": rates}, rng)
    shares = (dropped.inputs == 0).float().mean(1)
    torch.testing.assert_close(shares, rates, atol=0.02, rtol=0)
    torch.testing.assert_close(dropped.inputs.mean(1), torch.ones(3), atol=0.04, rtol=0)
    with pytest.raises(HpoError, match="input_dropout needs floating-point"):
        hook(Batch(torch.ones(3, 2).long(), torch.zeros(3)), {"input_dropout": 0.1}, rng)


# nested dropout


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("units", [2, 10])
def test_nested_dropout_keeps_a_geometric_number_of_first_units(rate: float, units: int) -> None:
    kept = act("nested_dropout", 3 * torch.ones(ROWS, units), rate)
    count = (kept == 3).sum(1)
    assert torch.equal(kept == 3, torch.arange(units) < count[:, None]), "the first, unscaled"
    assert torch.equal(kept == 0, ~(kept == 3))
    assert int(count.min()) >= 1
    q = (1 - rate) ** (1 / (units - 1))
    assert float(count.double().mean()) == pytest.approx((1 - q**units) / (1 - q), rel=0.02)
    assert float((count < units).double().mean()) == pytest.approx(rate, abs=0.015)
    for j in range(units):
        assert float((count > j).double().mean()) == pytest.approx(q**j, abs=0.015)


def test_nested_dropout_cuts_channels_of_pictures_and_features_of_tokens() -> None:
    rates = torch.tensor([0.0, 0.95]).repeat(40)
    pictures = act("nested_dropout", torch.ones(80, 9, 3, 3), rates)
    assert one_draw_along(pictures, 2, 3)
    assert torch.equal(pictures[::2], torch.ones(40, 9, 3, 3)), "rate zero is exact"
    assert bool((pictures[1::2, 8] == 0).any()) and bool((pictures[:, 0] == 1).all())
    tokens = act("nested_dropout", torch.ones(80, 4, 9), rates)
    assert one_draw_along(tokens, 1) and bool((tokens[:, :, 0] == 1).all())
    assert bool((tokens[1::2, :, 8] == 0).any())
    single = torch.randn(5)
    assert torch.equal(act("nested_dropout", single, 0.9), single)


# stochastic depth


def test_stochastic_depth_drops_the_branch_of_an_example_and_keeps_the_mean() -> None:
    rates = torch.tensor([0.0, 0.25, 0.5]).repeat(ROWS // 2)
    branch = act("stochastic_depth", torch.ones(len(rates), 3, 2), rates, Branch())
    assert one_draw_along(branch, 1, 2)
    by_rate = branch[:, 0, 0].reshape(-1, 3)
    torch.testing.assert_close(by_rate.mean(0), torch.ones(3), atol=0.04, rtol=0)
    assert torch.equal(by_rate[:, 0], torch.ones(len(by_rate)))
    assert torch.equal(torch.unique(by_rate[:, 2]), torch.tensor([0.0, 2.0]))


class DropPath(nn.Module):
    """A branch's end with a rate of its own, as libraries have it."""

    def __init__(self) -> None:
        super().__init__()
        self.drop_prob = 0.9
        self.ran: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.ran.append(self.drop_prob)
        return x


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.ends = nn.ModuleList([Branch(), DropPath()])
        self.last = nn.Linear(4, 3)
        self.branches: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        for layer, end in zip((self.first, self.second), self.ends, strict=True):
            branch = end(layer(x).relu() + 0.1)
            if self.training:
                self.branches.append(branch.detach())
            x = x + branch
        result: Tensor = self.last(x)
        return result


class Deep(Blobs):
    """Blobs for a network with two residual branches."""

    def model(self, seed: int) -> nn.Module:
        self.models.append(Residual())
        return self.models[-1]


def test_stochastic_depth_has_a_rate_for_each_branch_in_place_of_their_own() -> None:
    task = Deep()
    domain = Float(0.0, 0.9, size=2)
    schedule = Schedule.constant(
        SearchSpace({"stochastic_depth": domain}), {"stochastic_depth": (0.0, 0.8)}
    )
    from objectives.training.tuner import Follow

    run(task, SHORT, tuner=Follow(schedule), knobs={"stochastic_depth": 0.5})
    model: Any = task.models[0]
    first, second = torch.cat(model.branches[::2]), torch.cat(model.branches[1::2])
    assert not bool((first == 0).all(1).any())
    assert float((second == 0).all(1).float().mean()) == pytest.approx(0.8, abs=0.08)
    own: Any = model.ends[1]
    assert set(own.ran) == {0.0} and own.drop_prob == 0.9


# attention subsampling


def looked_at(shape: tuple[int, int, int], share: Any, seed: int = 0) -> Tensor:
    hook = load("attention_subsampling").attention
    assert hook is not None
    rng = torch.Generator().manual_seed(seed)
    result: Tensor = hook(shape, {"attention_subsampling": share}, rng)
    assert result.dtype == torch.bool and result.shape == shape
    return result


def test_attention_subsampling_hides_a_share_of_the_keys_but_never_the_query_itself() -> None:
    shares = torch.tensor([0.0, 0.3, 0.9, 1.0])
    seen = looked_at((4, 60, 60), shares)
    itself = torch.eye(60, dtype=torch.bool)
    assert bool(seen[:, itself].all())
    hidden = (~seen[:, ~itself]).float().mean(1)
    torch.testing.assert_close(hidden, shares, atol=0.03, rtol=0)
    assert torch.equal(seen[0], torch.ones(60, 60, dtype=torch.bool))
    assert torch.equal(seen[3], itself)
    assert not torch.equal(seen[1, 0], seen[1, 1]), "each query has keys of its own"


def test_attention_subsampling_of_other_keys_leaves_each_query_one() -> None:
    seen = looked_at((200, 3, 5), 1.0)
    assert bool((seen.sum(2) == 1).all())
    assert len(torch.unique(seen.float().argmax(2))) == 5
    assert bool(looked_at((200, 3, 5), 0.0).all())


def test_the_draws_of_attention_subsampling_do_not_depend_on_the_share() -> None:
    hook = load("attention_subsampling").attention
    assert hook is not None
    states = []
    for share in (0.0, 0.5, torch.tensor([0.1, 0.9])):
        rng = torch.Generator().manual_seed(0)
        hook((2, 5, 6), {"attention_subsampling": share}, rng)
        states.append(rng.get_state())
    assert torch.equal(states[0], states[1]) and torch.equal(states[0], states[2])
    few, many = looked_at((2, 8, 8), 0.2), looked_at((2, 8, 8), 0.7)
    assert bool((few | ~many).all()), "what a larger share leaves, a smaller one leaves too"
    with pytest.raises(HpoError, match="do not fit"):
        looked_at((2, 5, 5), torch.tensor([0.1, 0.2, 0.3]))


# in a run


class Tokens(Blobs):
    """Sequences of four tokens for a small transformer, whose dropout layers see (B, T, D)."""

    def model(self, seed: int) -> nn.Module:
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        parts = [nn.Unflatten(1, (4, 1)), nn.Linear(1, 8), nn.TransformerEncoder(layer, 1)]
        self.models.append(nn.Sequential(*parts, nn.Flatten(), nn.Linear(32, 3)))
        return self.models[-1]


def tasks() -> Iterator[Any]:
    for name in ("dropout", "channel_dropout", "nested_dropout", "input_dropout"):
        yield pytest.param(lambda: Digits(network="cnn"), name, id=f"{name}-cnn")
        yield pytest.param(Tokens, name, id=f"{name}-transformer")
    yield pytest.param(Deep, "stochastic_depth", id="stochastic_depth")
    yield pytest.param(Tokens, "attention_subsampling", id="attention_subsampling")


@pytest.mark.parametrize(("task", "name"), [*tasks()])
def test_a_run_changes_and_stays_finite(task: Any, name: str) -> None:
    losses = {}
    for strength in (0.0, 0.5):
        last = run(task(), SHORT, tuner=constant(**{name: strength}), knobs={name: strength})[-1]
        losses[strength] = torch.tensor([last.metrics["train_loss"], last.metrics["val_loss"]])
    assert bool(losses[0.5].isfinite().all())
    assert bool((losses[0.0] != losses[0.5]).all())
