"""hpo init"""

from __future__ import annotations

from pathlib import Path

import click

from hpo.cli import _options

CLUSTER = ("cluster.yaml", "ray_cluster.yaml", "slurm.sh")
EXAMPLES = """\b
Examples:
  hpo init my_study                    a task: model, batches, loss
  hpo init my_study --kind function    a function that trains on its own
  hpo init my_study --kind bilevel     an inner and an outer loss, for gradients
  hpo init my_study --space augment_images    with a copy of this set of knobs, to edit
  hpo init my_cluster --cluster        a study for a cluster, and what starts Ray there
"""


@click.command("init", epilog=EXAMPLES, context_settings=_options.HELP)
@click.argument("directory", default=".", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--kind",
    type=click.Choice(["task", "function", "bilevel"]),
    default="task",
    show_default=True,
    help="A task can be tuned while it trains, a function by black-box samplers, a bilevel problem"
    " by its derivatives too.",
)
@click.option(
    "--space",
    metavar="NAME",
    shell_complete=_options.SPACES,
    help="Copy this set of knobs (hpo list spaces) into study.yaml, comments included.",
)
@click.option(
    "--cluster",
    is_flag=True,
    help="Instead: a study for a Ray cluster, a script for Slurm and a file for Ray's launcher.",
)
@click.option("--force", is_flag=True, help="Overwrite files that are there.")
@_options.as_json
@_options.traceback
def command(
    directory: Path, kind: str, space: str | None, cluster: bool, force: bool, as_json: bool
) -> None:
    """Writes study.yaml and objective.py to edit, or what a cluster needs."""
    import shlex
    from importlib.resources import files

    from hpo.errors import Conflict, HpoError
    from hpo.folder import replace_text

    if space is not None and (cluster or kind != "task"):
        raise HpoError(
            f"--space {space} with {'--cluster' if cluster else f'--kind {kind}'}",
            hint="sets of knobs are for tasks; what else is searched a study.yaml says itself",
            code="refused",
        )
    package = files("hpo")
    if cluster:
        targets = {directory / name: package / "specs" / name for name in CLUSTER}
    else:
        targets = {
            directory / "study.yaml": package / "templates" / f"{kind}.yaml",
            directory / "objective.py": package / "templates" / f"{kind}.py.txt",
        }
    taken = [path.name for path in targets if path.exists()]
    if taken and not force:
        raise Conflict(
            f"{directory} holds {' and '.join(taken)} already",
            hint="choose another folder, or overwrite with --force",
            code="exists",
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path, template in targets.items():
            text = template.read_text(encoding="utf-8")
            if space is not None and path.name == "study.yaml":
                text = _with_space(text, space)
            replace_text(path.absolute(), text)
    except OSError as error:
        raise HpoError(f"{directory}: {error.strerror}", code="unwritable") from None
    if as_json:
        _options.print_json({"files": [str(path) for path in targets]})
        return
    for path in targets:
        click.echo(f"wrote {path}")
    enter = "" if directory == Path() else f"cd {shlex.quote(str(directory))} && "
    study = next(iter(targets)).name
    start = f"sbatch slurm.sh {study}" if cluster else f"hpo run {study}"
    click.echo(f"next  {enter}hpo check {study} && {start}")


def _with_space(study: str, name: str) -> str:
    """The text of a study whose space is a copy of a preset."""
    import re

    from search_spaces import presets

    copied = "".join(f"  {line}".rstrip() + "\n" for line in presets.text(name).splitlines())
    return re.sub(r"^space:.*\n(  .*\n)+", lambda _: f"space:\n{copied}", study, flags=re.MULTILINE)
