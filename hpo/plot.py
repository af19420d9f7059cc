"""Pictures of schedules."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hpo.errors import HpoError, Unavailable

if TYPE_CHECKING:
    from search_spaces.schedule import Schedule

POINTS = 400


def draw(schedule: Schedule, path: Path) -> None:
    """Draws each numeric knob over progress, one panel a knob, into an image file."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        raise Unavailable(
            "--plot needs matplotlib", hint='pip install "hpo-schedules[plot]"', code="no-plot"
        ) from None
    places = [i / (POINTS - 1) for i in range(POINTS)]
    points = [schedule.at(place) for place in places]
    knobs = [name for name in schedule.space if isinstance(points[0][name], int | float)]
    if not knobs:
        raise HpoError("this schedule has no numeric knob to draw", code="no-plot")
    figure, axes = pyplot.subplots(
        len(knobs), 1, figsize=(7, 1.2 + 1.6 * len(knobs)), sharex=True, squeeze=False
    )
    for axis, name in zip(axes[:, 0], knobs, strict=True):
        axis.plot(places, [point[name] for point in points], color="#0072b2", linewidth=2)
        if str(getattr(schedule.space[name], "scale", "")) == "log":
            axis.set_yscale("log")
        axis.set_ylabel(name)
        axis.grid(alpha=0.3)
    axes[-1, 0].set_xlabel("progress of training")
    figure.tight_layout()
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise HpoError(f"--plot {path}: {error}", code="unwritable") from None
    finally:
        pyplot.close(figure)
