"""Every file in search_spaces/regularizers keeps the contract of a regularizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from search_spaces import Batch, Choice, HpoError, Regularizer, SearchSpace, plugins
from search_spaces.domains import Domain

PACKAGE = "search_spaces.regularizers"
NAMES = plugins.names(PACKAGE)
EXAMPLES = 6
SITES = (nn.Dropout(0.5), nn.Dropout1d(0.5), nn.Dropout2d(0.5))
LEARNING_RATE = 0.1


class Effect(NamedTuple):
    """What the hooks of a regularizer made of the case below."""

    per_example: list[Tensor]
    shared: list[Tensor]

    def flat(self) -> Tensor:
        """All numbers in one vector."""
        return torch.cat([tensor.reshape(-1) for tensor in (*self.per_example, *self.shared)])


def load(name: str) -> Regularizer:
    found = plugins.load(PACKAGE, name, "REGULARIZER")
    assert isinstance(found, Regularizer)
    return found


def _by_hand(record: Regularizer) -> bool:
    """Whether its hooks need no run around them; the others are put into one in test_catalogue."""
    within = ("remember", "ascent", "attention", "loss_output", "loss_batch")
    return all(getattr(record, name) is None for name in within)


@pytest.fixture(params=[name for name in NAMES if _by_hand(load(name))])
def regularizer(request: pytest.FixtureRequest) -> Regularizer:
    return load(request.param)


def case() -> tuple[Batch, dict[str, Tensor]]:
    rng = torch.Generator().manual_seed(7)
    inputs = torch.randn(EXAMPLES, 3, 4, 4, generator=rng, dtype=torch.float64)
    targets = torch.rand(EXAMPLES, 5, generator=rng, dtype=torch.float64)
    shapes = {"layer": (4, 3), "filter": (2, 4, 3, 3), "bias": (4,)}
    parameters = {
        name: torch.randn(shape, generator=rng, dtype=torch.float64)
        for name, shape in shapes.items()
    }
    return Batch(inputs, targets / targets.sum(1, keepdim=True)), parameters


def losses() -> Tensor:
    """One loss for each example, among them one of zero and a small one."""
    rng = torch.Generator().manual_seed(8)
    drawn = 3 * torch.rand(EXAMPLES - 2, generator=rng, dtype=torch.float64)
    return torch.cat([drawn, torch.tensor([0.0, 1e-4], dtype=torch.float64)])


def effect(
    regularizer: Regularizer, h: Mapping[str, float | Tensor], rng: torch.Generator | None = None
) -> Effect:
    """Runs every hook on the same case."""
    batch, parameters = case()
    rng = rng or torch.Generator().manual_seed(1)
    per_example, shared = [], []
    if regularizer.batch:
        per_example += regularizer.batch(batch, h, rng)
    if regularizer.activation:
        per_example += [regularizer.activation(batch.inputs, h, rng, site) for site in SITES]
    if regularizer.target:
        per_example.append(regularizer.target(batch.targets, h, rng))
    if regularizer.loss_example:
        before = losses()
        per_example.append(regularizer.loss_example(before, h))
        assert torch.equal(before, losses()), "changed in place"
    if regularizer.parameter:
        shared += _used(regularizer, parameters, h, rng)
        assert all(torch.equal(parameters[name], p) for name, p in case()[1].items()), "in place"
    if regularizer.penalty:
        shared.append(regularizer.penalty(parameters, h))
    if regularizer.optimizer:
        regularizer.optimizer(parameters, h, LEARNING_RATE)
        shared += parameters.values()
    untouched, _ = case()
    assert all(torch.equal(a, b) for a, b in zip(batch, untouched, strict=True)), "changed in place"
    return Effect(per_example, shared)


def _used(
    regularizer: Regularizer,
    parameters: Mapping[str, Tensor],
    h: Mapping[str, float | Tensor],
    rng: torch.Generator,
) -> list[Tensor]:
    """What the forward pass uses in place of the parameters."""
    assert regularizer.parameter
    used = regularizer.parameter(parameters, h, rng)
    assert list(used) == list(parameters)
    assert all(used[name].shape == parameters[name].shape for name in used)
    return list(used.values())


def untouched(regularizer: Regularizer) -> Effect:
    """What the case looks like without any regularizer."""
    batch, parameters = case()
    per_example = list(batch) if regularizer.batch else []
    per_example += [batch.inputs] * len(SITES) if regularizer.activation else []
    per_example += [batch.targets] if regularizer.target else []
    per_example += [losses()] if regularizer.loss_example else []
    shared = list(parameters.values()) if regularizer.parameter else []
    shared += [torch.zeros(())] if regularizer.penalty else []
    return Effect(
        per_example, shared + (list(parameters.values()) if regularizer.optimizer else [])
    )


def strengths(regularizer: Regularizer, unit: float) -> dict[str, float]:
    """A strength of every knob, from this part of its default range."""
    return {name: float(_number(domain, unit)) for name, domain in regularizer.knobs.items()}


def _number(domain: Domain, unit: float) -> float:
    value = domain.from_unit(unit)
    assert isinstance(value, int | float)
    return value


def off(regularizer: Regularizer) -> dict[str, float]:
    """Every knob that can be switched off is, the others have their start."""
    return {
        name: float(domain.off) if domain.off is not None else float(domain.start_value())
        for name, domain in regularizer.knobs.items()
    }


def as_scalars(h: Mapping[str, float]) -> dict[str, Tensor]:
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in h.items()}


def as_vectors(h: Mapping[str, float]) -> dict[str, Tensor]:
    return {name: value.expand(EXAMPLES).clone() for name, value in as_scalars(h).items()}


def test_the_default_range_holds_start_and_off(regularizer: Regularizer) -> None:
    SearchSpace(regularizer.knobs)  # names and conditions are sound
    for domain in regularizer.knobs.values():
        assert domain.contains(domain.start_value())
        assert domain.off is None or domain.contains(domain.off)
        assert isinstance(domain, Choice) or domain.limits[0] <= domain.low
    assert any(domain.off is not None for domain in regularizer.knobs.values())


def test_knob_names_belong_to_one_file() -> None:
    owners: dict[str, str] = {}
    for name in NAMES:
        for knob in load(name).knobs:
            assert knob.split(".")[0].startswith(name), f"{knob} should begin with {name}"
            assert owners.setdefault(knob, name) == name


@pytest.mark.parametrize("shape", [dict, as_scalars, as_vectors], ids=["float", "0-d", "(B,)"])
def test_off_is_the_identity(regularizer: Regularizer, shape: type[dict[str, float]]) -> None:
    assert torch.equal(
        effect(regularizer, shape(off(regularizer))).flat(), untouched(regularizer).flat()
    )


@pytest.mark.parametrize("unit", [0.2, 0.9])
def test_one_strength_equals_that_strength_for_every_example(
    regularizer: Regularizer, unit: float
) -> None:
    h = strengths(regularizer, unit)
    expected = effect(regularizer, h).flat()
    assert not torch.equal(expected, untouched(regularizer).flat())
    for shape in (as_scalars, as_vectors):
        torch.testing.assert_close(effect(regularizer, shape(h)).flat(), expected)


def test_single_precision_works(regularizer: Regularizer) -> None:
    batch, parameters = case()
    h = {name: value.float() for name, value in as_vectors(strengths(regularizer, 0.5)).items()}
    rng = torch.Generator().manual_seed(1)
    small = Batch(batch.inputs.float(), batch.targets.float())
    results: list[Tensor] = []
    if regularizer.batch:
        results += regularizer.batch(small, h, rng)
    if regularizer.activation:
        results.append(regularizer.activation(small.inputs, h, rng, SITES[0]))
    if regularizer.target:
        results.append(regularizer.target(small.targets, h, rng))
    if regularizer.loss_example:
        results.append(regularizer.loss_example(losses().float(), h))
    weights = {name: weight.float() for name, weight in parameters.items()}
    if regularizer.parameter:
        results += regularizer.parameter(weights, h, rng).values()
    if regularizer.penalty:
        results.append(regularizer.penalty(weights, h))
    assert all(result.dtype == torch.float32 for result in results)


def test_the_generator_is_the_only_randomness(regularizer: Regularizer) -> None:
    h = strengths(regularizer, 0.5)
    before = torch.random.get_rng_state()
    first, again = effect(regularizer, h).flat(), effect(regularizer, h).flat()
    assert torch.equal(first, again)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_number_of_draws_does_not_depend_on_the_strength(regularizer: Regularizer) -> None:
    ends = []
    for h in (off(regularizer), strengths(regularizer, 0.3), strengths(regularizer, 0.9)):
        rng = torch.Generator().manual_seed(3)
        effect(regularizer, h, rng)
        ends.append(rng.get_state())
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])


@pytest.mark.parametrize("shape", [as_scalars, as_vectors], ids=["0-d", "(B,)"])
def test_the_gradient_in_the_knob_is_that_of_finite_differences(
    regularizer: Regularizer, shape: type[dict[str, Tensor]]
) -> None:
    if not regularizer.differentiable:
        return
    h = shape(strengths(regularizer, 0.6))
    weights = torch.randn(
        effect(regularizer, h).flat().shape,
        generator=torch.Generator().manual_seed(5),
        dtype=torch.float64,
    )

    def loss(h: Mapping[str, Tensor]) -> Tensor:
        return effect(regularizer, h).flat() @ weights

    for name in h:
        leaf = h[name].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss({**h, name: leaf}), leaf)
        step = 1e-5 * float(h[name].max())
        above, below = (loss({**h, name: h[name] + sign * step}) for sign in (1, -1))
        slope = (above - below) / (2 * step)
        assert float(gradient.abs().sum()) > 0
        torch.testing.assert_close(gradient.sum(), slope, rtol=1e-5, atol=1e-8)


def test_the_gradient_at_off_is_finite(regularizer: Regularizer) -> None:
    if not regularizer.differentiable:
        return
    h = {name: value.requires_grad_() for name, value in as_vectors(off(regularizer)).items()}
    gradients = torch.autograd.grad(effect(regularizer, h).flat().sum(), list(h.values()))
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_the_scope_is_what_an_experiment_shows(regularizer: Regularizer) -> None:
    h = as_vectors(strengths(regularizer, 0.3))
    base = effect(regularizer, h)
    stronger = strengths(regularizer, 0.9)
    for name, scope in regularizer.scope.items():
        touched = 0
        for row in range(EXAMPLES):  # a draw may keep one example from showing it
            changed = h[name].clone()
            changed[row] = stronger[name]
            after = effect(regularizer, {**h, name: changed})
            touched += not torch.equal(base.flat(), after.flat())
            if scope == "example":
                assert not base.shared
                others = torch.arange(EXAMPLES) != row
                for a, b in zip(base.per_example, after.per_example, strict=True):
                    assert torch.equal(a[others], b[others]), "another example was affected"
            else:
                moved = effect(regularizer, {**h, name: changed.roll(2)})
                torch.testing.assert_close(after.flat(), moved.flat())
        assert touched


def test_a_wrong_number_of_strengths_is_an_error(regularizer: Regularizer) -> None:
    h = {name: torch.full((EXAMPLES - 1,), 0.1) for name in regularizer.knobs}
    if set(regularizer.scope.values()) == {"example"}:
        with pytest.raises(HpoError, match="do not fit a batch"):
            effect(regularizer, h)


# What single regularizers promise beside the contract.


def test_dropout_keeps_the_mean_and_drops_whole_channels_at_channel_sites() -> None:
    hook = load("dropout").activation
    assert hook is not None
    rng = torch.Generator().manual_seed(0)
    ones = torch.ones(64, 32, 5, 5)
    rates = torch.linspace(0, 0.7, 64)
    plain = hook(ones, {"dropout": rates}, rng, nn.Dropout())
    assert abs(float(plain.mean()) - 1) < 0.01
    assert abs(float((plain[-1] == 0).float().mean()) - 0.7) < 0.1
    channels = hook(ones, {"dropout": rates}, rng, nn.Dropout2d())
    assert torch.equal(channels, channels[:, :, :1, :1].expand_as(channels))
    assert torch.equal(hook(ones, {"dropout": 0.5}, rng, nn.AlphaDropout()), ones)


def test_mixup_draws_from_the_folded_beta_distribution() -> None:
    from scipy import stats

    from search_spaces.regularizers.mixup import folded_beta

    radius, angle = torch.rand(
        2, 20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    for alpha in (0.3, 1.0, 4.0):  # below, doubles put too many shares on exactly 1
        share = folded_beta(alpha, radius, angle)

        def folded(x: float, alpha: float = alpha) -> float:
            return 2 * stats.beta.cdf(x, alpha, alpha) - 1

        assert stats.kstest(share.numpy(), folded).pvalue > 0.01


@pytest.mark.parametrize("shape", [(4,), (4, 2)])
def test_mixup_blends_inputs_and_regression_targets_alike(shape: tuple[int, ...]) -> None:
    hook = load("mixup").batch
    assert hook is not None
    inputs = torch.arange(4.0)[:, None].repeat(1, 3)
    targets = torch.arange(4.0).reshape(4, *[1] * (len(shape) - 1)).expand(shape)
    mixed = hook(Batch(inputs, targets), {"mixup": 1.0}, torch.Generator().manual_seed(2))
    assert mixed.targets.shape == shape
    torch.testing.assert_close(mixed.inputs[:, 0], mixed.targets.reshape(4, -1)[:, 0])


def test_class_indices_and_token_inputs_are_refused_with_a_sentence() -> None:
    rng = torch.Generator()
    whole = Batch(torch.zeros(2, 3), torch.tensor([0, 1]))
    mixup, noise, smoothing = load("mixup"), load("input_noise"), load("label_smoothing")
    assert mixup.batch and noise.batch and smoothing.target
    with pytest.raises(HpoError, match="one-hot"):
        mixup.batch(whole, {"mixup": 0.5}, rng)
    with pytest.raises(HpoError, match="floating-point"):
        noise.batch(
            Batch(torch.zeros(2, 3, dtype=torch.long), whole.targets), {"input_noise": 1.0}, rng
        )
    with pytest.raises(HpoError, match="regression"):
        smoothing.target(torch.zeros(2), {"label_smoothing": 0.1}, rng)


def test_weight_decay_is_decoupled_and_never_turns_weights_around() -> None:
    hook = load("weight_decay").optimizer
    assert hook is not None
    weights = {"layer": torch.ones(2, 2, requires_grad=True), "bias": torch.ones(2)}
    hook(weights, {"weight_decay": 0.5}, 0.1)
    torch.testing.assert_close(weights["layer"].detach(), torch.full((2, 2), 0.95))
    assert torch.equal(weights["bias"], torch.ones(2))
    hook(weights, {"weight_decay": 100.0}, 0.1)
    assert torch.equal(weights["layer"].detach(), torch.zeros(2, 2))


def test_l2_is_half_the_squared_length() -> None:
    hook = load("l2").penalty
    assert hook is not None
    parameters = {"layer": torch.full((2, 2), 3.0), "bias": torch.ones(5)}
    assert float(hook(parameters, {"l2": 0.1})) == pytest.approx(0.5 * 0.1 * 36)
    assert float(hook({"bias": torch.ones(5)}, {"l2": 0.1})) == 0


def test_focal_weighs_by_the_probability_of_the_right_class() -> None:
    hook = load("focal").loss_example
    assert hook is not None
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()
    targets = torch.tensor([0, 1, 2, 1, 0])
    loss = nn.functional.cross_entropy(logits, targets, reduction="none")
    right = logits.softmax(1)[torch.arange(5), targets]
    gamma = torch.tensor([0.0, 0.5, 1.0, 2.0, 5.0]).double()
    torch.testing.assert_close(hook(loss, {"focal": gamma}), (1 - right) ** gamma * loss)
    learnt = torch.tensor([0.0, -1.0, 1e-30], requires_grad=True)
    for strength in (0.0, 0.01, 2.0):
        (gradient,) = torch.autograd.grad(hook(learnt, {"focal": strength}).sum(), learnt)
        assert bool(gradient.isfinite().all())


def test_weight_noise_is_relative_to_each_tensor_and_leaves_vectors() -> None:
    hook = load("weight_noise").parameter
    assert hook is not None
    rng = torch.Generator().manual_seed(0)
    weights = {"small": 0.01 * torch.ones(80, 80), "large": 5 * torch.ones(80, 80, 1, 1)}
    weights["bias"] = torch.ones(80)
    used = hook(weights, {"weight_noise": 0.3}, rng)
    assert used["bias"] is weights["bias"]
    for name, size in (("small", 0.01), ("large", 5.0)):
        noise = used[name] - weights[name]
        assert abs(float(noise.mean())) < 0.02 * size
        assert float(noise.std()) == pytest.approx(0.3 * size, rel=0.05)
    weight = torch.ones(3, 3, requires_grad=True)
    total = hook({"w": weight}, {"weight_noise": 0.3}, rng)["w"].sum()
    (gradient,) = torch.autograd.grad(total, weight)
    assert torch.equal(gradient, torch.ones(3, 3))


def test_activation_noise_multiplies_and_is_shared_by_a_channel_at_channel_sites() -> None:
    hook = load("activation_noise").activation
    assert hook is not None
    rng = torch.Generator().manual_seed(0)
    h = {"activation_noise": torch.tensor([0.0, 0.1, 0.4])}
    plain = hook(2 * torch.ones(3, 5000), h, rng, nn.Dropout())
    assert float(plain.mean()) == pytest.approx(2.0, abs=0.02)
    torch.testing.assert_close(plain.std(1), torch.tensor([0.0, 0.2, 0.8]), rtol=0.05, atol=0)
    channels = hook(torch.ones(3, 7, 4, 4), h, rng, nn.Dropout2d())
    assert torch.equal(channels, channels[:, :, :1, :1].expand_as(channels))
    assert len(channels[2, :, 0, 0].unique()) == 7


def test_a_regularizer_without_a_hook_is_refused() -> None:
    with pytest.raises(HpoError, match="one hook"):
        Regularizer(knobs=load("l2").knobs)
