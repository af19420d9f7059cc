"""Data sets are what they claim to be, and a user's own table is read or refused with reasons.

Run with: pytest tests/test_data.py
"""

import functools
import gzip
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from objectives.data import fashion_mnist as images
from objectives.data.splits import cut, in_batches, with_wrong_labels
from objectives.digits import Digits
from objectives.fashion_mnist import FashionMnist
from objectives.ridge import Ridge
from objectives.table import Table
from search_spaces.errors import HpoError
from search_spaces.regularizer import Batch


def all_rows(task: Any, split: str) -> tuple[Tensor, Tensor]:
    passes = list(task.batches(split, torch.Generator().manual_seed(0)))
    return torch.cat([b.inputs for b in passes]), torch.cat([b.targets for b in passes])


# splits and labels


def test_splits_are_disjoint_and_sized() -> None:
    rows = cut(100, {"a": 30, "b": 20, "c": 50}, seed=1)
    assert {name: len(index) for name, index in rows.items()} == {"a": 30, "b": 20, "c": 50}
    assert len(torch.cat(list(rows.values())).unique()) == 100
    assert not torch.equal(rows["a"], cut(100, {"a": 30}, seed=2)["a"])


def test_wrong_labels_are_exactly_as_many_and_all_wrong() -> None:
    labels = torch.arange(1000) % 10
    noisy = with_wrong_labels(labels, 0.15, 10, seed=0)
    assert int((noisy != labels).sum()) == 150
    assert noisy.min() >= 0 and noisy.max() < 10
    assert len((noisy - labels)[noisy != labels].remainder(10).unique()) == 9


def test_a_pass_hands_out_each_row_once() -> None:
    data = Batch(torch.arange(10.0), torch.arange(10))
    shuffled = list(in_batches(data, 4, torch.Generator().manual_seed(0)))
    assert [len(b.targets) for b in shuffled] == [4, 4, 2]
    order = torch.cat([b.targets for b in shuffled])
    assert order.sort().values.tolist() == list(range(10)) and order.tolist() != list(range(10))
    assert torch.cat([b.targets for b in in_batches(data, 4, None)]).tolist() == list(range(10))


# digits


def test_only_the_training_labels_of_digits_are_noisy() -> None:
    noisy, clean = Digits(label_noise=0.2), Digits(label_noise=0.0)
    wrong = all_rows(noisy, "train")[1] != all_rows(clean, "train")[1]
    assert int(wrong.sum()) == 60
    for split in ("validation", "selection", "test"):
        assert torch.equal(all_rows(noisy, split)[1], all_rows(clean, split)[1])
    assert noisy.note == "300 rows, 20% wrong labels"


def test_held_out_digits_stay_when_the_training_set_grows() -> None:
    few, many = Digits(train_rows=50), Digits(train_rows=697)
    assert torch.equal(all_rows(few, "test")[0], all_rows(many, "test")[0])
    assert abs(float(all_rows(many, "train")[0].std()) - 1.0) < 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_rows": 698}, "train_rows must be 10 to 697"),
        ({"label_noise": 1.5}, "label_noise is a share"),
        ({"batch_size": 0}, "batch_size must be 1"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(HpoError) as error:
        Digits(**options)
    assert message in str(error.value)
    assert error.value.path == ("objective_options", next(iter(options)))


# Fashion-MNIST


def test_fashion_mnist_is_the_original() -> None:
    train, test = images.load("train"), images.load("test")
    assert train.pixels.shape == (60000, 28, 28) and test.pixels.shape == (10000, 28, 28)
    assert np.bincount(train.labels).tolist() == [6000] * 10
    assert np.bincount(test.labels).tolist() == [1000] * 10
    images.verify(images.find())


def test_fashion_mnist_comes_in_the_size_asked_for() -> None:
    task = FashionMnist(train_rows=200, held_out_rows=50, label_noise=0.5)
    sizes = {split: len(all_rows(task, split)[1]) for split in task.splits}
    assert sizes == {"train": 200, "validation": 50, "selection": 50, "test": 10000}
    assert 20_000 <= sum(p.numel() for p in task.model(0).parameters()) <= 100_000
    inputs = all_rows(task, "train")[0]
    assert inputs.shape == (200, 1, 28, 28)
    assert abs(float(inputs.mean())) < 0.1 and abs(float(inputs.std()) - 1) < 0.1
    assert task.note == "200 rows, 50% wrong labels"


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without the data; $HPO_DATA is an empty folder."""
    monkeypatch.setattr(images, "SYSTEM", tmp_path / "system")
    monkeypatch.setattr(images, "_cache", lambda: tmp_path / "cache")
    monkeypatch.setenv("HPO_DATA", str(tmp_path / "own"))
    images.load.cache_clear()
    return tmp_path


def put(folder: Path, changes: dict[str, bytes] | None = None) -> None:
    folder.mkdir(parents=True)
    for name in images.FILES:
        content = (changes or {}).get(name, b"")
        (folder / name).write_bytes(content)


def test_without_the_data_the_error_names_make_data(nowhere: Path) -> None:
    with pytest.raises(HpoError) as error:
        FashionMnist()
    assert "Fashion-MNIST is not on this machine\nmake data" in str(error.value)
    assert str(nowhere / "own") in error.value.hint


def test_places_are_looked_in_by_their_order(nowhere: Path) -> None:
    for place in ("cache", "system", "own", "own/fashion-mnist"):
        put(nowhere / place)
        assert images.find() == nowhere / place
    (nowhere / "own/fashion-mnist/t10k-labels-idx1-ubyte.gz").unlink()
    assert images.find() == nowhere / "own"


LABELS = "t10k-labels-idx1-ubyte.gz"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not gzip", "cannot be unpacked"),
        (gzip.compress(b"x" * 1000)[:-9], "cannot be unpacked"),
        (gzip.compress(b"\0\0\x08\x03" + b"\0" * 99), "not an idx file"),
        (gzip.compress(b"\0\0\x08\x01\0\0\0\x02ab"), "it holds (2,)"),
        (gzip.compress(b"\0\0\x08\x01\0\0\x27\x10" + b"\x0b" * 10000), "it holds label 11"),
    ],
    ids=["no archive", "cut short", "images", "few labels", "wrong label"],  # gzip writes the time
)
def test_damaged_files_are_named(nowhere: Path, content: bytes, message: str) -> None:
    pixels = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (10000, 28, 28))
    whole = gzip.compress(pixels + bytes(10000 * 784), 1)
    put(nowhere / "own", {LABELS: content, "t10k-images-idx3-ubyte.gz": whole})
    with pytest.raises(HpoError) as error:
        images.load("test")
    assert message in error.value.message
    assert str(nowhere / "own" / LABELS) in error.value.message


@pytest.fixture
def home(nowhere: Path) -> Iterator[tuple[str, Path]]:
    """A web server in the place of the data set's home, and the folder it serves."""
    folder = nowhere / "served"
    put(folder)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None: ...

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", folder
        server.shutdown()
        thread.join()


def test_what_is_fetched_is_checked(
    home: tuple[str, Path], nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = home
    with pytest.raises(HpoError, match="cannot download"):
        images.fetch(home=address)
    files = {}
    for number, (name, file) in enumerate(images.FILES.items()):
        content = gzip.compress(bytes([number]))
        (folder / name).write_bytes(content)
        inside = hashlib.sha256(bytes([number])).hexdigest()
        files[name] = file._replace(download=hashlib.sha256(content).hexdigest(), content=inside)
    monkeypatch.setattr(images, "FILES", files)
    assert images.fetch(home=address) == nowhere / "cache"
    images.verify(nowhere / "cache")
    (nowhere / "cache" / LABELS).write_bytes(gzip.compress(b"other"))
    with pytest.raises(HpoError, match="its checksum is another"):
        images.verify(nowhere / "cache")


def test_the_checksums_of_the_download_are_those_of_the_original() -> None:
    # Debian's file is the original without the name and the date in its gzip header (1504176627
    # seconds after 1970): put back, they must give the published checksum.
    content = (images.find() / LABELS).read_bytes()
    if content[3] == 0:
        date = (1504176627).to_bytes(4, "little")
        name = LABELS.removesuffix(".gz").encode() + b"\0"
        content = b"\x1f\x8b\x08\x08" + date + content[8:10] + name + content[10:]
    assert hashlib.md5(content).hexdigest() == "bb300cfdad3c16e7a12a480ee83cd310"
    assert hashlib.sha256(content).hexdigest() == images.FILES[LABELS].download


def test_make_data_says_where_the_data_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert images.main() == 0
    assert capsys.readouterr().out == f"Fashion-MNIST is in {images.find()}\n"


def test_make_data_without_a_network(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        images, "fetch", functools.partial(images.fetch, home="http://127.0.0.1:9/")
    )
    assert images.main() == 5
    assert "cannot download http://127.0.0.1:9/train-images" in capsys.readouterr().err


# a user's own table


def frame(rows: int = 200) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "size": rng.normal(50.0, 10.0, rows),
            "colour": rng.choice(["red", "green", "blue"], rows),
            "old": rng.random(rows) < 0.3,
            "day": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, rows), "D"),
        }
    )
    table["price"] = 3.0 * table["size"] + 20.0 * (table["colour"] == "red") + rng.normal(size=rows)
    table["kind"] = np.where(table["price"] > 155.0, "dear", "cheap")
    table.loc[::7, "size"] = np.nan
    table.loc[::5, "colour"] = None
    return table


def saved(tmp_path: Path, table: pd.DataFrame, suffix: str = ".csv") -> Path:
    path = tmp_path / f"table{suffix}"
    if suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_becomes_numbers(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path, frame(), suffix)
    task = Table(path, "kind", ignore=("price", "day"))
    # size and its mark for missing; four values of colour (one of them missing), and other; old
    assert task.note == "200 rows, 8 features, 2 classes, validation also selects"
    inputs, targets = all_rows(task, "train")
    assert inputs.shape == (120, 8) and targets.dtype == torch.int64
    assert torch.isfinite(inputs).all()
    sizes = inputs[:, 0][inputs[:, 1] == 0]
    assert abs(float(sizes.mean())) < 1e-5 and abs(float(sizes.std(correction=0)) - 1) < 1e-5
    assert (inputs[:, 0][inputs[:, 1] == 1] == 0).all()


def test_regression_targets_are_in_units_of_their_spread(tmp_path: Path) -> None:
    task = Table(saved(tmp_path, frame(500)), "price", ignore=("kind",))
    assert task.classes is None and task.splits == ("train", "validation", "selection", "test")
    inputs, targets = all_rows(task, "train")
    assert targets.dtype == torch.float32 and abs(float(targets.std(correction=0)) - 1) < 1e-5
    batch = Batch(inputs, targets)
    assert task.loss(task.model(0), batch).shape == targets.shape


def test_a_date_becomes_one_number(tmp_path: Path) -> None:
    table = frame()[["day", "kind"]]
    table.loc[3, "day"] = pd.NaT
    inputs, _ = all_rows(Table(saved(tmp_path, table, ".parquet"), "kind"), "train")
    assert inputs.shape[1] in (1, 2)  # with a mark if the missing one is trained on
    assert abs(float(inputs[:, 0].std()) - 1.0) < 0.02


def test_nothing_is_learned_from_the_rows_that_are_not_trained_on(tmp_path: Path) -> None:
    table = frame()
    before = Table(saved(tmp_path, table), "kind", ignore=("price",))
    test_row = int(before._rows["test"][0])
    table.loc[test_row, ["size", "colour"]] = [1e9, "infrared"]
    after = Table(saved(tmp_path, table), "kind", ignore=("price",))
    assert torch.equal(all_rows(before, "train")[0], all_rows(after, "train")[0])
    outlier = all_rows(after, "test")[0]
    assert float(outlier.abs().max()) == 10.0 and torch.isfinite(outlier).all()


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        (["a", "b"] * 30, "classification"),
        ([True, False] * 30, "classification"),
        ([0, 1, 2] * 20, "classification"),
        ([0.0, 1.0, None] * 20, "classification"),
        (list(range(60)), "regression"),
        ([0.5, 1.0] * 30, "regression"),
    ],
)
def test_the_kind_of_a_target_is_guessed(tmp_path: Path, target: list[Any], kind: str) -> None:
    table = pd.DataFrame({"x": np.arange(60.0) ** 2, "y": target})
    task = Table(saved(tmp_path, table), "y")
    assert task._encoded.kind == kind


def test_classes_of_whole_numbers_are_ordered_as_numbers(tmp_path: Path) -> None:
    table = pd.DataFrame({"x": np.arange(60.0), "y": [2, 10, 1] * 20})
    assert Table(saved(tmp_path, table), "y")._encoded.labels == ("1", "2", "10")


def test_rare_words_share_a_feature(tmp_path: Path) -> None:
    table = pd.DataFrame({"word": [f"w{i % 80}" for i in range(400)], "y": [0, 1] * 200})
    assert all_rows(Table(saved(tmp_path, table), "y"), "train")[0].shape[1] == 33


def bad_tables() -> dict[str, tuple[dict[str, list[Any]], dict[str, Any], str]]:
    rows = list(range(60))
    classes = [0, 1] * 30
    return {
        "no column": ({"size": rows, "kind": classes}, {"target": "knd"}, "did you mean 'kind'"),
        "not ignored": ({"x": rows, "y": classes}, {"ignore": ["z"]}, "no column 'z'"),
        "both": ({"x": rows, "y": classes}, {"ignore": ["y"]}, "both target and ignored"),
        "constant": ({"x": rows, "y": [1] * 60}, {}, "column y is always"),
        "few rows": ({"x": rows[:9], "y": classes[:9]}, {}, "9 rows are too few"),
        "no targets": ({"x": rows, "y": [None] * 60}, {}, "nothing in column y"),
        "empty column": ({"x": rows, "e": [None] * 60, "y": classes}, {}, "nothing in column e"),
        "alone": ({"y": classes}, {}, "no column beside the target y"),
        "useless": ({"x": [1] * 60, "y": classes}, {}, "every column is constant"),
        "too many": ({"x": rows, "y": [f"w{i}" for i in rows]}, {}, "too many for classes"),
        "words": (
            {"x": rows, "y": ["a", "b"] * 30},
            {"kind": "regression"},
            "column y is not numeric",
        ),
        "infinite": ({"x": rows, "y": [*rows[:-1], float("inf")]}, {}, "infinite values"),
    }


@pytest.mark.parametrize("case", bad_tables())
def test_tables_that_teach_nothing_are_refused(tmp_path: Path, case: str) -> None:
    columns, options, message = bad_tables()[case]
    path = saved(tmp_path, pd.DataFrame(columns))
    task = Table(path, **{"target": "y", **options})
    with pytest.raises(HpoError) as error:
        task.model(0)
    assert message in error.value.message
    assert error.value.path[0] == "objective_options" and error.value.hint


def test_files_that_are_no_tables_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path, frame())
    (tmp_path / "no.parquet").write_bytes(b"PAR1 not really")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "torn.csv").write_text('a,b\n1,2\n"x,3\n')
    with pytest.raises(HpoError, match="did you mean 'table"):
        Table(path.with_name("tabel.csv"), "kind")
    for name in ("no.parquet", "empty.csv", "torn.csv"):
        with pytest.raises(HpoError) as error:
            Table(tmp_path / name, "kind").model(0)
        assert f"cannot read {tmp_path / name}: " in error.value.message


# ridge


def test_ridge_agrees_with_scikit_learn() -> None:
    from sklearn.linear_model import Ridge as Reference

    task = Ridge(train_rows=150, data_seed=3)
    values, _, to_held_out, held_out = task._factors
    features = np.diag(np.sqrt(values * 150))  # X = U diag(s) V' and U'U = 1: rotated, the same
    projected = task._factors[1] * 150 / np.sqrt(values * 150)
    for l2 in (1e-4, 0.3, 20.0):
        model = Reference(alpha=150 * l2, fit_intercept=False).fit(features, projected)
        expected = float(((model.predict(to_held_out) - held_out) ** 2).mean())
        assert task.val_loss(l2) == pytest.approx(expected, rel=1e-8)


def test_the_best_strength_of_ridge_is_inside_its_range() -> None:
    task = Ridge()
    strength, loss = task.best()
    assert 0.1 < strength < 10.0
    assert all(loss <= task.val_loss(strength * factor) for factor in (0.5, 0.99, 1.01, 2.0))
    start = task.space["l2"].start_value()
    assert task(lambda progress: {"l2": start}, 0)["val_loss"] > 2.5 * loss
