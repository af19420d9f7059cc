"""Pictures of schedules."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hpo.errors import HpoError, Unavailable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from search_spaces.schedule import Schedule

POINTS = 400
COLOR = "#0072b2"


def draw(schedule: Schedule, path: Path) -> None:
    """Draws each numeric knob over progress, one panel a knob, into an image file.

    A knob that was perturbed gets a band, from one spread below its value to one above.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        raise Unavailable(
            "--plot needs matplotlib", hint='pip install "hpo-schedules[plot]"', code="no-plot"
        ) from None
    figure = picture(schedule)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise HpoError(f"--plot {path}: {error}", code="unwritable") from None
    finally:
        pyplot.close(figure)


def picture(schedule: Schedule) -> Figure:
    """The figure of a schedule; HpoError when it has nothing to draw."""
    from matplotlib import pyplot

    start = schedule.at(0.0)
    knobs = [name for name in schedule.space if isinstance(start[name], int | float)]
    if not knobs:
        raise HpoError("this schedule has no numeric knob to draw", code="no-plot")
    figure, axes = pyplot.subplots(
        len(knobs), 1, figsize=(7, 1.2 + 1.6 * len(knobs)), sharex=True, squeeze=False
    )
    for axis, name in zip(axes[:, 0], knobs, strict=True):
        _panel(axis, schedule, name)
    axes[-1, 0].set_xlabel("progress of training")
    figure.tight_layout()
    return figure


def _panel(axis: Axes, schedule: Schedule, name: str) -> None:
    places = [i / (POINTS - 1) for i in range(POINTS)]
    axis.plot(places, [schedule.at(p)[name] for p in places], color=COLOR, linewidth=2)  # type: ignore[arg-type]
    if name in schedule.spreads:
        bands = [schedule.band(place)[name] for place in places]
        low, high = zip(*bands, strict=True)
        axis.fill_between(places, low, high, color=COLOR, alpha=0.2, linewidth=0, label="±1 sigma")
        axis.legend(loc="best", frameon=False, fontsize="small")
    if str(getattr(schedule.space[name], "scale", "")) == "log":
        axis.set_yscale("log")
    axis.set_ylabel(name)
    axis.grid(alpha=0.3)
