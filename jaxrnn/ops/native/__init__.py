"""The built-in cells in C++, for CPUs; optional. See :mod:`jaxrnn.ops.native.recurrence`."""
