"""Tensors in the place of a model's parameters, for the length of a forward pass."""

from collections.abc import Mapping

from torch import Tensor, nn


class StandIns:
    """The places at which a model's modules read their trained parameters, by parameter name.

    A parameter that several modules share has several places under its one name. The parameters
    themselves are never written to: what stands in for them is computed from them, so their
    gradients come out at the stand-ins, and taking those away leaves not a bit changed.
    """

    def __init__(self, model: nn.Module) -> None:
        names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
        self._places: dict[str, list[tuple[nn.Module, str]]] = {}
        self._replaced: dict[str, Tensor] = {}
        for module in model.modules():
            for slot, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
                name = names.get(id(parameter))
                if name is not None:
                    self._places.setdefault(name, []).append((module, slot))

    def modules(self) -> list[nn.Module]:
        """The modules that have trained parameters of their own."""
        return list(dict.fromkeys(m for places in self._places.values() for m, _ in places))

    def originals(self) -> dict[str, Tensor]:
        """What the modules read while nothing stands in: the parameters, or what others have put
        in their place, as `torch.func.functional_call` does."""
        first = {name: places[0] for name, places in self._places.items()}
        now = {name: module._parameters[slot] for name, (module, slot) in first.items()}
        return {**now, **self._replaced}  # type: ignore[dict-item]

    def use(self, tensors: Mapping[str, Tensor]) -> None:
        """Lets the modules read these in place of the parameters of the same names."""
        self.remove()
        originals = self.originals()
        for name, tensor in tensors.items():
            if tensor is not originals[name]:
                self._put(name, tensor)
                self._replaced[name] = originals[name]

    def remove(self) -> None:
        """Lets the modules read their parameters again."""
        while self._replaced:
            self._put(*self._replaced.popitem())

    def _put(self, name: str, tensor: Tensor) -> None:
        for module, slot in self._places[name]:
            # An assignment to the attribute would refuse what is no nn.Parameter.
            module._parameters[slot] = tensor  # type: ignore[assignment]
