"""Randomness that belongs to one run: nothing outside it is disturbed by it, nor disturbs it."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def derived_seed(seed: int, purpose: str) -> int:
    """A seed for one purpose, unrelated to those of other purposes and other seeds."""
    words = np.random.SeedSequence([seed & (2**64 - 1), *purpose.encode()]).generate_state(2)
    return int(words[0]) << 31 ^ int(words[1])  # below 2**63, as torch wants it


class GlobalStreams:
    """The global generators (torch, numpy, random) as this run sees them.

    Code of users and layers such as `functional.dropout` draw from global generators. Within
    `active` those are the run's own; outside, the caller's are back as they were. Two runs that
    take turns in one process therefore do not mix, and a checkpoint can hold everything that
    decides the future.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._device = device
        with self._restoring():
            random.seed(derived_seed(seed, "random"))
            np.random.seed(derived_seed(seed, "numpy") % 2**32)
            # Not torch.manual_seed: that would also seed devices which are not this run's.
            torch.default_generator.manual_seed(derived_seed(seed, "torch"))
            if device.type == "cuda":
                torch.cuda.manual_seed(derived_seed(seed, "cuda"))
            self._state = self.now()

    @contextmanager
    def active(self) -> Iterator[None]:
        with self._restoring():
            self.rewind(self._state)
            try:
                yield
            finally:
                self._state = self.now()

    @contextmanager
    def _restoring(self) -> Iterator[None]:
        outside = self.now()
        try:
            yield
        finally:
            self.rewind(outside)

    def now(self) -> tuple[Any, ...]:
        """The present state of the global generators."""
        cuda = torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None
        return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda

    def rewind(self, state: tuple[Any, ...]) -> None:
        """Sets the global generators to a state that `now` gave."""
        python, legacy_numpy, cpu, cuda = state
        random.setstate(python)
        np.random.set_state(legacy_numpy)
        torch.set_rng_state(cpu)
        if cuda is not None and self._device.type == "cuda":
            torch.cuda.set_rng_state(cuda, self._device)


def packed(state: tuple[Any, ...]) -> dict[str, Any]:
    """A state of `GlobalStreams.now` as tensors and plain data, fit for a checkpoint."""
    (version, words, gauss), (name, keys, position, has_gauss, cached), cpu, cuda = state
    return {
        "random": [version, torch.tensor(words, dtype=torch.int64), gauss],
        "numpy": [
            str(name),
            torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "torch": cpu,
        "cuda": cuda,
    }


def unpacked(state: dict[str, Any]) -> tuple[Any, ...]:
    """What `packed` was made from."""
    version, words, gauss = state["random"]
    name, keys, *rest = state["numpy"]
    python = (version, tuple(words.tolist()), gauss)
    return python, (name, keys.numpy().astype(np.uint32), *rest), state["torch"], state["cuda"]
