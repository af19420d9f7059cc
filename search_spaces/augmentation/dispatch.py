"""Several operations on each image, drawn for it alone, carried out on a whole batch at once.

The images are sorted by their operation; those with an operation of one family (`Affine`, `Linear`)
are then changed together, whichever of the family it is, and the others kind by kind. Nothing loops
over images, and the operations of an image come in the order it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple

from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.split import Split
from search_spaces.augmentation.tones import Linear, linear
from search_spaces.augmentation.values import UNIT, Range, scaled
from search_spaces.augmentation.warps import Affine, matrix, warped
from search_spaces.errors import HpoError
from search_spaces.regularizer import uniform

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Plan:
    """What is done to each image; one row each, so that rows of it are a plan for some images.

    which: places in the list of operations, (B, n), in the order in which they are carried out;
    amounts: (B, n), none is done at zero. draws: of the operations at these places that draw,
    (B, n, ...).
    """

    which: Tensor
    amounts: Tensor
    draws: Mapping[int, Tensor] = field(default_factory=dict)

    def __getitem__(self, rows: slice | Tensor) -> Plan:
        draws = {place: draw[rows] for place, draw in self.draws.items()}
        return Plan(self.which[rows], self.amounts[rows], draws)


def augmented(
    images: Tensor,
    operations: Sequence[Operation | None],
    which: Tensor,
    magnitudes: Tensor,
    rng: torch.Generator,
    values: Range = UNIT,
) -> Tensor:
    """The images (B, C, H, W) after n operations each: those at the places `which` (B, n) of the
    list, where None does nothing, at magnitudes (B, n) in [0, 1]; at zero nothing is done either.

    values: what the inputs lie between. The number of draws depends on the shapes and the list
    alone.
    """
    plan = planned(images, operations, which, magnitudes, rng)
    return carried_out(images, operations, plan, values)


def planned(
    images: Tensor,
    operations: Sequence[Operation | None],
    which: Tensor,
    magnitudes: Tensor,
    rng: torch.Generator,
) -> Plan:
    """Draws all there is to draw: the signs of amounts, and what operations draw for themselves."""
    import torch

    coins = uniform(which.shape, images, rng)
    part = magnitudes.to(coins)
    sign = torch.where(coins < 0.5, -part, part)
    # A switch is on wherever the magnitude is above zero.
    kinds = {"one": part, "both": sign, "switch": (part > 0).to(part)}
    amounts = torch.zeros_like(part)
    for way, amount in kinds.items():
        full = [op.full if op is not None and op.ways == way else 0.0 for op in operations]
        if any(full):
            amounts = amounts + amount * coins.new_tensor(full)[which]
    draws = {}
    for place, operation in enumerate(operations):
        change = operation and operation.apply
        if isinstance(change, Split) and change.draw is not None:
            stages = [change.draw(images, rng) for _ in range(which.shape[1])]
            draws[place] = torch.stack(stages, dim=1)
    return Plan(which, amounts, draws)


def carried_out(
    images: Tensor, operations: Sequence[Operation | None], plan: Plan, values: Range = UNIT
) -> Tensor:
    """The images after their plan, which decides everything: an image comes out the same whatever
    else is in the batch."""
    import torch

    families = _families(operations)
    order = [place for family in families for place in family]
    ranks = torch.zeros(len(operations), dtype=torch.long)
    ranks[order] = torch.arange(1, len(order) + 1)
    keys = ranks.to(plan.which.device)[plan.which].masked_fill_(plan.amounts == 0, 0)
    counts = _counts(keys, len(order) + 1)
    maps = _maps(images, operations, plan) if families.affine else None
    sorters = keys.argsort(dim=0, stable=True)
    everything = torch.arange(len(images), device=images.device)
    places = everything  # where each image of the batch is now
    for number, sizes in enumerate(counts):
        rows = sorters[:, number]
        images = images.index_select(0, places[rows])
        places = torch.empty_like(rows).scatter_(0, rows, everything)
        stage = _Stage(images, rows, number, plan, values)
        images = torch.cat(stage.changed(operations, families, sizes, maps))
    return images.index_select(0, places)


class _Families(NamedTuple):
    """Places in the list of operations, by what they have in common."""

    affine: list[int]
    linear: list[int]
    others: list[int]


def _families(operations: Sequence[Operation | None]) -> _Families:
    families = _Families([], [], [])
    for place, operation in enumerate(operations):
        if operation is None:
            continue
        if isinstance(operation.apply, Affine):
            families.affine.append(place)
        elif isinstance(operation.apply, Linear):
            families.linear.append(place)
        elif isinstance(operation.apply, Split):
            families.others.append(place)
        else:
            raise HpoError(
                "an operation of a policy must say its draws apart from its change",
                hint="let its apply be a Split(change, draw)",
                code="bad-plugin",
            )
    return families


def _counts(keys: Tensor, most: int) -> list[list[int]]:
    """How many images of each stage have each of the keys (B, n)."""
    import torch

    stages = keys.shape[1]
    apart = keys + torch.arange(0, stages * most, most, device=keys.device)
    counts = apart.flatten().bincount(minlength=stages * most)
    listed: list[list[int]] = counts.reshape(stages, most).tolist()
    return listed


def _maps(images: Tensor, operations: Sequence[Operation | None], plan: Plan) -> Tensor:
    """The affine maps of all stages, (B, n, 2, 3)."""
    kinds = [getattr(operation, "apply", None) for operation in operations]
    still = Affine().weights
    table = [kind.weights if isinstance(kind, Affine) else still for kind in kinds]
    weights = plan.amounts.new_tensor(table)[plan.which]
    return matrix((plan.amounts[..., None] * weights).unbind(-1), plan.amounts, images)


@dataclass(frozen=True)
class _Stage:
    """One step of a plan and the images sorted for it; rows are their places in the plan."""

    images: Tensor
    rows: Tensor
    number: int
    plan: Plan
    values: Range

    def changed(
        self,
        operations: Sequence[Operation | None],
        families: _Families,
        sizes: Sequence[int],
        maps: Tensor | None,
    ) -> list[Tensor]:
        """The parts of the images in their order: those that stay come first, then as many as
        `sizes` says of each operation, family by family."""
        amounts = self.plan.amounts[:, self.number].index_select(0, self.rows)
        ends = list(accumulate(sizes))
        parts = [slice(*span) for span in pairwise(ends)]
        first, second = len(families.affine), len(families.affine) + len(families.linear)
        found = [self.images[: ends[0]]]
        if maps is not None and ends[first] > ends[0]:
            part = slice(ends[0], ends[first])
            own = maps[:, self.number].index_select(0, self.rows[part])
            found.append(warped(self.images[part], own))
        tones = zip(families.linear, parts[first:second], strict=True)
        found += self._toned([(operations[place], part) for place, part in tones], amounts)
        for place, part in zip(families.others, parts[second:], strict=True):
            if part.stop > part.start:
                found.append(self._other(operations[place], place, part, amounts[part]))
        return found

    def _toned(
        self, tones: Sequence[tuple[Operation | None, slice]], amounts: Tensor
    ) -> list[Tensor]:
        """The part of the images that operations of the family `Linear` change."""
        tones = [(operation, part) for operation, part in tones if part.stop > part.start]
        if not tones:
            return []
        whole = slice(tones[0][1].start, tones[-1][1].stop)

        def applied(images: Tensor) -> Tensor:
            import torch

            pairs = []
            for operation, part in tones:
                assert operation is not None and isinstance(operation.apply, Linear)
                own = images[part.start - whole.start : part.stop - whole.start]
                pairs.append(operation.apply.coefficients(own, amounts[part]))
            wide = max(slope.shape[1] for slope, _ in pairs)
            slopes, intercepts = (
                torch.cat([entry.expand(-1, wide) for entry in entries])
                for entries in zip(*pairs, strict=True)
            )
            return linear(images, slopes, intercepts)

        return [self._scaled(self.images[whole], True, applied)]

    def _other(
        self, operation: Operation | None, place: int, part: slice, amounts: Tensor
    ) -> Tensor:
        """The part of the images that this one operation changes."""
        assert operation is not None and isinstance(operation.apply, Split)
        change, draws = operation.apply.change, amounts
        if place in self.plan.draws:
            draws = self.plan.draws[place][:, self.number].index_select(0, self.rows[part])
        return self._scaled(
            self.images[part], operation.valued, lambda images: change(images, amounts, draws)
        )

    def _scaled(self, images: Tensor, valued: bool, change: Callable[[Tensor], Tensor]) -> Tensor:
        if not valued or self.values == UNIT:
            return change(images).to(images.dtype)
        return scaled(images, self.values, change).to(images.dtype)
