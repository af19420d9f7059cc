"""Augmentation: how fast policies are that draw for each image, and what that is worth.

    python benchmarks/augment.py [PART ...] [--quick] [--repeats N] [--seeds N] [--first N]

speed   images a CPU second of RandAugment(2, 9) drawn for each image, of a fused warp and tones
        with gradients to eight strengths, and the share of a small network's training step; PIL
        and kornia take turns with it
accuracy  Fashion-MNIST, 2000 images: test loss with randaugment and with relaxed against none, at
        about the same CPU time, seeds 5 to 9: the strengths to try were settled on seeds 0 to 4

Without names all parts run. Each prints a Markdown table and writes results/augment-PART.json, with
all it takes to repeat it. Everything runs on one thread with the environment of this project's
worker processes; times are CPU times, and figures are medians of the repetitions.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _report import Report

HERE = Path(__file__).parent
PARTS = ("speed", "accuracy")


def main() -> None:
    options = _options()
    from _measure import as_a_worker

    as_a_worker()
    import torch
    from _report import show, write

    torch.set_num_threads(1)
    for part in options.parts:
        report = _part(part, options)
        path = options.results / f"augment-{part}{'-quick' if options.quick else ''}.json"
        write(path, {**vars(options), "results": str(options.results)}, report)
        show(part, report, options.quick)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="tiny runs, to see that it works")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder for JSON")
    parser.add_argument("--repeats", type=int, default=21, help="timings of each in speed (21)")
    parser.add_argument("--seeds", type=int, default=5, help="how many, of accuracy (5)")
    parser.add_argument("--first", type=int, default=5, help="the first seed of accuracy (5)")
    options = parser.parse_args()
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"unknown part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    options.parts = options.parts or list(PARTS)
    return options


def _part(part: str, options: argparse.Namespace) -> Report:
    """Imports what a part needs and runs it."""
    if part == "accuracy":
        from _augment_accuracy import accuracy

        return accuracy(1, 0, steps=20) if options.quick else accuracy(options.seeds, options.first)
    from _augment_speed import speed

    assert part == "speed"
    return speed(options.repeats, options.quick)


if __name__ == "__main__":
    main()
