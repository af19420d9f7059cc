"""Denoising of photographs by smoothed total variation: how strong, and how smooth."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from objectives.data.photographs import noisy_squares, psnr
from objectives.training.fields import share, whole_number
from search_spaces.domains import Domain, Float

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TvDenoise:
    """For each photograph y with noise, the picture x that minimizes

        |x - y|^2 / 2 + strength * sum over pixels of (|grad x|^2 + smooth^2)^(1/2);

    the outer loss is |x - clean|^2 / 2, the mean over the photographs. size: of the square
    pictures, in pixels. pictures: how many of the eight photographs are used. noise: standard
    deviation, of pixels in 0 to 1. data_seed: decides the noise. Metrics: psnr, in decibels, and
    psnr_noisy, that of the photographs as they are given.
    """

    size: int = 96
    pictures: int = 8
    noise: float = 0.1
    data_seed: int = 0

    name: ClassVar[str] = "tv_denoise"
    batch_axis: ClassVar[int] = 0
    space: ClassVar[Mapping[str, Domain]] = {
        "strength": Float(1e-4, 10.0, "log", start=7e-3),
        "smooth": Float(1e-4, 1.0, "log", start=7e-3),
    }

    def __post_init__(self) -> None:
        whole_number(self.name, "size", self.size, 8, 300)
        whole_number(self.name, "pictures", self.pictures, 1, 8)
        share(self.name, "noise", self.noise)

    @property
    def note(self) -> str:
        return f"{self.pictures} photographs of {self.size} x {self.size}, noise {self.noise:g}"

    def init_params(self, seed: int) -> "Tensor":
        _, noisy = self._photographs
        return noisy.clone()

    def inner_loss(self, params: "Tensor", h: Mapping[str, Any]) -> "Tensor":
        across = params.diff(dim=2, append=params[:, :, -1:])
        down = params.diff(dim=1, append=params[:, -1:])
        edges = (across**2 + down**2 + h["smooth"] ** 2).sqrt().sum((1, 2))
        fit = ((params - self._photographs[1]) ** 2).sum((1, 2)) / 2
        losses: Tensor = fit + h["strength"] * edges
        return losses

    def outer_loss(self, params: "Tensor", h: Mapping[str, Any]) -> "Tensor":
        loss: Tensor = ((params - self._photographs[0]) ** 2).sum() / (2 * len(params))
        return loss

    def mu(self, h: Mapping[str, Any]) -> float:
        return 1.0

    def outer_smoothness(self, h: Mapping[str, Any]) -> float:
        return 1.0 / self.pictures

    def final_metric(self, params: "Tensor", h: Mapping[str, Any]) -> dict[str, float]:
        clean, noisy = self._photographs
        return {"psnr": psnr(params, clean), "psnr_noisy": psnr(noisy, clean)}

    def views(self, params: "Tensor", h: Mapping[str, Any]) -> "dict[str, Tensor]":
        """Clean, noisy and denoised photographs side by side, one row a photograph."""
        import torch

        clean, noisy = self._photographs
        rows = torch.cat([clean, noisy, params], dim=2)
        return {"clean_noisy_denoised": rows.flatten(0, 1).clamp(0, 1)}

    @cached_property
    def _photographs(self) -> "tuple[Tensor, Tensor]":
        return noisy_squares(self.size, self.pictures, self.noise, self.data_seed)


OBJECTIVE = TvDenoise
