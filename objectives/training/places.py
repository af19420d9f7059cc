"""Where the strengths of vector knobs belong: one to each dropout site, branch or layer."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from objectives.training.sites import branch_sites, dropout_sites, layers
from search_spaces.errors import HpoError
from search_spaces.regularizer import Regularizer

# A strength is a plain value, a 0-d tensor, a (rows,) tensor, or a vector of these.
Knobs = Mapping[str, Any]
# Hooks that act at every place alike: their strengths are one for the model.
_ONE = (
    "batch", "attention", "target", "loss_example", "loss_output", "loss_batch", "ascent",
)  # fmt: skip


class Places:
    """The places of one model. A knob whose value in `point` is a tuple is a vector."""

    def __init__(self, model: nn.Module, point: Mapping[str, Any]) -> None:
        self.sites = {
            "dropout": list(dropout_sites(model).values()),
            "branch": list(branch_sites(model).values()),
        }
        self._layers = layers(model)
        self._widths = {knob: len(v) for knob, v in point.items() if isinstance(v, tuple)}

    def check(self, name: str, regularizer: Regularizer, knob: str) -> None:
        """HpoError if a knob is a vector that does not fit its regularizer or the model."""
        width = self._widths.get(knob)
        own = regularizer.knobs[knob].size
        if width is None or width == own:  # its own size is not that of any model
            return
        if own is not None:
            raise HpoError(
                f"knob {knob} has size {width}, but {name} takes {own} strengths",
                hint=f"size: {own}, or leave it out",
                code="bad-vector",
            )
        if any(getattr(regularizer, hook) for hook in _ONE) or (
            len(regularizer.knobs) > 1 and (regularizer.knobs[knob].off is None)
        ):
            raise HpoError(
                f"knob {knob} is a vector, but {name} takes one strength",
                hint=f"leave out size: of {knob}",
                code="bad-vector",
            )
        places, what = len(self._layers), "layers"
        if regularizer.activation is not None:
            at_branches = regularizer.site == "branch"
            what = "ends of branches" if at_branches else "dropout sites"
            places = len(self.sites[regularizer.site])
        if width != places:
            raise HpoError(
                f"knob {knob} has size {width}, but this model has {places} {what}",
                hint=f"size: {places} gives one strength to each",
                code="bad-vector",
            )

    def by_layer(
        self, regularizer: Regularizer, parameters: Mapping[str, Tensor], knobs: Knobs
    ) -> list[tuple[Mapping[str, Tensor], Knobs]]:
        """The parameters with the knobs that hold for them: all together, or layer by layer."""
        if not any(knob in self._widths for knob in regularizer.knobs):
            return [(parameters, knobs)]
        # Not all parameters need be given: an optimizer may step some of them only.
        groups = [{n: parameters[n] for n in layer if n in parameters} for layer in self._layers]
        return [(g, self.at(place, regularizer, knobs)) for place, g in enumerate(groups) if g]

    def at(self, place: int, regularizer: Regularizer, knobs: Knobs) -> Knobs:
        """The knobs at one layer or site: of a vector knob, its strength there."""
        vectors = [knob for knob in regularizer.knobs if knob in self._widths]
        if not vectors:
            return knobs
        here = dict(knobs)
        for knob in vectors:
            vector = knobs[knob]
            here[knob] = vector[..., place] if isinstance(vector, Tensor) else vector[place]
        return here
