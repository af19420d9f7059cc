"""The frozen description of a study, read from YAML or keywords and checked with places."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from hpo.document import Document
from hpo.errors import HpoError
from hpo.masking import masked, without_password
from hpo.overrides import Override, laid_over, located
from hpo.reference import beside
from search_spaces.plugins import closest

_DURATION = re.compile(r"^(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?$")
_SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?$", re.IGNORECASE)
LEAST_MEMORY = 256 * 2**20  # torch alone takes more than half of it
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"


def seconds(value: Any) -> Any:
    """A duration such as 90s, 20m, 2h or 1h30m, or a number of seconds, in seconds."""
    if not isinstance(value, str):
        return value
    match = _DURATION.match(value.strip()) if value.strip() else None
    if match is None:
        raise ValueError("write a duration as 90s, 20m, 2h or 1h30m")
    hours, minutes, rest = (float(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + rest


def gibibytes(value: Any) -> Any:
    """An amount of memory such as 2GiB, 800MB or a number of bytes, in bytes."""
    if not isinstance(value, str):
        return value
    match = _SIZE.match(value.strip())
    if match is None:
        raise ValueError("write an amount of memory as 800MiB or 4GiB")
    power = " KMGT".index(match.group(2).upper() or " ")
    return int(min(float(match.group(1)) * 1024**power, 2.0**60))


def memory(value: Any) -> Any:
    """The same, if a worker can start in it at all."""
    size = gibibytes(value)
    if isinstance(size, int) and not isinstance(size, bool) and size < LEAST_MEMORY:
        raise ValueError("it must be at least 256MiB, or no worker can start")
    return size


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Budget(_Record):
    """How much a study may cost: `trials` in all, `steps` a trial, no trial begun after `time`, an
    end after `plateau` trials without a better one. `time` counts anew in each run: a study that is
    resumed has all of it again."""

    trials: int = Field(20, ge=1, le=1_000_000)
    steps: int | None = Field(None, ge=1)
    time: Annotated[float | None, BeforeValidator(seconds)] = Field(None, gt=0)
    plateau: int | None = Field(None, ge=1)


class RaySpec(_Record):
    """What engine ray is told: the cluster's `address` (none: Ray is started on this machine) and
    what each trial gets there besides its GPUs and memory. `cpus_per_trial` unsaid: one, or, on
    this machine, the cores shared out among the workers. `runtime_env` is Ray's own; `storage` is
    where machines without a common folder keep the checkpoints of a population."""

    address: str | None = Field(None, min_length=1)
    cpus_per_trial: float | None = Field(None, gt=0)
    resources: dict[str, Annotated[float, Field(gt=0)]] = {}
    accelerator_type: str | None = Field(None, min_length=1)
    runtime_env: dict[str, Any] = {}
    storage: str | None = Field(None, min_length=1)


class StudySpec(_Record):
    """What a study is: objective, space, sampler, budget, engine. Every field has a default but
    `objective`; unknown keys are errors."""

    name: str = Field("", pattern=r"^$|" + _NAME)
    objective: str = Field(min_length=1)
    objective_options: dict[str, Any] = {}
    space: str | list[str] | dict[str, Any] = "regularization"
    fixed: dict[str, Any] = {}
    training: dict[str, Any] = {}
    sampler: str = "tpe"
    sampler_options: dict[str, Any] = {}
    minimize: str | None = Field(None, min_length=1)
    maximize: str | None = Field(None, min_length=1)
    budget: Budget = Budget()  # type: ignore[call-arg]
    prune: str | dict[str, Any] = "none"
    seed: int = Field(0, ge=0, lt=2**31)
    seeds: int = Field(1, ge=1, le=100)
    engine: str = "optuna"
    workers: int | None = Field(None, ge=0, le=4096)
    pack: int = Field(1, ge=1, le=256)
    gpus_per_trial: float | None = Field(None, ge=0)
    memory_per_trial: Annotated[int | None, BeforeValidator(memory)] = Field(None, lt=2**50)
    ray: RaySpec = RaySpec()  # type: ignore[call-arg]
    silence: Annotated[float | None, BeforeValidator(seconds)] = Field(None, gt=0)
    retries: int = Field(2, ge=0, le=100)
    storage: str | None = None
    tracking_uri: str | None = None
    mlflow: bool = True

    @property
    def metric(self) -> str:
        """The metric that is minimized or maximized."""
        return self.maximize or self.minimize or "val_loss"

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        return "maximize" if self.maximize else "minimize"

    def plain(self) -> dict[str, Any]:
        """The spec as plain data, complete, in the order of the file."""
        return self.model_dump(exclude_none=True)

    def shown(self) -> dict[str, Any]:
        """The same without passwords: for all that is printed, logged or sent."""
        shown: dict[str, Any] = masked(self.plain())
        return shown

    @property
    def secret(self) -> bool:
        """Whether it holds a password."""
        return self.shown() != self.plain()


# What a resumed study may change: how much and where, never what.
CHANGEABLE = frozenset(
    {"budget", "workers", "pack", "gpus_per_trial", "memory_per_trial", "ray", "engine"}
    | {"silence", "retries", "mlflow", "tracking_uri"}
)


def parse(document: Document, overrides: Sequence[Override] = ()) -> StudySpec:
    """The spec in `document` with `overrides` laid over it.

    Raises SpecError that names file, line and column, or the option, of the mistake.
    """
    try:
        data = laid_over(document.data, overrides)
    except HpoError as error:  # what the file holds cannot be laid over
        raise located(error, document) from None
    try:
        spec = from_mapping(data, default_name=_stem(document.name))
    except HpoError as error:
        raise located(error, document, overrides) from None
    if any(change.path[0] == "objective" for change in overrides):
        return spec  # an option is meant from the current folder
    return spec.model_copy(update={"objective": beside(spec.objective, document.name)})


def from_mapping(data: Mapping[str, Any], default_name: str = "") -> StudySpec:
    """The spec in plain `data`. Raises HpoError whose `path` is the key at fault."""
    try:
        spec = StudySpec.model_validate(dict(data))
    except ValidationError as error:
        raise _first(error) from None
    if spec.minimize and spec.maximize:
        raise HpoError(
            "minimize and maximize are both given",
            hint="a study has one goal: keep one of them",
            code="two-goals",
            path=("maximize",),
        )
    if spec.name:
        return spec
    name = default_name or f"{_short(spec.objective)}-{_short(spec.sampler)}"
    return spec.model_copy(update={"name": name})


def _first(errors: ValidationError) -> HpoError:
    detail = errors.errors(include_url=False)[0]
    path = _spec_path(detail["loc"])
    where = ".".join(map(str, path))
    kind, found = detail["type"], detail.get("input")
    if kind == "extra_forbidden":
        known = _known(path[:-1])
        suggest = closest(str(path[-1]), known)
        did_you_mean = f", did you mean {suggest!r}?" if suggest else ""
        return HpoError(
            f"unknown key {path[-1]!r}{did_you_mean}",
            hint=f"known: {', '.join(known)}",
            code="unknown-key",
            found=path[-1],
            suggest=suggest,
            path=path,
        )
    if kind == "missing":
        return HpoError(
            f"{where} is missing",
            hint="name what is trained: objective: digits (hpo list objectives)",
            code="missing-key",
            path=path,
        )
    if kind == "string_pattern_mismatch":
        return HpoError(
            f"{where} {found!r} cannot be a folder name",
            hint="use letters, digits, dot, dash and underscore, starting with a letter or digit",
            code="bad-name",
            found=found,
            path=path,
        )
    allowed = _SEVERAL_KINDS.get(where) or _allowed(detail)
    return HpoError(
        f"{where} is {_shown(found)}; {allowed}",
        hint=_example(path),
        code="bad-value",
        found=found,
        path=path,
    )


def _spec_path(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Pydantic adds the name of a union's branch (`str`, `dict[str,any]`) as a last part."""
    branches = {"str", "list[str]", "dict[str,any]"}
    return tuple(part for i, part in enumerate(location) if i == 0 or part not in branches)


_SEVERAL_KINDS = {
    "space": "it must be a preset's name, a list of knobs, or knobs with their ranges",
    "prune": "it must be a pruner's name, or its name with options",
}
_EXAMPLES = {
    "name": "name: my-study",
    "space": "space: {dropout: {low: 0, high: 0.7}}",
    "prune": "prune: {percentile: {percentile: 50}}",
    "fixed": "fixed: {label_smoothing: 0.05}",
    "minimize": "minimize: val_loss",
    "maximize": "maximize: val_accuracy",
    "budget": "budget: {trials: 20, time: 2h}",
    "workers": "workers: 2",
    "gpus_per_trial": "gpus_per_trial: 0.5",
    "memory_per_trial": "memory_per_trial: 4GiB",
}


def _example(path: Sequence[int | str]) -> str:
    """How the key is written, as a hint."""
    key = str(path[0]) if path else ""
    field = StudySpec.model_fields.get(key)
    written = _EXAMPLES.get(key)
    if written is None and field is not None and isinstance(field.default, str | bool | int):
        written = f"{key}: {_shown(field.default).strip(chr(39))}"
    return f"for example  {written}" if written else ""


def _known(path: Sequence[int | str]) -> list[str]:
    records: dict[Any, type[_Record]] = {("budget",): Budget, ("ray",): RaySpec}
    return sorted(records.get(tuple(path), StudySpec).model_fields)


def _allowed(detail: Any) -> str:
    context = detail.get("ctx", {})
    sentences = {
        "int_type": "it must be a whole number",
        "float_type": "it must be a number",
        "string_type": "it must be text",
        "bool_type": "it must be true or false",
        "dict_type": "it must hold keys and values",
        "model_type": "it must hold keys and values",
        "model_attributes_type": "it must hold keys and values",
        "finite_number": "it must be finite",
        "string_too_short": "it must not be empty",
        "greater_than_equal": f"it must be at least {context.get('ge')}",
        "greater_than": f"it must be greater than {context.get('gt')}",
        "less_than_equal": f"it must be at most {context.get('le')}",
        "less_than": f"it must be below {context.get('lt')}",
        "value_error": str(context.get("error", "")),
    }
    return sentences.get(detail["type"]) or str(detail["msg"])


def _shown(found: Any) -> str:
    if found is None or isinstance(found, bool):
        return {None: "empty", True: "true", False: "false"}[found]
    text = without_password(repr(found))
    return text if len(text) <= 60 else f"{text[:57]}..."


def _stem(name: str) -> str:
    stem = Path(name).stem
    return stem if re.match(_NAME, stem) and stem not in {"study", "-"} else ""


def _short(reference: str) -> str:
    name = re.split(r"[:/\\]", reference)[-1]
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name).lstrip(".-_") or "study"
