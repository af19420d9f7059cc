"""The policies that AutoAugment published: 25 sub-policies of two operations for each data set.

Cubuk et al. 2019, appendix: the operation, its probability, and its magnitude from 0 to 9 where it
has one; they are compared with another library's in a test. There the magnitudes of tones are steps
of a range of factors from 0.1 to 1.9; here, as is usual since, distances from 1 of either sign.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple


class Step(NamedTuple):
    """An operation, how likely it is carried out, and its magnitude in [0, 1]."""

    operation: str
    probability: float
    magnitude: float


SubPolicy = tuple[Step, Step]

HIGHEST = 9.0  # magnitudes are 0 to 9

_CIFAR10 = """
    invert 0.1 -, contrast 0.2 6
    rotate 0.7 2, translate_x 0.3 9
    sharpness 0.8 1, sharpness 0.9 3
    shear_y 0.5 8, translate_y 0.7 9
    autocontrast 0.5 -, equalise 0.9 -
    shear_y 0.2 7, posterise 0.3 7
    saturation 0.4 3, brightness 0.6 7
    sharpness 0.3 9, brightness 0.7 9
    equalise 0.6 -, equalise 0.5 -
    contrast 0.6 7, sharpness 0.6 5
    saturation 0.7 7, translate_x 0.5 8
    equalise 0.3 -, autocontrast 0.4 -
    translate_y 0.4 3, sharpness 0.2 6
    brightness 0.9 6, saturation 0.2 8
    solarise 0.5 2, invert 0 -
    equalise 0.2 -, autocontrast 0.6 -
    equalise 0.2 -, equalise 0.6 -
    saturation 0.9 9, equalise 0.6 -
    autocontrast 0.8 -, solarise 0.2 8
    brightness 0.1 3, saturation 0.7 0
    solarise 0.4 5, autocontrast 0.9 -
    translate_y 0.9 9, translate_y 0.7 9
    autocontrast 0.9 -, solarise 0.8 3
    equalise 0.8 -, invert 0.1 -
    translate_y 0.7 9, autocontrast 0.9 -
"""

_IMAGENET = """
    posterise 0.4 8, rotate 0.6 9
    solarise 0.6 5, autocontrast 0.6 -
    equalise 0.8 -, equalise 0.6 -
    posterise 0.6 7, posterise 0.6 6
    equalise 0.4 -, solarise 0.2 4
    equalise 0.4 -, rotate 0.8 8
    solarise 0.6 3, equalise 0.6 -
    posterise 0.8 5, equalise 1 -
    rotate 0.2 3, solarise 0.6 8
    equalise 0.6 -, posterise 0.4 6
    rotate 0.8 8, saturation 0.4 0
    rotate 0.4 9, equalise 0.6 -
    equalise 0 -, equalise 0.8 -
    invert 0.6 -, equalise 1 -
    saturation 0.6 4, contrast 1 8
    rotate 0.8 8, saturation 1 2
    saturation 0.8 8, solarise 0.8 7
    sharpness 0.4 7, invert 0.6 -
    shear_x 0.6 5, equalise 1 -
    saturation 0.4 0, equalise 0.6 -
    equalise 0.4 -, solarise 0.2 4
    solarise 0.6 5, autocontrast 0.6 -
    invert 0.6 -, equalise 1 -
    saturation 0.6 4, contrast 1 8
    equalise 0.8 -, equalise 0.6 -
"""

_SVHN = """
    shear_x 0.9 4, invert 0.2 -
    shear_y 0.9 8, invert 0.7 -
    equalise 0.6 -, solarise 0.6 6
    invert 0.9 -, equalise 0.6 -
    equalise 0.6 -, rotate 0.9 3
    shear_x 0.9 4, autocontrast 0.8 -
    shear_y 0.9 8, invert 0.4 -
    shear_y 0.9 5, solarise 0.2 6
    invert 0.9 -, autocontrast 0.8 -
    equalise 0.6 -, rotate 0.9 3
    shear_x 0.9 4, solarise 0.3 3
    shear_y 0.8 8, invert 0.7 -
    equalise 0.9 -, translate_y 0.6 6
    invert 0.9 -, equalise 0.6 -
    contrast 0.3 3, rotate 0.8 4
    invert 0.8 -, translate_y 0 2
    shear_y 0.7 6, solarise 0.4 8
    invert 0.6 -, rotate 0.8 4
    shear_y 0.3 7, translate_x 0.9 3
    shear_x 0.1 6, invert 0.6 -
    solarise 0.7 2, translate_y 0.6 7
    shear_y 0.8 4, invert 0.8 -
    shear_x 0.7 9, translate_y 0.8 3
    shear_y 0.8 5, autocontrast 0.7 -
    shear_x 0.7 2, invert 0.1 -
"""

TABLES = {"cifar10": _CIFAR10, "imagenet": _IMAGENET, "svhn": _SVHN}


@cache
def published(name: str) -> tuple[SubPolicy, ...]:
    """The sub-policies of one data set."""
    pairs = [line.split(",") for line in TABLES[name].strip().splitlines()]
    return tuple((_step(first), _step(second)) for first, second in pairs)


def _step(text: str) -> Step:
    operation, probability, magnitude = text.split()
    # What has no magnitude acts in full.
    part = 1.0 if magnitude == "-" else float(magnitude) / HIGHEST
    return Step(operation, float(probability), part)
