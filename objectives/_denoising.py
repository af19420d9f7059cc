"""What objectives that denoise photographs share."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from objectives.data.photographs import square
from objectives.training.fields import share, whole_number

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Denoising:
    """Photographs with noise as independent inner problems, begun at the noisy pictures; the outer
    loss is |x - clean|^2 / 2, the mean over the photographs. What is added to |x - noisy|^2 / 2 in
    the inner loss is for subclasses to say."""

    size: int = 96
    pictures: int = 8
    noise: float = 0.1
    data_seed: int = 0

    name: ClassVar[str]
    batch_axis: ClassVar[int] = 0

    def __post_init__(self) -> None:
        whole_number(self.name, "size", self.size, 8, 300)
        whole_number(self.name, "pictures", self.pictures, 1, 8)
        share(self.name, "noise", self.noise)

    def init_params(self, seed: int) -> "Tensor":
        _, noisy = self._photographs
        return noisy.clone()

    def misfit(self, params: "Tensor") -> "Tensor":
        """|x - noisy|^2 / 2 of each photograph, (pictures,)."""
        losses: Tensor = ((params - self._photographs[1]) ** 2).sum((1, 2)) / 2
        return losses

    def outer_loss(self, params: "Tensor", h: Mapping[str, Any]) -> "Tensor":
        loss: Tensor = ((params - self._photographs[0]) ** 2).sum() / (2 * len(params))
        return loss

    def mu(self, h: Mapping[str, Any]) -> float:
        return 1.0

    def outer_smoothness(self, h: Mapping[str, Any]) -> float:
        return 1.0 / self.pictures

    def final_metric(self, params: "Tensor", h: Mapping[str, Any]) -> dict[str, float]:
        """Peak signal to noise, in decibels: denoised, and as the photographs are given."""
        clean, noisy = self._photographs
        return {"psnr": _psnr(params, clean), "psnr_noisy": _psnr(noisy, clean)}

    def views(self, params: "Tensor", h: Mapping[str, Any]) -> "dict[str, Tensor]":
        """Clean, noisy and denoised photographs side by side, one row a photograph."""
        import torch

        clean, noisy = self._photographs
        rows = torch.cat([clean, noisy, params], dim=2)
        return {"clean_noisy_denoised": rows.flatten(0, 1).clamp(0, 1)}

    @cached_property
    def _photographs(self) -> "tuple[Tensor, Tensor]":
        """Clean and noisy, clipped: (pictures, size, size) each."""
        import torch

        clean = square(self.size)[: self.pictures]
        rng = torch.Generator().manual_seed(self.data_seed)
        noise = torch.randn(clean.shape, generator=rng, dtype=clean.dtype)
        return clean, (clean + self.noise * noise).clamp(0, 1)


def _psnr(pictures: "Tensor", clean: "Tensor") -> float:
    """In decibels, of pixels in 0 to 1; the mean over the pictures."""
    error = ((pictures - clean) ** 2).mean((1, 2))
    return float((-10 * error.log10()).mean())
