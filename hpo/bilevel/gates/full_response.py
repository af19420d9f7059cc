"""The response as published: a second set of weights in each layer, told where the knobs are.

With h what the response sees of the knobs, one row for each example, a layer with weights W, b puts
out c * (W x + b) + s_w(h) * (W' x) + s_b(h) * b', where V h gives the scalars s_w and s_b of each
output unit. MacKay, Vicol, Lorraine, Duvenaud and Grosse, Self-Tuning Networks (ICLR 2019); without
c, and with V = 0 at first, Bae and Grosse, Delta-STN (NeurIPS 2020).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hpo.bilevel.gates.response import by_entry, layout_of
from hpo.bilevel.gates.sites import CONVOLUTIONS, TRANSPOSED, Site, main_output, with_main_output
from search_spaces.errors import HpoError

_KINDS = (nn.Linear, nn.Embedding, *CONVOLUTIONS)


class SecondWeights(nn.Module):
    """What one layer has in addition.

    layer     a layer of the same kind, without bias, whose weight is W'
    bias      b' (width,); None where the layer has no bias
    factors   V (2 * width, columns): s_w above s_b; (width, columns) without a bias
    own       c (1,); None where the layer's own output is not scaled
    """

    def __init__(self, site: Site, columns: int, own_scale: bool, factor_spread: float) -> None:
        super().__init__()
        like = _own_parameters(site.module)["weight"]
        self.layer = _another(site.module).to(like.dtype)
        weight = _own_parameters(self.layer)["weight"]
        bound = weight[0].numel() ** -0.5  # 1 / sqrt(fan in)
        nn.init.uniform_(weight, -bound, bound)
        if isinstance(self.layer, nn.Embedding) and self.layer.padding_idx is not None:
            nn.init.zeros_(weight[self.layer.padding_idx])
        self.bias: nn.Parameter | None = None
        if "bias" in _own_parameters(site.module):
            self.bias = nn.Parameter(weight.new_empty(site.width).uniform_(-bound, bound))
        scalars = site.width if self.bias is None else 2 * site.width
        precise = torch.promote_types(like.dtype, torch.float32)
        self.factors = nn.Parameter(torch.randn(scalars, columns, dtype=precise) * factor_spread)
        self.own: nn.Parameter | None = None
        # An embedding's own rows are not scaled in the published code.
        if own_scale and not isinstance(self.layer, nn.Embedding):
            self.own = nn.Parameter(weight.new_ones(1))
        self.to(like.device)

    def forward(
        self, inputs: tuple[Any, ...], named: dict[str, Any], output: Tensor, seen: Tensor, at: Site
    ) -> Tensor:
        """The output of the layer, answered to `seen` (rows, columns), or (1, columns) for all."""
        scales, shifts = self._scalars(seen)
        # Not called but read: hooks for every module would see a layer the model does not have.
        answer: Tensor = self.layer.forward(*inputs, **named)
        answer = answer * _by_example(scales, output, at)
        if shifts is not None:
            answer = answer + _by_example(shifts, output, at)
        return answer + (output if self.own is None else self.own * output)

    def folded(
        self, weight: Tensor, bias: Tensor | None, seen: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The weights of the plain layer that does the same at one `seen` (columns,) for all."""
        scales, shifts = self._scalars(seen[None])
        second = _own_parameters(self.layer)["weight"]
        own = 1.0 if self.own is None else self.own
        found = own * weight + second * self._beside_weight(scales[0], second)
        if bias is None or shifts is None:
            return found, None
        return found, own * bias + shifts[0].to(bias.dtype)

    def _scalars(self, seen: Tensor) -> tuple[Tensor, Tensor | None]:
        """s_w, and s_b times b', (rows, width) each."""
        both = seen.to(self.factors.dtype) @ self.factors.t()
        if self.bias is None:
            return both, None
        scales, shifts = both.chunk(2, dim=1)
        return scales, shifts * self.bias

    def _beside_weight(self, scales: Tensor, weight: Tensor) -> Tensor:
        """Numbers (width,) in a shape that multiplies each output unit's part of a weight."""
        scales = scales.to(weight.dtype)
        if isinstance(self.layer, nn.Embedding):
            return scales
        ones = [1] * (weight.ndim - 2)
        if not isinstance(self.layer, TRANSPOSED):
            return scales.view(-1, 1, *ones)
        # A transposed convolution has its inputs first; those of one group share its outputs.
        groups = scales.view(self.layer.groups, -1)
        inputs = weight.shape[0] // self.layer.groups
        return groups.repeat_interleave(inputs, dim=0).view(*weight.shape[:2], *ones)


class FullResponse:
    """Second weights at the sites of a model, in force while `seen` is set.

    `seen` (rows, columns) is what the response sees of the knobs, for each example of the coming
    batch; (1, columns) holds for all. While it is None the model is its plain self.
    """

    def __init__(
        self, sites: list[Site], columns: int, own_scale: bool, factor_spread: float, seed: int
    ) -> None:
        self.sites = [site for site in sites if _can_respond(site.module)]
        if not self.sites:
            raise HpoError(
                "this model has no layer that could respond to the knobs as published",
                hint="linear, convolution and embedding layers do; with response: gains norms,"
                " attention and recurrent layers do as well",
                code="no-response",
                path=("sampler",),
            )
        self.seen: Tensor | None = None
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.gates = [
                SecondWeights(site, columns, own_scale, factor_spread) for site in self.sites
            ]

    def parameters(self) -> list[nn.Parameter]:
        """What is learned, in a fixed order."""
        return [parameter for gate in self.gates for parameter in gate.parameters()]

    def attach(self) -> list[Callable[[], None]]:
        """Lets the layers respond; gives back what ends that."""
        return [
            site.module.register_forward_hook(self._hook(site, gate), with_kwargs=True).remove
            for site, gate in zip(self.sites, self.gates, strict=True)
        ]

    def _hook(self, site: Site, gate: SecondWeights) -> Callable[..., Any]:
        def hook(
            module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Tensor
        ) -> Tensor | None:
            if self.seen is None:
                return None
            answered: Tensor = gate(inputs, named, output, self.seen, site)
            return answered

        return hook

    def folded(self, seen: Tensor) -> dict[str, Tensor]:
        """By name the weights and biases with which the plain layers put out what the responding
        ones do at one `seen` (columns,); those of the other layers are left out."""
        found: dict[str, Tensor] = {}
        for site, gate in zip(self.sites, self.gates, strict=True):
            weight, bias = gate.folded(*_weights(site.module), seen)
            found[_name(site, "weight")] = weight
            if bias is not None:
                found[_name(site, "bias")] = bias
        return found

    @torch.no_grad()
    def write(self, model: nn.Module, seen: Tensor) -> None:
        """Puts the folded weights into the model.

        A weight that a layer shares with others becomes its own, because they respond each in
        their way.
        """
        uses = Counter(id(p) for m in model.modules() for p in _own_parameters(m).values())
        folded = self.folded(seen)
        for site in self.sites:
            for slot, parameter in _own_parameters(site.module).items():
                value = folded[_name(site, slot)]
                if uses[id(parameter)] > 1:
                    fresh = nn.Parameter(value, requires_grad=parameter.requires_grad)
                    setattr(site.module, slot, fresh)
                else:
                    parameter.copy_(value)


@contextmanager
def linearised(model: nn.Module, response: FullResponse, tangent: Tensor) -> Iterator[None]:
    """Within it the model puts out f(0) + (df/dh) tangent, its tangent in what the response sees.

    The product with the Jacobian comes from two products with its transpose: of v -> J^T v, which
    is linear, the gradient along `tangent` is J tangent. So each operation of the model needs a
    second derivative. HpoError if the loss never calls the model as a whole.
    """
    origin = torch.zeros_like(tangent, requires_grad=True)
    calls = 0

    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        nonlocal calls
        calls += 1
        main = main_output(output)
        if not isinstance(main, Tensor):
            raise _not_whole(f"the model puts out {type(main).__name__}")
        beside = torch.zeros_like(main, requires_grad=True)
        back = torch.autograd.grad(main, origin, beside, create_graph=True)[0]
        along = torch.autograd.grad(back, beside, tangent, create_graph=True)[0]
        return with_main_output(output, main + along)

    response.seen = origin
    handle = model.register_forward_hook(hook)
    try:
        yield
        if calls == 0:
            raise _not_whole("loss calls parts of the model, never model(...) itself")
    finally:
        handle.remove()
        response.seen = None


def _not_whole(found: str) -> HpoError:
    return HpoError(
        f"response: delta takes the tangent of the model's output, but {found}",
        hint="let loss call model(batch.inputs), which gives a tensor (or a tuple that begins with"
        " one); or use response: gains",
        code="bad-task",
        path=("sampler_options", "response"),
    )


def _can_respond(module: nn.Module) -> bool:
    """Whether it is one of the plain layers, with a weight of its own that is not computed."""
    return type(module) in _KINDS and "weight" in _own_parameters(module)


def _own_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    return dict(module.named_parameters(recurse=False, remove_duplicate=False))


def _weights(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    own = _own_parameters(module)
    return own["weight"], own.get("bias")


def _name(site: Site, slot: str) -> str:
    return f"{site.name}.{slot}" if site.name else slot


def _another(module: nn.Module) -> nn.Module:
    """A new layer of the same shape and options, without bias."""
    if isinstance(module, nn.Linear):
        return nn.Linear(module.in_features, module.out_features, bias=False)
    if isinstance(module, nn.Embedding):
        return nn.Embedding(
            module.num_embeddings,
            module.embedding_dim,
            module.padding_idx,
            scale_grad_by_freq=module.scale_grad_by_freq,
        )
    names = ["in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation"]
    names += ["groups", "padding_mode"]
    if isinstance(module, TRANSPOSED):
        names.append("output_padding")
    options = {name: getattr(module, name) for name in names}
    return type(module)(**options, bias=False)


def _by_example(numbers: Tensor, output: Tensor, site: Site) -> Tensor:
    """Numbers (rows, width) in a shape that works on the output of one call, whichever of its
    dimensions counts the examples."""
    rows, numbers = len(numbers), numbers.to(output.dtype)
    shape = [1] * output.ndim
    shape[site.channel] = site.width
    layout = None if rows == 1 else layout_of(site, output, rows)
    if layout is None:  # one row for all, or a call that has nothing to do with the examples
        return numbers.mean(0).reshape(shape)
    shape[layout.dim] = output.shape[layout.dim]
    return by_entry(numbers, shape[layout.dim], layout.interleaved).reshape(shape)
