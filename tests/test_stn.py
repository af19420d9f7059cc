"""Self-Tuning Networks: the tuner in a run, and the sampler in a study."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
import toy_tasks
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from shell import hpo as cli
from torch import Tensor, nn

from hpo import ledger
from hpo.bilevel.diagnostics.diagnostics import TIMED
from hpo.bilevel.stn import lookahead
from hpo.bilevel.stn.descent import Descent
from hpo.bilevel.stn.freeknobs import LIMIT, FreeKnobs
from hpo.bilevel.stn.options import SelfTuningOptions
from hpo.bilevel.stn.perturbation import Perturbation, antithetic, chained
from hpo.bilevel.stn.selftuning import SelfTuning
from hpo.launch import launch
from hpo.preparation import Launch, spec_from_keywords
from hpo.samplers import ROLE
from objectives.digits import Digits
from objectives.training.options import Training
from objectives.training.randomness import GlobalStreams
from objectives.training.state import Run, Setting
from search_spaces.domains import Choice, Domain, Float, Int
from search_spaces.errors import HpoError
from search_spaces.regularizer import Batch, Regularizer, Strengths, spread
from search_spaces.schedule import Schedule

QUICK = SelfTuningOptions(every=2, warmup=0.1, settle=0.1)
LONGER = Training(steps=60, evaluations=6, optimizer="momentum", learning_rate=0.05)
KNOBS: dict[str, Domain] = {
    name: record.knobs[name]
    for name, record in toy_tasks.regularizers(
        "dropout", "input_noise", "l2", "label_smoothing", "weight_decay"
    ).items()
}


def tuner(*names: str, options: SelfTuningOptions = QUICK, **start: Any) -> SelfTuning:
    domains = {name: KNOBS[name] for name in names}
    point = {name: domain.start_value() for name, domain in domains.items()} | start
    return SelfTuning(domains, toy_tasks.regularizers(*names), point, options)


def begun(method: SelfTuning, *names: str, task: Any = None, training: Training = LONGER) -> Run:
    """A run whose first step is about to be made."""
    device = torch.device("cpu")
    task = task or toy_tasks.Blobs()
    setting = Setting(task, toy_tasks.regularizers(*names), method, training, 0, device)
    run = Run(setting, GlobalStreams(0, device))
    torch.manual_seed(0)  # outside of the run's streams, dropout of the model itself draws here
    run.begin()
    return run


# -- in a run -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_best_dropout_is_found_without_a_grid() -> None:
    """Few rows, wrong labels: the grid says that much more dropout than the start is wanted."""
    task = Digits(train_rows=150, label_noise=0.3)
    training = Training(steps=1000, learning_rate=2e-3, evaluations=20)

    def best(method: Any) -> tuple[float, float]:
        rows = toy_tasks.run(task, training, 0, method, {"dropout": None})
        last = sum(row.metrics["holdout_loss"] for row in rows[-5:]) / 5
        return last, float(rows[-1].point["dropout"])

    grid = {p: best(toy_tasks.constant(dropout=p))[0] for p in (0.05, 0.35, 0.65)}
    assert grid[0.65] < grid[0.35] < grid[0.05]
    loss, found = best(tuner("dropout", options=SelfTuningOptions(every=5)))
    assert found > 0.35
    assert loss < grid[0.35]


def test_moving_the_centre_leaves_the_network_as_it_is() -> None:
    method = tuner("dropout", "input_noise")
    run = begun(method, "dropout", "input_noise")
    for _ in range(10):
        run.train_step()
    assert any(bool((gate.gains != 0).any()) for gate in method.response.gates)
    inputs = torch.randn(7, 4)
    run.model.eval()
    before = run.model(inputs)
    method.descent.center += 1.0
    assert torch.equal(run.model(inputs), before)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_killed_after_any_measurement_a_run_ends_with_the_same_bits(
    optimizer: str, tmp_path: Path
) -> None:
    names = tuple(KNOBS)
    training = Training(steps=40, evaluations=8, optimizer=optimizer, learning_rate=0.01)

    def run(path: Path, stop_after: int | None = None) -> list[Any]:
        loop = toy_tasks.train(
            toy_tasks.Restless(),
            toy_tasks.regularizers(*names),
            tuner(*names),
            training,
            3,
            checkpoint=path,
            checkpoint_seconds=0,
        )
        found = list(itertools.islice(loop, stop_after))
        loop.close()
        untimed = [
            replace(m, metrics={k: v for k, v in m.metrics.items() if k not in TIMED})
            for m in found
        ]
        return [*toy_tasks.numbers(untimed), [(m.spread, m.notes) for m in found]]

    whole = run(tmp_path / "whole.pt")
    for stop in range(1, 8):
        path = tmp_path / f"{stop}.pt"
        run(path, stop)
        assert run(path) == whole


def test_knobs_rest_before_the_warm_up_and_after_the_settling() -> None:
    method = tuner("dropout", options=SelfTuningOptions(every=1, warmup=0.5, settle=0.25))
    rows = toy_tasks.run(toy_tasks.Blobs(), LONGER, 0, method, {"dropout": None})
    values = [row.point["dropout"] for row in rows]
    assert values[0] == values[1] == pytest.approx(0.05)
    assert values[2] != values[1]
    assert values[-1] == values[-2]
    assert not method.moving(1.0)
    assert rows[-1].spread["dropout"] == 0.0 < rows[0].spread["dropout"]


def test_knobs_freeze_when_the_learning_rate_has_faded() -> None:
    training = Training(steps=60, evaluations=60, optimizer="momentum", learning_rate=0.05)
    options = SelfTuningOptions(every=1, settle=0.0, freeze=0.5)
    rows = toy_tasks.run(
        toy_tasks.Blobs(), training, 0, tuner("dropout", options=options), {"dropout": None}
    )
    values = [row.point["dropout"] for row in rows]
    assert len(set(values[:25])) > 10
    assert len(set(values[31:])) == 1


def test_a_penalty_sees_the_weights_that_answer() -> None:
    """With l2 per batch the response must learn that more of it means smaller weights."""
    method = tuner("l2", options=SelfTuningOptions(every=1000, learn_scale=False), l2=0.1)
    run = begun(method, "l2")
    for _ in range(60):
        run.train_step()
    up = method.response.effective(run.parameters, torch.tensor([0.5]))
    down = method.response.effective(run.parameters, torch.tensor([-0.5]))

    def size(weights: Any) -> float:
        return sum(float(w.detach().square().sum()) for w in weights.values() if w.ndim == 2)

    assert size(up) < size(run.parameters) < size(down)


def test_weight_decay_is_tuned_by_looking_one_step_ahead() -> None:
    """The slope equals that of the validation loss after one such step, by finite differences."""
    method = tuner("weight_decay", weight_decay=0.3)
    run = begun(method, "weight_decay")
    for _ in range(5):
        run.train_step()
    batch = run.next_batch("validation")
    weights = {name: p.detach().double() for name, p in run.parameters.items()}
    center, rate = method.descent.center.double(), 0.01

    def step(moved: Any, free: Tensor, at_rate: float) -> None:
        run.regularization.before_step(moved, method.free.values(free.float()), at_rate)

    def loss_after(free: Tensor) -> float:
        moved = {name: weight.clone() for name, weight in weights.items()}
        step(moved, free, rate)
        model = toy_tasks.Blobs().model(0).double().eval()
        model.load_state_dict(moved)
        losses = nn.functional.cross_entropy(model(batch.inputs.double()), batch.targets)
        return float(losses.detach())

    run.model.eval()
    loss = run.task.loss(run.model, batch).mean()
    shrunk = {name: p for name, p in run.parameters.items() if p.ndim >= 2}
    grads = dict(zip(shrunk, torch.autograd.grad(loss, list(shrunk.values())), strict=True))
    found = lookahead.slope(
        step,
        {n: weights[n] for n in shrunk},
        {n: g.double() for n, g in grads.items()},
        center,
        0,
        0.5,
    )
    near = 0.1
    quotient = (loss_after(center + near) - loss_after(center - near)) / (2 * near * rate)
    assert found != 0
    assert found == pytest.approx(quotient, rel=0.05)


def test_a_gradient_that_is_not_finite_is_not_followed() -> None:
    class Broken(toy_tasks.Blobs):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            loss = super().loss(model, batch)
            return loss if model.training else loss * math.nan

    method = tuner("dropout", "input_noise")
    run = begun(method, "dropout", "input_noise", task=Broken())
    before = method.descent.center.clone()
    for _ in range(30):
        run.train_step()
    assert torch.equal(method.descent.center, before)
    assert bool(torch.isfinite(method.descent.scale).all())


def test_values_stay_inside_their_ranges() -> None:
    options = SelfTuningOptions(every=1, rate=5.0, trust=100.0, settle=0.0)
    method = tuner("dropout", "input_noise", "label_smoothing", options=options)
    names = ("dropout", "input_noise", "label_smoothing")
    rows = toy_tasks.run(toy_tasks.Blobs(), LONGER, 0, method, dict.fromkeys(names))
    for row in rows:
        for name in names:
            assert KNOBS[name].contains(row.point[name])
    assert bool((method.descent.center.abs() <= LIMIT).all())


def test_whole_numbers_choices_and_vectors_are_tuned() -> None:
    """So many tenths of each target go to a wrong class, or none do: few are best."""

    def wrong(targets: Tensor, h: Strengths, rng: torch.Generator) -> Tensor:
        share = torch.as_tensor(h["tenths"]) * torch.as_tensor(h["kind"]) / 10
        share = torch.as_tensor(spread(share, targets), dtype=torch.float32)
        return (1 - share) * targets + share * targets.roll(1, 1)

    training = Training(steps=200, evaluations=4, optimizer="momentum", learning_rate=0.05)

    def tuned(**domains: Domain) -> tuple[SelfTuning, Any]:
        point = {"tenths": 4 if "tenths" in domains else 6, "kind": 1.0}
        record = Regularizer({"tenths": Int(0, 6), "kind": Choice((1.0, 0.0))}, target=wrong)
        method = SelfTuning(domains, {"wrong": record}, point, SelfTuningOptions(every=1))
        task = toy_tasks.Blobs(rows=400, batch_size=40)
        loop = toy_tasks.train(task, {"wrong": record}, method, training, 0)
        return method, list(loop)[-1].point

    method, last = tuned(tenths=Int(0, 6, start=4))
    assert isinstance(last["tenths"], int) and last["tenths"] < 4
    method, last = tuned(kind=Choice((1.0, 0.0)))
    chances = method.free.probabilities(method.descent.center)["kind"]
    assert chances[1] > 0.6 and last["kind"] == 0.0

    vector = Float(0.0, 0.7, start=(0.05, 0.4), size=2)
    dropout = toy_tasks.regularizers("dropout")
    method = SelfTuning({"dropout": vector}, dropout, {"dropout": (0.05, 0.4)}, QUICK)
    rows = list(toy_tasks.train(toy_tasks.Blobs(), dropout, method, LONGER, 0))
    assert len(rows[-1].point["dropout"]) == 2
    assert rows[-1].point["dropout"] != rows[0].point["dropout"]
    assert len(rows[0].spread["dropout"]) == 2


def test_a_knob_run_into_its_lower_end_is_given_another_chance() -> None:
    def low_again(restarts: int) -> bool:
        options = SelfTuningOptions(every=1, warmup=0.0, settle=0.0, rate=0.5, restarts=restarts)
        method = tuner("dropout", options=options, dropout=0.3)
        run = begun(method, "dropout")
        lowest, back = 1.0, False
        for _ in range(60):
            method.descent.center.fill_(-6.0) if run.step < 30 else None
            run.train_step()
            value = float(method.free.point(method.descent.center)["dropout"])
            back = back or (lowest < 0.02 and value > 0.2)
            lowest = min(lowest, value)
        return back

    assert low_again(1)
    assert not low_again(0)


# -- its parts ------------------------------------------------------------------------------------


@given(st.integers(1, 9), st.integers(1, 5))
def test_draws_come_in_pairs(rows: int, columns: int) -> None:
    draws = antithetic(rows, columns, torch.Generator().manual_seed(0), torch.zeros(()))
    assert draws.shape == (rows, columns)
    half = (rows + 1) // 2
    assert torch.equal(draws[half:], -draws[: rows - half])


def test_shared_draws_come_in_pairs_too_and_serve_the_whole_batch() -> None:
    free = FreeKnobs(
        {"l2": KNOBS["l2"], "dropout": KNOBS["dropout"]}, {"l2": "batch", "dropout": "example"}
    )
    center = free.initial({"l2": 1e-3, "dropout": 0.1})
    perturbation = Perturbation(free, torch.Generator().manual_seed(0))
    first, values = perturbation.draw(center, torch.ones(2), 6)
    second, _ = perturbation.draw(center, torch.ones(2), 6)
    assert values["l2"].shape == () and values["dropout"].shape == (6,)
    assert torch.equal(first[:, 0], first[:1, 0].expand(6)) and len(set(first[:, 1].tolist())) == 6
    assert torch.equal(second[:, 0], -first[:, 0])


@settings(max_examples=50)
@given(st.floats(0.001, 0.699), st.floats(1e-7, 1.0), st.integers(0, 16))
def test_values_go_to_free_numbers_and_back(rate: float, strength: float, holes: int) -> None:
    domains: dict[str, Domain] = {
        "dropout": KNOBS["dropout"],
        "l2": KNOBS["l2"],
        "holes": Int(0, 16),
        "kind": Choice(("a", "b", "c")),
        "rate": Float(0.01, 0.99, "logit"),
        "off": Float(0.0, 1.0, "log+0"),
    }
    free = FreeKnobs(domains, dict.fromkeys(domains, "example"), dtype=torch.float64)
    point = {"dropout": rate, "l2": strength, "holes": holes, "kind": "b", "rate": 0.3, "off": 0.01}
    numbers = free.initial(point)
    back = free.point(numbers)
    values = free.values(numbers)
    for name, value in point.items():
        if isinstance(value, float):
            assert domains[name].to_unit(back[name]) == pytest.approx(
                domains[name].to_unit(value), abs=2e-3
            )
            assert float(values[name]) == pytest.approx(float(back[name]), rel=1e-5)  # type: ignore[arg-type]
    assert (back["holes"], back["kind"]) == (holes, "b")


def test_the_gradient_of_a_choice_goes_through_its_probabilities() -> None:
    free = FreeKnobs({"kind": Choice(("a", "b", "c"))}, {"kind": "batch"}, dtype=torch.float64)
    center = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64, requires_grad=True)
    slopes = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    chances = center.softmax(0)
    loss = (slopes * chances).sum() + 0.1 * (chances * chances.log()).sum()
    (wanted,) = torch.autograd.grad(loss, center)
    assert torch.allclose(chained(slopes, center.detach(), free, 0.1), wanted)


def test_a_step_is_no_longer_than_the_response_can_be_trusted() -> None:
    options = SelfTuningOptions(scale=0.5, trust=0.2, rate=10.0)
    descent = Descent(torch.zeros(3), torch.tensor([False, False, True]), 100, options)
    assert descent.step(torch.tensor([1.0, -1.0, 1.0]), torch.zeros(3))
    assert descent.center.tolist() == pytest.approx([-0.1, 0.1, -0.2])
    assert float(descent.scale[2]) == 0.0


@given(st.floats(-50, 50), st.floats(-50, 50))
def test_the_scale_stays_between_its_caps(first: float, second: float) -> None:
    options = SelfTuningOptions(rate=1.0, scale=0.5, least_scale=0.2, most_scale=0.8)
    descent = Descent(torch.zeros(1), torch.tensor([False]), 100, options)
    for slope in (first, second) * 10:
        descent.step(torch.zeros(1), torch.tensor([slope]))
        assert 0.2 - 1e-6 <= float(descent.scale) <= 0.8 + 1e-6


def test_entropy_widens_a_perturbation_that_nothing_answers_to() -> None:
    def after(entropy: float) -> float:
        options = SelfTuningOptions(entropy=entropy, rate=0.05, scale=0.5)
        descent = Descent(torch.zeros(1), torch.tensor([False]), 100, options)
        for _ in range(50):
            descent.step(torch.zeros(1), torch.zeros(1))
        return float(descent.scale)

    assert after(1e-3) > 0.9
    assert after(0.0) == pytest.approx(0.5)


# -- in a study -----------------------------------------------------------------------------------


def study(folder: Path, **keywords: Any) -> Any:
    about = {
        "objective": "digits",
        "name": "s",
        "sampler": "stn",
        "space": ["dropout", "input_noise"],
        "budget": {"trials": 5, "steps": 60},
        "training": {"evaluations": 5},
        "workers": 0,
        "mlflow": False,
    }
    return launch(spec_from_keywords(**{**about, **keywords}), Launch(folder))


def roles(result: Any) -> list[str]:
    lines = (result.folder.path / "journal.log").read_text().splitlines()
    found = [json.loads(line).get("user_attr") or {} for line in lines]
    return [attribute[ROLE] for attribute in found if ROLE in attribute]


def test_a_study_compares_tunes_and_holds(tmp_path: Path) -> None:
    result = study(tmp_path)
    records = result.records
    assert roles(result) == ["baseline", "tuned", "held 1", "tuned", "held 3"]
    schedules = [result.schedule_of(record) for record in records]
    assert [schedule.moving(0.0) for schedule in schedules] == [False, True, False, True, False]
    assert schedules[0].at(0) == schedules[1].at(0) == result.space.start
    for held, tuned in ((2, 1), (4, 3)):
        for name, value in schedules[tuned].at(1.0).items():
            assert schedules[held].at(0.5)[name] == pytest.approx(value, rel=1e-6)
    assert schedules[1].spread_at(0.2)["dropout"] > 0
    assert schedules[3].at(0) != schedules[1].at(0)


def test_one_trial_is_tuned_from_the_start_when_nothing_else_is_wanted(tmp_path: Path) -> None:
    result = study(
        tmp_path,
        budget={"trials": 2, "steps": 60},
        sampler_options={"baseline": False, "hold": False, "propose": "random"},
    )
    schedules = [result.schedule_of(record) for record in result.records]
    assert [schedule.moving(0.0) for schedule in schedules] == [True, True]
    assert schedules[0].at(0) == result.space.start


def test_what_cannot_be_tuned_in_a_run_is_proposed(tmp_path: Path) -> None:
    result = study(tmp_path, space=["dropout", "learning_rate"], budget={"trials": 4, "steps": 60})
    rates = [result.schedule_of(record).at(0.3)["learning_rate"] for record in result.records]
    assert rates[0] == rates[1] == rates[2] != rates[3]
    assert not any(
        result.schedule_of(record).at(0.0)["learning_rate"]
        != result.schedule_of(record).at(1.0)["learning_rate"]
        for record in result.records
    )


def test_a_tuned_schedule_is_replayed_and_shown(tmp_path: Path) -> None:
    result = study(tmp_path, sampler_options={"hold": False}, budget={"trials": 2, "steps": 60})
    saved = Schedule.from_json(json.loads(result.folder.schedule.read_text()))
    assert saved.at(0.7).keys() == {"dropout", "input_noise"}
    ended = cli("show", str(result.folder.path), "--json")
    assert ended.code == 0, ended
    shown = cli("schedule", str(result.folder.path), "--trial", "1")
    assert "dropout" in shown.out and shown.code == 0


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        (
            {"objective": "ridge", "training": {}, "budget": {"trials": 2}},
            "sampler stn tunes while a model trains",
        ),
        ({"seeds": 2}, "seeds is 2"),
        ({"space": {"dropout": {"schedule": {"kind": "linear"}}}}, "has a schedule to be searched"),
        ({"space": ["learning_rate"]}, "can tune none of learning_rate"),
        ({"sampler_options": {"every": 0}}, "every is 0; it must be at least 1"),
        ({"sampler_options": {"propose": "tep"}}, "unknown sampler 'tep', did you mean 'tpe'"),
        ({"sampler_options": {"propose": "stn"}}, "propose is stn"),
    ],
)
def test_what_stn_cannot_do_is_said(tmp_path: Path, keywords: dict[str, Any], said: str) -> None:
    with pytest.raises(HpoError) as caught:
        study(tmp_path, **keywords)
    assert said in str(caught.value)
    assert caught.value.hint


def test_ledger_of_a_tuned_trial_says_where_it_arrived(tmp_path: Path) -> None:
    result = study(tmp_path, budget={"trials": 2, "steps": 60})
    backend = JournalFileBackend(str(result.folder.path / "journal.log"))
    trials = optuna.load_study(study_name=None, storage=JournalStorage(backend)).trials
    assert ledger.final_point(trials[0]) == {}
    assert ledger.final_point(trials[1]) == result.schedule_of(result.records[1]).at(1.0)
