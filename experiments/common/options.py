"""Options that several commands have, what is checked of them, and how options are named."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from jaxrnn.cells import CELLS

Out = Annotated[
    Path | None,
    arg(
        metavar="DIR",
        help="The folder that the run is written into.",
        help_behavior_hint="(default: a new one under runs/)",
    ),
]
SaveEvery = Annotated[
    float, arg(metavar="SECONDS", help="Seconds between saves of the latest and the best model.")
]
SaveEverySteps = Annotated[
    int | None,
    arg(metavar="N", help="Also save every N training steps.", help_behavior_hint="(default: by the clock only)"),
]
CompilationCache = Annotated[
    Path | None,
    arg(
        metavar="DIR",
        help="Keep compiled programs in this folder, so that the same experiment starts faster the next time.",
        help_behavior_hint="(default: none)",
    ),
]


def option(name: str) -> str:
    """The option of the command line for a field.

    >>> option("learning_rate")
    '--learning-rate'
    """
    return f"--{name.replace('_', '-')}"


def check_known(kind: str, name: str, available: Iterable[str]) -> None:
    """Raise a ValueError with the names that there are if this is none of them."""
    if name not in available:
        raise ValueError(f"unknown {kind} {name!r}; available: {', '.join(available)}")


_ZERO_IS_NONE = ("clip_norm", "patience", "season")


def check_network(config: Any, positive: Iterable[str], seeds: int = 2**32) -> None:
    """Check the cell, the hidden sizes, the seed and the numbers that must be positive of a configuration.

    Args:
      config: has ``cell``, ``hidden``, ``seed`` and the fields that ``positive`` names, in which None is allowed.
      seeds: how many seeds there are.
    """
    check_known("cell", config.cell, CELLS)
    for name in positive:
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            none = ", or 0 for none" if name in _ZERO_IS_NONE else ""
            raise ValueError(f"{option(name)} must be positive and finite{none}, not {value}")
    if not config.hidden or min(config.hidden) < 1:
        raise ValueError(
            f"--hidden must have at least one layer, each with at least one unit, not {config.hidden}"
        )
    if not 0 <= config.seed < seeds:
        raise ValueError(f"--seed must be between 0 and {seeds - 1}, not {config.seed}")


def check_saving(save_every: float, save_every_steps: int | None) -> None:
    """Raise a ValueError unless a run can be saved so often."""
    if not save_every >= 0:
        raise ValueError(f"--save-every must not be negative, but is {save_every}")
    if save_every_steps is not None and save_every_steps < 1:
        raise ValueError(f"--save-every-steps must be at least 1, not {save_every_steps}")
