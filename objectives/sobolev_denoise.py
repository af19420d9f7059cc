"""Denoising of photographs by a Sobolev norm: how strong, and how much each frequency counts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from objectives._denoising import Denoising
from search_spaces.domains import Domain, Float
from search_spaces.regularizers.sobolev import centred, sobolev

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SobolevDenoise(Denoising):
    """For each photograph y with noise, the picture x that minimizes

        |x - y|^2 / 2 + strength / 2 * |x - mean of x|^2 in H^order,

    which divides each frequency xi but the mean by 1 + strength * (1 + |xi|^2)^order; the outer
    loss is |x - clean|^2 / 2, the mean over the photographs. size: of the square pictures, in
    pixels. pictures: how many of the eight photographs are used. noise: standard deviation, of
    pixels in 0 to 1. data_seed: decides the noise. Metrics: psnr, in decibels, and psnr_noisy, that
    of the photographs as they are given.
    """

    name: ClassVar[str] = "sobolev_denoise"
    space: ClassVar[Mapping[str, Domain]] = {
        "strength": Float(1e-4, 1e2, "log", start=1e-2),
        "order": Float(-2.0, 2.0, start=0.5),
    }

    @property
    def note(self) -> str:
        return f"{self.pictures} photographs of {self.size} x {self.size}, noise {self.noise:g}"

    def inner_loss(self, params: "Tensor", h: Mapping[str, Any]) -> "Tensor":
        penalty: Tensor = h["strength"] / 2 * sobolev(centred(params), h["order"])
        return self.misfit(params) + penalty


OBJECTIVE = SobolevDenoise
