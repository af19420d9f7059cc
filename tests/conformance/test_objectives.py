"""Every public file in objectives/ is one objective and keeps the contract of its kind.

Names come from disk: a new file is tested without a change here, unless it has options without a
default, for which `OPTIONS` then gives values.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hpo.bilevel.implicit.curvature import Curvature
from hpo.bilevel.implicit.evaluation import Rules, Warm, evaluate
from hpo.bilevel.implicit.linter import lint
from hpo.bilevel.implicit.problem import Bilevel
from objectives.training.bilevel import is_bilevel
from objectives.training.loop import train
from objectives.training.measurement import Measurement
from objectives.training.options import Training
from objectives.training.resolve import resolve
from objectives.training.sites import dropout_sites
from objectives.training.stream import as_batch
from objectives.training.task import (
    METHODS,
    classes_of,
    is_task,
    locked,
    splits_of,
    task_name,
    training_of,
)
from objectives.training.tuner import Follow
from search_spaces import plugins
from search_spaces.domains import Domain
from search_spaces.errors import HpoError
from search_spaces.regularizer import Batch, Regularizer
from search_spaces.schedule import Schedule
from search_spaces.space import SearchSpace

NAMES = plugins.names("objectives")
REGULARIZERS = plugins.names("search_spaces.regularizers")
SHORT = Training(steps=3, evaluations=1)


def table_options(folder: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(120, 2)).tolist()
    rows = [f"{x:.3f},{'ab'[x + y > 0]},{'cd'[y > 0]}" for x, y in draws]
    path = folder / "table.csv"
    path.write_text("\n".join(["x,target,word", *rows]))
    return {"path": str(path), "target": "target"}


# Options that have no default, and smaller data where the default would make a test slow.
OPTIONS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "fashion_mnist": lambda folder: {"train_rows": 100, "held_out_rows": 50},
    "table": table_options,
}


def kind_of(name: str) -> Any:
    return plugins.load("objectives", name, "OBJECTIVE")


TASKS = [name for name in NAMES if all(hasattr(kind_of(name), method) for method in METHODS)]
BILEVEL = [name for name in NAMES if is_bilevel(kind_of(name))]
BLACK_BOXES = sorted(set(NAMES) - set(TASKS) - set(BILEVEL))


def given(name: str, folder: Path) -> Any:
    """An objective as a study gets it."""
    return resolve(name, OPTIONS.get(name, lambda folder: {})(folder))


@pytest.fixture(params=NAMES)
def objective(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return given(request.param, tmp_path)


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return given(request.param, tmp_path)


@pytest.fixture(params=BILEVEL)
def bilevel(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return given(request.param, tmp_path)


@pytest.fixture(params=BLACK_BOXES)
def black_box(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return given(request.param, tmp_path)


def one_pass(task: Any, split: str, seed: int = 0) -> list[Batch]:
    rng = torch.Generator().manual_seed(seed)
    return [as_batch(raw, task, split) for raw in task.batches(split, rng)]


def built(task: Any, seed: int) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: torch.nn.Module = task.model(seed)
    return model


# every objective


@pytest.mark.parametrize("name", NAMES)
def test_the_file_offers_a_documented_class(name: str) -> None:
    kind = kind_of(name)
    assert inspect.isclass(kind)
    assert (inspect.getdoc(inspect.getmodule(kind)) or "").splitlines()[0].endswith(".")
    words = inspect.getdoc(kind) or ""
    for option in inspect.signature(kind).parameters:
        assert option in words, f"option {option} is not explained"


@pytest.mark.parametrize("name", NAMES)
def test_options_have_types_and_unknown_ones_are_refused(name: str, tmp_path: Path) -> None:
    options = OPTIONS.get(name, lambda folder: {})(tmp_path)
    with pytest.raises(HpoError, match="has no option 'no_such_option'"):
        resolve(name, {**options, "no_such_option": 1})
    for parameter in inspect.signature(type(resolve(name, options))).parameters.values():
        assert parameter.annotation is not parameter.empty


def test_the_objective_knows_its_name_and_says_what_it_is(objective: Any) -> None:
    assert task_name(objective) in NAMES
    assert isinstance(objective.note, str) and "\n" not in objective.note
    assert not dataclasses.is_dataclass(objective) or objective == dataclasses.replace(objective)


def test_an_objective_is_of_one_kind(objective: Any) -> None:
    assert is_task(objective) + is_bilevel(objective) + callable(objective) == 1


def test_the_space_of_an_objective_can_be_searched(objective: Any) -> None:
    space = SearchSpace(getattr(objective, "space", None) or {})
    assert all(space[name].contains(space.start[name]) for name in space)


# tasks


def test_the_same_seed_gives_the_same_model(task: Any) -> None:
    first, again, other = (built(task, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert any(not torch.equal(value, other[name]) for name, value in first.items())


def test_the_same_generator_gives_the_same_batches(task: Any) -> None:
    for split in splits_of(task):
        for one, two in zip(one_pass(task, split), one_pass(task, split), strict=True):
            assert torch.equal(one.inputs, two.inputs) and torch.equal(one.targets, two.targets)
    assert not torch.equal(one_pass(task, "train")[0].inputs, one_pass(task, "train", 1)[0].inputs)


def test_held_out_splits_come_in_one_order(task: Any) -> None:
    for split in set(splits_of(task)) - {"train"}:
        first, other = one_pass(task, split, 0)[0], one_pass(task, split, 1)[0]
        assert torch.equal(first.targets, other.targets)


def test_global_generators_are_left_alone(task: Any) -> None:
    def state() -> tuple[list[int], list[int]]:
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()

    before = state()
    for split in splits_of(task):
        one_pass(task, split)
    assert state() == before


def test_splits_are_there_and_share_no_example(task: Any) -> None:
    splits = splits_of(task)
    assert {"train", "validation", "test"} <= set(splits) <= {
        "train", "validation", "selection", "test",
    }  # fmt: skip
    seen: dict[bytes, str] = {}
    shared = total = 0
    for split in splits:
        inputs = torch.cat([b.inputs for b in one_pass(task, split)])
        assert inputs.dtype == torch.float32 and torch.isfinite(inputs).all()
        for row in inputs:
            key = row.numpy().tobytes()
            shared += seen.setdefault(key, split) != split
            total += 1
    # Two examples of a table or of tiny images may be alike; a leak would share whole splits.
    assert shared <= 0.01 * total


def test_a_split_that_is_not_there_is_named(task: Any) -> None:
    with pytest.raises(HpoError, match="no split 'validatoin'"):
        list(task.batches("validatoin", torch.Generator()))


def test_the_test_split_can_be_locked(task: Any) -> None:
    with pytest.raises(HpoError, match="locked"):
        locked(task).batches("test", torch.Generator())


def test_class_targets_are_numbers_below_the_number_of_classes(task: Any) -> None:
    classes = classes_of(task)
    for split in splits_of(task):
        targets = torch.cat([b.targets for b in one_pass(task, split)])
        if classes is None:
            assert targets.is_floating_point()
        else:
            assert not targets.is_floating_point()
            assert targets.min() >= 0 and targets.max() < classes


def test_the_loss_is_finite_for_hard_and_soft_targets(task: Any) -> None:
    model = built(task, 0).eval()
    batch = one_pass(task, "train")[0]
    loss = task.loss(model, batch)
    assert loss.ndim <= 1 and loss.shape in ((), batch.targets.shape[:1])
    assert torch.isfinite(loss).all()
    classes = classes_of(task)
    if classes is not None:
        soft = torch.nn.functional.one_hot(batch.targets, classes).float()
        torch.testing.assert_close(task.loss(model, Batch(batch.inputs, soft)), loss)


def test_the_model_has_dropout_sites_that_start_switched_off(task: Any) -> None:
    sites = dropout_sites(built(task, 0))
    assert sites and all(site.p == 0.0 for site in sites.values())


def test_the_training_defaults_are_valid(task: Any) -> None:
    assert training_of(task).steps > 0


def trained(task: Any, records: dict[str, Any]) -> Measurement:
    domains: dict[str, Domain] = {k: d for r in records.values() for k, d in r.knobs.items()}
    space = SearchSpace(domains)
    tuner = Follow(Schedule.constant(space, space.start))
    return list(train(task, records, tuner, SHORT, 0))[-1]


@pytest.mark.slow
def test_three_steps_with_every_regularizer(task: Any) -> None:
    fitting = {}
    for name in REGULARIZERS:
        record: Regularizer = plugins.load("search_spaces.regularizers", name, "REGULARIZER")
        try:
            measurement = trained(task, {name: record})
        except HpoError as error:  # it needs what this task or model does not have
            assert error.message and error.hint, name
            continue
        assert measurement.finite, name
        assert set(measurement.point) == set(record.knobs)
        fitting[name] = record
    assert {"dropout", "input_noise", "l2", "weight_decay"} <= set(fitting)
    # What is for images takes those of every task, and nothing but images.
    assert ("cutmix" in fitting) == (one_pass(task, "train")[0].inputs.ndim == 4)
    for other in [name for name, record in fitting.items() if record.ascent][1:]:
        del fitting[other]  # only one may say where the gradient is taken
    for other in [name for name, record in fitting.items() if record.stage == "mix"]:
        del fitting[other]  # blends do not go with what compares an example with itself
    assert trained(task, fitting).finite


def test_training_and_evaluation_say_what_was_promised(task: Any) -> None:
    names = {"train_loss", "val_loss"}
    names |= {"holdout_loss"} if "selection" in splits_of(task) else set()
    names |= {n.replace("loss", "error") for n in names - {"train_loss"}} if task.classes else set()
    measurement = trained(task, {})
    assert names <= set(measurement.metrics)
    assert all(0.0 <= v <= 1.0 for n, v in measurement.metrics.items() if n.endswith("error"))


# black boxes


def test_a_black_box_gives_finite_numbers_and_no_chance(black_box: Any) -> None:
    space = SearchSpace(black_box.space)

    def measured(point: Any, seed: int) -> list[float]:
        result = black_box(lambda progress: point, seed)
        reports = [*result] if inspect.isgenerator(result) else [result]
        return [r["val_loss"] if isinstance(r, dict) else float(r) for r in reports]

    low = {name: domain.from_unit(0.0) for name, domain in space.items()}
    high = {name: domain.from_unit(1.0) for name, domain in space.items()}
    for point in (space.start, low, high):
        values = measured(point, 1)
        assert values and all(math.isfinite(value) for value in values)
        assert measured(point, 1) == values
    assert measured(low, 1) != measured(high, 1)


# bilevel problems


def start_of(bilevel: Any) -> tuple[Bilevel, torch.Tensor]:
    point = SearchSpace(bilevel.space).start
    flat = Bilevel(bilevel, point)
    return flat, flat.coordinates.of(point)


def test_both_losses_are_finite_and_without_chance(bilevel: Any) -> None:
    flat, t = start_of(bilevel)
    assert torch.equal(flat.start, start_of(bilevel)[0].start)
    for end in (t, torch.zeros_like(t), flat.coordinates.spans):
        first, again = (flat.gradient(flat.start, end) for _ in range(2))
        assert torch.isfinite(first[0]).all() and torch.isfinite(first[1]).all()
        assert torch.equal(first[1], again[1])
        assert math.isfinite(flat.outer_value(flat.start, end))


def test_second_derivatives_are_those_of_the_inner_gradient(bilevel: Any) -> None:
    """A little way from the start, where pictures are no longer what was observed."""
    flat, t = start_of(bilevel)
    rng = torch.Generator().manual_seed(0)
    u, v, x = (torch.randn(len(flat), generator=rng, dtype=flat.start.dtype) for _ in range(3))
    s = torch.randn(len(t), generator=rng, dtype=t.dtype)
    x, small = flat.start + 0.05 * x, 1e-5
    curvature = Curvature(flat, x, t)
    left, right = float(u @ curvature.product(v)), float(v @ curvature.product(u))
    assert left == pytest.approx(right, rel=1e-9, abs=1e-12)
    ahead, behind = (flat.gradient(x, t + sign * small * s)[1] for sign in (1, -1))
    moved = float(v @ (ahead - behind)) / (2 * small)
    assert float(curvature.cross(v) @ s) == pytest.approx(moved, rel=1e-4, abs=1e-9)


def test_the_linter_finds_nothing(bilevel: Any) -> None:
    found = lint(bilevel, bilevel.space, SearchSpace(bilevel.space).start)
    assert not found.idle and not found.notes


def test_the_hypergradient_says_where_the_outer_loss_falls(bilevel: Any) -> None:
    flat, t = start_of(bilevel)
    slope = 1e-5 * float(flat.gradient(flat.start, t)[1].norm())
    here = evaluate(flat, t, Warm(flat.start), Rules(relative=1e-4), slope=slope)
    step = -here.gradient / float(here.gradient.norm())
    small = 0.05
    ahead, behind = (
        evaluate(flat, t + sign * small * step, here.warm, Rules(relative=1e-4), slope=slope).value
        for sign in (1, -1)
    )
    found = (ahead - behind) / (2 * small)
    assert found == pytest.approx(-float(here.gradient.norm()), rel=0.05)
