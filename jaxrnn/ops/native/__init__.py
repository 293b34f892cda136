"""The optional C++ library for CPUs. See :mod:`jaxrnn.ops.native.recurrence`."""
