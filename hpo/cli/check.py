"""hpo check"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpo.cli import _options

if TYPE_CHECKING:
    from hpo.probe import Probe
    from hpo.problem import Problem

EXAMPLES = """\b
Examples:
  hpo check                              the packaged quickstart
  hpo check study.yaml
  hpo check study.yaml --print-spec      every default spelled out
  hpo check --objective my_task:Faces
"""


@click.command("check", epilog=EXAMPLES, context_settings=_options.HELP)
@click.argument("spec", required=False, metavar="[SPEC]", type=click.Path())
@_options.problem
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Sets a key of the spec.")
@click.option("--no-probe", is_flag=True, help="Train nothing.")
@click.option("--print-spec", is_flag=True, help="Print the whole spec as YAML.")
@_options.common
def command(
    spec: str | None,
    sets: tuple[str, ...],
    no_probe: bool,
    print_spec: bool,
    mlruns: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Validates a study, prints its plan and trains three steps; starts nothing."""
    from hpo.cli._spec import given
    from hpo.errors import HpoError
    from hpo.fitting import check as fit
    from hpo.linting import linted
    from hpo.preparation import Launch, resolve
    from hpo.probe import probe

    source = given(spec, sets, options)
    try:
        wanted = source.spec()
        problem = resolve(wanted, Launch(mlruns))
        measured = None
        if not (no_probe or print_spec):
            problem = linted(problem)
            if not isinstance(wanted.space, str):
                fit(problem)
            measured = probe(problem)
    except HpoError as error:
        raise source.placed(error) from None
    if as_json:
        _options.print_json(_document(problem, measured))
    elif print_spec:
        from hpo.masking import masked
        from hpo.yamlfile import dump

        whole = spelled_out(problem)
        if masked(whole) != whole:
            click.echo("# passwords are masked: write them in again before this is run")
        click.echo(dump(masked(whole)), nl=False)
    else:
        for line in _lines(problem, measured, mlruns):
            click.echo(line)


def spelled_out(problem: Problem) -> dict[str, Any]:
    """The spec with every key and every default, as a study file would say it."""
    from dataclasses import fields, is_dataclass

    spec, training = problem.spec, problem.training
    plain = spec.model_dump()
    plain["objective_options"] = dict(spec.objective_options)
    if is_dataclass(problem.target):
        plain["objective_options"] |= {
            field.name: getattr(problem.target, field.name)
            for field in fields(problem.target)
            if field.init and isinstance(getattr(problem.target, field.name), _PLAIN)
        }
    if training is not None:
        plain["training"] = {k: v for k, v in training.to_json().items() if k != "steps"}
        plain["budget"]["steps"] = training.steps
    plain |= {"minimize": None, "maximize": None, spec.direction: spec.metric}
    return {key: value for key, value in plain.items() if value is not None}


_PLAIN = (bool, int, float, str, tuple, list, dict)


def _document(problem: Problem, measured: Probe | None) -> dict[str, Any]:
    from dataclasses import asdict

    from hpo.masking import masked

    return {
        "spec": masked(spelled_out(problem)),
        "notes": problem.notes,
        "probe": asdict(measured) if measured else None,
    }


def _lines(problem: Problem, measured: Probe | None, mlruns: Path) -> list[str]:
    from hpo.folder import Folder
    from hpo.preparation import described, slots_text
    from hpo.wording import knob, shown, wrapped

    spec = problem.spec
    lines = [_verdict(problem, measured), *_knobs(problem)]
    if problem.fixed:
        held = problem.fixed_domains
        fixed = [f"{name} {knob(held[name], value)}" for name, value in problem.fixed.items()]
        lines += wrapped("fixed", fixed, indent=10)
    lines += [f"note      {note}" for note in (*problem.notes, *_doubts(problem, measured))]
    if problem.training is not None:
        training = problem.training.to_json()
        said = [f"{k} {v}" for k, v in training.items() if v is not None and k != "steps"]
        lines += wrapped("training", said, indent=10)
    prune = spec.prune if isinstance(spec.prune, str) else next(iter(spec.prune), "none")
    lines += [
        f"sampler   {spec.sampler}   {spec.direction} {spec.metric}   prune {prune}"
        f"   seed {spec.seed}",
        f"engine    {spec.engine}   {slots_text(spec)}",
        f"plan      {_plan(problem, measured)}",
    ]
    folder = Folder(mlruns.absolute() / "studies" / spec.name)
    taken = f"   it exists: {described(folder)}" if folder.exists() else ""
    return [*lines, f"folder    {shown(folder.path)}{taken}"]


def _doubts(problem: Problem, measured: Probe | None) -> list[str]:
    import math

    metric = problem.spec.metric
    if measured is None or math.isfinite(measured.metrics[metric]):
        return []
    return [f"{metric} is {measured.metrics[metric]} at the start values: such a trial fails"]


def _verdict(problem: Problem, measured: Probe | None) -> str:
    from hpo.wording import duration, plural

    note = getattr(problem.target, "note", "")
    objective = f"{problem.spec.objective} ({note})" if note else problem.spec.objective
    kind = "task: model, batches, loss" if problem.is_task else "function"
    if problem.is_bilevel:
        kind = "bilevel problem: init_params, inner_loss, outer_loss"
    line = f"ok        objective {objective}  [{kind}]"
    if measured is None:
        return line
    what = plural(measured.steps, "step" if problem.is_task else "report")
    return f"{line}   {what} probed in {duration(measured.seconds)}"


def _knobs(problem: Problem) -> list[str]:
    from hpo.wording import condition, describe, grid, knob

    rows = []
    for name, domain in problem.space.items():
        start = f"start {knob(domain, domain.start_value())}"
        more = "exact zero, then log" if getattr(domain, "scale", "") == "log+0" else ""
        more = condition(domain) or more
        rows.append([name, describe(domain), start, more])
    return [f"{'knobs' if i == 0 else '':10}{line}" for i, line in enumerate(grid(rows))]


def _plan(problem: Problem, measured: Probe | None) -> str:
    from hpo import engines, samplers
    from hpo.preparation import slots
    from hpo.wording import duration, plural

    spec = problem.spec
    plan = plural(spec.budget.trials, "trial")
    if problem.training is not None:
        plan += f" x {problem.training.steps} steps"
    if measured is None:
        return plan
    if measured.trial_seconds is not None:
        one = measured.trial_seconds * spec.seeds
        if problem.is_bilevel and samplers.load(spec.sampler).in_run:
            # What was timed solves one inner problem, a chain solves as many as it needs.
            return f"{plan}, {duration(one)} for the start values alone, on {measured.device}"
        plan += f", about {duration(one)} a trial"
        if spec.pack > 1:
            return f"{plan} by itself, on {measured.device}"
        if not engines.load(spec.engine).elsewhere:  # there, no one knows how many run at once
            rounds = -(-spec.budget.trials // max(1, slots(spec).workers))
            plan += f", {duration(one * rounds)} in all"
    return f"{plan}, on {measured.device}, {measured.memory / 2**30:.1f} GiB a worker"
