"""The formulas of terms on embeddings and of dependence, against closed forms and naive loops."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap

from search_spaces import Batch, HpoError
from search_spaces.catalogue import load
from search_spaces.passes import Pass, embedding
from search_spaces.regularizer import Regularizer
from search_spaces.regularizers import _embeddings, distance_covariance, functional_entropy, msbreg
from search_spaces.regularizers.barlow import barlow
from search_spaces.regularizers.dispersive import dispersion
from search_spaces.regularizers.e2mc import marginal_entropies, shortfall
from search_spaces.regularizers.hsic import hsic, kernel
from search_spaces.regularizers.isotropy import isoscore
from search_spaces.regularizers.mixed_barlow import mixed_barlow
from search_spaces.regularizers.vicreg import covariance, invariance, variance
from search_spaces.regularizers.whitening import agreement, whitened

TWO_VIEWS = ("barlow", "mixed_barlow", "msbreg", "vicreg", "whitening")
NAMES = (*TWO_VIEWS, "dispersive", "distance_covariance", "e2mc", "functional_entropy", "hsic",
         "isotropy")  # fmt: skip


def draws(*shape: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def normal_quantiles(rows: int) -> Tensor:
    """As a sample from the normal distribution would be without chance, (rows, 1)."""
    return torch.special.ndtri((torch.arange(rows).double() + 0.5) / rows)[:, None]


def orthonormal(rows: int, width: int, seed: int = 0) -> Tensor:
    """Columns of mean zero that are orthogonal to each other and have mean square 1."""
    basis = torch.linalg.qr(torch.cat([torch.ones(rows, 1), draws(rows, width, seed=seed)], 1))[0]
    return basis[:, 1:] * math.sqrt(rows)


class Net(nn.Module):
    """A network whose features are known: what its last layer is given."""

    def __init__(self, network: nn.Sequential) -> None:
        super().__init__()
        self.network = network

    def features(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.network[:-1](inputs)
        return found

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.network(inputs)
        return found


def network(dtype: torch.dtype = torch.float64) -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 5)
        return Net(nn.Sequential(nn.Flatten(), *layers)).to(dtype)


def passed(model: Net | None = None, rows: int = 20, dtype: torch.dtype = torch.float64) -> Pass:
    """A pass of that network on inputs (rows, 3, 2, 2), whose second view adds fixed noise."""
    model = model or network(dtype)
    inputs = draws(rows, 3, 2, 2, seed=1).to(dtype)
    other = inputs + 0.3 * draws(rows, 3, 2, 2, seed=2).to(dtype)
    batch = Batch(inputs, torch.arange(rows) % 5)
    return Pass(
        model, batch, batch, model(inputs), again=model,
        embed=lambda x: embedding(model.features(x), rows, "a term"),
        view=lambda: batch._replace(inputs=other), features=model.features(inputs),
    )  # fmt: skip


def hook(name: str) -> Callable[..., Tensor]:
    found = load(name).loss_batch
    assert found is not None
    return found


def value(name: str, h: Mapping[str, float | Tensor], p: Pass, seed: int = 0) -> Tensor:
    return hook(name)(p, h, torch.Generator().manual_seed(seed))


def strengths(record: Regularizer, unit: float = 0.6) -> dict[str, Tensor]:
    numbers = {name: domain.from_unit(unit) for name, domain in record.knobs.items()}
    return {name: torch.tensor(number, dtype=torch.float64) for name, number in numbers.items()}


def off(record: Regularizer) -> dict[str, float]:
    return {n: float(d.start_value() if d.off is None else d.off) for n, d in record.knobs.items()}


# what all terms promise


@pytest.mark.parametrize("name", NAMES)
def test_switched_off_a_term_is_zero_and_it_draws_as_much(name: str) -> None:
    record, ends = load(name), []
    for h in (off(record), strengths(record, 0.3), strengths(record, 0.9)):
        rng = torch.Generator().manual_seed(3)
        found = hook(name)(passed(), h, rng)
        assert found.shape == ()
        ends.append((found, rng.get_state()))
    assert torch.equal(ends[0][0], torch.zeros_like(ends[0][0]))
    assert float(ends[1][0].detach()) != 0
    assert all(torch.equal(state, ends[0][1]) for _, state in ends)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    record, p = load(name), passed()
    h = strengths(record)
    for knob in record.knobs:
        leaf = h[knob].clone().requires_grad_()
        (slope,) = torch.autograd.grad(value(name, {**h, knob: leaf}, p), leaf)
        step = 1e-5 * float(h[knob])
        ends = [value(name, {**h, knob: h[knob] + s * step}, p).detach() for s in (1, -1)]
        assert float(slope) != 0
        torch.testing.assert_close(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("hsic", "msbreg")])
def test_the_gradient_in_the_weights_is_that_of_finite_differences(name: str) -> None:
    """Left out: two that take something as a constant that follows from the weights."""
    model, h = network(), strengths(load(name))
    weight = model.network[1].weight
    (slope,) = torch.autograd.grad(value(name, h, passed(model)), weight)
    direction = draws(*weight.shape, seed=4)
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * 1e-5 * direction
        ends.append(value(name, h, passed(model)).detach())
        with torch.no_grad():
            weight -= sign * 1e-5 * direction
    expected = (ends[0] - ends[1]) / 2e-5
    torch.testing.assert_close((slope * direction).sum(), expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_second_derivatives_exist(name: str) -> None:
    """Hypergradients through training need that of a knob and a weight."""
    model, record = network(), load(name)
    h = strengths(record)
    first = next(iter(record.knobs))
    leaf = h[first].requires_grad_()
    weight = model.network[1].weight
    total = value(name, {**h, first: leaf}, passed(model))
    (slope,) = torch.autograd.grad(total, weight, create_graph=True)
    (mixed,) = torch.autograd.grad(slope.square().sum(), leaf)
    assert bool(mixed.isfinite()) and float(mixed) != 0


@pytest.mark.parametrize("name", NAMES)
def test_dead_units_single_rows_and_equal_rows_give_finite_gradients(name: str) -> None:
    record = load(name)
    for rows, dead in ((1, False), (2, False), (20, True)):
        model = network(torch.float32)
        if dead:  # all features are the same
            with torch.no_grad():
                model.network[3].weight.zero_()
        h = {knob: number.float() for knob, number in strengths(record).items()}
        found = value(name, h, passed(model, rows, torch.float32))
        assert found.dtype == torch.float32 and bool(found.isfinite()), (rows, dead)
        if found.requires_grad:
            gradients = torch.autograd.grad(found, list(model.parameters()), allow_unused=True)
            assert all(bool(g.isfinite().all()) for g in gradients if g is not None), (rows, dead)


@pytest.mark.parametrize("name", NAMES)
def test_one_strength_for_each_example_counts_as_their_mean(name: str) -> None:
    record, p = load(name), passed()
    h = strengths(record)
    spread = {knob: number * torch.linspace(0.5, 1.5, 20).double() for knob, number in h.items()}
    torch.testing.assert_close(value(name, spread, p), value(name, h, p))


@pytest.mark.parametrize("name", [n for n in NAMES if not load(n).once])
def test_members_of_an_ensemble_can_be_computed_at_once(name: str) -> None:
    record, p = load(name), passed()
    first = next(iter(record.knobs))
    h = strengths(record)
    assert p.features is not None
    features = torch.stack([p.features, 2 * p.features + draws(20, 8)])
    own = torch.tensor([0.1, 0.3], dtype=torch.float64)

    def one(features: Tensor, strength: Tensor) -> Tensor:
        here = Pass(p.model, p.raw, p.batch, p.outputs, p.again, p.embed, p.view, features)
        return value(name, {**h, first: strength}, here)

    both = vmap(one, randomness="same")(features, own)
    for row in range(2):
        torch.testing.assert_close(both[row], one(features[row], own[row]))


@pytest.mark.parametrize("name", [n for n in NAMES if n != "functional_entropy"])
def test_a_model_without_a_linear_layer_is_refused(name: str) -> None:
    p = passed()
    bare = Pass(p.model, p.raw, p.batch, p.outputs, p.again, p.embed, p.view)
    with pytest.raises(HpoError, match=r"nn\.Linear"):
        value(name, strengths(load(name)), bare)


def test_where_nothing_changes_inputs_the_second_view_has_noise_of_its_own() -> None:
    p, rng = passed(), torch.Generator().manual_seed(0)
    assert torch.equal(_embeddings.second_view(p, rng), p.view().inputs)
    still = dataclasses.replace(p, view=lambda: p.raw)
    noise = _embeddings.second_view(still, rng) - p.raw.inputs
    assert float(noise.std() / p.raw.inputs.std()) == pytest.approx(0.1, rel=0.15)
    words = Batch(torch.zeros(20, 3, dtype=torch.long), p.raw.targets)
    tokens = dataclasses.replace(p, raw=words, view=lambda: words)
    assert _embeddings.second_view(tokens, rng) is words.inputs


# VICReg


def test_vicreg_is_zero_for_equal_views_that_vary_and_do_not_repeat() -> None:
    rows = 2 * orthonormal(12, 4)
    assert float(invariance(rows, rows)) == 0
    assert float(variance(rows)) == 0
    assert float(covariance(rows)) == pytest.approx(0, abs=1e-20)


def test_vicreg_closed_forms() -> None:
    rows = draws(9, 3)
    assert float(invariance(rows, rows + 2)) == pytest.approx(4)
    assert float(variance(torch.zeros(5, 3))) == pytest.approx(1 - 0.01)  # root of epsilon
    found = torch.cov(rows.T)
    expected = sum(float(found[i, j]) ** 2 for i in range(3) for j in range(3) if i != j) / 3
    assert float(covariance(rows)) == pytest.approx(expected)
    hinge = sum(max(0.0, 1 - math.sqrt(float(found[i, i]) + 1e-4)) for i in range(3)) / 3
    assert float(variance(rows)) == pytest.approx(hinge)


# Barlow Twins


def test_barlow_is_zero_for_equal_whitened_views_and_counts_repetition() -> None:
    rows = orthonormal(12, 4)
    assert float(barlow(rows, rows, 1.0)) == pytest.approx(0, abs=1e-8)
    same = rows[:, :1].expand(-1, 4)
    # All entries of C are 1: nothing on the diagonal, 12 beside it.
    assert float(barlow(same, same, 0.5)) == pytest.approx(0.5 * 12 / 4, rel=1e-4)
    assert float(barlow(rows, -rows, 0.0)) == pytest.approx(4, rel=1e-4)


def test_barlow_does_not_depend_on_scale_or_shift() -> None:
    first, second = draws(30, 5), draws(30, 5, seed=1)
    moved = barlow(100 * first + 3, 50 * second - 1, 0.1)
    assert float(moved) == pytest.approx(float(barlow(first, second, 0.1)), rel=1e-4)


def test_mixed_barlow_is_what_the_correlations_of_a_blend_lack() -> None:
    first, partner = orthonormal(16, 3), orthonormal(16, 3, seed=5)
    share = torch.full((16,), 0.7, dtype=torch.float64)
    expected = 0.7 * _embeddings.standardised(first) + 0.3 * _embeddings.standardised(partner)
    mean_zero = expected - expected.mean(0)
    error = _embeddings.standardised(mean_zero) - expected
    by_hand = sum(float((error.T @ part / 16).square().sum()) for part in
                  (_embeddings.standardised(first), _embeddings.standardised(partner)))  # fmt: skip
    found = mixed_barlow(mean_zero, first, partner, share)
    assert float(found) == pytest.approx(by_hand / 6)
    ones = torch.ones(16, dtype=torch.float64)
    assert float(mixed_barlow(first, first, partner, ones)) == pytest.approx(0, abs=1e-12)
    assert float(mixed_barlow(partner, first, partner, ones)) > 0.1


# MSBReg


def test_msbreg_terms_do_what_they_are_described_to_do() -> None:
    unit = nn.functional.normalize(draws(30, 4), dim=1)
    assert float(msbreg.centroid(unit, unit)) == 0
    assert float(msbreg.centroid(unit, -unit)) == pytest.approx(1)
    collapsed = unit[:1].expand(30, 4)
    assert float(msbreg.singular_values(collapsed)) == pytest.approx(1)
    even = torch.cat([torch.eye(4), -torch.eye(4)]).double()
    assert float(msbreg.singular_values(even)) == pytest.approx(0, abs=1e-12)
    singular = torch.linalg.svdvals(unit)
    share = singular.square() / 30
    assert float(msbreg.singular_values(unit)) == pytest.approx(float(4 * share @ share - 1) / 3)


def test_the_brownian_push_has_no_direction_on_average_and_grows_with_the_step() -> None:
    unit = nn.functional.normalize(draws(1, 6), dim=1).expand(20000, 6).clone().requires_grad_()
    sizes = []
    for step in (0.05, 0.1):
        rng = torch.Generator().manual_seed(0)
        (push,) = torch.autograd.grad(msbreg.brownian(unit, step, rng) * 20000, unit)
        along = push - (push * unit).sum(1, keepdim=True) * unit.detach()
        sizes.append(float(along.detach().square().sum(1).mean().sqrt()))
        assert float(along.detach().mean(0).norm()) < 0.05 * sizes[-1]
    assert sizes[1] == pytest.approx(2 * sizes[0], rel=0.02)
    assert sizes[0] == pytest.approx(0.05 * math.sqrt(5 / 6), rel=0.02)


# dispersive, whitening


def test_dispersion_runs_from_zero_to_minus_log_of_the_rows() -> None:
    rows = draws(8, 3)
    assert float(dispersion(rows[:1].expand(8, 3), 0.5)) == pytest.approx(0)
    assert float(dispersion(1e4 * rows, 0.5)) == pytest.approx(-math.log(8))
    pairs = [math.exp(-float((a - b).square().sum()) / 3 / 0.5) for a in rows for b in rows]
    assert float(dispersion(rows, 0.5)) == pytest.approx(math.log(sum(pairs) / 64))


def test_whitening_leaves_the_identity_for_covariance() -> None:
    rows = draws(50, 6) @ draws(6, 6, seed=1) + 3
    torch.testing.assert_close(torch.cov(whitened(rows, 0.0).T), torch.eye(6).double())
    # With eps the directions of little variance stay small.
    soft = torch.linalg.eigvalsh(torch.cov(whitened(rows, 0.1).T))
    assert float(soft.max()) < 1 / 0.9 and float(soft.min()) < 0.9


def test_whitening_survives_fewer_rows_than_dimensions_and_nan() -> None:
    rows = draws(4, 10).float()
    assert bool(whitened(rows, 1e-3).isfinite().all())
    assert bool(whitened(torch.ones(4, 10), 1e-3).isfinite().all())
    whitened(torch.full((4, 10), torch.nan), 1e-3)  # no error: a run ends by its loss


def test_agreement_is_two_minus_twice_the_cosine() -> None:
    first, second = draws(7, 3), draws(7, 3, seed=1)
    cosine = nn.functional.cosine_similarity(first, second).mean()
    assert float(agreement(first, second)) == pytest.approx(float(2 - 2 * cosine))


# entropy, isotropy


def test_marginal_entropies_are_those_of_known_densities() -> None:
    uniform = torch.rand(4000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = marginal_entropies(torch.stack([uniform[:, 0], 5 * uniform[:, 1]], 1))
    assert float(found[0]) == pytest.approx(0, abs=0.05)
    assert float(found[1]) == pytest.approx(math.log(5), abs=0.05)
    normal = marginal_entropies(normal_quantiles(4000))
    assert float(normal) == pytest.approx(0.5 * math.log(2 * math.pi * math.e), abs=0.05)
    torch.testing.assert_close(
        marginal_entropies(draws(200, 3) + 7), marginal_entropies(draws(200, 3))
    )


def test_independent_normal_dimensions_have_the_least_shortfall() -> None:
    rows = draws(1000, 4)
    best = float(shortfall(rows, 1.0))
    assert abs(best) < 0.1
    assert float(shortfall(5 * rows - 2, 1.0)) == pytest.approx(best, abs=1e-3)
    assert float(shortfall(rows.sign() + 0.1 * rows, 1.0)) > best + 0.3  # two clusters
    repeated = rows[:, :1].expand(-1, 4)
    assert float(shortfall(repeated, 1.0)) == pytest.approx(best + 1, abs=0.1)


def test_isoscore_is_the_one_from_eigenvalues() -> None:
    rows, share = draws(40, 5) @ draws(5, 5, seed=1), 0.3
    found = torch.cov(rows.T)
    shrunk = (1 - share) * found + share * found.diagonal().mean() * torch.eye(5).double()
    values = torch.linalg.eigvalsh(shrunk)
    scaled = math.sqrt(5) * values / values.norm()
    defect = (scaled - 1).norm() / math.sqrt(2 * (5 - math.sqrt(5)))
    score = ((5 - defect**2 * (5 - math.sqrt(5))) ** 2 - 5) / (5 * 4)
    assert float(isoscore(rows, share)) == pytest.approx(float(score))
    assert float(isoscore(orthonormal(12, 4), 0.0)) == pytest.approx(1)
    line = draws(30, 1) @ draws(1, 4, seed=1)
    assert float(isoscore(line, 0.0)) == pytest.approx(0, abs=1e-9)
    assert float(isoscore(line, 1.0)) == pytest.approx(1)


# functional entropy


def test_the_information_of_a_logistic_model_is_known() -> None:
    inputs = draws(6, 3, seed=1).requires_grad_()
    weight = draws(3, seed=2)
    logit = inputs @ weight
    logits = torch.stack([torch.zeros_like(logit), logit], 1)
    found = torch.zeros(6, 3, dtype=torch.float64)
    for first in (1.0, -1.0):
        for second in (1.0, -1.0):
            signs = torch.tensor([first, second], dtype=torch.float64).expand(6, 2)
            found = found + functional_entropy.information(logits, inputs, signs) / 4
    p = logit.sigmoid()
    torch.testing.assert_close(found, (p * (1 - p))[:, None] * weight**2)


def test_the_information_bounds_the_entropy_of_the_prediction_under_noise() -> None:
    """The log-Sobolev inequality: sum_c Ent(p_c) <= sigma^2 / 2 * E sum_c |grad p_c|^2 / p_c."""
    model, sigma = network(), 0.5
    centre = draws(1, 3, 2, 2, seed=9)
    inputs = (centre + sigma * draws(20000, 3, 2, 2, seed=3)).requires_grad_()
    logits = 3 * model(inputs)
    signs = draws(20000, 5, seed=6).sign()
    information = functional_entropy.information(logits, inputs, signs).sum(1).mean()
    p = logits.softmax(1).detach()
    entropy = ((p * p.log()).mean(0) - p.mean(0) * p.mean(0).log()).sum()
    bound = sigma**2 / 2 * float(information.detach())
    assert 0.5 * bound < float(entropy) < 1.02 * bound


def test_functional_entropy_falls_when_a_neglected_part_is_heard() -> None:
    class Weighted(Net):
        def __init__(self, weights: Tensor) -> None:
            super().__init__(network().network)
            self.weights = weights

        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs * self.weights)

    found = []
    for weights in ((1.0, 1.0, 0.01), (1.0, 1.0, 1.0)):
        model = Weighted(torch.tensor(weights, dtype=torch.float64).view(3, 1, 1))
        h = {"functional_entropy": 1.0, "functional_entropy_noise": 0.1}
        found.append(float(value("functional_entropy", h, passed(model)).detach()))
    assert found[1] < found[0] - 1


def test_functional_entropy_refuses_tokens_and_regression() -> None:
    h = strengths(load("functional_entropy"))
    p = passed()
    tokens = Batch(torch.zeros(20, 3, dtype=torch.long), p.batch.targets)
    with pytest.raises(HpoError, match="floating-point"):
        value(
            "functional_entropy",
            h,
            Pass(p.model, tokens, tokens, p.outputs, p.again, p.embed, p.view),
        )
    single = Pass(p.model, p.raw, p.batch, p.outputs[:, :1], p.again, p.embed, p.view)
    with pytest.raises(HpoError, match="two or more classes"):
        value("functional_entropy", h, single)


# dependence


def test_distance_covariance_is_the_naive_sum() -> None:
    first, second = draws(7, 2), draws(7, 3, seed=1)

    def centred(rows: Tensor) -> list[list[float]]:
        n = len(rows)
        d = [[float((a - b).norm()) for b in rows] for a in rows]
        row = [sum(line) / n for line in d]
        total = sum(row) / n
        return [[d[i][j] - row[i] - row[j] + total for j in range(n)] for i in range(n)]

    a, b = centred(first), centred(second)
    naive = sum(a[i][j] * b[i][j] for i in range(7) for j in range(7)) / 49
    assert float(distance_covariance.distance_covariance(first, second)) == pytest.approx(naive)


def test_distance_covariance_tells_dependence_from_independence() -> None:
    of = distance_covariance.dependence
    x, noise = draws(400, 1), draws(400, 1, seed=1)
    itself = float(of(x, x))
    assert float(of(x, -3 * x + 5)) == pytest.approx(itself)  # linear: the same whatever the scale
    assert float(of(x, noise)) < 0.03 * itself
    assert float(of(x, x.square())) > 5 * float(of(x, noise))  # uncorrelated, yet dependent
    # For a normal variable dVar^2 = 4 (1 + pi/3 - sqrt(3)) / pi, and E |x - x'| = 2 / sqrt(pi).
    many = normal_quantiles(2000)
    known = 4 * (1 + math.pi / 3 - math.sqrt(3)) / math.pi
    found = float(distance_covariance.distance_covariance(many, many))
    assert found == pytest.approx(known, rel=0.01)
    assert float(of(many, many)) == pytest.approx(known * math.pi / 4, rel=0.01)


def test_the_model_may_say_what_outputs_must_not_depend_on() -> None:
    class Fair(Net):
        def protected(self, inputs: Tensor) -> Tensor:
            return inputs[:, 0, 0, 0]

    model = Fair(network().network)
    p = passed(model)
    found = value("distance_covariance", {"distance_covariance": 2.0}, p)
    expected = distance_covariance.dependence(p.outputs, p.raw.inputs[:, 0, 0, :1])
    torch.testing.assert_close(found, 2 * expected)

    class Wrong(Net):
        def protected(self, inputs: Tensor) -> Tensor:
            return inputs[:3, 0, 0, 0]

    with pytest.raises(HpoError, match="a row for each example"):
        value("distance_covariance", {"distance_covariance": 1.0}, passed(Wrong(network().network)))


def test_hsic_is_the_trace_of_four_matrices() -> None:
    first, second = kernel(draws(8, 3)), kernel(draws(8, 2, seed=1))
    h = torch.eye(8).double() - 1 / 8
    found = torch.trace(first @ h @ second @ h) / 49
    torch.testing.assert_close(hsic(first, second), found)


def test_hsic_tells_dependence_from_independence() -> None:
    x, noise = draws(300, 1), draws(300, 1, seed=1)
    itself, apart = hsic(kernel(x), kernel(2 * x - 1)), hsic(kernel(x), kernel(noise))
    torch.testing.assert_close(itself, hsic(kernel(x), kernel(x)))  # widths follow the scale
    assert float(apart) < 0.1 * float(itself)
    assert float(hsic(kernel(x), kernel(x.square()))) > 5 * float(apart)


def test_the_width_of_a_kernel_is_the_median_distance_of_rows_that_differ() -> None:
    rows = torch.tensor([[0.0], [0.0], [0.0], [0.0], [3.0]], dtype=torch.float64)
    assert float(kernel(rows)[0, 4]) == pytest.approx(math.exp(-0.5))
    assert float(kernel(rows, 2.0)[0, 4]) == pytest.approx(math.exp(-0.5 / 4))
    assert torch.equal(kernel(torch.ones(3, 2)), torch.ones(3, 3))


def test_hsic_takes_class_numbers_and_their_probabilities_alike() -> None:
    p, h = passed(), strengths(load("hsic"))
    soft = p.batch._replace(targets=nn.functional.one_hot(p.batch.targets, 5).double())
    other = Pass(p.model, p.raw, soft, p.outputs, p.again, p.embed, p.view, p.features)
    torch.testing.assert_close(value("hsic", h, other), value("hsic", h, p))


def test_squared_distances_are_those_of_all_pairs_far_from_the_origin_too() -> None:
    rows = draws(6, 3).float() + 1000
    found = _embeddings.squared_distances(rows)
    torch.testing.assert_close(found, torch.cdist(rows, rows).square(), rtol=1e-3, atol=1e-3)
    assert bool((found.diagonal() == 0).all()) and bool((found >= 0).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_a_model_in_half_precision_has_its_term_too(name: str, dtype: torch.dtype) -> None:
    lower, upper = (part.to(dtype) for part in (nn.Linear(6, 5), nn.Linear(5, 3)))
    inputs = torch.randn(12, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    batch = Batch(inputs, torch.arange(12) % 3)

    def again(x: Tensor) -> Tensor:
        result: Tensor = upper(lower(x).tanh())
        return result

    seen = Pass(
        upper, batch, batch, again(inputs), again, lower, lambda: batch, features=lower(inputs)
    )
    record = load(name)
    assert record.loss_batch is not None
    h = {knob: domain.start_value() for knob, domain in record.knobs.items()}
    value = record.loss_batch(seen, h, torch.Generator().manual_seed(0))
    value.backward()
    assert value.isfinite()
    assert lower.weight.grad is not None and lower.weight.grad.isfinite().all()
