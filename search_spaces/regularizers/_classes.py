"""What the regularizers of labels share: the cross-entropy of a pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.errors import HpoError

if TYPE_CHECKING:
    from torch import Tensor

    from search_spaces.passes import Pass


def cross_entropy(seen: Pass, user: str) -> Tensor:
    """The cross-entropy (B,) of the outputs with the targets as the loss saw them.

    HpoError unless these are class numbers (B,) or probabilities (B, C).
    """
    from torch.nn import functional

    logits, targets = seen.logits(user), seen.batch.targets
    soft = targets.is_floating_point()
    if targets.shape != (logits.shape if soft else logits.shape[:1]):
        raise HpoError(
            f"{user} needs class numbers (B,) or probabilities (B, C) as targets, found"
            f" {targets.dtype} of shape {tuple(targets.shape)} to outputs {tuple(logits.shape)}",
            hint="it is for classification: leave its knobs out of the space",
            code="bad-batch",
        )
    wanted = targets.to(logits.dtype) if soft else targets.long()
    return functional.cross_entropy(logits, wanted, reduction="none")
