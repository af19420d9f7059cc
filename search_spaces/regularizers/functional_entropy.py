"""Functional entropy: predictions listen to every part of the input, not to the loudest alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.domains import Float
from search_spaces.regularizer import Regularizer, Strengths, normal_like, real, uniform
from search_spaces.regularizers._embeddings import one

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from search_spaces.passes import Pass

LEAST_INFORMATION = 1e-8  # of a part that the prediction does not depend on


def information(logits: Tensor, inputs: Tensor, signs: Tensor) -> Tensor:
    """The Fisher information (B, M) that the predicted class carries about each part of the input.

    sum over classes of |grad_m p_c|^2 / p_c = 4 * sum of |grad_m sqrt(p_c)|^2, where part m is
    inputs[:, m] of inputs (B, M, ...), from which the logits (B, C) were computed. `signs` (B, C)
    of independent +-1 make one derivative do for all classes: E |grad sum_c s_c f_c|^2 =
    sum_c |grad f_c|^2.
    """
    import torch

    roots = 2 * (logits.log_softmax(1) / 2).exp()
    (gradient,) = torch.autograd.grad((signs * roots).sum(), inputs, create_graph=True)
    if gradient.ndim == 1:
        gradient = gradient[:, None]
    return gradient.square().flatten(2).sum(2) if gradient.ndim > 2 else gradient.square()


def term(p: Pass, h: Strengths, rng: torch.Generator) -> Tensor:
    """-strength * mean over the parts of log I_m, I_m the mean information near the inputs.

    Gat et al. (2020, Removing Bias in Multi-modal Classifiers): under Gaussian perturbations of
    standard deviation sigma the entropy of a function f is at most sigma^2 / 2 * E |grad f|^2 / f
    (log-Sobolev inequality), and this bound is raised for every modality. Here f are the predicted
    probabilities, so that the bound is one on the information that the class shares with the
    perturbation, and a modality is a channel of images or a column of tables; one perturbation is
    drawn for each example. The logarithm, which lets a neglected part count most and makes the
    strength independent of units, is reconstructed.
    """
    import torch

    p.logits("functional_entropy")
    inputs = real(p.batch.inputs, "functional_entropy, which differentiates in the inputs,")
    noise = normal_like(inputs, rng)
    signs = torch.where(uniform(p.outputs.shape, p.outputs, rng) < 0.5, -1.0, 1.0).to(p.outputs)
    with torch.enable_grad():
        moved = inputs + one(h["functional_entropy_noise"], inputs) * noise
        moved = moved if moved.requires_grad else moved.requires_grad_()
        found = information(p.again(moved), moved, signs)
        value = -(found.mean(0) + LEAST_INFORMATION).log().mean()
    return one(h["functional_entropy"], value) * value


REGULARIZER = Regularizer(
    knobs={
        "functional_entropy": Float(
            1e-4, 1.0, scale="log", start=1e-2, off=0.0, limits=(0.0, float("inf"))
        ),
        "functional_entropy_noise": Float(
            0.01, 1.0, scale="log", start=0.1, limits=(0.0, float("inf"))
        ),
    },
    loss_batch=term,
    differentiable=True,
    once=True,
    note="classification; each channel of images, or column of tables, is a part to listen to",
)
