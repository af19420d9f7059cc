"""What a user writes after `objective:` is found, or the error says what is there instead.

Run with: pytest tests/test_resolve.py
"""

import importlib.metadata
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from objectives.digits import Digits
from objectives.ridge import Ridge
from objectives.training import resolve as resolving
from objectives.training.resolve import names, resolve
from objectives.training.task import is_task
from search_spaces.errors import HpoError

MODULE = """
from dataclasses import dataclass

class Faces:
    def __init__(self, size: int = 3, rate: float = 0.5):
        self.size, self.rate = size, rate
    def model(self, seed): ...
    def batches(self, split, rng): ...
    def loss(self, model, batch): ...

class FacesBig(Faces):
    pass

ready = Faces(9)

class NoBatches:
    def model(self, seed): ...
    def loss(self, model, batch): ...

class Nothing:
    pass

class Breaks:
    def __init__(self):
        raise ValueError("expected 3 channels")

@dataclass
class Wide:
    target: str
    kind: "str | None" = None
    def __call__(self, h, seed):
        return 1.0

def plain(h, seed):
    return h(0.0)["x"]

def generator(h, seed, *, rows=10, noise: float = 0.1):
    yield {"val_loss": rows + noise}

generator.space = {"x": 1}

def demanding(h, seed, depth):
    return depth

def short(h):
    return 0.0

async def later(h, seed):
    return 0.0

_private = 3
number = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in, with modules that are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    for name in [name for name in sys.modules if name.startswith("my_")]:
        monkeypatch.delitem(sys.modules, name)  # another test had a module of this name
    before = set(sys.modules)
    (tmp_path / "my_task.py").write_text(MODULE)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith(("my_", "_hpo_objective")):
            del sys.modules[name]


def message(reference: str, **options: Any) -> HpoError:
    with pytest.raises(HpoError) as error:
        resolve(reference, options)
    return error.value


def test_a_built_in_name_is_constructed_with_its_options() -> None:
    task = resolve("digits", {"train_rows": 100, "network": "cnn", "label_noise": 0})
    assert task == Digits(train_rows=100, network="cnn", label_noise=0.0)
    assert is_task(task) and isinstance(task.label_noise, float)
    assert isinstance(resolve("ridge"), Ridge) and not is_task(resolve("ridge"))
    assert {"digits", "fashion_mnist", "ridge", "table"} <= set(names())


@pytest.mark.parametrize("place", ["my_task", "my_task.py", "./my_task.py"])
def test_a_class_an_instance_and_functions_of_a_users_module(folder: Path, place: str) -> None:
    task = resolve(f"{place}:Faces", {"size": 4, "rate": 1})
    assert (task.size, task.rate) == (4, 1.0) and is_task(task)
    assert resolve(f"{place}:ready").size == 9
    assert resolve(f"{place}:plain")(lambda progress: {"x": 5}, 0) == 5
    filled = resolve(f"{place}:generator", {"rows": 20, "noise": 1})
    assert list(filled(lambda progress: {}, 0)) == [{"val_loss": 21.0}]
    assert filled.space == {"x": 1}
    assert resolve(f"{place}:demanding", {"depth": 3})(None, 0) == 3
    assert resolve(f"{place}:Wide", {"target": "y"})(None, 0) == 1.0


def test_a_file_elsewhere_may_import_its_neighbours(folder: Path) -> None:
    place = folder / "else where"
    place.mkdir()
    (place / "my_neighbour.py").write_text("VALUE = 7\n")
    (place / "json.py").write_text(
        "from my_neighbour import VALUE\ndef f(h, seed):\n    return VALUE\n"
    )
    assert resolve(f"{place}/json.py:f")(None, 0) == 7
    import json

    assert json.dumps({}) == "{}"  # a file named like an installed module does not replace it


def test_an_edited_file_is_read_again(folder: Path) -> None:
    path = folder / "my_function.py"
    path.write_text("def f(h, seed):\n    return 1\n")
    assert resolve("my_function.py:f")(None, 0) == 1
    path.write_text("def f(h, seed):\n    return 22\n")
    assert resolve("my_function.py:f")(None, 0) == 22


def test_an_entry_point_gives_a_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sys.path.insert(0, str(folder))
    points = [
        importlib.metadata.EntryPoint("faces", "my_task:Faces", resolving.GROUP),
        importlib.metadata.EntryPoint("broken", "my_nothing:X", resolving.GROUP),
    ]
    monkeypatch.setattr(resolving, "_entry_points", lambda: points)
    assert resolve("faces", {"size": 5}).size == 5
    assert "no module named my_nothing" in message("broken").message
    assert "faces" in names()


@pytest.mark.parametrize(
    ("reference", "found", "hint"),
    [
        ("digit", "unknown objective 'digit', did you mean 'digits'?", "known: data_weights"),
        (
            "my_task:Face",
            "objective my_task:Face: module my_task has no 'Face'; it defines Breaks, Faces, "
            "FacesBig, NoBatches, Nothing, Wide, demanding, generator, later, plain, ready, short",
            "did you mean my_task:Faces?",
        ),
        ("my_task.py:Face", "module my_task.py has no 'Face'; it defines", "my_task.py:Faces?"),
        ("my_tsk:Faces", "no module named my_tsk, did you mean my_task", ""),
        ("my_tsk.py:Faces", "my_tsk.py, did you mean 'my_task.py'?", ""),
        ("my_task.py", "say which object of it, for instance my_task.py:Breaks", "it defines"),
        ("my_task.py:", "say which object of it", "it defines"),
        ("my_task:NoBatches", "is no task: it has model and loss but no batches", "batches(split"),
        ("my_task:Nothing", "neither a task nor a function, but of the kind Nothing", "(h, seed)"),
        ("my_task:number", "is neither a task nor a function, but of the kind int", "(h, seed)"),
        ("my_task:short", "objective my_task:short takes (h)", "a function of (h, seed)"),
        ("my_task:later", "is asynchronous", "ordinary function"),
        ("my_task:demanding", "objective my_task:demanding needs depth", "objective_options"),
        ("my_task:Wide", "objective my_task:Wide needs target", "objective_options"),
        ("my_task:Breaks", "constructed: ValueError: expected 3 channels  (my_task.py:", ""),
        ("table", "objective table needs path and target", "objective_options"),
        ("my_task:ready.size", "is neither a task nor a function, but of the kind int", ""),
    ],
)  # fmt: skip
def test_what_is_not_there_is_named(folder: Path, reference: str, found: str, hint: str) -> None:
    error = message(reference)
    assert found in error.message.replace("'my_task'", "my_task")
    assert hint in error.hint


@pytest.mark.parametrize(
    ("reference", "options", "found"),
    [
        ("digits", {"train_row": 3}, "has no option 'train_row', did you mean 'train_rows'?"),
        ("digits", {"train_rows": "many"}, "train_rows is 'many', but must be a whole number"),
        ("digits", {"train_rows": True}, "but must be a whole number"),
        ("digits", {"network": "rnn"}, "option network is 'rnn', but must be mlp or cnn"),
        ("ridge", {"l2": 1.0}, "objective ridge has no option 'l2'"),
        ("my_task:Faces", {"sizes": 3}, "did you mean 'size'?"),
        ("my_task:Faces", {"rate": "high"}, "option rate is 'high', but must be a number"),
        ("my_task:Wide", {"target": "y", "kind": 3}, "must be text or null"),
        ("my_task:generator", {"row": 3}, "did you mean 'rows'?"),
        ("my_task:generator", {"noise": "x"}, "must be a number"),
        ("my_task:plain", {"x": 3}, "has no option 'x'"),
        ("my_task:plain", {"seed": 3}, "has no option 'seed'"),
    ],
)  # fmt: skip
def test_options_are_checked(
    folder: Path, reference: str, options: dict[str, Any], found: str
) -> None:
    error = message(reference, **options)
    assert found in error.message
    assert error.path == ("objective_options", list(options)[-1])


def test_an_object_takes_no_options(folder: Path) -> None:
    error = message("my_task:ready", size=3)
    assert "it takes no options" in error.message and error.path == ("objective_options",)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x = 1\ny = 1 / 0\n", "ZeroDivisionError: division by zero  (my_broken.py:2)"),
        ("def f(:\n    pass\n", "SyntaxError: invalid syntax  (my_broken.py:1)"),
        ("import my_missing_library\n", "No module named 'my_missing_library'  (my_broken.py:1)"),
        ("import sys\nsys.exit('no')\n", "SystemExit: no  (my_broken.py:2)"),
        ("import json\n\njson.loads('{')\n", "(my_broken.py:3)"),
        ("from my_task import Nobody\n", "cannot import name 'Nobody'"),
    ],
)
@pytest.mark.parametrize("place", ["my_broken", "my_broken.py"])
def test_errors_in_a_users_module_are_theirs(
    folder: Path, place: str, text: str, found: str
) -> None:
    (folder / "my_broken.py").write_text(textwrap.dedent(text))
    error = message(f"{place}:f")
    assert f"objective {place}:f: {place} cannot be imported: " in error.message
    assert found in error.message
    assert "not in hpo" in error.hint
