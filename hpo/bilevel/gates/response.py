"""The response of a whole model: gates on its layers, put there by hooks, its code untouched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from hpo.bilevel.gates.effective import answered_parameters
from hpo.bilevel.gates.gate import Gate
from hpo.bilevel.gates.sites import Layout, Site, main_output, with_main_output
from hpo.bilevel.gates.unsuited import forget_compiled, without_gradients
from search_spaces.errors import HpoError


class Response:
    """Gates at the sites of a model, in force while `delta` is set.

    `delta` (rows, columns) says for each example of the coming batch how far the knobs are from
    their centre; while it is None the model is its plain self. It must stay set until the backward
    pass is over: activation checkpointing runs layers again then.
    """

    def __init__(self, sites: list[Site], columns: int, like: Tensor, seed: int) -> None:
        if not sites:
            raise HpoError(
                "this model has no layer that could respond to the knobs",
                hint="linear, convolution, embedding, norm, attention and recurrent layers do;"
                " a search between runs (sampler tpe) needs none of them",
                code="no-response",
                path=("sampler",),
            )
        self.delta: Tensor | None = None
        self.sites = sites
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.gates = [
                Gate(site.width, columns, site.inputs, like.new_empty(())) for site in sites
            ]
        for site, gate in zip(sites, self.gates, strict=True):
            if not site.shifts:
                gate.moves.register_hook(_without_shifts(columns))  # type: ignore[no-untyped-call]
        self._parameters = [parameter for gate in self.gates for parameter in gate.parameters()]
        self.averages = [parameter.detach().clone() for parameter in self._parameters]

    def parameters(self) -> list[nn.Parameter]:
        """What is learned, in a fixed order."""
        return list(self._parameters)

    def average(self, share: float) -> None:
        """Moves the running average of the gates by this share towards what they are now."""
        now = [parameter.detach() for parameter in self._parameters]
        torch._foreach_lerp_(self.averages, now, share)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it the gates are their running average: what single steps added is smoothed away,
        and the knobs' gradient with it."""
        parameters = self._parameters
        present = [parameter.data for parameter in parameters]
        try:
            for parameter, average in zip(parameters, self.averages, strict=True):
                parameter.data = average
            yield
        finally:
            for parameter, data in zip(parameters, present, strict=True):
                parameter.data = data

    def attach(self, model: nn.Module | None = None) -> list[Callable[[], None]]:
        """Puts the gates on; gives back what takes them off, to be called in reverse order.

        With the model they are layers of, its encoders too are made ready for layers with hooks.
        """
        pairs = zip(self.sites, self.gates, strict=True)
        undo: list[Callable[[], None]] = [forget_compiled]
        modules = [] if model is None else model.modules()
        undo += [_without_nesting(m) for m in modules if isinstance(m, nn.TransformerEncoder)]
        undo += [
            s.module.register_forward_hook(self._hook(s, g), with_kwargs=True).remove
            for s, g in pairs
        ]
        forget_compiled()
        return undo

    def _hook(self, site: Site, gate: Gate) -> Callable[..., Any]:
        def hook(
            module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any
        ) -> Any:
            delta = self.delta
            if delta is None:
                return None
            if delta.requires_grad and not torch.is_grad_enabled():
                raise without_gradients(site.name)
            plain = inputs[0] if inputs else named.get("input")
            if not torch.is_autocast_enabled(delta.device.type):
                return _answered_output(site, gate, plain, output, delta)
            # Gates choose their precision themselves; autocast would take it away from them.
            with torch.autocast(delta.device.type, enabled=False):
                return _answered_output(site, gate, plain, output, delta)

        return hook

    def effective(self, parameters: Mapping[str, Tensor], delta: Tensor) -> dict[str, Tensor]:
        """The parameters as penalties see them, answered at one `delta` (columns,) for all rows.

        They are what the forward pass amounts to then. Those of layers without a response, of
        recurrent ones (where it is no change of weights) and those that layers share (where each
        answers in its own way) are as they are.
        """
        modules = {id(site.module): site.module for site in self.sites}
        uses = Counter(
            id(p)
            for module in modules.values()
            for p in module.parameters()  # those of one module count once
        )
        found = dict(parameters)
        for site, gate in zip(self.sites, self.gates, strict=True):
            names = {id(p): n for n, p in parameters.items() if uses[id(p)] == 1}
            for parameter, answered in answered_parameters(site, gate, delta):
                if id(parameter) in names:
                    found[names[id(parameter)]] = answered
        return found


def _without_shifts(columns: int) -> Callable[[Tensor], Tensor]:
    """Keeps the shifts of a gate, the first rows of its moves, at zero, where they begin."""

    def hook(grad: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(grad[:columns]), grad[columns:]])

    return hook


def _without_nesting(encoder: nn.TransformerEncoder) -> Callable[[], None]:
    """Keeps an encoder in evaluation from nested tensors, which are for the fused form of its
    layers alone, and layers with hooks have none; gives back what lets it."""
    before = encoder.use_nested_tensor
    encoder.use_nested_tensor = False

    def restore() -> None:
        encoder.use_nested_tensor = before

    return restore


def _answered_output(site: Site, gate: Gate, plain: Any, output: Any, delta: Tensor) -> Any:
    """All that a layer gives: its tensor, answered, and the last states of recurrent layers."""
    packed = output[0] if type(output) is tuple else output
    main = main_output(output)
    if isinstance(packed, PackedSequence):
        answered = gate(None, main, _packed(packed, delta), -1)
    else:
        answered = _answered(site, gate, plain if gate.read is not None else None, main, delta)
    if isinstance(site.module, nn.Embedding) and site.module.padding_idx is not None:
        padding = (plain == site.module.padding_idx).unsqueeze(-1)
        answered = torch.where(padding, main, answered)
    output = with_main_output(output, answered)
    if isinstance(site.module, nn.RNNBase):
        output = (output[0], _last_states(site, gate, output[1], delta))
    return output


def _packed(packed: PackedSequence, delta: Tensor) -> Tensor:
    """delta for each entry of a packed batch of sequences, which is sorted by their length."""
    if packed.sorted_indices is not None:
        delta = delta[packed.sorted_indices]
    return torch.cat([delta[:count] for count in packed.batch_sizes.tolist()])


def _last_states(site: Site, gate: Gate, states: Any, delta: Tensor) -> Any:
    """The last states with those of the uppermost layer answered as the output is: models read
    the one or the other."""
    state = states[0] if isinstance(states, tuple) else states
    assert isinstance(site.module, nn.RNNBase)
    directions = 2 if site.module.bidirectional else 1
    if state.ndim != 3 or state.shape[1] % len(delta):
        return states
    upper = state[-directions:]
    rows = upper.transpose(0, 1).reshape(state.shape[1], -1)
    # The layout of the output holds here too, but for the place of the dimension.
    delta = by_entry(delta, state.shape[1], site.layouts[0].interleaved)
    answered = gate(None, rows, delta, -1).view(state.shape[1], directions, -1).transpose(0, 1)
    state = torch.cat([state[:-directions], answered])
    return (state, *states[1:]) if isinstance(states, tuple) else state


def _answered(
    site: Site, gate: Gate, inputs: Tensor | None, output: Tensor, delta: Tensor
) -> Tensor:
    """The output of one call, whichever of its dimensions counts the examples."""
    layout = layout_of(site, output, len(delta))
    if layout is None:
        return output
    if inputs is not None:
        output = output.contiguous()
    spread = by_entry(delta, output.shape[layout.dim], layout.interleaved)
    if layout.dim == 0:
        return gate(inputs, output, spread, site.channel)  # type: ignore[no-any-return]
    flat = None if inputs is None else inputs.flatten(0, 1)
    spread = spread.repeat(len(output), 1)
    answered: Tensor = gate(flat, output.flatten(0, 1), spread, -1)
    return answered.view(output.shape)


def layout_of(site: Site, output: Tensor, rows: int) -> Layout | None:
    """The layout of one call among those that were seen; an exact number of rows goes first.

    None for a call that has nothing to do with the examples; HpoError for a shape that does not fit
    `rows` of them where there are no such calls.
    """
    found = None
    for layout in site.layouts:
        if layout.dim == 1 and (output.ndim < 3 or site.channel != -1):
            continue
        entries = output.shape[layout.dim]
        if entries == rows:
            return layout
        if found is None and entries % rows == 0:
            found = layout
    if found is None and not site.plain_calls:
        raise HpoError(
            f"layer {site.name or 'of the model'} gives shape {tuple(output.shape)} for a batch of"
            f" {rows} examples",
            hint="the first dimension (or the second, in sequences) must count the examples",
            code="bad-batch",
        )
    return found


def by_entry(numbers: Tensor, entries: int, interleaved: bool) -> Tensor:
    """Numbers (rows, ...) for each of the entries, of which every example has the same number."""
    each = entries // len(numbers)
    if each == 1:
        return numbers
    return numbers.repeat(each, 1) if interleaved else numbers.repeat_interleave(each, dim=0)
