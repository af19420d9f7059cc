"""The response of one layer: how its output answers when the knobs move a little.

A gate changes a layer's output y by y * (1 + d A) + d B + ((x U) * d) V, where d holds, for each
example, how far the knobs are from their centre (rows, columns). Scaling an output unit is exactly
a change of its row of weights, and the last term a change of rank one for each knob; so every
example has weights of its own at the price of element-wise work. At d = 0 nothing is changed.

The idea of a structured best response is of MacKay et al., Self-Tuning Networks (ICLR 2019), the
centring of Bae and Grosse, Delta-STN (NeurIPS 2020); gains that share the layer's own weights, and
a direction of rank one for each knob, take the place of their second weight matrix.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hpo.bilevel.gates.unsuited import once_differentiable


class Gate(nn.Module):
    """Gains, shifts and directions of one layer.

    gains       A (columns, width), zero at first
    moves       B (columns, width) and, below it, V (columns, width), both zero at first
    read        U (columns, inputs), random; None, and V absent, for layers without a plain input
    """

    def __init__(self, width: int, columns: int, inputs: int | None, like: Tensor) -> None:
        super().__init__()
        like = like.new_empty((), dtype=torch.promote_types(like.dtype, torch.float32))
        self.gains = nn.Parameter(like.new_zeros(columns, width))
        self.read: nn.Parameter | None = None
        if inputs is None:
            self.moves = nn.Parameter(like.new_zeros(columns, width))
        else:
            self.moves = nn.Parameter(like.new_zeros(2 * columns, width))
            random = torch.randn(columns, inputs, dtype=like.dtype) / inputs**0.5
            self.read = nn.Parameter(random.to(like.device))

    def forward(self, inputs: Tensor | None, output: Tensor, delta: Tensor, channel: int) -> Tensor:
        """The output (rows, ...) of the layer, answered; `channel` is the dimension of width.

        Learning, when `delta` asks for no gradient: gradients then go to the gate, else to `delta`.
        """
        parameters = [self.gains, self.moves] if self.read is None else [*self.parameters()]
        if delta.requires_grad:
            parameters = [parameter.detach() for parameter in parameters]  # type: ignore[misc]
        if self.read is None or inputs is None:
            answered: Tensor = _Gains.apply(output, delta, channel, *parameters)  # type: ignore[no-untyped-call]
        else:
            answered = _GainsAndDirections.apply(inputs, output, delta, *parameters)  # type: ignore[no-untyped-call]
        return answered


def _gains(output: Tensor, delta: Tensor, gains: Tensor, channel: int) -> Tensor:
    """1 + d A in a shape that works on the output row by row."""
    one = torch.ones((), device=delta.device, dtype=gains.dtype)
    return _rowwise(torch.addmm(one, delta.to(gains.dtype), gains), output, channel)


def _rowwise(numbers: Tensor, output: Tensor, channel: int) -> Tensor:
    """Numbers (rows, width), as the output has its dimensions and its type."""
    shape = [1] * output.ndim
    shape[0], shape[channel] = numbers.shape
    return numbers.to(output.dtype).view(shape)


def _kept(output: Tensor, learning: bool) -> Tensor:
    """What backward needs of the output: in learning steps half the memory will do, because it
    enters the gradient of the gains alone, and there only as a sum over many entries."""
    return output.to(torch.bfloat16) if learning and output.dtype == torch.float32 else output


def _row_sums(product: Tensor, channel: int) -> Tensor:
    """(rows, width): the sum over all other dimensions."""
    others = [d for d in range(1, product.ndim) if d != channel % product.ndim]
    return product.sum(others) if others else product


class _Gains(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, output: Tensor, delta: Tensor, channel: int, gains: Tensor, moves: Tensor
    ) -> Tensor:
        ctx.learning, ctx.channel = gains.requires_grad, channel
        ctx.save_for_backward(_kept(output, ctx.learning), delta, gains, moves)
        answered = output * _gains(output, delta, gains, channel)
        return answered.add_(_rowwise(delta.to(moves.dtype) @ moves, output, channel))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        kept, delta, gains, moves = ctx.saved_tensors
        grad_output = grad * _gains(grad, delta, gains, ctx.channel)
        scaled = _row_sums(grad * kept, ctx.channel).to(gains.dtype)
        moved = _row_sums(grad, ctx.channel).to(moves.dtype)
        if ctx.learning:
            back = delta.to(gains.dtype).t()
            return grad_output, None, None, back @ scaled, back @ moved
        return grad_output, scaled @ gains.t() + moved @ moves.t(), None, None, None


class _GainsAndDirections(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        output: Tensor,
        delta: Tensor,
        gains: Tensor,
        moves: Tensor,
        read: Tensor,
    ) -> Tensor:
        ctx.learning = gains.requires_grad
        seen = inputs.to(read.dtype) @ read.t()
        pushes = _pushes(seen, delta)
        ctx.save_for_backward(inputs, _kept(output, ctx.learning), delta, gains, moves, read, seen)
        answered = output * _gains(output, delta, gains, -1)
        flat = answered.view(-1, answered.shape[-1])
        flat.addmm_(pushes.to(flat.dtype), moves.to(flat.dtype))
        return answered

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, kept, delta, gains, moves, read, seen = ctx.saved_tensors
        columns = delta.shape[1]
        grad_output = grad * _gains(grad, delta, gains, -1)
        scaled = _row_sums(grad * kept, -1).to(gains.dtype)
        asked = grad.to(moves.dtype) @ moves[columns:].t()
        back = asked * _beside(delta, seen)
        grad_inputs = (back @ read).to(inputs.dtype) if ctx.needs_input_grad[0] else None
        if not ctx.learning:
            moved = _row_sums(grad, -1).to(moves.dtype)
            grad_delta = scaled @ gains.t() + moved @ moves[:columns].t()
            grad_delta += _row_sums(asked * seen, -1)
            return grad_inputs, grad_output, grad_delta, None, None, None
        grad_moves = _pushes(seen, delta).t() @ grad.reshape(-1, grad.shape[-1]).to(moves.dtype)
        flat = inputs.reshape(-1, inputs.shape[-1]).to(read.dtype)
        return (
            grad_inputs,
            grad_output,
            None,
            delta.to(gains.dtype).t() @ scaled,
            grad_moves,
            back.reshape(-1, columns).t() @ flat,
        )


def _pushes(seen: Tensor, delta: Tensor) -> Tensor:
    """What the moves are multiplied by: d, and beside it (x U) * d, in flat rows."""
    beside = _beside(delta, seen)
    both = torch.cat([beside.expand_as(seen), seen * beside], dim=-1)
    return both.reshape(-1, both.shape[-1])


def _beside(delta: Tensor, seen: Tensor) -> Tensor:
    """delta (rows, columns) in a shape that multiplies `seen` (rows, ..., columns)."""
    shape = (len(delta), *[1] * (seen.ndim - 2), delta.shape[1])
    return delta.to(seen.dtype).view(shape)
