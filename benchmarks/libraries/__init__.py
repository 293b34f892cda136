"""The libraries that are compared, one file each.

To add one, write a file like the others and enter it in ``LIBRARIES``: it takes part in every benchmark that it
has a function for. The packages that jaxrnn does not need itself come with ``pip install "jaxrnn[bench]"``, ONNX
Runtime with ``pip install "jaxrnn[export]"``, and PyTorch with ``pip install torch``. A library that is not
installed is named in the report and left out.
"""

from collections.abc import Iterable

from benchmarks.common.rows import OURS
from benchmarks.libraries import flax, haiku, keras, onnxruntime, ours, torch
from benchmarks.libraries.base import Library

LIBRARIES: dict[str, Library] = {
    OURS: ours.JAXRNN,
    "jaxrnn-one-device": ours.ONE_DEVICE,
    "jaxrnn-reference": ours.REFERENCE,
    "nnx": flax.NNX,
    "linen": flax.LINEN,
    "haiku": haiku.HAIKU,
    "haiku-static": haiku.HAIKU_STATIC,
    "keras": keras.KERAS,
    "keras-tensorflow": keras.KERAS_TENSORFLOW,
    "torch": torch.TORCH,
    "onnxruntime": onnxruntime.ONNXRUNTIME,
}

PEERS = {name: library for name, library in LIBRARIES.items() if library.layer is not None}
"""Those whose layers are compared with ours."""

STEPPERS = {name: library for name, library in LIBRARIES.items() if library.steps is not None}
"""Those whose cells are compared with ours, one step at a time."""

TRAINERS = {name: library for name, library in LIBRARIES.items() if library.trainer is not None}
"""Those whose trainings are compared."""


def installed(names: Iterable[str]) -> tuple[dict[str, Library], dict[str, str]]:
    """The libraries that can take part, by name; and why the others cannot, by label."""
    why = {name: LIBRARIES[name].missing() for name in names}
    return {n: LIBRARIES[n] for n in why if not why[n]}, {label(n): reason for n, reason in why.items() if reason}


def label(name: str) -> str:
    """What a library is called in tables; a contestant that is no library keeps its own name."""
    return LIBRARIES[name].label if name in LIBRARIES else name
