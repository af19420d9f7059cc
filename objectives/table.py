"""A table of your own: a CSV or parquet file, a target column by name, a small network."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from objectives.training.fields import require_file, whole_number
from objectives.training.options import Training

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import nn

    from objectives.data.tables import Encoded
    from search_spaces.regularizer import Batch

_ENOUGH_FOR_SELECTION = 400  # below that, validation and selection share their rows


@dataclass(frozen=True)
class Table:
    """Rows of a file as examples; numbers are standardised, text becomes one feature per value.

    path: a CSV or parquet file. target: the column to predict; rows without it are left out. kind:
    "classification" or "regression"; "auto" classifies text, truth values and few whole numbers.
    ignore: columns to leave out, such as row numbers. hidden and layers: the size of the network.
    batch_size: rows in a step. data_seed: decides the splits. A regression's loss is the squared
    error in units of the target's spread. 60% of the rows are trained on, 15% are for validation,
    10% for selection, 15% for the test; tables of less than 400 rows have 20% for validation, no
    selection, and 20% for the test. Scales and frequent values are those of the training rows.
    """

    path: Path
    target: str
    kind: Literal["auto", "classification", "regression"] = "auto"
    ignore: tuple[str, ...] = ()
    hidden: int = 64
    layers: int = 2
    batch_size: int = 64
    data_seed: int = 0

    name: ClassVar[str] = "table"
    training: ClassVar[Training] = Training(steps=1000, learning_rate=2e-3, evaluations=20)

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        object.__setattr__(self, "ignore", tuple(self.ignore))
        whole_number(self.name, "hidden", self.hidden, 1, 4096)
        whole_number(self.name, "layers", self.layers, 1, 16)
        whole_number(self.name, "batch_size", self.batch_size, 1, 2**20)
        require_file(self.path)  # say so before a study begins; what is in it is read when needed

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._data)

    @property
    def classes(self) -> int | None:
        return len(self._encoded.labels) or None

    @property
    def note(self) -> str:
        encoded = self._encoded
        rows, features = encoded.inputs.shape
        what = f"{self.classes} classes" if self.classes else "regression"
        merged = "" if "selection" in self.splits else ", validation also selects"
        return f"{rows} rows, {features} features, {what}{merged}"

    def model(self, seed: int) -> "nn.Module":
        from torch import nn

        width = self._encoded.inputs.shape[1]
        parts: list[nn.Module] = []
        for _ in range(self.layers):
            parts += [nn.Linear(width, self.hidden), nn.ReLU(), nn.Dropout(0.0)]
            width = self.hidden
        return nn.Sequential(*parts, nn.Linear(width, self.classes or 1))

    def batches(self, split: str, rng: "torch.Generator") -> "Iterator[Batch]":
        from objectives.data.splits import in_batches, split_named

        data = split_named(self._data, split, self.name)
        if split == "train":
            return in_batches(data, self.batch_size, rng)
        return in_batches(data, 4096, None)

    def loss(self, model: "nn.Module", batch: "Batch") -> "torch.Tensor":
        from torch.nn import functional

        output = model(batch.inputs)
        if self.classes:
            return functional.cross_entropy(output, batch.targets, reduction="none")
        return functional.mse_loss(output.squeeze(1), batch.targets, reduction="none")

    @cached_property
    def _rows(self) -> "dict[str, torch.Tensor]":
        from objectives.data.splits import cut

        total = len(self._frame)
        shares = {"validation": 0.2, "test": 0.2}
        if total >= _ENOUGH_FOR_SELECTION:
            shares = {"validation": 0.15, "selection": 0.1, "test": 0.15}
        sizes = {split: round(share * total) for split, share in shares.items()}
        return cut(total, {"train": total - sum(sizes.values()), **sizes}, self.data_seed)

    @cached_property
    def _frame(self) -> "pd.DataFrame":
        from objectives.data import tables

        return tables.chosen(tables.read(self.path), self.target, self.ignore)

    @cached_property
    def _encoded(self) -> "Encoded":
        from objectives.data import tables

        kind = tables.kind_of(self._frame[self.target]) if self.kind == "auto" else self.kind
        return tables.encode(self._frame, self.target, kind, self._rows["train"].numpy())

    @cached_property
    def _data(self) -> "dict[str, Batch]":
        import torch

        from search_spaces.regularizer import Batch

        inputs = torch.from_numpy(self._encoded.inputs)
        targets = torch.from_numpy(self._encoded.targets)
        return {name: Batch(inputs[rows], targets[rows]) for name, rows in self._rows.items()}


OBJECTIVE = Table
