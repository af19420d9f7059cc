"""What goes wrong around a self-tuning run: numbers that are not finite, rates that restart, errors
in the middle of a step, options that contradict each other.

Run with: pytest tests/test_stn_faults.py
"""

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_tasks
from test_stn import begun, study, tuner
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from hpo.bilevel.gates.acting import acting
from hpo.bilevel.gates.full_response import _by_example
from hpo.bilevel.gates.sites import Layout, Site
from hpo.bilevel.stn import perturbation
from hpo.bilevel.stn.descent import Descent
from hpo.bilevel.stn.freeknobs import FreeKnobs
from hpo.bilevel.stn.options import SelfTuningOptions
from hpo.bilevel.stn.perturbation import Perturbation, antithetic
from hpo.bilevel.stn.selftuning import SelfTuning
from hpo.preparation import spec_from_keywords
from hpo.problem import load
from hpo.samplers import load as sampler_named
from hpo.samplers import parse_options
from objectives.training.options import Training
from objectives.training.randomness import GlobalStreams
from objectives.training.state import Run, Setting
from search_spaces.domains import Choice, Domain, Float, Int
from search_spaces.errors import HpoError
from search_spaces.regularizer import Batch, Regularizer

OFTEN = SelfTuningOptions(every=1, warmup=0.0, settle=0.0)


def steady(steps: int) -> Training:
    return Training(steps=steps, evaluations=1, learning_rate_schedule="constant")


def gates(method: SelfTuning) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in method.response.parameters()]


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# -- the gradients of the gates -------------------------------------------------------------------


def first_step(clip: float | None, factor: float = 1.0) -> tuple[Run, SelfTuning, list[Tensor]]:
    """After one step of plain SGD, with the loss multiplied: what the gates moved by."""

    class Scaled(toy_tasks.Blobs):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            return factor * super().loss(model, batch)

    training = Training(
        10, "sgd", learning_rate=0.1, learning_rate_schedule="constant", clip=clip, evaluations=1
    )
    method = tuner("input_noise", options=SelfTuningOptions(warmup=0.5))
    run = begun(method, "input_noise", task=Scaled(), training=training)
    before = gates(method)
    run.train_step()
    return run, method, [a - b for a, b in zip(gates(method), before, strict=True)]


def test_clipping_scales_the_gradients_of_the_gates_as_those_of_the_weights() -> None:
    plain, clipped = first_step(None), first_step(1e-3)
    factor = float(clipped[0].clipped)
    assert 0 < factor < 0.1 and plain[0].clipped == 1.0
    assert any(bool((step != 0).any()) for step in plain[2])
    for step, smaller in zip(plain[2], clipped[2], strict=True):
        torch.testing.assert_close(smaller, factor * step, rtol=1e-3, atol=1e-7)
    loose = first_step(1e6)
    assert float(loose[0].clipped) == 1.0 and equal(loose[2], plain[2])


def test_a_clipped_run_stays_finite_where_its_loss_is_large() -> None:
    class Steep(toy_tasks.Blobs):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            return 1e4 * super().loss(model, batch)

    training = Training(
        40,
        "momentum",
        learning_rate=0.5,
        clip=0.1,
        evaluations=2,
        learning_rate_schedule="constant",
    )
    rows = toy_tasks.run(
        Steep(), training, 0, tuner("input_noise", options=OFTEN), {"input_noise": None}
    )
    assert rows[-1].step == 40 and all(row.finite for row in rows)


def test_the_published_response_is_clipped_with_the_pass_it_learns_from() -> None:
    from hpo.bilevel.stn.published import Published

    def moved(clip: float | None) -> list[Tensor]:
        options = SelfTuningOptions(response="full", warmup=0.5)
        domain = toy_tasks.regularizers("dropout")["dropout"].knobs["dropout"]
        records = toy_tasks.regularizers("dropout")
        method: Any = Published({"dropout": domain}, records, {"dropout": 0.2}, options)
        training = Training(10, "sgd", learning_rate=0.1, clip=clip, evaluations=1)
        run = begun(method, "dropout", training=training)
        before = gates(method)
        torch.manual_seed(3)
        run.train_step()
        factor = float(run.clipped)
        return [(a - b) / factor for a, b in zip(gates(method), before, strict=True)]

    for plain, clipped in zip(moved(None), moved(0.05), strict=True):
        torch.testing.assert_close(plain, clipped, rtol=1e-2, atol=1e-5)


def test_gates_do_not_step_along_gradients_that_are_not_finite() -> None:
    method = tuner("input_noise", options=SelfTuningOptions(warmup=0.5))
    run = begun(method, "input_noise", training=Training(steps=100, optimizer="adamw"))
    for _ in range(3):
        run.train_step()
    before, averages = gates(method), [average.clone() for average in method.response.averages]
    assert not method.notes()
    method.knobs(0.1, 4)
    last = method.response.parameters()[-1]
    for parameter in method.response.parameters():
        parameter.grad = torch.ones_like(parameter)
    last.grad.view(-1)[-1] = math.nan  # type: ignore[union-attr]
    method.after_step(run, 0.1)
    assert equal(gates(method), before) and equal(method.response.averages, averages)
    assert all(parameter.grad is None for parameter in method.response.parameters())
    assert method.report()["stn/unlearned"] == 1
    (note,) = method.notes()
    assert note.startswith("1 training step taught the response nothing")
    run.train_step()
    assert not equal(gates(method), before)
    assert all(bool(gate.isfinite().all()) for gate in gates(method))


def test_the_gates_learn_at_the_rate_of_the_group_that_learns_fastest() -> None:
    method = tuner("input_noise")
    run = begun(method, "input_noise")
    first, *others = run.parameters.values()
    groups = [{"params": [first], "lr": 0.0}, {"params": others, "lr": 0.03}]
    run.optimizer = torch.optim.SGD(groups, lr=1.0)
    method.knobs(0.0, 4)
    method.after_step(run, 0.01)
    assert method.answers.param_groups[0]["lr"] == 0.03


# -- rest -----------------------------------------------------------------------------------------


class Restarting(Training):
    """Rates that fall to nothing in each half of the run."""

    def rate_factor(self, progress: float) -> float:
        return 1.0 - (2 * progress) % 1


def test_knobs_go_on_where_the_learning_rate_rises_again() -> None:
    options = SelfTuningOptions(every=1, warmup=0.0, settle=0.1, freeze=0.3, rate=0.01)
    method = tuner("dropout", options=options, dropout=0.3)
    run = begun(method, "dropout", training=Restarting(steps=100, optimizer="momentum"))
    centers, moving = [], []
    for _ in range(100):
        run.train_step()
        centers.append(float(method.descent.center))
        moving.append(method.moving(run.step / 100))
    assert len({*centers[38:49]}) == 1 and not any(moving[38:48])  # faded
    assert len({*centers[55:80]}) == 25 and all(moving[55:80])
    assert len({*centers[90:]}) == 1 and not any(moving[90:])  # settled


# -- validation losses that are not finite --------------------------------------------------------


class Failing(toy_tasks.Blobs):
    """Blobs whose validation loss is nan in the steps of the knobs with these numbers."""

    def __init__(self, *numbers: int) -> None:
        super().__init__()
        self.numbers, self.calls = numbers, 0

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        losses = super().loss(model, batch)
        if not model.training and torch.is_grad_enabled():
            self.calls += 1
            if self.calls in self.numbers:
                return losses * math.nan
        return losses


def test_a_step_of_the_knobs_that_is_refused_leaves_the_diagnostics_as_they_are() -> None:
    method = tuner("dropout", options=OFTEN)
    run = begun(method, "dropout", task=Failing(8), training=Training(steps=100, evaluations=1))
    for _ in range(50):
        run.train_step()
    report = method.report()
    assert report["stn/refused"] == 1 and method.diagnostics.steps == 49
    assert {"stn/snr/dropout", "stn/snr_rows/dropout", "stn/sigma/dropout"} <= {*report}
    assert all(math.isfinite(value) for value in report.values())
    told = [note for note in method.notes() if "left out" in note]
    assert told == [
        "1 of 50 steps of the knobs left out: the validation loss, or its gradient, was not a"
        " finite number; look for such numbers in the validation batches"
    ]
    assert not any("left out" in note for note in method.notes())


def test_nothing_is_said_of_refusals_where_there_are_none() -> None:
    method = tuner("dropout", options=OFTEN)
    run = begun(method, "dropout", training=Training(steps=100, evaluations=1))
    for _ in range(20):
        run.train_step()
    assert not {"stn/refused", "stn/unlearned"} & {*method.report()}
    assert not any("left out" in note or "taught" in note for note in method.notes())


def test_looks_and_second_chances_come_once_however_many_steps_are_refused() -> None:
    options = SelfTuningOptions(every=1, warmup=0.0, settle=0.0, restarts=1)
    method = tuner("dropout", options=options)
    task = Failing(*range(5, 100))
    run = begun(method, "dropout", task=task, training=steady(40))
    chances, looks = [], []
    method._give_another_chance = lambda: chances.append(run.step)  # type: ignore[method-assign]
    gain = method.diagnostics.gain
    method.diagnostics.gain = lambda found: (looks.append(run.step), gain(found))[1]  # type: ignore
    for _ in range(40):
        run.train_step()
    assert chances == [20] and looks == [10, 20, 30, 40]


def test_a_descent_refuses_what_is_not_finite_and_stays_where_it_is() -> None:
    descent = Descent(torch.zeros(1), torch.tensor([False]), 100, SelfTuningOptions())
    for _ in range(3):
        assert descent.step(torch.ones(1), torch.ones(1))
    center, latent = descent.center.clone(), descent.latent.clone()
    momentum = descent._optimizer.state[descent.center]["exp_avg"].clone()
    assert not descent.step(torch.full((1,), math.nan), torch.ones(1))
    assert not descent.step(torch.ones(1), torch.full((1,), math.inf))
    assert torch.equal(descent.center, center) and torch.equal(descent.latent, latent)
    assert torch.equal(descent._optimizer.state[descent.center]["exp_avg"], momentum)
    assert descent.state_dict().keys() == {"center", "latent", "optimizer"}


# -- errors in the middle -------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["validation", "response"])
def test_after_an_error_in_its_step_the_model_is_plain(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(toy_tasks.Blobs):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            losses = super().loss(model, batch)
            if place == "validation" and not model.training and torch.is_grad_enabled():
                raise KeyboardInterrupt
            return losses

    method = tuner("dropout", options=OFTEN)
    run = begun(method, "dropout", task=Interrupted())
    if place == "response":

        def broken(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(method.answers, "step", broken)
    with pytest.raises(KeyboardInterrupt):
        run.train_step()
    assert method.response.delta is None


# -- looks from beside ----------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("dropout",), ("l2", "input_noise")])
def test_a_run_with_looks_goes_as_one_without(
    names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither training batches nor draws of the tuner are used up by looking at the response."""

    def run(look: bool) -> tuple[list[Any], list[int]]:
        looks: list[int] = []
        method = tuner(*names, options=SelfTuningOptions(every=1, warmup=0.1, settle=0.1))
        trial = begun(method, *names)
        observer = method._observer
        if look:
            gain = observer.diagnostics.gain
            keep = lambda found: (looks.append(trial.step), gain(found))[1]  # noqa: E731
            monkeypatch.setattr(observer.diagnostics, "gain", keep)
        else:
            monkeypatch.setattr(observer, "_look_every", 10**9)
        losses = [float(trial.train_step()[1]) for _ in range(60)]
        return [losses, method.descent.center.tolist()], looks

    with_looks, looks = run(True)
    assert len(looks) >= 3
    assert run(False)[0] == with_looks


def test_the_response_is_looked_at_before_it_learns_from_the_batch() -> None:
    method = tuner("dropout", options=OFTEN)
    run = begun(method, "dropout")
    seen: list[bool] = []
    gain = method.diagnostics.gain

    def told(found: Tensor) -> None:
        assert found.shape == (len(run.batch.targets),)
        seen.append(any(p.grad is not None for p in method.response.parameters()))
        gain(found)

    method.diagnostics.gain = told  # type: ignore[method-assign]
    for _ in range(30):
        run.train_step()
    assert seen and all(seen)


def test_draws_of_the_looks_go_on_from_a_saved_state() -> None:
    def begin() -> tuple[SelfTuning, Run]:
        method = tuner("l2", "dropout", options=OFTEN)
        return method, begun(method, "l2", "dropout", task=toy_tasks.Blobs(45, 7))

    method, run = begin()
    for _ in range(23):
        run.train_step()
    resumed, other = begin()
    other.load_state_dict(copy.deepcopy(run.state_dict()))
    for trial in (run, other):
        torch.manual_seed(7)
        for _ in range(30):
            trial.train_step()
    timed = {"stn/overhead", "stn/hyper_share"}
    reports = [{k: v for k, v in m.report().items() if k not in timed} for m in (method, resumed)]
    assert reports[0] == reports[1] and "stn/gain" in reports[0]


def test_nothing_is_said_of_a_response_that_no_knob_asks_for() -> None:
    method = tuner("weight_decay", options=OFTEN)
    run = begun(method, "weight_decay")
    for _ in range(60):
        run.train_step()
    assert "stn/gain" not in method.report()
    assert not any("not learning" in note for note in method.notes())


def test_steps_of_the_knobs_are_under_the_autocast_of_the_loop() -> None:
    kinds: dict[bool, set[torch.dtype]] = {True: set(), False: set()}

    class Seen(toy_tasks.Blobs):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            kinds[model.training].add(model(batch.inputs).dtype)
            return super().loss(model, batch).float()

    @contextmanager
    def autocast() -> Iterator[None]:
        with torch.autocast("cpu", torch.bfloat16):
            yield

    method = tuner("dropout", options=OFTEN)
    run: Any = begun(method, "dropout", task=Seen(), training=steady(40))
    kinds[False].clear()  # where the layers were looked for
    run.train_step()
    assert kinds == {True: {torch.float32}, False: {torch.float32}}
    run.autocast = autocast
    for found in kinds.values():
        found.clear()
    for _ in range(12):  # the gain is looked at as well
        run.train_step()
    assert kinds == {True: {torch.float32, torch.bfloat16}, False: {torch.bfloat16}}
    assert all(p.dtype == torch.float32 for p in method.response.parameters())


# -- options that contradict each other -----------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said", "key"),
    [
        ({"warmup": 0.6, "settle": 0.4}, "warmup 0.6 and settle 0.4 leave no share", "warmup"),
        ({"least_scale": 3.0}, "least_scale 3 is above most_scale 2", "least_scale"),
        ({"scale": 5.0}, "scale 5 is above most_scale 2", "scale"),
        ({"scale": 0.01}, "scale 0.01 is below least_scale 0.1", "scale"),
        ({"most_scale": 0.5}, "scale 1 is above most_scale 0.5", "scale"),
    ],
)
def test_options_at_odds_with_each_other_are_refused(
    options: dict[str, float], said: str, key: str
) -> None:
    with pytest.raises(HpoError) as caught:
        parse_options(sampler_named("stn"), options, "stn")
    assert caught.value.message.startswith(said) and caught.value.hint
    assert caught.value.path == ("sampler_options", key) and caught.value.code == "bad-option"


def test_options_at_their_limits_are_not() -> None:
    SelfTuningOptions(warmup=0.5, settle=0.4, scale=0.3, least_scale=0.3, most_scale=0.3)
    SelfTuningOptions(response="full", scale=5.0)  # published: without bounds


@pytest.mark.parametrize(
    ("options", "steps", "moves"),
    [
        (SelfTuningOptions(every=1000), 100, False),
        (SelfTuningOptions(every=100, settle=0.0), 100, True),
        (SelfTuningOptions(every=100, settle=0.1), 100, False),
        (SelfTuningOptions(), 1, False),
        (SelfTuningOptions(every=1, warmup=0.9, settle=0.05), 10, True),
    ],
)
def test_a_run_too_short_for_any_step_of_the_knobs_is_told_of(
    options: SelfTuningOptions, steps: int, moves: bool
) -> None:
    method = tuner("dropout", options=options)
    run = begun(method, "dropout", training=steady(steps))
    told = [note for note in method.notes() if note.startswith("the knobs stay at their start")]
    assert len(told) == (not moves)
    for _ in range(steps):
        run.train_step()
    assert (method.diagnostics.tried > 0) == moves
    assert not any("stay at their start" in note for note in method.notes())
    if told:
        assert f"every {options.pace(steps)}, warmup" in told[0]


# -- draws ----------------------------------------------------------------------------------------


def test_whole_numbers_stay_in_their_range_and_are_right_on_average() -> None:
    free = FreeKnobs({"k": Int(1, 15)}, {"k": "example"})
    draws = Perturbation(free, torch.Generator().manual_seed(0))
    lows, highs = [], []
    for _ in range(40):
        lows.append(draws.draw(torch.tensor([-9.0]), torch.tensor([0.1]), 100_000)[1]["k"])
        highs.append(draws.draw(torch.tensor([9.0]), torch.tensor([0.1]), 100_000)[1]["k"])
    assert min(float(low.min()) for low in lows) == 1
    assert max(float(high.max()) for high in highs) == 15
    center = torch.tensor([0.7])
    found = draws.draw(center, torch.zeros(1), 200_000)[1]["k"]
    assert bool((found == found.round()).all())
    assert float(found.mean()) == pytest.approx(float(free.flat_values(center)), abs=0.01)


def test_options_are_looked_up_where_the_draws_are() -> None:
    looked: list[str] = []

    class Watching(TorchFunctionMode):
        def __torch_function__(
            self, call: Any, types: Any, args: Any = (), named: Any = None
        ) -> Any:
            if call is Tensor.__getitem__:
                looked.extend(tensor.device.type for tensor in args)
            return call(*args, **(named or {}))

    picked = torch.zeros(5, dtype=torch.long, device="meta")  # any device but the CPU
    with Watching():
        perturbation.chosen((0.0, 0.2), picked, torch.zeros(3, device="meta"))
    assert looked == ["meta", "meta"]
    places = torch.tensor([2, 0])
    assert perturbation.chosen((0.0, 0.5, 0.25), places, torch.zeros(1)).tolist() == [0.25, 0.0]


def test_the_middle_one_of_an_odd_number_of_draws_has_no_opposite() -> None:
    draws = antithetic(5, 2, torch.Generator().manual_seed(0), torch.zeros(()))
    assert torch.equal(draws.sum(0), draws[2])


# -- knobs that cannot be answered to -------------------------------------------------------------


def test_a_choice_of_the_optimizers_step_is_tuned() -> None:
    """Weights pulled far out by hand: the validation loss is better after any shrinking."""
    domain = Choice((0.0, 5.0))
    records = toy_tasks.regularizers("weight_decay", "input_noise")
    domains: dict[str, Domain] = {
        "weight_decay": domain,
        "input_noise": records["input_noise"].knobs["input_noise"],
    }

    def tuned(factor: float) -> SelfTuning:
        point = {"weight_decay": 0.0, "input_noise": 0.05}
        method = SelfTuning(domains, records, point, OFTEN)
        run = begun(method, "weight_decay", "input_noise")
        with torch.no_grad():
            for parameter in run.parameters.values():
                parameter.mul_(factor)
        for _ in range(40):
            run.train_step()
        return method

    large, small = tuned(4.0), tuned(0.3)
    assert large.point(1.0)["weight_decay"] == 5.0 and small.point(1.0)["weight_decay"] == 0.0
    for gate in large.response.gates:  # nothing is learned about what no weights answer to
        assert bool((gate.gains[:2] == 0).all()) and bool((gate.gains[2] != 0).any())


def test_the_change_with_an_option_is_that_of_the_validation_loss() -> None:
    record = toy_tasks.regularizers("weight_decay")
    domain = Choice((0.0, 0.5, 2.0))
    method = SelfTuning({"weight_decay": domain}, record, {"weight_decay": 0.5}, OFTEN)
    run = begun(method, "weight_decay")
    weights = {name: p for name, p in run.parameters.items() if p.ndim >= 2}
    run.model.eval()
    loss = run.task.loss(run.model, run.next_batch()).mean()
    grads = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
    product = sum(float((grads[name] * weights[name]).sum().detach()) for name in weights)
    for column, option in enumerate(domain.options):
        found = method._ahead(run, weights, grads, column)
        assert found == pytest.approx(-option * product, rel=1e-4, abs=1e-6)


def test_options_that_are_words_are_tuned_by_the_optimizers_step_as_well() -> None:
    def shrink(parameters: Mapping[str, Tensor], h: Any, rate: float) -> None:
        for parameter in parameters.values():
            parameter.mul_(1 - 2 * rate if h["kind"] == "some" else 1.0)

    record = Regularizer({"kind": Choice(("none", "some"))}, optimizer=shrink)
    method = SelfTuning(dict(record.knobs), {"shrink": record}, {"kind": "none"}, OFTEN)
    run = Run(
        Setting(toy_tasks.Blobs(), {"shrink": record}, method, steady(40), 0, torch.device("cpu")),
        GlobalStreams(0, torch.device("cpu")),
    )
    run.begin()
    with torch.no_grad():
        for parameter in run.parameters.values():
            parameter.mul_(4.0)
    for _ in range(40):
        run.train_step()
    assert method.point(1.0) == {"kind": "some"}


class Bare(toy_tasks.Blobs):
    """Blobs without dropout layers."""

    def model(self, seed: int) -> nn.Module:
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        self.models.append(model)
        return model


def test_knobs_without_a_place_are_those_that_only_such_regularizers_use() -> None:
    records = toy_tasks.regularizers("dropout", "activation_noise", "l2")
    both = Regularizer({"dropout": records["dropout"].knobs["dropout"]}, penalty=lambda p, h: 0.0)  # type: ignore[arg-type,return-value]
    assert acting(records, toy_tasks.Blobs().model(0)) == (records, set())
    assert acting(records, Bare().model(0)) == (
        {"l2": records["l2"]},
        {"dropout", "activation_noise"},
    )
    placed, idle = acting({**records, "both": both}, Bare().model(0))
    assert set(placed) == {"l2", "both"} and idle == {"activation_noise"}


def bare_study(tmp_path: Path, *space: str) -> Any:
    script = tmp_path / "bare.py"
    script.write_text(
        "from torch import nn\n"
        "from objectives.digits import Digits\n"
        "class Bare(Digits):\n"
        "    def model(self, seed):\n"
        "        layers = nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)\n"
        "        return nn.Sequential(*layers)\n"
    )
    return {"objective": f"{script}:Bare", "space": list(space)}


def test_a_knob_without_a_place_in_the_model_is_held_and_said_to_be_ignored(
    tmp_path: Path,
) -> None:
    spec = spec_from_keywords(
        **bare_study(tmp_path, "dropout", "input_noise"), name="bare", sampler="stn"
    )
    problem = load(spec)
    assert problem.idle == {"dropout"}
    assert problem.notes == ("dropout ignored: this model has no dropout sites",)
    result = study(
        tmp_path,
        **bare_study(tmp_path, "dropout", "input_noise"),
        budget={"trials": 1, "steps": 60},
        sampler_options={"baseline": False, "hold": False, "every": 1},
    )
    schedule = result.schedule_of(result.records[0])
    assert schedule.at(1.0)["dropout"] == schedule.at(0.0)["dropout"] == 0.05
    assert schedule.at(1.0)["input_noise"] != schedule.at(0.0)["input_noise"]


def test_a_study_of_such_knobs_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HpoError, match="can tune none of dropout within a run") as caught:
        study(tmp_path, **bare_study(tmp_path, "dropout"))
    assert "nn.Dropout" in caught.value.hint and caught.value.path == ("space",)


# -- one strength for each layer ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["weight_decay", "l2"])
def test_a_vector_over_layers_is_tuned_also_where_some_parameters_are_not_trained(
    name: str,
) -> None:
    record = toy_tasks.regularizers(name)
    domain = Float(1e-5, 10.0, "log", size=3, start=(0.01, 0.01, 0.01))
    start = {name: domain.start_value()}
    for held in ((), ("3.weight", "3.bias"), ("6.bias",)):
        method = SelfTuning({name: domain}, record, start, OFTEN)
        run = begun(method, name)
        run.parameters = {n: p for n, p in run.parameters.items() if n not in held}
        for _ in range(12):
            run.train_step()
        moved = [value != 0.01 for value in run.tuner.point(1.0)[name]]
        assert moved[0] and moved[2]
        if name == "weight_decay":
            assert moved[1] == ("3.weight" not in held)


# -- targets --------------------------------------------------------------------------------------


def batches(targets: Tensor, **knobs: float) -> Tensor:
    """The targets as a model is to see them."""

    class Given(toy_tasks.Blobs):
        pass

    method = toy_tasks.constant(**knobs)
    run = begun(method, *knobs, task=Given())  # type: ignore[arg-type]
    batch = Batch(torch.zeros(len(targets), 4), targets)
    return run.regularization.batch(batch, knobs).targets


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (torch.tensor([[0.0], [1.0]]), "two or more classes, found targets of shape (2, 1)"),
        (torch.tensor([0.3, -1.2]), "two or more classes, found targets of shape (2,)"),
        (torch.tensor([[0.5, 0.5], [1.3, -2.0]]), "found a row [1.3, -2]"),
        (torch.tensor([[1.0, 1.0], [0.5, 0.5]]), "found a row [1, 1]"),
        (torch.tensor([[1.5, -0.5]]), "found a row [1.5, -0.5]"),
        (torch.tensor([[math.nan, 0.5]]), "found a row [nan, 0.5]"),
        (torch.ones(2, 6), "found a row [1, 1, 1, 1, ...]"),
    ],
)
def test_targets_that_are_no_probabilities_are_not_smoothed(targets: Tensor, said: str) -> None:
    with pytest.raises(HpoError) as caught:
        batches(targets, label_smoothing=0.1)
    assert said in caught.value.message and "label_smoothing" in caught.value.message
    assert "leave the knob out" in caught.value.hint and caught.value.code == "bad-batch"


def test_probabilities_are_smoothed_and_other_targets_mixed() -> None:
    soft = functional.one_hot(torch.tensor([0, 2]), 3).float()
    found = batches(soft, label_smoothing=0.3)
    torch.testing.assert_close(found.sum(1), torch.ones(2))
    assert found.max() == pytest.approx(0.8)
    assert batches(soft.half(), label_smoothing=0.3).dtype == torch.float16
    other = torch.tensor([[1.3, -2.0], [0.1, 7.0]])
    assert torch.equal(batches(other, mixup=0.0), other)


# -- layers of the published form -----------------------------------------------------------------


def test_published_layers_lay_out_a_batch_as_was_seen() -> None:
    numbers = torch.arange(8.0).view(4, 2)
    embedding = Site("place", nn.Embedding(6, 2), 2, -1, layouts=(Layout(0),), plain_calls=True)
    mean = _by_example(numbers, torch.zeros(6, 2), embedding)
    assert mean.tolist() == [[3.0, 4.0]]  # positions are no examples
    layer = Site("layer", nn.Linear(2, 2), 2, -1, layouts=(Layout(0, interleaved=True),))
    spread = _by_example(numbers, torch.zeros(8, 2), layer)
    assert torch.equal(spread, numbers.repeat(2, 1))
    with pytest.raises(HpoError, match=r"layer layer gives shape \(6, 2\) for a batch of 4"):
        _by_example(numbers, torch.zeros(6, 2), layer)
