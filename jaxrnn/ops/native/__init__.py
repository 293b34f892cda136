"""The optional C++ library of the built-in cells, for CPUs. See :mod:`jaxrnn.ops.native.recurrence`."""
