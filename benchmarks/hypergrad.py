"""Hypergradients: how far MAID comes for how much work, and whether its errors are what it says.

    python benchmarks/hypergrad.py [PART ...] [--quick] [--problems N] [--seeds N]

digits      640 strengths of a softmax regression, nine settings of first accuracy and first step
tv          total variation on eight photographs: work to within 0.1 % of the best value
network     one hypergradient of a network with 2410 weights, against a dense solve
methods     other ways to the same: unrolled, from first derivatives, and with training cut short
intervals   whether the true value lies within what is reported, on drawn problems
search      the best F against TPE, CMA-ES and a Gaussian process at equal work, 20 and 640 knobs
ledger      CPU time to keep a measurement of 640 strengths
online      within the training of networks: loss on unseen rows, and cost, of every such sampler
quickstart  which of stn and hypergrad the quickstart should use, by a rule written beforehand

One thread. Units are inner gradients and Hessian-vector products; those of the checks of true
values, which solve the inner problem anew to rounding, are not counted, nor is their time.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PARTS = (
    "digits",
    "tv",
    "network",
    "methods",
    "intervals",
    "search",
    "ledger",
    "online",
    "quickstart",
)
ACCURACIES, FIRST = (1e-1, 1e-3, 1e-5), (0.1, 0.5, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="tiny runs, to see that it works")
    parser.add_argument("--problems", type=int, default=1000, help="of intervals (1000)")
    parser.add_argument(
        "--seeds", type=int, default=10, help="of search, online and quickstart (10)"
    )
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder for JSON")
    options = parser.parse_args()
    for part in options.parts:
        if part not in PARTS:
            parser.error(f"unknown part {part}; there are {', '.join(PARTS)}")
    from _measure import as_a_worker

    as_a_worker()
    import torch
    from _report import show, write

    torch.set_num_threads(1)
    for part in options.parts or PARTS:
        report = globals()[part](options)
        path = options.results / f"hypergrad-{part}{'-quick' if options.quick else ''}.json"
        write(path, {**vars(options), "results": str(options.results)}, report)
        show(part, report, options.quick)


# -- chains ---------------------------------------------------------------------------------------


def _at(rows: list[dict[str, float]], units: float) -> float:
    """The true value of the last point that was reached within so many units."""
    return [row["true"] for row in rows if row["units"] <= units][-1]


def _first(rows: list[dict[str, float]], value: float) -> dict[str, float] | None:
    return next((row for row in rows if row["true"] <= value), None)


def _shown(row: Mapping[str, float] | None) -> str:
    return "never" if row is None else f"{row['units']:.0f} ({row['cpu']:.2f} s)"


def digits(options: argparse.Namespace) -> Any:
    from _hypergrad_chains import descend
    from _hypergrad_problems import Digits
    from _report import Report, Row, table

    budget = 60 if options.quick else 2000
    settings = [(a, f) for a in ACCURACIES for f in FIRST][: 1 if options.quick else None]
    lines, runs = [], []
    for accuracy, first in settings:
        rows = descend(Digits(), budget, accuracy=accuracy, first=first)
        runs.append({"accuracy": accuracy, "first": first, "rows": rows})
        marks = [f"{_at(rows, mark):.4f}" for mark in (600, 1000, budget) if mark <= budget]
        reached = [_shown(_first(rows, value)) for value in (0.10, 0.06)]
        lines.append([f"{accuracy:g}", f"{first:g}", *marks, *reached])
    default = descend(Digits(), budget)
    runs.append({"accuracy": "default", "first": "default", "rows": default})
    final = [_at(run["rows"], budget) for run in runs[: len(settings)]]
    hit = _first(default, 0.06)
    good = sum(value <= 0.10 for value in final)
    units = "never" if hit is None else f"{hit['units']:.0f}"
    rows = [
        Row("settings of 9 with true F <= 0.10 in 2000 units", f"{good}", "9", good == 9),
        Row("worst true F of the nine", f"{max(final):.4f}", "<= 0.060", max(final) <= 0.06),
        Row(
            "units to true F <= 0.06, defaults",
            units,
            "<= 600",
            hit is not None and hit["units"] <= 600,
        ),
    ]
    marks = [f"F at {mark}" for mark in (600, 1000, budget) if mark <= budget]
    header = ["first accuracy", "first step", *marks, "to 0.10 (CPU)", "to 0.06 (CPU)"]
    return Report([table(header, lines)], rows, {}, runs)


def tv(options: argparse.Namespace) -> Any:
    from _hypergrad_chains import descend
    from _hypergrad_problems import Photographs
    from _report import Report, Row, table

    from hpo.bilevel.implicit.evaluation import Rules

    size = {"size": 16, "pictures": 2} if options.quick else {}
    budget = 60 if options.quick else 600
    rules = Rules(relative=1e-3)
    long = descend(Photographs(**size), 200 if options.quick else 6000, accuracy=1e-4, rules=rules)
    best = min(row["true"] for row in long)
    lines, runs = [], [{"accuracy": "reference", "rows": long}]
    for accuracy in (None, 1e1, 1e-1, 1e-3, 1e-5)[: 1 if options.quick else None]:
        given = {} if accuracy is None else {"accuracy": accuracy}
        rows = descend(Photographs(**size), budget, **given)
        runs.append({"accuracy": accuracy or "default", "rows": rows})
        hit = _first(rows, 1.001 * best)
        name = "default" if accuracy is None else f"{accuracy:g}"
        lines.append([name, _shown(hit), f"{_at(rows, budget):.4f}"])
    hits = [_first(run["rows"], 1.001 * best) for run in runs[1:]]
    first = hits[0]
    text, met = _shown(first), first is not None and first["units"] <= 200 and first["cpu"] <= 0.5
    rows = [
        Row("units (CPU s) to true F within 0.1 %, defaults", text, "<= 200, 0.5 s", met),
        Row(
            "start accuracies that get there",
            f"{sum(h is not None for h in hits)} of {len(hits)}",
            "all",
            None not in hits,
        ),
    ]
    header = ["first accuracy", "units to within 0.1 % (CPU)", f"F at {budget} units"]
    return Report([table(header, lines)], rows, {"best": best}, runs)


# -- one gradient ---------------------------------------------------------------------------------


def network(options: argparse.Namespace) -> Any:
    import torch
    from _hypergrad_problems import Network
    from _report import Report, Row, table

    from hpo.bilevel.implicit.curvature import Curvature
    from hpo.bilevel.implicit.inverse import cg, identity, neumann, nystrom
    from hpo.bilevel.implicit.inverse.precondition import secants
    from hpo.bilevel.implicit.lower import lbfgs
    from hpo.bilevel.implicit.problem import Bilevel
    from search_spaces.space import SearchSpace

    problem = Network()
    flat = Bilevel(problem, SearchSpace(problem.space).start)
    t = flat.coordinates.of(SearchSpace(problem.space).start)
    solved = lbfgs.minimize(flat, t, flat.start, 1e-4 if options.quick else 1e-8, limit=50_000)
    curvature = Curvature(flat, solved.x, t)
    _, b, direct = flat.outer_gradients(solved.x, t)
    chunks = torch.eye(len(flat), dtype=b.dtype).split(241)[: 1 if options.quick else None]
    dense = torch.cat([curvature.products(chunk) for chunk in chunks])
    if options.quick:
        truth, condition = direct, float("nan")
    else:
        values = torch.linalg.eigvalsh((dense + dense.t()) / 2)
        condition = float(values[-1] / values[0])
        truth = direct - curvature.cross(torch.linalg.solve(dense, b))
    least = float(problem.space["l2"].start)
    size = float(b.norm())
    ways: dict[str, Callable[[Any], Any]] = {}
    for tolerance in (1e-2, 1e-4, 5e-5, 1e-6):
        ways[f"cg, {tolerance:g}"] = lambda c, e=tolerance: cg.solve(c, b, e * size)
        ways[f"cg with pairs of the lower solve, {tolerance:g}"] = lambda c, e=tolerance: cg.solve(
            c, b, e * size, precondition=secants(solved.pairs)
        )
        ways[f"cg with a sketch of 60, {tolerance:g}"] = lambda c, e=tolerance: cg.solve(
            c, b, e * size, precondition=nystrom.sketch(c, b, 60, least).precondition
        )
    ways["neumann, 500 terms"] = lambda c: neumann.solve(c, b, 0.0, limit=500)
    ways["identity"] = lambda c: identity.solve(c, b, 0.0)
    lines, data, reached = [], {}, []
    for name, way in ways.items():
        times, q = [], None
        for _ in range(1 if options.quick else 7):
            begun = time.process_time()
            fresh = Curvature(flat, solved.x, t)
            q = way(fresh).q
            gradient = direct - fresh.cross(q)
            times.append(time.process_time() - begun)
        error = float((gradient - truth).norm() / truth.norm().clamp(min=1e-30))
        milliseconds = 1000 * statistics.median(times)
        data[name] = {"error": error, "milliseconds": milliseconds}
        lines.append([name, f"{error:.1e}", f"{milliseconds:.1f}"])
        if error <= 1e-4:
            reached.append(milliseconds)
    extra = _peak(
        lambda: ways["cg with pairs of the lower solve, 5e-05"](Curvature(flat, solved.x, t))
    )
    fastest = f"{min(reached):.0f} ms" if reached else "never"
    met = bool(reached) and min(reached) <= 60
    rows = [
        Row("hypergradient to 1e-4, CPU", fastest, "<= 60 ms", met),
        Row("extra memory for it", f"{extra:.0f} MiB", "<= 30 MiB", extra <= 30),
    ]
    report = [table(["inverse", "relative error", "CPU ms"], lines)]
    return Report(
        report, rows, {**data, "condition": condition, "slope": float(solved.slope.norm())}
    )


_STAGES = ((1e-8, "lbfgs"), (1e-9, "lbfgs"), (1e-11, "newton"))  # to an optimum within rounding


def methods(options: argparse.Namespace) -> Any:
    import torch
    from _hypergrad_problems import Network
    from _report import Report, Row, table

    import hpo

    problem, few = Network(), options.quick
    params = None
    for tolerance, lower in ((1e-1, "lbfgs"),) if few else _STAGES:
        _, truth, optimum = hpo.hypergradient(
            problem, None, tolerance, params=params, lower=lower, limit=5000
        )
        params = optimum.params
    counts = (2, 3) if few else (100, 1000)
    ways: list[tuple[str, Any, dict[str, Any]]] = [
        (f"{method}, {steps} steps", params, {"method": method, "steps": steps, "momentum": 0.98})
        for method in ("reverse", "forward")
        for steps in counts
    ]
    for penalty in (1e3, 1e4, 1e5):
        given = {"method": "value_function", "penalty": penalty, "tolerance": 0.9 if few else 1e-4}
        ways.append((f"value_function, penalty {penalty:g}", params, given))
    for tolerance in (1e-1,) if few else (1e-1, 1e-2, 1e-3):
        for curvature in ("hessian", "gauss_newton"):
            given = {"tolerance": tolerance, "curvature": curvature}
            ways.append((f"cg, {curvature}, training cut at {tolerance:g}", None, given))
    lines, data = [], {}
    for name, begin, given in ways:
        begun = time.process_time()
        _, grad, spent = hpo.hypergradient(problem, params=begin, **given)
        seconds = time.process_time() - begun
        error = float((grad["l2"] - truth["l2"]).norm() / truth["l2"].norm())
        cosine = float(torch.cosine_similarity(grad["l2"], truth["l2"], 0))
        data[name] = {"error": error, "cosine": cosine, "damping": spent.damping}
        work = [f"{spent.gradients}", f"{spent.products}", f"{1000 * seconds:.0f}"]
        lines.append([name, f"{error:.1e}", f"{cosine:.3f}", *work, f"{spent.damping:.1e}"])
    rows = [Row(f"relative error of {name}", f"{one['error']:.1e}") for name, one in data.items()]
    header = ["way", "relative error", "cosine", "gradients", "products", "CPU ms", "damping"]
    return Report([table(header, lines)], rows, {**data, "slope": optimum.slope})


def _peak(work: Callable[[], Any]) -> float:
    """By how many MiB the resident set grows at most, in a forked process that does the work."""
    import os
    import resource

    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        work()
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        os.write(writing, f"{(most - pages * os.sysconf('SC_PAGE_SIZE')) / 2**20}".encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as found:
        text = found.read()
    os.waitpid(child, 0)
    return float(text)


# -- intervals ------------------------------------------------------------------------------------


def intervals(options: argparse.Namespace) -> Any:
    from _report import Report, Row, table

    count = 5 if options.quick else options.problems
    lines, rows, data = [], [], {}
    for certified, least in ((False, 0.99), (True, 1.0)):
        ratios = [ratio for seed in range(count) for ratio in _ratios(seed, certified)]
        inside = statistics.fmean(ratio <= 1 for ratio in ratios)
        name = "certified" if certified else "estimated"
        data[name] = {"points": len(ratios), "inside": inside, "worst": max(ratios)}
        middle = statistics.median(ratios)
        lines.append(
            [name, f"{len(ratios)}", f"{inside:.2%}", f"{middle:.1e}", f"{max(ratios):.2g}"]
        )
        rows.append(
            Row(
                f"true value within the interval, {name}",
                f"{inside:.2%}",
                f">= {least:.0%}",
                inside >= least,
            )
        )
    header = ["errors", "points", "inside", "median of actual / reported", "worst"]
    return Report([table(header, lines)], rows, data)


def _ratios(seed: int, certified: bool) -> list[float]:
    """Actual over reported error of two evaluations of a drawn problem: from the start, and at
    knobs beside with what is known from there."""
    import torch
    from _hypergrad_chains import true_value
    from _hypergrad_problems import Drawn

    from hpo.bilevel.implicit.evaluation import Rules, Warm, evaluate
    from hpo.bilevel.implicit.problem import Bilevel
    from search_spaces.space import SearchSpace

    problem, choose = Drawn(seed), random.Random(seed + 1)
    point = SearchSpace(problem.space).start
    flat = Bilevel(problem, point)
    t = flat.coordinates.of(point)
    first = float(flat.gradient(flat.start, t)[1].norm())
    rules = Rules(relative=choose.choice([0.1, 0.02]), certified=certified)
    slope = first * 10 ** choose.uniform(-4, -1)
    here = evaluate(flat, t, Warm(flat.start), rules, slope=slope)
    rng = torch.Generator().manual_seed(seed)
    step = torch.randn(len(t), generator=rng, dtype=t.dtype) * choose.choice([0.1, 0.5, 1.5])
    wanted = max(abs(here.value), 1e-3) * 10 ** choose.uniform(-4, -1)
    beside = flat.coordinates.inside(t + step)
    there = evaluate(flat, beside, here.warm, rules, slope=1e-14, value=wanted)
    found = []
    for at in (here, there):
        truth = true_value(problem, point, at.t, at.x)
        found.append(abs(at.value - truth) / max(at.error, 1e-12))
    return found


# -- beside what others do ------------------------------------------------------------------------


def search(options: argparse.Namespace) -> Any:
    import _hypergrad_search

    return _hypergrad_search.search(options.seeds, options.quick)


def online(options: argparse.Namespace) -> Any:
    from _hypergrad_online import online

    return online(options.quick, 1 if options.quick else options.seeds)


def quickstart(options: argparse.Namespace) -> Any:
    from _hypergrad_online import quickstart

    return quickstart(options.quick, 1 if options.quick else options.seeds)


def ledger(options: argparse.Namespace) -> Any:
    import _hypergrad_ledger

    return _hypergrad_ledger.ledger(options.quick)


if __name__ == "__main__":
    main()
