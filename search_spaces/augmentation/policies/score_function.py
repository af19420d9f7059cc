"""A noise mask for each image, drawn from what a small network learns by the score function."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.images import images
from search_spaces.augmentation.judging import Judge
from search_spaces.augmentation.policies import _each, _gammas, _nets
from search_spaces.domains import Float
from search_spaces.regularizer import Batch, Regularizer, Strengths, spread

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from search_spaces.passes import Beginning, Pass


class Masks(_nets.Learned):
    """The network from images to the parameters of their masks, what trains it, and by what."""

    def shapes(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """a and b of the Beta distribution of each cell of 4 x 4 pixels, above 1, (B, h, w)."""
        from torch.nn import functional

        first, second = self.net(_nets.unit(inputs, self.judge.values)).unbind(1)
        return 1 + functional.softplus(first), 1 + functional.softplus(second)


def begin(beginning: Beginning) -> Masks:
    """A network that draws all masks alike, evenly about one half."""
    net = _nets.seeded(beginning, lambda channels: _nets.painter(channels, 2))
    return Masks(net, _nets.optimizer(net), Judge.of_run(beginning))


def augment(memory: Masks, batch: Batch, h: Strengths, rng: torch.Generator) -> Batch:
    """x + `score_function` * (high - low) * (2 mask - 1), the mask drawn from Beta(a(x), b(x)) for
    each cell of 4 x 4 pixels and shared by the channels; low and high are the extreme values of the
    inputs.

    After Yavuz and Yang 2024, whose abstract says no more than that a policy network samples masks
    from a Beta distribution for each image: how they enter, and the cells, are chosen here.
    """
    import torch

    inputs = images(batch.inputs, "score_function")
    with torch.no_grad():
        mask = _gammas.beta(*memory.shapes(inputs), _each.children(rng, 1)[0])
    return batch._replace(inputs=_noisy(memory, inputs, mask, h))


def _noisy(memory: Masks, inputs: Tensor, mask: Tensor, h: Strengths) -> Tensor:
    from torch.nn import functional

    values = memory.judge.values
    noise = functional.interpolate(2 * mask[:, None] - 1, size=inputs.shape[2:]).to(inputs)
    strength = _each.per_row(h["score_function"], inputs)
    return inputs + spread(strength * (values.high - values.low), inputs) * noise


def learn(memory: Masks, forward: Pass, h: Strengths, rng: torch.Generator) -> None:
    """One step of the network towards masks under which the loss is lower: with two masks m1, m2 of
    an image, (loss(m1) - loss(m2)) / 2 times the gradient of log p(m1) - log p(m2), (Williams 1992;
    each mask is the other's baseline, which is unbiased: Kool et al. 2019).

    Nothing need be differentiable in the image. Two forward passes.
    """
    import torch

    plain = _nets.constant(h)
    inputs = images(forward.raw.inputs, "score_function").detach()
    with torch.enable_grad():
        first, second = memory.shapes(inputs)
        likely = torch.distributions.Beta(first, second, validate_args=False)
        losses, logs = [], []
        for draws in _each.children(rng, 2):
            mask = _gammas.beta(first.detach(), second.detach(), draws)
            with torch.no_grad():
                noisy = Batch(_noisy(memory, inputs, mask, plain), forward.raw.targets)
                losses.append(memory.judge.losses(noisy, "score_function"))
            logs.append(likely.log_prob(mask).sum((1, 2)))  # type: ignore[no-untyped-call]
        gain = (losses[0] - losses[1]) / 2 * (logs[0] - logs[1])
        _nets.step(memory.net, memory.optimizer, gain.mean(), h["score_function.rate"])


POLICY = Regularizer(
    knobs={
        "score_function": Float(0.0, 0.5, start=0.1, off=0.0, limits=(0.0, float("inf"))),
        "score_function.rate": Float(1e-4, 1e-1, "log", start=3e-3, limits=(0.0, float("inf"))),
    },
    batch=augment,
    remember=begin,
    learn=learn,
    slow=("score_function.rate",),
    note="images only; amplitude of a learned noise mask, as a share of the range of values",
)
