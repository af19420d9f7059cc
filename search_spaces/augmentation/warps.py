"""Images under maps of their plane, with the border continued outwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


FAR = 1e6  # beyond every border


@dataclass(frozen=True)
class Affine:
    """An `apply` that turns, shears, shifts and scales; nothing is drawn.

    Each field says what an amount of one means: degrees, slopes, shares of the image's size, and
    the natural logarithm of how much larger everything gets.
    """

    turn: float = 0.0
    shear_x: float = 0.0
    shear_y: float = 0.0
    shift_x: float = 0.0
    shift_y: float = 0.0
    zoom: float = 0.0

    def __call__(self, images: Tensor, amounts: Tensor, rng: torch.Generator) -> Tensor:
        parts = [amounts * weight if weight else 0.0 for weight in self.weights]
        return warped(images, matrix(parts, amounts, images))

    @property
    def weights(self) -> tuple[float, ...]:
        """The fields in their order."""
        return self.turn, self.shear_x, self.shear_y, self.shift_x, self.shift_y, self.zoom


def matrix(parts: Sequence[Tensor | float], like: Tensor, images: Tensor) -> Tensor:
    """The maps (B, 2, 3) from places in the result to places in the source, for the amounts of
    `Affine` in the order of its fields, each (B,) like `like`, or zero.

    In pixels from the centre, place p shows R(turn) S p / exp(zoom) - shift of the source, with
    S = [[1, shear_x], [shear_y, 1]] and R(a) = [[cos a, -sin a], [sin a, cos a]]. The matrices are
    in the coordinates of `grid_sample`, which run from -1 to 1 over images that need not be square.
    """
    import torch

    turn, shear_x, shear_y, shift_x, shift_y, zoom = (
        part if isinstance(part, torch.Tensor) else torch.full_like(like, part) for part in parts
    )
    tall = images.shape[2] / images.shape[3]
    angle = torch.deg2rad(turn)
    shrink = torch.exp(-zoom)
    cosine, sine = angle.cos() * shrink, angle.sin() * shrink
    entries = (
        *(cosine - sine * shear_y, (cosine * shear_x - sine) * tall, -2 * shift_x),
        *((sine + cosine * shear_y) / tall, cosine + sine * shear_x, -2 * shift_y),
    )
    return torch.stack(entries, dim=-1).reshape(*like.shape, 2, 3)


def warped(images: Tensor, matrices: Tensor) -> Tensor:
    """The images under an affine map each (B, 2, 3), in the coordinates of `grid_sample`."""
    import torch

    across, down = centres(images)
    first, second, constant = _numbers(matrices.to(across.dtype)).unbind(2)
    # A place is one complex number, so that the many places are made in one addition.
    along = first[:, None] * across[:, None] + constant[:, None]
    beside = second[:, None] * down[:, None]
    places = torch.view_as_complex(along)[:, None, :] + torch.view_as_complex(beside)[:, :, None]
    return _shown(images, torch.view_as_real(places))


def centres(images: Tensor) -> tuple[Tensor, Tensor]:
    """Where the centres of the pixels lie in a row and in a column, from -1 to 1."""
    kind = _precise(images), images.device
    return _along(images.shape[3], *kind), _along(images.shape[2], *kind)


@lru_cache(maxsize=64)
def _along(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    import torch

    with torch.inference_mode(False):  # what is kept must serve where gradients are taken
        return (2 * torch.arange(length, device=device, dtype=dtype) + 1) / length - 1


def sampled(images: Tensor, places: Tensor) -> Tensor:
    """What the images show at these places (B, H, W, 2): linear between the centres of pixels, and
    beyond the outermost what these show."""
    return _shown(images, _numbers(places))


def _numbers(places: Tensor) -> Tensor:
    """The places, those that are no numbers in the middle: of such, as amounts are in a run that
    diverges, the derivative of `grid_sample` reads memory that is not its own."""
    return places.nan_to_num(nan=0.0, posinf=FAR, neginf=-FAR)


def _shown(images: Tensor, places: Tensor) -> Tensor:
    from torch.nn import functional

    precise = images.to(_precise(images))
    found = functional.grid_sample(
        precise, places.to(precise.dtype), padding_mode="border", align_corners=False
    )
    return found.to(images.dtype)


def displaced(images: Tensor, ways: Tensor) -> Tensor:
    """The images with each pixel taken from a way (B, 2, H, W) off, right and down in shares of the
    image's width and height."""
    import torch

    across, down = centres(images)
    places = (2 * ways[:, 0] + across, 2 * ways[:, 1] + down[:, None])
    return sampled(images, torch.stack(places, dim=-1))


def _precise(images: Tensor) -> torch.dtype:
    import torch

    return torch.float64 if images.dtype == torch.float64 else torch.float32
