"""hpo check"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpo.cli import _options

if TYPE_CHECKING:
    from hpo.probe import Probe
    from hpo.problem import Problem
    from hpo.spec import StudySpec

EXAMPLES = """\b
Examples:
  hpo check                              the packaged quickstart
  hpo check study.yaml
  hpo check study.yaml --print-spec      every default spelled out
  hpo check --objective my_task:Faces
"""


@click.command("check", epilog=EXAMPLES)
@click.argument("spec", required=False, metavar="[SPEC]", type=click.Path())
@click.option("--objective", help="Built-in NAME, module:attr or file.py:attr.")
@click.option("--space", help="A preset of knobs (hpo list spaces).")
@click.option("--sampler", help="How points are chosen (hpo list samplers).")
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
    from hpo.preparation import Launch, prepare

    source = given(spec, sets, options)
    try:
        unnamed = source.spec().model_copy(update={"name": ".check"})
        resolved, _, problem = prepare(unnamed, Launch(mlruns))
        resolved = resolved.model_copy(update={"name": source.spec().name})
        measured = None if no_probe or print_spec else _probe(resolved)
    except HpoError as error:
        raise source.placed(error) from None
    if as_json:
        from dataclasses import asdict

        found = asdict(measured) if measured else None
        _options.print_json({"spec": resolved.plain(), "notes": problem.notes, "probe": found})
    elif print_spec:
        from hpo.yamlfile import dump

        click.echo(dump(resolved.plain()), nl=False)
    else:
        for line in _lines(resolved, problem, measured):
            click.echo(line)


def _probe(spec: StudySpec) -> Probe:
    from hpo.probe import probe

    return probe(spec)


def _lines(spec: StudySpec, problem: Problem, measured: Probe | None) -> list[str]:
    from hpo.console import duration
    from hpo.preparation import slots_text
    from hpo.problem import describe

    kind = "task: model, batches, loss" if problem.is_task else "function"
    probed = ""
    if measured is not None:
        probed = f"   {measured.steps} steps probed in {duration(measured.seconds)}"
    lines = [f"ok        objective {spec.objective}  ({kind}){probed}"]
    lines += [f"note      {note}" for note in problem.notes]
    for name, domain in problem.space.items():
        lines.append(f"knob      {name}  {describe(domain)}, start {domain.start_value()}")
    lines.append(
        f"sampler   {spec.sampler}   {spec.direction} {spec.metric}   prune {spec.prune}"
        f"   seed {spec.seed}"
    )
    lines.append(f"engine    {spec.engine}   {slots_text(spec)}")
    return [*lines, f"plan      {_plan(spec, problem, measured)}"]


def _plan(spec: StudySpec, problem: Problem, measured: Probe | None) -> str:
    from hpo.console import duration
    from hpo.preparation import slots

    trials = spec.budget.trials
    plan = f"{trials} trial{'' if trials == 1 else 's'}"
    if problem.training is not None:
        plan += f" x {problem.training.steps} steps"
    if measured is None:
        return plan
    if problem.training is not None and measured.seconds_per_step is not None:
        one = problem.training.steps * measured.seconds_per_step
        one += problem.training.evaluations * (measured.evaluation_seconds or 0.0)
        total = one * spec.seeds * trials / max(1, slots(spec).workers)
        plan += f", about {duration(one * spec.seeds)} a trial, {duration(total)} in all"
    return f"{plan} on {measured.device}, {measured.memory / 2**30:.1f} GiB a worker"
