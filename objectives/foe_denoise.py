"""Denoising of photographs by a field of experts, whose filters and strengths are all learned."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from objectives._denoising import Denoising
from objectives.training.fields import whole_number
from search_spaces.domains import Domain, Float
from search_spaces.regularizers.field_of_experts import cosines, experts

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class FoeDenoise(Denoising):
    """For each photograph y with noise, the picture x that minimizes

        |x - y|^2 / 2 + strength * sum over k of weight_k * sum over pixels of
        ((filter_k * x)^2 + smooth_k^2)^(1/2);

    the outer loss is |x - clean|^2 / 2, the mean over the photographs (Roth and Black, Fields of
    Experts, 2009). The filters begin as the cosine basis without its constant one. size: of the
    square pictures, in pixels. pictures: how many of the eight photographs are used. width: of the
    filters, of which there are width^2 - 1; seven gives 2449 knobs. noise: standard deviation, of
    pixels in 0 to 1. data_seed: decides the noise. Metrics: psnr, in decibels, and psnr_noisy.
    """

    size: int = 48
    pictures: int = 4
    width: int = 7

    name: ClassVar[str] = "foe_denoise"

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number(self.name, "width", self.width, 2, 9)

    @property
    def space(self) -> Mapping[str, Domain]:
        count, entries = self._count, self._count * self.width**2
        return {
            "filters": Float(-1.0, 1.0, start=tuple(cosines(self.width)), size=entries),
            "weight": Float(1e-3, 1e2, "log", start=1.0, size=count),
            "smooth": Float(1e-3, 1.0, "log", start=0.03, size=count),
            "strength": Float(1e-6, 1.0, "log", start=2e-3),
        }

    @property
    def note(self) -> str:
        knobs = self._count * (self.width**2 + 2) + 1
        return f"{self.pictures} photographs of {self.size} x {self.size}, {knobs} knobs"

    def inner_loss(self, params: "Tensor", h: Mapping[str, Any]) -> "Tensor":
        filters = h["filters"].view(self._count, self.width, self.width)
        weight, smooth = h["weight"].view(-1, 1, 1), h["smooth"].view(-1, 1, 1)
        penalty: Tensor = h["strength"] * experts(params[:, None], filters, weight, smooth)
        return self.misfit(params) + penalty

    def views(self, params: "Tensor", h: Mapping[str, Any]) -> "dict[str, Tensor]":
        """The photographs, and the filters in a row."""
        filters = h["filters"].view(self._count, self.width, self.width)
        shown = (filters / filters.abs().amax((1, 2), keepdim=True) + 1) / 2
        return {**super().views(params, h), "filters": shown.permute(1, 0, 2).flatten(1)}

    @property
    def _count(self) -> int:
        return self.width**2 - 1


OBJECTIVE = FoeDenoise
