"""Denoising of photo patches: a small residual network that learns what noise looks like."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from objectives.training.fields import share, whole_number
from objectives.training.options import Training
from search_spaces.errors import HpoError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from search_spaces.regularizer import Batch

_SIDE = 256  # of the photographs, in pixels
_MEAN = 0.45  # of pixels in 0 to 1
_PICTURES = {"validation": 1, "selection": 1, "test": 2, "train": 4}
_EVALUATED_AT_ONCE = 256


@dataclass(frozen=True)
class Denoise:
    """Patches of the eight photographs that scikit-image brings, grey, with Gaussian noise.

    Four photographs are trained on, one each is for validation and selection, two for the test: no
    picture is in two splits. Inputs and targets are (B, 1, patch, patch), pixels in 0 to 1 less
    their usual mean. The loss is the mean squared error over the noise's variance, so that it is 1
    where nothing is done. sigma: standard deviation of the noise. patch: side of a patch.
    train_patches: how many are trained on, each with one draw of noise; few, so that regularization
    matters. channels: of the network. batch_size: rows in a step. data_seed: decides which
    photographs are for what, which patches are trained on, and the noise. Metrics: psnr, in
    decibels.
    """

    sigma: float = 0.1
    patch: int = 32
    train_patches: int = 8
    channels: int = 16
    batch_size: int = 8
    data_seed: int = 0

    name: ClassVar[str] = "denoise"
    splits: ClassVar[tuple[str, ...]] = ("train", "validation", "selection", "test")
    classes: ClassVar[None] = None
    training: ClassVar[Training] = Training(steps=400, learning_rate=3e-3, evaluations=10)

    def __post_init__(self) -> None:
        share(self.name, "sigma", self.sigma)
        if self.sigma == 0:
            raise HpoError(
                f"objective {self.name}: sigma is 0, there is nothing to learn without noise",
                hint="give a standard deviation above 0, such as 0.1",
                code="bad-option",
            )
        whole_number(self.name, "patch", self.patch, 8, 128)
        most = _PICTURES["train"] * (_SIDE // self.patch) ** 2
        whole_number(self.name, "train_patches", self.train_patches, 1, most)
        whole_number(self.name, "channels", self.channels, 1, 256)
        whole_number(self.name, "batch_size", self.batch_size, 1, most)

    @property
    def note(self) -> str:
        size = f"{self.patch} x {self.patch}"
        return f"{self.train_patches} patches of {size}, noise {self.sigma:g}"

    def model(self, seed: int) -> "nn.Module":
        from objectives._residual import denoiser

        return denoiser(self.channels)

    def batches(self, split: str, rng: "torch.Generator") -> "Iterator[Batch]":
        from objectives.data.splits import in_batches, split_named

        data = split_named(self._data, split, self.name)
        if split == "train":
            return in_batches(data, self.batch_size, rng)
        return in_batches(data, _EVALUATED_AT_ONCE, None)

    def loss(self, model: "nn.Module", batch: "Batch") -> "Tensor":
        error = model(batch.inputs) - batch.targets
        losses: Tensor = error.square().mean((1, 2, 3)) / self.sigma**2
        return losses

    def metrics(self, model: "nn.Module", batch: "Batch") -> "dict[str, Tensor]":
        """Peak signal to noise of each patch, in decibels, of pixels in 0 to 1."""
        error = (model(batch.inputs) - batch.targets).square().mean((1, 2, 3))
        return {"psnr": -10 * error.clamp(min=1e-10).log10()}

    @cached_property
    def _data(self) -> "dict[str, Batch]":
        import torch

        from objectives.data.photographs import square
        from objectives.data.splits import cut
        from search_spaces.regularizer import Batch

        photographs = square(_SIDE).float()
        which = cut(len(photographs), _PICTURES, self.data_seed)
        rng = torch.Generator().manual_seed(self.data_seed)
        splits = {}
        for split, rows in which.items():
            clean = _patches(photographs[rows], self.patch)
            if split == "train":
                clean = clean[torch.randperm(len(clean), generator=rng)[: self.train_patches]]
            noise = torch.randn(clean.shape, generator=rng)
            splits[split] = Batch(clean - _MEAN + self.sigma * noise, clean - _MEAN)
        return splits


def _patches(pictures: "Tensor", side: int) -> "Tensor":
    """All patches (P, 1, side, side) of pictures (N, S, S) that do not overlap."""
    from torch.nn.functional import unfold

    columns = unfold(pictures[:, None], side, stride=side)  # (N, side * side, patches)
    return columns.transpose(1, 2).reshape(-1, 1, side, side)


OBJECTIVE = Denoise
