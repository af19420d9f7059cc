"""Each image is enlarged or made smaller; the amount is the logarithm of the factor."""

from search_spaces.augmentation.operation import Operation
from search_spaces.augmentation.warps import Affine
from search_spaces.domains import Float

# The factor is exp(amount), about the centre; an image made smaller is continued by its border.
# Magnitude 1 is 0.4: from two thirds to one and a half of the size.
OPERATION = Operation(
    kind="image",
    apply=Affine(zoom=1.0),
    knob=Float(0.0, 0.7, start=0.1, off=0.0, limits=(0.0, float("inf"))),
    full=0.4,
    ways="both",
    differentiable=True,
    note="logarithm of the factor: 0.1 is from 0.9 to 1.1 of the size, 0.7 from half to double",
)
