"""Compiled programs kept on disk, so that the same experiment starts sooner the next time."""

from pathlib import Path

import jax


def use_compilation_cache(folder: Path | None) -> None:
    """Keep every compiled program in this folder, and take it from there; None does nothing.

    A program is found again where everything is the same: shapes, settings, versions, processor. Only somebody
    who may change what you run should be able to write to the folder. Must come before anything is compiled.
    """
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
    # By default only what took a second to compile is kept: here nothing does, but there are many.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
