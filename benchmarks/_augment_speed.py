"""Images a CPU second: RandAugment drawn for each image, and a fused warp with gradients."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from _augment_peers import MAGNITUDE, MOST, STAGES, Kornia, kornia_fused, names, pil_loop
from _report import Report, Row, table
from torch import Tensor, nn

from search_spaces import catalogue, plugins
from search_spaces.augmentation.dispatch import augmented
from search_spaces.augmentation.fused import fused
from search_spaces.augmentation.operation import Operation

SHAPES = {"1x28x28": (1, 28, 28), "3x32x32": (3, 32, 32)}
BATCHES = (128, 512)
OWN, PIL, ONE_DRAW, PER_IMAGE = "own", "PIL loop", "kornia, one draw a batch", "kornia per image"
KORNIA = "kornia's functions"
REACH = {("1x28x28", "policy"): 80.0, ("3x32x32", "policy"): 40.0}
REACH |= {("1x28x28", "gradient"): 60.0, ("3x32x32", "gradient"): 20.0}
FUSED = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y", "scale")
FUSED += ("brightness", "contrast")
LEAST = 0.02  # CPU seconds of a timing

Timings = Mapping[str, list[float]]


def speed(repeats: int, quick: bool) -> Report:
    """All the figures, of batches of 128 and 512 images."""
    torch.manual_seed(0)
    random.seed(0)
    repeats = 1 if quick else repeats
    tables, rows, data = [], [], {}
    for what, cases in (("policy", policies), ("gradient", gradients)):
        lines = []
        for batch in (8,) if quick else BATCHES:
            for name, shape in SHAPES.items():
                images = torch.rand(batch, *shape)
                taken = turns(cases(images), repeats, 0.0 if quick else LEAST)
                rates = {case: batch / statistics.median(taken[case]) / 1000 for case in taken}
                data[f"{what} {name} {batch}"] = taken
                ratios = [f"{_paired(taken, case):.1f}" for case in taken if case != OWN]
                lines.append([name, str(batch), *(f"{r:.1f}" for r in rates.values()), *ratios])
                if batch == BATCHES[0] or quick:
                    rows.append(_row(f"{what}, {name}", rates[OWN], REACH[name, what]))
        others = [case for case in taken if case != OWN]
        header = ["images", "batch", *(f"{case}, k/s" for case in taken)]
        tables.append(table([*header, *(f"own / {case}" for case in others)], lines))
    shares, share_rows, share_data = training_shares(repeats, quick)
    return Report([*tables, shares], [*rows, *share_rows], {**data, **share_data})


def _row(figure: str, rate: float, reach: float) -> Row:
    return Row(f"{figure}, k images a CPU second", f"{rate:.1f}", f">= {reach:g}", rate >= reach)


def _paired(taken: Timings, case: str) -> float:
    """The median over turns of how much longer this case takes for an image than ours."""
    pairs = zip(taken[case], taken[OWN], strict=True)
    return statistics.median(theirs / ours for theirs, ours in pairs)


def turns(
    cases: Mapping[str, tuple[Callable[[], Any], float]], repeats: int, least: float
) -> dict[str, list[float]]:
    """CPU seconds that each case takes for a batch: all take turns, so that what disturbs the
    machine disturbs all alike. With each case comes how many times a batch its work is."""
    for function, _ in cases.values():
        function()
    taken: dict[str, list[float]] = {case: [] for case in cases}
    for _ in range(repeats):
        for case, (function, share) in cases.items():
            calls, began = 0, time.process_time()
            while not calls or time.process_time() - began < least:
                function()
                calls += 1
            taken[case].append((time.process_time() - began) / calls / share)
    return taken


def policies(images: Tensor) -> dict[str, tuple[Callable[[], Any], float]]:
    """RandAugment(2, 9 of 30), ours and others."""
    kornia, few = Kornia(), images[: min(8, len(images))]
    return {
        OWN: (randaugment(images), 1.0),
        PIL: (lambda: pil_loop(images), 1.0),
        ONE_DRAW: (lambda: kornia.batch(images), 1.0),
        PER_IMAGE: (lambda: kornia.single(few), len(few) / len(images)),
    }


def randaugment(images: Tensor) -> Callable[[], Tensor]:
    """Ours, drawing anew at each call."""
    operations = [None if n == "identity" else load(n) for n in names(images.shape[1])]
    rng = torch.Generator().manual_seed(0)
    shape = (len(images), STAGES)
    magnitudes = torch.full(shape, MAGNITUDE / MOST)

    def call() -> Tensor:
        which = torch.randint(len(operations), shape, generator=rng)
        return augmented(images, operations, which, magnitudes, rng, gradient=False)

    return call


def load(name: str) -> Operation:
    """The operation of this name."""
    found = plugins.load(catalogue.OPERATIONS, name, "OPERATION")
    assert isinstance(found, Operation)
    return found


def gradients(images: Tensor) -> dict[str, tuple[Callable[[], Any], float]]:
    """A warp and tones, forward and backward to eight amounts of each image."""
    operations = [load(name) for name in FUSED]
    full = torch.tensor([operation.full for operation in operations])
    amounts = MAGNITUDE / MOST * full * (2 * torch.rand(len(images), len(full)) - 1)
    weights, rng = torch.rand_like(images), torch.Generator()
    amounts.requires_grad_()

    def ours() -> Tensor:
        changed = fused(images, operations, amounts, rng)
        return torch.autograd.grad(changed, amounts, weights)[0]

    def theirs() -> Tensor:
        changed = kornia_fused(images, amounts)
        return torch.autograd.grad(changed, amounts, weights)[0]

    return {OWN: (ours, 1.0), KORNIA: (theirs, 1.0)}


def training_shares(repeats: int, quick: bool) -> tuple[str, Sequence[Row], Mapping[str, Timings]]:
    """How much of a training step of a small network is augmentation."""
    lines, rows, data = [], [], {}
    batch = 8 if quick else BATCHES[0]
    for name, shape in SHAPES.items():
        images, targets = torch.rand(batch, *shape), torch.randint(10, (batch,))
        step = training_step(shape, images, targets)
        cases = {OWN: (randaugment(images), 1.0), PIL: (lambda x=images: pil_loop(x), 1.0)}
        taken = turns({**cases, "step": (step, 1.0)}, repeats, 0.0 if quick else LEAST)
        data[f"share {name}"] = taken
        share = {
            case: statistics.median(
                own / (own + rest) for own, rest in zip(taken[case], taken["step"], strict=True)
            )
            for case in cases
        }
        lines.append(
            [name, f"{1e3 * statistics.median(taken['step']):.1f}"]
            + [f"{100 * part:.1f} %" for part in share.values()]
        )
        rows.append(Row(f"share of the step, {name}", lines[-1][2], "<= 10 %", share[OWN] <= 0.1))
    header = ["images", "step without, ms", "own share", "PIL loop's share"]
    return table(header, lines), rows, data


def training_step(shape: Sequence[int], images: Tensor, targets: Tensor) -> Callable[[], Any]:
    """A step of SGD of a network of two convolutions with 16 and 32 channels."""
    channels, height, width = shape
    model = nn.Sequential(
        *(nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * (height // 4) * (width // 4), 10)),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def call() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), targets).backward()
        optimizer.step()

    return call
