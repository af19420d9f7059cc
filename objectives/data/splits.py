"""Tensors cut into named splits, handed out in batches; wrong labels on request."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from search_spaces.errors import HpoError
from search_spaces.regularizer import Batch


def cut(total: int, sizes: Mapping[str, int], seed: int) -> dict[str, Tensor]:
    """For each split `sizes` row numbers below `total`; none is in two splits."""
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    parts = torch.split(order[: sum(sizes.values())], list(sizes.values()))
    return dict(zip(sizes, parts, strict=True))


def with_wrong_labels(labels: Tensor, share: float, classes: int, seed: int) -> Tensor:
    """The labels with exactly round(share * rows) of them moved to another class, evenly drawn."""
    rng = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(labels), generator=rng)[: round(share * len(labels))]
    shift = torch.randint(1, classes, (len(chosen),), generator=rng)
    noisy = labels.clone()
    noisy[chosen] = (labels[chosen] + shift) % classes
    return noisy


def in_batches(data: Batch, rows: int, rng: torch.Generator | None) -> Iterator[Batch]:
    """One pass over the data, shuffled if a generator is given; the last batch may be smaller."""
    inputs, targets = data
    total = len(targets)
    order = None if rng is None else torch.randperm(total, generator=rng)
    for begin in range(0, total, rows):
        part = slice(begin, begin + rows) if order is None else order[begin : begin + rows]
        yield Batch(inputs[part], targets[part])


def split_named(splits: Mapping[str, Batch], split: str, objective: str) -> Batch:
    """The data of one split; HpoError for a name that is not there."""
    if split not in splits:
        raise HpoError(
            f"objective {objective} has no split '{split}'",
            hint=f"its splits: {', '.join(splits)}",
            code="unknown-split",
        )
    return splits[split]
