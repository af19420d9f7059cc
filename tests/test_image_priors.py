"""Priors on pictures: as formulas, as regularizers of what a model puts out, as inner problems."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from search_spaces import Batch, HpoError
from search_spaces.catalogue import load
from search_spaces.passes import Pass
from search_spaces.regularizer import Regularizer
from search_spaces.regularizers.field_of_experts import cosines, experts, orders
from search_spaces.regularizers.graph_laplacian import graph_energy, offsets
from search_spaces.regularizers.sobolev import centred, sobolev
from search_spaces.regularizers.tv import total_variation

NAMES = ("field_of_experts", "graph_laplacian", "sobolev", "tv")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=rng, dtype=torch.float64)


def passed(outputs: Tensor) -> Pass:
    batch = Batch(outputs, outputs)
    return Pass(
        nn.Identity(), batch, batch, outputs, again=lambda x: x, embed=lambda x: x,
        view=lambda: batch,
    )  # fmt: skip


def value(name: str, h: Mapping[str, Any], outputs: Tensor) -> Tensor:
    hook = load(name).loss_output
    assert hook is not None
    found: Tensor = hook(passed(outputs), h, torch.Generator())
    return found


def strengths(record: Regularizer, unit: float = 0.6) -> dict[str, Tensor]:
    numbers = {name: domain.from_unit(unit) for name, domain in record.knobs.items()}
    return {name: torch.tensor(number, dtype=torch.float64) for name, number in numbers.items()}


# as regularizers


@pytest.mark.parametrize("name", NAMES)
def test_a_constant_picture_costs_nothing_and_noise_does(name: str) -> None:
    h = strengths(load(name))
    flat = torch.full((2, 3, 8, 8), 0.7, dtype=torch.float64)
    torch.testing.assert_close(value(name, h, flat), torch.zeros(2).double(), rtol=0, atol=1e-9)
    found = value(name, h, flat + 0.1 * (drawn(2, 3, 8, 8) - 0.5))
    assert bool((found > 1e-6).all())


@pytest.mark.parametrize("name", NAMES)
def test_an_example_has_its_own_strength_and_off_is_zero(name: str) -> None:
    record, outputs = load(name), drawn(4, 2, 6, 5)
    h = strengths(record)
    shared = value(name, h, outputs)
    assert shared.shape == (4,)
    each = {knob: number.expand(4).clone() for knob, number in h.items()}
    torch.testing.assert_close(value(name, each, outputs), shared)
    for knob in record.knobs:
        changed = each[knob].clone()
        changed[1] *= 0.5
        moved = value(name, {**each, knob: changed}, outputs)
        assert torch.equal(moved[[0, 2, 3]], value(name, each, outputs)[[0, 2, 3]])
        assert float(moved[1]) != float(shared[1])
    assert torch.equal(value(name, {**h, name: 0.0}, outputs), torch.zeros(4).double())


@pytest.mark.parametrize("name", NAMES)
def test_gradients_in_knobs_and_pixels_are_those_of_finite_differences(name: str) -> None:
    outputs, h = drawn(3, 2, 6, 6), strengths(load(name))
    for knob in h:
        assert torch.autograd.gradcheck(
            lambda k, knob=knob: value(name, {**h, knob: k}, outputs).sum(),
            (h[knob].clone().requires_grad_(),), eps=1e-6, atol=1e-7,
        )  # fmt: skip
    if name != "graph_laplacian":  # whose guide is the picture, as a constant
        assert torch.autograd.gradcheck(
            lambda x: value(name, h, x).sum(), (outputs.clone().requires_grad_(),), atol=1e-6
        )


@pytest.mark.parametrize("name", NAMES)
def test_the_size_of_pictures_does_not_change_the_scale(name: str) -> None:
    h = strengths(load(name))
    small, large = (value(name, h, drawn(64, 1, n, n, seed=n)).mean() for n in (16, 48))
    assert float(large) == pytest.approx(float(small), rel=0.15)


@pytest.mark.parametrize("name", NAMES)
def test_single_precision_stays(name: str) -> None:
    h = {knob: number.float() for knob, number in strengths(load(name)).items()}
    assert value(name, h, drawn(2, 1, 6, 6).float()).dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 6), (4, 1, 1, 6)])
def test_models_that_put_out_no_pictures_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(HpoError, match="outputs are pictures") as caught:
        value(name, strengths(load(name)), torch.zeros(shape))
    assert caught.value.code == "bad-batch"


# total variation


def test_the_total_variation_of_a_step_is_its_height_times_the_length_of_its_edge() -> None:
    picture = torch.zeros(2, 8, 8, dtype=torch.float64)
    picture[1, :, 4:] = 3.0
    assert total_variation(picture, 0.0).tolist() == [0.0, 24.0]
    assert float(total_variation(picture, 0.1)[0]) == pytest.approx(0.1 * 64)


def test_a_smaller_smoothness_comes_closer_to_the_plain_total_variation() -> None:
    picture = drawn(1, 9, 9)
    plain = float(total_variation(picture, 0.0))
    excess = [float(total_variation(picture, smooth)) - plain for smooth in (1e-3, 1e-2, 1e-1)]
    assert 0 < excess[0] < excess[1] < excess[2]


# fields of experts


@pytest.mark.parametrize("width", [2, 3, 5])
def test_the_cosine_filters_are_orthonormal_and_see_no_constant(width: int) -> None:
    filters = torch.tensor(cosines(width), dtype=torch.float64).view(-1, width**2)
    torch.testing.assert_close(filters @ filters.T, torch.eye(width**2 - 1).double())
    torch.testing.assert_close(filters.sum(1), torch.zeros(width**2 - 1).double())
    assert len(orders(width)) == width**2 - 1


def test_experts_with_two_difference_filters_count_both_directions() -> None:
    filters = torch.tensor([[[-1.0, 1.0], [0.0, 0.0]], [[-1.0, 0.0], [1.0, 0.0]]]).double()
    x = drawn(2, 3, 6, 7)
    weight = torch.tensor([2.0, 5.0]).double().view(2, 1, 1)
    edge = nn.functional.pad(x, (1, 0, 1, 0), mode="replicate")
    across, down = (
        edge[..., :-1, 1:] - edge[..., :-1, :-1],
        edge[..., 1:, :-1] - edge[..., :-1, :-1],
    )
    expected = (2 * across.abs() + 5 * down.abs()).sum((1, 2, 3))
    torch.testing.assert_close(experts(x, filters, weight, 0.0), expected)


def test_the_tilt_says_whether_fine_or_coarse_structure_counts() -> None:
    places = torch.arange(24).double()
    fine = (-1.0) ** places.expand(1, 1, 24, 24)
    coarse = (places / 4).cos().expand(1, 1, 24, 24)
    h = {"field_of_experts": 1.0, "field_of_experts_smooth": 1e-3}
    for picture, sign in ((fine, 1), (coarse, -1)):
        up, down = (
            float(value("field_of_experts", {**h, "field_of_experts_tilt": tilt}, picture))
            for tilt in (1.5, -1.5)
        )
        assert sign * (up - down) > 0


# Sobolev norms


def test_order_zero_is_the_squared_length() -> None:
    x = drawn(2, 3, 7, 10)
    torch.testing.assert_close(sobolev(x, 0.0), x.square().sum((-2, -1)))
    torch.testing.assert_close(sobolev(x, torch.tensor(0.0)), x.square().sum((-2, -1)))


@pytest.mark.parametrize("order", [-2.0, -0.5, 1.0, 2.0])
def test_a_wave_counts_as_its_frequency_says(order: float) -> None:
    places = torch.arange(16).double()
    wave = (2 * math.pi * 3 * places / 16).cos().expand(16, 16)
    weight = (1 + (2 * math.pi * 3 / 16) ** 2) ** order
    assert float(sobolev(wave, order)) == pytest.approx(weight * 128)
    assert float(sobolev(centred(wave + 5), order)) == pytest.approx(weight * 128)


def test_orders_have_a_place_for_each_example() -> None:
    x = drawn(3, 1, 6, 6)
    own = sobolev(x, torch.tensor([0.0, 1.0, -1.0]).double().view(3, 1, 1, 1))
    for row, order in enumerate((0.0, 1.0, -1.0)):
        torch.testing.assert_close(own[row], sobolev(x[row], order))


# graph Laplacian


@pytest.mark.parametrize("radius", [1, 2, 3])
def test_the_graph_energy_is_the_quadratic_form_of_the_explicit_matrix(radius: int) -> None:
    height, across, width = 4, 5, 0.4
    x, guide = drawn(1, 2, height, across), drawn(1, 3, height, across, seed=1)
    places = [(i, j) for i in range(height) for j in range(across)]
    weights = torch.zeros(len(places), len(places), dtype=torch.float64)
    for a, (i, j) in enumerate(places):
        for b, (k, m) in enumerate(places):
            if 0 < (i - k) ** 2 + (j - m) ** 2 <= radius**2:
                apart = float((guide[0, :, i, j] - guide[0, :, k, m]).square().sum())
                weights[a, b] = math.exp(-apart / (2 * width**2))
    laplacian = weights.sum(1).diag() - weights
    flat = x[0].flatten(1)
    expected = torch.einsum("ci,ij,cj->", flat, laplacian, flat)
    torch.testing.assert_close(graph_energy(x, guide, width, radius)[0], expected)


def test_neighbours_are_counted_once() -> None:
    for radius, count in ((1, 2), (2, 6), (3, 14)):
        steps = offsets(radius)
        assert len(steps) == count == len(set(steps))
        assert not {(-down, -across) for down, across in steps} & set(steps)


def test_pixels_that_the_guide_tells_apart_are_free_to_differ() -> None:
    step = torch.zeros(1, 1, 6, 6, dtype=torch.float64)
    step[..., 3:] = 1.0
    flat = torch.zeros_like(step)
    assert float(graph_energy(step, step, 0.1, 2)) < 1e-10 < float(graph_energy(step, flat, 0.1, 2))


# as inner problems


def test_sobolev_denoising_is_a_filter_of_frequencies() -> None:
    pytest.importorskip("skimage", reason="the photographs are its")
    from objectives.sobolev_denoise import SobolevDenoise

    problem = SobolevDenoise(size=16, pictures=2)
    h = {k: torch.tensor(v, dtype=torch.float64) for k, v in (("strength", 0.3), ("order", 0.8))}
    noisy = problem.init_params(0)
    xi = 2 * math.pi * torch.fft.fftfreq(16, dtype=torch.float64)
    gain = 1 / (1 + 0.3 * (1 + xi[:, None] ** 2 + xi[None, :] ** 2) ** 0.8)
    gain[0, 0] = 1.0  # the mean stays
    solution = torch.fft.ifft2(gain * torch.fft.fft2(noisy)).real.requires_grad_()
    (slope,) = torch.autograd.grad(problem.inner_loss(solution, h).sum(), solution)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-12)


def test_graph_laplacian_denoising_has_one_solution_for_each_photograph() -> None:
    pytest.importorskip("skimage", reason="the photographs are its")
    from objectives.graph_laplacian_denoise import GraphLaplacianDenoise

    problem = GraphLaplacianDenoise(size=12, pictures=2)
    h = {"strength": torch.tensor(0.5).double(), "width": torch.tensor(0.1).double()}
    x = problem.init_params(0).requires_grad_()
    loss = problem.inner_loss(x, h)
    assert loss.shape == (2,)
    # The inner problem is quadratic, and constants cost nothing but their misfit.
    hessian = torch.autograd.functional.hessian(
        lambda flat: problem.inner_loss(flat.view(2, 12, 12), h).sum(), x.detach().flatten()
    )
    assert float(torch.linalg.eigvalsh(hessian).min()) == pytest.approx(1.0)
    across = hessian[:144, 144:]
    assert not bool(across.any())  # photographs are problems of their own


# the task


def test_denoising_patches_come_from_photographs_of_one_split_alone() -> None:
    pytest.importorskip("skimage", reason="the photographs are its")
    from objectives.denoise import Denoise

    task = Denoise(train_patches=256)
    rows = {
        split: torch.cat([b.targets for b in task.batches(split, torch.Generator())])
        for split in task.splits
    }
    assert {split: len(found) for split, found in rows.items()} == {
        "train": 256, "validation": 64, "selection": 64, "test": 128,
    }  # fmt: skip
    seen: set[bytes] = set()
    for found in rows.values():
        own = {row.numpy().tobytes() for row in found}
        assert not own & seen
        seen |= own
    again = Denoise(train_patches=256, data_seed=1)
    other = next(iter(again.batches("validation", torch.Generator()))).targets
    assert not torch.equal(other, rows["validation"])


def test_the_denoiser_begins_as_the_identity_with_a_loss_of_one() -> None:
    pytest.importorskip("skimage", reason="the photographs are its")
    from objectives.denoise import Denoise

    task = Denoise(sigma=0.2)
    model = task.model(0)
    batch = next(iter(task.batches("validation", torch.Generator())))
    assert torch.equal(model(batch.inputs), batch.inputs)
    loss = task.loss(model, batch)
    assert loss.shape == (64,)
    assert float(loss.detach().mean()) == pytest.approx(1, abs=0.02)
    found = task.metrics(model, batch)["psnr"].detach().mean()
    assert float(found) == pytest.approx(-20 * math.log10(0.2), abs=0.1)


@pytest.mark.parametrize(
    "options", [{"sigma": 0.0}, {"sigma": -1.0}, {"patch": 4}, {"train_patches": 10_000}]
)
def test_options_that_make_no_task_are_refused(options: dict[str, Any]) -> None:
    from objectives.denoise import Denoise

    with pytest.raises(HpoError):
        dataclasses.replace(Denoise(), **options)
