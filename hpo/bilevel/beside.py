"""Passes beside a run, after which its randomness and the model's buffers are as before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from objectives.training.state import Run


@contextmanager
def beside(run: Run) -> Iterator[None]:
    """Puts random draws and the model's buffers (the statistics of norms) back as they were."""
    noise, outside = run.noise.get_state(), run.streams.now()
    buffers = [(buffer, buffer.clone()) for buffer in run.model.buffers()]
    try:
        yield
    finally:
        run.noise.set_state(noise)
        run.streams.rewind(outside)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
