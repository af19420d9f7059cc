"""Each image is shifted horizontally; the amount is a share of its width."""

from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.warps import Affine
from search_spaces.domains import Float

# Above zero the image moves to the right, and ways between whole pixels interpolate. Magnitude 1 is
# a third: 10 of 32 pixels for CIFAR-10, 150 of 331 for ImageNet (Cubuk et al. 2019, table 6).
OPERATION = Operation(
    kind="image",
    apply=Affine(shift_x=1.0),
    knob=Float(0.0, 0.5, start=0.05, off=0.0, limits=(0.0, 1.0)),
    full=0.33,
    ways="both",
    differentiable=True,
    note="a share of the image's width",
)
