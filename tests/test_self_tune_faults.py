"""Loops that clip, skip, copy, resume or break off while `hpo.self_tune` tunes them."""

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset, SubsetRandomSampler, TensorDataset

import hpo
from hpo.selftune import SelfTuner
from search_spaces.errors import HpoError

ROWS, INPUTS, CLASSES = 32, 10, 4


def drawn(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(256, INPUTS, generator=generator)
    weights = torch.randn(INPUTS, CLASSES, generator=torch.Generator().manual_seed(9))
    noise = torch.randn(256, CLASSES, generator=generator)
    return inputs, (inputs @ weights + noise).argmax(1)


INPUTS_SEEN, TARGETS_SEEN = drawn(0)
HELD_INPUTS, HELD_TARGETS = drawn(1)
HELD = [(HELD_INPUTS[i : i + 64], HELD_TARGETS[i : i + 64]) for i in range(0, 256, 64)]


def built(rate: float = 0.1) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return nn.Sequential(
            nn.Linear(INPUTS, 16), nn.ReLU(), nn.Dropout(rate), nn.Linear(16, CLASSES)
        )


def tuned(
    model: nn.Module,
    space: object = ("dropout",),
    optimizer: torch.optim.Optimizer | None = None,
    **options: Any,
) -> tuple[torch.optim.Optimizer, SelfTuner]:
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=0.01)
    given = {
        "validation": HELD,
        "loss": functional.cross_entropy,
        "steps": 100,
        "every": 2,
        "warmup": 0.05,
        **options,
    }
    return optimizer, hpo.self_tune(model, space, optimizer=optimizer, **given)


def batch(place: int = 0, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    start = place * rows % 224
    return INPUTS_SEEN[start : start + rows], TARGETS_SEEN[start : start + rows]


def backward(model: nn.Module, tuner: SelfTuner, inputs: Tensor, targets: Tensor) -> float:
    inputs, targets = tuner.batch(inputs, targets)
    loss = tuner.loss(model(inputs), targets)
    loss.backward()
    return loss.item()


def step(model: nn.Module, optimizer: Any, tuner: SelfTuner, place: int = 0) -> float:
    optimizer.zero_grad()
    loss = backward(model, tuner, *batch(place))
    optimizer.step()
    tuner.step()
    return loss


def gate_grads(tuner: SelfTuner) -> list[Tensor]:
    found = tuner._tuner.response.parameters()
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in found]


def gates(tuner: SelfTuner) -> Tensor:
    return torch.cat([p.detach().flatten() for p in tuner._tuner.response.parameters()])


# -- gradients that are clipped, given up, accumulated --------------------------------------------


@pytest.mark.parametrize("closure", [False, True])
def test_clipping_reaches_the_gates(closure: bool) -> None:
    found = {}
    for clip in (math.inf, 0.1):
        model = built(0.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        _, tuner = tuned(model, ["input_noise"], optimizer)
        before = gates(tuner)

        def learn(clip: float = clip, tuner: SelfTuner = tuner, model: nn.Module = model) -> float:
            loss = backward(model, tuner, *batch())
            if math.isfinite(clip):
                learn.norm = nn.utils.clip_grad_norm_(model.parameters(), clip).item()  # type: ignore[attr-defined]
            return loss

        if closure:
            optimizer.step(learn)
        else:
            learn()
            optimizer.step()
        tuner.step()
        found[clip] = gates(tuner) - before
        if math.isfinite(clip):
            assert learn.norm > 0.2  # type: ignore[attr-defined]
            share = clip / learn.norm  # type: ignore[attr-defined]
    torch.testing.assert_close(found[0.1], share * found[math.inf], rtol=1e-4, atol=1e-7)


def test_a_loop_that_lives_from_its_clipping_does_not_explode() -> None:
    model = built()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)

    def loud(outputs: Tensor, targets: Tensor) -> Tensor:
        return 100 * functional.cross_entropy(outputs, targets)

    _, tuner = tuned(model, ["input_noise"], optimizer, loss=loud)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        losses.append(backward(model, tuner, *batch()) / 100)
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        tuner.step()
    assert losses[-1] < 0.7 * losses[0]


def unclear(model: nn.Module, optimizer: Any, tuner: SelfTuner) -> None:
    """A batch with a number that is none, whose step the loop leaves out."""
    inputs, targets = batch()
    inputs = inputs.clone()
    inputs[0, 0] = math.nan
    optimizer.zero_grad()
    backward(model, tuner, inputs, targets)


@pytest.mark.parametrize("tuner_steps", [False, True])
@pytest.mark.parametrize("to_none", [False, True])
def test_a_step_left_out_teaches_the_gates_nothing(tuner_steps: bool, to_none: bool) -> None:
    model = built()
    optimizer, tuner = tuned(model)
    for place in range(7):
        step(model, optimizer, tuner, place)
    before, point = gates(tuner), tuner.point
    unclear(model, optimizer, tuner)
    if tuner_steps:
        tuner.step()
    assert torch.equal(gates(tuner), before) and tuner.point == point
    optimizer.zero_grad(set_to_none=to_none)
    backward(model, tuner, *batch())
    assert all(bool(grad.isfinite().all()) for grad in gate_grads(tuner))
    optimizer.step()
    tuner.step()
    assert bool(gates(tuner).isfinite().all()) and not torch.equal(gates(tuner), before)
    assert all(math.isfinite(step(model, optimizer, tuner, place)) for place in range(5))


@pytest.mark.parametrize("clear_after", [False, True])
def test_a_batch_that_broke_off_leaves_no_gradient(clear_after: bool) -> None:
    found = []
    for broken in (False, True):
        model = built(0.0)
        optimizer, tuner = tuned(model, {"l2": None})  # its draws come in pairs of opposite sign
        for place in range(4):
            step(model, optimizer, tuner, place)
        if broken:
            state = tuner._tuner.state_dict()["perturbation"]
            state = copy.deepcopy(state)
            backward(model, tuner, *batch(3))  # and no step, as after an error
            tuner._tuner.perturbation.load_state_dict(state)
        if not clear_after:
            optimizer.zero_grad()
        inputs, targets = tuner.batch(*batch(5))
        loss = tuner.loss(model(inputs), targets)
        if clear_after:
            optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        found.append(gate_grads(tuner))
    for expected, grad in zip(*found, strict=True):
        torch.testing.assert_close(grad, expected)


def test_gates_accumulate_as_the_weights_do() -> None:
    model = built()
    optimizer, tuner = tuned(model, ["input_noise"])
    came = [torch.zeros_like(p) for p in tuner._tuner.response.parameters()]
    for p, total in zip(tuner._tuner.response.parameters(), came, strict=True):
        p.register_hook(lambda grad, total=total: (total.add_(grad), grad)[1])  # type: ignore[misc]
    for to_none in (True, False):
        optimizer.zero_grad(set_to_none=to_none)
        for place in range(3):
            before = [total.clone() for total in came]
            backward(model, tuner, *batch(place))
            assert any(bool((t != b).any()) for t, b in zip(came, before, strict=True))
            for grad, total in zip(gate_grads(tuner), came, strict=True):
                torch.testing.assert_close(grad, total)
        optimizer.step()
        tuner.step()
        for total in came:
            total.zero_()


def test_an_optimizer_that_never_steps_is_not_the_right_one() -> None:
    model = built()
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    _, tuner = tuned(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    for _ in range(9):
        step(model, inner, tuner)
    with pytest.raises(HpoError, match="SGD was not seen to step once") as caught:
        step(model, inner, tuner)
    assert "inner one" in caught.value.hint


# -- several passes in a step ---------------------------------------------------------------------


def test_knobs_hold_in_every_pass_of_a_step_and_penalties_count_once() -> None:
    model = built()
    _, tuner = tuned(model, {"dropout": {"start": 0.5}, "l2": {"start": 0.5}})
    dropped: list[float] = []

    def note(site: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        dropped.append(float(((output == 0) & (inputs[0] != 0)).float().mean()))

    model[2].register_forward_hook(note)
    inputs, targets = tuner.batch(*batch())
    first, second = model(inputs), model(inputs)
    mean = [functional.cross_entropy(outputs, targets) for outputs in (first, second)]
    added = [tuner.loss(outputs, targets) for outputs in (first, second)]
    model(inputs)
    assert len(dropped) == 3 and min(dropped) > 0.1
    assert added[0] > mean[0] + 0.1 and torch.equal(added[1], mean[1])


def test_a_second_ascent_has_its_own_gradient_and_penalty() -> None:
    """As in sharpness-aware training: gradients are cleared between two passes of a step."""
    model = built(0.0)
    optimizer, tuner = tuned(model, {"l2": {"start": 0.5}})
    inputs, targets = tuner.batch(*batch())
    first = tuner.loss(model(inputs), targets)
    first.backward()  # type: ignore[no-untyped-call]
    once = gate_grads(tuner)
    optimizer.zero_grad()
    second = tuner.loss(model(inputs), targets)
    second.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(first, second)
    for expected, grad in zip(once, gate_grads(tuner), strict=True):
        torch.testing.assert_close(grad, expected)


# -- the weights themselves -----------------------------------------------------------------------


def test_noise_on_weights_is_there_in_the_forward_pass_alone() -> None:
    model = built()
    weight = model[0].weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    _, tuner = tuned(model, {"weight_noise": {"start": 0.3}}, optimizer)
    seen: list[Tensor] = []
    model[0].register_forward_hook(lambda m, *_: seen.append(m.weight.detach().clone()))
    sizes = []
    for _ in range(3):
        inputs, targets = tuner.batch(*batch())
        model.zero_grad()
        assert torch.equal(model.state_dict()["0.weight"], weight)
        outputs = model(inputs)
        assert model[0].weight is weight
        tuner.loss(outputs, targets).backward()  # type: ignore[no-untyped-call]
        assert not torch.equal(seen[-1], weight)
        sizes.append(float(weight.grad.norm()))  # type: ignore[union-attr]
        optimizer.step()
        tuner.step()
    assert max(sizes) < 1.5 * min(sizes)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_noise_goes_when_the_forward_pass_breaks_off(error: type[BaseException]) -> None:
    model = built()
    weight = model[0].weight
    _, tuner = tuned(model, ["weight_noise"])

    def fail(*_: Any) -> None:
        raise error

    inputs, _ = tuner.batch(*batch())
    handle = model[3].register_forward_pre_hook(fail)
    with pytest.raises(error):
        model(inputs)
    handle.remove()
    assert torch.equal(model.state_dict()["0.weight"], weight)
    assert copy.deepcopy(model)[0].weight is not weight
    model.eval()
    outputs = model(HELD_INPUTS)
    tuner.close()
    assert torch.equal(outputs, model(HELD_INPUTS))


def test_noise_asks_for_the_whole_model() -> None:
    model = built()
    _, tuner = tuned(model, ["weight_noise"])
    inputs, targets = tuner.batch(*batch())
    with pytest.raises(HpoError, match="weight_noise acts while the model itself is called"):
        tuner.loss(model[3](model[0](inputs)), targets)


def test_an_error_within_a_step_leaves_the_model_plain() -> None:
    model, calls = built(), [0]

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        if calls[0] and not model.training:
            raise KeyboardInterrupt
        return functional.cross_entropy(outputs, targets)

    optimizer, tuner = tuned(model, loss=loss)
    for place in range(10):
        step(model, optimizer, tuner, place)
    calls[0] = 1
    with pytest.raises(KeyboardInterrupt):
        for place in range(5):
            step(model, optimizer, tuner, place)
    with torch.no_grad():
        outputs = model.eval()(HELD_INPUTS)
        parts = model[3](model[0](HELD_INPUTS).relu())
    tuner.close()
    assert torch.equal(outputs, model(HELD_INPUTS)) and torch.equal(parts, outputs)


# -- decay, groups, resuming ----------------------------------------------------------------------


def test_the_optimizers_own_decay_survives_checkpoints() -> None:
    def fresh(decay: float) -> tuple[nn.Module, torch.optim.Optimizer, SelfTuner]:
        model = built(0.0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=decay)
        return model, *tuned(model, ["weight_decay"], optimizer)

    first = fresh(0.3)
    for place in range(6):
        step(*first, place)
    states = copy.deepcopy([part.state_dict() for part in first])
    second = fresh(0.3)
    for part, state in zip(second, states, strict=True):
        part.load_state_dict(state)
    assert step(*first, 6) == step(*second, 6)
    second[2].close()
    assert second[1].param_groups[0]["weight_decay"] == 0.3

    model, optimizer, _ = fresh(0.3)  # what was loaded brings a decay, which must not act
    optimizer.load_state_dict(copy.deepcopy(first[1].state_dict()) | {"state": {}})
    optimizer.param_groups[0]["weight_decay"] = 100.0
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for value, p in zip(before, model.parameters(), strict=True):
        assert torch.equal(p.detach(), value)
    assert optimizer.param_groups[0]["weight_decay"] == 100.0


def test_decay_reaches_groups_that_come_later_at_their_own_rate() -> None:
    model = built()
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model[3].parameters(), lr=0.1)
    _, tuner = tuned(model, fixed={"weight_decay": 0.5}, optimizer=optimizer)
    model[0].requires_grad_(True)
    optimizer.add_param_group({"params": list(model[0].parameters()), "lr": 0.01})
    optimizer.param_groups[1]["weight_decay"] = 0.7
    before = [model[0].weight.detach().clone(), model[3].weight.detach().clone()]
    tuner.batch(*batch())
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for layer, value, rate in zip((model[0], model[3]), before, (0.01, 0.1), strict=True):
        torch.testing.assert_close(layer.weight.detach(), value * (1 - rate * 0.5))
    tuner.close()
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0, 0.7]


# -- copies, second tuners ------------------------------------------------------------------------


def test_copies_of_a_model_are_plain() -> None:
    model = built(0.5)
    heard: list[str] = []
    optimizer, tuner = tuned(model, ["dropout", "weight_noise"])
    model[3].register_forward_hook(Heard(heard))
    step(model, optimizer, tuner)
    tuner.batch(*batch())
    saved = io.BytesIO()
    torch.save(model, saved)
    saved.seek(0)
    copies = [
        copy.deepcopy(model),
        copy.deepcopy({"best": model})["best"],
        torch.optim.swa_utils.AveragedModel(model).module,
        torch.load(saved, weights_only=False),
        nn.Sequential(copy.deepcopy(model[0]), *(copy.deepcopy(part) for part in model[1:])),
    ]
    ours = model.eval()(HELD_INPUTS)
    for one in copies:
        hooks = [m._forward_hooks or m._forward_pre_hooks for m in one.modules()]
        assert sum(map(bool, hooks)) == 1  # the user's own
        assert one[2].p == 0.5 and "__reduce_ex__" not in vars(one[2])
        assert torch.equal(one.eval()(HELD_INPUTS), ours)
        share = (one.train()[2](torch.ones(2000)) == 0).float().mean()
        assert 0.4 < share < 0.6
    tuner.close()
    assert model[2].p == 0.5
    assert torch.equal(copy.deepcopy(model).eval()(HELD_INPUTS), ours)


class Heard:
    """A hook of the user's own, which goes with copies."""

    def __init__(self, heard: list[str]) -> None:
        self.heard = heard

    def __call__(self, module: nn.Module, *_: Any) -> None:
        self.heard.append(type(module).__name__)


def test_classes_that_copy_in_their_own_way() -> None:
    model = built(0.5)
    nn.utils.parametrizations.weight_norm(model[0])
    traced = torch.fx.symbolic_trace(built(0.5))
    for one in (model, traced):
        optimizer, tuner = tuned(one)
        step(one, optimizer, tuner)
        tuner.batch(*batch())
        copied = copy.deepcopy(one)
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in copied.modules())
        assert [m.p for m in copied.modules() if isinstance(m, nn.Dropout)] == [0.5]
        assert [m.p for m in one.modules() if isinstance(m, nn.Dropout)] == [0.0]
        assert not {"__deepcopy__", "__reduce_ex__"} & {
            k for m in copied.modules() for k in vars(m)
        }
        assert torch.equal(copied.eval()(HELD_INPUTS), one.eval()(HELD_INPUTS))
        assert math.isfinite(step(one.train(), optimizer, tuner))
        if one is traced:
            with pytest.raises(HpoError, match="cannot be copied or saved whole while it is tuned"):
                torch.save(one, io.BytesIO())
        tuner.close()
        assert not {"__deepcopy__", "__reduce_ex__"} & {k for m in one.modules() for k in vars(m)}


def test_a_model_has_one_tuner_at_a_time() -> None:
    model = built(0.5)
    optimizer, tuner = tuned(model)
    tuner.batch(*batch())  # interrupted here; the cell is run again
    for part in (model, nn.Sequential(model), model[0]):
        with pytest.raises(HpoError, match="being tuned already") as caught:
            tuned(part)
        assert "tuner.close()" in caught.value.hint
    assert math.isfinite(step(model, optimizer, tuner))
    tuner.close()
    assert model[2].p == 0.5
    optimizer, again = tuned(model)
    step(model, optimizer, again)
    again.close()
    assert model[2].p == 0.5
    with pytest.raises(HpoError, match="nothing of"):  # a failure leaves no mark
        tuned(model, [])
    with pytest.raises(RuntimeError):
        tuned(model, validation=[(HELD_INPUTS[:, :3], HELD_TARGETS)])
    tuned(model)[1].close()


# -- what the gates cannot do, other optimizers ---------------------------------------------------


def test_gradients_of_gradients_are_refused() -> None:
    model = built()
    _, tuner = tuned(model)
    inputs, _ = tuner.batch(*batch())
    inputs = inputs.clone().requires_grad_()
    with pytest.raises(HpoError, match="differentiated again") as caught:
        torch.autograd.grad(model(inputs).sum(), inputs, create_graph=True)
    assert "gradient penalty" in caught.value.hint
    with pytest.raises(HpoError, match=r"transform of torch\.func"):
        torch.func.vmap(model, randomness="different")(inputs.detach())
    tuner.close()
    torch.func.vmap(model, randomness="different")(inputs.detach())


class Own(torch.optim.Optimizer):
    """Steps as SGD does, and needs to be told something about the model."""

    def __init__(self, params: Any, lr: float, model: nn.Module) -> None:
        super().__init__(params, {"lr": lr})

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.data.add_(p.grad, alpha=-group["lr"])


def test_gates_of_an_unknown_optimizer_learn_at_adams_rate() -> None:
    model = built()
    optimizer, tuner = tuned(model, optimizer=Own(model.parameters(), 1.0, model))
    assert any("Own cannot be built" in note for note in tuner.notes())
    before = gates(tuner)
    step(model, optimizer, tuner)
    moved = (gates(tuner) - before).abs().max()
    assert moved <= 1.01e-3
    for group in optimizer.param_groups:
        group["lr"] = 0.25
    before = gates(tuner)
    step(model, optimizer, tuner, 1)
    assert (gates(tuner) - before).abs().max() < 0.5e-3
    losses = [step(model, optimizer, tuner, place) for place in range(30)]
    assert max(losses) < 3


def test_sparse_adam_is_refused() -> None:
    model = nn.Sequential(nn.EmbeddingBag(50, 8, sparse=True), nn.Linear(8, CLASSES))
    with pytest.raises(HpoError, match="SparseAdam steps sparse gradients only"):
        tuned(model, optimizer=torch.optim.SparseAdam(model[0].parameters()))


def test_gradients_of_what_another_optimizer_steps_are_left_alone() -> None:
    model = built()
    optimizer, tuner = tuned(model, optimizer=torch.optim.SGD(model[3].parameters(), lr=0.1))
    for place in range(50):
        model.zero_grad()
        backward(model, tuner, *batch(place))
        optimizer.step()
        expected = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        tuner.step()
        for grad, p in zip(expected, model.parameters(), strict=True):
            assert p.grad is not None and torch.equal(p.grad, grad)
    assert "stn/overhead" in tuner.report()  # its passes were timed in between


# -- validation -----------------------------------------------------------------------------------


def test_validation_is_not_read_to_be_counted() -> None:
    calls = [0]

    def some() -> tuple[Tensor, Tensor]:
        calls[0] += 1
        return HELD_INPUTS[:16], HELD_TARGETS[:16]

    space = ["dropout", "input_noise", "label_smoothing", "weight_decay"]
    _, tuner = tuned(built(), space, validation=some)
    assert calls[0] == 1 and tuner.notes() == []

    class Counted(TensorDataset):
        def __getitem__(self, place: Any) -> Any:
            calls[0] += 1
            return super().__getitem__(place)

    data, calls[0] = Counted(HELD_INPUTS[:48], HELD_TARGETS[:48]), 0
    _, tuner = tuned(built(), space, validation=DataLoader(data, 16))
    assert calls[0] == 16 and tuner._loop.validation_rows() == 48
    some_rows = DataLoader(data, 16, sampler=SubsetRandomSampler(range(20)))
    _, tuner = tuned(built(), space, validation=some_rows)
    assert tuner._tuner.diagnostics._rows == 20

    class Streamed(IterableDataset[tuple[Tensor, Tensor]]):
        def __iter__(self) -> Any:
            return zip(HELD_INPUTS[:24], HELD_TARGETS[:24], strict=True)

    _, tuner = tuned(built(), space, validation=DataLoader(Streamed(), 16))
    assert tuner._tuner.diagnostics._rows == 24


def test_notes_can_be_read_again() -> None:
    validation = [(HELD_INPUTS[:16], HELD_TARGETS[:16])]
    space = ["dropout", "input_noise", "l2", "weight_decay", "label_smoothing"]
    _, tuner = tuned(built(), space, validation=validation)
    first = tuner.notes()
    assert len(first) == 1 and "16 validation rows" in first[0]
    assert tuner.notes() == first
    _, other = tuned(built(), space, validation=validation)
    other.load_state_dict(tuner.state_dict())
    assert other.notes() == first


def test_steps_of_the_knobs_are_under_the_autocast_of_the_loop() -> None:
    model = built()
    optimizer, tuner = tuned(model, ["dropout", "l2"])
    seen: set[tuple[torch.dtype, bool]] = set()
    model[3].register_forward_hook(lambda m, _, output: seen.add((output.dtype, m.training)))
    for place in range(20):
        optimizer.zero_grad()
        inputs, targets = tuner.batch(*batch(place))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = model(inputs)
        tuner.loss(outputs.float(), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        tuner.step()
    assert seen == {(torch.bfloat16, True), (torch.bfloat16, False)}


# -- messages -------------------------------------------------------------------------------------


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = built()

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        return {"logits": self.body(inputs)}


class Half(nn.Module):
    """A part of it is kept from learning, which its parameters do not say."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.drop, self.read = nn.Linear(INPUTS, 8), nn.Dropout(), nn.Linear(8, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.body(inputs).relu()
        return self.read(self.drop(features))


def named_loss(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs["logits"], targets)


def logged() -> nn.Module:
    return nn.Sequential(*built(), nn.LogSoftmax(1))


@pytest.mark.parametrize(
    ("make", "space", "loss", "found", "hint"),
    [
        (Named, ["label_smoothing"], named_loss, "do not say how many classes", "classes=10"),
        (Named, ["mixup"], named_loss, "do not say how many classes", "leave out mixup"),
        (logged, ["label_smoothing"], functional.nll_loss, "cannot take the prob", "cross_entropy"),
        (Half, ["dropout"], functional.cross_entropy, "layer body is run without", "no_grad"),
        (built, ["dropout"], lambda *_: (torch.ones(()), 0), "loss gave tuple", "one number"),
    ],
)
def test_what_cannot_work_is_said_at_creation(
    make: Callable[[], nn.Module], space: list[str], loss: Any, found: str, hint: str
) -> None:
    model = make()
    with pytest.raises(HpoError, match=found) as caught:
        tuned(model, space, loss=loss)
    assert hint in caught.value.hint
    assert all(p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_outputs_of_other_kinds_are_tuned_when_classes_are_told() -> None:
    model = Named()
    optimizer, tuner = tuned(model, ["label_smoothing"], loss=named_loss, classes=CLASSES)
    assert math.isfinite(step(model, optimizer, tuner))


def test_batches_without_rows_and_calls_after_the_end_are_refused() -> None:
    model = built()
    optimizer, tuner = tuned(model)
    with pytest.raises(HpoError, match="inputs without a row"):
        tuner.batch(INPUTS_SEEN[:0], TARGETS_SEEN[:0])
    inputs, targets = tuner.batch(*batch())
    outputs = model(inputs)
    tuner.loss(outputs, targets).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    tuner.close()
    with pytest.raises(HpoError, match="closed"):
        tuner.step()
    with pytest.raises(HpoError, match="closed"):
        tuner.loss(outputs, targets)


def test_training_in_evaluation_mode_is_told() -> None:
    model = built()
    _, tuner = tuned(model, ["input_noise"])
    model.eval()
    inputs, targets = tuner.batch(*batch())
    with pytest.raises(HpoError, match="in evaluation mode") as caught:
        tuner.loss(model(inputs), targets)
    assert "model.train()" in caught.value.hint
    handle = model.register_forward_pre_hook(refuse, prepend=True)
    with pytest.raises(ValueError):
        model(inputs)
    handle.remove()
    model.train()
    tuner.loss(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
    assert all(bool(grad.any()) for grad in gate_grads(tuner)[:2])  # the response is back


def refuse(*_: Any) -> None:
    raise ValueError


def test_complex_parameters_are_stepped_around() -> None:
    class Filter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(INPUTS, dtype=torch.complex64))
            self.body = built()

        def forward(self, inputs: Tensor) -> Tensor:
            return self.body(torch.fft.ifft(torch.fft.fft(inputs) * self.weight).real)

    model = Filter()
    optimizer, tuner = tuned(model, ["dropout", "l2", "weight_decay"])
    assert [note for note in tuner.notes() if "weight is complex" in note]
    start = tuner.point
    for place in range(10):
        step(model, optimizer, tuner, place)
    assert all(tuner.point[knob] != start[knob] for knob in start)
