"""Each image is turned about its centre; the amount is the angle in degrees."""

from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.warps import Affine
from search_spaces.domains import Float

# Place (x, y) of the result, in pixels from the centre, shows (x cos a - y sin a, x sin a + y cos
# a) of the source. Magnitude 1 is 30 degrees (Cubuk et al. 2019, table 6). Tuned within a run by
# Bae and Grosse (2020).
OPERATION = Operation(
    kind="image",
    apply=Affine(turn=1.0),
    knob=Float(0.0, 45.0, start=5.0, off=0.0, limits=(0.0, 180.0)),
    full=30.0,
    ways="both",
    differentiable=True,
    note="degrees, each image turns by up to this much either way",
)
