"""What a self-tuning run says about itself: each alarm where it must sound, and where not."""

import copy
import io
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_tasks import SHORT, Blobs, Restless, constant, numbers, regularizers

from hpo.bilevel.diagnostics.audit import Audit, audit, from_run
from hpo.bilevel.diagnostics.checks import (
    kept_bytes,
    plain_loss,
    response_gain,
    rows_of,
    step_seconds,
)
from hpo.bilevel.diagnostics.diagnostics import WINDOW, Diagnostics
from hpo.bilevel.diagnostics.significance import LEAST, SURE, certainty
from hpo.bilevel.gates.response import Response
from hpo.bilevel.gates.sites import find_sites
from hpo.bilevel.stn.freeknobs import FreeKnobs
from hpo.bilevel.stn.options import SelfTuningOptions
from objectives.training.evaluation import evaluate
from objectives.training.loop import train
from search_spaces.domains import Choice, Domain, Float, Int

DROPOUT = Float(0.0, 0.7, start=0.2, off=0.0, limits=(0.0, 0.99))
OPTIONS = SelfTuningOptions()


def made(
    domains: Mapping[str, Domain] | None = None,
    options: SelfTuningOptions = OPTIONS,
    rows: int = 1000,
) -> Diagnostics:
    domains = domains or {"dropout": DROPOUT}
    return Diagnostics(FreeKnobs(domains, dict.fromkeys(domains, "example")), options, rows)


def fed(
    diagnostics: Diagnostics,
    *,
    center: float = 0.0,
    scale: float = 0.5,
    slope: float = 0.0,
    steps: int = 40,
    start: float | None = None,
) -> Diagnostics:
    """The same after some steps of every knob, with gradients of this mean and noise one."""
    rng = torch.Generator().manual_seed(0)
    columns = len(diagnostics._names)
    for step in range(steps):
        at = center if step or start is None else start
        gradient = slope + torch.randn(columns, generator=rng)
        each = torch.randn(8, columns, generator=rng)
        full = torch.full((columns,), 1.0)
        diagnostics.step(gradient, each, scale * full, at * full)
    return diagnostics


def autoregressive(steps: int, columns: int, memory: float, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    draws = torch.randn(steps + 200, columns, generator=rng, dtype=torch.float64)
    state, rows = torch.zeros(columns, dtype=torch.float64), []
    for draw in draws:
        state = memory * state + math.sqrt(1 - memory**2) * draw
        rows.append(state)
    return torch.stack(rows[200:])


# -- 1: the response ----------------------------------------------------------------------------


def test_a_response_that_does_not_help_is_told_of_once() -> None:
    diagnostics = made()
    assert diagnostics.warnings() == []
    for _ in range(3):
        assert diagnostics.warnings() == []  # too little is known as yet
        diagnostics.gain(torch.tensor([-0.07, -0.03, -0.06, -0.04]))
    (text,) = diagnostics.warnings()
    assert text.startswith("the response is not learning: without it the loss changes by -0.0500")
    assert diagnostics.report()["stn/gain"] == pytest.approx(-0.05)
    assert diagnostics.report()["stn/gain_t"] < 0
    assert diagnostics.warnings() == []


def test_a_response_that_helps_is_not_told_of_and_one_that_stops_helping_is_told_of_again() -> None:
    diagnostics = made()
    better, worse = torch.tensor([0.2, 0.1, 0.3, 0.2]), torch.tensor([-0.2, -0.1, -0.3, -0.2])
    for _ in range(10):
        diagnostics.gain(better)
        assert diagnostics.warnings() == []
    assert diagnostics.report()["stn/gain_t"] > 5
    told = []
    for values in [worse] * 10 + [better] * 10 + [worse] * 10:
        diagnostics.gain(values)
        told += diagnostics.warnings()
    assert len(told) == 2


def test_a_response_that_does_nothing_at_all_is_told_of_and_a_doubtful_one_after_ten_checks() -> (
    None
):
    idle, doubtful = made(), made()
    told = []
    for _ in range(3):
        idle.gain(torch.zeros(4))
    (text,) = idle.warnings()
    assert "changes by 0 and should rise" in text and "stn/gain_t" not in idle.report()
    for checks in range(1, 11):
        doubtful.gain(torch.tensor([-0.3, 0.2, 0.1, -0.1]))
        told += [checks for _ in doubtful.warnings()]
    assert told == [10]


def test_checks_that_differ_more_than_their_rows_do_make_the_gain_uncertain() -> None:
    alike, apart = made(), made()
    for sign in (1, -1, 1, -1):
        alike.gain(torch.tensor([0.1, 0.11, 0.09]))
        apart.gain(torch.tensor([0.1, 0.11, 0.09]) + sign)
    assert alike.report()["stn/gain_t"] > 10
    assert apart.report()["stn/gain_t"] < 1


def test_one_number_for_a_batch_is_a_gain_without_a_t() -> None:
    diagnostics = made()
    diagnostics.gain(torch.tensor([0.5]))
    assert diagnostics.report() == {"stn/gain": 0.5}
    diagnostics.gain(torch.tensor([0.3]))
    assert diagnostics.report()["stn/gain_t"] == pytest.approx(4.0)


class Beside:
    """A tuner that follows constant knobs, and looks at the run from beside after every step."""

    def __init__(self, harm: float, look: bool = True) -> None:
        self.follow = constant(dropout=0.3, l2=1e-3)
        self.harm, self.look = harm, look
        self.gains: list[Tensor] = []
        self.seen: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.follow, name)

    def begin(self, run: Any) -> None:
        batch = run.next_batch("validation")
        sites = find_sites(run.model, lambda: run.task.loss(run.model.eval(), batch))
        run.model.train()
        self.response = Response(sites, 2, torch.zeros(1), seed=0)
        with torch.no_grad():
            for parameter in self.response.parameters():
                parameter.add_(self.harm)
        for undo in self.response.attach():
            run.keep(undo)

    def after_step(self, run: Any, progress: float) -> None:
        if not self.look:
            return
        knobs, rows = self.follow.point(progress), len(run.batch.targets)
        delta = torch.ones(rows, 2)

        def switch(on: bool) -> None:
            self.response.delta = delta if on else None

        self.gains.append(response_gain(run, run.batch, [(knobs, switch)] * 2))
        answers = self.response.parameters()
        seconds = step_seconds(run, run.batch, (knobs, switch), answers)
        self.response.delta = None
        self.seen = {
            "seconds": seconds,
            "rows": rows_of(run, "validation"),
            "loss": plain_loss(run, "validation", 10**6),
            "whole": evaluate(run.task, run.model, "validation")["loss"],
            "some": plain_loss(run, "validation", 1),
            "first": run.task.loss(run.model.eval(), self._first(run)).mean().item(),
            "answers": [parameter.grad for parameter in answers],
        }
        run.model.train()

    @staticmethod
    def _first(run: Any) -> Any:
        from search_spaces.regularizer import Batch

        return Batch(*next(iter(run.task.batches("validation", torch.Generator().manual_seed(0)))))


class Normed(Restless):
    """With batch norm, and draws from every global generator, in the model as well."""

    def model(self, seed: int) -> nn.Module:
        first = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3))
        # Alpha dropout is no site of ours: its draws come from torch's global generator.
        model = nn.Sequential(first, nn.Linear(8, 3), nn.AlphaDropout(0.2))
        self.models.append(model)
        return model


def beside(task: Blobs, tuner: Beside) -> list[Any]:
    return numbers(list(train(task, regularizers("dropout", "l2"), tuner, SHORT, 0)))  # type: ignore[arg-type]


def test_a_look_from_beside_leaves_the_run_as_it_is() -> None:
    with_looks, without = Normed(), Normed()
    looked = beside(with_looks, Beside(0.3))
    # The validation split is drawn from its own generator, and norms keep statistics.
    assert looked == beside(without, Beside(0.3, look=False))
    for name, buffer in with_looks.models[0].named_buffers():
        assert torch.equal(buffer, dict(without.models[0].named_buffers())[name]), name


def test_the_gain_compares_under_the_same_masks_and_sees_harm() -> None:
    idle, harmful = Beside(0.0), Beside(5.0)
    beside(Blobs(), idle)
    beside(Blobs(), harmful)
    assert all(torch.equal(gain, torch.zeros_like(gain)) for gain in idle.gains)
    assert idle.gains[0].shape == (10,)
    assert all(gain.mean() < 0 for gain in harmful.gains)


def test_losses_rows_and_seconds_are_taken_from_beside() -> None:
    tuner = Beside(0.0)
    beside(Blobs(rows=45), tuner)
    seen = tuner.seen
    assert seen["rows"] == 45
    assert seen["loss"] == pytest.approx(seen["whole"])
    assert seen["some"] == pytest.approx(seen["first"]) and seen["some"] != seen["loss"]
    assert all(0 < seconds < 1 for seconds in seen["seconds"])
    assert all(grad is None for grad in seen["answers"])


def test_what_a_response_keeps_is_counted() -> None:
    parameter = nn.Parameter(torch.zeros(100))
    optimizer = torch.optim.Adam([parameter])
    assert kept_bytes([parameter], optimizer) == 800
    parameter.grad = torch.ones(100)
    optimizer.step()
    assert 1600 <= kept_bytes([parameter], optimizer) <= 1608


# -- 2: gradients -------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [-0.5, 0.0, 0.5, 0.8, 0.9])
@pytest.mark.parametrize("steps", [LEAST, 40, WINDOW])
def test_a_knob_without_influence_is_hardly_ever_said_to_move(memory: float, steps: int) -> None:
    noise = autoregressive(steps, 2000, memory, seed=steps)
    assert float((certainty(noise) > SURE).double().mean()) < 0.05


@pytest.mark.parametrize("memory", [-0.5, 0.0, 0.5, 0.8])
def test_nor_is_it_at_any_of_twenty_looks_in_most_runs(memory: float) -> None:
    noise = autoregressive(500, 1000, memory, seed=1)
    ever = torch.zeros(1000, dtype=torch.bool)
    for end in range(25, 501, 25):
        ever |= certainty(noise[max(0, end - WINDOW) : end]) > SURE
    assert float(ever.double().mean()) < 0.05


@pytest.mark.parametrize(("slope", "steps", "least"), [(0.6, WINDOW, 0.9), (1.2, 40, 0.95)])
def test_a_knob_with_influence_is_said_to_move(slope: float, steps: int, least: float) -> None:
    values = slope + autoregressive(steps, 1000, 0.0, seed=2)
    assert float((certainty(values) > SURE).double().mean()) > least


def test_too_little_or_nothing_at_all_is_no_certainty() -> None:
    assert certainty(torch.ones(LEAST - 1, 2)).tolist() == [0, 0]
    assert certainty(torch.zeros(LEAST, 2)).tolist() == [0, 0]
    assert certainty(torch.ones(LEAST, 1)).item() > SURE
    trend = torch.arange(50.0)[:, None] - 15  # every value is nearly the one before
    assert certainty(trend).item() < SURE


def test_a_direction_that_fades_is_one_and_noise_that_fades_is_none() -> None:
    fading = torch.exp(-torch.arange(WINDOW) / 15.0)[:, None]
    noise = autoregressive(WINDOW, 2000, 0.5, seed=5)
    assert float((certainty(fading * (1 + 0.5 * noise)) > SURE).double().mean()) > 0.95
    assert float((certainty(fading * noise) > SURE).double().mean()) < 0.02


def test_signal_to_noise_is_told_for_each_strength() -> None:
    space = {"dropout": DROPOUT, "l2": Float(1e-6, 1.0, "log", size=2)}
    diagnostics = made(space)
    rng = torch.Generator().manual_seed(3)
    for _ in range(60):
        noise = torch.randn(3, generator=rng)
        slopes = torch.tensor([2.0, 0.0, -2.0])
        diagnostics.step(noise + slopes, torch.ones(4, 3), torch.ones(3) / 2, torch.zeros(3))
    report = diagnostics.report()
    assert report["stn/snr/dropout"] > 2 > report["stn/snr/l2[0]"]
    assert report["stn/snr/l2[1]"] > 2
    assert all(math.isfinite(value) for value in report.values())


def test_only_the_last_steps_count() -> None:
    diagnostics = fed(made(), slope=3.0, steps=WINDOW)
    assert diagnostics.report()["stn/snr/dropout"] > SURE
    fed(diagnostics, slope=0.0, steps=WINDOW + 7)
    assert diagnostics.report()["stn/snr/dropout"] < SURE


def test_steps_count_in_their_order_wherever_the_window_begins() -> None:
    values = autoregressive(WINDOW + 37, 1, 0.8, seed=8).float()
    diagnostics = made()
    for value in values:
        diagnostics.step(value, torch.ones(2, 1), torch.ones(1) / 2, torch.zeros(1))
    wanted = certainty(values[-WINDOW:]).item()
    assert diagnostics.report()["stn/snr/dropout"] == pytest.approx(wanted)
    assert wanted != pytest.approx(certainty(values[-WINDOW:].roll(37, 0)).item(), rel=1e-6)


def test_few_validation_rows_bound_the_certainty_however_many_steps_see_them() -> None:
    few, many = made(rows=20), made(rows=20_000)
    rng = torch.Generator().manual_seed(0)
    for _ in range(WINDOW):
        part = (0.2 + torch.randn(50, 1, generator=rng)) / 50
        for diagnostics in (few, many):
            diagnostics.step(part.sum(0), part, torch.ones(1) / 2, torch.zeros(1))
    assert few.report()["stn/snr/dropout"] == many.report()["stn/snr/dropout"] > 2
    assert few.report()["stn/snr_rows/dropout"] == pytest.approx(0.2 * math.sqrt(20), rel=0.3)
    assert many.report()["stn/snr_rows/dropout"] > 20


# -- 3: perturbation ----------------------------------------------------------------------------


def test_a_perturbation_that_grows_without_a_gradient_is_told_of() -> None:
    roomy = SelfTuningOptions(most_scale=5.0)
    (text,) = [t for t in fed(made(options=roomy), scale=1.6).warnings() if "grown" in t]
    assert text.startswith("the perturbation of dropout has grown to 1.60 without a clear gradient")
    tight = SelfTuningOptions(most_scale=1.0)
    capped = fed(made(options=tight), scale=1.0).warnings()  # as wide as it may become
    assert any("grown to 1.00" in t for t in capped)


@pytest.mark.parametrize(
    ("scale", "slope", "options"),
    [
        (1.6, 5.0, SelfTuningOptions(most_scale=5.0)),
        (1.4, 0.0, SelfTuningOptions(most_scale=5.0)),
        (0.8, 0.0, OPTIONS),
        (1.0, 0.0, SelfTuningOptions(learn_scale=False)),
    ],
)
def test_a_perturbation_that_is_not_wide_or_wide_for_a_reason_is_not(
    scale: float, slope: float, options: SelfTuningOptions
) -> None:
    said = fed(made(options=options), scale=scale, slope=slope).warnings()
    assert not any("perturbation of" in text for text in said)


def test_a_perturbation_that_has_shrunk_away_is_told_of() -> None:
    (text,) = fed(made(), scale=0.1).warnings()  # the floor of the options
    assert text.startswith("the perturbation of dropout has shrunk to 0.10")
    assert fed(made(options=SelfTuningOptions(least_scale=0.01)), scale=0.05).warnings()
    assert not fed(made(), scale=0.2).warnings()
    assert not fed(made(), scale=0.0).warnings()  # a knob that is never perturbed
    assert not fed(made(options=SelfTuningOptions(learn_scale=False)), scale=0.05).warnings()


def test_the_entropy_is_that_of_all_perturbations() -> None:
    report = fed(made({"a": DROPOUT, "b": DROPOUT}), scale=0.5).report()
    assert report["stn/sigma/a"] == 0.5
    one = torch.distributions.Normal(0.0, 0.5).entropy().item()
    assert report["stn/entropy"] == pytest.approx(2 * one)
    assert "stn/entropy" not in fed(made(), scale=0.0).report()


# -- 4: saturation ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("domain", "center", "text"),
    [
        (DROPOUT, 4.5, "dropout has reached its upper end 0.700: widen its range"),
        (
            Float(0.0, 0.99, limits=(0.0, 0.99)),
            4.5,
            "dropout has reached its upper end 0.990: it has none beyond; add another knob",
        ),
        (
            DROPOUT,
            -4.5,
            "dropout has reached its lower end 0.000:"
            " leave it out, or let it start again (restarts: 1)",
        ),
        (
            Float(1e-5, 10.0, "log", limits=(0.0, math.inf)),
            -4.5,
            "dropout has reached its lower end 1.0e-05: widen its range, or leave it out",
        ),
        (Int(1, 8), 4.5, "dropout has reached its upper end 8: widen its range"),
    ],
)
def test_a_knob_at_an_end_of_its_range_is_told_of(domain: Domain, center: float, text: str) -> None:
    diagnostics = fed(made({"dropout": domain}), center=center, start=0.0, scale=0.2)
    assert diagnostics.warnings() == [text]
    assert fed(diagnostics, center=center, scale=0.2).warnings() == []


def test_a_knob_within_its_range_is_not_nor_one_that_wavers_about_its_end() -> None:
    assert fed(made(), center=3.0, scale=0.2).warnings() == []
    diagnostics, told = made(), []
    for center in (0.0, 4.0, 3.7, 4.0, 3.7, 4.0):  # 1.8 and 2.4 hundredths from the end
        told += fed(diagnostics, center=center, scale=0.2).warnings()
    assert len(told) == 1
    for center in (0.0, 4.0):
        told += fed(diagnostics, center=center, scale=0.2).warnings()
    assert len(told) == 2


def test_a_knob_that_starts_at_its_end_is_told_of_only_when_pushed_outward() -> None:
    assert fed(made(), center=-5.0, slope=0.0).warnings() == []
    assert fed(made(), center=-5.0, slope=-3.0).warnings() == []  # downhill is back inside
    assert "lower end" in fed(made(), center=-5.0, slope=3.0).warnings()[0]


def test_a_choice_has_no_ends_and_no_mean() -> None:
    report = fed(made({"policy": Choice(("flip", "crop"))}), center=9.0, start=0.0)
    assert report.warnings() == []
    assert not any("expected" in name for name in report.report())
    assert "stn/sigma/policy[flip]" in report.report()


# -- 5: mean and nominal value ------------------------------------------------------------------


@pytest.mark.parametrize(
    "domain", [DROPOUT, Float(1e-6, 1.0, "log"), Float(0.01, 0.9, "logit"), Int(0, 16)]
)
def test_the_expected_value_is_the_mean_of_draws(domain: Domain) -> None:
    free = FreeKnobs({"k": domain}, {"k": "example"})
    draws = torch.randn(400_000, 1, generator=torch.Generator().manual_seed(0))
    mean = float(free.flat_values(-1.0 + 0.8 * draws).mean())
    found = fed(made({"k": domain}), center=-1.0, scale=0.8).report()["stn/expected/k"]
    assert found == pytest.approx(mean, rel=0.02)


def test_a_mean_far_from_the_nominal_value_is_told_of() -> None:
    wide = SelfTuningOptions(most_scale=5.0, learn_scale=False)
    (text,) = fed(made(options=wide), center=-2.0, scale=2.0).warnings()
    assert text.startswith("dropout is 0.083, but under its perturbation 0.1")
    decades = {"l2": Float(1e-6, 1.0, "log")}
    (text,) = fed(made(decades, wide), center=-2.0, scale=1.0).warnings()
    assert text.startswith("l2 is 5.2e-06, but under its perturbation ")


def test_a_mean_near_the_nominal_value_is_not() -> None:
    assert fed(made(), center=-2.0, scale=0.5).warnings() == []
    assert fed(made({"l2": Float(1e-6, 1.0, "log")}), center=0.0, scale=0.4).warnings() == []


# -- 6: splits ----------------------------------------------------------------------------------


def gaps(holdout: list[float]) -> list[str]:
    diagnostics, told = made(), []
    for place, loss in enumerate(holdout):
        diagnostics.gap(0.9 - 0.05 * place, 1.0 - 0.02 * place, loss)
        told += diagnostics.warnings()
    return told


def test_a_hold_out_that_falls_behind_is_told_of_once() -> None:
    (text,) = gaps([1.0 + 0.02 * place for place in range(12)])
    assert text.startswith("the hold-out loss is 0.") and "above the validation loss" in text


def test_a_hold_out_that_goes_along_is_not() -> None:
    assert gaps([1.05 - 0.02 * place for place in range(12)]) == []  # a gap, but a steady one
    wavering = [1.0 - 0.02 * place + 0.03 * (-1) ** place for place in range(12)]
    assert gaps(wavering) == []
    assert gaps([1.0 - 0.05 * place for place in range(12)]) == []  # better than validation
    assert gaps([1.0, 1.2, 1.4]) == []  # too early to say


def test_gaps_are_reported_as_far_as_they_are_known() -> None:
    diagnostics = made()
    diagnostics.gap(0.5, 0.8)
    assert diagnostics.report() == {"stn/gap_train_val": pytest.approx(0.3)}
    diagnostics.gap(math.nan, 0.8)
    assert diagnostics.report() == {"stn/gap_train_val": pytest.approx(0.3)}
    diagnostics.gap(0.5, 0.8, 0.9)
    assert diagnostics.report()["stn/gap_val_holdout"] == pytest.approx(0.1)
    assert diagnostics.warnings() == []


def test_many_knobs_for_few_validation_rows_are_told_of() -> None:
    l2 = {"l2": Float(1e-6, 1.0, "log", size=12)}
    (text,) = made(l2, rows=119).warnings()
    assert text.startswith("12 strengths tuned on 119 validation rows")
    assert made(l2, rows=120).warnings() == []
    assert made(l2, rows=0).warnings() == []  # unknown


# -- 7: the audit -------------------------------------------------------------------------------

CURVES = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
BEST = torch.tensor([0.5, -1.0, 2.0, 0.25], dtype=torch.float64)


def descended(state: dict[str, Any], point: Tensor, steps: int) -> float:
    """A quadratic toy: weights follow the knobs with noise, validation wants them at `BEST`."""
    weights = state["weights"]
    rng = torch.Generator()
    rng.set_state(state["rng"])
    for _ in range(steps):
        noise = torch.randn(4, generator=rng, dtype=torch.float64)
        weights -= 0.3 * (weights - point) + noise  # in place: the state must be a copy
    return float((CURVES * (weights - BEST) ** 2).sum() / 2)


def toy(gradient: Tensor, steps: int = 20) -> Audit:
    state = {
        "weights": torch.zeros(4, dtype=torch.float64),
        "rng": torch.Generator().manual_seed(4).get_state(),
    }
    center = torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    return audit(descended, state, center, gradient, distance=0.1, steps=steps)


def exact() -> Tensor:
    """The slopes of the toy: those of its mean are shifted by noise, the same for every point."""
    center = torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=torch.float64).requires_grad_()
    rng = torch.Generator().manual_seed(4)
    weights = torch.zeros(4, dtype=torch.float64)
    for _ in range(20):
        noise = torch.randn(4, generator=rng, dtype=torch.float64)
        weights = weights - 0.3 * (weights - center) - noise
    (slopes,) = torch.autograd.grad((CURVES * (weights - BEST) ** 2).sum() / 2, center)
    return slopes


def test_the_audit_finds_a_right_gradient_right_under_noise_far_larger_than_the_difference() -> (
    None
):
    found = toy(exact())
    assert found.found == pytest.approx(exact().tolist())
    assert found.agreement == 1.0 and found.rank_correlation == pytest.approx(1.0)
    assert found.metrics() == {
        "stn/audit_agreement": 1.0,
        "stn/audit_rank_correlation": pytest.approx(1.0),
    }


def test_the_audit_finds_a_wrong_gradient_wrong() -> None:
    found = toy(-exact())
    assert found.agreement == 0.0 and found.rank_correlation == pytest.approx(-1.0)
    flipped = exact()
    flipped[0] *= -1
    assert toy(flipped).agreement == 0.75


def test_an_audit_that_tells_nothing_says_so() -> None:
    assert toy(exact(), steps=0).metrics() == {}  # no step, no difference
    assert math.isnan(Audit((1.0, 2.0), (1.0, 3.0)).rank_correlation)
    assert Audit((1.0, 2.0), (1.0, 3.0)).agreement == 1.0
    assert Audit((1.0, 2.0, 2.0, 3.0), (1.0, 2.0, 2.0, 3.0)).rank_correlation == pytest.approx(1.0)


class Audited:
    """A tuner that follows a constant penalty, and audits it once in the middle of the run."""

    def __init__(self, look: bool = True) -> None:
        self.follow, self.held, self.look = constant(l2=0.05), None, look
        self.found: Audit | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.follow, name)

    def knobs(self, progress: float, rows: int) -> Mapping[str, Any]:
        return {"l2": 0.05 if self.held is None else float(self.held[0].exp())}

    def after_step(self, run: Any, progress: float) -> None:
        if run.step != 6 or self.held is not None or not self.look:
            return
        state = copy.deepcopy(run.state_dict())
        center = torch.tensor([math.log(0.05)], dtype=torch.float64)
        train_from = from_run(run, lambda point: setattr(self, "held", point))
        # Early in training a larger penalty is worse, and a smaller one better.
        self.found = audit(train_from, state, center, torch.ones(1), distance=2.0, steps=6)
        run.load_state_dict(state)


def test_an_audit_of_a_run_leaves_it_as_it_was() -> None:
    tuner = Audited()
    found = list(train(Restless(), regularizers("l2"), tuner, SHORT, 0))  # type: ignore[arg-type]
    plain = list(train(Restless(), regularizers("l2"), Audited(look=False), SHORT, 0))  # type: ignore[arg-type]
    assert numbers(found) == numbers(plain)
    assert tuner.found is not None and tuner.found.agreement == 1.0
    diagnostics = fed(made(), slope=2.0)
    assert diagnostics.direction().item() == pytest.approx(2.0, abs=0.4)
    diagnostics.audited(tuner.found)
    assert diagnostics.report()["stn/audit_agreement"] == 1.0


# -- 8: cost ------------------------------------------------------------------------------------


def test_the_cost_is_that_of_a_step_with_its_share_of_the_knobs() -> None:
    diagnostics = made()
    diagnostics.cost(step=1.2, plain=1.0, hyper=1.0, every=5, memory=2**21)
    assert diagnostics.report() == {
        "stn/overhead": pytest.approx(0.4),
        "stn/hyper_share": pytest.approx(0.2 / 1.4),
        "stn/memory_mib": 2.0,
    }


# -- life ---------------------------------------------------------------------------------------


def test_it_goes_on_from_a_checkpoint_as_if_nothing_had_happened() -> None:
    def filled() -> Diagnostics:
        diagnostics = fed(made(), center=4.5, start=0.0, slope=1.0, steps=WINDOW + 3)
        diagnostics.gain(torch.tensor([0.1, 0.2]))
        diagnostics.gap(0.5, 0.8, 0.9)
        diagnostics.gap(0.5, 0.8)
        diagnostics.cost(1.2, 1.0, 1.0, 5)
        assert len(diagnostics.warnings()) == 1
        return diagnostics

    file = io.BytesIO()
    torch.save(filled().state_dict(), file)
    file.seek(0)
    through, resumed = filled(), made()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.report() == through.report()
    assert resumed.warnings() == through.warnings() == []
    for diagnostics in (through, resumed):
        fed(diagnostics, center=4.5, slope=0.3, steps=20)
    assert resumed.report() == through.report()


def test_a_state_saved_before_the_first_step_can_be_taken_up() -> None:
    fresh = made()
    fresh.load_state_dict(made().state_dict())
    assert fresh.report() == {} and fresh.warnings() == []
