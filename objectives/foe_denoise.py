"""Denoising of photographs by a field of experts, whose filters and strengths are all learned."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from objectives._denoising import Denoising
from objectives.training.fields import whole_number
from search_spaces.domains import Domain, Float

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
            "filters": Float(-1.0, 1.0, start=tuple(_cosines(self.width)), size=entries),
            "weight": Float(1e-3, 1e2, "log", start=1.0, size=count),
            "smooth": Float(1e-3, 1.0, "log", start=0.03, size=count),
            "strength": Float(1e-6, 1.0, "log", start=2e-3),
        }

    @property
    def note(self) -> str:
        knobs = self._count * (self.width**2 + 2) + 1
        return f"{self.pictures} photographs of {self.size} x {self.size}, {knobs} knobs"

    def inner_loss(self, params: "Tensor", h: Mapping[str, Any]) -> "Tensor":
        from torch.nn.functional import conv2d, pad

        edge = self.width // 2
        sides = (edge, self.width - 1 - edge) * 2
        filters = h["filters"].view(self._count, 1, self.width, self.width)
        answers = conv2d(pad(params[:, None], sides, mode="replicate"), filters)
        weight, smooth = h["weight"].view(1, -1, 1, 1), h["smooth"].view(1, -1, 1, 1)
        experts = (weight * (answers**2 + smooth**2).sqrt()).sum((1, 2, 3))
        penalty: Tensor = h["strength"] * experts
        return self.misfit(params) + penalty

    def views(self, params: "Tensor", h: Mapping[str, Any]) -> "dict[str, Tensor]":
        """The photographs, and the filters in a row."""
        filters = h["filters"].view(self._count, self.width, self.width)
        shown = (filters / filters.abs().amax((1, 2), keepdim=True) + 1) / 2
        return {**super().views(params, h), "filters": shown.permute(1, 0, 2).flatten(1)}

    @property
    def _count(self) -> int:
        return self.width**2 - 1


def _cosines(width: int) -> list[float]:
    """The two-dimensional cosine basis (DCT-II) without its constant filter, one after another."""
    import math

    def wave(order: int, place: int) -> float:
        scale = math.sqrt((2 if order else 1) / width)
        return scale * math.cos(math.pi * (2 * place + 1) * order / (2 * width))

    places = range(width)
    return [
        wave(down, row) * wave(across, column)
        for down in places
        for across in places
        if down or across
        for row in places
        for column in places
    ]


OBJECTIVE = FoeDenoise
