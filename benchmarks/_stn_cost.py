"""What a step of a self-tuning run costs: CPU time, parameters, activations kept for backward."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from _report import Interval, Report, Row, median_interval, table
from _stn_problems import (
    START,
    Pictures,
    drawn,
    methods,
    mlp,
    regularizers,
    space,
    three_convolutions,
    tuner,
    two_convolutions,
)
from torch import Tensor, nn
from torch.nn import functional

from objectives.training.options import Training
from objectives.training.randomness import GlobalStreams
from objectives.training.state import Run, Setting
from search_spaces.regularizer import Batch

MODELS: dict[str, Callable[[], nn.Module]] = {
    "MLP-512": lambda: mlp(512),
    "small CNN": two_convolutions,
    "small CNN, 3 x 3": three_convolutions,
}
WINDOW = 60  # steps timed together: a multiple of the steps between two knob steps of every arm
_STEPS = 1_000_000  # of the run of which a stretch in the middle is seen
_MOST = {"MLP-512": 1.30, "small CNN": 1.35, "small CNN, 3 x 3": 1.35}
_ROWS = 1280


def cost(repeats: int, quick: bool) -> Report:
    """CPU time of a training step, its share of the knob steps included, against a bare loop."""
    lines, rows, data = [], [], {}
    for name, layers in _models(quick).items():
        times = _times(layers, 1, 2) if quick else _times(layers, repeats, WINDOW)
        data[name] = times
        for arm, taken in times.items():
            ratio = _ratio(taken, times["plain"])
            milliseconds = f"{1000 * statistics.median(taken):.2f}"
            lines.append([name, arm, milliseconds, "" if arm == "plain" else ratio.shown(2)])
            if arm == "stn":
                figure = f"CPU of a train step incl. knob steps, {name}, against plain"
                most = _MOST[name]
                rows.append(Row(figure, f"{ratio.shown(2)}x", f"<= {most}x", ratio.middle <= most))
    header = ("model", "arm", "CPU ms a step", "times plain (median, 95 % interval)")
    return Report([table(header, lines)], rows, {"seconds_a_step": data, "window": WINDOW})


def memory(quick: bool) -> Report:
    """Parameters while tuning, and activations that a training step keeps for backward."""
    lines, rows, data = [], [], {}
    for name, layers in _models(quick).items():
        found = {"plain": _plain_memory(layers)}
        found |= {arm: _tuned_memory(arm, layers) for arm in ("follow", *methods())}
        data[name] = {arm: {"parameters": p, "saved_bytes": b} for arm, (p, b) in found.items()}
        parameters, saved = found["plain"]
        for arm, (p, b) in found.items():
            times = ["", ""] if arm == "plain" else [f"{p / parameters:.3f}", f"{b / saved:.2f}"]
            mib = f"{b / 2**20:.2f}"
            lines.append([name, arm, f"{p}", times[0], mib, times[1]])
        more, kept = found["stn"][0] / parameters, found["stn"][1] / saved
        rows += [
            Row(f"parameters while tuning, {name}", f"{more:.3f}x", "<= 1.05x", more <= 1.05),
            Row(f"saved activations of a step, {name}", f"{kept:.2f}x", "<= 1.3x", kept <= 1.3),
        ]
    header = ("model", "arm", "parameters", "times plain", "saved MiB a step", "times plain")
    return Report([table(header, lines)], rows, data)


def _models(quick: bool) -> dict[str, Callable[[], nn.Module]]:
    return {name: layers for name, layers in MODELS.items() if not (quick and "3 x 3" in name)}


# -- steps ----------------------------------------------------------------------------------------


class _Plain:
    """The loop one writes without any tool: the model's own dropout, noise on the inputs."""

    def __init__(self, layers: Callable[[], nn.Module]) -> None:
        self._task = Pictures(drawn(_ROWS), layers)
        self.model = self._task.model(0)
        self._optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self._rng = torch.Generator().manual_seed(0)
        self._batches: Iterator[Batch] = iter(())

    def step(self) -> None:
        batch = next(self._batches, None)
        if batch is None:
            self._batches = self._task.batches("train", self._rng)
            batch = next(self._batches)
        self._optimizer.zero_grad()
        noisy = batch.inputs + START * torch.randn_like(batch.inputs)
        loss = functional.cross_entropy(self.model(noisy), batch.targets)
        torch.autograd.backward(loss)
        self._optimizer.step()
        loss.item()


def _run(arm: str, layers: Callable[[], nn.Module]) -> Run:
    """A run of this project in the middle of its training."""
    knobs = space()
    training = Training(_STEPS, "momentum", 0.01, learning_rate_schedule="constant")
    task, device = Pictures(drawn(_ROWS), layers), torch.device("cpu")
    setting = Setting(task, regularizers(), tuner(arm, knobs), training, 0, device)
    run = Run(setting, GlobalStreams(0, device))
    run.begin()
    run.step = _STEPS // 2
    return run


def _step_of(run: Run) -> Callable[[], None]:
    def step() -> None:
        _, total = run.train_step()
        float(total)  # the loop looks at every loss, as the plain one does

    return step


def _times(layers: Callable[[], nn.Module], repeats: int, window: int) -> dict[str, list[float]]:
    """CPU seconds of a step for each arm and repeat, the arms taking turns."""
    steps = {"plain": _Plain(layers).step}
    steps |= {arm: _step_of(_run(arm, layers)) for arm in ("follow", *methods())}
    taken: dict[str, list[float]] = {arm: [] for arm in steps}
    for step in steps.values():
        for _ in range(window):
            step()
    for _ in range(repeats):
        for arm, step in steps.items():
            begun = time.process_time()
            for _ in range(window):
                step()
            taken[arm].append((time.process_time() - begun) / window)
    return taken


def _ratio(ours: list[float], plain: list[float]) -> Interval:
    """Of neighbours in time, which see the same machine."""
    return median_interval(a / b for a, b in zip(ours, plain, strict=True))


# -- memory ---------------------------------------------------------------------------------------


def _plain_memory(layers: Callable[[], nn.Module]) -> tuple[int, int]:
    plain = _Plain(layers)
    parameters = list(plain.model.parameters())
    return sum(p.numel() for p in parameters), _saved_bytes(plain.step, parameters)


def _tuned_memory(arm: str, layers: Callable[[], nn.Module]) -> tuple[int, int]:
    """Numbers that are learned, the knobs included, and bytes saved by a step without knob step."""
    run = _run(arm, layers)
    held: Any = run.tuner
    parameters = list(run.parameters.values())
    learned = list(parameters)
    if arm != "follow":
        parameters += held.response.parameters()
        knobs = getattr(held, "descent", None)
        centre = held.center if knobs is None else knobs.center
        learned = [*parameters, centre, centre]  # the centre, and as many scales
    run.train_step()  # the first one makes room for momentum
    run.step = _STEPS // 2  # after the coming step no knob step is due in any arm
    return sum(p.numel() for p in learned), _saved_bytes(run.train_step, parameters)


def _saved_bytes(step: Callable[[], Any], parameters: Sequence[Tensor]) -> int:
    """Bytes in the storages that one step saves for backward, each once, parameters left out.

    Those of several passes in one step add up. The storages are kept until the end, so that none
    takes the place of another.
    """
    own = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    kept: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(storage.nbytes() for storage in kept.values())
