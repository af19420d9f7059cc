"""RandAugment as others have it: a loop over images with PIL, and kornia, by batch or by image."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

STAGES, MAGNITUDE, MOST = 2, 9, 30
_PART = MAGNITUDE / MOST


def _affine(image: Any, *rows: float) -> Any:
    return image.transform(image.size, Image.Transform.AFFINE, rows, Image.Resampling.BILINEAR)


def _signed(amount: float) -> float:
    return amount if random.random() < 0.5 else -amount


def _enhanced(kind: Any) -> Callable[[Any], Any]:
    return lambda image: kind(image).enhance(1 + _signed(0.9 * _PART))


PIL_OPERATIONS: dict[str, Callable[[Any], Any]] = {
    "identity": lambda image: image,
    "autocontrast": ImageOps.autocontrast,
    "equalise": ImageOps.equalize,
    "rotate": lambda image: image.rotate(_signed(30 * _PART), Image.Resampling.BILINEAR),
    "solarise": lambda image: ImageOps.solarize(image, round(256 * (1 - _PART))),
    "saturation": _enhanced(ImageEnhance.Color),
    "posterise": lambda image: ImageOps.posterize(image, 8 - round(4 * _PART)),
    "contrast": _enhanced(ImageEnhance.Contrast),
    "brightness": _enhanced(ImageEnhance.Brightness),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "shear_x": lambda image: _affine(image, 1, _signed(0.3 * _PART), 0, 0, 1, 0),
    "shear_y": lambda image: _affine(image, 1, 0, 0, _signed(0.3 * _PART), 1, 0),
    "translate_x": lambda image: _affine(
        image, 1, 0, _signed(0.33 * _PART) * image.size[0], 0, 1, 0
    ),
    "translate_y": lambda image: _affine(
        image, 1, 0, 0, 0, 1, _signed(0.33 * _PART) * image.size[1]
    ),
}


def names(channels: int) -> list[str]:
    """RandAugment's list for images of so many channels."""
    return [name for name in PIL_OPERATIONS if channels == 3 or name != "saturation"]


def pil_loop(images: Tensor) -> Tensor:
    """RandAugment drawn for each image, one image after the other."""
    grey = images.shape[1] == 1
    arrays = (images * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    choices = [PIL_OPERATIONS[name] for name in names(images.shape[1])]
    results = []
    for array in arrays:
        image = Image.fromarray(array[..., 0] if grey else array)
        for _ in range(STAGES):
            image = random.choice(choices)(image)
        results.append(np.asarray(image))
    stacked = torch.from_numpy(np.stack(results))
    planes = stacked[:, None] if grey else stacked.permute(0, 3, 1, 2)
    return planes.float() / 255


ATTEMPTS = 20


class Kornia:
    """kornia's RandAugment; what it raises on grey images is counted and tried anew."""

    def __init__(self) -> None:
        self.policy = self._new()
        self.raised = 0

    @staticmethod
    def _new() -> Any:
        from kornia.augmentation.auto import RandAugment

        return RandAugment(n=STAGES, m=MAGNITUDE)

    def batch(self, images: Tensor) -> Tensor:
        """One draw for the whole batch."""
        for _ in range(ATTEMPTS):
            try:
                return self.policy(images)  # type: ignore[no-any-return]
            except Exception:
                self.raised += 1
                self.policy = self._new()  # a failed one may keep what it had drawn
        raise RuntimeError(f"kornia raised {ATTEMPTS} times in a row")

    def single(self, images: Tensor) -> Tensor:
        """A draw for each image, one image after the other."""
        return torch.cat([self.batch(image[None]) for image in images])


def kornia_fused(images: Tensor, amounts: Tensor) -> Tensor:
    """A warp by six amounts and two tones, with gradients, as kornia's functions give it."""
    from kornia.enhance import adjust_brightness_accumulative, adjust_contrast_with_mean_subtraction
    from kornia.geometry.transform import get_affine_matrix2d, warp_affine

    turn, shear_x, shear_y, right, down, zoom, bright, contrast = amounts.unbind(1)
    height, width = images.shape[2:]
    centre = amounts.new_tensor([[width / 2 - 0.5, height / 2 - 0.5]]).expand(len(images), 2)
    shift = torch.stack([right * width, down * height], dim=1)
    scale = zoom.exp()[:, None].expand(-1, 2)
    maps = get_affine_matrix2d(shift, centre, scale, turn, shear_x, shear_y)
    warped = warp_affine(images, maps[:, :2], (height, width), padding_mode="border")
    lit = adjust_brightness_accumulative(warped, 1 + bright)
    return adjust_contrast_with_mean_subtraction(lit, 1 + contrast)
