"""Where a model can respond: its leaf layers, found by running it, and how they lay out a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from hpo.bilevel.gates.unsuited import eagerly, refuse_unsuited
from search_spaces.evaluating import evaluating
from search_spaces.regularizer import Batch

if TYPE_CHECKING:
    from objectives.training.state import Run

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
CHANNEL_NORMS = (
    nn.modules.batchnorm._NormBase,  # batch and instance norm
    nn.GroupNorm,
)
LAST_NORMS = (nn.LayerNorm, nn.RMSNorm)
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_NORMS = (*CHANNEL_NORMS, *LAST_NORMS)
_KINDS = (nn.Linear, nn.Embedding, nn.MultiheadAttention, *CONVOLUTIONS, *_NORMS, *_RECURRENT)
_SAME = 1e-6  # relative: what differs by less is the same number, rounded in another way


@dataclass(frozen=True)
class Layout:
    """Which dimension of an output counts the examples.

    It may be a multiple of their number: the entries of one example then lie side by side, or
    (`interleaved`) one entry of each example comes after the other.
    """

    dim: int
    interleaved: bool = False


_BY_SHAPE = (Layout(0), Layout(1))


@dataclass(frozen=True)
class Site:
    """A layer that responds: `width` output units in dimension `channel`, and the number of its
    `inputs` where it is a plain linear map of them.

    shifts: whether its output can be shifted, as that of a layer without bias cannot. layouts: how
    its calls were seen to lay out a batch. plain_calls: some of them had nothing to do with the
    examples, as that of a position embedding.
    """

    name: str
    module: nn.Module
    width: int
    channel: int
    inputs: int | None = None
    shifts: bool = True
    layouts: tuple[Layout, ...] = _BY_SHAPE
    plain_calls: bool = False


def find_sites(
    model: nn.Module,
    forward: Callable[[], object],
    altered: Callable[[], object] | None = None,
    rows: int = 0,
) -> list[Site]:
    """The layers that `forward` runs through, in the order of the model's modules.

    altered: the same pass with the first of the `rows` examples exchanged (`another_first`); what
    changes in an output shows where each example lies in it. Without it the shape alone must say.

    A layer whose output goes straight into a norm is left out: the norm would undo the scaling of
    its rows, so the norm itself responds in its place. Layers inside multi-head attention and
    recurrent modules are read by these without being called; there the whole module responds. A
    layer whose parameters are all frozen, or whose output is the same for every example, is left
    out too. HpoError for a model whose layers cannot be reached from here.
    """
    refuse_unsuited(model)
    candidates = {m: name for name, m in model.named_modules() if _responds(m)}
    calls, normed = _seen(candidates, forward)
    again = _seen(candidates, altered)[0] if altered is not None else {}
    into_norms = {id(tensor) for tensor in normed}
    found = []
    for module, name in candidates.items():
        outputs = calls.get(module, [])
        if not all(id(output) in into_norms for output in outputs):
            found.append(_site(name, module, outputs, again.get(module, []), rows))
    if not any(site.layouts for site in found):  # all examples are alike: the shapes must say
        return [replace(site, layouts=_BY_SHAPE, plain_calls=False) for site in found]
    return [site for site in found if site.layouts]


def another_first(batch: Batch) -> Batch:
    """The batch with its first example replaced by one that differs from it, if there is one."""
    inputs = batch.inputs
    others = (inputs != inputs[:1]).flatten(1).any(1) if inputs.ndim > 1 else inputs != inputs[:1]
    picked = torch.arange(len(inputs), device=inputs.device)
    picked[0] = others.to(torch.uint8).argmax()
    return batch._replace(inputs=inputs[picked])


def sites_of(run: Run) -> list[Site]:
    """The layers that respond in a run's model, seen on one validation batch."""
    batch = run.next_batch("validation")
    altered = another_first(batch)

    def forward(batch: Batch) -> None:
        with evaluating(run.model):
            run.task.loss(run.model, batch)

    return find_sites(
        run.model, lambda: forward(batch), lambda: forward(altered), len(batch.targets)
    )


def main_output(output: Any) -> Any:
    """The tensor that a layer gives, without the states or weights that come with it."""
    main = output[0] if type(output) is tuple else output
    return main.data if isinstance(main, PackedSequence) else main


def with_main_output(output: Any, main: Tensor) -> Any:
    """The output with its tensor replaced."""
    if type(output) is tuple:
        return (with_main_output(output[0], main), *output[1:])
    return output._replace(data=main) if isinstance(output, PackedSequence) else main


def _responds(module: nn.Module) -> bool:
    if not isinstance(module, _KINDS):
        return False
    trained = [parameter.requires_grad for parameter in module.parameters()]
    return any(trained) or not trained  # a norm without parameters does respond


_Calls = dict[nn.Module, list[Any]]


def _seen(
    candidates: dict[nn.Module, str], forward: Callable[[], object]
) -> tuple[_Calls, list[Tensor]]:
    """The outputs of every call, and the tensors that went into norms."""
    calls: _Calls = {}
    normed: list[Tensor] = []

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        first = next((value for value in inputs if isinstance(value, Tensor)), None)
        if first is not None and isinstance(module, _NORMS):
            normed.append(first)
        main = main_output(output)
        if isinstance(main, Tensor):
            calls.setdefault(module, []).append(main)

    handles = [module.register_forward_hook(note) for module in candidates]
    try:
        with torch.no_grad(), eagerly(), _without_fast_path():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return calls, normed


@contextmanager
def _without_fast_path() -> Iterator[None]:
    """Within it attention calls its layers: its fused form of evaluation would go past them."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _site(name: str, module: nn.Module, outputs: list[Any], again: list[Any], rows: int) -> Site:
    channel = 1 if isinstance(module, (*CONVOLUTIONS, *CHANNEL_NORMS)) else -1
    inputs = module.in_features if type(module) is nn.Linear else None
    site = Site(name, module, outputs[0].shape[channel], channel, inputs, _shifts(module))
    if len(again) != len(outputs):
        return site
    pairs = zip(outputs, again, strict=True)
    seen = [_layout(before, after, rows, channel) for before, after in pairs]
    layouts = tuple(dict.fromkeys(layout for layout in seen if layout is not None))
    if isinstance(module, nn.RNNBase) and not layouts:
        layouts = (Layout(0),)  # packed: told by the packing itself
    return replace(site, layouts=layouts, plain_calls=None in seen)


def _shifts(module: nn.Module) -> bool:
    """Whether adding to the output is something that the layer's parameters could do."""
    layer = module.out_proj if isinstance(module, nn.MultiheadAttention) else module
    plain = isinstance(layer, (nn.Linear, *CONVOLUTIONS, *_NORMS))
    trained = dict(layer.named_parameters(recurse=False))
    return not plain or not trained or "bias" in trained


def _layout(before: Tensor, after: Tensor, rows: int, channel: int) -> Layout | None:
    """Where the first example lies, seen by what changed with it; None if nothing did."""
    if before.shape != after.shape:  # cut to the longest example, or routed by what it holds
        fits = [d for d in (0, 1) if before.ndim > 2 * d and before.shape[d] == after.shape[d]]
        return next((Layout(dim) for dim in fits if before.shape[dim] % rows == 0), None)
    scale = before.abs().max()
    changed = (before - after).abs() > _SAME * scale
    if not bool(changed.any()):
        return None
    dims = [0, 1] if before.ndim >= 3 and channel == -1 else [0]
    dims = [dim for dim in dims if before.shape[dim] % rows == 0]
    for dim in sorted(dims, key=lambda d: before.shape[d]):
        places = changed.movedim(dim, 0).flatten(1).any(1).nonzero()
        if bool((places < before.shape[dim] // rows).all()):
            return Layout(dim)
        if bool((places % rows == 0).all()):
            return Layout(dim, interleaved=True)
    # Examples are mixed here, as by attention over a batch: its rows are still one for each.
    return Layout(0) if before.shape[0] == rows else None
