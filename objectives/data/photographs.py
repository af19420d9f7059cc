"""Photographs that come with scikit-image, as grey squares."""

from functools import lru_cache
from typing import TYPE_CHECKING

from search_spaces.errors import HpoError

if TYPE_CHECKING:
    from torch import Tensor

NAMES = ("astronaut", "camera", "coffee", "chelsea", "rocket", "coins", "brick", "moon")


@lru_cache(maxsize=2)
def square(size: int) -> "Tensor":
    """The middle of each photograph, scaled to size x size: (8, size, size), double, 0 to 1."""
    import numpy as np
    import torch

    try:
        from skimage import color, data, transform
    except ImportError as error:
        raise HpoError(
            "the photographs come with scikit-image, which is not installed",
            hint="pip install 'hpo-schedules[images]'",
            code="not-installed",
        ) from error
    pictures = []
    for name in NAMES:
        picture = getattr(data, name)()
        grey = color.rgb2gray(picture) if picture.ndim == 3 else picture / 255.0
        side = min(grey.shape)
        top, left = ((length - side) // 2 for length in grey.shape)
        middle = grey[top : top + side, left : left + side]
        pictures.append(transform.resize(middle, (size, size), anti_aliasing=True))  # type: ignore[no-untyped-call]
    return torch.from_numpy(np.stack(pictures).astype(np.float64)).clamp(0, 1)
