"""Measurements of speed, memory and robustness. Each file here is a command that answers one question.

    python -m benchmarks.layers         How fast is one layer beside Flax, Haiku, Keras and PyTorch?
    python -m benchmarks.training       How long do whole trainings take beside Keras and PyTorch?
    python -m benchmarks.streaming      How long does one step of one cell take?
    python -m benchmarks.streams        How many steps a second do thousands of streams take together?
    python -m benchmarks.int8           How fast and how exact is a layer with int8 weights, beside others?
    python -m benchmarks.sweep          Does one program for many learning rates and seeds pay off?
    python -m benchmarks.user_cell      How fast are cells of your own beside the same cells scanned by hand?
    python -m benchmarks.precision      How far is half precision from float64?
    python -m benchmarks.accelerator    How fast is one layer on a GPU or TPU beside Flax and cuDNN?
    python -m benchmarks.aot            Do the kernels compile for GPUs and TPUs that are not here?
    python -m benchmarks.survival       Do trainings survive kills, full disks and damaged files?
    python -m benchmarks.training_cost  What does it cost to survive?
    python -m benchmarks.large_series   Can a series be larger than the memory?
    python -m benchmarks.readme         Writes the tables of the README files from the results.

``--help`` says more. Every command that compares libraries checks first that all of them compute the same, and
writes its tables, with the machine's name, to benchmarks/results/.

The libraries are in :mod:`benchmarks.libraries`, one file each. What the commands share is in
:mod:`benchmarks.common`.
"""
