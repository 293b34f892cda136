"""XLA's flags that make it compile the many small programs of tests several times faster."""

import jax

# XLA's older way of making loops of a fusion, in one part instead of many, takes a quarter as long. XLA ends a
# process at a flag that it does not know, so only versions that have these are told.
XLA_FLAGS = (
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    if jax.__version_info__ < (0, 11)
    else ""
)
