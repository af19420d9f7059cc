"""Regularizers that act on weights and on the step: closed forms, gradients, three kinds of model.

Run with: pytest tests/test_weight_regularizers.py
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from toy_tasks import Blobs, constant, numbers, regularizers, run, weights

from hpo.bilevel.stn import lookahead
from objectives.training.beginning import beginning, bound
from objectives.training.loop import train
from objectives.training.options import Training
from objectives.training.randomness import GlobalStreams
from objectives.training.regularization import Regularization
from objectives.training.sites import layers
from objectives.training.state import Run, Setting
from objectives.training.together import train_together
from search_spaces import Batch, HpoError, Regularizer
from search_spaces.passes import Beginning
from search_spaces.regularizers import ewc, masked_l1, orthogonality, path_norm
from search_spaces.regularizers._matrices import lengths, smallest

PENALTIES = (
    "ewc",
    "group_lasso",
    "l1",
    "l2_to_start",
    "lq",
    "masked_l1",
    "norm_loss",
    "nuclear",
    "orthogonality",
    "path_norm",
    "spectral",
)
STEPS = ("lobster", "serene")
ASCENTS = ("imbsam", "sam")
ALL = (*PENALTIES, *STEPS, *ASCENTS, "weight_compander")
CPU = torch.device("cpu")
PLAIN = Training(
    steps=4, evaluations=1, optimizer="sgd", learning_rate=0.1, learning_rate_schedule="constant"
)


class Dense(Blobs):
    """Blobs whose model draws nothing."""

    def model(self, seed: int) -> nn.Module:
        model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU())
        model.append(nn.Linear(8, 3))
        self.models.append(model)
        return model


class Pictures(Blobs):
    """Small pictures and a network of convolutions, one strided and one grouped, with norms."""

    def __init__(self) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(7)
        means = torch.randn(3, 1, 6, 6, generator=rng)
        for split, (_, targets) in self.data.items():
            inputs = means[targets] + torch.randn(len(targets), 1, 6, 6, generator=rng)
            self.data[split] = (inputs, targets)

    def model(self, seed: int) -> nn.Module:
        first = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()]
        second = [nn.Conv2d(4, 4, 3, stride=2, groups=2), nn.BatchNorm2d(4), nn.ReLU()]
        model = nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(16, 3))
        self.models.append(model)
        return model


class Words(Blobs):
    """Sequences of numbers below twelve, whose sum tells the class, read by a transformer."""

    def __init__(self) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(9)
        for split, (_, targets) in self.data.items():
            inputs = torch.randint(0, 4, (len(targets), 5), generator=rng) + 4 * targets[:, None]
            self.data[split] = (inputs, targets)

    def model(self, seed: int) -> nn.Module:
        model = Reader()
        self.models.append(model)
        return model


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(12, 8)
        self.places = nn.Parameter(0.1 * torch.randn(1, 5, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        read: Tensor = self.last(self.block(self.table(x) + self.places).mean(1))
        return read


TASKS: dict[str, Callable[[], Blobs]] = {"mlp": Dense, "cnn": Pictures, "transformer": Words}


def load(name: str) -> Regularizer:
    return regularizers(name)[name]


def begun(model: nn.Module, batches: list[Batch], classes: int | None = 3) -> Beginning:
    """The beginning of a run of this model on these batches."""

    def losses(model: nn.Module, batch: Batch) -> Tensor:
        return functional.cross_entropy(model(batch.inputs), batch.targets, reduction="none")

    return Beginning(model, losses, lambda: iter(batches), classes, None, 0, CPU)


def penalty(name: str, parameters: Mapping[str, Tensor], h: Any, memory: Any = None) -> Tensor:
    """The penalty of a regularizer on these weights; numbers not given are at their start."""
    record = load(name)
    given = {k: d.start_value() for k, d in record.knobs.items() if d.off is None}
    assert record.penalty is not None
    before = () if record.remember is None else (memory,)
    value: Tensor = record.penalty(*before, parameters, {**given, **h})
    return value


def drawn(*shape: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=rng, dtype=torch.float64)


def gradient(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    leaf = at.clone().requires_grad_()
    return torch.autograd.grad(function(leaf), leaf)[0]


def slopes(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """The gradient by central differences."""
    found, step = torch.zeros_like(at), 1e-6
    for place in itertools.product(*map(range, at.shape)):
        beside = torch.zeros_like(at)
        beside[place] = step
        found[place] = (function(at + beside) - function(at - beside)) / (2 * step)
    return found


# -- in training ------------------------------------------------------------------------------


def middling(name: str) -> dict[str, float]:
    """A strength that shows within a few steps, secondary knobs at their start."""
    record, strong = load(name), {"sam": 0.5, "imbsam": 0.5, "weight_compander": 1.0}
    found = {}
    for knob, domain in record.knobs.items():
        start = domain.start_value()
        assert isinstance(start, int | float)
        found[knob] = start if domain.off is None else strong.get(name, 0.05)
    return found


@cache
def unregularized(kind: str, training: Training) -> dict[str, Tensor]:
    """The weights of a model that was trained without any regularizer."""
    task = TASKS[kind]()
    run(task, training)
    return weights(task.models[0])


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("name", ALL)
def test_it_acts_in_training_of_every_kind_of_model_and_off_it_does_not(
    name: str, kind: str
) -> None:
    if (name, kind) == ("path_norm", "transformer"):
        with pytest.raises(HpoError, match="layers in sequence"):
            run(TASKS[kind](), PLAIN, knobs={name: 1e-3})
        return
    training = replace(PLAIN, steps=12) if name == "serene" else PLAIN
    knobs: dict[str, Any] = middling(name)
    if name == "imbsam":
        knobs["imbsam_tail"] = 1.0  # the classes are nearly balanced
    acted, off = TASKS[kind](), TASKS[kind]()
    found = run(acted, training, knobs=knobs)
    assert all(math.isfinite(m.metrics["val_loss"]) for m in found)
    run(off, training, knobs={**knobs, name: 0.0})
    changed = False
    for key, expected in unregularized(kind, training).items():
        if name in ASCENTS:  # its gradient is summed up in another order
            torch.testing.assert_close(weights(off.models[0])[key], expected)
        else:
            assert torch.equal(weights(off.models[0])[key], expected)
        changed |= not torch.allclose(weights(acted.models[0])[key], expected, rtol=1e-5)
    assert changed


def with_vector(name: str, model: nn.Module, vector: tuple[float, ...]) -> Regularization:
    """The regularizer on a model with a strength for each layer."""
    point = {**middling(name), name: vector}
    task: Any = Pictures()
    rng = torch.Generator().manual_seed(0)
    start = beginning(task, model, 0, CPU)
    return Regularization(task, model, {name: load(name)}, point, rng, lambda: start)


@pytest.mark.parametrize("name", [*PENALTIES, "l2"])
def test_a_strength_for_each_layer_penalizes_that_layer_alone(name: str) -> None:
    model = Pictures().model(0)
    regularization = with_vector(name, model, (0.0, 0.5, 0.0))
    parameters = {n: (p.detach() + 0.1).requires_grad_() for n, p in model.named_parameters()}
    total = regularization.penalty(parameters, {**middling(name), name: (0.0, 0.5, 0.0)})
    assert total is not None
    grads = torch.autograd.grad(
        total, list(parameters.values()), allow_unused=True, materialize_grads=True
    )
    touched = {n for n, grad in zip(parameters, grads, strict=True) if grad.any()}
    place = layers(model)[1]
    assert touched and touched <= set(place)
    alone = {n: parameters[n] for n in place}
    whole = regularization.penalty(alone, {**middling(name), name: (9.0, 0.5, 9.0)})
    torch.testing.assert_close(total, whole)


@pytest.mark.parametrize("name", ["lobster", "weight_decay", "weight_compander"])
def test_a_strength_for_each_layer_changes_the_weights_of_that_layer_alone(name: str) -> None:
    model, vector = Pictures().model(0), (0.0, 0.5, 0.0)
    regularization = with_vector(name, model, vector)
    before = weights(model)
    if name == "weight_compander":
        changed = regularization.evaluated()
        after = {**before, **changed}
    else:
        regularization.before_step(dict(model.named_parameters()), {name: vector}, 0.1)
        after = weights(model)
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert moved == {"3.weight"}


def test_two_ascents_are_refused() -> None:
    with pytest.raises(HpoError, match="both say where the gradient of a step is taken"):
        run(Blobs(), PLAIN, knobs={"sam": 0.1, "imbsam": 0.1, "imbsam_tail": 0.5})


# -- sums over entries and rows ----------------------------------------------------------------


def test_lq_is_l1_and_l2_at_its_special_powers_and_counts_weights_at_small_ones() -> None:
    layer = {"layer": drawn(5, 4), "bias": drawn(5)}
    absolute, squares = layer["layer"].abs().sum(), layer["layer"].square().sum()
    torch.testing.assert_close(penalty("l1", layer, {"l1": 0.3}), 0.3 * absolute)
    nearly = penalty("lq", layer, {"lq": 0.3, "lq_power": 1.0})
    torch.testing.assert_close(nearly, 0.3 * absolute, rtol=0, atol=0.3 * 20 * 1e-3)
    torch.testing.assert_close(penalty("lq", layer, {"lq": 0.3, "lq_power": 2.0}), 0.3 * squares)
    torch.testing.assert_close(
        penalty("lq", layer, {"lq": 0.6, "lq_power": 2.0}), 4 * penalty("l2", layer, {"l2": 0.3})
    )
    sparse = {"layer": torch.tensor([[0.0, 3.0], [0.0, -2.0]], dtype=torch.float64)}
    few = penalty("lq", sparse, {"lq": 1.0, "lq_power": 0.01})
    assert float(few) == pytest.approx(2 * (1 - 1e-3**0.01), rel=0.2)


@pytest.mark.parametrize("power", [0.3, 1.0, 1.7])
def test_the_gradients_of_lq_in_weights_and_power_are_finite_and_right(power: float) -> None:
    at = torch.tensor([[0.0, 1e-4, -0.01], [0.5, -2.0, 1e-8]], dtype=torch.float64)

    def of_weight(weight: Tensor) -> Tensor:
        return penalty("lq", {"w": weight}, {"lq": 0.1, "lq_power": power})

    torch.testing.assert_close(gradient(of_weight, at), slopes(of_weight, at), rtol=1e-3, atol=1e-6)
    assert float(gradient(of_weight, at)[0, 0]) == 0

    def of_power(q: Tensor) -> Tensor:
        return penalty("lq", {"w": at}, {"lq": 0.1, "lq_power": q})

    q = torch.tensor(power, dtype=torch.float64)
    torch.testing.assert_close(gradient(of_power, q), slopes(of_power, q), rtol=1e-5, atol=1e-9)


def test_group_lasso_and_norm_loss_are_their_formulas_on_rows_and_filters() -> None:
    layer, filters = drawn(3, 4), drawn(2, 3, 3, 3, seed=1)
    given = {"a": layer, "b": filters, "bias": drawn(3)}
    rows = [*layer.numpy(), *filters.flatten(1).numpy()]
    norms = [float(np.linalg.norm(row)) for row in rows]
    lasso = sum(math.sqrt(row.size) * norm for row, norm in zip(rows, norms, strict=True))
    assert float(penalty("group_lasso", given, {"group_lasso": 0.2})) == pytest.approx(0.2 * lasso)
    apart = sum((1 - norm) ** 2 for norm in norms)
    assert float(penalty("norm_loss", given, {"norm_loss": 0.2})) == pytest.approx(0.2 * apart)
    unit = {"a": layer / layer.norm(dim=1, keepdim=True)}
    assert float(penalty("norm_loss", unit, {"norm_loss": 1.0})) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", [n for n in PENALTIES if n not in ("ewc", "l2_to_start")])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_gradients_are_finite_where_weights_are_alike(name: str, value: float) -> None:
    parameters = {
        "layer": torch.full((4, 3), value, requires_grad=True),
        "filter": torch.full((2, 4, 3, 3), value, requires_grad=True),
        "norm.weight": torch.full((2,), value, requires_grad=True),
    }
    total = penalty(name, parameters, {name: 1.0}, {})
    grads = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    used = [grad for grad in grads if grad is not None]
    assert used and all(bool(grad.isfinite().all()) for grad in used)


def test_lengths_have_second_derivatives_at_zero() -> None:
    vectors = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(lengths(vectors).sum(), vectors, create_graph=True)
    assert torch.equal(first[0], torch.zeros(2).double())
    torch.testing.assert_close(first[1], torch.tensor([0.6, 0.8]).double())
    (second,) = torch.autograd.grad(first[1, 0], vectors)
    assert bool(second.isfinite().all())
    assert float(second[1, 0]) == pytest.approx((25 - 9) / 125)


def test_the_smallest_share_grows_continuously_from_none_to_all() -> None:
    sizes = torch.tensor([3.0, 1.0, 2.0, 5.0], dtype=torch.float64)
    assert smallest(sizes, 0.0).tolist() == [0, 0, 0, 0]
    assert smallest(sizes, 0.5).tolist() == [0, 1, 1, 0]
    assert smallest(sizes, 0.6).tolist() == pytest.approx([0.4, 1, 1, 0])
    assert smallest(sizes, torch.tensor(1.0)).tolist() == [1, 1, 1, 1]


def test_masked_l1_presses_the_smallest_gains_of_each_norm_and_nothing_else() -> None:
    model = Pictures().model(0)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        parameters["1.weight"].copy_(torch.tensor([0.9, -0.1, 0.5, 0.2]))
        parameters["4.weight"].copy_(torch.tensor([-4.0, 3.0, 2.0, 1.0]))
    total = penalty("masked_l1", parameters, {"masked_l1": 1.0, "masked_l1_share": 0.5})
    assert float(total.detach()) == pytest.approx(0.1 + 0.2 + 1 + 2)
    grads = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    touched = {n for n, g in zip(parameters, grads, strict=True) if g is not None and g.any()}
    assert touched == {"1.weight", "4.weight"}
    assert grads[list(parameters).index("1.weight")].tolist() == [0, -1, 0, 1]


def test_masked_l1_takes_lengths_of_rows_where_there_are_no_gains() -> None:
    layer = torch.tensor([[3.0, 4.0], [0.6, 0.8], [6.0, 8.0], [0.0, 2.0]])
    h = {"masked_l1": 0.5, "masked_l1_share": 0.75}
    assert float(masked_l1.penalty({"0.weight": layer}, h)) == pytest.approx(0.5 * (1 + 2 + 5))


# -- singular values ---------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4), (3, 2, 3, 3)])
def test_spectral_and_nuclear_are_those_of_numpy_and_their_gradients_too(
    shape: tuple[int, ...],
) -> None:
    weight = drawn(*shape)
    left, sizes, right = np.linalg.svd(weight.flatten(1).numpy(), full_matrices=False)

    def spectral(w: Tensor) -> Tensor:
        return penalty("spectral", {"w": w}, {"spectral": 1.0})

    def nuclear(w: Tensor) -> Tensor:
        return penalty("nuclear", {"w": w}, {"nuclear": 1.0})

    assert float(spectral(weight)) == pytest.approx(0.5 * sizes[0] ** 2)
    assert float(nuclear(weight)) == pytest.approx(sizes.sum())
    steepest = sizes[0] * np.outer(left[:, 0], right[0]).reshape(shape)
    torch.testing.assert_close(gradient(spectral, weight), torch.from_numpy(steepest))
    polar = torch.from_numpy((left @ right).reshape(shape))
    torch.testing.assert_close(gradient(nuclear, weight), polar)


@pytest.mark.parametrize("name", ["spectral", "nuclear"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_of_weights_past_measuring_a_decomposition_is_nan_and_no_error(
    name: str, bad: float
) -> None:
    penalty = regularizers(name)[name].penalty
    assert penalty is not None
    weight = torch.ones(3, 4)
    weight[1, 2] = bad
    start = {k: d.start_value() for k, d in regularizers(name)[name].knobs.items()}
    assert penalty({"w": weight}, start).isnan()


def test_spectral_lies_between_the_mean_and_the_sum_of_squared_singular_values() -> None:
    weight = drawn(6, 9)
    whole = float(penalty("l2", {"w": weight}, {"l2": 1.0}))
    largest = float(penalty("spectral", {"w": weight}, {"spectral": 1.0}))
    assert whole / 6 < largest < whole
    alike = torch.linalg.qr(drawn(6, 6))[0]  # all singular values are one
    slope = gradient(lambda w: penalty("spectral", {"w": w}, {"spectral": 1.0}), alike)
    assert bool(slope.isfinite().all())
    assert float(slope.norm()) == pytest.approx(1.0)  # u v^T for one of the choices


def test_nuclear_of_a_share_leaves_the_large_entries_alone() -> None:
    weight = torch.tensor([[5.0, 0.1, -0.2], [0.3, -7.0, 0.05]], dtype=torch.float64)
    small = torch.where(weight.abs() < 1, weight, 0.0)
    expected = np.linalg.svd(small.numpy(), compute_uv=False).sum()

    def of_share(w: Tensor) -> Tensor:
        return penalty("nuclear", {"w": w}, {"nuclear": 1.0, "nuclear_share": 4 / 6})

    assert float(of_share(weight)) == pytest.approx(expected)
    slope = gradient(of_share, weight)
    assert slope[0, 0] == slope[1, 1] == 0
    torch.testing.assert_close(slope, slopes(of_share, weight), atol=1e-7, rtol=1e-5)


def test_lost_ranks_keep_the_gradient_of_nuclear_bounded() -> None:
    flat = torch.outer(torch.arange(1.0, 5.0), torch.arange(1.0, 4.0))
    slope = gradient(lambda w: penalty("nuclear", {"w": w}, {"nuclear": 1.0}), flat)
    assert bool(slope.isfinite().all())
    assert float(torch.linalg.matrix_norm(slope, 2)) == pytest.approx(1.0, abs=1e-4)


# -- paths -------------------------------------------------------------------------------------


def test_the_path_norm_of_two_layers_is_the_sum_over_hidden_units_and_of_three_over_paths() -> None:
    first, second, third = drawn(4, 3), drawn(5, 4, seed=1), drawn(2, 5, seed=2)
    units = second.abs() @ first.norm(dim=1)
    found = penalty("path_norm", {"a": first, "b": second, "bias": drawn(5)}, {"path_norm": 0.3})
    torch.testing.assert_close(found, 0.3 * units.sum() / math.sqrt(4))
    paths = 0.0
    for out, late, early in itertools.product(range(2), range(5), range(4)):
        weight = third[out, late] * second[late, early]
        paths += float(weight.abs() * first[early].norm())
    found = penalty("path_norm", {"a": first, "b": second, "c": third}, {"path_norm": 1.0})
    assert float(found) == pytest.approx(paths / math.sqrt(4 * 5))


def test_the_path_norm_does_not_change_when_hidden_units_are_rescaled() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, groups=1), nn.Conv2d(4, 4, 2, groups=2), nn.Flatten(), nn.Linear(36, 3)
    ).double()
    parameters = {n: p.detach() for n, p in model.named_parameters()}
    before = penalty("path_norm", parameters, {"path_norm": 1.0})
    factors = torch.tensor([0.1, 2.0, 5.0, 0.7], dtype=torch.float64)
    scaled = dict(parameters)
    scaled["0.weight"] = parameters["0.weight"] * factors[:, None, None, None]
    by_group = parameters["1.weight"].reshape(2, 2, 2, 2, 2) / factors.view(2, 1, 2, 1, 1)
    scaled["1.weight"] = by_group.reshape(4, 2, 2, 2) * factors[:, None, None, None]
    places = factors.repeat_interleave(9)
    scaled["3.weight"] = parameters["3.weight"] / places
    torch.testing.assert_close(penalty("path_norm", scaled, {"path_norm": 1.0}), before)


def test_the_path_norm_says_which_layers_do_not_follow_each_other() -> None:
    with pytest.raises(HpoError, match=r"b after a, which has 4 inputs where 3 outputs") as error:
        path_norm.penalty({"a": drawn(3, 2), "b": drawn(2, 4)}, {"path_norm": 1.0})
    assert error.value.code == "unsuited-model"


# -- orthogonality -----------------------------------------------------------------------------


def toeplitz(kernel: Tensor, stride: int, groups: int, side: int) -> Tensor:
    """The matrix of a convolution over periodic images of this side, built column by column."""
    inputs = kernel.shape[1] * groups
    columns = []
    size = kernel.shape[2]
    for place in range(inputs * side * side):
        image = torch.zeros(inputs * side * side, dtype=kernel.dtype)
        image[place] = 1.0
        padded = functional.pad(
            image.view(1, inputs, side, side), (0, size - 1, 0, size - 1), mode="circular"
        )
        columns.append(functional.conv2d(padded, kernel, None, stride, 0, 1, groups).flatten())
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize(
    ("outputs", "inputs", "size", "stride", "groups"),
    [
        (3, 3, 3, 1, 1),
        (2, 4, 3, 1, 1),
        (5, 2, 2, 1, 1),
        (4, 2, 3, 2, 1),
        (9, 2, 3, 2, 1),
        (4, 4, 3, 1, 2),
        (6, 3, 3, 1, 3),
        (3, 3, 4, 3, 1),
    ],
)
def test_of_filters_it_is_that_of_the_matrix_of_the_convolution(
    outputs: int, inputs: int, size: int, stride: int, groups: int
) -> None:
    kernel, side = drawn(outputs, inputs // groups, size, size), 6 if stride < 3 else 9
    matrix = toeplitz(kernel, stride, groups, side)
    places = (side // stride) ** 2
    found = orthogonality.of_filters(kernel, (stride, stride), groups)
    torch.testing.assert_close(found, orthogonality.of_matrix(matrix) / places)


def test_it_is_zero_where_lengths_are_kept_and_only_there() -> None:
    square = torch.linalg.qr(drawn(5, 5))[0]
    delta = torch.zeros(4, 4, 3, 3, dtype=torch.float64)
    delta[range(4), range(4), 1, 1] = 1.0
    delta[0, 0] = delta[0, 0].roll((1, 1), (0, 1))  # a shift keeps lengths as well
    strided = torch.zeros(4, 1, 2, 2, dtype=torch.float64)  # pixels to channels
    for place in range(4):
        strided[place, 0, place // 2, place % 2] = 1.0
    for value in (
        orthogonality.of_matrix(square),
        orthogonality.of_matrix(square[:3]),
        orthogonality.of_matrix(square[:, :2]),
        orthogonality.of_filters(delta),
        orthogonality.of_filters(delta[:2]),
        orthogonality.of_filters(delta[:, :2]),
        orthogonality.of_filters(strided, (2, 2)),
        orthogonality.of_filters(square.view(5, 5, 1)),
    ):
        assert float(value) == pytest.approx(0, abs=1e-12)
    assert float(orthogonality.of_matrix(2 * square)) == pytest.approx(5 * 9)
    assert float(orthogonality.of_filters(strided)) > 0.5  # at stride one its rows overlap


def test_it_knows_how_the_weights_of_a_model_are_used() -> None:
    model = Reader()
    model.filters = nn.Conv2d(4, 8, 3, stride=(2, 1), dilation=(1, 2), groups=2)
    used = orthogonality.maps(begun(model, []))
    assert used["table.weight"] is None and used["places"] is None
    assert used["block.self_attn.in_proj_weight"] == orthogonality.Map(parts=3)
    assert used["block.linear1.weight"] == orthogonality.Map()
    assert used["filters.weight"] == orthogonality.Map((2, 1), 2)
    stacked = torch.cat([torch.linalg.qr(drawn(8, 8, seed=seed))[0] for seed in range(3)])
    given = {"block.self_attn.in_proj_weight": stacked, "places": drawn(1, 5, 8)}
    assert float(penalty("orthogonality", given, {"orthogonality": 1.0}, used)) < 1e-20
    wide = nn.Conv2d(2, 2, 3, stride=2, dilation=2)
    (only,) = [use for use in orthogonality.maps(begun(wide, [])).values() if use is not None]
    assert only.stride == (1, 1)  # every shift by two pixels is one by a kernel entry


def test_its_gradient_is_that_of_differences() -> None:
    kernel = drawn(3, 2, 2, 2)

    def of(kernel: Tensor) -> Tensor:
        return orthogonality.of_filters(kernel, (2, 2))

    torch.testing.assert_close(gradient(of, kernel), slopes(of, kernel), rtol=1e-5, atol=1e-6)


# -- companded weights -------------------------------------------------------------------------


def companded(weight: Tensor, curve: Any, sizes: Mapping[str, float] | None = None) -> Tensor:
    hook = load("weight_compander").parameter
    assert hook is not None
    given = {"0.weight": weight, "0.bias": torch.ones(3)}
    found = hook(sizes or {"0.weight": 0.5}, given, {"weight_compander": curve}, torch.Generator())
    assert found["0.bias"] is given["0.bias"]
    changed: Tensor = found["0.weight"]
    return changed


@pytest.mark.parametrize("curve", [1e-3, 0.3, 3.0])
def test_the_compander_is_the_arctan_odd_bounded_monotone_and_of_slope_one(curve: float) -> None:
    v = torch.cat([-torch.logspace(2, -9, 300), torch.logspace(-9, 2, 300)]).double()[:, None]
    w, scale = companded(v, curve), 0.5 / curve
    torch.testing.assert_close(w, scale * torch.atan(v / scale), rtol=1e-14, atol=0)
    torch.testing.assert_close(w, -w.flip(0), rtol=0, atol=0)
    assert bool((w.diff(dim=0) > 0).all())
    assert float(w.abs().max()) < scale * math.pi / 2
    slope = gradient(lambda v: companded(v, curve).sum(), v)
    torch.testing.assert_close(slope, 1 / (1 + (v / scale).square()), rtol=1e-10, atol=0)
    near = gradient(lambda v: companded(v, curve).sum(), torch.zeros(1, 1))
    assert float(near) == 1.0


def test_the_compander_without_curve_is_the_identity_with_finite_gradients() -> None:
    weight = drawn(4, 4).float()
    for off in (0.0, torch.tensor(0.0)):
        assert torch.equal(companded(weight, off), weight)
    slope = gradient(lambda c: companded(weight, c).square().sum(), torch.tensor(0.0))
    assert float(slope) == 0  # it is even in its curve
    curve = torch.tensor(0.7, dtype=torch.float64)

    def of_curve(c: Tensor) -> Tensor:
        return companded(weight.double(), c).square().sum()

    torch.testing.assert_close(
        gradient(of_curve, curve), slopes(of_curve, curve), rtol=1e-6, atol=0
    )


def test_the_compander_goes_by_the_size_that_each_tensor_starts_with() -> None:
    model: Any = nn.Sequential(nn.Linear(50, 40), nn.Linear(40, 3))
    with torch.no_grad():
        model[1].weight.zero_()
    remember = load("weight_compander").remember
    assert remember is not None
    sizes = remember(begun(model, []))
    assert set(sizes) == {"0.weight", "1.weight"}
    assert sizes["0.weight"] == pytest.approx(50**-0.5 / 3**0.5, rel=0.05)
    assert sizes["1.weight"] == pytest.approx(40**-0.5)  # it has no size of its own


def test_companded_weights_are_those_of_evaluation_too() -> None:
    task = Dense()
    found = run(task, replace(PLAIN, steps=1, evaluations=1), knobs={"weight_compander": 2.0})
    trained: Any = task.models[0]
    start = build(task)
    sizes = {n: float(p.square().mean().sqrt()) for n, p in weights(start).items() if p.ndim == 2}
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if name in sizes:
                scale = sizes[name] / 2.0
                parameter.copy_(scale * torch.atan(parameter / scale))
        inputs, targets = task.data["validation"]
        loss = functional.cross_entropy(trained.eval()(inputs), targets)
    assert found[-1].metrics["val_loss"] == pytest.approx(float(loss), rel=1e-5)


def build(task: Blobs, seed: int = 0) -> nn.Module:
    """The model that a run of this seed begins with."""
    return Run(setting(task, {}, {}, PLAIN, seed), GlobalStreams(seed, CPU)).model


def setting(
    task: Any,
    records: Mapping[str, Regularizer],
    knobs: Mapping[str, Any],
    training: Training,
    seed: int = 0,
) -> Setting:
    return Setting(task, records, constant(**knobs), training, seed, CPU)


# -- anchors -----------------------------------------------------------------------------------


def test_the_distance_to_the_start_is_half_its_square_over_all_parameters() -> None:
    record, model = load("l2_to_start"), nn.Linear(3, 2)
    own: Any = dict(model.named_parameters())
    assert record.remember is not None
    start = record.remember(begun(model, []))
    assert float(penalty("l2_to_start", own, {"l2_to_start": 2.0}, start).detach()) == 0
    with torch.no_grad():
        own["weight"] += 0.5
        own["bias"] -= 1.0
    total = penalty("l2_to_start", own, {"l2_to_start": 2.0}, start)
    assert float(total.detach()) == pytest.approx(6 * 0.25 + 2 * 1.0)
    (slope,) = torch.autograd.grad(total, model.bias)
    torch.testing.assert_close(slope, torch.full((2,), -2.0))


def batches_of(inputs: Tensor, targets: Tensor, rows: int = 7) -> list[Batch]:
    pairs = zip(torch.split(inputs, rows), torch.split(targets, rows), strict=True)
    return [Batch(*pair) for pair in pairs]


@pytest.mark.parametrize("classes", [3, 40])
def test_the_fisher_of_logistic_regression_is_its_closed_form(classes: int) -> None:
    inputs, targets = drawn(60, 4), torch.zeros(60, dtype=torch.long)
    model = nn.Linear(4, classes).double()
    found = ewc.diagonal_fisher(begun(model, batches_of(inputs, targets), classes))
    p = model(inputs).softmax(1).detach()
    spread = p * (1 - p)  # of the indicator of each class, in the model's own prediction
    exact = {
        "weight": spread.T @ inputs.square() / 60,
        "bias": spread.mean(0),
    }
    for name, expected in exact.items():
        if classes <= ewc.PARTS:
            torch.testing.assert_close(found[name], expected)
        else:  # an estimate
            assert float((found[name] - expected).norm() / expected.norm()) < 0.3
            assert float(found[name].sum() / expected.sum()) == pytest.approx(1.0, abs=0.1)


def test_the_fisher_of_one_logit_and_of_regression_are_their_closed_forms() -> None:
    inputs = drawn(30, 4)
    model = nn.Linear(4, 1).double()
    given = batches_of(inputs, torch.zeros(30, dtype=torch.long))
    p = model(inputs).sigmoid().detach()
    found = ewc.diagonal_fisher(begun(model, given, 2))
    torch.testing.assert_close(found["weight"], (p * (1 - p) * inputs.square()).mean(0)[None])
    found = ewc.diagonal_fisher(begun(model, given, None))
    torch.testing.assert_close(found["weight"], inputs.square().mean(0)[None])
    torch.testing.assert_close(found["bias"], torch.ones(1).double())


def test_the_fisher_reads_256_examples_and_leaves_the_model_as_it_was() -> None:
    inputs, read = drawn(300, 4).float(), 0

    class Counting(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            nonlocal read
            read += len(x)
            assert not self.training
            return super().forward(x)

    model: Any = nn.Sequential(Counting(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3))
    model[1].eval()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    state = torch.random.get_rng_state()
    ewc.diagonal_fisher(begun(model, batches_of(inputs, torch.zeros(300).long(), 100)))
    assert read == 256
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.training and not model[1].training and model[2].training
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_ewc_weighs_the_distance_by_a_fisher_in_units_of_its_mean() -> None:
    inputs = drawn(40, 4)
    inputs[:, 0] *= 2
    model = nn.Linear(4, 3).double()
    nn.init.constant_(model.weight, 0.1)
    at = ewc.anchor(begun(model, batches_of(inputs, torch.zeros(40).long())))
    flat = torch.cat([each.flatten() for each in at.importance.values()])
    assert float(flat.mean()) == pytest.approx(1.0)
    moved = {n: p.detach().clone() for n, p in model.named_parameters()}
    moved["weight"][1, 0] += 0.1
    found = penalty("ewc", moved, {"ewc": 2.0}, at)
    assert float(found) == pytest.approx(float(at.importance["weight"][1, 0]) * 0.01)
    moved["weight"][1, 0] -= 0.1
    moved["weight"][1, 1] += 0.1
    assert float(penalty("ewc", moved, {"ewc": 2.0}, at)) < 0.5 * float(found)
    inputs[:, 0] *= 1e-3
    inputs[:, 1] *= 1e3
    steep = ewc.anchor(begun(model, batches_of(inputs, torch.zeros(40).long())))
    assert max(float(each.max()) for each in steep.importance.values()) <= 10


def test_ewc_without_any_information_adds_nothing_and_sequences_are_refused() -> None:
    model = nn.Linear(4, 3)
    nothing = ewc.anchor(begun(model, batches_of(torch.zeros(8, 4), torch.zeros(8).long()), 3))
    assert not nothing.importance["weight"].any()
    inputs = torch.zeros(2, 5, 4)
    with pytest.raises(HpoError, match=r"\(1, 5, 3\)"):
        ewc.anchor(begun(model, batches_of(inputs, torch.zeros(2, 3).long())))


# -- steps -------------------------------------------------------------------------------------


def test_lobster_shrinks_by_the_gradients_of_each_weight() -> None:
    hook = load("lobster").optimizer
    assert hook is not None
    weight = torch.full((1, 5), 2.0, requires_grad=True)
    weight.grad = torch.tensor([[0.0, 0.25, -0.5, 1.0, -3.0]])
    parameters = {"w": weight, "bias": torch.ones(2), "unused": torch.ones(2, 2)}
    hook(parameters, {"lobster": 2.0}, 0.1)
    shrunk = 2 * (1 - 0.2 * torch.tensor([[1.0, 0.75, 0.5, 0.0, 0.0]]))
    torch.testing.assert_close(weight.detach(), shrunk)
    assert torch.equal(parameters["bias"], torch.ones(2))
    torch.testing.assert_close(parameters["unused"], torch.full((2, 2), 0.8))
    hook(parameters, {"lobster": 1e9}, 0.1)
    assert torch.equal(weight.detach()[0, :3], torch.zeros(3))
    torch.testing.assert_close(weight.detach()[0, 3:], torch.full((2,), 2.0))


def test_a_step_that_is_tried_on_copies_sees_their_gradients() -> None:
    hook = load("lobster").optimizer
    assert hook is not None
    weight = torch.full((1, 2), 2.0, requires_grad=True)
    weight.grad = torch.tensor([[0.0, 1.0]])
    by_loss = {"w": torch.tensor([[1.0, 100.0]])}
    found = lookahead.change(hook, {"w": weight}, by_loss, {"lobster": 1.0}, 0.5)
    assert found == pytest.approx(-1.0)
    assert weight.detach().tolist() == [[2.0, 2.0]]


class Steep(Dense):
    """Its losses are large, so that weights have gradients near one."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return 30 * super().loss(model, batch)


def test_lobster_in_trials_that_are_packed_sees_the_gradients_of_each() -> None:
    record = {"lobster": load("lobster")}
    strengths, training = (0.0, 1.0, 4.0), replace(PLAIN, learning_rate=0.01)
    schedules = [constant(lobster=strength).schedule for strength in strengths]
    together: dict[int, list[Any]] = {0: [], 1: [], 2: []}
    for reached in train_together(Steep(), record, schedules, training, 0):
        for one in reached:
            together[one.member].append(one.measurement.metrics["val_loss"])
    decayed = run(Steep(), training, knobs={"weight_decay": 4.0})[-1].metrics["val_loss"]
    for member, strength in enumerate(strengths):
        alone = [m.metrics["val_loss"] for m in run(Steep(), training, knobs={"lobster": strength})]
        assert together[member] == pytest.approx(alone, rel=1e-4)
        if strength == 4.0:
            apart = abs(together[member][-1] - alone[-1])
            assert apart < 0.01 * abs(alone[-1] - decayed)


def measured(model: nn.Module, inputs: Tensor, passes: int = 1) -> Mapping[str, Tensor]:
    """The sensitivities of the rows after so many passes, on these inputs."""
    record = load("serene")
    assert record.remember is not None and record.learn is not None
    memory = record.remember(begun(model, []))
    rng = torch.Generator().manual_seed(0)
    batch = Batch(inputs, torch.zeros(len(inputs), dtype=torch.long))
    seen: Any = type("Seen", (), {"batch": batch, "again": staticmethod(model)})
    for _ in range(passes):
        record.learn(memory, seen, {"serene": 1.0}, rng)
    found: Mapping[str, Tensor] = memory.found
    return found


def test_the_sensitivity_of_serene_is_that_of_one_output_and_a_bound_for_several() -> None:
    single: Any = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1)).double()
    inputs = drawn(50, 4)
    active = (single[0](inputs) > 0).double()
    exact = (active * single[2].weight.abs()).mean(0).detach()
    found = measured(single, inputs)
    torch.testing.assert_close(found["0.weight"], exact)
    torch.testing.assert_close(found["2.weight"], torch.ones(1).double())
    several: Any = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5)).double()
    active = (several[0](inputs) > 0).double()
    whole = (active[:, None] * several[2].weight.abs()).mean((0, 1)).detach()
    found = measured(several, inputs)
    assert bool((found["0.weight"] <= whole + 1e-12).all())
    assert bool((found["0.weight"] > 0.2 * whole).all())
    torch.testing.assert_close(found["2.weight"], torch.full((5,), 0.2).double())


def test_a_neuron_that_speaks_for_one_class_as_much_as_against_another_is_sensitive() -> None:
    model: Any = nn.Sequential(nn.Linear(4, 1), nn.Linear(1, 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0], [-1.0]]))
    found = measured(model, drawn(400, 4))
    assert float(found["0.weight"]) == pytest.approx(0.5, abs=0.1)  # its full sensitivity is 1


def test_the_sensitivity_of_a_filter_is_that_of_its_bias() -> None:
    model: Any = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 1)
    ).double()
    inputs = drawn(9, 1, 4, 4)
    slope = [torch.autograd.grad(model(row[None]).sum(), model[0].bias)[0].abs() for row in inputs]
    torch.testing.assert_close(measured(model, inputs)["0.weight"], torch.stack(slope).mean(0))


def test_serene_shrinks_rows_that_do_not_matter_and_measures_every_tenth_pass() -> None:
    model: Any = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([-100.0, 100.0, 100.0]))  # the first is never active
        model[2].weight.copy_(torch.tensor([[1.0, 40.0, 0.5], [1.0, 9.0, 0.5]]))
    record, inputs = load("serene"), drawn(20, 4).float()
    assert record.optimizer is not None and record.remember is not None
    memory = record.remember(begun(model, []))
    before = weights(model)
    parameters = {n: p.detach() for n, p in model.named_parameters()}
    record.optimizer(memory, parameters, {"serene": 1.0}, 0.1)
    assert all(torch.equal(parameters[n], before[n]) for n in before), "nothing is known yet"
    memory.found = dict(measured(model, inputs))
    assert float(memory.found["0.weight"][0]) == 0 and float(memory.found["0.weight"][1]) > 1
    record.optimizer(memory, parameters, {"serene": 1.0}, 0.1)
    ratio = (parameters["0.weight"] / before["0.weight"]).mean(1)
    last = 1 - 0.1 * (1 - float(memory.found["0.weight"][2]))
    torch.testing.assert_close(ratio, torch.tensor([0.9, 1.0, last]))
    assert torch.equal(parameters["0.bias"], before["0.bias"])
    for passes, expected in ((1, 1), (10, 1), (11, 2), (30, 3)):
        calls: list[int] = []
        handle = model.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        measured(model, inputs, passes)
        handle.remove()
        assert len(calls) == expected


def test_serene_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(tmp_path: Any) -> None:
    training = replace(PLAIN, steps=24, evaluations=4)
    whole = run(Pictures(), training, knobs={"serene": 1.0})
    path = tmp_path / "checkpoint"
    generator = train(
        Pictures(), {"serene": load("serene")}, constant(serene=1.0), training, 0, checkpoint=path
    )
    first = [next(generator), next(generator)]
    generator.close()
    rest = run(Pictures(), training, knobs={"serene": 1.0}, checkpoint=path)
    assert numbers(first) == numbers(whole[:2])
    assert numbers(rest) == numbers(whole)


# -- uphill ------------------------------------------------------------------------------------


class Bowl(Blobs):
    """A quadratic: half of the curvature times the squared weight, the same for every example."""

    curvature = torch.tensor([1.0, 3.0, 0.5])

    def model(self, seed: int) -> nn.Module:
        model = nn.Linear(3, 1, bias=False)
        self.models.append(model)
        return model

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        weight: Any = model.weight
        once: Tensor = 0.5 * (self.curvature * weight.square()).sum()
        return once.expand(len(batch.targets)) * self.scale(batch)

    def scale(self, batch: Batch) -> Tensor:
        return torch.ones(len(batch.targets))


def stepped(task: Bowl, **knobs: float) -> tuple[Tensor, Tensor]:
    """The weight before and after one step at a learning rate of 0.1."""
    start = build(type(task)())
    run(task, replace(PLAIN, steps=1, evaluations=1), knobs=knobs)
    (before,), (after,) = start.parameters(), task.models[0].parameters()
    return before.detach(), after.detach()


def test_a_step_of_sam_on_a_quadratic_is_its_closed_form() -> None:
    before, after = stepped(task := Bowl(), sam=0.4)
    slope = task.curvature * before
    uphill = before + 0.4 * slope / slope.norm()
    torch.testing.assert_close(after, before - 0.1 * task.curvature * uphill)


def test_uphill_moves_by_the_strength_along_the_whole_gradient() -> None:
    hook = load("sam").ascent
    assert hook is not None
    parameters = {"a": drawn(3, 2), "b": drawn(4, seed=1), "c": drawn(2, seed=2)}
    gradients = {"a": 1e-30 * drawn(3, 2, seed=3), "b": 1e-30 * drawn(4, seed=4)}
    moved = hook(parameters, gradients, {"sam": 0.7})
    assert list(moved) == list(parameters) and moved["c"] is parameters["c"]
    steps = torch.cat([(moved[n] - parameters[n]).flatten() for n in ("a", "b")])
    assert float(steps.norm()) == pytest.approx(0.7)
    along = torch.cat([gradients[n].flatten() for n in ("a", "b")])
    assert float(functional.cosine_similarity(steps, along * 1e30, dim=0)) == pytest.approx(1.0)
    for nothing in (0.0, torch.tensor(0.0)):
        off = hook(parameters, gradients, {"sam": nothing})
        assert all(torch.equal(off[n], parameters[n]) for n in parameters)
    flat = hook(parameters, {n: torch.zeros_like(p) for n, p in parameters.items()}, {"sam": 0.7})
    assert all(torch.equal(flat[n], parameters[n]) for n in parameters)
    assert hook(parameters, {}, {"sam": 0.7}) == parameters


def test_rare_classes_are_those_below_a_share_of_the_mean() -> None:
    record = load("imbsam")
    assert record.remember is not None and record.rows is not None
    targets = torch.tensor([0] * 12 + [1] * 5 + [2] * 1)
    model = nn.Linear(2, 3)
    found = record.remember(begun(model, batches_of(torch.zeros(18, 2), targets)))
    assert found.tolist() == [12, 5, 1]
    some = Batch(torch.zeros(4, 2), torch.tensor([0, 1, 2, 1]))
    for tail, expected in ((0.1, []), (0.5, [2]), (1.0, [1, 2, 3]), (3.0, [0, 1, 2, 3])):
        chosen = record.rows(found, some, {"imbsam": 1.0, "imbsam_tail": tail})
        assert chosen.dtype == torch.bool and chosen.nonzero().flatten().tolist() == expected
    soft = some._replace(targets=functional.one_hot(some.targets, 3).float())
    chosen = record.rows(found, soft, {"imbsam": 1.0, "imbsam_tail": torch.tensor(0.5)})
    assert chosen.tolist() == [False, False, True, False]
    with pytest.raises(HpoError, match="class numbers"):
        record.remember(begun(model, [some], None))


class Lopsided(Bowl):
    """Class 2 is rare, and its losses count three times."""

    def __init__(self) -> None:
        super().__init__()
        inputs, targets = self.data["train"]
        targets = torch.tensor([0, 1] * 21 + [2] * 3)
        self.data["train"] = (inputs, targets)

    def batches(self, split: str, rng: torch.Generator) -> Iterator[Any]:
        inputs, targets = self.data[split]
        yield inputs, targets

    def scale(self, batch: Batch) -> Tensor:
        return torch.where(batch.targets == 2, 3.0, 1.0)


def test_a_step_of_imbsam_is_uphill_for_rare_classes_alone() -> None:
    before, after = stepped(task := Lopsided(), imbsam=0.4, imbsam_tail=0.5)
    slope = task.curvature * before
    uphill = task.curvature * (before + 0.4 * slope / slope.norm())
    mean = (42 * slope + 3 * 3 * uphill) / 45
    torch.testing.assert_close(after, before - 0.1 * mean)
    before, after = stepped(task := Lopsided(), imbsam=0.4, imbsam_tail=0.1)
    torch.testing.assert_close(after, before - 0.1 * (42 + 9) / 45 * task.curvature * before)


# -- types -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_strengths_in_every_shape_mean_the_same_and_single_precision_stays(name: str) -> None:
    model = Pictures().model(0)
    (record,) = bound({name: load(name)}, beginning(Pictures(), model, 0, CPU))[0].values()
    results = []
    for shape in ("float", "0-d", "(B,)"):
        torch.manual_seed(0)
        parameters = {n: p.detach() + 0.1 for n, p in model.named_parameters()}
        given: dict[str, Any] = middling(name)
        if shape != "float":
            given = {k: torch.tensor(v) for k, v in given.items()}
        if shape == "(B,)":
            given = {k: v.expand(6) for k, v in given.items()}
        found: list[Tensor] = []
        if record.penalty:
            found.append(record.penalty(parameters, given))
        if record.parameter:
            found += record.parameter(parameters, given, torch.Generator()).values()
        if record.ascent:
            gradients = {n: torch.ones_like(p) for n, p in parameters.items()}
            found += record.ascent(parameters, gradients, given).values()
        if record.optimizer:
            record.optimizer(parameters, given, 0.1)
            found += parameters.values()
        assert all(tensor.dtype == torch.float32 for tensor in found)
        results.append(torch.cat([tensor.flatten() for tensor in found]))
    torch.testing.assert_close(results[1], results[0])
    torch.testing.assert_close(results[2], results[0])


@pytest.mark.parametrize("name", PENALTIES)
def test_the_gradient_of_a_penalty_in_its_strength_is_what_it_adds(name: str) -> None:
    model = Pictures().model(0).double()
    start = begun(model, batches_of(drawn(14, 1, 6, 6), torch.zeros(14).long()))
    (record,) = bound({name: load(name)}, start)[0].values()
    assert record.penalty is not None and record.differentiable
    parameters = {n: p.detach() + 0.1 for n, p in model.named_parameters()}
    for knob, value in middling(name).items():

        def total(strength: Tensor, knob: str = knob) -> Tensor:
            assert record.penalty is not None
            found: Tensor = record.penalty(parameters, {**middling(name), knob: strength})
            return found

        at = torch.tensor(0.9 * value, dtype=torch.float64)
        assert float(gradient(total, at)) != 0
        torch.testing.assert_close(gradient(total, at), slopes(total, at), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", PENALTIES)
def test_second_derivatives_of_a_penalty_are_those_of_differences(name: str) -> None:
    model: Any = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    model.double()
    start = begun(model, batches_of(drawn(7, 1, 3, 3), torch.zeros(7).long()), 2)
    (record,) = bound({name: load(name)}, start)[0].values()
    names = ["0.weight", "1.weight", "3.weight"]
    h = {**middling(name), name: 1.0}

    def total(*tensors: Tensor) -> Tensor:
        assert record.penalty is not None
        found: Tensor = record.penalty(dict(zip(names, tensors, strict=True)), h)
        return found

    leaves = [drawn(*model.get_parameter(n).shape, seed=k) for k, n in enumerate(names)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    assert torch.autograd.gradgradcheck(total, leaves)
