"""Denoising of photographs by a graph Laplacian: how strong, and how alike pixels have to be."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from objectives._denoising import Denoising
from objectives.training.fields import whole_number
from search_spaces.domains import Domain, Float
from search_spaces.regularizers.graph_laplacian import graph_energy

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class GraphLaplacianDenoise(Denoising):
    """For each photograph y with noise, the picture x that minimizes

        |x - y|^2 / 2 + strength / 2 * sum over pairs of pixels of w_ij * (x_i - x_j)^2,
        w_ij = exp(-(g_i - g_j)^2 / (2 width^2)),

    with g a first reconstruction, y averaged over 3 x 3 pixels; the outer loss is
    |x - clean|^2 / 2, the mean over the photographs. size: of the square pictures, in pixels.
    pictures: how many of the eight photographs are used. radius: how far apart, in pixels, the two
    of a pair may be. noise: standard deviation, of pixels in 0 to 1. data_seed: decides the noise.
    Metrics: psnr, in decibels, and psnr_noisy, that of the photographs as they are given.
    """

    radius: int = 2

    name: ClassVar[str] = "graph_laplacian_denoise"
    space: ClassVar[Mapping[str, Domain]] = {
        "strength": Float(1e-4, 10.0, "log", start=2e-2),
        "width": Float(1e-2, 1.0, "log", start=0.1),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number(self.name, "radius", self.radius, 1, 7)

    @property
    def note(self) -> str:
        return f"{self.pictures} photographs of {self.size} x {self.size}, noise {self.noise:g}"

    def inner_loss(self, params: "Tensor", h: Mapping[str, Any]) -> "Tensor":
        energy = graph_energy(params[:, None], self._first, h["width"], self.radius)
        penalty: Tensor = h["strength"] / 2 * energy
        return self.misfit(params) + penalty

    @cached_property
    def _first(self) -> "Tensor":
        """The first reconstruction, (pictures, 1, size, size)."""
        from torch.nn.functional import avg_pool2d, pad

        _, noisy = self._photographs
        return avg_pool2d(pad(noisy[:, None], (1, 1, 1, 1), mode="replicate"), 3, stride=1)


OBJECTIVE = GraphLaplacianDenoise
