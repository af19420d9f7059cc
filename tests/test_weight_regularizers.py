"""Regularizers that act on weights and on the step: closed forms, gradients, three kinds of model.

Run with: pytest tests/test_weight_regularizers.py
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from toy_tasks import Blobs, constant, numbers, regularizers, run, weights

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
    steps=6, evaluations=2, optimizer="sgd", learning_rate=0.1, learning_rate_schedule="constant"
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
    plain, acted, off = TASKS[kind](), TASKS[kind](), TASKS[kind]()
    run(plain, training)
    found = run(acted, training, knobs=knobs)
    assert all(math.isfinite(m.metrics["val_loss"]) for m in found)
    run(off, training, knobs={**knobs, name: 0.0})
    changed = False
    for key, expected in weights(plain.models[0]).items():
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
    with pytest.raises(HpoError, match="both say where the gradient is taken"):
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
