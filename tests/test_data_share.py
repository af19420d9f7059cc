"""The share of a batch that counts: the easiest examples, with a slope in how many they are."""

import torch

from search_spaces import catalogue


def test_the_easiest_share_of_a_batch_counts() -> None:
    hook = catalogue.load("data_share").loss_example
    assert hook is not None
    losses = torch.tensor([4.0, 1.0, 3.0, 2.0], dtype=torch.float64)
    assert torch.equal(hook(losses, {"data_share": 1.0}), losses)
    assert torch.equal(hook(losses, {"data_share": 0.5}), torch.tensor([0, 2.0, 0, 4]).double())
    assert hook(losses, {"data_share": 0.75}).mean() == losses[1:].mean()
    between = hook(losses, {"data_share": 0.625}).mean()
    torch.testing.assert_close(between, torch.tensor((1 + 2 + 3 / 2) / 2.5).double())
    alike = hook(torch.ones(5), {"data_share": 0.4})
    assert sorted(alike.tolist()) == [0, 0, 0, 2.5, 2.5], "ties are broken, and the mean stays"


def test_what_does_not_count_has_no_gradient() -> None:
    hook = catalogue.load("data_share").loss_example
    assert hook is not None
    losses = torch.tensor([4.0, 1.0, 3.0, 2.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(hook(losses, {"data_share": 0.5}).mean(), losses)
    assert gradient.tolist() == [0, 0.5, 0, 0.5]
