"""The sizes that one layer is measured at."""

from typing import NamedTuple


class Shape(NamedTuple):
    """The sizes of one layer and its inputs ``[batch, time, in_features]``.

    >>> str(Shape(128, 30, 1, 100))
    '128 x 30 x 1, 100'
    """

    batch: int
    time: int
    in_features: int
    hidden: int

    def __str__(self) -> str:
        return f"{self.batch} x {self.time} x {self.in_features}, {self.hidden}"

    def forward_flops(self, gates: int) -> int:
        """Floating-point operations of the matrix products: both projections of every gate at every step."""
        return 2 * self.batch * self.time * gates * self.hidden * (self.in_features + self.hidden)

    def training_flops(self, gates: int) -> int:
        """The same with the backward pass to the parameters: d kernel, d recurrent_kernel and dh, but no dx."""
        backward = 2 * self.batch * self.time * gates * self.hidden * (self.in_features + 2 * self.hidden)
        return self.forward_flops(gates) + backward


LESSON = Shape(128, 30, 1, 100)
"""The first layer of the forecast experiment."""

SHAPES = (
    LESSON,
    Shape(1, 1000, 1, 100),  # one long series: nothing to spread over cores or vector units but H
    Shape(1, 4096, 16, 32),  # longer and smaller: only the cost of a step counts
    Shape(64, 256, 64, 64),
    Shape(256, 64, 32, 128),  # a wide batch
    Shape(32, 128, 64, 256),
    Shape(16, 256, 256, 512),
    Shape(8, 128, 512, 1024),  # the recurrent kernel (4 MiB a gate) fits no level-2 cache
)

QUICK = (LESSON, Shape(1, 1000, 1, 100), Shape(32, 128, 64, 256))
