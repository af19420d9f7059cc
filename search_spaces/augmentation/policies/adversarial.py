"""Adversarial augmentation: which operation and how much of it follow what the model fails on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from search_spaces.augmentation.images import images
from search_spaces.augmentation.judging import Judge
from search_spaces.augmentation.policies import _each, _nets
from search_spaces.augmentation.policies.relaxed import OPERATIONS
from search_spaces.domains import Float
from search_spaces.regularizer import Batch, Regularizer, Strengths, pooled, uniform

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from search_spaces.passes import Beginning, Pass


@dataclass(frozen=True)
class Adversary(_nets.Learned):
    """How likely and how strong each operation is, what trains both, and by what."""

    net: nn.ParameterDict  # "choice" and "level", (operations,) each

    def magnitudes(self, h: Strengths, inputs: Tensor) -> Tensor:
        """The magnitude of each operation for each image, (B, operations), below the strength."""
        strength = _each.per_row(h["adversarial"], inputs)[:, None]
        level: Tensor = self.net["level"]
        return strength * level.sigmoid().to(inputs.dtype)


def begin(beginning: Beginning) -> Adversary:
    """All operations alike, at half of the strength."""
    import torch
    from torch import nn

    zeros = {name: torch.zeros(len(OPERATIONS)) for name in ("choice", "level")}
    net = nn.ParameterDict({name: nn.Parameter(zero) for name, zero in zeros.items()})
    net = net.to(beginning.device)
    return Adversary(net, _nets.optimizer(net), Judge.of_run(beginning))


def augment(memory: Adversary, batch: Batch, h: Strengths, rng: torch.Generator) -> Batch:
    """Each image after one operation, drawn with the learned probabilities, at `adversarial` times
    the learned magnitude of that operation.

    The idea of sub-policies with learned weights and magnitudes that make it harder: Tomar et al.
    2023 (TeSLA) at test time, Nix et al. 2023 (HARD) for distillation. What is ascended here is the
    task's own loss, and a sub-policy is one operation: both are choices of this project.
    """
    import torch

    inputs = images(batch.inputs, "adversarial")
    with torch.no_grad():
        likely = memory.net["choice"].softmax(0)
        levels = memory.magnitudes(h, inputs)
    _, after = _drawn(memory, inputs, likely, levels, rng)
    return batch._replace(inputs=after)


def _drawn(
    memory: Adversary, inputs: Tensor, likely: Tensor, magnitudes: Tensor, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The operation of each image (B,), and the images after it."""
    choices, *own = _each.children(rng, 1 + len(OPERATIONS))
    place = uniform((len(inputs),), inputs, choices)
    edges = likely.detach().cumsum(0).to(inputs)
    which = (place[:, None] >= edges).sum(1).clamp(max=len(OPERATIONS) - 1)
    found = inputs
    for index, name in enumerate(OPERATIONS):
        rows = (which == index).nonzero()[:, 0]
        values = memory.judge.values
        after = _each.at_rows(name, inputs, rows, magnitudes[:, index], values, own[index])
        found = found.index_copy(0, rows, after)
    return which, found


def learn(memory: Adversary, forward: Pass, h: Strengths, rng: torch.Generator) -> None:
    """One step up the gradient of the mean loss under new draws, plus `adversarial.entropy` times
    the entropy of the choice, which keeps it from one operation alone.

    The magnitudes have the gradient through the operations. The choice has the score-function
    estimate, (loss - mean of the others' losses) times the gradient of its log-probability, which
    is unbiased (Williams 1992; the mean without the example: Kool et al. 2019).
    """
    import torch

    plain = _nets.constant(h)
    with torch.enable_grad():
        inputs = images(forward.raw.inputs, "adversarial").detach()
        logs = memory.net["choice"].log_softmax(0)
        levels = memory.magnitudes(plain, inputs)
        which, after = _drawn(memory, inputs, logs.exp(), levels, rng)
        losses = memory.judge.losses(Batch(after, forward.raw.targets), "adversarial")
        score = (_against_others(losses.detach()) * logs[which].to(losses)).mean()
        entropy = -(logs.exp() * logs).sum()
        gain = losses.mean() + score + pooled(plain["adversarial.entropy"]) * entropy
        _nets.step(memory.net, memory.optimizer, -gain, h["adversarial.rate"])


def _against_others(losses: Tensor) -> Tensor:
    """Each loss less the mean of the others."""
    rows = len(losses)
    return (losses - losses.mean()) * (rows / max(rows - 1, 1))


POLICY = Regularizer(
    knobs={
        "adversarial": Float(0.0, 1.0, start=0.5, off=0.0, limits=(0.0, 1.0)),
        "adversarial.entropy": Float(0.01, 1.0, "log", start=0.1, limits=(0.0, float("inf"))),
        "adversarial.rate": Float(1e-4, 1e-1, "log", start=1e-2, limits=(0.0, float("inf"))),
    },
    batch=augment,
    remember=begin,
    learn=learn,
    slow=("adversarial.entropy", "adversarial.rate"),
    note="images only; operations and magnitudes, up to this share of full, that ascend the loss",
)
