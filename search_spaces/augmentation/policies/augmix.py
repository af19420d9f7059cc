"""AugMix: each image is blended with chains of operations on it, and predictions are to agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.augmentation.images import images
from search_spaces.augmentation.policies import _each, _gammas
from search_spaces.augmentation.split import column
from search_spaces.augmentation.values import Range
from search_spaces.domains import Float, Int
from search_spaces.regularizer import Batch, Regularizer, Strengths, spread, uniform
from search_spaces.rewinding import rewinding

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from search_spaces.passes import Pass

MOST, DEPTH, FULL = 8, 3, 10.0
# Without contrast, saturation, brightness and sharpness: the paper keeps them for its tests.
NAMES = "autocontrast equalise posterise rotate solarise shear_x shear_y translate_x translate_y"


def mix(values: Range, batch: Batch, h: Strengths, rng: torch.Generator) -> Batch:
    """m x + (1 - m) sum_i w_i chain_i(x), with m ~ Beta(a, a) and w ~ Dirichlet(a, ..., a), both
    drawn for each image (Hendrycks et al. 2020, algorithm 1).

    A chain is one to three operations at magnitudes from U(0.1, `augmix`) of 10; a severity below
    0.1 draws from 0 on. a is `augmix.width`.
    """
    import torch

    inputs = images(batch.inputs, "augmix")
    severity = _each.per_row(h["augmix"], inputs)
    many = _each.per_row(h["augmix.chains"], inputs).round().clamp(1, MOST)
    width = _each.per_row(h["augmix.width"], inputs)
    blends, *chains = _each.children(rng, 1 + MOST)
    parts = _gammas.gamma(width.expand(2 + MOST, -1), blends)
    counted = torch.arange(MOST, device=inputs.device)[:, None] < many
    shares = parts[2:] * counted
    # Dirichlet and Beta as gamma draws over their sum.
    shares = shares / shares.sum(0)
    kept = parts[0] / (parts[0] + parts[1])
    mixed = torch.zeros_like(inputs)
    for place in range(int(many.max())):
        after = _chain(inputs, severity, values, chains[place])
        mixed = mixed + spread(shares[place], inputs) * after
    blended = inputs + spread(1 - kept, inputs) * (mixed - inputs)
    return batch._replace(inputs=torch.where(column(severity, inputs) > 0, blended, inputs))


def _chain(inputs: Tensor, severity: Tensor, values: Range, rng: torch.Generator) -> Tensor:
    """The images after a chain each."""
    import torch

    names = _each.usable(NAMES.split(), inputs.shape[1])
    draws, own = _each.children(rng, 2)
    depth = _each.whole_draws((len(inputs), 1), DEPTH, inputs, draws) + 1
    which = _each.whole_draws((len(inputs), DEPTH), len(names), inputs, draws)
    least = severity.clamp(max=0.1)[:, None]
    share = uniform((len(inputs), DEPTH), inputs, draws)
    level = least + (severity[:, None] - least) * share
    now = level / FULL * (torch.arange(DEPTH, device=inputs.device) < depth)
    return _each.in_turn(inputs, names, which, now, values, own)


def agree(values: Range, forward: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
    """`augmix.consistency` times the Jensen-Shannon divergence between the predictions for the
    image as it was, as the model saw it, and in another view, (B,).

    Two more forward passes, unless the weight is the plain number 0. The paper's weight is 12.
    """
    import torch

    weight = h["augmix.consistency"]
    (apart,) = _each.children(rng, 1)  # so that the draws are as many where no pass is made
    if isinstance(weight, int | float) and weight == 0:
        return forward.outputs.new_zeros(len(forward.outputs))
    seen = forward.logits("augmix.consistency")
    rewind = rewinding(rng, forward.outputs)
    rng.set_state(apart.get_state())
    others = [forward.again(forward.raw.inputs), forward.again(forward.view().inputs)]
    rewind()
    logs = torch.stack([logits.log_softmax(1) for logits in (seen, *others)])
    middle = (logs.logsumexp(0) - torch.log(logs.new_tensor(float(len(logs))))).expand_as(logs)
    divergence = (logs.exp() * (logs - middle)).sum(2).mean(0)
    return spread(weight, divergence) * divergence


POLICY = Regularizer(
    knobs={
        "augmix": Float(0.0, FULL, start=3.0, off=0.0, limits=(0.0, FULL)),
        "augmix.chains": Int(1, 4, start=3, limits=(1, MOST)),
        "augmix.width": Float(0.1, 10.0, "log", start=1.0, limits=(0.01, 100.0)),
        "augmix.consistency": Float(
            0.1, 30.0, "log+0", start=0.0, off=0.0, limits=(0.0, float("inf"))
        ),
    },
    batch=mix,
    loss_output=agree,
    remember=Range.seen,
    note="images only; severity of 10; consistency costs two more forward passes and needs classes",
)
