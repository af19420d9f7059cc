"""Self-Tuning Networks as published: equal to recorded steps of the public codes, and well-behaved.

data/stn_parity.npz holds one training step and one step of the knobs of the codes of 2019 and 2020,
in double precision, with all the randomness they used. Run with: pytest tests/test_stn_parity.py
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from toy_tasks import Blobs, numbers, regularizers

from hpo.bilevel.gates.full_response import FullResponse, linearised
from hpo.bilevel.gates.sites import find_sites
from hpo.bilevel.stn.options import SelfTuningOptions
from hpo.bilevel.stn.published import Published
from hpo.bilevel.stn.published_forms import DELTA_STN_2020, FORMS, STN_2019, PublishedForm
from objectives.digits import Digits
from objectives.training.evaluation import evaluate
from objectives.training.loop import train
from objectives.training.options import Training
from objectives.training.randomness import GlobalStreams
from objectives.training.state import Run, Setting
from search_spaces.domains import Choice, Domain, Float, Int
from search_spaces.errors import HpoError
from search_spaces.regularizer import Batch, Regularizer, spread

RECORDED = {
    name: torch.from_numpy(array)
    for name, array in np.load(Path(__file__).parent / "data" / "stn_parity.npz").items()
}
GIVEN = {name.removeprefix("in/"): v for name, v in RECORDED.items() if name.startswith("in/")}
FULL = SelfTuningOptions(response="full", centred=False)
DELTA = SelfTuningOptions(response="delta")
MODES = {"2019": FULL, "2020": DELTA}

# -- the recorded steps ---------------------------------------------------------------------------


class RecordedTask:
    """The network and the data of the recorded case; remembers what the network put out."""

    splits = ("train", "validation", "test")

    def __init__(self) -> None:
        self.outputs: list[Tensor] = []

    def model(self, seed: int) -> nn.Module:
        layers = nn.Linear(5, 4), nn.ReLU(), nn.Dropout(0.0), nn.Linear(4, 3)
        model = nn.Sequential(*layers).double()
        with torch.no_grad():
            for layer, i in zip((model[0], model[3]), "12", strict=True):
                layer.weight.copy_(GIVEN[f"w{i}"])
                layer.bias.copy_(GIVEN[f"b{i}"])
        return model

    def batches(self, split: str, rng: torch.Generator) -> Iterator[Batch]:
        end = "" if split == "train" else "_valid"
        yield Batch(GIVEN[f"x{end}"], GIVEN[f"y{end}"])

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        self.outputs.append(model(batch.inputs))
        return functional.cross_entropy(self.outputs[-1], batch.targets, reduction="none")


def _recorded_dropout(
    x: Tensor, h: Mapping[str, Any], rng: torch.Generator, site: nn.Module
) -> Tensor:
    rate = spread(h["dropout"], x)
    return x * (GIVEN["dropout_uniform"] >= rate) / (1 - rate)


def _recorded_noise(batch: Batch, h: Mapping[str, Any], rng: torch.Generator) -> Batch:
    noise = spread(h["input_noise"], batch.inputs) * GIVEN["input_noise_draw"]
    return batch._replace(inputs=batch.inputs + noise)


def _recorded_knobs() -> tuple[dict[str, Domain], dict[str, Regularizer]]:
    domains: dict[str, Domain] = {}
    for k, name in enumerate(("dropout", "input_noise")):
        low, high, start = (float(GIVEN[key][k]) for key in ("low", "high", "start"))
        domains[name] = Float(low, high, start=start)
    return domains, {
        "dropout": Regularizer(knobs={"dropout": domains["dropout"]}, activation=_recorded_dropout),
        "input_noise": Regularizer(
            knobs={"input_noise": domains["input_noise"]}, batch=_recorded_noise
        ),
    }


class Replaying(Published):
    """The tuner with the recorded draws in place of its own; remembers the loss of its step."""

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.tuning = False
        with torch.no_grad():
            for gate, i in zip(self.response.gates, "12", strict=True):
                assert isinstance(gate.layer, nn.Linear) and gate.bias is not None
                gate.layer.weight.copy_(GIVEN[f"r{i}"])
                gate.bias.copy_(GIVEN[f"rb{i}"])
                gate.factors.copy_(GIVEN[f"v{i}"])
                if gate.own is not None:
                    gate.own.copy_(GIVEN[f"c{i}"])

    def _tune(self, run: Run) -> None:
        self.tuning = True
        super()._tune(run)

    def _draws(self, rows: int) -> Tensor:
        return GIVEN["eps_valid" if self.tuning else "eps"]

    def _tuning_loss(self, run: Run, batch: Batch, draws: Tensor) -> Tensor:
        self.loss = super()._tuning_loss(run, batch, draws)
        return self.loss


CASES = {
    "stn": ("full", STN_2019),
    "delta": ("delta", dataclasses.replace(DELTA_STN_2020, linearised=False)),
    "delta_linearised": ("delta", DELTA_STN_2020),
}
NAMES_2019 = {
    "weight": "l{}.elem_weight",
    "bias": "l{}.elem_bias",
    "layer.weight": "l{}.hnet_weight",
    "second bias": "l{}.hnet_bias",
    "factors": "l{}.htensor_to_scalars.weight",
    "own": "l{}.elem_scalar",
}
NAMES_2020 = {
    "weight": "layers.{}.general_weight",
    "bias": "layers.{}.general_bias",
    "layer.weight": "layers.{}.response_weight",
    "second bias": "layers.{}.response_bias",
    "factors": "layers.{}.hyper_bottleneck.weight",
}


def one_step(case: str) -> tuple[RecordedTask, Replaying, Run, dict[str, Tensor]]:
    """The recorded step taken by the tuner in a run, with what it made of each tensor."""
    response, form = CASES[case]
    options = SelfTuningOptions(response=response, centred=case != "stn", warmup=0.0)
    domains, known = _recorded_knobs()
    start = {name: domain.start_value() for name, domain in domains.items()}
    form = dataclasses.replace(form, every=1, scale=float(GIVEN["sigma"][0]))
    tuner = Replaying(domains, known, start, options, form)
    training = Training(
        steps=10, optimizer="momentum", learning_rate=0.1, learning_rate_schedule="constant"
    )
    task = RecordedTask()
    setting = Setting(task, known, tuner, training, 0, torch.device("cpu"))
    run = Run(setting, GlobalStreams(0, setting.device))
    run.begin()
    task.outputs.clear()
    _, total = run.train_step()
    names = NAMES_2019 if case == "stn" else NAMES_2020
    first = 1 if case == "stn" else 0
    after = {}
    for place, site, gate in zip((0, 1), tuner.response.sites, tuner.response.gates, strict=True):
        own = dict(gate.named_parameters())
        own["second bias"] = own.pop("bias")
        for name, tensor in {**own, **dict(site.module.named_parameters())}.items():
            after["after_train/" + names[name].format(place + first)] = tensor
    grads = {"grad_latent": tuner.center.grad, "grad_scale": tuner.latent_scale.grad}
    outputs = {"train_output": task.outputs[0], "valid_output": task.outputs[-1]}
    losses = {"train_loss": total, "valid_loss": tuner.loss}
    state = {"latent_after": tuner.center, "scale_after": tuner.latent_scale}
    return task, tuner, run, {**after, **grads, **outputs, **losses, **state}


@pytest.mark.parametrize("case", CASES)
def test_a_step_of_weights_and_knobs_is_that_of_the_public_code(case: str) -> None:
    *_, found = one_step(case)
    recorded = {
        name.removeprefix(f"{case}/"): tensor
        for name, tensor in RECORDED.items()
        if name.startswith(f"{case}/")
    }
    assert found.keys() == recorded.keys()
    far = {
        name: float((found[name].detach() - tensor).abs().max())
        for name, tensor in recorded.items()
    }
    assert max(far.values()) < 1e-10, far


def test_the_recorded_network_is_the_plain_one_it_leaves_behind() -> None:
    _, tuner, run, _ = one_step("stn")
    model = run.model.eval()
    before = model(GIVEN["x"])
    unanswered = copy.deepcopy(model[3])
    run.close()
    assert tuner.response.seen is not None
    assert (model(GIVEN["x"]) - before).abs().max() < 1e-12
    assert not torch.equal(model[3].weight, unanswered.weight)
    assert not model[3]._forward_hooks


# -- layers ---------------------------------------------------------------------------------------

COLUMNS = 3
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(4, 6), (5, 4)),
    "linear without bias": (lambda: nn.Linear(4, 6, bias=False), (5, 4)),
    "linear over sequences": (lambda: nn.Linear(4, 6), (5, 7, 4)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), (5, 4, 8)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding_mode="circular"), (5, 4, 6, 6)),
    "conv3d": (lambda: nn.Conv3d(2, 4, 2, bias=False), (5, 2, 3, 3, 3)),
    "transposed conv1d": (lambda: nn.ConvTranspose1d(4, 6, 3), (5, 4, 5)),
    "transposed conv2d": (
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, groups=2),
        (5, 4, 4, 4),
    ),
    "transposed conv3d": (lambda: nn.ConvTranspose3d(2, 4, 2), (5, 2, 3, 3, 3)),
    "embedding": (lambda: nn.Embedding(9, 6, padding_idx=0), (5, 7)),
}


def responding(model: nn.Module, inputs: Tensor, form: PublishedForm = STN_2019) -> FullResponse:
    """The response of a model, with numbers large enough to be seen."""
    sites = find_sites(model, lambda: model(inputs))
    response = FullResponse(sites, COLUMNS, form.own_scale, 0.5, seed=1)
    for gate in response.gates:
        if gate.own is not None:
            nn.init.constant_(gate.own, 0.8)
    return response


@pytest.mark.parametrize("kind", LAYERS)
def test_each_example_has_the_weights_that_folding_gives(kind: str) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[kind]
    layer = make()
    embeds = isinstance(layer, nn.Embedding)
    inputs = torch.randint(0, 9, shape) if embeds else torch.randn(shape)
    response = responding(layer, inputs)
    seen = torch.randn(shape[0], COLUMNS)
    undo = response.attach()
    response.seen = seen
    answered = layer(inputs)
    undo[0]()
    for row in range(shape[0]):
        plain = copy.deepcopy(layer)
        response.write(layer, seen[row])
        assert torch.allclose(answered[row], layer(inputs)[row], atol=1e-6, rtol=0)
        layer.load_state_dict(plain.state_dict())
    assert not torch.allclose(answered, layer(inputs), atol=1e-2)


@pytest.mark.parametrize("layout", ["sequence first", "flat"])
def test_examples_are_found_in_other_layouts(layout: str) -> None:
    torch.manual_seed(0)
    layer, inputs, seen = nn.Linear(4, 6), torch.randn(5, 3, 4), torch.randn(5, COLUMNS)
    response = responding(layer, inputs)
    response.attach()
    response.seen = seen
    usual = layer(inputs)
    if layout == "flat":
        assert torch.allclose(layer(inputs.flatten(0, 1)), usual.flatten(0, 1), atol=1e-6)
    else:
        assert torch.allclose(layer(inputs.transpose(0, 1)), usual.transpose(0, 1), atol=1e-6)


class Tied(nn.Module):
    """An embedding and an output layer that read one weight, over examples laid out flat."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.hidden = nn.Linear(4, 4)
        self.out = nn.Linear(4, 9)
        self.out.weight = self.embed.weight

    def forward(self, words: Tensor) -> Tensor:
        return self.out(self.hidden(self.embed(words)).flatten(0, 1).tanh())


def test_a_shared_weight_becomes_one_for_each_layer_when_it_is_folded() -> None:
    torch.manual_seed(0)
    model, words = Tied(), torch.randint(0, 9, (5, 3))
    response = responding(model, words)
    undo = response.attach()
    response.seen = torch.randn(1, COLUMNS).expand(5, -1)
    answered = model(words)
    for take_off in undo:
        take_off()
    response.write(model, response.seen[0])
    assert torch.allclose(model(words), answered, atol=1e-6)
    assert model.out.weight is not model.embed.weight


def test_a_batch_that_does_not_fit_the_knobs_is_an_error() -> None:
    layer = nn.Linear(4, 6)
    response = responding(layer, torch.randn(5, 4))
    response.attach()
    response.seen = torch.zeros(3, COLUMNS)
    with pytest.raises(HpoError, match="for a batch of 3 examples"):
        layer(torch.randn(5, 4))


def test_a_model_of_norms_and_attention_alone_has_no_published_response() -> None:
    with pytest.raises(HpoError, match="as published"):
        responding(nn.LayerNorm(4), torch.randn(5, 4))


# -- the tangent ----------------------------------------------------------------------------------


def test_the_linearised_output_is_the_tangent_at_the_centre() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    inputs, along = torch.randn(5, 4).double(), torch.randn(5, COLUMNS).double()
    response = responding(model, inputs, DELTA_STN_2020)
    plain = model(inputs)
    response.attach()
    with linearised(model, response, along):
        tangent = model(inputs)

    def at(length: float) -> Tensor:
        response.seen = length * along
        return model(inputs).detach()

    slope = (at(1e-5) - at(-1e-5)) / 2e-5
    assert torch.allclose(tangent, plain + slope, atol=1e-8)
    assert not torch.allclose(tangent, at(1.0), atol=1e-2)


def test_a_loss_that_never_calls_the_model_itself_cannot_be_linearised() -> None:
    model = nn.Sequential(nn.Linear(4, 2))
    response = responding(model, torch.randn(5, 4), DELTA_STN_2020)
    with (
        pytest.raises(HpoError, match="never model"),
        linearised(model, response, torch.zeros(5, COLUMNS)),
    ):
        model[0](torch.randn(5, 4))


# -- whole runs -----------------------------------------------------------------------------------

RANGES: dict[str, Domain] = {
    "dropout": Float(0.0, 0.9, start=0.05),
    "input_noise": Float(0.0, 1.5, start=0.05),
    "l2": Float(1e-5, 1.0, "log", start=1e-3),
}
START = {name: domain.start_value() for name, domain in RANGES.items()}
BRIEF = Training(steps=30, evaluations=5, optimizer="momentum", learning_rate=0.02)


def tuner_for(mode: str, **options: Any) -> Published:
    chosen = dataclasses.replace(MODES[mode], **options)
    return Published(RANGES, regularizers(*RANGES), START, chosen)


def measured(task: Any, tuner: Published, training: Training = BRIEF, **options: Any) -> list[Any]:
    return list(train(task, regularizers(*RANGES), tuner, training, 3, **options))


def begun(tuner: Published, task: Any = None, known: Any = None) -> Run:
    cpu = torch.device("cpu")
    known = known or regularizers(*RANGES)
    run = Run(Setting(task or Blobs(), known, tuner, BRIEF, 0, cpu), GlobalStreams(0, cpu))
    run.begin()
    return run


class Killed(Exception):
    pass


class Mortal(Blobs):
    """Ends with an exception at one training pass."""

    def __init__(self, passes: int) -> None:
        super().__init__()
        self.passes = passes

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        if model.training:
            self.passes -= 1
            if self.passes < 0:
                raise Killed
        return super().loss(model, batch)


@pytest.mark.parametrize("passes", [17, 41])
@pytest.mark.parametrize("mode", MODES)
def test_a_killed_run_goes_on_bit_for_bit(mode: str, passes: int, tmp_path: Path) -> None:
    whole_task, resumed_task = Blobs(), Blobs()
    whole = measured(whole_task, tuner_for(mode))
    saving = {"checkpoint": tmp_path / "point.pt", "checkpoint_seconds": 0.0}
    passes = passes if mode == "2020" else passes // 2 + 1  # there two passes are one step
    with pytest.raises(Killed):
        measured(Mortal(passes), tuner_for(mode), **saving)
    again = measured(resumed_task, tuner_for(mode), **saving)
    assert numbers(again) == numbers(whole)
    ends = [task.models[-1].state_dict() for task in (whole_task, resumed_task)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize("mode", MODES)
def test_a_short_run_on_digits_stays_finite_and_moves_its_knobs(mode: str) -> None:
    training = Training(steps=200, evaluations=4, optimizer="momentum", learning_rate=0.01)
    history = measured(Digits(hidden=32), tuner_for(mode), training)
    assert all(math.isfinite(value) for m in history for value in m.metrics.values())
    assert history[-1].metrics["val_loss"] < history[0].metrics["val_loss"]
    for knob in RANGES:
        assert history[-1].point[knob] != START[knob]
        assert RANGES[knob].contains(history[-1].point[knob])


@pytest.mark.parametrize("mode", MODES)
def test_the_plain_model_at_the_end_is_the_tuned_network_at_its_centre(mode: str) -> None:
    task = Blobs()
    history = measured(task, tuner_for(mode))
    ended = evaluate(task, task.models[-1], "validation")
    assert ended["loss"] == pytest.approx(history[-1].metrics["val_loss"], abs=1e-6)
    assert not any(module._forward_hooks for module in task.models[-1].modules())


@pytest.mark.parametrize("mode", MODES)
def test_outside_training_passes_the_network_is_the_folded_one(mode: str) -> None:
    run = begun(tuner_for(mode, warmup=0.0))
    for _ in range(4):
        run.train_step()
    inputs = run.batch.inputs
    tuned = run.model.eval()(inputs)
    with_hooks = {name: p.clone() for name, p in run.parameters.items()}
    run.close()
    assert torch.allclose(run.model(inputs), tuned, atol=1e-6)
    unchanged = all(torch.equal(with_hooks[name], p) for name, p in run.parameters.items())
    assert unchanged == (mode == "2020")


@pytest.mark.parametrize("centred", [True, False])
def test_moving_the_centre_changes_an_uncentred_network_only(centred: bool) -> None:
    tuner = tuner_for("2019", centred=centred, warmup=0.0)
    run = begun(tuner)
    run.train_step()
    model, inputs = run.model.eval(), run.batch.inputs
    before = model(inputs)
    with torch.no_grad():
        tuner.center += 1.0
    tuner._see_centre()
    assert torch.equal(model(inputs), before) == centred


@pytest.mark.parametrize("mode", MODES)
def test_a_penalty_sees_the_weights_as_the_response_makes_them(mode: str) -> None:
    tuner = tuner_for(mode, warmup=0.0)
    run = begun(tuner)
    for _ in range(6):
        run.train_step()
    plain = dict(run.parameters)
    if mode == "2020":
        assert run.effective() == plain  # the weights are trained at the centre
        return
    tuner.knobs(0.5, 10)
    seen = tuner.response.seen
    assert seen is not None and tuner._pooled is not None
    column = list(RANGES).index("l2")
    assert torch.equal(tuner._pooled[column], seen[0, column])
    assert len(set(seen[:, column].tolist())) == 1
    assert len(set(seen[:, 0].tolist())) == 10
    folded = tuner.response.folded(tuner._pooled)
    assert all(torch.equal(weight, folded[name]) for name, weight in run.effective().items())
    assert not torch.equal(run.effective()["0.weight"], plain["0.weight"])


def test_the_second_pass_teaches_the_response_what_a_penalty_does() -> None:
    """A loss that ignores the model leaves the penalty alone to teach it."""

    class Indifferent(Blobs):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            return 0.0 * super().loss(model, batch)

    tuner = tuner_for("2020", warmup=0.0)
    run = begun(tuner, Indifferent())
    run.train_step()
    column = list(RANGES).index("l2")
    factors = torch.cat([gate.factors.detach() for gate in tuner.response.gates])
    assert factors[:, column].any()
    assert not factors[:, 0].any()  # of the dropout of each example no penalty knows


class Normed(Blobs):
    def model(self, seed: int) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def test_two_passes_update_the_statistics_of_norms_once() -> None:
    run = begun(tuner_for("2020"), Normed())
    seen = []
    run.model[0].register_forward_hook(lambda layer, inputs, output: seen.append(output.detach()))
    run.train_step()
    norm = run.model[1]
    assert int(norm.num_batches_tracked) == 1
    assert len(seen) == 2
    assert torch.allclose(norm.running_mean, 0.1 * seen[0].mean(0))
    assert run.cost["gradients"] == 4


@pytest.mark.parametrize("mode", MODES)
def test_published_defaults_hold_unless_an_option_is_set(mode: str) -> None:
    form = FORMS[MODES[mode].response]
    asked = tuner_for(mode, every=3, rate=0.05)
    usual = tuner_for(mode)
    assert (usual._options.every, usual._options.scale) == (form.every, form.scale)
    assert usual._options.settle == 0.0
    assert asked._options.every == 3
    for tuner, rate in ((usual, form.rate), (asked, 0.05)):
        begun(tuner)
        assert tuner._optimizer.param_groups[0]["lr"] == rate


def test_scales_that_are_not_learned_stay_and_the_knobs_are_tuned_unperturbed() -> None:
    tuner = tuner_for("2019", learn_scale=False, warmup=0.0)
    measured(Blobs(), tuner)
    assert torch.allclose(functional.softplus(tuner.latent_scale), torch.tensor(0.5))
    assert not torch.equal(tuner.center, tuner.free.initial(START))


def test_the_knobs_rest_in_the_last_share_of_the_run() -> None:
    tuner = tuner_for("2019", settle=0.5, warmup=0.0)
    points = [measurement.point for measurement in measured(Blobs(), tuner)]
    assert points[0] != points[2] == points[3] == points[4]
    assert set(tuner.spread().values()) == {0.0}
    assert not tuner.moving(0.9)


def test_whole_numbers_are_whole_at_every_example() -> None:
    tuner = Published({"dropout": Int(0, 3)}, regularizers("dropout"), {"dropout": 1}, FULL)
    begun(tuner, known=regularizers("dropout"))
    with torch.no_grad():
        tuner.latent_scale += 3.0
    values = tuner.knobs(0.0, 200)["dropout"]
    assert set(values.tolist()) == {0.0, 1.0, 2.0, 3.0}


REFUSED: dict[str, tuple[dict[str, Domain], SelfTuningOptions, str]] = {
    "choice": ({"dropout": Choice((0.1, 0.2))}, FULL, "only numbers"),
    "decoupled decay": ({"weight_decay": Float(0.0, 1.0)}, FULL, "optimizer's step"),
    "learning rate": ({"learning_rate": Float(0.1, 1.0)}, DELTA, "optimizer's step"),
    "safeguard": (RANGES, dataclasses.replace(FULL, trust=0.5), "trust has no meaning"),
    "delta uncentred": (RANGES, dataclasses.replace(DELTA, centred=False), "by its nature"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_published_codes_cannot_do_is_refused(case: str) -> None:
    domains, options, message = REFUSED[case]
    known = regularizers("dropout", "weight_decay")
    start = {name: domain.start_value() for name, domain in domains.items()}
    with pytest.raises(HpoError, match=message):
        Published(domains, known, start, options)
