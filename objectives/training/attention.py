"""Attention layers in training: which keys a query may look at, and the weights they come to."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# Gives the keys (B, L, S) that each query may look at, for this shape; None for all.
Keep = Callable[[tuple[int, int, int], nn.MultiheadAttention], Tensor | None]


class Attention:
    """Hooks on attention layers that hide keys and collect weights.

    keep: what may be looked at in a pass of training. collect: the weights, (B, heads, L, S), go to
    this list while there is one.
    """

    def __init__(self, sites: Sequence[nn.MultiheadAttention], keep: Keep) -> None:
        self._sites, self._keep = sites, keep
        self.collect: list[Tensor] | None = None
        self._asked: dict[nn.Module, tuple[bool, bool]] = {}

    def attach(self) -> list[Callable[[], None]]:
        """Puts the hooks on; gives back what takes them off."""
        undo: list[Callable[[], None]] = []
        for site in self._sites:
            undo.append(site.register_forward_pre_hook(self._before, with_kwargs=True).remove)
            undo.append(site.register_forward_hook(self._after).remove)
        return undo

    def _before(
        self, site: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not site.training:
            return None
        call = inspect.signature(site.forward).bind(*args, **kwargs)
        call.apply_defaults()
        given = call.arguments
        if given["query"].ndim == 3:
            kept = self._keep(_shape(site, given["query"], given["key"]), site)
            if kept is not None:
                mask = _hidden(site, given, ~kept)
                # With a hint that it is causal, torch would not look at the mask.
                given |= {"attn_mask": mask, "key_padding_mask": None, "is_causal": False}
        if self.collect is not None:
            self._asked[site] = given["need_weights"], given["average_attn_weights"]
            given |= {"need_weights": True, "average_attn_weights": False}
        return call.args, call.kwargs

    def _after(self, site: nn.Module, args: Any, output: tuple[Tensor, Any]) -> Any:
        asked = self._asked.pop(site, None)
        if asked is None or self.collect is None:
            return None
        main, weights = output
        self.collect.append(weights)
        needed, averaged = asked
        if not needed:
            return main, None
        return main, weights.mean(dim=-3) if averaged else weights


def _shape(site: nn.MultiheadAttention, query: Tensor, key: Tensor) -> tuple[int, int, int]:
    batch, length = (0, 1) if site.batch_first else (1, 0)
    return query.shape[batch], query.shape[length], key.shape[length]


def _hidden(site: nn.MultiheadAttention, given: Mapping[str, Any], hidden: Tensor) -> Tensor:
    """The mask (B * heads, L, S) that adds to the scores: the given ones and what is hidden.

    A query that could look at nothing any more keeps what the given masks leave it.
    """
    rows, length, keys = hidden.shape
    query = given["query"]
    mask = query.new_zeros(rows, site.num_heads, length, keys)
    for name, shape in (
        ("attn_mask", (-1, site.num_heads, length, keys)),
        ("key_padding_mask", (rows, 1, 1, keys)),
    ):
        part = given[name]
        if part is None:
            continue
        if part.ndim == 2 and name == "attn_mask":
            shape = (1, 1, length, keys)
        if part.dtype == torch.bool:
            part = torch.zeros_like(part, dtype=query.dtype).masked_fill(part, float("-inf"))
        mask = mask + part.reshape(shape).to(query.dtype)
    less = mask.masked_fill(hidden[:, None], float("-inf"))
    empty = (less == float("-inf")).all(dim=-1, keepdim=True)
    return torch.where(empty, mask, less).flatten(0, 1)
