"""Models whose layers hooks cannot answer for, each with what to do instead."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.autograd import function
from torch.nn.parameter import is_lazy

from search_spaces.errors import HpoError


def refuse_unsuited(model: nn.Module) -> None:
    """HpoError for a model that is spread over devices or processes, scripted, or not built."""
    for name, module in model.named_modules():
        place = f"layer {name}" if name else "the model"
        kind = type(module).__name__
        if isinstance(module, nn.DataParallel):
            raise _unsuited(
                f"{place} is a DataParallel, whose copies get parts of a batch",
                "tune model.module on one device",
            )
        if kind in ("DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule"):
            raise _alone(f"{place} is a {kind}")
        if isinstance(module, torch.jit.ScriptModule):
            raise _unsuited(f"{place} is scripted", "tune the module it was scripted from")
        if any(is_lazy(parameter) for parameter in module.parameters(recurse=False)):
            raise _unsuited(
                f"{place} is a {kind} without its parameters", "run the model once on a batch first"
            )
    distributed = torch.distributed
    if (
        distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
    ):
        raise _alone(f"this is one of {distributed.get_world_size()} processes that train together")


def without_gradients(name: str) -> HpoError:
    """The error for a layer that responds but is run where no gradient is."""
    return HpoError(
        f"layer {name or 'of the model'} is run without gradients, so that the knobs get none",
        hint="call torch.utils.checkpoint with use_reentrant=False; let layers that no_grad keeps"
        " from learning have requires_grad False",
        code="no-gradient",
    )


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """The backward pass of a gate, which refuses to be differentiated itself."""
    once = function.once_differentiable(backward)

    @functools.wraps(backward)
    def checked(ctx: Any, *grads: Any) -> Any:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # create_graph=True
            raise second_order("a gradient is to be differentiated again")
        return once(ctx, *grads)

    return checked


def second_order(found: str) -> HpoError:
    """The error for what asks more of the gates than a gradient."""
    return HpoError(
        f"{found}, which the gates on the layers cannot do",
        hint="a loss with a gradient penalty, create_graph=True and torch.func cannot be tuned"
        " within a run; search between runs (sampler tpe), which needs no gates",
        code="unsuited-model",
    )


def _alone(found: str) -> HpoError:
    return _unsuited(
        f"{found}: each process would tune knobs of its own",
        "tune in one process; all of them can then train with the schedule it finds",
    )


def _unsuited(message: str, hint: str) -> HpoError:
    return HpoError(message, hint=hint, code="unsuited-model")


@contextmanager
def eagerly() -> Iterator[None]:
    """Within it compiled models run uncompiled, so that hooks of a moment are seen and leave no
    compiled code behind."""
    stance = getattr(torch.compiler, "set_stance", None)  # since torch 2.6
    with nullcontext() if stance is None else stance("force_eager"):
        yield


def forget_compiled() -> None:
    """Lets compiled models be compiled anew: their code would go on as before hooks changed."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
