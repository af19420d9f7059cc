"""What single augmentation policies promise beside the contract of all of them.

Run with: pytest tests/test_augmentation_policies.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from search_spaces import Batch, SearchSpace, catalogue
from search_spaces.augmentation.policies import _each, _fields, _sparse
from search_spaces.augmentation.policies._published import TABLES, published
from search_spaces.augmentation.policies.adversarial import OPERATIONS
from search_spaces.augmentation.values import Range
from search_spaces.errors import HpoError
from search_spaces.passes import Beginning, Pass

pytestmark = pytest.mark.slow

UNIT = Range(0.0, 1.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(rows: int, channels: int = 1, dtype: torch.dtype = torch.float32) -> Batch:
    coarse = torch.rand(rows, channels, 4, 4, generator=generator(7), dtype=dtype)
    images = functional.interpolate(coarse, size=(12, 12), mode="bilinear")
    return Batch(images, torch.arange(rows) % 2)


def hook(name: str) -> Callable[..., Batch]:
    found = catalogue.load(name).batch
    assert found is not None
    return found


def share_changed(before: Tensor, after: Tensor) -> float:
    return float((before != after).flatten(1).any(1).float().mean())


def test_randaugment_carries_out_as_many_operations_as_each_image_is_to_have() -> None:
    batch = pictures(600)
    names = _each.usable(_each.STANDARD, 1)
    idle = names.count("identity") / len(names)
    many = torch.tensor([0, 1, 2, 4]).repeat(150)
    h = {"randaugment.magnitude": 20.0, "randaugment.operations": many}
    after = hook("randaugment")(UNIT, batch, h, generator()).inputs
    for number in (0, 1, 2, 4):
        rows = many == number
        found = share_changed(batch.inputs[rows], after[rows])
        assert found == pytest.approx(1 - idle**number, abs=0.05)
    magnitudes = torch.tensor([0.0, 3.0, 30.0]).repeat(200)
    h = {"randaugment.magnitude": magnitudes, "randaugment.operations": 2}
    after = hook("randaugment")(UNIT, batch, h, generator()).inputs
    change = (after - batch.inputs).abs().mean((1, 2, 3)).reshape(-1, 3).mean(0)
    assert change[0] == 0 and change[2] > 1.5 * change[1] > 0


def test_every_operation_of_a_list_is_drawn_alike() -> None:
    draws = _each.whole_draws((14_000,), 14, torch.zeros(1), generator())
    counts = torch.bincount(draws, minlength=14)
    assert len(counts) == 14 and int(counts.min()) > 850 and int(counts.max()) < 1150


def test_grey_images_have_no_operation_that_needs_colour() -> None:
    assert "saturation" in _each.usable(_each.STANDARD, 3)
    grey = _each.usable(_each.STANDARD, 1)
    assert set(_each.STANDARD) - set(grey) == {"saturation"}


@pytest.mark.parametrize(("name", "changing"), [("trivial", 0.8), ("uniform", 0.6)])
def test_the_share_is_that_of_the_images_that_are_augmented(name: str, changing: float) -> None:
    batch = pictures(900)
    shares = torch.tensor([0.0, 0.4, 1.0]).repeat(300)
    after = hook(name)(UNIT, batch, {name: shares}, generator()).inputs
    found = [share_changed(batch.inputs[p::3], after[p::3]) for p in range(3)]
    assert found[0] == 0 and found[2] > changing
    assert found[1] == pytest.approx(0.4 * found[2], abs=0.08)


def test_the_published_policies_are_those_of_another_library() -> None:
    theirs = pytest.importorskip("kornia.augmentation.auto.autoaugment.autoaugment")
    names = {
        "auto_contrast": "autocontrast",
        "equalize": "equalise",
        "posterize": "posterise",
        "solarize": "solarise",
        "color": "saturation",
    }
    for table in TABLES:
        wanted = getattr(theirs, f"{table}_policy")
        assert len(published(table)) == 25
        for mine, other in zip(published(table), wanted, strict=True):
            for step, (operation, probability, magnitude) in zip(mine, other, strict=True):
                assert step.operation == names.get(operation, operation)
                assert step.probability == probability
                assert step.magnitude == (1.0 if magnitude is None else magnitude / 9)


def searched(**given: Any) -> dict[str, Any]:
    starts = {k: d.start_value() for k, d in catalogue.load("autoaugment").knobs.items()}
    return {**starts, **{f"autoaugment.{knob}": value for knob, value in given.items()}}


def test_autoaugment_applies_the_two_operations_of_one_sub_policy_in_order() -> None:
    batch = pictures(400)
    pairs = {f"{n}{letter}": op for n in range(1, 6) for letter, op in _INVERT_THEN_BRIGHT.items()}
    certain = {f"{slot}_probability": 1.0 for slot in pairs}
    most = {f"{slot}_magnitude": 9.0 for slot in pairs}
    h = searched(**pairs, **certain, **most)
    after = hook("autoaugment")(UNIT, batch, h, generator()).inputs
    inverted = 1 - batch.inputs
    brighter, darker = (inverted * 1.9).clamp(0, 1), (inverted * 0.1).clamp(0, 1)
    near = [(after - wanted).abs().amax((1, 2, 3)) < 1e-5 for wanted in (brighter, darker)]
    assert bool((near[0] | near[1]).all())
    assert 0.4 < float(near[0].float().mean()) < 0.6, "the sign is drawn for each image"


_INVERT_THEN_BRIGHT = {"a": "invert", "b": "brightness"}


def test_autoaugment_keeps_to_its_probabilities_for_each_image() -> None:
    batch = pictures(900)
    slots = [f"{n}{letter}" for n in range(1, 6) for letter in "ab"]
    chances = torch.tensor([0.0, 0.3, 1.0]).repeat(300)
    never = {f"{slot}_probability": 0.0 for slot in slots if slot.endswith("b")}
    first = {f"{slot}_probability": chances for slot in slots if slot.endswith("a")}
    h = searched(**dict.fromkeys(slots, "invert"), **never, **first)
    after = hook("autoaugment")(UNIT, batch, h, generator()).inputs
    found = [share_changed(batch.inputs[p::3], after[p::3]) for p in range(3)]
    assert found[0] == 0 and found[2] == 1 and found[1] == pytest.approx(0.3, abs=0.08)


def test_a_space_may_leave_out_what_the_conditions_of_its_knobs_name() -> None:
    known = catalogue.load("autoaugment").knobs
    whole = SearchSpace.parse(["autoaugment.policy", "autoaugment.1a"], known)
    assert whole["autoaugment.1a"].when == {"autoaugment.policy": ("searched",)}
    alone = SearchSpace.parse(["autoaugment.1a", "autoaugment.1a_magnitude"], known)
    assert alone["autoaugment.1a"].when == {}
    with pytest.raises(HpoError, match="unknown knob 'no'"):
        SearchSpace.parse({"autoaugment.1a": {"when": {"no": "searched"}}}, known)


@pytest.mark.parametrize("table", list(TABLES))
@pytest.mark.parametrize("channels", [1, 3])
def test_published_policies_need_no_searched_knob(table: str, channels: int) -> None:
    batch = pictures(64, channels)
    h = {"autoaugment": 1.0, "autoaugment.policy": table}
    after = hook("autoaugment")(UNIT, batch, h, generator()).inputs
    assert share_changed(batch.inputs, after) > 0.5 and bool(after.isfinite().all())


def test_augmix_is_a_blend_of_the_image_with_its_chains() -> None:
    batch = pictures(300)
    constant = batch._replace(inputs=torch.full_like(batch.inputs, 0.25))
    h = {"augmix": 10.0, "augmix.chains": 3, "augmix.width": 1.0}
    after = hook("augmix")(UNIT, constant, h, generator()).inputs
    # Of a constant image the chains leave values between what solarise and posterise make of it.
    assert float(after.min()) >= 0 and float(after.max()) <= 0.75 + 1e-6
    assert len(after.flatten(1).mean(1).unique()) > 20
    one = {**h, "augmix.chains": torch.tensor([1, 2, 3]).repeat(100), "augmix": 5.0}
    change = (hook("augmix")(UNIT, batch, one, generator()).inputs - batch.inputs).abs()
    sizes = change.mean((1, 2, 3)).reshape(-1, 3).mean(0)
    assert float(sizes[0]) > float(sizes[2]) > 0, "more chains average more"


def test_augmix_asks_predictions_to_agree_by_their_jensen_shannon_divergence() -> None:
    record = catalogue.load("augmix")
    assert record.loss_output
    logits = torch.randn(3, 5, 4, generator=generator(), dtype=torch.float64)
    batch = Batch(torch.zeros(5, 1, 2, 2), torch.zeros(5))
    other = batch._replace(inputs=torch.ones(5, 1, 2, 2))
    asked: list[float] = []

    def again(inputs: Tensor) -> Tensor:
        asked.append(float(inputs.mean()))
        return logits[1] if float(inputs.mean()) == 0 else logits[2]

    forward = Pass(nn.Identity(), batch, batch, logits[0], again, again, lambda: other)
    added = record.loss_output(UNIT, forward, {"augmix.consistency": 12.0}, generator())
    likely = logits.softmax(2)
    middle = likely.mean(0)
    wanted = sum((p * (p / middle).log()).sum(1) for p in likely) / 3
    torch.testing.assert_close(added, 12 * wanted)
    assert sorted(asked) == [0.0, 1.0]
    nothing = record.loss_output(UNIT, forward, {"augmix.consistency": 0.0}, generator())
    assert torch.equal(nothing, torch.zeros(5, dtype=torch.float64)) and len(asked) == 2


def test_the_relaxed_choice_is_continuous_and_its_favourite_is_a_draw_from_the_softmax() -> None:
    scores = torch.tensor([[2.0, 1.0, 1.0 - 1e-6, 0.3]], dtype=torch.float64)
    swapped = scores[:, [0, 2, 1, 3]]
    temperature = torch.ones(1, 1, dtype=torch.float64)
    for given in (scores, swapped):
        places, shares = _sparse.pair(given, temperature)
        assert int(places[0, 0]) == 0 and float(shares.sum()) == pytest.approx(1)
        assert float(shares[0, 1]) < 1e-5, "what is about to leave has no share any more"
    weights = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    draws = torch.rand(20_000, 4, generator=generator()).clamp(min=1e-20)
    places, shares = _sparse.pair(weights - (-draws.log()).log(), torch.full((20_000, 1), 0.01))
    counts = torch.bincount(places[:, 0], minlength=4) / 20_000
    torch.testing.assert_close(counts, weights.exp(), rtol=0, atol=0.015)
    assert float((shares[:, 0] > 0.99).float().mean()) > 0.9


def relaxed(**given: Any) -> dict[str, Any]:
    starts = {k: d.start_value() for k, d in catalogue.load("relaxed").knobs.items()}
    return {**starts, "relaxed": 1.0, **{f"relaxed.{k}": v for k, v in given.items()}}


@pytest.mark.parametrize("mixing", ["softmax", "max_w"])
def test_the_gradient_of_relaxed_is_unbiased_for_the_mean_loss(mixing: str) -> None:
    rows = 6000
    image = pictures(1, dtype=torch.float64).inputs[:, :, 3:9, 3:9]
    batch = Batch(image.expand(rows, -1, -1, -1), torch.zeros(rows))
    weights = torch.linspace(-1, 1, 10, dtype=torch.float64)
    brightness = functional.one_hot(torch.tensor(6), 10)

    def mean_loss(shift: Tensor, seed: int) -> Tensor:
        h = relaxed(weights=weights + shift * brightness, mixing=mixing, magnitudes=(1.0,) * 10)
        after = hook("relaxed")(UNIT, batch, h, generator(seed)).inputs
        return (10 * (after - batch.inputs).square().mean((1, 2, 3))).tanh().mean()

    slopes, gradients = [], []
    for seed in range(6):
        zero = torch.zeros((), dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(mean_loss(zero, seed), zero)
        gradients.append(gradient)
        far = torch.tensor(0.2, dtype=torch.float64)  # on the way the operations taking part change
        slopes.append((mean_loss(far, seed) - mean_loss(-far, seed)) / (2 * far))
    gradient, slope = torch.stack(gradients), torch.stack(slopes)
    noise = float((gradient - slope).std()) / 6**0.5
    wanted = float(slope.mean())
    assert wanted > 15 * noise, "the slope is seen above the noise"
    # A choice that merely drops all but two is off by a quarter to a half here.
    assert float(gradient.mean()) == pytest.approx(wanted, abs=4 * noise + 0.03 * wanted)


def test_relaxed_can_settle_on_one_operation() -> None:
    batch = pictures(200)
    only = torch.full((10,), -30.0)
    only[6] = 30.0  # brightness
    most = {"probabilities": (1.0,) * 10, "magnitudes": (1.0,) * 10}
    h = relaxed(weights=only, operations=1, temperature=0.05, **most)
    after = hook("relaxed")(UNIT, batch, h, generator()).inputs
    bright, dark = (batch.inputs * 1.9).clamp(0, 1), batch.inputs * 0.1
    near = [(after - wanted).abs().amax((1, 2, 3)) < 1e-4 for wanted in (bright, dark)]
    assert bool((near[0] | near[1]).all())
    with pytest.raises(HpoError, match="holds 10 numbers"):
        hook("relaxed")(UNIT, batch, relaxed(weights=torch.zeros(4)), generator())


def test_a_vector_of_another_size_is_refused_before_training() -> None:
    from objectives.training.places import Places

    record = catalogue.load("relaxed")
    model = nn.Linear(2, 2)
    Places(model, {"relaxed.weights": (0.0,) * 10}).check("relaxed", record, "relaxed.weights")
    with pytest.raises(HpoError, match="has size 4, but relaxed takes 10") as error:
        Places(model, {"relaxed.weights": (0.0,) * 4}).check("relaxed", record, "relaxed.weights")
    assert error.value.code == "bad-vector"


def test_relaxed_takes_vectors_of_each_example() -> None:
    batch = pictures(8)
    each = torch.linspace(0.1, 0.9, 80).reshape(8, 10)
    whole = hook("relaxed")(UNIT, batch, relaxed(magnitudes=each), generator()).inputs
    one = tuple(float(v) for v in each[3])
    alone = hook("relaxed")(UNIT, batch, relaxed(magnitudes=one), generator()).inputs
    torch.testing.assert_close(whole[3], alone[3])


# Policies that listen to the model.


class Brightness(nn.Module):
    """Says class 1 for bright images: no warp matters to it, brightness does."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(12.0))

    def forward(self, images: Tensor) -> Tensor:
        bright = self.scale * (images.mean((1, 2, 3)) - 0.5)
        return torch.stack([-bright, bright], dim=1)


def shades(rows: int = 64) -> Batch:
    """Images without shape, dark and bright."""
    bright = torch.linspace(0.2, 0.8, rows)
    inputs = bright.reshape(-1, 1, 1, 1).expand(rows, 1, 12, 12).clone()
    return Batch(inputs, (bright > 0.5).long())


def memory_of(name: str, batch: Batch, model: nn.Module) -> Any:
    def losses(model: nn.Module, batch: Batch) -> Tensor:
        return functional.cross_entropy(model(batch.inputs), batch.targets, reduction="none")

    def batches() -> Iterator[Batch]:
        yield batch

    remember = catalogue.load(name).remember
    assert remember is not None
    return remember(Beginning(model, losses, batches, 2, None, 0, torch.device("cpu")))


def taught(name: str, batch: Batch, model: nn.Module, steps: int, h: dict[str, Any]) -> Any:
    """What the policy remembers after so many steps of learning from a model that stands still."""
    memory, learn = memory_of(name, batch, model), catalogue.load(name).learn
    assert learn is not None
    rng = generator(1)
    for _ in range(steps):
        passed = Pass(model, batch, batch, model(batch.inputs), model, model, lambda: batch)
        learn(memory, passed, h, rng)
    return memory


def test_instance_learns_to_leave_alone_what_the_model_needs() -> None:
    h = {"instance": 1.0, "instance.entropy": 0.05, "instance.rate": 0.03}
    memory = taught("instance", shades(), Brightness(), 60, h)
    ranges = memory.ranges(shades().inputs).mean(0).detach()
    found = dict(zip(_fields.NAMES, ranges.tolist(), strict=True))
    assert found["brightness"] < 0.4, "it would change the class"
    assert all(found[name] > 0.7 for name in _fields.WARPS), "entropy is free where nothing is lost"


def test_instance_gives_each_image_its_own_ranges() -> None:
    h = {"instance": 1.0, "instance.entropy": 0.05, "instance.rate": 0.03}
    memory = taught("instance", shades(), Brightness(), 120, h)
    place = _fields.NAMES.index("brightness")
    ranges = memory.ranges(shades().inputs)[:, place].detach()
    edge = int((shades().targets == 0).sum())
    near, far = ranges[edge - 4 : edge + 4].mean(), torch.cat([ranges[:8], ranges[-8:]]).mean()
    assert float(near) != pytest.approx(float(far), rel=0.02)


def test_the_adversary_finds_what_the_model_fails_on() -> None:
    h = {"adversarial": 1.0, "adversarial.entropy": 0.01, "adversarial.rate": 0.1}
    memory = taught("adversarial", shades(), Brightness(), 120, h)
    likely = memory.net["choice"].softmax(0).tolist()
    found = dict(zip(OPERATIONS, likely, strict=True))
    assert max(found, key=lambda name: found[name]) == "brightness" and found["brightness"] > 0.4
    level = memory.net["level"].detach().sigmoid()[OPERATIONS.index("brightness")]
    assert float(level) > 0.7, "its magnitude ascends the loss"
    strength = torch.linspace(0, 1, 64)
    most = memory.magnitudes({"adversarial": strength}, shades().inputs).amax(1)
    assert bool((most <= strength).all())


def test_the_worst_of_k_is_the_worst_and_grows_with_k() -> None:
    batch, model = pictures(120), Brightness()
    judge = memory_of("worst_of_k", batch, model)
    base = {"worst_of_k": 9.0, "worst_of_k.operations": 2}
    losses = []
    for candidates in (1, 2, 5):
        h = {**base, "worst_of_k.candidates": candidates}
        after = hook("worst_of_k")(judge, batch, h, generator())
        losses.append(judge.losses(after, "test").detach())
    assert all(bool((more >= less - 1e-5).all()) for less, more in pairwise(losses))
    assert float(losses[2].mean()) > float(losses[0].mean()) + 0.05
    each = torch.tensor([1, 2, 5]).repeat(40)
    mixed = hook("worst_of_k")(judge, batch, {**base, "worst_of_k.candidates": each}, generator())
    found = judge.losses(mixed, "test").detach()
    for place in range(3):
        torch.testing.assert_close(found[place::3], losses[place][place::3])


def test_the_policy_of_masks_moves_them_to_where_the_loss_is_lower() -> None:
    batch, model = shades(), Brightness()
    h = {"score_function": 0.5, "score_function.rate": 0.05}
    before = memory_of("score_function", batch, model)
    after = taught("score_function", batch, model, 150, h)

    def mean_loss(memory: Any) -> float:
        found = [
            memory.judge.losses(hook("score_function")(memory, batch, h, generator(seed)), "test")
            for seed in range(20)
        ]
        return float(torch.cat(found).detach().mean())

    assert mean_loss(after) < 0.8 * mean_loss(before)
    first, second = (shape.detach() for shape in after.shapes(batch.inputs))
    middle = (first / (first + second)).mean((1, 2))
    bright = batch.targets == 1
    assert float(middle[bright].mean()) > float(middle[~bright].mean()) + 0.1


def test_the_score_function_is_unbiased() -> None:
    from search_spaces.augmentation.policies import _gammas

    shapes = torch.full((60_000, 2, 1), 2.0, dtype=torch.float64)
    shift = torch.zeros((), dtype=torch.float64, requires_grad=True)
    likely = torch.distributions.Beta(shapes + shift, shapes, validate_args=False)
    masks = [_gammas.beta(shapes, shapes, generator(seed)) for seed in (1, 2)]
    losses = [(3 * mask).square().sum((1, 2)) for mask in masks]
    logs = [likely.log_prob(mask).sum((1, 2)) for mask in masks]
    gain = ((losses[0] - losses[1]) / 2 * (logs[0] - logs[1])).mean()
    (estimate,) = torch.autograd.grad(gain, shift)

    def exact(a: Tensor) -> Tensor:  # of 9 E[m^2] for two cells, m ~ Beta(a, 2)
        return 2 * 9 * a * (a + 1) / ((a + 2) * (a + 3))

    a = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    (wanted,) = torch.autograd.grad(exact(a), a)
    assert float(estimate) == pytest.approx(float(wanted), rel=0.05)


# Mixing.


def soft(rows: int, classes: int = 5) -> Batch:
    images = pictures(rows).inputs
    return Batch(images, functional.one_hot(torch.arange(rows) % classes, classes).float())


def test_cutmix_blends_the_targets_by_the_area_that_is_pasted() -> None:
    targets = torch.eye(200)
    images = torch.arange(200.0).reshape(-1, 1, 1, 1).expand(200, 2, 9, 13).clone()
    h = {"cutmix": torch.linspace(0, 2, 200), "cutmix_probability": 1.0}
    mixed = hook("cutmix")(Batch(images, targets), h, generator())
    torch.testing.assert_close(mixed.targets.sum(1), torch.ones(200))
    shown = mixed.targets @ torch.arange(200.0)
    torch.testing.assert_close(mixed.inputs.mean((1, 2, 3)), shown, rtol=1e-4, atol=1e-3)
    assert float(mixed.targets.diagonal().min()) >= 0.5 - 1e-6, "the image itself prevails"
    assert torch.equal(mixed.inputs[0], images[0])
    changed = (mixed.inputs[150] != 150).all(0)
    rows, columns = changed.any(1).sum(), changed.any(0).sum()
    assert int(changed.sum()) == int(rows * columns), "a box"


def test_cutmix_is_differentiable_in_alpha_for_given_draws() -> None:
    batch = soft(30)
    batch = Batch(batch.inputs.double(), batch.targets.double())

    def total(alpha: Tensor) -> Tensor:
        h = {"cutmix": alpha, "cutmix_probability": 1.0}
        mixed = hook("cutmix")(batch, h, generator(3))
        return mixed.inputs.square().sum() + mixed.targets.square().sum()

    alpha = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(total(alpha), alpha)
    step = 1e-7
    slope = (total(alpha.detach() + step) - total(alpha.detach() - step)) / (2 * step)
    assert float(gradient) == pytest.approx(float(slope), rel=1e-4)


def looking(place: int) -> nn.Module:
    """A model whose convolution answers to bright pixels."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Flatten(), nn.Linear(14 * 14, 5))
    with torch.no_grad():
        model[0].weight.fill_(float(place))
    return model


def test_attentive_cutmix_pastes_the_cells_that_the_model_looks_at_most() -> None:
    rows = 40
    images = torch.full((rows, 1, 14, 14), 0.1)
    images[:, :, 4:8, 2:6] = 1.0  # four cells of 2 x 2 pixels
    images = images + 0.001 * torch.arange(rows).reshape(-1, 1, 1, 1)
    targets = torch.eye(rows)
    model = looking(1).train()
    h = {"attentive_cutmix": 4, "attentive_cutmix_probability": 1.0}
    mixed = hook("attentive_cutmix")(model, Batch(images, targets), h, generator())
    assert model.training and all(p.grad is None for p in model.parameters())
    moved = (mixed.inputs != images)[:, 0]
    away = mixed.targets.argmax(1) == torch.arange(rows)  # all keep most of themselves
    assert bool(away.all())
    other = mixed.targets.clone().fill_diagonal_(0).argmax(1)
    paired = mixed.targets.diagonal() < 1
    assert float(mixed.targets[paired].diagonal().numel()) > 0
    torch.testing.assert_close(mixed.targets.sum(1), torch.ones(rows))
    for row in paired.nonzero()[:, 0].tolist():
        assert bool(moved[row, 4:8, 2:6].all()) and int(moved[row].sum()) == 16
        torch.testing.assert_close(mixed.inputs[row, :, 4:8, 2:6], images[other[row], :, 4:8, 2:6])
        assert float(mixed.targets[row, other[row]]) == pytest.approx(4 / 49)


def test_attentive_cutmix_refuses_a_model_without_convolutions() -> None:
    h = {"attentive_cutmix": 4, "attentive_cutmix_probability": 1.0}
    with pytest.raises(HpoError, match="this model has none") as error:
        model = nn.Sequential(nn.Flatten(), nn.Linear(144, 5))
        hook("attentive_cutmix")(model, soft(4), h, generator())
    assert error.value.code == "unsuited-model"


@pytest.mark.parametrize("name", ["cutmix", "attentive_cutmix"])
def test_mixing_is_off_at_zero_and_wants_soft_targets(name: str) -> None:
    record = catalogue.load(name)
    memory = () if record.remember is None else (looking(1)[:1],)
    batch = soft(12)
    for strength in (0, torch.tensor(0.0), torch.zeros(12)):
        h = {name: strength, f"{name}_probability": 1.0}
        mixed = hook(name)(*memory, batch, h, generator())
        assert torch.equal(mixed.inputs, batch.inputs)
        assert torch.equal(mixed.targets, batch.targets)
    with pytest.raises(HpoError, match="one-hot"):
        hook(name)(*memory, pictures(4), {name: 1, f"{name}_probability": 1.0}, generator())
