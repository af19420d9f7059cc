"""InstaAug: a small network says for each image how far it may be changed, and learns it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.images import images
from search_spaces.augmentation.judging import Judge
from search_spaces.augmentation.policies import _each, _fields, _nets
from search_spaces.domains import Float
from search_spaces.regularizer import Batch, Regularizer, Strengths, pooled, uniform

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from search_spaces.passes import Beginning, Pass

LEAST = 1e-6  # of a range, in its logarithm


class Instance(_nets.Learned):
    """The network from images to ranges, what trains it, and what it is trained by."""

    def ranges(self, inputs: Tensor) -> Tensor:
        """How far each image may be changed in each way, (B, 8), as a share of full."""
        return self.net(_nets.unit(inputs, self.judge.values)).sigmoid()  # type: ignore[no-any-return]


def begin(beginning: Beginning) -> Instance:
    """A network whose ranges are half of full for every image."""
    net = _nets.seeded(beginning, lambda channels: _nets.encoder(channels, len(_fields.NAMES)))
    return Instance(net, _nets.optimizer(net), Judge.of_run(beginning))


def augment(memory: Instance, batch: Batch, h: Strengths, rng: torch.Generator) -> Batch:
    """Each image after a warp and a change of tones by amounts from U(-r, r), where r in (0, 1) is
    what the network says of it, times `instance` times the full amount of each way.

    After Miao et al. 2023 (InstaAug), whose idea is input-dependent ranges that are learned with
    the task; the network, the eight ways and the order in which they act are chosen here.
    """
    import torch

    inputs = images(batch.inputs, "instance")
    with torch.no_grad():
        ranges = memory.ranges(inputs).to(inputs.dtype)
    return batch._replace(inputs=_drawn(memory, inputs, ranges, h, rng))


def _drawn(
    memory: Instance, inputs: Tensor, ranges: Tensor, h: Strengths, rng: torch.Generator
) -> Tensor:
    draws = 2 * uniform(ranges.shape, inputs, rng) - 1
    strength = _each.per_row(h["instance"], inputs)[:, None]
    amounts = strength * ranges * draws * _fields.full(inputs)
    return _fields.moved(inputs, amounts, memory.judge.values)


def learn(memory: Instance, forward: Pass, h: Strengths, rng: torch.Generator) -> None:
    """One step of the network down the gradient of

        mean of the losses of changed images - `instance.entropy` * mean of log r

    through the changes under new draws; log r is the entropy of U(-r, r) but for a constant. The
    paper keeps the entropy in a band; here `instance` is the bound above.
    The model is judged as it is in evaluation and does not change.
    """
    import torch

    plain = _nets.constant(h)
    with torch.enable_grad():
        inputs = images(forward.raw.inputs, "instance").detach()
        ranges = memory.ranges(inputs).to(inputs.dtype)
        after = _drawn(memory, inputs, ranges, plain, rng)
        losses = memory.judge.losses(Batch(after, forward.raw.targets), "instance")
        spreading = pooled(plain["instance.entropy"]) * ranges.clamp(min=LEAST).log().mean()
        _nets.step(memory.net, memory.optimizer, losses.mean() - spreading, h["instance.rate"])


POLICY = Regularizer(
    knobs={
        "instance": Float(0.0, 1.0, start=0.5, off=0.0, limits=(0.0, 1.0)),
        "instance.entropy": Float(0.01, 1.0, "log", start=0.1, limits=(0.0, float("inf"))),
        "instance.rate": Float(1e-4, 1e-1, "log", start=3e-3, limits=(0.0, float("inf"))),
    },
    batch=augment,
    remember=begin,
    learn=learn,
    slow=("instance.entropy", "instance.rate"),
    note="images only; a small network learns each image's own ranges below this share of full",
)
