"""Hypergradients in a network's training: exact derivatives, and a training that is not touched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from toy_tasks import Blobs, Restless, constant, numbers, regularizers

import hpo
from hpo.bilevel.beside import beside
from hpo.bilevel.implicit.coordinates import Coordinates
from hpo.bilevel.online.methods._method import Method
from hpo.bilevel.online.methods.amigo import Amigo
from hpo.bilevel.online.methods.f2sa import F2sa
from hpo.bilevel.online.methods.hypergrad import Hypergrad
from hpo.bilevel.online.methods.soba import Soba
from hpo.bilevel.online.training import TrainingView
from hpo.bilevel.online.training_curvature import TrainingCurvature
from hpo.bilevel.online.tuning import OnlineTuning, Pace
from hpo.errors import exit_code
from hpo.preparation import Launch, prepare, spec_from_keywords
from objectives.training.loop import train
from objectives.training.measurement import Measurement
from objectives.training.options import Training
from objectives.training.randomness import GlobalStreams
from objectives.training.state import Run, Setting
from search_spaces.domains import Float
from search_spaces.errors import HpoError
from search_spaces.regularizer import Batch

pytestmark = pytest.mark.slow

DOUBLE = torch.float64
METHODS: dict[str, Method] = {
    "cg": Hypergrad("cg"),
    "neumann": Hypergrad("neumann"),
    "nystrom": Hypergrad("nystrom"),
    "identity": Hypergrad("identity"),
    "amigo": Amigo(),
    "soba": Soba(),
    "f2sa": F2sa(),
}
WIDE = {
    "l2": Float(1e-6, 1e2, "log", off=0.0),
    "weight_decay": Float(1e-6, 1e2, "log", off=0.0),
    "activation_noise": Float(0.0, 1.0),
    "focal": Float(0.0, 5.0),
    "input_noise": Float(0.0, 1.0),
    "label_smoothing": Float(0.0, 0.4),
    "mixup": Float(0.0, 1.0),
    "weight_noise": Float(0.0, 0.5),
}
START = {
    "l2": 0.03,
    "weight_decay": 0.05,
    "activation_noise": 0.2,
    "focal": 1.0,
    "input_noise": 0.3,
    "label_smoothing": 0.1,
    "mixup": 0.4,
    "weight_noise": 0.1,
}
NAMES = sorted(START)


class Doubles(Blobs):
    """Blobs in double precision, through a network without kinks."""

    net = staticmethod(
        lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Dropout(0.2), nn.Linear(5, 3))
    )

    def __init__(self, rows: int = 30, batch_size: int = 30) -> None:
        super().__init__(rows, batch_size)
        self.data = {split: (x.double(), y) for split, (x, y) in self.data.items()}

    def model(self, seed: int) -> nn.Module:
        model: nn.Module = self.net().double()
        self.models.append(model)
        return model


@contextmanager
def running(
    task: Any, start: dict[str, Any], training: Training, tuner: Any = None
) -> Iterator[Run]:
    """A run that is under way."""
    device = torch.device("cpu")
    tuner = tuner or constant(**start)
    setting = Setting(task, regularizers(*start), tuner, training, 0, device)
    streams = GlobalStreams(0, device)
    with streams.active():
        run = Run(setting, streams)
        run.begin()
        try:
            yield run
        finally:
            run.close()


def viewed(run: Run, start: dict[str, Any], gauss_newton: bool) -> tuple[TrainingView, Tensor]:
    coordinates = Coordinates({name: WIDE[name] for name in start}, start)
    view = TrainingView(run, coordinates, frozenset({"weight_decay"}), gauss_newton)
    view.trained()
    view.draw()
    return view, coordinates.of(start)


def dense(matrix: Any, n: int) -> Tensor:
    return torch.stack([matrix.product(row) for row in torch.eye(n, dtype=DOUBLE)], 1)


TRAININGS = {
    "sgd": Training(steps=40, evaluations=1, optimizer="sgd", learning_rate=0.1),
    "momentum": Training(steps=40, evaluations=1, optimizer="momentum", learning_rate=0.05),
    "adamw": Training(steps=40, evaluations=1, learning_rate=0.01),
    "clip": Training(steps=40, evaluations=1, optimizer="momentum", learning_rate=0.1, clip=0.1),
}


# -- derivatives ----------------------------------------------------------------------------------


def slope_at(view: TrainingView, x: Tensor, t: Tensor) -> Tensor:
    """What training rests at: the gradient, and what the optimizer's step does beside it."""
    return view.inner(x, t)[0] - view.decay(x, t) / view.scale


def some(view: TrainingView, count: int) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(count, len(view.x), generator=rng, dtype=DOUBLE)


@pytest.mark.parametrize("optimizer", TRAININGS)
def test_second_derivatives_are_those_of_the_slope(optimizer: str) -> None:
    """By finite differences of the slope: with the Hessian all of it, in the knobs either way."""
    # Noise on weights is relative to a size that gradients take for a constant.
    smooth = {name: value for name, value in START.items() if name != "weight_noise"}
    with running(Doubles(), smooth, TRAININGS[optimizer]) as run:
        for _ in range(5):
            run.train_step()
        view, t = viewed(run, smooth, gauss_newton=False)
        with beside(run):
            curved, x, v = view.curved(t), view.x, some(view, 1)[0]
            assert torch.allclose(curved.slope, slope_at(view, x, t))
            product = curved.product(v)
            apart = (slope_at(view, x + 1e-5 * v, t) - slope_at(view, x - 1e-5 * v, t)) / 2e-5
            assert torch.allclose(product, apart, rtol=1e-5, atol=1e-7)


@pytest.fixture
def precise() -> Iterator[None]:
    """Soft targets in double precision too."""
    torch.set_default_dtype(DOUBLE)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("precise")
@pytest.mark.parametrize("optimizer", TRAININGS)
def test_mixed_derivatives_are_those_of_the_slope(optimizer: str) -> None:
    """Of every regularizer that has some, with the draws held, and of decoupled decay."""
    with running(Doubles(), START, TRAININGS[optimizer]) as run:
        for _ in range(5):
            run.train_step()
        view, t = viewed(run, START, gauss_newton=False)
        with beside(run):
            x, u = view.x, some(view, 1)[0]
            curved, gn = view.curved(t), TrainingCurvature(view, t, gauss_newton=True)
            for curvature in (curved, gn):
                found = curvature.cross(u)
                for k in range(len(t)):
                    step = torch.zeros_like(t)
                    step[k] = 1e-5
                    ahead, behind = slope_at(view, x, t + step), slope_at(view, x, t - step)
                    expected = float(u @ (ahead - behind)) / 2e-5
                    name = NAMES[k]
                    assert float(found[k]) == pytest.approx(expected, rel=1e-3, abs=1e-8), name
                    assert abs(expected) > 1e-6, name


def test_the_gauss_newton_product_is_that_of_the_dense_matrix() -> None:
    """J' H J and the penalty's curvature, symmetric and never negative; not so the Hessian."""
    start = {"l2": 0.03, "weight_decay": 0.05}
    with running(Doubles(), start, TRAININGS["momentum"]) as run:
        run.train_step()
        view, t = viewed(run, start, gauss_newton=True)
        run.model.eval()  # the network's own dropout
        n = len(view.x)
        matrix = dense(view.curved(t), n)
        names = list(run.parameters)
        inputs = run.batch.inputs
        params = {k: p.detach() for k, p in run.parameters.items()}

        def outputs(x: Tensor) -> Tensor:
            parts = torch.split(x, [p.numel() for p in params.values()])
            named = {k: part.view_as(params[k]) for k, part in zip(names, parts, strict=True)}
            return torch.func.functional_call(run.model, named, (inputs,)).flatten()

        jacobian = torch.autograd.functional.jacobian(outputs, view.x)

        def loss(z: Tensor) -> Tensor:
            return functional.cross_entropy(z.view(-1, 3), run.batch.targets)

        bent = torch.autograd.functional.hessian(loss, outputs(view.x))
        weights = torch.cat([torch.full((p.numel(),), float(p.ndim >= 2)) for p in params.values()])
        rest = (0.03 + 0.05 * (1 - 0.9)) * weights.double()  # momentum feels a tenth of the decay
        expected = jacobian.t() @ bent @ jacobian + torch.diag(rest)
        assert torch.allclose(matrix, expected, atol=1e-8)
        assert torch.allclose(matrix, matrix.t(), atol=1e-8)
        assert float(torch.linalg.eigvalsh(matrix)[0]) > -1e-10
        view = TrainingView(run, view._coordinates, view_stepped(), gauss_newton=False)
        view.draw()
        hessian = dense(view.curved(t), n)
        assert float(torch.linalg.eigvalsh((hessian + hessian.t()) / 2)[0]) < -1e-6


def view_stepped() -> frozenset[str]:
    return frozenset({"weight_decay"})


class Wide(nn.Module):
    """Puts out what it has seen on the way as well, in a container."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first, self.last, self.kind = nn.Linear(4, 5), nn.Linear(5, 3), kind

    def forward(self, x: Tensor) -> Any:
        hidden = self.first(x).tanh()
        logits = self.last(hidden)
        return {"dict": {"hidden": hidden, "logits": logits}, "tuple": (logits, hidden)}.get(
            self.kind, logits
        )


class Contained(Doubles):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.net = lambda: Wide(kind)  # type: ignore[assignment, method-assign]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        out = model(batch.inputs)
        logits = {"dict": lambda: out["logits"], "tuple": lambda: out[0]}.get(
            self.kind, lambda: out
        )()
        return functional.cross_entropy(logits, batch.targets)  # the mean alone


def test_outputs_in_a_dict_or_tuple_count_once() -> None:
    """Hidden layers that a network puts out beside what its loss uses are no part of J."""
    matrices = []
    for kind in ("plain", "dict", "tuple"):
        with running(Contained(kind), {"l2": 0.03}, TRAININGS["sgd"]) as run:
            run.train_step()
            view, t = viewed(run, {"l2": 0.03}, gauss_newton=True)
            matrices.append(dense(view.curved(t), len(view.x)))
    assert torch.allclose(matrices[1], matrices[0])
    assert torch.allclose(matrices[2], matrices[0])


def test_small_weight_decay_is_not_lost_to_rounding() -> None:
    """In single precision 1 - rate * decay is one for the strengths that one begins with."""
    for strength in (1e-5, 1e-3, 1e-1):
        start = {"weight_decay": strength}
        with running(Blobs(), start, TRAININGS["sgd"]) as run:
            run.train_step()
            view, t = viewed(run, start, gauss_newton=True)
            x = view.x
            weights = torch.cat(
                [torch.full((p.numel(),), float(p.ndim >= 2)) for p in view.parameters]
            )
            assert torch.allclose(view.decay(x, t).to(x), -strength * x * weights, rtol=1e-4)
            found = float(view.decay_cross(x, t))
            assert found == pytest.approx(-strength * float((x * weights) @ x), rel=1e-3)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw"])
def test_decay_that_is_held_bends_training_as_well(optimizer: str) -> None:
    """A strength of the optimizer's step counts in the curvature, tuned or not."""
    start = {"l2": 0.03, "weight_decay": 0.5}
    domains = {"l2": WIDE["l2"]}
    pace = Pace(every=1, warmup=0.0)
    tuner = OnlineTuning(domains, regularizers(*start), start, Hypergrad(), pace)
    with running(Doubles(), start, TRAININGS[optimizer], tuner) as run:
        run.train_step()
        view, t = tuner._view, tuner._coordinates.of(start)
        with beside(run):
            curved = view.curved(t)
            v = torch.ones_like(view.x)
            weights = torch.cat(
                [torch.full((p.numel(),), float(p.ndim >= 2)) for p in view.parameters]
            )
            plain = TrainingView(run, tuner._coordinates, frozenset(), True)
            plain._noise, plain._globals = view._noise, view._globals
            apart = curved.product(v) - plain.curved(t).product(v)
            assert torch.allclose(apart, 0.5 * weights.double() / view.scale, rtol=1e-5)


def test_clipped_gradients_are_felt_as_training_feels_them() -> None:
    """A step of x scaled down by clipping is one of the second set of parameters scaled alike."""
    training = TRAININGS["clip"]
    with running(Doubles(), {"l2": 0.03}, training) as run:
        run.train_step()
        view, _ = viewed(run, {"l2": 0.03}, gauss_newton=True)
        assert float(run.clipped) < 0.9
        expected = float(run.clipped) / (1 - 0.9)
        assert torch.allclose(view.scale, torch.full_like(view.scale, expected))


# -- where training rests -------------------------------------------------------------------------


class Line(Doubles):
    """Linear regression: one layer, all rows in a batch."""

    classes = None  # type: ignore[assignment]
    net = staticmethod(lambda: nn.Linear(4, 1))

    def __init__(self) -> None:
        super().__init__(40, 40)
        rng = torch.Generator().manual_seed(1)
        for split, (x, _) in self.data.items():
            truth = x @ torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=DOUBLE)
            noise = torch.randn(len(x), generator=rng, dtype=DOUBLE)
            self.data[split] = (x, (truth + 2 * noise)[:, None])

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return ((model(batch.inputs) - batch.targets) ** 2).mean(1) / 2


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
@pytest.mark.parametrize("knob", ["l2", "weight_decay"])
def test_hypergradients_are_those_of_training_anew(optimizer: str, knob: str) -> None:
    """At the point where training rests, by finite differences of the validation loss there."""
    rate = {"sgd": 0.4, "momentum": 0.05}[optimizer]
    training = Training(
        steps=300, evaluations=1, optimizer=optimizer, learning_rate=rate,
        learning_rate_schedule="constant",
    )  # fmt: skip
    strength = 0.3

    def ended(value: float) -> float:
        task = Line()
        last = list(train(task, regularizers(knob), constant(**{knob: value}), training, 0))[-1]
        return last.metrics["val_loss"]

    change = 1e-2
    truth = (ended(strength * (1 + change)) - ended(strength * (1 - change))) / (2 * change)
    start = {knob: strength}
    with running(Line(), start, training) as run:
        for _ in range(training.steps):
            run.train_step()
        for gauss_newton in (True, False):
            view, t = viewed(run, start, gauss_newton)
            view.sum = 1e14
            with beside(run):
                assert float(view.curved(t).slope.norm()) < 1e-4
                found = Hypergrad("cg", products=20).gradient(view, t, {})
                assert float(found.gradient) == pytest.approx(truth, rel=2e-3)
                assert abs(truth) > 1e-3
                state: Any = {}
                for _ in range(200):
                    state = Amigo().learn(view, t, state)
                found = Amigo().gradient(view, t, state)
                assert float(found.gradient) == pytest.approx(truth, rel=2e-3)
                if knob == "l2":
                    state = {}
                    method = F2sa(1e4, leak=0.0)
                    for _ in range(200):
                        state = method.learn(view, t, state)
                    found = method.gradient(view, t, state)
                    assert float(found.gradient) == pytest.approx(truth, rel=1e-2)


# -- a training that is not touched ---------------------------------------------------------------


class Norms(Restless):
    """Batch norm, dropout of the model's own and draws from every global generator."""

    def model(self, seed: int) -> nn.Module:
        model = nn.Sequential(
            nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3)
        )
        self.models.append(model)
        return model


KNOBS = {"l2": 1e-2, "weight_decay": 0.1, "input_noise": 0.2, "label_smoothing": 0.1}
QUICK = Training(steps=40, evaluations=4, learning_rate=0.01)


def tuned(
    task: Any,
    method: Method,
    training: Training = QUICK,
    start: dict[str, Any] | None = None,
    domains: dict[str, Float] | None = None,
    pace: Pace | None = None,
    path: Path | None = None,
    stop: int | None = None,
) -> list[Measurement]:
    start = KNOBS if start is None else start
    domains = {name: WIDE[name] for name in start} if domains is None else domains
    pace = pace or Pace(every=3, warmup=0.1, settle=0.1)
    tuner = OnlineTuning(domains, regularizers(*start), start, method, pace)
    found = []
    for measurement in train(task, regularizers(*start), tuner, training, 0, checkpoint=path):
        found.append(measurement)
        if len(found) == stop:
            break
    return found


def final(task: Blobs) -> dict[str, Tensor]:
    return {name: one.clone() for name, one in task.models[-1].state_dict().items()}


@pytest.mark.parametrize(
    ("name", "curvature"), [*((name, "gauss_newton") for name in METHODS), ("cg", "hessian")]
)
def test_knobs_that_stand_still_leave_training_as_it_is(name: str, curvature: Any) -> None:
    """To the bit: weights, the statistics of norms, the order of data and every draw."""
    plain, watched = Norms(), Norms()
    coordinates = Coordinates({key: WIDE[key] for key in KNOBS}, KNOBS)
    rounded = coordinates.point(coordinates.of(KNOBS))  # not the last digit of 0.01
    tuner = constant(**rounded)
    reference = list(train(plain, regularizers(*KNOBS), tuner, QUICK, 0))
    pace = Pace(every=3, warmup=0.0, path=1e-300, curvature=curvature)
    found = tuned(watched, METHODS[name], pace=pace)
    expected, states = final(plain), final(watched)
    assert all(torch.equal(states[key], expected[key]) for key in expected)
    for one, other in zip(found, reference, strict=True):
        assert one.metrics["hypergradient/norm"] > 0
        for key, value in other.metrics.items():
            assert one.metrics[key] == value


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_run_killed_at_any_measurement_goes_on_to_the_bit(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("objectives.training.checkpoint._SHARE", 0)  # a save each time
    task = Norms()
    whole = tuned(task, METHODS[name])
    assert whole[-1].point != whole[0].point
    for stop in range(1, len(whole) + 1):
        path = tmp_path / f"{stop}.pt"
        tuned(Norms(), METHODS[name], path=path, stop=stop)
        again = Norms()
        assert numbers(tuned(again, METHODS[name], path=path)) == numbers(whole)
        assert all(
            torch.equal(a, b)
            for a, b in zip(final(again).values(), final(task).values(), strict=True)
        )


def test_a_checkpoint_of_another_sampler_or_space_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    tuned(Blobs(), Hypergrad(), path=path, stop=2)
    fewer = {"l2": WIDE["l2"]}
    with pytest.raises(HpoError, match="does not fit this run"):
        tuned(Blobs(), Hypergrad(), domains=fewer, path=path)


# -- what models are like -------------------------------------------------------------------------


class Images(Blobs):
    """The clusters as images or sequences, for any network."""

    def __init__(self, net: Any, shape: tuple[int, ...], batch_size: int = 10) -> None:
        super().__init__(batch_size=batch_size)
        self.net = net
        self.data = {
            split: (torch.cat([x, x, x, x], 1).view(-1, *shape), y)
            for split, (x, y) in self.data.items()
        }

    def model(self, seed: int) -> nn.Module:
        model: nn.Module = self.net()
        self.models.append(model)
        return model


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells, self.last = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.cells(x)[0][:, -1])
        return out


class Attentive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 24), nn.Linear(8, 3)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.first(x).chunk(3, -1)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.last(self.block(mixed).mean(1))
        return out


class Tied(nn.Module):
    """One layer used twice under two names, and one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.again = self.first
        self.frozen, self.last = nn.Linear(16, 16), nn.Linear(16, 3)
        self.idle = nn.Linear(3, 3)  # never used
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.frozen(self.again(self.first(x).tanh()).tanh()))
        return out


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


MODELS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "convolutional": (convolutional, (1, 4, 4)),
    "transformer": (Attentive, (4, 4)),
    "lstm": (Recurrent, (4, 4)),
    "tied": (Tied, (16,)),
}


@pytest.mark.parametrize("curvature", ["gauss_newton", "hessian"])
@pytest.mark.parametrize("model", MODELS)
def test_networks_of_every_kind_are_tuned(model: str, curvature: Any) -> None:
    task = Images(*MODELS[model])
    found = tuned(task, Hypergrad(), pace=Pace(every=3, curvature=curvature))
    assert found[-1].metrics["hypergradient/norm"] > 0
    assert "hypergradient/refused" not in found[-1].metrics
    assert all(found[-1].point[name] != KNOBS[name] for name in KNOBS)


class Once(torch.autograd.Function):
    """A tanh whose backward cannot be differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = x.tanh()
        ctx.save_for_backward(out)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (out,) = ctx.saved_tensors
        slope: Tensor = grad * (1 - out**2)
        return slope


class OnceOnly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(Once.apply(self.first(x)))
        return out


def test_an_operation_without_a_second_derivative_is_named_and_f2sa_does_without() -> None:
    for curvature in ("gauss_newton", "hessian"):
        for name in ("cg", "amigo", "soba"):
            with pytest.raises(HpoError, match="without a second derivative") as caught:
                pace = Pace(curvature=curvature)  # type: ignore[arg-type]
                tuned(Images(OnceOnly, (16,)), METHODS[name], pace=pace)
            assert "f2sa" in (caught.value.hint or "")
    found = tuned(Images(OnceOnly, (16,)), F2sa(), start={"l2": 1e-2})
    assert found[-1].point["l2"] != 1e-2


# -- what goes wrong ------------------------------------------------------------------------------


class Broken(Images):
    """Loses its numbers at a step of training."""

    def __init__(self, at: int) -> None:
        super().__init__(lambda: nn.Linear(16, 3), (16,))
        self.at, self.steps = at, 0

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        losses = super().loss(model, batch)
        if model.training:
            self.steps += 1
            if self.steps >= self.at:
                losses = losses * torch.nan
        return losses


@pytest.mark.parametrize("curvature", ["gauss_newton", "hessian"])
@pytest.mark.parametrize("name", METHODS)
def test_a_loss_that_is_no_number_ends_the_run_as_any_other(name: str, curvature: Any) -> None:
    pace = Pace(every=1, warmup=0.0, curvature=curvature)
    for at in (1, 60):
        found = tuned(Broken(at), METHODS[name], pace=pace)
        assert found[-1].metrics["val_loss"] != found[-1].metrics["val_loss"]
        assert all(value == value for value in found[-1].point.values())


class Rooted(Images):
    """A validation loss whose slope is no number now and then, while its value is one."""

    looks = 0

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        losses = super().loss(model, batch)
        if not model.training and losses.requires_grad:
            self.looks += 1
            if self.looks in (6, 7):
                losses = losses + (0 * losses).sqrt()
        return losses


@pytest.mark.parametrize("name", METHODS)
def test_a_gradient_that_is_no_number_is_passed_by_and_forgotten(name: str) -> None:
    task = Rooted(lambda: nn.Linear(16, 3), (16,))
    found = tuned(task, METHODS[name], pace=Pace(every=1, warmup=0.0, settle=0.0))
    assert 1 <= found[-1].metrics["hypergradient/refused"] <= 3
    assert found[-1].metrics["hypergradient/norm"] > 0
    assert found[-1].point != found[0].point


@pytest.mark.parametrize("name", METHODS)
def test_the_smallest_of_runs(name: str) -> None:
    """One step; rows one at a time; steps of the knobs further apart than the run is long."""
    one = Training(steps=1, evaluations=1)
    assert len(tuned(Blobs(), METHODS[name], one, pace=Pace(warmup=0.0, every=1))) == 1
    tuned(Blobs(batch_size=1), METHODS[name], pace=Pace(every=3))
    found = tuned(Blobs(), METHODS[name], pace=Pace(every=1000))
    assert found[-1].point == pytest.approx(found[0].point)
    found = tuned(Blobs(), METHODS[name], pace=Pace(warmup=1.0, settle=1.0))
    assert found[-1].point == pytest.approx(found[0].point)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", TRAININGS)
@pytest.mark.parametrize("name", METHODS)
def test_every_optimizer_with_and_without_clipping_and_in_double_precision(
    name: str, optimizer: str
) -> None:
    start = {"l2": 1e-2, "weight_decay": 0.1}
    found = tuned(Doubles(batch_size=10), METHODS[name], TRAININGS[optimizer], start)
    assert found[-1].metrics["hypergradient/norm"] > 0
    assert "hypergradient/refused" not in found[-1].metrics
    assert found[-1].point["l2"] != 1e-2


@pytest.mark.parametrize("name", METHODS)
def test_one_strength_a_layer_from_zero_and_from_the_end_of_a_range(name: str) -> None:
    domains = {
        "l2": Float(0.0, 1.0, "log+0", size=3),
        "weight_decay": Float(1e-5, 1.0, "log", size=3),
        "input_noise": Float(0.0, 1.0),
        "label_smoothing": Float(0.0, 0.4),
    }
    start = {
        "l2": (0.0, 1e-3, 1.0),
        "weight_decay": (1e-5, 0.1, 1.0),
        "input_noise": 1.0,
        "label_smoothing": 0.0,
    }
    found = tuned(Blobs(), METHODS[name], start=start, domains=domains, pace=Pace(every=2))
    point = found[-1].point
    assert isinstance(point["l2"], tuple) and len({*point["l2"]}) > 1
    assert isinstance(point["weight_decay"], tuple) and len(point["weight_decay"]) == 3
    for key, domain in domains.items():
        values = point[key] if isinstance(point[key], tuple) else (point[key],)
        assert all(domain.low <= value <= domain.high for value in values)
    assert "hypergradient/refused" not in found[-1].metrics


class Mean(Blobs):
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().loss(model, batch).mean()


@pytest.mark.parametrize("name", METHODS)
def test_a_task_may_give_the_mean_of_its_losses_alone(name: str) -> None:
    assert numbers(tuned(Mean(), METHODS[name])) == numbers(tuned(Blobs(), METHODS[name]))


@pytest.mark.slow
def test_a_knob_that_helps_nobody_goes_down() -> None:
    """Much too strong a penalty falls, whoever says so; the validation loss falls with it."""
    start = {"l2": 1.0}
    training = Training(steps=200, evaluations=1, optimizer="sgd", learning_rate=0.05)

    def task() -> Images:
        return Images(lambda: nn.Linear(16, 3), (16,))

    held = list(train(task(), regularizers("l2"), constant(l2=1.0), training, 0))[-1]
    for name, method in METHODS.items():
        found = tuned(task(), method, training, start, pace=Pace(every=2))[-1]
        assert found.point["l2"] < 0.3, name
        assert found.metrics["val_loss"] < 0.95 * held.metrics["val_loss"], name


def test_zero_gradients_move_nothing() -> None:
    class Indifferent(Blobs):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            losses = super().loss(model, batch)
            return losses if model.training else 0 * losses

    for name, method in METHODS.items():
        found = tuned(Indifferent(), method, pace=Pace(every=2))
        assert found[-1].point == pytest.approx(KNOBS), name


# -- studies --------------------------------------------------------------------------------------


def study(folder: Path, **given: Any) -> hpo.Result:
    common = {"mlruns": folder, "mlflow": False, "quiet": True, "workers": 0, "seed": 0}
    return hpo.run(**{**common, **given})


@pytest.mark.parametrize("sampler", ["hypergrad", "amigo", "soba", "f2sa"])
def test_knobs_without_a_derivative_are_left_to_the_other_sampler(
    sampler: str, tmp_path: Path
) -> None:
    space = {"input_noise": {}, "l2": {}, "weight_decay": {}, "dropout": {}}
    given = {"objective": "toy_tasks:Blobs", "space": space, "sampler": sampler, "trials": 4}
    result = study(tmp_path, training={"steps": 40}, **given)
    left = ["dropout", *(["weight_decay"] if sampler == "f2sa" else [])]
    problem = prepare(spec_from_keywords(name="other", **given), Launch(tmp_path))[2]
    notes = "\n".join(problem.notes)
    for name in space:
        told = f"knob {name} has no derivative: left to sampler tpe" in notes
        assert told == (name in left), notes
    tuned_trials = [r for r in result.records if len({*_values(result, r, "l2")}) > 1]
    assert tuned_trials
    for record in tuned_trials:
        for name in space:
            assert (len({*_values(result, record, name)}) == 1) == (name in left), name


def _values(result: hpo.Result, record: Any, name: str) -> list[Any]:
    schedule = result.schedule_of(record)
    return [schedule.at(progress / 10)[name] for progress in range(11)]


@pytest.mark.parametrize("sampler", ["hypergrad", "amigo", "soba", "f2sa"])
def test_a_space_without_any_derivative_is_refused(sampler: str, tmp_path: Path) -> None:
    space = {"dropout": {}} if sampler != "f2sa" else {"dropout": {}, "weight_decay": {}}
    with pytest.raises(HpoError, match=f"sampler {sampler} can tune none of dropout") as caught:
        study(tmp_path, objective="toy_tasks:Blobs", space=space, sampler=sampler, trials=1)
    assert caught.value.code == "refused" and exit_code(caught.value) == 2
    assert "derivative" in (caught.value.hint or "")


def test_saba_is_for_sums_of_rows_alone(tmp_path: Path) -> None:
    with pytest.raises(HpoError, match="needs an inner and an outer loss") as caught:
        study(tmp_path, objective="toy_tasks:Blobs", space={"l2": {}}, sampler="saba", trials=1)
    assert caught.value.hint
