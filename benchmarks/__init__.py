"""Measurements of speed, each against other libraries and beside them in one process.

    python -m benchmarks.epoch      one epoch of the forecast experiment, against Keras on JAX
    python -m benchmarks.layers     one layer, forward and backward, against Flax, Haiku, Keras and PyTorch
    python -m benchmarks.user_cell  the cells of jaxrnn/README.md, against the same cells scanned by hand
    python -m benchmarks.precision  errors of half precision against float64
    python -m benchmarks.accelerator    one layer on a GPU or TPU, against Flax and cuDNN
    python -m benchmarks.aot        no measurement: the GPU's and TPU's compilers, run where there is neither

``--help`` says more. Those that measure check first that all contestants compute the same thing, and write their
tables, with the machine's name in them, to benchmarks/results/. Below them are :mod:`~benchmarks.shapes` (what
sizes), :mod:`~benchmarks.timing` (how time is taken), :mod:`~benchmarks.machine` (on what),
:mod:`~benchmarks.cells`, :mod:`~benchmarks.peers` and :mod:`~benchmarks.user_cells` (who takes part),
:mod:`~benchmarks.layer_tables`, :mod:`~benchmarks.picture` and :mod:`~benchmarks.report` (what is shown and
written).

The peers that are not dependencies come with ``pip install "jaxrnn[bench]"``, and PyTorch with
``pip install torch``. One that is missing is named and left out.
"""
