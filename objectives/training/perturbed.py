"""Schedules replayed as they were found: values, their means, or with their perturbations."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from objectives.training.tuner import Follow, Tuner
from search_spaces._spread import latent, sigmas
from search_spaces.domains import Int
from search_spaces.plugins import unknown
from search_spaces.regularizer import Scope
from search_spaces.schedule import Schedule

if TYPE_CHECKING:
    from torch import Tensor

    from objectives.training.state import Run

# Normal and uniform numbers, both (rows, strengths of the knobs concerned).
Draws: TypeAlias = "tuple[Tensor, Tensor]"
Mode = Literal["values", "expected", "perturbed"]


def replay_tuner(
    schedule: Schedule, mode: Mode | str, scopes: Mapping[str, Scope], seed: int
) -> Tuner:
    """The tuner that replays a schedule: its values, their means, or with its perturbations.

    Without spreads the three are the same. HpoError for another mode.
    """
    if mode == "values":
        return Follow(schedule)
    if mode == "expected":
        return Follow(schedule.expected())
    if mode == "perturbed":
        return Perturbed(schedule, scopes, seed)
    known = get_args(Mode)
    raise unknown("replay mode", mode, known, hint=f"known: {', '.join(known)}", path=("mode",))


class Perturbed:
    """The tuner that follows a schedule under the perturbations it was found with.

    A knob with a spread is from_free(to_free(value) + sigma * eps), eps ~ N(0, 1), drawn from a
    generator of its own. A knob of scope example gets one draw a row, a tensor of shape (rows,):
    the second half of the batch has the draws of the first with the opposite sign, an odd last row
    its own, so that the first-order effect of eps on the mean loss cancels. Any other knob gets a
    tensor of no dimension, whose draw changes sign at every second step. Vectors have their size as
    last dimension. Whole numbers are rounded up or down at random, right on average, and are
    integer tensors. What rests (see `Schedule.expected`) keeps its value; knobs without a spread
    are plain values. The point is the nominal one.
    """

    def __init__(self, schedule: Schedule, scopes: Mapping[str, Scope], seed: int) -> None:
        import torch

        from objectives.training.randomness import derived_seed

        self.schedule = schedule
        self._nominal = Follow(schedule)
        # In the order of their names: the draws must not depend on how a spec was written.
        names = sorted(schedule.spreads)
        self._latent = {name: latent(schedule.space[name]) for name in names}
        self._by_row = [name for name in names if scopes.get(name) == "example"]
        self._by_batch = [name for name in names if scopes.get(name) != "example"]
        self._rng = torch.Generator().manual_seed(derived_seed(seed, "perturbation"))
        self._device = torch.device("cpu")
        # The draws of the batch that the next step uses with the opposite sign, if it does.
        self._held: Draws | None = None

    def begin(self, run: "Run") -> None:
        self._device = run.device

    def knobs(self, progress: float, rows: int) -> Mapping[str, Any]:
        point, spread = self.point(progress), self.schedule.spread_at(progress)
        found: dict[str, Any] = dict(point)
        if self._by_row:
            found |= self._strengths(self._by_row, point, spread, self._for_rows(rows))
        if self._by_batch:
            shared = self._strengths(self._by_batch, point, spread, self._for_batch())
            found |= {name: value[0] for name, value in shared.items()}
        return found

    def after_step(self, run: "Run", progress: float) -> None:
        return None

    def point(self, progress: float) -> Mapping[str, Any]:
        return self._nominal.point(progress)

    def moving(self, progress: float) -> bool:
        return self.schedule.moving(progress)

    def state_dict(self) -> dict[str, Any]:
        held = None if self._held is None else list(self._held)
        return {"generator": self._rng.get_state(), "held": held}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rng.set_state(state["generator"])
        self._held = None if state["held"] is None else (state["held"][0], state["held"][1])

    def _draw(self, names: list[str], rows: int) -> Draws:
        """A normal and a uniform draw for each row and strength, whatever will be used of them."""
        import torch

        shape = (rows, sum(self._width(name) for name in names))
        double = torch.float64
        normal = torch.randn(shape, generator=self._rng, dtype=double)
        return normal, torch.rand(shape, generator=self._rng, dtype=double)

    def _for_rows(self, rows: int) -> Draws:
        """Draws of which the second half mirrors the first; the odd one out comes last."""
        import torch

        half = rows // 2
        normal, uniform = self._draw(self._by_row, rows - half)
        first = (normal[:half], uniform[:half])
        mirrored = _opposite(first)
        return (
            torch.cat([first[0], mirrored[0], normal[half:]]),
            torch.cat([first[1], mirrored[1], uniform[half:]]),
        )

    def _for_batch(self) -> Draws:
        """The draws of a whole batch: new ones, at the next step the opposite of them."""
        if self._held is not None:
            draws, self._held = _opposite(self._held), None
        else:
            draws = self._held = self._draw(self._by_batch, 1)
        return draws

    def _strengths(
        self,
        names: list[str],
        point: Mapping[str, Any],
        spread: Mapping[str, Any],
        draws: Draws,
    ) -> "dict[str, Tensor]":
        """The knobs under these draws: (rows,) each, or (rows, size), on the device of the run."""
        import torch

        normal, uniform = draws
        to_free = {name: self._latent[name].knob.to_free for name in names}
        places = [to_free[name](v) for name in names for v in sigmas(point[name])]
        scales = [sigma for name in names for sigma in sigmas(spread[name])]
        double = torch.float64
        free = torch.tensor(places, dtype=double) + torch.tensor(scales, dtype=double) * normal
        found, column = {}, 0
        for name in names:
            own = slice(column, column + self._width(name))
            value = self._latent[name].knob.from_free(free[:, own])
            value = self._settled(name, value, uniform[:, own])
            for place, pair in enumerate(
                zip(sigmas(point[name]), sigmas(spread[name]), strict=True)
            ):
                if self._latent[name].rests(*pair):
                    value[:, place] = pair[0]
            vector = self.schedule.space[name].size is not None
            found[name] = (value if vector else value[:, 0]).to(self._device)
            column = own.stop
        return found

    def _settled(self, name: str, value: "Tensor", uniform: "Tensor") -> "Tensor":
        """The values in the type that regularizers get; whole numbers rounded up or down."""
        import torch

        if not isinstance(self.schedule.space[name], Int):
            return value.to(torch.get_default_dtype())
        low, high = self._latent[name].low, self._latent[name].high
        return rounded(value, uniform, low, high).to(torch.int64)

    def _width(self, name: str) -> int:
        return self.schedule.space[name].size or 1


def rounded(values: "Tensor", uniform: "Tensor", low: float, high: float) -> "Tensor":
    """Values as whole numbers between two others, by uniform draws in [0, 1): up with the
    probability of what is left over, so that the mean is right."""
    values = values.clamp(low, high)
    below = values.floor()
    return below + (uniform < values - below)


def _opposite(draws: Draws) -> Draws:
    return -draws[0], 1 - draws[1]
