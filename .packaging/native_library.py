"""Builds the library when jaxrnn is installed (a hook of hatchling); says so, and goes on, where it cannot."""

import importlib.util
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeLibrary(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        path = Path(self.root) / "jaxrnn" / "ops" / "native" / "build.py"
        spec = importlib.util.spec_from_file_location("jaxrnn_native_build", path)
        if spec is None or spec.loader is None:
            raise RuntimeError(f"cannot load {path}")
        build = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(build)  # by its path: importing jaxrnn would need JAX
        try:
            library = build.build(all_sets=version != "editable", force=False)
        except (RuntimeError, OSError) as error:
            print(f"jaxrnn: no native library, lax.scan will run everything: {error}", file=sys.stderr)
            return
        build_data["artifacts"].append(str(library.relative_to(self.root)))
        build_data["pure_python"] = False
        # The library knows nothing of Python: one wheel serves every version on this platform.
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
