"""SeReNe: every step shrinks the neurons on which the outputs hardly depend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strengths, pooled

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from search_spaces.passes import Beginning, Pass

EVERY = 10  # steps from one measurement to the next: each is a pass of its own
MEMORY = 0.8  # what a measurement leaves of the average before it


class Sensitivity:
    """How much the outputs depend on each neuron, by the name of its weight: a moving average."""

    def __init__(self, beginning: Beginning) -> None:
        self.layers = _layers(beginning.model)
        self.found: dict[str, Tensor] = {}
        self.passes = 0

    def take(self, name: str, measured: Tensor) -> None:
        """Lets a measurement into the average of a weight's rows."""
        before = self.found.get(name)
        if before is not None:
            measured = MEMORY * before.to(measured) + (1 - MEMORY) * measured
        self.found[name] = measured

    def state_dict(self) -> dict[str, Any]:
        return {"passes": self.passes, "found": dict(self.found)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.passes, self.found = state["passes"], dict(state["found"])


def shrink(
    memory: Sensitivity, parameters: Mapping[str, Tensor], h: Strengths, learning_rate: float
) -> None:
    """w_row -= learning_rate * strength * w_row * max(0, 1 - S_row), for linear layers and filters.

    Tartaglione et al. 2021, where the step is not multiplied by the learning rate: their lambda is
    learning_rate * strength, which fades as weight_decay does. S is a lower bound of their
    sensitivity, see `measure`. Weights whose output is not seen (the inner projections of
    nn.MultiheadAttention, embeddings, recurrent layers), biases and gains stay.
    """
    import torch

    strength = torch.as_tensor(learning_rate * pooled(h["serene"]))
    with torch.no_grad():
        for name, parameter in parameters.items():
            sensitivity = memory.found.get(name)
            if sensitivity is not None:
                kept = (1 - sensitivity.to(parameter)).clamp(min=0.0)
                # Below zero the factor would turn rows around instead of shrinking them.
                factor = (1 - strength.to(parameter) * kept).clamp(min=0.0)
                parameter.mul_(factor.view(-1, *[1] * (parameter.ndim - 1)))


def measure(memory: Sensitivity, seen: Pass, h: Strengths, rng: torch.Generator) -> None:
    """Every tenth step, the mean over examples of |sum_k s_k d out_k / d z_row| / C.

    z_row moves what the neuron puts out before its activation, at all places of a picture or
    sequence alike; C counts the outputs. The paper's S = sum_k |d out_k / d z_row| / C takes a
    backward pass for each output. With all s_k = 1 the sum is its lower bound, which is zero for a
    neuron that speaks for one class as much as against another. Here the signs s_k are drawn for
    each example, a bound as low that no neuron meets by its nature; (that places are summed and
    not averaged is this project's reading: so one filter compares with one neuron).
    """
    import torch

    memory.passes += 1
    if memory.passes % EVERY != 1:
        return
    with torch.enable_grad(), _listening(memory.layers) as heard:
        outputs = seen.again(seen.batch.inputs).flatten(1)
    signs = torch.randint(0, 2, outputs.shape, generator=rng, device=rng.device) * 2 - 1
    total = (signs.to(outputs) * outputs).sum() / outputs.shape[1]
    flat = [(name, output, axis) for name, calls in heard.items() for output, axis in calls]
    if not flat:
        return
    slopes = torch.autograd.grad(total, [output for _, output, _ in flat], allow_unused=True)
    found: dict[str, Tensor] = {}
    for (name, _, axis), slope in zip(flat, slopes, strict=True):
        if slope is not None:
            each = slope.movedim(axis, -1).flatten(1, -2) if slope.ndim > 2 else slope[:, None]
            found[name] = found.get(name, 0.0) + each.sum(1).abs().mean(0)
    for name, measured in found.items():
        memory.take(name, measured)


def _layers(model: nn.Module) -> dict[nn.Module, str]:
    """The layers that have neurons, with the name of their weight: linear ones and convolutions."""
    from torch import nn

    named = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    found = [module for module in model.modules() if isinstance(module, kinds)]
    return {module: named[id(module.weight)] for module in found if id(module.weight) in named}


@contextmanager
def _listening(
    layers: Mapping[nn.Module, str],
) -> Iterator[dict[str, list[tuple[Tensor, int]]]]:
    """What the layers put out meanwhile, by the name of their weight, with the axis of neurons."""
    from torch import nn

    heard: dict[str, list[tuple[Tensor, int]]] = {}

    def hook(module: nn.Module, _: Any, output: Tensor) -> None:
        axis = -1 if isinstance(module, nn.Linear) else 1
        if output.requires_grad and output.ndim >= 2:
            heard.setdefault(layers[module], []).append((output, axis))

    handles = [module.register_forward_hook(hook) for module in layers]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


REGULARIZER = Regularizer(
    knobs={
        "serene": Float(1e-5, 10.0, scale="log", start=1e-2, off=0.0, limits=(0.0, float("inf")))
    },
    remember=Sensitivity,
    optimizer=shrink,
    learn=measure,
    note="decoupled weight decay of the rows and filters on which the outputs hardly depend; one "
    "more pass every tenth step",
)
