"""What augmentation does to images of an objective, laid out for a sheet of pictures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.errors import HpoError
from hpo.sheet import Sheet, save
from hpo.wording import number
from search_spaces import catalogue, plugins
from search_spaces.domains import Domain, Point
from search_spaces.regularizer import in_order
from search_spaces.schedule import Schedule
from search_spaces.space import SearchSpace, holds, resting

if TYPE_CHECKING:
    from torch import Tensor

    from hpo.problem import Problem
    from search_spaces.augmentation.values import Range
    from search_spaces.regularizer import Batch, Regularizer

ROWS, DRAWS, STAGES_DRAWN = 6, 8, 3
MOMENTS = (("start", 0.0), ("middle", 0.5), ("end", 1.0))
SEED = 0
# Regularizers that are for images and nothing else.
_OF_IMAGES = ("attentive_cutmix", "cutmix")


@dataclass(frozen=True)
class Scene:
    """Some training images of an objective, and what augments them, each by its hook alone."""

    batch: Batch
    values: Range
    hooks: Mapping[str, Any]
    fresh: tuple[str, ...]  # those that would have learned something in a run

    def after(self, point: Mapping[str, Any], draw: int) -> Tensor:
        """The images under these knobs, in [0, 1]."""
        import torch

        batch = self.batch
        rng = torch.Generator().manual_seed(SEED + draw)
        for hook in self.hooks.values():
            batch = hook(batch, point, rng)
        return self.shown(batch.inputs)

    def shown(self, inputs: Tensor) -> Tensor:
        """Inputs with their range of values as black and white."""
        low, high = self.values.low, self.values.high
        return ((inputs - low) / max(high - low, 1e-12)).clamp(0, 1)

    @property
    def labels(self) -> list[str]:
        """A label for each image: its class if it has one, else its number."""
        targets = self.batch.targets
        if targets.ndim != 2:
            return [f"image {number + 1}" for number in range(len(targets))]
        return [f"class {label}" for label in targets.argmax(1).tolist()]


def augmenting(names: Sequence[str]) -> list[str]:
    """Those of the records that change images."""
    known = {*plugins.names(catalogue.POLICIES), *_OF_IMAGES, *catalogue.operations("image")}
    return [name for name in names if name in known]


def of_policy(name: str, objective: str, given: Point) -> tuple[Sheet, Point]:
    """The sheet of a policy, an operation or another regularizer that changes images, and its
    knobs: draws of it, or of an operation by itself what grows with its strength.

    given: knobs that are not at their start. Raises HpoError for what changes no images.
    """
    record = _record(name)
    point = dict(_settled(name, record, given))
    scene = _scene(objective, {name: record})
    title = f"{name} on {objective}"
    strengths = {k: d for k, d in record.knobs.items() if d.off is not None}
    grows = len(strengths) == 1 and not given and name not in plugins.names(catalogue.POLICIES)
    if grows:
        ((knob, domain),) = strengths.items()
        columns = [(_short(v), scene.after({**point, knob: v}, 0)) for v in _growing(domain)]
        del point[knob]
        lines = [f"{knob} grows to the right; each image keeps its draw", *_told(point)]
    else:
        columns = [(f"draw {n + 1}", scene.after(point, n)) for n in range(DRAWS)]
        lines = [*_told(point), *_caution(scene)]
    first = ("original", scene.shown(scene.batch.inputs))
    return Sheet(title, lines, [first, *columns], scene.labels), point


def of_study(problem: Problem, schedule: Schedule, trial: int) -> Sheet:
    """The sheet of the policy that a trial followed, at the start, in the middle and at the end.

    Raises HpoError for a study that augments no images.
    """
    spec = problem.spec
    records = in_order({n: r for n, r in problem.regularizers.items() if r.batch is not None})
    if not records or not problem.is_task:
        raise HpoError(
            f"study {spec.name} changes no inputs, so there is no policy to show",
            hint="a space with augment.rotate or randaugment has one (hpo list regularizers)",
            code="no-policy",
        )
    scene = _scene(spec.objective, records, problem.target)
    columns = [("original", scene.shown(scene.batch.inputs))]
    lines = []
    knobs = [knob for record in records.values() for knob in record.knobs]
    rest = {k: resting(d) for record in records.values() for k, d in record.knobs.items()}
    for moment, progress in MOMENTS:
        at = {**rest, **schedule.at(progress)}
        columns += [(f"{moment} {n + 1}", scene.after(at, n)) for n in range(STAGES_DRAWN)]
        lines += _told({knob: at[knob] for knob in knobs}, moment)
    title = f"{spec.name}: trial {trial} on {spec.objective}"
    return Sheet(title, [*lines, *_caution(scene)], columns, scene.labels)


def write_of_study(problem: Problem, schedule: Schedule, trial: int, path: Path) -> None:
    """Writes the study's sheet if it augments images and these can be shown."""
    if not problem.is_task or not augmenting(list(problem.regularizers)):
        return
    # A picture that cannot be made, whatever the objective does, must not spoil a study that is
    # done; `hpo show STUDY --policy` then tells why.
    with contextlib.suppress(Exception):
        save(of_study(problem, schedule, trial), path)


def _record(name: str) -> Regularizer:
    names = catalogue.names()
    if name not in names:
        known = augmenting(names)
        raise plugins.unknown("policy", name, known, hint=f"known: {', '.join(known)}")
    record = catalogue.load(name)
    if record.batch is None:
        raise HpoError(
            f"{name} does not change inputs, so there is nothing to see",
            hint=f"those that do: {', '.join(augmenting(names))}",
            code="no-policy",
        )
    return record


def _settled(name: str, record: Regularizer, given: Point) -> Point:
    """Every knob of the record: what was given, or where it starts."""
    for knob in given:
        if knob not in record.knobs:
            known = ", ".join(record.knobs)
            raise plugins.unknown("knob", knob, record.knobs, hint=f"{name} has {known}")
    held = {knob: replace(record.knobs[knob], when={}) for knob in given}
    starts = {knob: domain.start_value() for knob, domain in record.knobs.items()}
    return {**starts, **Schedule.constant(SearchSpace({}), {}).pin(held, given).at(0.0)}


def _scene(objective: str, records: Mapping[str, Regularizer], task: Any = None) -> Scene:
    """The first training images of an objective and the hooks of what augments them."""
    import torch

    from objectives.training.beginning import beginning, bound
    from objectives.training.resolve import resolve
    from objectives.training.softtargets import SoftTargets
    from objectives.training.state import build_model
    from objectives.training.task import is_task, locked
    from search_spaces.augmentation.values import Range

    task = resolve(objective) if task is None else task
    if not is_task(task):
        raise HpoError(
            f"objective {objective} has no training images",
            hint="for instance --objective fashion_mnist",
            code="no-images",
        )
    with _asked(objective):
        begun = beginning(locked(task), build_model(task, SEED), SEED, torch.device("cpu"))
        batch = next(iter(begun.batches()))
    if batch.inputs.ndim != 4 or not batch.inputs.is_floating_point():
        raise HpoError(
            f"objective {objective}: its inputs of shape {tuple(batch.inputs.shape)} are no images",
            hint="images are (B, C, H, W); for instance --objective fashion_mnist",
            code="no-images",
        )
    if not batch.targets.is_floating_point():
        batch = batch._replace(targets=SoftTargets(task).made(batch.targets, next(iter(records))))
    with _asked(objective):
        remembering, _ = bound(records, begun)
        values = Range.seen(begun)
    hooks = {name: record.batch for name, record in remembering.items()}
    fresh = tuple(name for name, record in records.items() if record.learn is not None)
    return Scene(_various(batch), values, hooks, fresh)


@contextlib.contextmanager
def _asked(objective: str) -> Iterator[None]:
    """Turns an exception of an objective's code into an HpoError that names it."""
    from objectives.training.blame import described

    try:
        yield
    except HpoError:
        raise
    except Exception as error:
        raise HpoError(
            f"objective {objective} raised {described(error)}",
            hint="the error is in the objective, not in hpo",
            code="objective-failed",
        ) from error


def _various(batch: Batch) -> Batch:
    """A few of the examples, of as many classes as there are."""
    classes = batch.targets.flatten(1).argmax(1).tolist()
    first = {label: row for row, label in reversed(list(enumerate(classes)))}
    rows = sorted(first.values())[:ROWS]
    rows += [row for row in range(len(classes)) if row not in rows][: ROWS - len(rows)]
    return type(batch)(batch.inputs[rows], batch.targets[rows])


def _growing(domain: Domain) -> list[Any]:
    """Strengths from off to the top of the range, one for each column."""
    steps = [domain.from_unit((n + 1) / DRAWS) for n in range(DRAWS)]
    return list(dict.fromkeys(steps))


def _told(point: Mapping[str, Any], moment: str = "") -> list[str]:
    """The knobs in one line, but for those whose condition does not hold."""
    known = catalogue.knobs()
    told = ", ".join(
        f"{knob} {_short(value)}" for knob, value in point.items() if holds(known[knob], point)
    )
    if not told:
        return []
    return [f"{moment}: {told}" if moment else told]


def _caution(scene: Scene) -> list[str]:
    return [f"{name} is shown as it is before it has learned anything" for name in scene.fresh]


def _short(value: Any) -> str:
    if isinstance(value, tuple | list):
        alike = len(set(value)) == 1
        return f"{len(value)} x {_short(value[0])}" if alike else " ".join(map(_short, value))
    return f"{value:.3g}" if isinstance(value, float) else number(value)
