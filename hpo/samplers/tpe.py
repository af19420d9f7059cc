"""Tree-structured Parzen estimator: models where the good trials lie and draws more from there.

Bergstra et al., Algorithms for hyper-parameter optimization, NeurIPS 2011. Pruned trials count, by
how far they came; running trials count as bad ones, so parallel workers spread out.

A proposal takes longer the more trials the model is made of. Once more than `window` have ended, it
is made of the 25 best of the whole study, as many as ever count as good, and of the latest others:
those left out are old and bad, and would have had the least weight.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from inspect import unwrap
from typing import TYPE_CHECKING

from hpo.samplers._options import option
from hpo.samplers._sampler import Request, Sampler
from search_spaces.errors import HpoError

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


@dataclass(frozen=True)
class Options:
    """`startup_trials`: random trials before the model is used; `candidates`: how many draws the
    model chooses from; `multivariate`: model knobs together; `group`: model each set of knobs that
    occur together on its own (by default where some knobs depend on others); `window`: how many
    ended trials the model is made of at most."""

    startup_trials: int = option(10, at_least=0)
    candidates: int = option(24, at_least=1)
    multivariate: bool = option(True)
    group: bool | None = option(None)
    window: int = option(2000, at_least=250)

    def __post_init__(self) -> None:
        if self.group and not self.multivariate:
            raise HpoError(
                "sampler tpe: group needs multivariate",
                hint="leave multivariate out, or set group: false",
                code="bad-option",
                path=("group",),
            )


def propose(seed: int, request: Request) -> BaseSampler:
    from optuna.samplers import TPESampler

    from hpo.samplers._dice import seeded
    from hpo.samplers._quiet import quiet
    from hpo.samplers._window import WindowedTPE

    options: Options = request.options
    group = _grouped(request)
    sampler = WindowedTPE.__new__(WindowedTPE)
    sampler.window = options.window
    with quiet() if group else nullcontext():
        # Optuna wraps its constructor in a look at its signature: 0.1 ms, and here at every trial.
        unwrap(TPESampler.__init__)(
            sampler,
            n_startup_trials=options.startup_trials,
            n_ei_candidates=options.candidates,
            multivariate=options.multivariate,
            group=group,
        )
    return seeded(sampler, seed)


def joint(request: Request) -> list[str] | None:
    if _grouped(request) or not request.options.multivariate:
        return None
    return [name for name, domain in request.coordinates.items() if not domain.when]


def _grouped(request: Request) -> bool:
    options: Options = request.options
    if options.group is None and options.multivariate:
        return any(domain.when for domain in request.coordinates.values())
    return bool(options.group)


SAMPLER = Sampler(
    propose,
    Options,
    joint=joint,
    summary="models where good trials lie (tree-structured Parzen estimator)",
)
