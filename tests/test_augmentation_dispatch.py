"""Operations drawn for each image and carried out together come to the same as one by one."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from search_spaces import HpoError, catalogue, plugins
from search_spaces.augmentation.dispatch import Plan, augmented, carried_out, planned
from search_spaces.augmentation.fused import fused
from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.split import Split
from search_spaces.augmentation.values import UNIT, Range, scaled

RANDAUGMENT = (
    *("autocontrast", "equalise", "rotate", "solarise", "saturation", "posterise", "contrast"),
    *("brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y"),
)
DRAWING = ("erase", "noise", "elastic", "crop_pad", "translate", "perspective", "quantise")
ROWS, STAGES = 40, 3


def load(name: str) -> Operation:
    found = plugins.load(catalogue.OPERATIONS, name, "OPERATION")
    assert isinstance(found, Operation)
    return found


def operations(channels: int = 3) -> list[Operation | None]:
    found = [load(name) for name in (*RANDAUGMENT, *DRAWING)]
    return [None, *(one for one in found if one.channels in (None, channels))]


def pictures(channels: int = 3, rows: int = ROWS, dtype: torch.dtype = torch.float32) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand(rows, channels, 5, 5, generator=rng)
    return torch.nn.functional.interpolate(coarse, (12, 15), mode="bilinear").to(dtype)


def chosen(count: int, rows: int = ROWS, seed: int = 1) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    which = torch.randint(count, (rows, STAGES), generator=rng)
    magnitudes = torch.rand(rows, STAGES, generator=rng)
    return which, magnitudes * (torch.rand(rows, STAGES, generator=rng) < 0.8)


def one_by_one(images: Tensor, listed: list[Operation | None], plan: Plan, values: Range) -> Tensor:
    """What a loop over images and their operations makes of a plan."""
    rows = []
    for row, image in enumerate(images.split(1)):
        for stage in range(plan.which.shape[1]):
            place = int(plan.which[row, stage])
            operation, amount = listed[place], plan.amounts[row, stage].reshape(1)
            if operation is not None and bool(amount):
                draws = plan.draws.get(place)
                own = None if draws is None else draws[row : row + 1, stage]
                image = alone(image, operation, amount, own, values)
        rows.append(image)
    return torch.cat(rows)


def alone(
    image: Tensor, operation: Operation, amount: Tensor, draws: Tensor | None, values: Range
) -> Tensor:
    """One image after one operation."""

    def applied(x: Tensor) -> Tensor:
        if isinstance(operation.apply, Split) and draws is not None:
            return operation.apply.change(x, amount, draws)
        return operation.apply(x, amount, torch.Generator())

    return scaled(image, values, applied) if operation.valued else applied(image)


@pytest.mark.parametrize("values", [UNIT, Range(-3.0, 5.0)], ids=["unit", "other"])
@pytest.mark.parametrize("channels", [1, 3])
def test_together_is_one_by_one_in_the_order_given(channels: int, values: Range) -> None:
    images, listed = pictures(channels, dtype=torch.float64), operations(channels)
    images = images * (values.high - values.low) + values.low
    which, magnitudes = chosen(len(listed))
    plan = planned(images, listed, which, magnitudes, torch.Generator().manual_seed(2))
    together = carried_out(images, listed, plan, values)
    close = (together - one_by_one(images, listed, plan, values)).abs() < 1e-9
    # Rounding may carry a value over the edge of a bin or over a threshold.
    assert float(close.double().mean()) > 0.999
    assert together.shape == images.shape and together.dtype == images.dtype


def test_an_image_comes_out_the_same_however_the_batch_is_split() -> None:
    images, listed = pictures(), operations()
    which, magnitudes = chosen(len(listed))
    plan = planned(images, listed, which, magnitudes, torch.Generator().manual_seed(2))
    whole = carried_out(images, listed, plan)
    parts = [slice(0, 1), slice(1, 17), slice(17, 18), slice(18, ROWS)]
    split = torch.cat([carried_out(images[part], listed, plan[part]) for part in parts])
    torch.testing.assert_close(split, whole, rtol=0, atol=1e-5)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(3))
    shuffled = carried_out(images[order], listed, plan[order])
    torch.testing.assert_close(shuffled, whole[order], rtol=0, atol=1e-5)


def test_magnitude_zero_and_none_change_nothing_at_all() -> None:
    images, listed = pictures(), operations()
    rng = torch.Generator().manual_seed(0)
    which, magnitudes = chosen(len(listed))
    assert torch.equal(augmented(images, listed, which, torch.zeros(ROWS, STAGES), rng), images)
    nothing = torch.zeros_like(which)
    assert torch.equal(augmented(images, listed, nothing, magnitudes, rng), images)
    assert not torch.equal(augmented(images, listed, which, magnitudes, rng), images)


def test_the_number_of_draws_depends_on_the_shapes_and_the_list_alone() -> None:
    images, listed, ends = pictures(), operations(), []
    for seed in (1, 2):
        rng = torch.Generator().manual_seed(0)
        which, magnitudes = chosen(len(listed), seed=seed)
        augmented(images, listed, which, magnitudes * (seed - 1), rng)
        ends.append(rng.get_state())
    assert torch.equal(*ends)


def test_amounts_are_those_of_the_operations() -> None:
    listed = [None, load("rotate"), load("posterise"), load("equalise")]
    which = torch.arange(4).expand(300, 4)
    magnitudes = torch.full((300, 4), 0.5)
    plan = planned(pictures(rows=300), listed, which, magnitudes, torch.Generator())
    nothing, turn, bits, switch = plan.amounts.unbind(1)
    assert (nothing == 0).all() and (bits == 2).all() and (switch == 1).all()
    assert set(turn.tolist()) == {-15.0, 15.0}


def test_magnitudes_have_a_gradient() -> None:
    listed = [load(name) for name in ("rotate", "shear_x", "brightness", "contrast", "erase")]
    images = pictures(rows=12, dtype=torch.float64)
    which, magnitudes = chosen(len(listed), 12)
    magnitudes = magnitudes.double().clamp(min=0.1)
    weights = torch.randn(images.shape, generator=torch.Generator().manual_seed(4)).double()

    def loss(magnitudes: Tensor) -> Tensor:
        rng = torch.Generator().manual_seed(0)
        return (augmented(images, listed, which, magnitudes, rng) * weights).sum()

    leaf = magnitudes.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    for row, stage in ((0, 0), (3, 1), (7, 2), (11, 0)):
        step = torch.zeros_like(magnitudes)
        step[row, stage] = 1e-7
        quotient = (loss(magnitudes + step) - loss(magnitudes - step)) / 2e-7
        assert float(gradient[row, stage]) == pytest.approx(float(quotient), rel=1e-4, abs=1e-5)


def test_without_a_gradient_the_result_is_the_same_and_can_be_trained_on() -> None:
    images, listed = pictures(), operations()
    which, magnitudes = chosen(len(listed))
    found = [
        augmented(images, listed, which, magnitudes, torch.Generator(), gradient=wanted)
        for wanted in (True, False)
    ]
    assert torch.equal(*found)
    layer = torch.nn.Conv2d(3, 2, 3)
    layer(found[1]).sum().backward()
    assert layer.weight.grad is not None and not found[1].is_inference()


def test_an_operation_that_draws_while_it_changes_is_refused() -> None:
    plain = dataclasses.replace(load("rotate"), apply=lambda images, amounts, rng: images)
    which, magnitudes = chosen(1)
    with pytest.raises(HpoError, match="draws apart from its change") as error:
        augmented(pictures(), [plain], which, magnitudes, torch.Generator())
    assert "Split" in error.value.hint


FUSED = ("rotate", "shear_x", "scale", "translate_x", "translate_y", "brightness", "contrast")


def test_fused_operations_are_what_they_are_alone() -> None:
    images, rng = pictures(dtype=torch.float64), torch.Generator()
    listed = [load(name) for name in FUSED]
    for place, operation in enumerate(listed):
        amounts = torch.zeros(ROWS, len(listed), dtype=torch.float64)
        amounts[:, place] = 0.4 * operation.full
        alone = operation.apply(images, amounts[:, place], rng)
        torch.testing.assert_close(fused(images, listed, amounts, rng), alone)
    both = torch.full((ROWS, 2), 0.3, dtype=torch.float64)
    shift, bright = load("translate_x"), load("brightness")
    expected = bright.apply(shift.apply(images, both[:, 0], rng), both[:, 1], rng)
    torch.testing.assert_close(fused(images, [bright, shift], both, rng), expected)
    wide = fused(8 * images - 3, [bright, shift], both, rng, Range(-3.0, 5.0))
    torch.testing.assert_close(wide, 8 * expected - 3)


def test_fused_operations_have_a_gradient_in_every_amount() -> None:
    images, rng = pictures(rows=4, dtype=torch.float64), torch.Generator()
    listed = [load(name) for name in FUSED]
    full = torch.tensor([operation.full for operation in listed], dtype=torch.float64)
    amounts = 0.2 * full * torch.ones(4, 1, dtype=torch.float64)
    weights = torch.randn(images.shape, generator=torch.Generator().manual_seed(4)).double()

    def losses(amounts: Tensor) -> Tensor:
        return (fused(images, listed, amounts, rng) * weights).flatten(1).sum(1)

    leaf = amounts.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(losses(leaf).sum(), leaf)
    for place in range(len(listed)):
        step = torch.zeros_like(amounts)
        step[:, place] = 1e-7
        quotient = (losses(amounts + step) - losses(amounts - step)) / 2e-7
        torch.testing.assert_close(gradient[:, place], quotient, rtol=1e-4, atol=1e-4)


def test_what_is_neither_affine_nor_linear_is_not_fused() -> None:
    with pytest.raises(HpoError, match="go together"):
        fused(pictures(), [load("equalise")], torch.ones(ROWS, 1), torch.Generator())
