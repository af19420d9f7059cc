"""The places in a model at which regularizers act: dropout layers, branches, attention, layers."""

from torch import nn

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
# As timm and torchvision call the layer that drops a residual branch.
_BRANCHES = ("DropPath", "StochasticDepth")


class Branch(nn.Identity):
    """Marks the end of a residual branch: x + Branch()(f(x)). Stochastic depth acts there."""


def dropout_sites(model: nn.Module) -> dict[str, nn.Module]:
    """The modules at which dropout acts, by name: nn.Dropout, 1d, 2d and 3d.

    Alpha dropout has rules of its own and keeps its own probability.
    """
    return {name: module for name, module in model.named_modules() if isinstance(module, DROPOUTS)}


def branch_sites(model: nn.Module) -> dict[str, nn.Module]:
    """The ends of residual branches, by name: `Branch`, and the layers DropPath of timm and
    StochasticDepth of torchvision."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, Branch) or type(module).__name__ in _BRANCHES
    }


def attention_sites(model: nn.Module) -> dict[str, nn.MultiheadAttention]:
    """The attention layers, by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.MultiheadAttention)}


def layers(model: nn.Module) -> list[list[str]]:
    """The names of the trained parameters, grouped by layer in the model's order.

    A layer is a module that owns a tensor of two or more dimensions; parameters of other modules
    (norms) belong to the layer before them. A vector knob has one strength for each layer.
    """
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    groups: list[list[str]] = [[]]
    filled = False
    for path, module in model.named_modules():
        own = [(n, p) for n, p in module.named_parameters(path, recurse=False) if n in trained]
        if any(p.ndim >= 2 for _, p in own):
            if filled:
                groups.append([])
            filled = True
        groups[-1] += [name for name, _ in own]
    return groups


def own_rate(site: nn.Module) -> str | None:
    """The attribute that holds a site's own rate, or None if it has none."""
    return next((name for name in ("p", "drop_prob") if hasattr(site, name)), None)
