"""Keeps compiled programs on disk, so that the same experiment starts faster the next time."""

from pathlib import Path

import jax


def use_compilation_cache(folder: Path | None) -> None:
    """Store every compiled program in this folder, and load it from there; None does nothing.

    A program is loaded if shapes, settings, versions and processor are the same. Programs from the folder are run,
    so only trusted users should be able to write to it. Call this before anything is compiled.
    """
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
    # By default JAX stores only programs that took a second to compile. Ours take less, but there are many.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
