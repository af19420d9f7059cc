"""What the gate on a layer amounts to, as a change of the layer's own parameters."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from hpo.bilevel.gates.gate import Gate
from hpo.bilevel.gates.sites import CHANNEL_NORMS, CONVOLUTIONS, LAST_NORMS, TRANSPOSED, Site


def answered_parameters(site: Site, gate: Gate, delta: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Each parameter of a layer that its gate changes, and what it is at one `delta` (columns,).

    Of multi-head attention these are the weights of its last map. Recurrent layers have none:
    scaling what they put out is no change of weights, for they go on from it as it was.
    """
    layer = site.module
    if isinstance(layer, nn.MultiheadAttention):
        layer = layer.out_proj
    own = dict(layer.named_parameters(recurse=False))  # those that are computed are not here
    if "weight" not in own:
        return
    gains, shifts = 1 + delta @ gate.gains, delta @ gate.moves[: len(delta)]
    weight, bias = own["weight"], own.get("bias")
    if isinstance(layer, nn.Embedding):
        yield weight, _embedded(layer, weight, gains, shifts)
        return
    if isinstance(layer, TRANSPOSED):
        yield weight, _by_groups(layer, weight, gains)
    elif isinstance(layer, (nn.Linear, *CONVOLUTIONS, *CHANNEL_NORMS)):
        answered = weight * gains.view(-1, *[1] * (weight.ndim - 1))
        if gate.read is not None:
            answered = answered + (delta[:, None] * gate.moves[len(delta) :]).t() @ gate.read
        yield weight, answered
    elif isinstance(layer, LAST_NORMS):
        yield weight, weight * gains
    else:
        return
    if bias is not None:
        yield bias, bias * gains + shifts


def _embedded(layer: nn.Embedding, weight: Tensor, gains: Tensor, shifts: Tensor) -> Tensor:
    answered = weight * gains + shifts
    if layer.padding_idx is None:
        return answered
    padding = torch.zeros(len(weight), 1, dtype=torch.bool, device=weight.device)
    padding[layer.padding_idx] = True
    return torch.where(padding, weight, answered)


def _by_groups(layer: nn.Module, weight: Tensor, gains: Tensor) -> Tensor:
    """A transposed convolution has its inputs first; those of one group share its outputs."""
    groups = int(layer.groups)  # type: ignore[arg-type]
    grouped = weight.view(groups, -1, *weight.shape[1:])
    return (grouped * gains.view(groups, 1, -1, *[1] * (weight.ndim - 2))).view(weight.shape)
