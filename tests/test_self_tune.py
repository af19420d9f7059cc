"""`hpo.self_tune` in loops of one's own, on real data. Run: pytest tests/test_self_tune.py"""

import difflib
import io
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import hpo
from hpo.selftune import SelfTuner
from search_spaces import catalogue
from search_spaces.domains import Int
from search_spaces.errors import HpoError
from search_spaces.regularizer import Batch, Regularizer
from search_spaces.schedule import Schedule

STEPS = 120


@cache
def digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)
    return (images - 4.9) / 6.0, torch.tensor(data.target)


def train_batches(steps: int, rows: int = 32) -> Iterator[tuple[Tensor, Tensor]]:
    images, targets = digits()
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        picked = torch.randint(0, 400, (rows,), generator=generator)
        yield images[picked], targets[picked]


def loader(rows: int = 64) -> DataLoader[Any]:
    images, targets = digits()
    return DataLoader(TensorDataset(images[400:800], targets[400:800]), rows, shuffle=True)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(2))
        self.drop = nn.Dropout2d(0.25)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norms[0](self.first(x)).relu_()
        return (x + self.norms[1](self.second(self.drop(y)))).relu()


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.read = nn.Conv2d(1, 8, 3), Block(8), nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.read(self.block(self.stem(images[:, None])).mean((2, 3)))


class Transformer(nn.Module):
    """Reads the rows of an image as a sequence of eight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Linear(8, 16), nn.Embedding(8, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, 0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.read = nn.Linear(16, 10)

    def forward(self, rows: Tensor) -> Tensor:
        x = self.embed(rows) + self.place(torch.arange(8))
        return self.read(self.encoder(x).mean(1))


class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.drop = nn.LSTM(8, 24), nn.Dropout(0.1)
        self.read = nn.Linear(24, 10)

    def forward(self, rows: Tensor) -> Tensor:
        _, (state, _) = self.lstm(rows.transpose(0, 1))
        return self.read(self.drop(state[-1]))


def built(kind: type[nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        return kind()


def parts(
    kind: type[nn.Module] = Lstm,
    space: object = ("dropout", "input_noise"),
    make: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
    **options: Any,
) -> tuple[nn.Module, torch.optim.Optimizer, SelfTuner]:
    model = built(kind)
    optimizer = make(model.parameters(), lr=options.pop("lr", 0.005))
    options = {
        "validation": loader(),
        "loss": functional.cross_entropy,
        "steps": STEPS,
        "every": 5,
        "warmup": 0.05,
        **options,
    }
    return model, optimizer, hpo.self_tune(model, space, optimizer=optimizer, **options)


def trained(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    tuner: SelfTuner,
    batches: Iterator[tuple[Tensor, Tensor]],
) -> list[float]:
    losses = []
    for inputs, targets in batches:
        optimizer.zero_grad()
        inputs, targets = tuner.batch(inputs, targets)
        loss = tuner.loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        tuner.step()
        losses.append(loss.item())
    return losses


def is_plain(model: nn.Module, like: nn.Module) -> bool:
    """No hooks, and the same dropout probabilities as a new model."""
    hooks = [m._forward_hooks or m._forward_pre_hooks for m in model.modules()]
    rates = [getattr(m, "p", None) for m in model.modules()]
    return not any(hooks) and rates == [getattr(m, "p", None) for m in like.modules()]


# -- end to end -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Residual, Transformer, Lstm])
def test_own_models_are_tuned_end_to_end(kind: type[nn.Module]) -> None:
    model, optimizer, tuner = parts(kind, "regularization")
    start = tuner.point
    losses = trained(model, optimizer, tuner, train_batches(STEPS))
    images = digits()[0][800:864]
    with torch.no_grad():
        model.eval()
        within = model(images)
        schedule = tuner.close()
        plain = built(kind).eval()
        assert set(model.state_dict()) == set(plain.state_dict())
        plain.load_state_dict(model.state_dict())
        assert is_plain(model, plain)
        torch.testing.assert_close(within, plain(images), rtol=0, atol=1e-6)
        torch.testing.assert_close(model(images), plain(images), rtol=0, atol=0)
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])
    end = schedule.at(1.0)
    assert {"weight_decay", "dropout", "input_noise", "label_smoothing"} == set(end)
    assert all(end[name] != start[name] for name in end), end
    assert isinstance(schedule, Schedule) and schedule.moving(0.5)
    assert Schedule.from_json(schedule.to_json()) == schedule
    if kind is Residual:  # one update of the statistics for each step, none by the knobs
        assert int(model.block.norms[0].num_batches_tracked) == STEPS  # type: ignore[union-attr, index]


PLAIN = """
def fit(model, optimizer, batches, loader, steps):
    for inputs, targets in batches:
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
"""
TUNED = """
def fit(model, optimizer, batches, loader, steps):
    tuner = hpo.self_tune(model, ["dropout", "input_noise"], optimizer=optimizer, validation=loader, loss=functional.cross_entropy, steps=steps)
    for inputs, targets in batches:
        optimizer.zero_grad()
        inputs, targets = tuner.batch(inputs, targets)
        loss = tuner.loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        tuner.step()
    return tuner.close()
"""  # noqa: E501


def test_five_lines_change() -> None:
    changes = list(difflib.ndiff(PLAIN.splitlines(), TUNED.splitlines()))
    assert len([line for line in changes if line.startswith("+ ")]) <= 5
    assert len([line for line in changes if line.startswith("- ")]) <= 1  # the line of the loss
    model = built(Lstm)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    given = (model, optimizer, train_batches(20), loader(), 20)
    for source in (PLAIN, TUNED):
        scope: dict[str, Any] = {"hpo": hpo, "functional": functional}
        exec(source, scope)
        schedule = scope["fit"](*given)
        given = (model, optimizer, train_batches(20), loader(), 20)
    assert isinstance(schedule, Schedule)


def test_torch_does_not_load_with_the_package() -> None:
    code = "import sys, hpo; assert 'self_tune' in dir(hpo); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- resume ---------------------------------------------------------------------------------------


def test_a_resumed_loop_goes_on_bit_for_bit() -> None:
    space = {"dropout": None, "augment.erase": None, "label_smoothing": None, "l2": None}
    space |= {"weight_decay": None}

    def run(
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        tuner: SelfTuner,
        found: list[tuple[Tensor, Tensor]],
    ) -> list[float]:
        losses = []
        for inputs, targets in found:
            optimizer.zero_grad()
            inputs, targets = tuner.batch(inputs[:, None], targets)
            loss = tuner.loss(model(inputs[:, 0]), targets)
            loss.backward()
            optimizer.step()
            tuner.step()
            losses.append(loss.item())
        return losses

    images, labels = digits()
    held = DataLoader(TensorDataset(images[400:800][:, None], labels[400:800]), 48, shuffle=True)

    class Images(Residual):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x[:, 0] if x.ndim == 4 else x)

    def fresh() -> tuple[nn.Module, torch.optim.Optimizer, SelfTuner]:
        return parts(Images, space, torch.optim.SGD, lr=0.05, steps=60, every=3, validation=held)

    given = list(train_batches(60))
    whole = fresh()
    expected = run(*whole, given)

    first = fresh()
    head = run(*first, given[:31])
    file = io.BytesIO()
    states = [part.state_dict() for part in first]
    torch.save(states, file)
    run(*first, given[31:40])  # goes on; what was saved must not notice
    torch.manual_seed(77)
    second = fresh()
    file.seek(0)
    for part, state in zip(second, torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    tail = run(*second, given[31:])
    assert head + tail == expected
    assert second[2].close() == whole[2].close()
    for name, value in whole[0].state_dict().items():
        assert torch.equal(value, second[0].state_dict()[name]), name


def test_a_state_of_another_space_is_refused() -> None:
    state = parts()[2].state_dict()
    _, _, other = parts(space=["dropout"])
    with pytest.raises(HpoError, match="saved tuner has knobs"):
        other.load_state_dict(state)


# -- evaluation, accumulation, schedulers ---------------------------------------------------------


def test_evaluation_in_the_middle_sees_the_plain_model() -> None:
    model, optimizer, tuner = parts(Lstm)
    trained(model, optimizer, tuner, train_batches(40))
    images = digits()[0][:16]
    plain = built(Lstm).eval()
    with tuner:
        [(inputs, targets)] = train_batches(1)
        inputs, targets = tuner.batch(inputs, targets)
        plain.load_state_dict(model.state_dict())
        model.eval()
        with torch.no_grad():
            assert torch.equal(model(images), plain(images))
        model.train()
        tuner.loss(model(inputs), targets).backward()  # the perturbation is back
        assert any(gate.gains.grad is not None for gate in tuner._tuner.response.gates)
        optimizer.step()
        tuner.step()
        plain.load_state_dict(model.state_dict())
        model.eval()
        with torch.no_grad():
            assert torch.equal(model(images), plain(images))
    assert is_plain(model, plain)


def test_validation_draws_leave_the_streams_of_the_loop_alone() -> None:
    model, optimizer, tuner = parts(Lstm)
    before = torch.get_rng_state()
    trained(model, optimizer, tuner, train_batches(25))
    assert torch.equal(torch.get_rng_state(), before)


def test_gradients_accumulate_over_parts_of_a_batch() -> None:
    model, optimizer, tuner = parts(Lstm, every=2)
    start = tuner.point
    for inputs, targets in train_batches(20):
        optimizer.zero_grad()
        for part, wanted in zip(inputs.chunk(2), targets.chunk(2), strict=True):
            part, wanted = tuner.batch(part, wanted)
            (tuner.loss(model(part), wanted) / 2).backward()
        optimizer.step()
        tuner.step()
    assert tuner.progress == 20 / STEPS and tuner.point != start


@pytest.mark.parametrize(
    "name", ["SGD", "AdamW", "RMSprop", "Adagrad", "NAdam", "Adadelta", "Adafactor", "Rprop"]
)
def test_any_optimizer_will_do(name: str) -> None:
    make = getattr(torch.optim, name)
    model, optimizer, tuner = parts(Lstm, make=make, steps=20, every=2)
    assert type(tuner._tuner.answers) is make
    losses = trained(model, optimizer, tuner, train_batches(20))
    assert all(loss == loss for loss in losses)
    assert tuner.close().moving(0.2)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float64])
def test_models_of_other_precision_are_tuned_in_it(precision: torch.dtype) -> None:
    images, targets = digits()
    held = [(images[400:464].to(precision), targets[400:464])]
    model = built(Residual).to(precision)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    options = {"validation": held, "loss": functional.cross_entropy, "steps": 30, "every": 2}
    tuner = hpo.self_tune(model, "regularization", optimizer=optimizer, **options)
    found = ((inputs.to(precision), wanted) for inputs, wanted in train_batches(30))
    losses = trained(model, optimizer, tuner, found)
    assert losses[-1] < losses[0] and tuner.close().moving(0.5)
    assert {p.dtype for p in model.parameters()} == {precision}


def test_groups_of_parameters_and_frozen_layers() -> None:
    model = built(Residual)
    model.stem.requires_grad_(False)  # type: ignore[union-attr, operator]
    groups = [{"params": model.block.parameters()}, {"params": model.read.parameters()}]  # type: ignore[union-attr]
    optimizer = torch.optim.AdamW(groups, lr=0.01, weight_decay=0.02)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, [0.01, 0.02], total_steps=30)
    options = {"validation": loader(), "loss": nn.CrossEntropyLoss(), "steps": 30, "every": 2}
    with hpo.self_tune(model, ["l2", "weight_decay"], optimizer=optimizer, **options) as tuner:
        assert [site.name for site in tuner._tuner.response.sites][-1] == "read"
        assert "stem" not in [site.name for site in tuner._tuner.response.sites]
        for batch in train_batches(30):
            trained(model, optimizer, tuner, iter([batch]))
            scheduler.step()
    assert tuner.schedule().moving(0.3)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.02, 0.02]


def test_knobs_rest_when_the_learning_rate_has_decayed() -> None:
    model, optimizer, tuner = parts(Lstm, steps=100, every=2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 30, gamma=0.01)
    rates = []
    for batch in train_batches(60):
        trained(model, optimizer, tuner, iter([batch]))
        rates.append(tuner._tuner.answers.param_groups[0]["lr"])
        scheduler.step()
    assert rates[:30] == [0.005] * 30 and rates[30:] == pytest.approx([5e-5] * 30)
    assert not tuner._tuner.moving(0.6)
    schedule = tuner.close()
    assert schedule.moving(0.2) and not schedule.moving(0.32)


def test_a_knob_of_decay_takes_the_place_of_the_optimizers_own() -> None:
    model, optimizer, tuner = parts(Lstm, ["weight_decay"])
    during: list[float] = []
    optimizer.register_step_pre_hook(lambda o, *_: during.append(o.param_groups[0]["weight_decay"]))
    weights = [p.detach().clone() for p in model.parameters()]
    [(inputs, targets)] = train_batches(1)
    inputs, targets = tuner.batch(inputs, targets)
    tuner.loss(model(inputs), targets)  # no gradient: only the decay acts
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert during == [0.0]
    shrink = 1 - 0.005 * float(tuner._strengths["weight_decay"])
    assert shrink < 1
    for before, after in zip(weights, model.parameters(), strict=True):
        torch.testing.assert_close(after.detach(), before * shrink if before.ndim > 1 else before)
    tuner.close()
    assert optimizer.param_groups[0]["weight_decay"] == 0.01
    optimizer.step()
    assert during == [0.0, 0.01]
    assert len(optimizer._optimizer_step_pre_hooks) == 1  # the one of this test
    assert not optimizer._optimizer_step_post_hooks


# -- knobs of other kinds, losses of other shapes -------------------------------------------------


def test_losses_of_tokens_and_focal_losses() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.drop, self.read = nn.Linear(8, 16), nn.Dropout(0.1), nn.Linear(16, 2)

        def forward(self, rows: Tensor) -> Tensor:
            return self.read(self.drop(self.embed(rows).relu()))

    def token_loss(outputs: Tensor, targets: Tensor) -> Tensor:
        wanted = targets[:, None].expand(-1, 8) % 2
        return functional.cross_entropy(outputs.transpose(1, 2), wanted, reduction="none")

    model, optimizer, tuner = parts(Tagger, ["dropout"], loss=token_loss, steps=30)
    trained(model, optimizer, tuner, train_batches(30))
    assert tuner.close().moving(0.2)
    model, optimizer, tuner = parts(Lstm, ["focal"], steps=30)
    trained(model, optimizer, tuner, train_batches(30))
    assert tuner.close().moving(0.2)


def test_whole_numbers_and_choices_are_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    def blank(batch: Batch, h: Mapping[str, Any], rng: torch.Generator) -> Batch:
        hidden = torch.arange(8) < torch.as_tensor(h["rows"]).reshape(-1, 1).round()
        return batch._replace(inputs=batch.inputs.masked_fill(hidden[:, None, :, None], 0.0))

    own = Regularizer(knobs={"rows": Int(0, 8, start=4, off=0)}, batch=blank)
    known = {**catalogue.records(), "rows": own}
    monkeypatch.setattr(catalogue, "records", lambda: known)

    class Images(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Dropout(), nn.Linear(144, 10))

    images, labels = digits()
    held = [(images[400:464][:, None], labels[400:464])]
    space = {"rows": {"high": 6}, "dropout": {"options": [0.0, 0.1, 0.6]}, "input_noise": None}
    model, optimizer, tuner = parts(Images, space, validation=held, every=2)
    begun = tuner._tuner.free.initial(tuner.point)
    for inputs, targets in train_batches(STEPS):
        trained(model, optimizer, tuner, iter([(inputs[:, None], targets)]))
    # A whole number may end where it began; what it is the rounding of has moved, as has a choice.
    assert not torch.isclose(tuner._tuner.descent.center, begun, atol=1e-3).any()
    end = tuner.close().at(1.0)
    assert type(end["rows"]) is int and end["dropout"] in (0.0, 0.1, 0.6)


def test_other_dropout_layers_keep_their_rule() -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.channels, self.alpha = nn.Dropout1d(0.2), nn.AlphaDropout(0.3)
            self.read = nn.Linear(64, 10)

        def forward(self, rows: Tensor) -> Tensor:
            self.seen = self.channels(rows)
            return self.read(self.alpha(self.seen.flatten(1)))

    model, _, tuner = parts(Dropping, {"dropout": {"start": 0.5}})
    [(inputs, targets)] = train_batches(1)
    model(tuner.batch(inputs, targets)[0])
    dropped = (model.seen == 0).float().mean(2)  # type: ignore[operator, union-attr]
    assert set(dropped.unique().tolist()) == {0.0, 1.0} and 0.2 < dropped.mean() < 0.8
    assert (model.channels.p, model.alpha.p) == (0.0, 0.3)  # type: ignore[union-attr]
    tuner.close()
    assert (model.channels.p, model.alpha.p) == (0.2, 0.3)  # type: ignore[union-attr]


def test_fixed_knobs_are_held_and_in_the_schedule() -> None:
    model, optimizer, tuner = parts(Lstm, ["dropout"], fixed={"input_noise": 0.5}, steps=20)
    trained(model, optimizer, tuner, train_batches(20))
    assert tuner.close().at(1.0)["input_noise"] == 0.5


def test_validation_as_a_callable() -> None:
    def some() -> tuple[Tensor, Tensor]:
        images, targets = digits()
        return images[400:464], targets[400:464]

    model, optimizer, tuner = parts(Lstm, validation=some, steps=20, every=2)
    trained(model, optimizer, tuner, train_batches(20))
    assert tuner.close().moving(0.2)


def test_what_is_not_tuned_is_said() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.drop = nn.MultiheadAttention(8, 1, dropout=0.2), nn.Dropout(0.1)
            self.read = nn.Linear(8, 10)

        def forward(self, rows: Tensor) -> Tensor:
            x = rows.transpose(0, 1)
            x = self.attention(x, x, x)[0].mean(0)
            return self.read(functional.dropout(self.drop(x), 0.3, self.training))

    notes = parts(Functional)[2].notes()
    assert len(notes) == 2
    assert "attention keeps the dropout of its weights at 0.2" in notes[0]
    assert "functional.dropout keeps its own rate" in notes[1]
    assert parts(Lstm)[2].notes() == []
    _, _, tuner = parts(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))  # type: ignore[arg-type]
    assert tuner.notes() == ["dropout left out: this model has no dropout layers"]
    assert set(tuner.close().at(0.0)) == {"input_noise"}


# -- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"space": ["learning_rate"]}, "unknown knob 'learning_rate'"),
        ({"space": []}, "nothing of an empty space"),
        ({"space": {"l2": {"schedule": "linear"}}}, "has a schedule"),
        ({"steps": 0}, "steps is 0"),
        ({"loss": 3}, "loss is of the kind int"),
        ({"evry": 3}, "evry"),
        ({"response": "full"}, "response is 'full'"),
        ({"fixed": {"dropout": 0.1}}, "both tuned and fixed"),
        ({"fixed": {"mixup": -1.0}}, "fixed mixup is -1.0"),
        ({"make": torch.optim.LBFGS, "lr": 1.0}, "LBFGS looks at a batch many times"),
        ({"validation": []}, "gave no batch"),
        ({"validation": iter([])}, "at most once"),
        ({"audit": 1}, "an audit trains again"),
    ],
)
def test_mistakes_are_explained(change: dict[str, Any], found: str) -> None:
    with pytest.raises(HpoError, match=found) as caught:
        parts(**change)
    assert caught.value.hint


def test_an_optimizer_of_another_model_is_refused() -> None:
    optimizer = torch.optim.SGD(built(Lstm).parameters(), lr=0.1)
    with pytest.raises(HpoError, match="none of the model's parameters"):
        hpo.self_tune(
            built(Lstm),
            ["dropout"],
            optimizer=optimizer,
            validation=loader(),
            loss=functional.cross_entropy,
            steps=5,
        )


def test_calls_out_of_order_are_explained() -> None:
    model, _, tuner = parts()
    [(inputs, targets)] = train_batches(1)
    with pytest.raises(HpoError, match=r"tuner.step was called without tuner.batch"):
        tuner.step()
    with pytest.raises(HpoError, match=r"tuner.loss was called before tuner.batch"):
        tuner.loss(model(inputs), targets)
    with pytest.raises(HpoError, match="inputs of the kind list"):
        tuner.batch([1], targets)  # type: ignore[arg-type]
    tuner.batch(inputs, targets)
    with pytest.raises(HpoError, match=r"without tuner\.loss"):
        tuner.step()
    with pytest.raises(HpoError, match=r"between tuner\.batch"):
        tuner.state_dict()
    tuner.close()
    with pytest.raises(HpoError, match="closed"):
        tuner.batch(inputs, targets)
    assert isinstance(tuner.close(), Schedule)


def test_scaled_losses_are_refused() -> None:
    model, _, tuner = parts()
    [(inputs, targets)] = train_batches(1)
    inputs, targets = tuner.batch(inputs, targets)
    with pytest.raises(HpoError, match="multiplied by 65536"):
        (tuner.loss(model(inputs), targets) * 65536).backward()


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("reentrant", [True, False])
def test_dropout_that_would_be_drawn_again_is_refused(reentrant: bool) -> None:
    from torch.utils.checkpoint import checkpoint

    class Saving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.read = nn.Linear(64, 16), nn.Linear(16, 10)
            self.block = nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.1), nn.Linear(16, 16))

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x.flatten(1))
            if self.training:
                x = checkpoint(self.block, x, use_reentrant=reentrant)
            return self.read(x)

    for knob in ("dropout", "weight_noise"):
        model, _, tuner = parts(Saving, [knob])
        [(inputs, targets)] = train_batches(1)
        inputs, targets = tuner.batch(inputs, targets)
        with pytest.raises(HpoError, match="run again in the backward pass"):
            tuner.loss(model(inputs), targets).backward()
    model, optimizer, tuner = parts(Saving, ["input_noise"], steps=20, every=2)
    trained(model, optimizer, tuner, train_batches(20))
    assert tuner.close().moving(0.2)
