"""Modules that activation checkpointing runs a second time, when their random draws are gone."""

from typing import Any

import torch
from torch import nn

from search_spaces.errors import HpoError


def refuse_again(module: nn.Module, *_: Any) -> None:
    """HpoError if a module is run in the backward pass: its draws are gone by then."""
    if module.training and torch._C._current_graph_task_id() != -1:
        raise HpoError(
            f"a {type(module).__name__} is run again in the backward pass, where its noise or mask"
            " cannot be drawn again",
            hint="keep it out of what activation checkpointing (torch.utils.checkpoint) wraps, or"
            " leave out the knobs of dropout, activation noise and weight noise",
            code="checkpointed",
        )
