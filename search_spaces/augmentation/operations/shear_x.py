"""Each image is sheared horizontally; the amount is the slope that this gives to the other axis."""

from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.warps import Affine
from search_spaces.domains import Float

# Place (x, y) of the result, in pixels from the centre, shows (x + a y, y) of the source.
# Magnitude 1 is a slope of 0.3 (Cubuk et al. 2019, table 6).
OPERATION = Operation(
    kind="image",
    apply=Affine(shear_x=1.0),
    knob=Float(0.0, 0.5, start=0.05, off=0.0, limits=(0.0, float("inf"))),
    full=0.3,
    ways="both",
    differentiable=True,
    note="a slope: the tangent of the angle of shear",
)
