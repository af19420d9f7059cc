"""A table of a user's own, from CSV or parquet, as numbers that a network can be trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from objectives.training.fields import require_file
from search_spaces.errors import HpoError
from search_spaces.plugins import closest

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["classification", "regression"]
Column = NDArray[np.float32]  # (rows, features) that one column of the table becomes

_MOST_CLASSES = 20  # whole numbers with more distinct values than this are quantities
_MOST_WORDS = 32  # text columns keep this many frequent values, the rest share one feature
_PARQUET = (".parquet", ".pq")
_FEWEST_ROWS = 30


@dataclass(frozen=True)
class Encoded:
    """inputs: (rows, features); targets: class numbers, or numbers in units of their spread."""

    inputs: NDArray[np.float32]
    targets: NDArray[Any]
    kind: Kind
    labels: tuple[str, ...]  # the classes' names, in the order of their numbers


def read(path: Path) -> "pd.DataFrame":
    """The table in a file; HpoError if there is none, or it cannot be read."""
    import pandas as pd

    require_file(path)
    try:
        if path.suffix.lower() in _PARQUET:
            frame = pd.read_parquet(path)
        else:
            frame = pd.read_csv(path, low_memory=False)  # one type for each column, not by chunks
    except Exception as error:  # pandas and pyarrow have a dozen kinds for a damaged file
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise _bad(f"cannot read {path}: {reason[0]}", "path", "a CSV or parquet file") from error
    frame.columns = pd.Index([str(name) for name in frame.columns])
    twice = sorted(set(frame.columns[frame.columns.duplicated()]))
    if twice:
        raise _bad(f"{path} has two columns {', '.join(twice)}", "path", "rename one of each")
    return frame


def chosen(frame: "pd.DataFrame", target: str, ignore: Sequence[str]) -> "pd.DataFrame":
    """The rows that have a target, without the ignored columns; HpoError if they teach nothing."""
    import pandas as pd

    for option, name in (("target", target), *(("ignore", name) for name in ignore)):
        if name not in frame.columns:
            near = closest(name, list(frame.columns))
            guess = f", did you mean '{near}'?" if near else ""
            columns = ", ".join(frame.columns[:12]) + (", ..." if len(frame.columns) > 12 else "")
            raise _bad(f"no column '{name}'{guess}", option, f"columns: {columns}", near)
    if target in ignore:
        raise _bad(
            f"column {target} is both target and ignored", "ignore", "leave it out of ignore"
        )
    frame = frame.drop(columns=list(ignore))
    empty = [name for name in frame.columns if len(frame) and frame[name].isna().all()]
    if empty:
        hint = f"remove them from the file, or set  ignore: [{', '.join(empty)}]"
        raise _bad(f"nothing in column {', '.join(empty)}", "path", hint)
    frame = frame[frame[target].notna()].reset_index(drop=True)
    if len(frame) < _FEWEST_ROWS:
        hint = f"at least {_FEWEST_ROWS} rows with a target are needed"
        raise _bad(f"{len(frame)} rows are too few", "path", hint)
    if frame[target].nunique() < 2:
        hint = "choose a target with at least two values"
        raise _bad(f"column {target} is always {frame[target].iloc[0]!r}", "target", hint)
    if len(frame.columns) < 2:
        raise _bad(f"no column beside the target {target}", "path", "something to predict it from")
    return pd.DataFrame(frame)


def kind_of(target: "pd.Series[Any]") -> Kind:
    """Classification for text, truth values and few distinct whole numbers; else regression."""
    import pandas as pd

    if not pd.api.types.is_numeric_dtype(target) or pd.api.types.is_bool_dtype(target):
        return "classification"
    values = target.unique()
    whole = all(float(value).is_integer() for value in values)
    few = len(values) <= min(_MOST_CLASSES, len(target) // 5)
    return "classification" if whole and few else "regression"


def encode(frame: "pd.DataFrame", target: str, kind: Kind, train: NDArray[np.int64]) -> Encoded:
    """The table as numbers, scaled and filled by what the training rows alone say."""
    columns = [_encode_column(frame[name], train) for name in frame.columns if name != target]
    inputs = np.concatenate(columns, axis=1)
    if inputs.shape[1] == 0:
        raise _bad("every column is constant in the training rows", "path", "other data")
    if kind == "classification":
        numbers, labels = _class_numbers(frame[target])
        return Encoded(inputs, numbers, kind, labels)
    return Encoded(inputs, _quantities(frame[target], train), kind, ())


def _class_numbers(column: "pd.Series[Any]") -> tuple[NDArray[np.int64], tuple[str, ...]]:
    names = column.astype(str)
    labels = tuple(sorted(names.unique(), key=_numbers_first))
    if len(labels) > len(names) // 2:
        found = f"column {column.name} has {len(labels)} different values in {len(names)} rows"
        raise _bad(
            f"{found}, too many for classes", "target", "choose a target whose values repeat"
        )
    numbers = {label: number for number, label in enumerate(labels)}
    return np.array(names.map(numbers), dtype=np.int64), labels


def _quantities(column: "pd.Series[Any]", train: NDArray[np.int64]) -> NDArray[np.float32]:
    import pandas as pd

    if not pd.api.types.is_numeric_dtype(column):
        raise _bad(f"column {column.name} is not numeric", "kind", "use kind: classification")
    values = _numbers(column)
    if not np.isfinite(values).all():
        raise _bad(f"column {column.name} holds infinite values", "target", "clean them")
    spread = values[train].std()
    if spread == 0:
        raise _bad(f"column {column.name} is constant in the training rows", "target", "other data")
    scaled: NDArray[np.float32] = ((values - values[train].mean()) / spread).astype(np.float32)
    return scaled


def _encode_column(column: "pd.Series[Any]", train: NDArray[np.int64]) -> Column:
    import pandas as pd

    if pd.api.types.is_datetime64_any_dtype(column):
        days = (column - column.min()) / pd.Timedelta(days=1)
        return _standardised(_numbers(days), train)
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_complex_dtype(column):
        return _standardised(_numbers(column), train)
    return _one_hot(column, train)


def _numbers(column: "pd.Series[Any]") -> NDArray[np.float64]:
    return np.asarray(column.astype("Float64").to_numpy(na_value=np.nan), dtype=np.float64)


def _standardised(values: NDArray[np.float64], train: NDArray[np.int64]) -> Column:
    """Mean 0 and spread 1 over the training rows, missing values at the mean with a mark beside."""
    missing = ~np.isfinite(values)
    known = values[train][~missing[train]]
    features = []
    if known.size and known.std() > 0:
        scaled = (values - known.mean()) / known.std()
        # A value far outside the training rows must not blow up the network.
        features.append(np.where(missing, 0.0, np.clip(scaled, -10.0, 10.0)))
    if missing[train].any():
        features.append(missing.astype(np.float64))
    stacked = np.stack(features, axis=1) if features else np.zeros((len(values), 0))
    return stacked.astype(np.float32)


def _one_hot(column: "pd.Series[Any]", train: NDArray[np.int64]) -> Column:
    """A feature for each frequent value of the training rows, and one for all others."""
    words = column.astype("string").fillna("").to_numpy(dtype=object).astype(str)
    seen, counts = np.unique(words[train], return_counts=True)
    order = np.lexsort((seen, -counts))
    kept = seen[order][:_MOST_WORDS]
    if len(seen) < 2:
        return np.zeros((len(words), 0), np.float32)
    features = words[:, None] == kept[None, :]
    other = ~features.any(axis=1, keepdims=True)
    return np.concatenate([features, other], axis=1).astype(np.float32)


def _numbers_first(label: str) -> tuple[float, str]:
    try:
        return float(label), label
    except ValueError:
        return float("inf"), label


def _bad(message: str, option: str, hint: str, suggest: str | None = None) -> HpoError:
    return HpoError(
        f"objective table: {message}",
        hint=hint,
        code="bad-table",
        suggest=suggest,
        path=("objective_options", option),
    )
