"""Hypergradients of three problems by betty, by torchopt and by ours; run by `peers.py`, in an
environment of its own. Prints JSON.

python _peers_kernels.py [--quick]      one timing of each, and without the network

What is not installed, or does not work, is named in "failed".
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from _hypergrad_problems import Binary, Network, Ridge
from torch import Tensor

from hpo.bilevel.implicit.curvature import Curvature
from hpo.bilevel.implicit.evaluation import differentiate
from hpo.bilevel.implicit.inverse import cg, neumann, nystrom
from hpo.bilevel.implicit.inverse.precondition import Pairs, pairs
from hpo.bilevel.implicit.lower import lbfgs
from hpo.bilevel.implicit.problem import Bilevel
from search_spaces.space import SearchSpace

PROBLEMS = {"ridge, 200": Ridge, "logistic, 30": Binary, "network, 2410": Network}
ALPHA = 1.0  # of darts, over the size of the vector


class Case:
    """A problem at its inner optimum x: what every method starts from."""

    def __init__(self, problem: Any) -> None:
        point = SearchSpace(problem.space).start
        self.flat = Bilevel(problem, point)
        self.t = self.flat.coordinates.of(point)
        first = float(self.flat.gradient(self.flat.start, self.t)[1].norm())
        solved = lbfgs.minimize(self.flat, self.t, self.flat.start, 1e-10 * first, limit=50_000)
        self.x: Tensor = solved.x
        self.pairs: Pairs = solved.pairs
        curvature = Curvature(self.flat, self.x, self.t)
        _, b, direct = self.flat.outer_gradients(self.x, self.t)
        chunks = torch.eye(len(self.flat), dtype=b.dtype).split(241)
        dense = torch.cat([curvature.products(chunk) for chunk in chunks])
        values = torch.linalg.eigvalsh((dense + dense.t()) / 2)
        self.condition, self.top = float(values[-1] / values[0]), float(values[-1])
        self.truth = direct - curvature.cross(torch.linalg.solve(dense, b))


Way = Callable[[Case], Tensor]


def ours() -> dict[str, Way]:
    """The product's own: without a preconditioner, with what the inner solve has learned of the
    curvature, and with a Nystrom sketch of it, whose making is part of the time."""

    def by_cg(case: Case, relative: float, known: Pairs) -> Tensor:
        apply = pairs(known)
        return differentiate(
            case.flat,
            case.t,
            case.x,
            lambda c, b: cg.solve(c, b, relative * float(b.norm()), precondition=apply),
        ).gradient

    def by_neumann(case: Case, terms: int) -> Tensor:
        return differentiate(
            case.flat, case.t, case.x, lambda c, b: neumann.solve(c, b, 0.0, limit=terms)
        ).gradient

    def sketched(case: Case, relative: float) -> Tensor:
        least = float(case.flat.problem.space["l2"].start)
        rank = min(60, len(case.flat) // 4)
        return differentiate(
            case.flat,
            case.t,
            case.x,
            lambda c, b: cg.solve(
                c,
                b,
                relative * float(b.norm()),
                precondition=nystrom.sketch(c, b, rank, least).precondition,
            ),
        ).gradient

    found: dict[str, Way] = {}
    for relative in (1e-2, 1e-4, 1e-6, 1e-8):
        found[f"ours, cg {relative:g}"] = lambda case, e=relative: by_cg(case, e, ())
        found[f"ours, cg {relative:g} with the solver's pairs"] = lambda case, e=relative: by_cg(
            case, e, case.pairs
        )
        found[f"ours, cg {relative:g} with a sketch"] = lambda case, e=relative: sketched(case, e)
    found["ours, neumann 500"] = lambda case: by_neumann(case, 500)
    return found


def betty() -> dict[str, Way]:
    """Its hypergradient kernels, without the engine around them."""
    from betty.hypergradient import cg, darts, neumann

    def by(kernel: Any, case: Case, **config: float) -> Tensor:
        x, t = case.x.clone().requires_grad_(), case.t.clone().requires_grad_()
        inner = SimpleNamespace(
            paths=[],
            cur_batch=None,
            config=SimpleNamespace(**config),
            training_step_exec=lambda batch: case.flat.inner(x, t),
            trainable_parameters=lambda: [x],
            parameters=lambda: [x],
        )
        outer = SimpleNamespace(trainable_parameters=lambda: [t])
        vector = torch.autograd.grad(case.flat.outer(x, t), [x])
        gradient: Tensor = kernel(vector, inner, outer)[0]
        return gradient

    def by_neumann(case: Case, terms: int) -> Tensor:
        alpha = 1 / case.top  # the best there is: it would have to be found
        return by(neumann, case, neumann_iterations=terms, neumann_alpha=alpha)

    return {
        "betty, cg 20": lambda case: by(cg, case, cg_iterations=20, cg_alpha=1.0),
        "betty, cg 100": lambda case: by(cg, case, cg_iterations=100, cg_alpha=1.0),
        "betty, neumann 100": lambda case: by_neumann(case, 100),
        "betty, neumann 500": lambda case: by_neumann(case, 500),
        "betty, darts": lambda case: by(darts, case, darts_alpha=ALPHA),
    }


def torchopt() -> dict[str, Way]:
    """Implicit differentiation by its `custom_root`, with its linear solvers."""
    from torchopt import linear_solve
    from torchopt.diff import implicit

    def by(solve: Any, case: Case) -> Tensor:
        slope = torch.func.grad(case.flat.inner)

        @implicit.custom_root(lambda x, t: slope(x, t), argnums=1, solve=solve)
        def solved(x: Tensor, t: Tensor) -> Tensor:
            return x

        t = case.t.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(case.flat.outer(solved(case.x, t), t), [t])
        return gradient

    def by_neumann(case: Case, terms: int) -> Tensor:
        return by(linear_solve.solve_inv(ns=True, maxiter=terms, alpha=1 / case.top), case)

    return {
        "torchopt, solve_cg": lambda case: by(linear_solve.solve_cg(), case),
        "torchopt, solve_cg 1e-8": lambda case: by(linear_solve.solve_cg(rtol=1e-8), case),
        "torchopt, solve_normal_cg": lambda case: by(linear_solve.solve_normal_cg(), case),
        "torchopt, neumann 500": lambda case: by_neumann(case, 500),
    }


def measured(way: Way, case: Case, repeats: int) -> tuple[float, float]:
    """The relative error, and the median of the CPU seconds after a first time."""
    gradient, taken = way(case), []
    for _ in range(repeats):
        begun = time.process_time()
        way(case)
        taken.append(time.process_time() - begun)
    error = float((gradient - case.truth).norm() / case.truth.norm())
    return error, statistics.median(taken)


def main() -> None:
    torch.set_num_threads(1)
    quick = "--quick" in sys.argv
    repeats = 1 if quick else 7
    cases = {name: Case(make()) for name, make in list(PROBLEMS.items())[: 2 if quick else 3]}
    found: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for package in (ours, betty, torchopt):
        try:
            ways = package()
        except ImportError as error:
            failed[package.__name__] = f"cannot be imported: {error}"
            continue
        for name, way in ways.items():
            try:
                found[name] = {key: measured(way, case, repeats) for key, case in cases.items()}
            except Exception as error:  # another package may raise anything
                failed[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    conditions = {name: case.condition for name, case in cases.items()}
    print(json.dumps({"found": found, "failed": failed, "conditions": conditions}))


if __name__ == "__main__":
    main()
