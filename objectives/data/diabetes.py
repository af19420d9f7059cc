"""Diabetes of 442 patients (Efron, Hastie, Johnstone and Tibshirani, 2004), with products."""

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

ROWS, FEATURES = 442, 65


@lru_cache(maxsize=4)
def rows(train_rows: int, seed: int) -> "tuple[NDArray[np.float64], ...]":
    """Features and target of the rows to train on, then of all others.

    Features (rows, 65) are ten measurements, their squares and products; they and the target have
    mean 0 and variance 1 in the rows to train on. `seed` decides which rows these are.
    """
    import numpy as np
    from sklearn.datasets import load_diabetes

    raw, target = load_diabetes(return_X_y=True)
    first, second = np.triu_indices(raw.shape[1])
    features = np.concatenate([raw, raw[:, first] * raw[:, second]], axis=1)
    order = np.random.default_rng(seed).permutation(ROWS)
    train, rest = order[:train_rows], order[train_rows:]
    features = (features - features[train].mean(0)) / features[train].std(0)
    target = (target - target[train].mean()) / target[train].std()
    return features[train], target[train], features[rest], target[rest]


def splits(train_rows: int, seed: int) -> "dict[str, tuple[Tensor, Tensor]]":
    """Features and target of `train`, and of the other rows, half of them each, `validation` and
    `selection`."""
    import torch

    x, y, z, w = map(torch.from_numpy, rows(train_rows, seed))
    half = len(z) // 2
    return {"train": (x, y), "validation": (z[:half], w[:half]), "selection": (z[half:], w[half:])}
