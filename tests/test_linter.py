"""The look at a bilevel problem before the first step: each fault is found where it was built in,
none where there is none, and a study leaves alone what cannot be descended in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch.autograd.function import once_differentiable

import hpo
from hpo.bilevel.implicit.knob_derivatives import SEPARATELY
from hpo.bilevel.implicit.linter import Findings, lint
from search_spaces.domains import Choice, Domain, Float, Int
from search_spaces.errors import HpoError
from search_spaces.space import SearchSpace

DOUBLE = torch.float64


class Sound:
    """A direct knob, an indirect one, one in both losses, a vector, a choice, a whole number."""

    space: ClassVar[dict[str, Domain]] = {
        "l2": Float(1e-4, 1e2, "log", start=0.1),
        "scale": Float(0.2, 3.0, start=2.0),
        "width": Float(0.1, 10.0, "log", start=1.0),
        "each": Float(1e-3, 1.0, "log", start=1e-3, size=6),  # on the edge of its box
        "shape": Choice(("square", "huber")),
        "power": Int(1, 3, start=2),
    }
    dtype: ClassVar[torch.dtype] = DOUBLE

    def __init__(self) -> None:
        rng = torch.Generator().manual_seed(0)
        x = torch.randn(80, 6, generator=rng, dtype=DOUBLE)
        y = x[:, 0] - x[:, 1] + 0.5 * torch.randn(80, generator=rng, dtype=DOUBLE)
        self.x, self.y = x.to(self.dtype), y.to(self.dtype)

    def init_params(self, seed: int) -> Any:
        return torch.zeros(6, dtype=self.dtype)

    def fit(self, w: Any, h: Any) -> Any:
        return ((self.x[:40] @ (w * h["width"]) - self.y[:40]) ** 2).mean()

    def penalty(self, w: Any, h: Any) -> Any:
        power = w**2 if h["shape"] == "square" else (1 + w**2).sqrt()
        return h["l2"] * power.sum() + (h["each"] * w**2).sum()

    def inner_loss(self, w: Any, h: Any) -> Any:
        return self.fit(w, h) + self.penalty(w, h)

    def outer_loss(self, w: Any, h: Any) -> Any:
        fitted = h["scale"] * (self.x[40:] @ (w * h["width"]))
        return ((fitted - self.y[40:]) ** 2).mean()


class Single(Sound):
    dtype = torch.float32


class Sparse(Sound):
    """The penalty has a kink, and comes through the prox."""

    def penalty(self, w: Any, h: Any) -> Any:
        return (h["each"] * w**2).sum()

    def prox(self, w: Any, h: Any, step: float) -> Any:
        return w.sign() * (w.abs() - step * h["l2"]).clamp(min=0)


class Batched(Sound):
    """Three problems that share the knobs."""

    batch_axis = 0

    def init_params(self, seed: int) -> Any:
        return {"w": torch.zeros(3, 6, dtype=DOUBLE)}

    def inner_loss(self, w: Any, h: Any) -> Any:
        rows = w["w"]
        fits = torch.stack([self.fit(row + k, h) for k, row in enumerate(rows)])
        return fits + torch.stack([self.penalty(row, h) for row in rows])

    def outer_loss(self, w: Any, h: Any) -> Any:
        return super().outer_loss(w["w"].mean(0), h)


class Network(Sound):
    """Kinks, and curvature of both signs."""

    space: ClassVar[dict[str, Domain]] = {"l2": Float(1e-5, 1e-1, "log", start=1e-3)}

    def init_params(self, seed: int) -> Any:
        rng = torch.Generator().manual_seed(seed)
        return {
            "a": torch.randn(6, 20, generator=rng, dtype=DOUBLE).to(self.dtype) / 2,
            "b": torch.randn(20, generator=rng, dtype=DOUBLE).to(self.dtype) / 4,
        }

    def inner_loss(self, w: Any, h: Any) -> Any:
        fitted = (self.x[:40] @ w["a"]).relu() @ w["b"]
        decay = sum((part**2).sum() for part in w.values())
        return ((fitted - self.y[:40]) ** 2).mean() + h["l2"] * decay

    def outer_loss(self, w: Any, h: Any) -> Any:
        return (((self.x[40:] @ w["a"]).relu() @ w["b"] - self.y[40:]) ** 2).mean()


class SingleNetwork(Network):
    dtype = torch.float32


def look(problem: Any, **options: Any) -> Findings:
    space = SearchSpace(problem.space)
    domains = {name: d for name, d in space.items() if isinstance(d, Float)}
    return lint(problem, domains, space.start, **options)


def refused(problem: Any, **options: Any) -> HpoError:
    with pytest.raises(HpoError) as caught:
        look(problem, **options)
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("twice", [True, False])
@pytest.mark.parametrize("problem", [Sound, Single, Sparse, Batched])
def test_nothing_is_found_where_all_is_well(problem: type[Sound], twice: bool) -> None:
    found = look(problem(), twice=twice)
    assert not found.idle and not found.notes
    assert (found.work.products > 0) is twice


@pytest.mark.parametrize("problem", [Network, SingleNetwork])
def test_kinks_and_negative_curvature_are_no_fault_but_the_latter_is_told(
    problem: type[Sound],
) -> None:
    found = look(problem())
    assert not found.idle
    assert found.notes and "is not curved upward in every direction" in found.notes[0]


def test_a_look_is_cheap_changes_no_generator_and_comes_out_the_same() -> None:
    before = torch.get_rng_state()
    first, again = look(Sound()), look(Sound())
    assert first == again and first.work.units < 250
    assert torch.equal(before, torch.get_rng_state())


# -- the problem as a whole -----------------------------------------------------------------------


def noise() -> Any:
    return 0.01 * torch.randn(6, dtype=DOUBLE)


@pytest.mark.parametrize("method", ["init_params", "inner_loss", "outer_loss"])
def test_a_method_that_draws_at_random_is_named(method: str) -> None:
    class Drawn(Sound):
        def init_params(self, seed: int) -> Any:
            return super().init_params(seed) + (noise() if method == "init_params" else 0.0)

        def inner_loss(self, w: Any, h: Any) -> Any:
            return super().inner_loss(w + (noise() if method == "inner_loss" else 0.0), h)

        def outer_loss(self, w: Any, h: Any) -> Any:
            return super().outer_loss(w + (noise() if method == "outer_loss" else 0.0), h)

    error = refused(Drawn())
    assert error.message.startswith(f"{method} draws at random") and "draw" in error.hint


def test_draws_that_are_seeded_at_each_call_are_none() -> None:
    class Seeded(Sound):
        def inner_loss(self, w: Any, h: Any) -> Any:
            torch.manual_seed(3)
            return super().inner_loss(w + noise(), h)

    assert not look(Seeded()).idle


def test_losses_that_are_not_finite_at_the_start_are_refused() -> None:
    class Nowhere(Sound):
        def outer_loss(self, w: Any, h: Any) -> Any:
            return super().outer_loss(w, h) * torch.nan

    assert "not finite at the knobs' start" in refused(Nowhere()).message


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: Any) -> Any:
        ctx.save_for_backward(w)
        return (w**2).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Any) -> Any:
        (w,) = ctx.saved_tensors
        return 2 * slope * w


class _Twisted(torch.autograd.Function):
    """Says that the gradient of |w|^2 / 2 is w, turned a little."""

    @staticmethod
    def forward(ctx: Any, w: Any) -> Any:
        ctx.save_for_backward(w)
        return (w**2).sum() / 2

    @staticmethod
    def backward(ctx: Any, slope: Any) -> Any:
        (w,) = ctx.saved_tensors
        return slope * (w + 0.1 * w.roll(1))


class _Never(torch.autograd.Function):
    """Its backward is no function that torch can follow at all."""

    @staticmethod
    def forward(ctx: Any, w: Any) -> Any:
        ctx.save_for_backward(w)
        return (w**2).sum()

    @staticmethod
    def backward(ctx: Any, slope: Any) -> Any:
        (w,) = ctx.saved_tensors
        return _Unfinished.apply(slope * 2 * w)


class _Unfinished(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: Any) -> Any:
        return w.clone()

    @staticmethod
    def backward(ctx: Any, slope: Any) -> Any:
        raise RuntimeError("derivative for unfinished is not implemented")


@pytest.mark.parametrize(
    ("square", "said"),
    [
        (lambda w: (w * w.detach()).sum(), "does not change as products with its Hessian say"),
        (_Once.apply, "does not change as products with its Hessian say"),
        (_Twisted.apply, "are not symmetric"),
        (_Never.apply, "derivative for unfinished is not implemented"),
    ],
)
def test_an_inner_loss_with_one_derivative_is_refused_where_two_are_needed(
    square: Any, said: str
) -> None:
    class Once(Sound):
        def inner_loss(self, w: Any, h: Any) -> Any:
            return super().inner_loss(w, h) + 0.1 * square(w)

    error = refused(Once())
    assert error.message.startswith("inner_loss cannot be differentiated twice")
    assert said in error.message and "detach" in error.hint
    assert not look(Once(), twice=False).idle


@pytest.mark.parametrize("twice", [True, False])
def test_an_inner_loss_with_no_derivative_is_refused(twice: bool) -> None:
    class Number(Sound):
        def inner_loss(self, w: Any, h: Any) -> Any:
            return super().inner_loss(w.detach(), h)

    assert "has no derivative in the parameters" in refused(Number(), twice=twice).message


# -- knob by knob ---------------------------------------------------------------------------------

WITH_MORE: dict[str, Domain] = {**Sound.space, "more": Float(0.1, 10.0, "log", start=0.6)}


class More(Sound):
    """One more knob, in a penalty of its own."""

    space: ClassVar[dict[str, Domain]] = WITH_MORE

    def strength(self, more: Any) -> Any:
        return more

    def penalty(self, w: Any, h: Any) -> Any:
        return super().penalty(w, h) + self.strength(h["more"]) * (w[:3] ** 2).sum()


def reaching(strength: Any) -> More:
    class Reaching(More):
        pass

    Reaching.strength = lambda self, more: strength(more)  # type: ignore[method-assign]
    return Reaching()


@pytest.mark.parametrize("twice", [True, False])
@pytest.mark.parametrize(
    "strength", [lambda more: more.item(), lambda more: more.detach(), lambda more: more.round()]
)
def test_a_knob_that_acts_without_a_derivative_is_left_out(strength: Any, twice: bool) -> None:
    found = look(reaching(strength), twice=twice)
    assert list(found.idle) == ["more"]
    assert found.idle["more"].startswith("changes the result but has no derivative")


@pytest.mark.parametrize("twice", [True, False])
def test_a_knob_without_effect_is_left_out(twice: bool) -> None:
    found = look(reaching(lambda more: 0.5), twice=twice)
    assert found.idle == {"more": "has no effect on either loss"}


def test_a_plateau_at_the_start_is_not_taken_for_the_whole_range() -> None:
    assert not look(reaching(lambda more: more.clamp(min=1.0))).idle


def test_a_vector_is_judged_as_a_whole() -> None:
    class Halves(Sound):
        """Half of the vector acts on nothing; another vector not at all."""

        space: ClassVar[dict[str, Domain]] = {**Sound.space, "rest": Float(0.0, 1.0, size=3)}

        def penalty(self, w: Any, h: Any) -> Any:
            return super().penalty(w, {**h, "each": torch.cat([h["each"][:3], h["each"][:3]])})

    assert look(Halves()).idle == {"rest": "has no effect on either loss"}


@pytest.mark.parametrize("share", [0.0, 2.5])
def test_a_derivative_that_re_solved_values_contradict_is_found(share: float) -> None:
    """The value is more * |w|^2, its derivative is `share` of that."""
    strange = reaching(lambda more: share * more + (1 - share) * more.detach() + 1e-9 * more)
    found = look(strange)
    assert list(found.idle) == ["more"]
    assert "where values solved anew say" in found.idle["more"]


def test_among_many_knobs_the_one_that_is_contradicted_is_found() -> None:
    count = SEPARATELY + 5
    names = [f"k{k}" for k in range(count)]

    class Many(Sound):
        space: ClassVar[dict[str, Domain]] = {n: Float(0.1, 10.0, "log", start=1.0) for n in names}

        def init_params(self, seed: int) -> Any:
            return torch.zeros(count, dtype=DOUBLE)

        def inner_loss(self, w: Any, h: Any) -> Any:
            pulls = [h[n].log() for n in names]
            pulls[-2] = 0.1 * pulls[-2] + 0.9 * pulls[-2].detach()
            return ((w - torch.stack(pulls)) ** 2).sum()

        def outer_loss(self, w: Any, h: Any) -> Any:
            return ((w - 1) ** 2).sum() + 20 * (w[-2] - 1) ** 2

    assert list(look(Many()).idle) == [names[-2]]


def test_an_outer_loss_that_passes_nothing_on_leaves_direct_knobs_alone() -> None:
    class Judged(Sound):
        def outer_loss(self, w: Any, h: Any) -> Any:
            return super().outer_loss(w.detach(), {**h, "width": 1.0})

    found = look(Judged())
    assert set(found.idle) == {"l2", "width", "each"}
    assert "outer_loss passes none to params" in found.idle["l2"]


def test_a_knob_that_cannot_move_is_passed_over() -> None:
    class Fixed(Sound):
        space: ClassVar[dict[str, Domain]] = {**Sound.space, "still": Float(0.5, 0.5)}

    assert not look(Fixed()).idle


def test_a_direct_derivative_needs_no_curvature() -> None:
    """Where the inner gradient knows no knob, the cross derivative is zero and nothing is amiss."""

    class Direct(Sound):
        space: ClassVar[dict[str, Domain]] = {"scale": Sound.space["scale"]}

        def inner_loss(self, w: Any, h: Any) -> Any:
            return self.fit(w, {"width": 1.0}) + (w**2).sum()

        def outer_loss(self, w: Any, h: Any) -> Any:
            return super().outer_loss(w, {**h, "width": 1.0})

    assert not look(Direct()).idle


# -- studies --------------------------------------------------------------------------------------

FAULTY = """
import torch
from search_spaces import Choice, Float

class Problem:
    space = {"l2": Float(1e-4, 1e2, "log", start=10.0), "tilt": Float(0.1, 10.0, "log", start=1.0),
             "learning_rate": Float(1e-3, 1.0, "log", start=0.1), "power": Choice((2, 1))}

    def __init__(self):
        rng = torch.Generator().manual_seed(0)
        self.x = torch.randn(80, 20, generator=rng, dtype=torch.float64)
        self.y = self.x[:, 0] + 0.5 * torch.randn(80, generator=rng, dtype=torch.float64)

    def init_params(self, seed):
        with open("looks", "a") as file:
            file.write(".")
        return torch.zeros(20, dtype=torch.float64)

    def inner_loss(self, w, h):
        fit = ((self.x[:40] @ w - self.y[:40]) ** 2).mean()
        return fit + (h["l2"] + float(h["tilt"])) * (w**2).sum()

    def outer_loss(self, w, h):
        print("looking")
        return ((self.x[40:] @ w - self.y[40:]) ** 2).mean()
"""
SAID = (
    "knob tilt changes the result but has no derivative (float(), detach, rounding?):"
    " left to sampler random",
    "knob learning_rate has no effect on either loss: left to sampler random",
    "knob power is a choice: left to sampler random",
)


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(FAULTY)
    return f"{tmp_path / 'mine.py'}:Problem"


def study(objective: str, **given: Any) -> hpo.Result:
    options = {"propose": "random", "iterations": 4, "hold": False}
    return hpo.run(
        objective=objective,
        sampler="maid",
        sampler_options=options,
        mlflow=False,
        quiet=True,
        seed=0,
        **given,
    )


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
def test_what_is_left_out_is_held_within_a_chain_and_proposed_between(
    faulty: str, workers: int
) -> None:
    result = study(faulty, trials=3, workers=workers)
    for record in result.records[1:]:
        begun, ended = (result.schedule_of(record).at(p) for p in (0.0, 1.0))
        assert begun["l2"] != ended["l2"]
        assert all(begun[name] == ended[name] for name in ("tilt", "learning_rate", "power"))
    assert len({record.coordinates["tilt"] for record in result.records}) == 2
    found = json.loads((result.folder.path / "findings.json").read_text())
    assert found == {"idle": ["learning_rate", "tilt"], "notes": [*SAID]}


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
def test_a_resumed_study_is_not_looked_at_again_and_goes_on_the_same(
    faulty: str, tmp_path: Path
) -> None:
    whole = study(faulty, trials=3, workers=0, name="whole")
    study(faulty, trials=2, workers=0, name="part")
    looks = tmp_path / "looks"
    looks.write_text("")
    again = study(faulty, trials=3, workers=0, name="part", resume=True)
    assert len(looks.read_text()) == 1  # the trial's own
    assert [r.value for r in again.records] == [r.value for r in whole.records]
    assert again.schedule_of(again.records[2]).at(1.0) == whole.schedule_of(whole.records[2]).at(1)
    (again.folder.path / "findings.json").write_text("{")
    with pytest.raises(HpoError, match="what was found of the problem is damaged"):
        study(faulty, trials=4, workers=0, name="part", resume=True)


def test_a_study_whose_sampler_descends_nothing_is_not_looked_at(
    faulty: str, tmp_path: Path
) -> None:
    result = hpo.run(
        objective=faulty, sampler="random", trials=1, workers=0, quiet=True, mlflow=False
    )
    assert len((tmp_path / "looks").read_text()) == 1
    assert not (result.folder.path / "findings.json").exists()


@pytest.mark.parametrize(
    ("changed", "message", "hint"),
    [
        (
            ('"l2": Float(1e-4, 1e2, "log", start=10.0), ', '(h["l2"] + float(h["tilt"]))', "0.1"),
            "sampler maid can tune none of tilt, learning_rate, power within a run",
            "knob tilt has no effect on either loss\nknob learning_rate has no effect",
        ),
        (
            ("", "@ w - self.y[:40]", "@ w.sin().missing - self.y[:40]"),
            "its losses at the start values raised AttributeError: 'Tensor' object has no attribute"
            " 'missing'  (mine.py:",
            "not in hpo",
        ),
        (
            ("", "fit + (h", "fit * torch.rand(()) + (h"),
            "mine.py:Problem: inner_loss draws at random",
            "draw once, in __init__",
        ),
    ],
)
def test_a_problem_that_cannot_be_descended_in_is_refused_before_a_study_is_there(
    faulty: str, tmp_path: Path, changed: tuple[str, str, str], message: str, hint: str
) -> None:
    without, old, new = changed
    (tmp_path / "mine.py").write_text(FAULTY.replace(without, "").replace(old, new))
    with pytest.raises(HpoError) as caught:
        study(faulty, trials=2, workers=0)
    assert message in caught.value.message and hint in caught.value.hint
    assert not (tmp_path / "mlruns").exists()
