"""Every file in search_spaces/augmentation/operations keeps the contract of an operation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from search_spaces import Batch, HpoError, Regularizer, plugins
from search_spaces.augmentation.operation import SHAPES, Operation, as_regularizer
from search_spaces.augmentation.split import Split
from search_spaces.augmentation.values import Range

pytestmark = pytest.mark.slow

PACKAGE = "search_spaces.augmentation.operations"
NAMES = plugins.names(PACKAGE)
ROWS = 6
WORDS = 50  # different tokens

# Shapes of an example; of images the two last numbers, which the number of channels comes before.
SIZES: dict[str, list[tuple[int, ...]]] = {
    "image": [(8, 8), (28, 28), (9, 14)],
    "series": [(2, 40), (1, 33)],
    "table": [(12,), (5,)],
    "tokens": [(30,), (17,)],
}

# Those that make a step at an amount of zero, and how large it is.
STEPS = {"posterise": 1 / 255}  # values between those of eight bits are put on them

# Those whose gradient is not the derivative, which knows nothing of jumps. It is compared with how
# the mean over many examples changes.
THROUGH_JUMPS = ("posterise", "solarise")

# Those that draw for each channel by itself.
BY_CHANNEL = ("noise", "quantise")


def load(name: str) -> Operation:
    found = plugins.load(PACKAGE, name, "OPERATION")
    assert isinstance(found, Operation)
    return found


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture
def operation(name: str) -> Operation:
    return load(name)


def sizes(operation: Operation) -> list[tuple[int, ...]]:
    """The shapes of examples that this operation is tried on."""
    if operation.kind != "image":
        return SIZES[operation.kind]
    channels = [operation.channels] if operation.channels else [1, 3]
    return [(c, *size) for c in channels for size in SIZES["image"]]


def examples(
    operation: Operation,
    size: tuple[int, ...],
    rows: int = ROWS,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Smooth images between 0 and 1, waves, normal numbers, words."""
    rng = torch.Generator().manual_seed(seed)
    if operation.kind == "tokens":
        return torch.randint(1, WORDS, (rows, *size), generator=rng)
    if operation.kind == "image":
        coarse = torch.rand(rows, size[0], 4, 4, generator=rng, dtype=torch.float64)
        resized = torch.nn.functional.interpolate(coarse, size[1:], mode="bilinear")
        return resized.to(dtype)
    drawn = torch.randn(rows, *size, generator=rng, dtype=torch.float64)
    return (drawn.cumsum(-1) / 4 if operation.kind == "series" else drawn).to(dtype)


def applied(operation: Operation, inputs: Tensor, amounts: Tensor, seed: int = 1) -> Tensor:
    """The examples after the operation, which must leave its arguments alone."""
    before = inputs.detach().clone()
    after = operation.apply(inputs, amounts, torch.Generator().manual_seed(seed))
    assert torch.equal(inputs, before), "changed in place"
    assert after.shape == inputs.shape and after.dtype == inputs.dtype
    return after


def regularized(
    name: str, inputs: Tensor, strength: float | Tensor, rng: torch.Generator | None = None
) -> Tensor:
    """The inputs after the operation as the regularizer that it is by itself."""
    record = as_regularizer(name, load(name))
    assert isinstance(record, Regularizer) and record.batch
    rng = rng or torch.Generator().manual_seed(1)
    memory = (Range(0.0, 1.0),) if record.remember else ()
    batch = Batch(inputs, torch.zeros(len(inputs)))
    changed: Tensor = record.batch(*memory, batch, {f"augment.{name}": strength}, rng).inputs
    return changed


def amounts(operation: Operation, share: float, rows: int = ROWS, sign: int = 1) -> Tensor:
    """This share of the amount of a policy's magnitude 1; a switch is on."""
    share = 1.0 if operation.ways == "switch" else share
    return torch.full((rows,), sign * share * operation.full, dtype=torch.float64)


def test_the_range_begins_at_off_and_holds_a_full_amount_within_its_limits(
    operation: Operation,
) -> None:
    knob = operation.knob
    assert knob.off == 0 and knob.contains(knob.start_value())
    assert 0 < operation.full <= knob.limits[1] and knob.high <= knob.limits[1]
    assert operation.kind in SHAPES and operation.note
    if operation.ways == "switch":
        assert operation.full == knob.high == 1 and not operation.differentiable


@pytest.mark.parametrize("of", [float, torch.tensor, torch.full], ids=["float", "0-d", "(B,)"])
def test_off_is_exactly_the_identity(
    name: str, operation: Operation, of: Callable[..., float | Tensor]
) -> None:
    strength = of((ROWS,), 0.0) if of is torch.full else of(0.0)
    for size in sizes(operation):
        inputs = examples(operation, size)
        assert torch.equal(regularized(name, inputs, strength), inputs)


def test_an_amount_of_zero_changes_nothing_but_by_rounding(name: str, operation: Operation) -> None:
    for size in sizes(operation):
        inputs = examples(operation, size)
        after = applied(operation, inputs, torch.zeros(ROWS, dtype=torch.float64))
        torch.testing.assert_close(after, inputs, rtol=0, atol=STEPS.get(name, 0) + 1e-8)


def test_single_precision_and_shapes_that_are_not_square_work(operation: Operation) -> None:
    for size in sizes(operation):
        inputs = examples(operation, size, dtype=torch.float32)
        whole = examples(operation, size)
        for share in (0.3, 1.0):
            amount = amounts(operation, share)
            after = applied(operation, inputs, amount.float())
            assert bool(after.isfinite().all())
            assert share < 1 or not torch.equal(after, inputs)
            # Draws of another precision are others: only what draws nothing can be compared.
            draws = not isinstance(operation.apply, Split) or operation.apply.draw
            if operation.kind == "image" and not draws:
                close = (after - applied(operation, whole, amount)).abs() < 1e-4
                assert float(close.double().mean()) > 0.99  # but for values at a jump


def test_the_ends_of_the_range_give_finite_numbers(name: str, operation: Operation) -> None:
    for size in sizes(operation):
        after = regularized(name, examples(operation, size), float(operation.knob.high))
        assert bool(after.isfinite().all())


@pytest.mark.parametrize("sign", [1, -1])
def test_a_larger_amount_changes_more(operation: Operation, sign: int) -> None:
    if operation.ways == "switch" or (sign < 0 and operation.ways == "one"):
        return
    for size in sizes(operation):
        inputs = examples(operation, size, rows=64)
        far = []
        for share in (0.0, 0.15, 0.4, 1.0):
            after = applied(operation, inputs, amounts(operation, share, 64, sign))
            far.append(float((after.double() - inputs.double()).abs().gt(1e-9).double().mean()))
            if operation.kind != "tokens":
                far[-1] = float((after - inputs).abs().mean())
        assert far == sorted(far), far
        assert far[-1] > 1.5 * far[1]


def slopes(
    operation: Operation, inputs: Tensor, amount: Tensor, step: float
) -> tuple[Tensor, Tensor]:
    """For each example the gradient of a weighted sum in its amount, and its finite difference."""
    rng = torch.Generator().manual_seed(5)
    weights = torch.randn(inputs.shape, generator=rng, dtype=torch.float64)

    def losses(amount: Tensor) -> Tensor:
        return (applied(operation, inputs, amount) * weights).flatten(1).sum(1)

    leaf = amount.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(losses(leaf).sum(), leaf)
    with torch.no_grad():
        return gradient, (losses(amount + step) - losses(amount - step)) / (2 * step)


@pytest.mark.parametrize("share", [0.3, 0.83])
def test_the_gradient_in_the_amounts_is_that_of_finite_differences(
    name: str, operation: Operation, share: float
) -> None:
    if not operation.differentiable or name in THROUGH_JUMPS:
        return
    for size in sizes(operation):
        for sign in (1, -1) if operation.ways == "both" else (1,):
            amount = amounts(operation, share, sign=sign)
            gradient, quotient = slopes(operation, examples(operation, size), amount, 1e-7)
            assert bool((gradient != 0).any())
            scale = float(quotient.abs().max())
            torch.testing.assert_close(gradient, quotient, rtol=1e-4, atol=1e-5 * scale + 1e-6)


@pytest.mark.parametrize("name", [name for name in THROUGH_JUMPS if name in NAMES])
def test_a_gradient_through_jumps_is_the_slope_of_the_mean(name: str) -> None:
    operation = load(name)
    rng = torch.Generator().manual_seed(3)
    inputs = torch.rand(1, 1, 400, 500, generator=rng, dtype=torch.float64)

    def mean(amount: Tensor) -> Tensor:
        return (applied(operation, inputs, amount) * (0.2 + inputs)).mean()

    for share in (0.3, 0.6):
        leaf = amounts(operation, share, 1).requires_grad_()
        (gradient,) = torch.autograd.grad(mean(leaf), leaf)
        step = 0.1 * operation.full
        with torch.no_grad():
            quotient = (mean(leaf + step) - mean(leaf - step)) / (2 * step)
        assert float(gradient) == pytest.approx(float(quotient), rel=0.1)


def test_the_gradient_at_off_is_finite(name: str, operation: Operation) -> None:
    if not operation.differentiable:
        return
    strength = torch.zeros(ROWS, dtype=torch.float64, requires_grad=True)
    total = regularized(name, examples(operation, sizes(operation)[0]), strength).sum()
    (gradient,) = torch.autograd.grad(total, strength)
    assert bool(gradient.isfinite().all())
    zeros = torch.zeros(ROWS, dtype=torch.float64, requires_grad=True)
    for seed in (0, 1):
        inputs = examples(operation, sizes(operation)[0], seed=seed)
        inputs[0, ..., :2], inputs[1] = 0, 1  # black, and an image of one value
        (gradient,) = torch.autograd.grad(applied(operation, inputs, zeros).sum(), zeros)
        assert bool(gradient.isfinite().all())


def test_grey_images_change_as_if_their_channel_were_three(name: str, operation: Operation) -> None:
    if operation.kind != "image" or operation.channels or name in BY_CHANNEL:
        return
    for size in SIZES["image"]:
        grey = examples(operation, (1, *size))
        for share in (0.3, 1.0):
            amount = amounts(operation, share)
            three = applied(operation, grey.expand(-1, 3, -1, -1).clone(), amount)
            one = applied(operation, grey, amount)
            torch.testing.assert_close(three, one.expand_as(three))


def test_the_generator_is_the_only_randomness(operation: Operation) -> None:
    inputs = examples(operation, sizes(operation)[0])
    amount = amounts(operation, 0.7)
    before = torch.random.get_rng_state()
    first, again = (applied(operation, inputs, amount) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_number_of_draws_depends_on_the_shape_alone(operation: Operation) -> None:
    size, ends = sizes(operation)[0], []
    for seed, share in ((0, 0.0), (1, 0.4), (2, 1.0)):
        rng = torch.Generator().manual_seed(3)
        amount = torch.zeros(ROWS).double() if not share else amounts(operation, share)
        operation.apply(examples(operation, size, seed=seed), amount, rng)
        ends.append(rng.get_state())
    assert torch.equal(ends[0], ends[1]) and torch.equal(ends[0], ends[2])


def test_an_example_does_not_depend_on_the_others(operation: Operation) -> None:
    for size in sizes(operation):
        inputs, amount = examples(operation, size), amounts(operation, 0.6)
        base = applied(operation, inputs, amount)
        other = examples(operation, size, seed=9)
        for row in (0, 3):
            changed, stronger = inputs.clone(), amount.clone()
            changed[row], stronger[row] = other[row], 0.9 * amounts(operation, 1.0)[0]
            after = applied(operation, changed, stronger)
            others = torch.arange(ROWS) != row
            assert torch.equal(base[others], after[others])
            assert not torch.equal(base[row], after[row])


def test_a_part_of_a_batch_changes_as_in_the_whole(operation: Operation) -> None:
    """With the draws that the whole batch made, where these can be had."""
    if not isinstance(operation.apply, Split):
        return
    change, draw = operation.apply.change, operation.apply.draw
    for size in sizes(operation):
        inputs, amount = examples(operation, size), amounts(operation, 0.6)
        draws = draw(inputs, torch.Generator().manual_seed(1)) if draw else amount
        for part in (slice(0, 1), slice(2, 5)):
            torch.testing.assert_close(
                change(inputs[part], amount[part], draws[part]),
                applied(operation, inputs, amount)[part],
                rtol=1e-12,
                atol=1e-12,
            )


def test_magnitudes_of_policies_give_exactly_the_full_amount_or_a_part(
    operation: Operation,
) -> None:
    like = torch.zeros((), dtype=torch.float64)
    rng = torch.Generator().manual_seed(0)
    for magnitude in (0.0, 0.3, 1.0):
        found = operation.amounts(magnitude, 200, like, rng)
        full = float(magnitude > 0) if operation.ways == "switch" else magnitude * operation.full
        torch.testing.assert_close(found.abs(), torch.full_like(found, full))
        assert bool((found < 0).any()) == (operation.ways == "both" and magnitude > 0)


def test_a_strength_is_the_largest_amount_or_a_probability(operation: Operation) -> None:
    like = torch.zeros((), dtype=torch.float64)
    found = operation.drawn(0.4, 2000, like, torch.Generator().manual_seed(0))
    low = -0.4 if operation.ways == "both" else 0.0
    if operation.ways == "switch":
        assert set(found.tolist()) == {0.0, 1.0}
        assert float(found.mean()) == pytest.approx(0.4, abs=0.05)
        return
    assert low <= float(found.min()) < low + 0.01 and 0.39 < float(found.max()) <= 0.4


def test_inputs_of_another_kind_are_refused_with_a_sentence(
    name: str, operation: Operation
) -> None:
    size = sizes(operation)[0]
    inputs = examples(operation, size)
    for wrong in (inputs[:, None], inputs[:, 0]):
        with pytest.raises(HpoError, match=f"augment.{name} needs inputs of shape") as error:
            regularized(name, wrong, 0.5)
        assert str(tuple(wrong.shape)) in error.value.message and error.value.hint
        assert error.value.code == "bad-batch"
    other = inputs.double() if operation.kind == "tokens" else inputs.long()
    with pytest.raises(HpoError, match="numbers, found torch"):
        regularized(name, other, 0.5)
    if operation.channels:
        with pytest.raises(HpoError, match=f"needs {operation.channels} channels, found 1"):
            regularized(name, inputs[:, :1], 0.5)


def test_a_wrong_number_of_strengths_is_an_error(name: str, operation: Operation) -> None:
    inputs = examples(operation, sizes(operation)[0])
    with pytest.raises(HpoError, match="do not fit a batch"):
        regularized(name, inputs, torch.full((ROWS - 1,), 0.1))
