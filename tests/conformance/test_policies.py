"""Every file in search_spaces/augmentation/policies keeps the contract of a policy."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from objectives.training.loop import train
from objectives.training.options import Training
from objectives.training.tuner import Follow
from search_spaces import Batch, Choice, HpoError, Int, Regularizer, SearchSpace, plugins
from search_spaces.passes import Beginning, Pass
from search_spaces.schedule import Schedule

PACKAGE = "search_spaces.augmentation.policies"
NAMES = plugins.names(PACKAGE)
ROWS, CLASSES, SEED = 8, 4, 3
SHAPES = {"grey": (1, 12, 12), "RGB": (3, 12, 12), "oblong": (1, 10, 14)}


def load(name: str) -> Regularizer:
    found = plugins.load(PACKAGE, name, "POLICY")
    assert isinstance(found, Regularizer)
    return found


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=list(SHAPES))
def shape(request: pytest.FixtureRequest) -> tuple[int, ...]:
    return SHAPES[request.param]


def case(shape: tuple[int, ...] = SHAPES["grey"], dtype: torch.dtype = torch.float32) -> Batch:
    """Smooth pictures with values from -1 to 2, so that every operation shows."""
    rng = torch.Generator().manual_seed(7)
    coarse = torch.rand(ROWS, shape[0], 4, 4, generator=rng, dtype=torch.float64)
    images = functional.interpolate(coarse, size=shape[1:], mode="bilinear")
    return Batch((3 * images - 1).to(dtype), torch.arange(ROWS) % CLASSES)


def model_for(channels: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = (nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.0), nn.Linear(16, CLASSES))


def losses(model: nn.Module, batch: Batch) -> Tensor:
    inputs = batch.inputs.to(next(model.parameters()).dtype)
    return functional.cross_entropy(model(inputs), batch.targets, reduction="none")


def beginning(batch: Batch, seed: int = SEED) -> Beginning:
    model = model_for(batch.inputs.shape[1])

    def batches() -> Iterator[Batch]:
        yield batch

    return Beginning(model, losses, batches, CLASSES, None, seed, torch.device("cpu"))


def bound(record: Regularizer, memory: Any) -> Regularizer:
    """The policy with what it remembers put into its hooks."""
    hooks = [h for h in ("batch", "loss_output", "learn") if getattr(record, h) is not None]
    filled: dict[str, Any] = {h: partial(getattr(record, h), memory) for h in hooks}
    return dataclasses.replace(record, remember=None, **filled)


def begun(name: str, batch: Batch) -> tuple[Regularizer, Any]:
    """The policy in a run that begins with this batch, and what it remembers."""
    record = load(name)
    assert record.remember is not None
    memory = record.remember(beginning(batch))
    return bound(record, memory), memory


def starts(record: Regularizer) -> dict[str, Any]:
    return {knob: domain.start_value() for knob, domain in record.knobs.items()}


def off(record: Regularizer) -> dict[str, Any]:
    switched = {k: float(d.off) for k, d in record.knobs.items() if d.off is not None}
    return {**starts(record), **switched}


def strong(record: Regularizer) -> dict[str, Any]:
    """Every strength at the top of its range."""
    top = {k: d.from_unit(1.0) for k, d in record.knobs.items() if d.off is not None}
    return {**starts(record), **top}


def as_scalars(h: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v if isinstance(v, str) else torch.tensor(v) for k, v in h.items()}


def as_vectors(h: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v if isinstance(v, str) else _rows(torch.tensor(v)) for k, v in h.items()}


def _rows(value: Tensor) -> Tensor:
    return value.expand(ROWS, *value.shape).clone()


def changed(policy: Regularizer, batch: Batch, h: Mapping[str, Any], seed: int = 1) -> Tensor:
    assert policy.batch
    before = batch.inputs.clone()
    after = policy.batch(batch, h, torch.Generator().manual_seed(seed))
    assert torch.equal(batch.inputs, before), "changed in place"
    assert after.targets is batch.targets
    return after.inputs.detach()


def passed(batch: Batch, model: nn.Module, seen: Batch | None = None) -> Pass:
    """A pass of training that a policy may look at."""
    seen = seen or batch
    rng = torch.Generator().manual_seed(5)

    def view() -> Batch:
        noise = torch.randn(batch.inputs.shape, generator=rng)
        return batch._replace(inputs=batch.inputs + 0.3 * noise)

    return Pass(model, batch, seen, model(seen.inputs), again=model, embed=model, view=view)


def test_knobs_belong_to_their_file_and_hold_start_and_off(name: str) -> None:
    record = load(name)
    SearchSpace(record.knobs)  # names and conditions are sound
    assert record.batch and record.note
    assert any(domain.off is not None for domain in record.knobs.values())
    for knob, domain in record.knobs.items():
        assert knob == name or knob.startswith(f"{name}.")
        assert domain.contains(domain.start_value())
        assert domain.off is None or domain.contains(domain.off)
        assert isinstance(domain, Choice) or domain.limits[0] <= domain.low
    assert set(record.scope.values()) == {"example"}


@pytest.mark.parametrize("form", [dict, as_scalars, as_vectors], ids=["float", "0-d", "(B,)"])
def test_off_is_the_identity(name: str, form: Any, shape: tuple[int, ...]) -> None:
    batch = case(shape)
    policy, _ = begun(name, batch)
    assert torch.equal(changed(policy, batch, form(off(policy))), batch.inputs)


def test_it_changes_images_each_in_its_own_way(name: str, shape: tuple[int, ...]) -> None:
    batch = case(shape)
    policy, _ = begun(name, batch)
    same = batch._replace(inputs=batch.inputs[:1].expand(ROWS, *shape).clone())
    after = changed(policy, same, strong(policy))
    assert after.shape == same.inputs.shape and after.dtype == same.inputs.dtype
    assert bool(after.isfinite().all())
    different = {tuple(image.flatten().tolist()) for image in after}
    assert len(different) >= ROWS // 2, "the draw is per image"


def test_an_image_does_not_depend_on_the_others(name: str, shape: tuple[int, ...]) -> None:
    batch = case(shape)
    policy, _ = begun(name, batch)
    h = as_vectors(strong(policy))
    before = changed(policy, batch, h)
    for row in range(0, ROWS, 3):
        inputs = batch.inputs.clone()
        inputs[row] = inputs[row].flip(-1) * 0.5
        other = {k: _weaker(v, row, policy.knobs[k]) for k, v in h.items()}
        after = changed(policy, batch._replace(inputs=inputs), other)
        others = torch.arange(ROWS) != row
        torch.testing.assert_close(after[others], before[others], rtol=0, atol=2e-6)


def _weaker(value: Any, row: int, domain: Any) -> Any:
    if isinstance(value, str) or domain.off is None:
        return value
    return value.index_fill(0, torch.tensor([row]), float(domain.off))


def test_one_strength_is_that_strength_for_every_example(name: str) -> None:
    batch = case()
    policy, _ = begun(name, batch)
    expected = changed(policy, batch, starts(policy))
    for form in (as_scalars, as_vectors):
        torch.testing.assert_close(changed(policy, batch, form(starts(policy))), expected)


def test_the_generator_is_the_only_randomness(name: str) -> None:
    batch = case()
    policy, _ = begun(name, batch)
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    first = changed(policy, batch, strong(policy))
    assert torch.equal(first, changed(policy, batch, strong(policy)))
    assert not torch.equal(first, changed(policy, batch, strong(policy), seed=2))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_number_of_draws_does_not_depend_on_the_strength(name: str) -> None:
    batch = case()
    policy, _ = begun(name, batch)
    ends = []
    for h in (off(policy), starts(policy), strong(policy)):
        rng = torch.Generator().manual_seed(3)
        assert policy.batch
        policy.batch(batch, h, rng)
        ends.append(rng.get_state())
    assert torch.equal(ends[0], ends[1]) and torch.equal(ends[0], ends[2])


def test_double_precision_gives_what_single_does(name: str) -> None:
    small, large = case(), case(dtype=torch.float64)
    results = []
    for batch in (small, large):
        policy, _ = begun(name, batch)
        assert policy.batch
        rng = torch.Generator().manual_seed(1)
        results.append(policy.batch(batch, strong(policy), rng).inputs)
    assert results[1].dtype == torch.float64 and bool(results[1].isfinite().all())


def test_what_is_no_image_is_refused(name: str) -> None:
    batch = case()
    policy, _ = begun(name, batch)
    assert policy.batch
    for inputs in (torch.zeros(ROWS, 9), torch.zeros(ROWS, 1, 8, 8, dtype=torch.uint8)):
        with pytest.raises(HpoError, match=name) as error:
            policy.batch(batch._replace(inputs=inputs), starts(policy), torch.Generator())
        assert error.value.code == "bad-batch"


def test_a_wrong_number_of_strengths_is_an_error(name: str) -> None:
    batch = case()
    policy, _ = begun(name, batch)
    knob = next(k for k, d in policy.knobs.items() if d.off is not None)
    with pytest.raises(HpoError, match="do not fit a batch"):
        changed(policy, batch, {**starts(policy), knob: torch.full((ROWS - 1,), 0.5)})


def test_the_gradient_is_that_of_finite_differences_where_it_is_declared(name: str) -> None:
    batch = case(SHAPES["RGB"], torch.float64)
    policy, _ = begun(name, batch)
    if not policy.differentiable:
        return
    assert policy.batch
    hook = policy.batch
    rng = torch.Generator().manual_seed(5)
    weights = torch.randn(batch.inputs.shape, generator=rng, dtype=torch.float64)

    def total(h: Mapping[str, Any]) -> Tensor:
        after = hook(batch, h, torch.Generator().manual_seed(1)).inputs
        return (after * weights).sum() + after.square().sum()

    for mixing in ("softmax", "max_w"):
        # At equal weights the largest of them has no derivative.
        uneven = tuple(
            float(w) for w in torch.linspace(-1, 0.7, len(starts(policy)["relaxed.weights"]))
        )
        h = {**starts(policy), "relaxed.mixing": mixing, "relaxed.weights": uneven}
        for knob, domain in policy.knobs.items():
            if isinstance(domain, Choice | Int):
                continue
            leaf = torch.tensor(h[knob], dtype=torch.float64).requires_grad_()
            (gradient,) = torch.autograd.grad(total({**h, knob: leaf}), leaf)
            assert float(gradient.abs().max()) > 0
            for place in range(gradient.numel()):
                step = torch.zeros(gradient.numel(), dtype=torch.float64)
                step[place] = 1e-6
                ends = [leaf.detach() + sign * step.reshape(leaf.shape) for sign in (1, -1)]
                above, below = (total({**h, knob: end}) for end in ends)
                slope = float(above - below) / 2e-6
                assert float(gradient.flatten()[place]) == pytest.approx(slope, rel=1e-4, abs=1e-5)


def test_the_gradient_at_off_is_finite(name: str) -> None:
    batch = case()
    policy, _ = begun(name, batch)
    if not policy.differentiable:
        return
    assert policy.batch
    h = {k: v for k, v in off(policy).items() if not isinstance(v, str | int)}
    leaves = {k: torch.tensor(v).requires_grad_() for k, v in h.items()}
    after = policy.batch(batch, {**off(policy), **leaves}, torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(after.inputs.sum(), list(leaves.values()), allow_unused=True)
    assert all(g is None or bool(g.isfinite().all()) for g in gradients)


def test_what_learns_goes_on_from_its_state_and_leaves_the_model_alone(name: str) -> None:
    batch = case()
    policy, memory = begun(name, batch)
    if policy.learn is None:
        return
    model = memory.judge.model.train()
    weights = [parameter.clone() for parameter in model.parameters()]
    rng = torch.Generator().manual_seed(2)
    h = strong(policy)

    def advance(policy: Regularizer, rng: torch.Generator) -> None:
        assert policy.learn
        policy.learn(passed(batch, model), h, rng)

    before = changed(policy, batch, h)
    for _ in range(3):
        advance(policy, rng)
    assert not torch.equal(changed(policy, batch, h), before), "it has learned something"
    state, draws = memory.state_dict(), rng.get_state()
    copied = {key: _copied(value) for key, value in state.items()}
    advance(policy, rng)
    again, other = begun(name, batch)
    other.load_state_dict(copied)
    rng.set_state(draws)
    advance(again, rng)
    assert torch.equal(changed(policy, batch, h), changed(again, batch, h))
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())
    assert model.training


def _copied(value: Any) -> Any:
    import copy

    return copy.deepcopy(value)


class Pictures:
    """A task of pictures for the small model above, with class numbers as targets."""

    classes = CLASSES
    name = "pictures"

    def model(self, seed: int) -> nn.Module:
        return model_for(1)

    def batches(self, split: str, rng: torch.Generator) -> Iterator[Batch]:
        yield case()

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return losses(model, batch)


def test_a_run_with_it_resumes_bit_for_bit(name: str, tmp_path: Path) -> None:
    record = load(name)
    point = {k: d.start_value() for k, d in record.knobs.items()}
    tuner = partial(Follow, Schedule.constant(SearchSpace(record.knobs), point))
    training = Training(steps=4, evaluations=2)
    whole = list(train(Pictures(), {name: record}, tuner(), training, 0))
    file = tmp_path / "checkpoint"
    first = train(Pictures(), {name: record}, tuner(), training, 0, checkpoint=file)
    next(first)
    first.close()
    resumed = list(train(Pictures(), {name: record}, tuner(), training, 0, checkpoint=file))
    assert [m.metrics for m in resumed] == [m.metrics for m in whole]
    clean = list(train(Pictures(), {}, Follow(Schedule.constant(SearchSpace({}), {})), training, 0))
    assert clean[-1].metrics["val_loss"] != whole[-1].metrics["val_loss"]
