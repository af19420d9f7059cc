"""SABA: SOBA with the noise of drawing rows taken out, for sums of a finite number of blocks.

What each block of rows said last is remembered, as in SAGA: only the change of the block at hand is
noisy, and fades as the iteration converges. Dagreou, Ablin, Vaiter and Moreau (NeurIPS 2022),
section 3.2; Defazio, Bach and Lacoste-Julien (NeurIPS 2014).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hpo.bilevel.online.methods._method import Found, Method
from hpo.bilevel.online.rows import RowsView
from hpo.bilevel.online.scaled import Scaled, steepest
from hpo.bilevel.online.view import Curved, State

_SAGA = 3.0  # its steps are to be that much shorter than one over the curvature of a block
_INNER, _OUTER = ("slope", "product", "cross"), ("outer", "direct")


@dataclass(frozen=True)
class Saba(Method):
    """batch: rows of a block."""

    batch: int = 64
    every: ClassVar[int] = 1
    simultaneous: ClassVar[bool] = True

    def gradient(self, view: RowsView, t: Tensor, state: State) -> Found:
        """One step; the block at hand is drawn from the generator that the state holds."""
        blocks = {which: self._blocks(view, which) for which in ("inner", "outer")}
        if "slope" not in state:
            state = self._first(view, t, blocks)
        rng = torch.Generator()
        rng.set_state(state["draws"])
        q, known = state["q"], dict(state)
        means: dict[str, Tensor] = {}
        steep = 0.0
        for which, names in (("inner", _INNER), ("outer", _OUTER)):
            parts = blocks[which]
            k = int(torch.randint(len(parts), (), generator=rng))
            now, curved = self._seen(view, t, q, which, parts[k])
            if curved is not None:
                steep, found = steepest(Scaled(view, curved), state)
            weights = _weights(parts, view.x)
            for name in names:
                table = state[name]
                change = len(parts) * weights[k] * (now[name] - table[k])
                means[name] = change + torch.tensordot(weights.to(table), table, dims=1)
                known[name] = table.clone()
                known[name][k] = now[name]
        steep = max(steep, 0.99 * float(state["steepest"]))
        left = means["product"] + view.damping * q - means["outer"]
        residual = float(left.norm() / means["outer"].norm().clamp(min=1e-30))
        known |= {**found, "q": q - left / (_SAGA * steep), "draws": rng.get_state()}
        known["steepest"] = torch.tensor(steep)
        return Found(means["direct"] - means["cross"], known, means["slope"] / _SAGA, residual)

    def _first(
        self, view: RowsView, t: Tensor, blocks: Mapping[str, Sequence[Tensor | None]]
    ) -> State:
        """What every block says at the beginning."""
        q = torch.zeros_like(view.x)
        found: dict[str, Tensor] = {}
        for which, parts in blocks.items():
            seen = [self._seen(view, t, q, which, part)[0] for part in parts]
            found |= {name: torch.stack([one[name] for one in seen]) for name in seen[0]}
        draws = torch.Generator().manual_seed(0).get_state()
        return {**found, "q": q, "draws": draws, "steepest": torch.zeros(())}

    def _seen(
        self, view: RowsView, t: Tensor, q: Tensor, which: str, rows: Tensor | None
    ) -> tuple[dict[str, Tensor], Curved | None]:
        """What a block says, and the curvature there if it is one of the inner loss."""
        view.look({which: rows})
        if which == "outer":
            outer, direct = view.outer(view.x, t)
            return {"outer": outer, "direct": direct}, None
        curved = view.curved(t)
        said = {"slope": curved.slope, "product": curved.product(q), "cross": curved.cross(q)}
        return said, curved

    def _blocks(self, view: RowsView, which: str) -> Sequence[Tensor | None]:
        """The rows of each block; one block of all there is where a problem tells of no rows."""
        total = (view.problem.row_counts or {}).get(which, 0)
        if not total:
            return [None]
        return list(torch.split(torch.arange(total, device=view.x.device), self.batch))


def _weights(parts: Sequence[Tensor | None], like: Tensor) -> Tensor:
    counts = [1 if part is None else len(part) for part in parts]
    sizes = torch.tensor(counts, dtype=like.dtype, device=like.device)
    return sizes / sizes.sum()
