"""`hpo show --policy`: sheets of pictures of policies, operations and studies.

Run with: pytest tests/test_policy_sheet.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image
from shell import hpo as shell

import hpo
from hpo.errors import HpoError
from hpo.policysheet import augmenting, of_policy
from hpo.sheet import Sheet, picture, save
from search_spaces import catalogue

pytestmark = pytest.mark.slow

PHOTOS = '''
import torch
from torch import nn
from search_spaces.regularizer import Batch
class Photos:
    """Coloured noise that is smooth, in two classes."""

    classes = 2
    splits = ("train", "validation", "test")

    def model(self, seed):
        pooled = (nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        return nn.Sequential(*pooled, nn.Linear(16, 2))

    def batches(self, split, rng):
        made = torch.Generator().manual_seed(0)
        coarse = torch.rand(8, 3, 4, 4, generator=made)
        images = nn.functional.interpolate(coarse, size=(20, 24), mode="bilinear")
        yield Batch(images, torch.arange(8) % 2)

    def loss(self, model, batch):
        return nn.functional.cross_entropy(model(batch.inputs), batch.targets, reduction="none")


class Rows(Photos):
    def batches(self, split, rng):
        yield Batch(torch.zeros(4, 7), torch.arange(4) % 2)


class Broken(Photos):
    def batches(self, split, rng):
        raise RuntimeError("no such pictures")
'''


@pytest.fixture
def photos(tmp_path: Path) -> str:
    file = tmp_path / "photos.py"
    file.write_text(PHOTOS, encoding="utf-8")
    return f"{file}:Photos"


def told(*arguments: str) -> str:
    ended = shell(*arguments)
    assert ended.code == 0, ended.err
    return ended.out


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_a_sheet_shows_each_image_under_its_column_enlarged_by_whole_pixels(
    tmp_path: Path,
) -> None:
    checks = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).expand(2, 1, 2, 2)
    grey = torch.full((2, 1, 2, 2), 0.5)
    colour = torch.zeros(2, 3, 2, 2)
    colour[:, 0] = 1
    sheet = Sheet(
        "title", ["a line"], [("one", checks), ("two", grey), ("red", colour)], ["a", "b"]
    )
    save(sheet, tmp_path / "sheet.png")
    found = pixels(tmp_path / "sheet.png")
    for shade, cells in (((128, 128, 128), 2), ((255, 0, 0), 2)):
        area = int((found == np.array(shade)).all(2).sum())
        assert area == cells * 80 * 80, "two rows of 80 x 80"
    assert picture(sheet).size == found.shape[1::-1]


def test_long_labels_and_lines_stay_inside_the_page() -> None:
    images = torch.zeros(1, 1, 8, 8)
    short = Sheet("t", [], [("a", images), ("b", images)], ["r"])
    long = Sheet("title " * 40, ["many words " * 40], [("a " * 60, images), ("b", images)], ["r"])
    assert picture(long).width == picture(short).width
    assert picture(long).height > picture(short).height


@pytest.mark.slow
@pytest.mark.parametrize("name", augmenting(catalogue.names()))
def test_everything_that_augments_has_a_sheet(name: str, photos: str) -> None:
    sheet, _ = of_policy(name, photos, {})
    (label, original), *columns = sheet.columns
    assert label == "original" and len(sheet.rows) == 6
    assert len({text for text, _ in columns}) == len(columns) > 1
    assert any(not torch.equal(images, original) for _, images in columns)
    assert all(float(i.min()) >= 0 and float(i.max()) <= 1 for _, i in sheet.columns)


def test_an_operation_by_itself_grows_to_the_right(photos: str) -> None:
    sheet, _ = of_policy("augment.brightness", photos, {})
    original = sheet.columns[0][1]
    change = [float((images - original).abs().mean()) for _, images in sheet.columns]
    assert change[0] == 0 and change == sorted(change) and change[-1] > 5 * change[1] > 0
    values = [float(label) for label, _ in sheet.columns[1:]]
    assert values == sorted(values) and values[-1] == 0.9
    fixed, point = of_policy("augment.brightness", photos, {"augment.brightness": 0.5})
    assert fixed.columns[1][0] == "draw 1" and point == {"augment.brightness": 0.5}


def test_the_command_saves_the_sheet_and_says_so(
    tmp_path: Path,
    photos: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    out = told("show", "--policy", "trivial", "--objective", photos)
    assert "saved trivial.png" in out and Path("trivial.png").stat().st_size > 1000
    options = ("--set", "randaugment.magnitude=20", "--out", "strong.png", "--json")
    text = told("show", "--policy", "randaugment", "--objective", photos, *options)
    document = json.loads(text)
    assert document["knobs"] == {"randaugment.magnitude": 20.0, "randaugment.operations": 2}
    assert document["file"] == "strong.png" and document["columns"][0] == "original"
    off = ("--set", "randaugment.magnitude=0", "--out", "off.png")
    told("show", "--policy", "randaugment", "--objective", photos, *off)
    sheet, _ = of_policy("randaugment", photos, {"randaugment.magnitude": 0.0})
    assert all(torch.equal(images, sheet.columns[0][1]) for _, images in sheet.columns)


def test_mistakes_are_told_in_a_sentence(tmp_path: Path, photos: str) -> None:
    with pytest.raises(HpoError, match="did you mean 'randaugment'"):
        of_policy("randaugmnt", photos, {})
    with pytest.raises(HpoError, match="does not change inputs"):
        of_policy("weight_decay", photos, {})
    with pytest.raises(HpoError, match=r"unknown knob 'randaugment\.power'"):
        of_policy("randaugment", photos, {"randaugment.power": 1})
    with pytest.raises(HpoError, match="are no images"):
        of_policy("randaugment", photos.replace(":Photos", ":Rows"), {})
    with pytest.raises(HpoError, match="no training images"):
        of_policy("randaugment", "kernel_ridge", {})
    with pytest.raises(HpoError, match=r"RuntimeError: no such pictures  \(photos.py:"):
        of_policy("randaugment", photos.replace(":Photos", ":Broken"), {})
    with pytest.raises(HpoError, match="nowhere"):
        save(of_policy("trivial", photos, {})[0], tmp_path / "nowhere" / "sheet.png")


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", "some", "--policy", "randaugment"],
        ["show", "--objective", "digits"],
        ["show", "--out", "a.png"],
        ["show", "--set", "trivial=1"],
        ["show", "--policy", "--objective", "digits"],
    ],
    ids=" ".join,
)
def test_options_that_say_nothing_together_are_refused(arguments: list[str]) -> None:
    ended = shell(*arguments)
    assert ended.code == 2 and "--policy" in ended.err


def test_a_study_shows_its_policy_over_training_and_leaves_it_in_its_folder(
    tmp_path: Path,
    photos: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    rising = {"schedule": {"kind": "linear", "knots": 2}}
    result = hpo.run(
        objective=photos,
        space={"randaugment.magnitude": rising},
        sampler="random",
        minimize="val_loss",
        budget={"trials": 2, "steps": 4},
        training={"evaluations": 2},
        name="augmented",
    )
    sheet = result.folder.policy
    assert sheet.stat().st_size > 1000
    client = MlflowClient(f"sqlite:///{tmp_path}/mlruns/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == photos]
    runs = client.search_runs([experiment.experiment_id])
    logged = [file.path for run in runs for file in client.list_artifacts(run.info.run_id)]
    assert logged.count("policy.png") == 1, "of the study, not of each trial"
    out = told("show", "augmented", "--policy")
    assert "start 1" in out and "middle 1" in out and "end 3" in out
    below = slice(32, None)  # the title says how the objective was called
    assert np.array_equal(pixels(Path("augmented-policy.png"))[below], pixels(sheet)[below])


def test_a_study_without_augmentation_has_no_sheet(
    tmp_path: Path,
    photos: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = hpo.run(
        objective=photos,
        space=["weight_decay"],
        sampler="random",
        minimize="val_loss",
        budget={"trials": 1, "steps": 2},
        training={"evaluations": 1},
        mlflow=False,
        name="plain",
    )
    assert not result.folder.policy.exists()
    ended = shell("show", "plain", "--policy")
    assert ended.code == 2 and "changes no inputs" in ended.err


def test_images_without_a_class_have_numbers() -> None:
    sheet, _ = of_policy("augment.rotate", "denoise", {})
    assert sheet.rows[:2] == ["image 1", "image 2"]
    assert picture(sheet).width < 2000
