"""Denoising of photographs by smoothed total variation: how strong, and how smooth."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from objectives._denoising import Denoising
from search_spaces.domains import Domain, Float
from search_spaces.regularizers.tv import total_variation

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TvDenoise(Denoising):
    """For each photograph y with noise, the picture x that minimizes

        |x - y|^2 / 2 + strength * sum over pixels of (|grad x|^2 + smooth^2)^(1/2);

    the outer loss is |x - clean|^2 / 2, the mean over the photographs. size: of the square
    pictures, in pixels. pictures: how many of the eight photographs are used. noise: standard
    deviation, of pixels in 0 to 1. data_seed: decides the noise. Metrics: psnr, in decibels, and
    psnr_noisy, that of the photographs as they are given.
    """

    name: ClassVar[str] = "tv_denoise"
    space: ClassVar[Mapping[str, Domain]] = {
        "strength": Float(1e-4, 10.0, "log", start=7e-3),
        "smooth": Float(1e-4, 1.0, "log", start=7e-3),
    }

    @property
    def note(self) -> str:
        return f"{self.pictures} photographs of {self.size} x {self.size}, noise {self.noise:g}"

    def inner_loss(self, params: "Tensor", h: Mapping[str, Any]) -> "Tensor":
        penalty: Tensor = h["strength"] * total_variation(params, h["smooth"])
        return self.misfit(params) + penalty


OBJECTIVE = TvDenoise
