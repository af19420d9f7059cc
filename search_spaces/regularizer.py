"""What a regularizer is: knobs, and pure hooks that say where it enters the training step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, Union

from search_spaces.domains import Domain
from search_spaces.errors import HpoError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from search_spaces.passes import Beginning

# A strength is one number for the whole batch (float or 0-d tensor) or one per example, (B,).
Strength: TypeAlias = Union[float, "Tensor"]
Strengths: TypeAlias = Mapping[str, Strength]
Scope: TypeAlias = Literal["example", "batch"]
Stage: TypeAlias = Literal["augment", "noise", "mix"]

# What a hook takes, after what its regularizer remembers if it remembers anything:
BatchHook: TypeAlias = "Callable[..., Batch]"  # batch, strengths, generator
ActivationHook: TypeAlias = "Callable[..., Tensor]"  # output, strengths, generator, site
AttentionHook: TypeAlias = "Callable[..., Tensor]"  # shape (B, L, S), strengths, generator
TargetHook: TypeAlias = "Callable[..., Tensor]"  # targets, strengths, generator
LossExampleHook: TypeAlias = "Callable[..., Tensor]"  # losses, strengths
LossOutputHook: TypeAlias = "Callable[..., Tensor]"  # pass, strengths, generator
LossBatchHook: TypeAlias = "Callable[..., Tensor]"  # pass, strengths, generator
PenaltyHook: TypeAlias = "Callable[..., Tensor]"  # parameters, strengths
ParameterHook: TypeAlias = "Callable[..., Mapping[str, Tensor]]"  # parameters, strengths, generator
RowsHook: TypeAlias = "Callable[..., Tensor]"  # batch as the task gave it, strengths
AscentHook: TypeAlias = "Callable[..., Mapping[str, Tensor]]"  # parameters, gradients, strengths
OptimizerHook: TypeAlias = "Callable[..., None]"  # parameters, strengths, learning rate
LearnHook: TypeAlias = "Callable[..., None]"  # pass, strengths, generator

STAGES: tuple[Stage, ...] = ("augment", "noise", "mix")
PER_EXAMPLE = ("batch", "activation", "attention", "target", "loss_example", "loss_output")
PER_BATCH = ("loss_batch", "penalty", "parameter", "ascent", "optimizer")
HOOKS = (*PER_EXAMPLE, *PER_BATCH)


class Batch(NamedTuple):
    """Examples of one training step; the first dimension of both counts the examples."""

    inputs: Tensor
    targets: Tensor

    def shift_inputs(self, strength: Strength, rng: torch.Generator) -> Batch:
        """The batch with Gaussian noise of this standard deviation added to its inputs."""
        noise = normal_like(real(self.inputs, "noise on the inputs"), rng)
        return self._replace(inputs=self.inputs + spread(strength, self.inputs) * noise)

    def sample(self, rows: int, rng: torch.Generator) -> Batch:
        """The batch, or so many of its rows, drawn without replacement, if it has more."""
        import torch

        if len(self.targets) <= rows:
            return self
        order = torch.randperm(len(self.targets), generator=rng, device=rng.device)
        picked = order[:rows].to(self.targets.device)
        return Batch(self.inputs[picked], self.targets[picked])


@dataclass(frozen=True)
class Regularizer:
    """Knobs and the hooks they act through; every hook is the identity at strength zero.

    `batch` and `activation` change what the model sees, `attention` says which keys each query may
    look at (B, L, S), `target` changes the soft targets (B, C), `loss_example` the losses (B,) of
    the examples before their mean. `loss_output` and `loss_batch` add to the loss what follows from
    a `Pass`: a number for each example (B,), or one. `penalty` adds a scalar made from the
    parameters. `parameter` gives back what the forward pass of a step uses in place of the
    parameters (itself for those it leaves alone), with `evaluated` that of an evaluation too.
    `ascent` gives back the parameters at which the gradient of the step is taken, from those it
    begins at and their gradients; `rows` says which examples' losses (B,) these are of. `optimizer`
    changes the parameters, whose gradients are there, in place just before the optimizer's step.

    `remember` makes from the `Beginning` of a run what its hooks then take as first argument, and
    `learn` changes that after each step; with the methods state_dict and load_state_dict it is
    part of a checkpoint.

    All randomness comes from the generator that is passed in, and the number of draws does not
    depend on the strength. `differentiable`: the loss has a useful gradient in the knobs when the
    draws are held fixed; with `surrogate` it is that of a smoother change. `site`: where
    `activation` acts, at dropout layers or at the ends of residual branches. `replaces_dropout`:
    while it acts, the own rate of a dropout site does not. `attends`: it reads attention weights.
    `once`: it takes derivatives inside its hooks that cannot themselves be taken within self-tuning
    layers. `stage`: when its `batch` hook acts: augmentation comes first, then noise, then mixing,
    which makes one example of several. `whole`: it compares an example with what it was before or
    is elsewhere, which mixing would spoil. `slow`: the knobs that `learn` alone uses, so that no
    loss depends on them at once.

    A knob with a value `off` is a strength, any other something like a probability. In a study that
    names a strength of a record, its other strengths are off and the rest stays at its start.
    """

    knobs: Mapping[str, Domain] = field(hash=False)
    batch: BatchHook | None = None
    activation: ActivationHook | None = None
    attention: AttentionHook | None = None
    target: TargetHook | None = None
    loss_example: LossExampleHook | None = None
    loss_output: LossOutputHook | None = None
    loss_batch: LossBatchHook | None = None
    penalty: PenaltyHook | None = None
    parameter: ParameterHook | None = None
    ascent: AscentHook | None = None
    optimizer: OptimizerHook | None = None
    rows: RowsHook | None = None
    remember: Callable[[Beginning], Any] | None = None
    learn: LearnHook | None = None
    differentiable: bool = False
    surrogate: bool = False
    stage: Stage = "noise"
    whole: bool = False
    site: Literal["dropout", "branch"] = "dropout"
    replaces_dropout: bool = False
    attends: bool = False
    evaluated: bool = False
    once: bool = False
    slow: tuple[str, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        if not self.knobs or not any(getattr(self, hook) for hook in HOOKS):
            raise HpoError(
                "a regularizer needs at least one knob and one hook",
                hint=f"hooks: {', '.join(HOOKS)}",
                code="bad-plugin",
            )

    @property
    def by_optimizer_alone(self) -> bool:
        """Whether nothing but the optimizer's step uses its knobs, so that no loss depends on them
        before the step is taken."""
        return not any(getattr(self, hook) for hook in HOOKS if hook != "optimizer")

    @property
    def scope(self) -> dict[str, Scope]:
        """For each knob whether a value per example means anything, or only one per batch.

        Derived from the hooks: a penalty, the parameters of a forward pass and an optimizer step,
        among others, are one for the whole batch. With hooks of both kinds the narrower scope holds
        for every knob.
        """
        shared = any(getattr(self, hook) for hook in PER_BATCH)
        scope: Scope = "batch" if shared else "example"
        return dict.fromkeys(self.knobs, scope)


def in_order(regularizers: Mapping[str, Regularizer]) -> dict[str, Regularizer]:
    """By stage, and by name: the draws must not depend on how a spec was written."""

    def place(item: tuple[str, Regularizer]) -> tuple[int, str]:
        return STAGES.index(item[1].stage), item[0]

    return dict(sorted(regularizers.items(), key=place))


def scopes_of(regularizers: Mapping[str, Regularizer]) -> dict[str, Scope]:
    """The scope of every knob; of one that several regularizers use, the narrower of theirs."""
    scopes: dict[str, Scope] = {}
    for regularizer in regularizers.values():
        for knob, scope in regularizer.scope.items():
            scopes[knob] = "batch" if "batch" in (scope, scopes.get(knob)) else "example"
    return scopes


def spread(strength: Strength, like: Tensor) -> Strength:
    """The strength in a shape that multiplies `like` example by example."""
    if isinstance(strength, int | float) or strength.dim() == 0:
        return strength
    if strength.dim() != 1 or like.dim() == 0 or strength.shape[0] != like.shape[0]:
        raise HpoError(
            f"strengths of shape {tuple(strength.shape)} do not fit a batch of shape "
            f"{tuple(like.shape)}",
            hint="give one number, or one strength for each example",
            code="bad-shape",
        )
    return strength.reshape(-1, *[1] * (like.dim() - 1))


def pooled(strength: Strength) -> Strength:
    """The one strength a per-batch hook uses: the mean where one per example was given."""
    if isinstance(strength, int | float) or strength.dim() == 0:
        return strength
    return strength.mean()


def real(tensor: Tensor, purpose: str) -> Tensor:
    """The tensor itself; an error when it holds integers, which `purpose` cannot work on."""
    if not tensor.is_floating_point():
        raise HpoError(
            f"{purpose} needs floating-point numbers, found {tensor.dtype}",
            hint="let batches() return .float() tensors, or leave this knob out",
            code="bad-batch",
        )
    return tensor


def by_channel(x: Tensor, site: nn.Module) -> Sequence[int]:
    """The shape of the draws at a dropout site: one for each channel at `nn.Dropout1d` to `3d`."""
    from torch import nn

    if isinstance(site, nn.Dropout1d | nn.Dropout2d | nn.Dropout3d):
        return (*x.shape[:2], *[1] * (x.ndim - 2))
    return x.shape


def uniform(shape: Sequence[int], like: Tensor, rng: torch.Generator) -> Tensor:
    """Uniform draws in [0, 1), where `like` lives."""
    import torch

    draws = torch.rand(shape, generator=rng, device=rng.device, dtype=_precise(like))
    return draws.to(like.device)


def normal(shape: Sequence[int], like: Tensor, rng: torch.Generator) -> Tensor:
    """Standard normal draws in the type of `like`, where it lives."""
    import torch

    draws = torch.randn(shape, generator=rng, device=rng.device, dtype=_precise(like))
    return draws.to(like)


def normal_like(like: Tensor, rng: torch.Generator) -> Tensor:
    """Standard normal draws in the shape and type of `like`, where it lives."""
    return normal(like.shape, like, rng)


def _precise(like: Tensor) -> torch.dtype:
    """Double precision for doubles and single for the rest: half is too coarse for small rates."""
    import torch

    return torch.float64 if like.dtype == torch.float64 else torch.float32
