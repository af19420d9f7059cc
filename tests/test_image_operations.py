"""What single operations on images promise beside the contract that they share."""

from __future__ import annotations

from collections.abc import Callable
from math import pi
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor

from search_spaces import Batch, catalogue, plugins
from search_spaces.augmentation.operation import Operation, as_regularizer
from search_spaces.augmentation.split import Split
from search_spaces.augmentation.values import Range
from search_spaces.augmentation.warps import Affine, matrix, warped


def load(name: str) -> Operation:
    found = plugins.load(catalogue.OPERATIONS, name, "OPERATION")
    assert isinstance(found, Operation)
    return found


def changed(name: str, images: Tensor, amount: float | Tensor, seed: int = 0) -> Tensor:
    amounts = torch.as_tensor(amount, dtype=images.dtype).expand(len(images))
    return load(name).apply(images, amounts, torch.Generator().manual_seed(seed))


def by_itself(name: str, images: Tensor, strength: float | Tensor) -> Tensor:
    hook = as_regularizer(name, load(name)).batch
    assert hook
    batch, h = Batch(images, torch.zeros(len(images))), {f"augment.{name}": strength}
    found: Tensor = hook(batch, h, torch.Generator().manual_seed(0)).inputs
    return found


def photographs(rows: int = 4, size: int = 32) -> Tensor:
    """Parts of a colour photograph, with whole levels of eight bits."""
    from sklearn.datasets import load_sample_image

    photo = torch.from_numpy(load_sample_image("china.jpg").copy()).permute(2, 0, 1)
    corners = [(210, 100 + 80 * row) for row in range(rows)]  # a house with windows and shadows
    parts = [photo[:, y : y + size, x : x + size] for y, x in corners]
    return torch.stack(parts).double() / 255


# The published policies were found with what PIL does to values of eight bits.
PIL: dict[str, tuple[float, Callable[[Any], Any], float]] = {
    "brightness": (-0.4, lambda image: ImageEnhance.Brightness(image).enhance(0.6), 1),
    "contrast": (0.7, lambda image: ImageEnhance.Contrast(image).enhance(1.7), 2),
    "saturation": (0.9, lambda image: ImageEnhance.Color(image).enhance(1.9), 2),
    "sharpness": (-0.9, lambda image: ImageEnhance.Sharpness(image).enhance(0.1), 1),
    "posterise": (4.0, lambda image: ImageOps.posterize(image, 4), 0),
    "solarise": (0.5, lambda image: ImageOps.solarize(image, 128), 0),
    "invert": (1.0, ImageOps.invert, 0),
    "autocontrast": (1.0, ImageOps.autocontrast, 1),
    "equalise": (1.0, ImageOps.equalize, 2),
    "hflip": (1.0, ImageOps.mirror, 0),
    "blur": (1.0, lambda image: image.filter(ImageFilter.GaussianBlur(1)), 8),
    "rotate": (
        20.0,
        lambda image: image.rotate(20, resample=Image.Resampling.BILINEAR),
        2,
    ),
}


@pytest.mark.parametrize("name", PIL)
def test_it_is_what_pil_does_but_for_eight_bits(name: str) -> None:
    amount, theirs, levels = PIL[name]
    # Its equalising divides whole numbers, which matters less the more pixels there are.
    images = photographs(2, 200) if name == "equalise" else photographs()
    ours = changed(name, images, amount)
    for image, found in zip(images, ours, strict=True):
        array = (image * 255).round().byte().permute(1, 2, 0).numpy()
        expected = np.asarray(theirs(Image.fromarray(array)), dtype=float)
        apart = np.abs(expected - (found * 255).permute(1, 2, 0).numpy())
        if name == "rotate":  # it has black corners there, the border continued here
            apart = apart[8:-8, 8:-8]
        assert np.abs(expected - array).max() > 12
        assert np.quantile(apart, 0.999) <= levels + 0.51


def ramps(height: int, width: int) -> tuple[Tensor, Tensor]:
    """How far right and how far down of the centre each pixel is: images on which linear
    interpolation is exact."""
    down = torch.arange(height, dtype=torch.float64) - (height - 1) / 2
    right = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    return right.expand(height, width), down[:, None].expand(height, width)


def test_rotate_turns_about_the_centre_by_angles_of_both_signs() -> None:
    right, down = ramps(15, 21)
    images = torch.stack([right, down])[None].repeat(300, 1, 1, 1)
    most = torch.linspace(0, 45, 300, dtype=torch.float64)
    turned = by_itself("rotate", images, most)
    centre = turned[:, :, 5:10, 8:13]  # no corner comes in here
    sine, cosine = -centre[:, 0, 3, 2], centre[:, 1, 3, 2]  # one pixel below the centre
    torch.testing.assert_close(sine.square() + cosine.square(), torch.ones(300).double())
    expected = cosine[:, None, None] * right[5:10, 8:13] - sine[:, None, None] * down[5:10, 8:13]
    torch.testing.assert_close(centre[:, 0], expected)
    share = torch.rad2deg(torch.atan2(sine, cosine))[1:] / most[1:]
    assert float(share.abs().max()) <= 1
    assert float(share.min()) < -0.95 and float(share.max()) > 0.95
    # Corners that nothing turns into show the border.
    assert (turned[-20:, 0].abs() <= 10).all() and (turned[-20:, 1].abs() <= 7).all()


def test_translate_shifts_by_up_to_its_share_in_any_direction() -> None:
    right, down = ramps(32, 48)
    images = torch.stack([right, down])[None].repeat(600, 1, 1, 1)
    moved = by_itself("translate", images, 0.25)
    by = (moved - images)[:, :, 8:24, 12:36]
    torch.testing.assert_close(by, by[:, :, :1, :1].expand_as(by))
    shares = by[:, :, 0, 0] / torch.tensor([48.0, 32.0]).double()
    length, angle = shares.norm(dim=1), torch.atan2(shares[:, 1], shares[:, 0])
    assert 0.24 < float(length.max()) <= 0.25 and float(length.min()) < 0.01
    quarters = torch.histc(angle, 4, -pi, pi)
    assert (quarters > 110).all(), quarters


@pytest.mark.parametrize(
    ("name", "amount", "expected"),
    [
        ("translate_x", 0.25, lambda x, y: (x - 6, y)),  # of 24 pixels
        ("translate_y", -0.25, lambda x, y: (x, y + 4)),  # of 16
        ("shear_x", 0.3, lambda x, y: (x + 0.3 * y, y)),
        ("shear_y", 0.3, lambda x, y: (x, y + 0.3 * x)),
        ("scale", 0.4, lambda x, y: (x * np.exp(-0.4), y * np.exp(-0.4))),
    ],
)
def test_warps_are_in_pixels_also_where_images_are_not_square(
    name: str, amount: float, expected: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
) -> None:
    right, down = ramps(16, 24)
    moved = changed(name, torch.stack([right, down])[None], amount)[0]
    wanted = torch.stack(expected(right, down))
    torch.testing.assert_close(moved[:, 6:10, 9:15], wanted[:, 6:10, 9:15])


def test_a_warp_of_many_parts_is_the_product_of_them() -> None:
    amounts = torch.tensor([0.4], dtype=torch.float64)
    right, down = ramps(16, 24)
    images = torch.stack([right, down])[None]
    turn, shear, zoom = 20 * amounts, 0.3 * amounts, 0.5 * amounts
    whole = warped(images, matrix((turn, shear, 0.0, 0.0, 0.0, zoom), amounts, images))
    steps = changed("rotate", images, turn)
    for name, amount in (("shear_x", shear), ("scale", zoom)):
        steps = changed(name, steps, amount)
    torch.testing.assert_close(whole[:, :, 6:10, 9:15], steps[:, :, 6:10, 9:15])


def test_the_border_is_continued_by_every_warp() -> None:
    rng = torch.Generator().manual_seed(0)
    images = 0.5 + 0.5 * torch.rand(8, 1, 20, 20, generator=rng, dtype=torch.float64)
    for name in plugins.names(catalogue.OPERATIONS):
        operation = load(name)
        if isinstance(operation.apply, Affine) or name in (
            *("translate", "crop_pad", "resized_crop", "perspective", "elastic", "random_field"),
        ):
            after = changed(name, images, operation.full)
            assert float(after.min()) >= 0.5 - 1e-12, f"{name} shows what is not in the image"


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 2.5])
def test_erase_blanks_a_square_anywhere(share: float) -> None:
    images = torch.ones(500, 3, 10, 14, dtype=torch.float64)
    images[:, :, :, ::2] = -1.0  # the mean is zero
    after = changed("erase", images, share)
    covered = 1 - after[:, 0].abs()
    assert torch.equal(after, after[:, :1].expand_as(after)), "the channels share the hole"
    rows, columns = covered.amax(2), covered.amax(1)
    product = (
        rows[:, :, None] * columns[:, None, :] / covered.amax((1, 2)).clamp(min=1e-9)[:, None, None]
    )
    torch.testing.assert_close(covered, product, msg="the hole is a rectangle")
    area = covered.sum((1, 2))
    side = 10 * share
    assert float(area.max()) == pytest.approx(min(side, 10) * min(side, 14), rel=0.05, abs=1e-9)
    if share == 0.1:
        assert (covered.sum(0) > 0).all(), "it is anywhere"


def test_crop_pad_shows_whole_pixels() -> None:
    right, down = ramps(16, 24)
    images = torch.stack([right, down])[None].repeat(200, 1, 1, 1)
    by = (changed("crop_pad", images, 0.25) - images)[:, :, 4:12, 6:18]
    torch.testing.assert_close(by, by[:, :, :1, :1].expand_as(by))
    ways = by[:, :, 0, 0]
    assert torch.equal(ways, ways.round())
    assert ways.amin(0).tolist() == [-6, -4] and ways.amax(0).tolist() == [6, 4]


def test_resized_crop_leaves_its_share_of_the_area_and_stays_inside() -> None:
    right, down = ramps(40, 60)
    images = torch.stack([right, down])[None].repeat(300, 1, 1, 1)
    after = changed("resized_crop", images, 0.5)[:, :, 10:30, 15:45]
    wide = (after[:, 0, :, -1] - after[:, 0, :, 0]).mean(1) / 29
    tall = (after[:, 1, -1] - after[:, 1, 0]).mean(1) / 19
    torch.testing.assert_close(wide * tall, torch.full((300,), 0.5, dtype=torch.float64))
    aspect = (wide / tall).log()
    assert float(aspect.abs().max()) <= np.log(4 / 3) + 1e-9
    assert float(aspect.min()) < -0.25 and float(aspect.max()) > 0.25


def test_perspective_keeps_lines_straight_and_moves_the_corners() -> None:
    right, down = ramps(21, 21)
    images = torch.stack([right, down])[None].repeat(20, 1, 1, 1)
    after = changed("perspective", images, 0.2)[:, :, 5:16, 5:16]
    for row in (0, 5, 10):
        x, y = after[:, 0, row], after[:, 1, row]
        # Three points of a line span no area.
        area = (x[:, 5] - x[:, 0]) * (y[:, 10] - y[:, 0]) - (x[:, 10] - x[:, 0]) * (
            y[:, 5] - y[:, 0]
        )
        assert float(area.abs().max()) < 1e-9
    apply = load("perspective").apply
    assert isinstance(apply, Split)
    one = torch.ones(20, dtype=torch.float64)
    moved = apply.change(images, 0.2 * one, torch.ones(20, 4, 2, dtype=torch.float64))
    torch.testing.assert_close(moved[:, :, 5:15, 5:15], images[:, :, 5:15, 5:15] + 0.1 * 21)


@pytest.mark.parametrize("name", ["elastic", "random_field"])
def test_fields_have_the_deviation_that_the_amount_says(name: str) -> None:
    right, down = ramps(40, 60)
    images = torch.stack([right, down])[None].repeat(100, 1, 1, 1)
    ways = (changed(name, images, 0.02) - images)[:, :, 10:-10, 10:-10]
    spread = ways.std((0, 2, 3)) / torch.tensor([60.0, 40.0])
    torch.testing.assert_close(spread, torch.full((2,), 0.02).double(), rtol=0.1, atol=0)
    steps = (ways[..., 1:] - ways[..., :-1]).std() / ways.std()
    assert float(steps) < 0.35, "neighbours move alike"


def test_low_pass_keeps_waves_below_the_cut_and_removes_those_above() -> None:
    place = torch.arange(32, dtype=torch.float64)
    for waves in (2, 12):
        images = (2 * pi * waves * place / 32).cos().expand(1, 1, 32, 32).clone()
        after = changed("low_pass", images, 0.5)  # 8 of 16 waves are kept
        torch.testing.assert_close(after, images if waves < 8 else torch.zeros_like(images))


def test_hue_keeps_the_luma_and_comes_round() -> None:
    images = 0.4 + 0.2 * photographs()
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)[:, None, None]
    third = changed("hue", images, 1 / 3)
    torch.testing.assert_close((third * luma).sum(1), (images * luma).sum(1), rtol=0, atol=1e-4)
    again = changed("hue", changed("hue", third, 1 / 3), 1 / 3)
    torch.testing.assert_close(again, images, rtol=0, atol=1e-6)
    assert float((third - images).abs().mean()) > 0.003


def test_quantise_leaves_as_many_values_as_it_has_bins() -> None:
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(40, 2, 16, 16, generator=rng, dtype=torch.float64)
    for bins in (2, 4, 8):
        after = changed("quantise", images, 1 / bins).flatten(2)
        numbers = [len(channel.unique()) for image in after for channel in image]
        assert max(numbers) == bins and min(numbers) >= 1
        order = images.flatten(2).argsort(dim=2)
        assert (after.gather(2, order).diff(dim=2) >= 0).all(), "the order of values stays"


def test_posterise_and_solarise_have_a_gradient_and_no_amount_of_zero_bits() -> None:
    images = photographs()
    for name in ("posterise", "solarise"):
        amount = torch.full((4,), 0.5, dtype=torch.float64, requires_grad=True)
        total = load(name).apply(images, amount, torch.Generator()).square().sum()
        (gradient,) = torch.autograd.grad(total, amount)
        assert (gradient != 0).all()
    assert load("posterise").knob.high <= 7, "one bit is left"
    assert len(changed("posterise", images, 7.0).unique()) == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", plugins.names(catalogue.OPERATIONS))
def test_images_in_half_precision_stay_in_it(name: str, dtype: torch.dtype) -> None:
    operation = load(name)
    if operation.kind != "image":
        pytest.skip("not for images")
    record, images = as_regularizer(name, operation), photographs().to(dtype)
    assert record.batch is not None
    known = () if record.remember is None else (Range(0.0, 1.0),)
    batch, h = Batch(images, torch.zeros(len(images))), {f"augment.{name}": operation.full}
    found = record.batch(*known, batch, h, torch.Generator().manual_seed(0)).inputs
    assert found.dtype == dtype and found.isfinite().all() and not torch.equal(found, images)


def test_rotate_and_translate_work_for_many_models_at_once() -> None:
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(3, 5, 1, 8, 9, generator=rng)
    for name in ("rotate", "translate_x", "scale"):
        change = load(name).apply
        amounts = load(name).full * torch.rand(3, 5, generator=rng)

        def one(x: Tensor, a: Tensor, change: Any = change) -> Tensor:
            found: Tensor = change(x, a, torch.Generator())
            return found

        together = torch.vmap(one)(images, amounts)
        apart = torch.stack([one(x, a) for x, a in zip(images, amounts, strict=True)])
        torch.testing.assert_close(together, apart)
    shift = load("translate").apply
    assert isinstance(shift, Split)
    angles = torch.rand(3, 5, generator=rng)
    together = torch.vmap(shift.change)(images, amounts, angles)
    torch.testing.assert_close(together[1], shift.change(images[1], amounts[1], angles[1]))
