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
        self.originals: dict[str, Tensor] = {}
        self._places: dict[str, list[tuple[nn.Module, str]]] = {}
        self._used: list[str] = []
        for module in model.modules():
            for slot, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
                name = names.get(id(parameter))
                if name is not None:
                    self.originals[name] = parameter
                    self._places.setdefault(name, []).append((module, slot))

    def modules(self) -> list[nn.Module]:
        """The modules that have trained parameters of their own."""
        return list(dict.fromkeys(m for places in self._places.values() for m, _ in places))

    def use(self, tensors: Mapping[str, Tensor]) -> None:
        """Lets the modules read these in place of the parameters of the same names."""
        self.remove()
        for name, tensor in tensors.items():
            if tensor is not self.originals[name]:
                self._put(name, tensor)
                self._used.append(name)

    def remove(self) -> None:
        """Lets the modules read their parameters again."""
        while self._used:
            name = self._used.pop()
            self._put(name, self.originals[name])

    def _put(self, name: str, tensor: Tensor) -> None:
        for module, slot in self._places[name]:
            # An assignment to the attribute would refuse what is no nn.Parameter.
            module._parameters[slot] = tensor  # type: ignore[assignment]
