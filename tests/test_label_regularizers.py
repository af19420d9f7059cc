"""Regularizers on labels and outputs, and what they remember of examples, models and teachers.

Run with: pytest tests/test_label_regularizers.py
"""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from objectives.digits import Digits
from objectives.training.loop import train
from objectives.training.measurement import Measurement
from objectives.training.options import Training
from objectives.training.tuner import Follow
from search_spaces import Batch, HpoError, Regularizer, Schedule, SearchSpace, catalogue
from search_spaces.example_memory import ExampleMemory, class_memory, fingerprints
from search_spaces.frozen import Frozen, Start, divergence
from search_spaces.passes import Beginning, Pass
from search_spaces.regularizers.self_distillation import mixing_weight

pytestmark = pytest.mark.slow

ROWS, CLASSES = 6, 4
NAMES = [
    "acls", "attention_entropy", "distillation", "elr", "feature_distillation", "lwf",
    "mean_entropy", "mean_teacher", "prediction_entropy", "self_distillation",
    "spectral_decoupling",
]  # fmt: skip
REMEMBERING = ["elr", "lwf", "mean_teacher", "self_distillation"]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def numbers(rows: int = ROWS, seed: int = 1) -> Tensor:
    return torch.randint(0, CLASSES, (rows,), generator=torch.Generator().manual_seed(seed))


def seen(
    outputs: Tensor,
    raw: Tensor | None = None,
    targets: Tensor | None = None,
    model: nn.Module | None = None,
    **more: Any,
) -> Pass:
    """A pass with these outputs."""
    inputs = drawn(len(outputs), 5, seed=9) if raw is None else raw
    targets = numbers(len(outputs)) if targets is None else targets
    batch = Batch(more.pop("inputs", inputs), targets)

    def nothing(*_: Any) -> Any:
        raise AssertionError("not to be asked for")

    raw_batch = Batch(inputs, targets)
    ways = {"again": nothing, "embed": nothing, "view": nothing}
    return Pass(model or nn.Identity(), raw_batch, batch, outputs, **ways, **more)


def beginning(model: nn.Module | None = None, **changes: Any) -> Beginning:
    data = [Batch(drawn(ROWS, 5, seed=9), numbers())]

    def losses(model: nn.Module, batch: Batch) -> Tensor:
        return functional.cross_entropy(model(batch.inputs), batch.targets, reduction="none")

    given: dict[str, Any] = {
        "model": model or nn.Identity(), "losses": losses, "batches": lambda: iter(data),
        "classes": CLASSES, "teacher": None, "seed": 0, "device": torch.device("cpu"),
    }  # fmt: skip
    return Beginning(**{**given, **changes})


def hook(name: str) -> Callable[..., Tensor]:
    record = catalogue.load(name)
    found = record.loss_output or record.loss_batch
    assert found is not None
    return found


def learn(name: str, memory: Any, passed: Pass, **h: float | Tensor) -> None:
    record = catalogue.load(name)
    assert record.learn is not None
    record.learn(memory, passed, h, RNG)


RNG = torch.Generator().manual_seed(0)


def slope(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """The gradient of a loss at a tensor, checked against central differences."""
    leaf = at.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf).sum(), leaf)
    flat, step = at.reshape(-1), 1e-6
    for index in range(len(flat)):
        moved = torch.zeros_like(flat)
        moved[index] = step
        above, below = (loss((flat + s * moved).reshape(at.shape)).sum() for s in (1, -1))
        expected = float(above - below) / (2 * step)
        assert float(gradient.reshape(-1)[index]) == pytest.approx(expected, rel=1e-5, abs=1e-7)
    return gradient


# The memory of examples.


def test_a_fingerprint_is_that_of_the_bytes() -> None:
    images = drawn(50, 1, 7, 7).float()  # 49 numbers of 4 bytes: the last word is filled up
    keys = fingerprints(images)
    assert keys.dtype == torch.int64 and len(keys.unique()) == 50
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    assert torch.equal(fingerprints(images[order]), keys[order])
    for start in range(1, 5):  # also where a row does not begin at a whole word
        assert torch.equal(fingerprints(images[start:]), keys[start:])
    assert torch.equal(fingerprints(images.transpose(2, 3).transpose(2, 3)), keys)
    nearly = images.clone()
    nearly[:, 0, 6, 6] += 1e-6
    assert not (fingerprints(nearly) == keys).any()


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.bool, torch.int16, torch.int64, torch.float16, torch.float64]
)
def test_inputs_of_every_type_have_fingerprints(dtype: torch.dtype) -> None:
    inputs = torch.eye(13)[:, None].repeat(1, 3, 1).to(dtype)
    keys = fingerprints(inputs)
    assert len(keys.unique()) == 13
    assert torch.equal(fingerprints(inputs[5:]), keys[5:])
    assert len(fingerprints(torch.arange(9).to(torch.int64)).unique()) == 9


def test_examples_that_differ_little_do_not_share_a_fingerprint() -> None:
    # Black and white pixels differ in few high bits alone; single bits in one bit alone.
    rng = torch.Generator().manual_seed(0)
    binary = torch.randint(0, 2, (20_000, 64), generator=rng).float()
    assert len(fingerprints(binary).unique()) == len(binary.unique(dim=0))
    word = torch.randint(-(2**62), 2**62, (4,), generator=rng)
    flipped = word.repeat(256, 1)
    for index in range(256):
        flipped[index, index // 64] ^= 1 << (index % 64) if index % 64 < 63 else -(2**63)
    assert len(fingerprints(torch.cat([flipped, word[None]])).unique()) == 257
    swapped = torch.tensor([[1.0, 2.0], [2.0, 1.0], [0.0, 0.0], [-0.0, 0.0]])
    assert len(fingerprints(swapped).unique()) == 4


def memory(rows: int = 20) -> tuple[Tensor, ExampleMemory]:
    inputs = drawn(rows, 5).float()
    return inputs, ExampleMemory(fingerprints(inputs), 3)


def test_the_memory_gives_back_what_each_example_was_last_given() -> None:
    inputs, kept = memory()
    values, known = kept.recall(inputs)
    assert not known.any() and not values.any() and len(kept) == 20
    given = drawn(20, 3).float()
    kept.update(inputs[:7], lambda before: before + given[:7])
    values, known = kept.recall(inputs)
    assert torch.equal(known, torch.arange(20) < 7)
    assert torch.equal(values[:7], given[:7]) and not values[7:].any()
    kept.update(inputs[5:9], lambda before: before + given[5:9])
    torch.testing.assert_close(kept.recall(inputs)[0][5:7], 2 * given[5:7])
    torch.testing.assert_close(kept.recall(inputs)[0][7:9], given[7:9])


def test_the_memory_does_not_depend_on_the_order_of_examples() -> None:
    inputs, kept = memory()
    _, other = memory()
    other = ExampleMemory(fingerprints(inputs.flip(0)), 3)
    given = drawn(20, 3).float()
    kept.update(inputs[:10], lambda _: given[:10])
    kept.update(inputs[10:], lambda _: given[10:])
    order = torch.randperm(20, generator=torch.Generator().manual_seed(3))
    for part in order.split(6):
        other.update(inputs[part], lambda _, part=part: given[part])  # type: ignore[misc]
    assert all(torch.equal(value, other.state_dict()[k]) for k, value in kept.state_dict().items())


def test_identical_examples_share_a_row_and_its_mean() -> None:
    inputs, _ = memory(4)
    kept = ExampleMemory(fingerprints(inputs.repeat(2, 1)), 1)
    assert len(kept) == 4
    values = torch.tensor([[1.0], [2.0], [4.0], [3.0]])
    kept.update(inputs[[0, 1, 0, 2]], lambda _: values)
    assert kept.recall(inputs)[0][:, 0].tolist() == [2.5, 2.0, 3.0, 0.0]
    kept.update(inputs[[2, 0, 1, 0]], lambda _: values.flip(0))
    assert kept.recall(inputs)[0][:, 0].tolist() == [2.5, 2.0, 3.0, 0.0]


def test_an_unknown_example_is_not_remembered_and_disturbs_none() -> None:
    inputs, kept = memory()
    strangers = drawn(3, 5, seed=77).float()
    mixed = torch.cat([inputs[:4], strangers])
    kept.update(mixed, lambda before: torch.ones_like(before))
    assert kept.recall(inputs)[1].sum() == 4
    values, known = kept.recall(strangers)
    assert not known.any() and not values.any()
    kept.update(strangers, lambda before: torch.ones_like(before))
    assert not kept.recall(strangers)[1].any()


def test_a_task_whose_examples_never_come_back_is_refused() -> None:
    _, kept = memory()
    with pytest.raises(HpoError, match="none of the examples") as error:
        kept.update(drawn(4, 5, seed=5).float(), lambda before: before)
    assert error.value.code == "unsuited-task" and "batches()" in error.value.hint
    with pytest.raises(HpoError, match="elr needs a number of classes"):
        class_memory(beginning(classes=None), "elr")


def test_a_saved_memory_goes_on_with_the_same_bits() -> None:
    inputs, kept = memory()
    kept.update(inputs[:12], lambda _: drawn(12, 3).float())
    file = io.BytesIO()
    torch.save(kept.state_dict(), file)
    file.seek(0)
    _, again = memory()
    again.load_state_dict(torch.load(file, weights_only=True))
    for before, after in zip(kept.recall(inputs), again.recall(inputs), strict=True):
        assert torch.equal(before, after)
    with pytest.raises(ValueError, match="other training examples"):
        ExampleMemory(fingerprints(inputs[:5]), 3).load_state_dict(kept.state_dict())
    with pytest.raises(ValueError, match="another width"):
        ExampleMemory(fingerprints(inputs), 4).load_state_dict(kept.state_dict())


# Early-learning regularization.


def elr_memory(values: Tensor) -> ExampleMemory:
    kept = class_memory(beginning(), "elr")
    kept.update(drawn(ROWS, 5, seed=9), lambda _: values)
    return kept


def test_elr_is_the_formula_with_the_target_of_this_step() -> None:
    logits = drawn(ROWS, CLASSES)
    before = drawn(ROWS, CLASSES, seed=2).softmax(1).float().double()
    h = {"elr": torch.linspace(0, 3, ROWS).double(), "elr_memory": 0.7}
    p = logits.softmax(1)
    target = 0.7 * before + 0.3 * p
    expected = h["elr"] * (1 - (1 - 1e-4) * (p * target).sum(1)).log()
    kept = elr_memory(before)
    torch.testing.assert_close(hook("elr")(kept, seen(logits), h, RNG), expected)
    assert torch.equal(hook("elr")(kept, seen(logits), h, RNG)[:1], torch.zeros(1).double())
    learn("elr", kept, seen(logits), **h)
    torch.testing.assert_close(kept.recall(drawn(ROWS, 5, seed=9))[0], target.float())


def test_the_gradient_of_elr_pulls_towards_the_running_target() -> None:
    before = drawn(ROWS, CLASSES, seed=2).softmax(1).float().double()
    kept, logits = elr_memory(before), drawn(ROWS, CLASSES)
    h = {"elr": 1.0, "elr_memory": 0.7}
    leaf = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(hook("elr")(kept, seen(leaf), h, RNG).sum(), leaf)
    p = logits.softmax(1)
    target = 0.7 * before + 0.3 * p  # has no gradient
    inner = (p * target).sum(1, keepdim=True)
    scale = (1 - 1e-4) / (1 - (1 - 1e-4) * inner)
    torch.testing.assert_close(gradient, scale * p * (inner - target))
    agreement = ((logits - 1e-3 * gradient).softmax(1) * target).sum(1)
    assert (agreement > inner[:, 0]).all()


@pytest.mark.parametrize("sure", [0.6, 0.9, 0.99])
def test_elr_cancels_the_gradient_of_a_wrong_label(sure: float) -> None:
    # Class 0 is right and remembered, the label says 1.
    logits = torch.tensor([[math.log(sure), math.log(1 - sure), -60.0, -60.0]]).double()
    remembered = torch.tensor([[1.0, 0, 0, 0]])
    kept = ExampleMemory(fingerprints(drawn(1, 5, seed=9)), CLASSES)
    kept.update(drawn(1, 5, seed=9), lambda _: remembered)
    label = torch.tensor([1])

    def gradient(strength: float) -> Tensor:
        leaf = logits.clone().requires_grad_()
        h = {"elr": strength, "elr_memory": 1.0}
        more = hook("elr")(kept, seen(leaf, targets=label), h, RNG)
        loss = functional.cross_entropy(leaf, label) + more.sum()
        (found,) = torch.autograd.grad(loss, leaf)
        return found

    alone = gradient(0.0)
    assert float(alone[0, 1]) == pytest.approx(-sure)
    near = {"rtol": 0.0, "atol": 1e-4 / (1 - sure)}  # the share that keeps the logarithm finite
    torch.testing.assert_close(gradient(1.0), torch.zeros_like(alone), **near)
    torch.testing.assert_close(gradient(3.0), -2 * alone, rtol=0, atol=3e-4 / (1 - sure))


def test_elr_knows_an_example_by_its_raw_inputs_and_forgets_nothing_in_between() -> None:
    logits, kept = drawn(ROWS, CLASSES), elr_memory(torch.full((ROWS, CLASSES), 0.25))
    h = {"elr": 2.0, "elr_memory": 0.9}
    plain = hook("elr")(kept, seen(logits), h, RNG)
    augmented = seen(logits, inputs=drawn(ROWS, 5, seed=31))
    assert torch.equal(hook("elr")(kept, augmented, h, RNG), plain)
    saved = {name: value.clone() for name, value in kept.state_dict().items()}
    for _ in range(3):  # the loss may be taken again and again
        assert torch.equal(hook("elr")(kept, seen(logits), h, RNG), plain)
    assert all(torch.equal(saved[name], value) for name, value in kept.state_dict().items())
    learn("elr", kept, augmented, **h)
    assert not torch.equal(hook("elr")(kept, seen(logits), h, RNG), plain)
    order = torch.tensor([4, 1, 0, 5, 3, 2])
    raw = drawn(ROWS, 5, seed=9)
    now, turned = (
        hook("elr")(kept, seen(logits[o], raw=raw[o]), h, RNG) for o in (torch.arange(ROWS), order)
    )
    assert torch.equal(turned, now[order])


def test_elr_is_finite_where_prediction_and_target_agree_fully() -> None:
    logits = torch.tensor([[200.0, -200.0, -200.0, -200.0]], requires_grad=True)
    kept = ExampleMemory(fingerprints(drawn(1, 5, seed=9)), CLASSES)
    kept.update(drawn(1, 5, seed=9), lambda _: torch.tensor([[1.0, 0, 0, 0]]))
    more = hook("elr")(kept, seen(logits), {"elr": 20.0, "elr_memory": 0.9}, RNG)
    (gradient,) = torch.autograd.grad(more.sum(), logits)
    assert more.isfinite().all() and gradient.isfinite().all()


# Self-distillation.


@pytest.mark.parametrize("soft", [False, True])
def test_self_distillation_is_cross_entropy_with_mixed_targets(soft: bool) -> None:
    logits, past = drawn(ROWS, CLASSES), drawn(ROWS, CLASSES, seed=4)
    labels = drawn(ROWS, CLASSES, seed=5).softmax(1) if soft else numbers()
    kept = class_memory(beginning(), "self_distillation")
    h = {"self_distillation": torch.linspace(0, 1, ROWS).double()}
    passed = seen(logits, targets=labels)
    unseen = hook("self_distillation")(kept, passed, h, RNG)
    assert torch.equal(unseen, torch.zeros(ROWS).double())
    learn("self_distillation", kept, seen(past), **h)
    rows = labels if soft else functional.one_hot(labels, CLASSES).double()
    share = h["self_distillation"][:, None]
    mixed = (1 - share) * rows + share * past.softmax(1)
    expected = functional.cross_entropy(logits, mixed, reduction="none")
    plain = functional.cross_entropy(logits, labels, reduction="none")
    more = hook("self_distillation")(kept, passed, h, RNG)
    torch.testing.assert_close(plain + more, expected, rtol=1e-6, atol=1e-6)  # kept in singles


def ridge_case(seed: int, ridge: float) -> tuple[Tensor, Tensor, Tensor]:
    """Held-out targets and what kernel ridge fits to labels, and to its own fit, predict there."""
    inputs = drawn(60, 2, seed=seed)
    targets = (inputs[:, 0] * 2).sin() + drawn(60, seed=seed + 1)
    kernel = torch.exp(-torch.cdist(inputs, inputs).square())
    smoother = kernel[:, :40] @ torch.linalg.inv(kernel[:40, :40] + ridge * torch.eye(40))
    fitted = smoother @ targets[:40]
    return targets[40:], fitted[40:], (smoother @ fitted[:40])[40:]


INNER = [(30, 1.0), (40, 0.1)]  # where neither all nor nothing of the teacher is best


@pytest.mark.parametrize(("seed", "ridge"), [*INNER, (0, 0.02), (0, 3.0)])
def test_the_mixing_weight_is_the_best_of_a_grid_on_kernel_ridge(seed: int, ridge: float) -> None:
    targets, labels, teacher = ridge_case(seed, ridge)
    grid = torch.linspace(0, 1, 10_001).double()
    errors = [(targets - (1 - a) * labels - a * teacher).square().sum() for a in grid]
    best = grid[torch.stack(errors).argmin()]
    assert float(mixing_weight(targets, labels, teacher)) == pytest.approx(float(best), abs=1e-4)


def test_the_mixing_weight_stays_a_share() -> None:
    y = drawn(8)
    assert all(0.1 < float(mixing_weight(*ridge_case(*case))) < 0.9 for case in INNER)
    assert float(mixing_weight(y, y + 1, y)) == 1.0
    assert float(mixing_weight(y, y, y + 1)) == 0.0
    assert float(mixing_weight(y, y + 2, y + 1)) == 1.0  # beyond the teacher would be better
    assert float(mixing_weight(y, y + 1, y + 1)) == 0.0
    with pytest.raises(HpoError, match="one shape"):
        mixing_weight(y, y, y[:-1])


# Teachers.


def net(width: int = 8, seed: int = 0, outputs: int = CLASSES) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Linear(5, width), nn.Tanh(), nn.Linear(width, outputs)]
    return nn.Sequential(*layers).double()


def test_distillation_at_temperature_one_mixes_targets_with_the_teachers() -> None:
    teacher, logits = net(), drawn(ROWS, CLASSES)
    kept = catalogue.load("distillation").remember
    assert kept is not None
    frozen = kept(beginning(teacher=teacher))
    h = {"distillation": 0.3, "distillation_temperature": 1.0}
    leaf = logits.clone().requires_grad_()
    more = hook("distillation")(frozen, seen(leaf), h, RNG)
    loss = functional.cross_entropy(leaf, numbers(), reduction="sum") + more.sum()
    (gradient,) = torch.autograd.grad(loss, leaf)
    taught = teacher(drawn(ROWS, 5, seed=9)).softmax(1).detach()
    mixed = 0.7 * functional.one_hot(numbers(), CLASSES) + 0.3 * taught
    torch.testing.assert_close(gradient, logits.softmax(1) - mixed)


def test_the_square_of_the_temperature_keeps_the_size_of_the_gradient() -> None:
    taught, logits = drawn(ROWS, CLASSES), drawn(ROWS, CLASSES, seed=3)

    def apart(z: Tensor) -> Tensor:
        return divergence(taught, z, 1e4, "distillation")

    leaf = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(apart(leaf).sum(), leaf)
    centred = (logits - taught) - (logits - taught).mean(1, keepdim=True)
    torch.testing.assert_close(gradient, centred / CLASSES, rtol=1e-3, atol=1e-4)
    slope(lambda z: divergence(taught, z, torch.linspace(1, 5, ROWS).double(), "x"), logits)
    slope(lambda t: divergence(taught, logits, t, "x"), torch.linspace(1, 5, ROWS).double())
    assert torch.equal(divergence(taught, taught, 2.0, "x"), torch.zeros(ROWS).double())


@pytest.mark.parametrize("name", ["distillation", "feature_distillation"])
def test_without_a_teacher_distillation_is_refused(name: str) -> None:
    remember = catalogue.load(name).remember
    assert remember is not None
    with pytest.raises(HpoError, match=f"{name} needs a teacher") as error:
        remember(beginning())
    assert "teacher(seed)" in error.value.hint and error.value.code == "no-teacher"


def test_a_teacher_of_other_classes_or_without_embeddings_is_refused() -> None:
    h = {"distillation": 0.3, "distillation_temperature": 1.0, "feature_distillation": 1.0}
    passed = seen(drawn(ROWS, CLASSES), features=drawn(ROWS, 8))
    with pytest.raises(HpoError, match="same classes"):
        hook("distillation")(Frozen(net(outputs=3)), passed, h, RNG)
    with pytest.raises(HpoError, match=r"of the teacher, works on .* no such layer"):
        hook("feature_distillation")(Frozen(nn.Tanh()), passed, h, RNG)
    with pytest.raises(HpoError, match="has no such layer"):
        hook("feature_distillation")(Frozen(net()), seen(drawn(ROWS, CLASSES)), h, RNG)


def test_feature_distillation_compares_embeddings_of_one_width_or_their_cosines() -> None:
    raw, own = drawn(ROWS, 5, seed=9), drawn(ROWS, 8)
    h = {"feature_distillation": torch.linspace(0, 2, ROWS).double()}
    same = net(8)
    hidden = torch.tanh(raw @ same[0].weight.T + same[0].bias).detach()  # type: ignore[index]
    passed = seen(drawn(ROWS, CLASSES), features=own)
    found = hook("feature_distillation")(Frozen(same), passed, h, RNG)
    torch.testing.assert_close(found, h["feature_distillation"] * (own - hidden).square().mean(1))
    wide = Frozen(net(20))
    found = hook("feature_distillation")(wide, passed, h, RNG)
    taught = wide.embedding(raw, "x")
    assert taught.shape == (ROWS, 20)
    cosine = functional.cosine_similarity
    apart = [
        float(cosine(own[i], own[j], dim=0) - cosine(taught[i], taught[j], dim=0)) ** 2
        for i in range(ROWS)
        for j in range(ROWS)
    ]
    means = torch.tensor(apart).reshape(ROWS, ROWS).mean(1).double()
    torch.testing.assert_close(found, h["feature_distillation"] * means)
    # Turned and stretched embeddings have the same cosines.
    turn, _ = torch.linalg.qr(drawn(20, 20, seed=8))
    turned = seen(drawn(ROWS, CLASSES), features=torch.cat([3 * taught @ turn, own[:, :1] * 0], 1))
    zero = hook("feature_distillation")(wide, turned, {"feature_distillation": 1.0}, RNG)
    torch.testing.assert_close(zero, torch.zeros(ROWS).double())


def test_a_frozen_model_is_asked_without_dropout_and_without_gradient() -> None:
    torch.manual_seed(0)
    noisy = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4))
    frozen, inputs = Frozen(noisy), torch.randn(ROWS, 5, requires_grad=True)
    before = copy.deepcopy(noisy.state_dict())
    first = frozen.outputs(inputs)
    assert torch.equal(first, frozen.outputs(inputs)) and not first.requires_grad
    assert torch.equal(frozen.embedding(inputs, "x"), noisy[:3](inputs))
    assert all(torch.equal(before[name], value) for name, value in noisy.state_dict().items())
    assert not any(module._forward_pre_hooks for module in noisy.modules())


# Learning without forgetting, and the mean teacher.


def test_lwf_is_zero_at_the_start_and_then_the_distance_from_it() -> None:
    model, raw = net(), drawn(ROWS, 5, seed=9)
    kept = Start(beginning(model))
    h = {"lwf": 2.0, "lwf_temperature": 2.0}
    logits = model(raw)
    more = hook("lwf")(kept, seen(logits), h, RNG)
    gradients = torch.autograd.grad(more.sum(), list(model.parameters()))
    torch.testing.assert_close(more, torch.zeros_like(more))
    assert all(float(g.abs().max()) < 1e-12 for g in gradients)
    saved = copy.deepcopy(kept.state_dict())
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.3
    after = hook("lwf")(kept, seen(model(raw)), h, RNG)
    wanted = (net()(raw) / 2).softmax(1)
    kl = functional.kl_div((model(raw) / 2).log_softmax(1), wanted, reduction="none").sum(1)
    torch.testing.assert_close(after, 2.0 * 4 * kl)
    other = Start(beginning(net(seed=5)))
    other.load_state_dict(saved)
    assert torch.equal(hook("lwf")(other, seen(model(raw)), h, RNG), after)


def test_the_mean_teacher_is_the_average_of_the_weights_so_far() -> None:
    model, raw = net(), drawn(ROWS, 5, seed=9)
    remember = catalogue.load("mean_teacher").remember
    assert remember is not None
    kept = remember(beginning(model))
    h = {"mean_teacher": 3.0, "mean_teacher_memory": 0.8}
    average = {name: p.detach().clone() for name, p in model.named_parameters()}
    for step in range(4):
        passed = seen(model(raw), model=model)
        average = {n: 0.8 * average[n] + 0.2 * p.detach() for n, p in model.named_parameters()}
        taught = torch.func.functional_call(model, average, (raw,)).softmax(1)
        expected = 3.0 * (passed.outputs.softmax(1) - taught).square().sum(1).mean()
        torch.testing.assert_close(hook("mean_teacher")(kept, passed, h, RNG), expected)
        assert step == 0 or float(expected.detach()) > 1e-6
        with torch.no_grad():  # the step of the optimizer
            for p in model.parameters():
                p += 0.1 * torch.sin(7 * p)
        learn("mean_teacher", kept, passed, **h)
    again = remember(beginning(net(seed=9)))
    again.load_state_dict(kept.state_dict())
    values = [hook("mean_teacher")(k, seen(model(raw)), h, RNG) for k in (kept, again)]
    assert torch.equal(*values)
    with pytest.raises(HpoError, match="others than it began with"):
        learn("mean_teacher", kept, seen(model(raw), model=nn.Linear(2, 2)), **h)


# Terms that follow from the outputs alone.


def test_acls_acts_beyond_its_margin_and_in_proportion_to_the_excess() -> None:
    h = {"acls": 0.5, "acls_margin": 2.0, "acls_top": 3.0, "acls_rest": 0.6}
    near = torch.tensor([[1.5, 0.2, -0.4, 1.0], [-3.0, -4.0, -2.0, -3.5]]).double()
    assert torch.equal(hook("acls")(seen(near), h, RNG), torch.zeros(2).double())
    logits = torch.tensor([[5.0, 1.0, 3.5, -2.0]]).double()
    # Largest 5: 3 beyond the margin; gaps 4 and 7 are 2 and 5 beyond it, 1.5 is within.
    expected = 0.5 * (3.0 * 9 + 0.6 * (4 + 25) / 3)
    assert float(hook("acls")(seen(logits), h, RNG)) == pytest.approx(expected)
    leaf = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(hook("acls")(seen(leaf), h, RNG).sum(), leaf)
    steps = [0.5 * 2 * 3.0 * 3, -0.5 * 2 * 0.6 * 2 / 3, 0.0, -0.5 * 2 * 0.6 * 5 / 3]
    torch.testing.assert_close(gradient, torch.tensor([steps]).double())
    tied = torch.tensor([[5.0, 5.0, 4.0, 4.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(hook("acls")(seen(tied), h, RNG).sum(), tied)
    assert gradient.tolist() == [[9.0, 0.0, 0.0, 0.0]]


def test_the_gradient_of_acls_in_its_knobs() -> None:
    logits = 6 * drawn(ROWS, CLASSES)
    at = {"acls": 0.5, "acls_margin": 2.0, "acls_top": 1.0, "acls_rest": 0.3}
    for knob, value in at.items():
        here = torch.full((ROWS,), value).double()
        slope(lambda v, k=knob: hook("acls")(seen(logits), {**at, k: v}, RNG), here)  # type: ignore[misc]


@pytest.mark.parametrize("shape", [(ROWS,), (ROWS, 1), (ROWS, CLASSES)])
def test_spectral_decoupling_is_half_the_squared_length(shape: tuple[int, ...]) -> None:
    outputs = drawn(*shape)
    lengths = outputs.reshape(ROWS, -1).square().sum(1)
    found = hook("spectral_decoupling")(seen(outputs), {"spectral_decoupling": 0.4}, RNG)
    torch.testing.assert_close(found, 0.2 * lengths)


def test_entropies_of_predictions() -> None:
    logits = drawn(ROWS, CLASSES)
    expected = torch.distributions.Categorical(logits=logits).entropy()
    h = {"prediction_entropy": torch.linspace(-1, 1, ROWS).double()}
    found = hook("prediction_entropy")(seen(logits), h, RNG)
    torch.testing.assert_close(found, -h["prediction_entropy"] * expected)
    slope(lambda z: hook("prediction_entropy")(seen(z), h, RNG), logits)
    mean = (logits / 0.5).softmax(1).mean(0)
    expected = torch.distributions.Categorical(probs=mean).entropy()
    h = {"mean_entropy": torch.tensor(0.7).double(), "mean_entropy_temperature": 0.5}
    torch.testing.assert_close(hook("mean_entropy")(seen(logits), h, RNG), -0.7 * expected)
    balanced = 50 * torch.eye(CLASSES).double()
    found = hook("mean_entropy")(seen(balanced), h, RNG)
    assert float(found) == pytest.approx(-0.7 * math.log(CLASSES))
    slope(lambda z: hook("mean_entropy")(seen(z), h, RNG), logits)


def test_attention_entropy_is_that_of_a_query_on_average() -> None:
    sharp = torch.eye(3).double().expand(ROWS, 2, 3, 3)
    even = torch.full((ROWS, 2, 3, 3), 1 / 3).double()
    h = {"attention_entropy": torch.linspace(0, 1, ROWS).double()}
    outputs = drawn(ROWS, CLASSES)
    found = hook("attention_entropy")(seen(outputs, attention=(sharp, even)), h, RNG)
    torch.testing.assert_close(found, -h["attention_entropy"] * math.log(3) / 2)
    scores = drawn(ROWS, 2, 3, 3).requires_grad_()
    masked = scores.masked_fill(torch.eye(3).bool(), float("-inf")).softmax(-1)
    found = hook("attention_entropy")(seen(outputs, attention=(masked,)), h, RNG)
    (gradient,) = torch.autograd.grad(found.sum(), scores)
    assert gradient.isfinite().all() and float(gradient.abs().max()) > 0
    with pytest.raises(HpoError, match="no attention layer"):
        hook("attention_entropy")(seen(outputs), h, RNG)


@pytest.mark.parametrize("name", ["distillation", "self_distillation"])
def test_targets_of_a_regression_are_refused(name: str) -> None:
    kept: Any = Frozen(net()) if name == "distillation" else class_memory(beginning(), name)
    h = {"distillation": 0.1, "distillation_temperature": 1.0, "self_distillation": 0.1}
    wrong = seen(drawn(ROWS, CLASSES), targets=drawn(ROWS))
    with pytest.raises(HpoError, match=f"{name} needs class numbers"):
        hook(name)(kept, wrong, h, RNG)
    single = seen(drawn(ROWS, 1), targets=drawn(ROWS))
    with pytest.raises(HpoError, match=f"{name} needs outputs"):
        hook(name)(kept, single, h, RNG)


# In training.


class Small:
    """Four noisy clusters as sequences of 8 numbers, under one of three networks."""

    classes = CLASSES
    name = "small"

    def __init__(self, network: str) -> None:
        self.network = network
        self.models: list[nn.Module] = []
        rng = torch.Generator().manual_seed(5)
        self.data = {}
        for split in ("train", "validation", "test"):
            targets = torch.randint(0, CLASSES, (30,), generator=rng)
            centres = torch.eye(CLASSES).repeat(1, 2)[targets]
            self.data[split] = Batch(torch.randn(30, 8, generator=rng) + 1.5 * centres, targets)

    def model(self, seed: int) -> nn.Module:
        self.models.append({"mlp": mlp, "cnn": cnn, "transformer": Transformer}[self.network]())
        return self.models[-1]

    def teacher(self, seed: int) -> nn.Module:
        return mlp(24)

    def batches(self, split: str, rng: torch.Generator) -> Iterator[Batch]:
        inputs, targets = self.data[split]
        for part in torch.randperm(30, generator=rng).split(8):
            yield Batch(inputs[part], targets[part])

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return functional.cross_entropy(model(batch.inputs), batch.targets, reduction="none")


def mlp(width: int = 16) -> nn.Module:
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, CLASSES))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8)), nn.Conv1d(1, 6, 3, padding=1), nn.BatchNorm1d(6), nn.ReLU(),
        nn.Dropout1d(0.2), nn.Flatten(), nn.Linear(48, CLASSES),
    )  # fmt: skip


class Transformer(nn.Module):
    """Eight tokens of one number each, one layer, the mean of the tokens classified."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(1, 12)
        self.place = nn.Parameter(torch.randn(8, 12))
        self.layer = nn.TransformerEncoderLayer(12, 2, 16, dropout=0.1, batch_first=True)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.embed(inputs[:, :, None]) + self.place
        return self.head(self.layer(tokens).mean(1))  # type: ignore[no-any-return]


def outcome(network: str, steps: int = 9, **knobs: Any) -> tuple[list[Any], dict[str, Tensor]]:
    """The measurements of a short run under these knobs, and the weights it ends with."""
    task = Small(network)
    measured = numbers_of(train(task, used(knobs), following(knobs), Training(steps=steps,
        evaluations=3, learning_rate=0.02), 3))  # fmt: skip
    return measured, task.models[0].state_dict()


def used(knobs: Mapping[str, Any]) -> dict[str, Regularizer]:
    records = catalogue.records().items()
    return {name: record for name, record in records if {*knobs} & {*record.knobs}}


def following(knobs: Mapping[str, Any]) -> Follow:
    domains = {knob: catalogue.knobs()[knob] for knob in knobs}
    return Follow(Schedule.constant(SearchSpace({}), {}).pin(domains, dict(knobs)))


def numbers_of(measured: Iterator[Measurement]) -> list[Any]:
    return [(m.step, m.metrics) for m in measured]


@pytest.mark.parametrize("network", ["mlp", "cnn", "transformer"])
def test_in_training_off_changes_no_bit_and_on_changes_the_weights(network: str) -> None:
    plain, weights = outcome(network, dropout=0.2)
    for name in NAMES:
        if name == "attention_entropy" and network != "transformer":
            with pytest.raises(HpoError, match="no attention layer"):
                outcome(network, attention_entropy=0.1)
            continue
        strength = {"acls": 0.5, "acls_margin": 0.1} if name == "acls" else {name: 0.7}
        measured, after = outcome(network, dropout=0.2, **dict.fromkeys(strength, 0.0))
        if name == "attention_entropy":  # to see the weights torch computes them another way
            for (_, found), (_, expected) in zip(measured, plain, strict=True):
                assert found == pytest.approx(expected, rel=1e-4)
        else:
            assert measured == plain, name
            assert all(torch.equal(value, after[key]) for key, value in weights.items()), name
        measured, after = outcome(network, dropout=0.2, **strength)
        assert all(math.isfinite(value) for _, metrics in measured for value in metrics.values())
        changed = [key for key, value in weights.items() if not torch.equal(value, after[key])]
        assert changed, name


class Killed(Exception):
    pass


@pytest.mark.parametrize("name", [*REMEMBERING, "distillation"])
def test_a_killed_run_goes_on_with_the_same_bits(name: str, tmp_path: Path) -> None:
    knobs = {name: 0.5, "dropout": 0.3, "input_noise": 0.2}
    training = Training(steps=24, evaluations=4, learning_rate=5e-3)

    class Taught(Digits):
        dies_at = 0

        def teacher(self, seed: int) -> nn.Module:
            return self.model(seed)

        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            object.__setattr__(self, "dies_at", self.dies_at - model.training)
            if self.dies_at == 0:
                raise Killed
            return super().loss(model, batch)

    def run(dies_at: int, path: Path | None) -> list[Any]:
        task = Taught(train_rows=120, hidden=16, network="cnn")
        object.__setattr__(task, "dies_at", dies_at)
        tuner = following(knobs)
        return numbers_of(train(task, used(knobs), tuner, training, 1, checkpoint=path,
            checkpoint_seconds=0.0))  # fmt: skip

    expected = run(-1, None)
    with pytest.raises(Killed):
        run(15, tmp_path / "run.pt")  # in the middle of a pass and between measurements
    assert run(-1, tmp_path / "run.pt") == expected
    without = {"dropout": 0.3, "input_noise": 0.2}
    task = Digits(train_rows=120, hidden=16, network="cnn")
    assert numbers_of(train(task, used(without), following(without), training, 1)) != expected
