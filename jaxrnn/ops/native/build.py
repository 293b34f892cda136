"""Compiles the library, at installation or by hand: ``python -m jaxrnn.ops.native.build``.

A library that others will install is compiled once for every instruction set, and chooses one at run time, so that
it runs on every processor of its architecture. By hand, and for an editable installation, only the best set of
this processor is compiled, which takes a third of the time; ``--all``, or the environment variable
``JAXRNN_ALL_INSTRUCTION_SETS``, compiles all. This needs a C++20 compiler (``$CXX``, else c++, g++ or clang++) and
jaxlib's headers. Without a compiler, the installation prints a message and continues; jaxrnn then runs on
``lax.scan``.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = Path(__file__).parent / "src"
LIBRARY = Path(__file__).with_name("libjaxrnn.so")
FLAGS = ["-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-DNDEBUG", "-Wall", "-Wno-maybe-uninitialized"]
ONCE = (
    "library", "program_library", "linear_library", "layers", "streaming", "threefry", "norm", "orthogonal",
    "elementwise",
)  # fmt: skip
"""Sources that are compiled once, for the base of the architecture; the others for every instruction set."""

X86_SETS = {
    "avx512": ["-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mavx2", "-mfma"],
    "avx2": ["-mavx2", "-mfma"],
}
"""Instruction sets besides the base of the architecture."""

X86_TILES = [*X86_SETS["avx512"], "-mavx512bf16", "-mamx-tile", "-mamx-bf16", "-DJAXRNN_TILES"]
"""For programs.cpp once more, with products of bfloat16 in tile registers."""

X86_LAYER_SETS = {"avx512vnni": [*X86_SETS["avx512"], "-mavx512vnni"], **X86_SETS}
"""Those of inference.cpp, which has products of integers."""


def source_hash() -> str:
    """SHA-256 of the C++ sources and of the compiler flags; it is compiled into the library."""
    digest = hashlib.sha256(repr((FLAGS, X86_LAYER_SETS, X86_TILES)).encode())
    for path in sorted(SOURCES.iterdir()):
        if path.suffix in (".cpp", ".h"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def compiler() -> list[str]:
    """The command of the C++ compiler. Raises a RuntimeError if there is none."""
    named = os.environ.get("CXX")
    for command in [named] if named else ["c++", "g++", "clang++"]:
        words = shlex.split(command)
        if words and shutil.which(words[0]):
            return words
    raise RuntimeError(f"no C++ compiler: $CXX is {named!r}" if named else "no C++ compiler (c++, g++, clang++)")


def headers() -> Path:
    """The folder of jaxlib's headers, which declare how XLA calls foreign functions."""
    spec = importlib.util.find_spec("jaxlib")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("jaxlib is not installed, but its headers are needed")
    return Path(next(iter(spec.submodule_search_locations))) / "include"


def features() -> set[str] | None:
    """What this processor has, in the names of Linux; None if it cannot be told."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return None
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


def best_set() -> str | None:
    """The name of this processor's best instruction set; None if it cannot be told."""
    has = features()
    if has is None:
        return None
    names = {"avx512": ("avx512f", "avx512vl", "avx512bw", "avx512dq", "avx2", "fma"), "avx2": ("avx2", "fma")}
    return next((name for name, needs in names.items() if set(needs) <= has), "base")


def wants_tiles(best: str | None) -> bool:
    """Whether to compile for tile registers: if the compiler knows them and a given processor has them."""
    if sys.platform != "linux" or (best and not {"amx_tile", "amx_bf16", "avx512_bf16"} <= (features() or set())):
        return False
    # Older assemblers do not know the instructions that the compiler writes.
    source = "#include <immintrin.h>\nvoid f() { _tile_zero(0); _tile_dpbf16ps(0, 1, 2); _tile_release(); }\n"
    command = [*compiler(), *X86_TILES, "-x", "c++", "-c", "-", "-o", os.devnull]
    return subprocess.run(command, input=source, text=True, capture_output=True, check=False).returncode == 0


def build(library: Path = LIBRARY, *, all_sets: bool = False, force: bool = True) -> Path:
    """Compile the sources to ``library``, for the best instruction set of this processor or for all.

    Unless ``force``, a library that the same compiler made of the same sources for the same sets stays as it is.
    Raises a RuntimeError with the compiler's output if that fails.
    """
    if sys.platform not in ("linux", "darwin"):
        raise RuntimeError(f"the C++ library supports Linux and macOS, not {sys.platform}")
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    best = best_set() if x86 and not (all_sets or "JAXRNN_ALL_INSTRUCTION_SETS" in os.environ) else None
    x86_sets = {name: flags for name, flags in X86_SETS.items() if best in (None, name)}
    layer_sets = {name: flags for name, flags in X86_LAYER_SETS.items() if best is None or name.startswith(best)}
    base: dict[str, list[str]] = {"base": []} if best in (None, "base") else {}
    shared = (x86_sets if x86 else {}) | base
    sets = {"recurrence": shared, "programs": shared, "linear": shared}
    sets["inference"] = (layer_sets if x86 else {}) | base
    has = [f"-DJAXRNN_HAS_{name.upper()}" for name in sets["inference"]]
    if "avx512" in shared and wants_tiles(best):
        sets["programs"] = {**shared, "amx": X86_TILES}
        has.append("-DJAXRNN_HAS_AMX")
    common = [*compiler(), *FLAGS, *(["-DJAXRNN_X86"] if x86 else [])]
    build_hash = _build_hash(common, has)
    if not force and library.exists() and build_hash.encode() in library.read_bytes():
        return library
    with tempfile.TemporaryDirectory() as folder:
        objects, commands = [], []

        def compile_to_object(source: str, *flags: str) -> None:
            objects.append(f"{folder}/{len(objects)}.o")
            commands.append([*common, *flags, "-c", str(SOURCES / f"{source}.cpp"), "-o", objects[-1]])

        for source, of_source in sets.items():
            for name, flags in of_source.items():
                compile_to_object(source, *flags, f"-DJAXRNN_ISA={name}")
        include = ["-isystem", str(headers()), f'-DJAXRNN_SOURCE_HASH="{source_hash()}"', *has]
        include += [f'-DJAXRNN_BUILD_HASH="{build_hash}"']
        for source in ONCE:
            compile_to_object(source, *include)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_run, commands))
        linked = f"{folder}/{library.name}"
        _run([*common, "-shared", *objects, "-pthread", "-o", linked])
        # Copy and rename: a process that has loaded the old library keeps it, and none sees a part of the new one.
        beside = library.with_name(f".{library.name}.{os.getpid()}")
        shutil.copy(linked, beside)
        beside.replace(library)
    return library


def _build_hash(command: list[str], sets: list[str]) -> str:
    """A hash of all that a library is made of; it is compiled into the library."""
    version = subprocess.run([command[0], "--version"], capture_output=True, text=True, check=False).stdout
    parts = [source_hash(), *command, version, importlib.metadata.version("jaxlib"), *sets]
    return "build " + hashlib.sha256(repr(parts).encode()).hexdigest()


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)} failed:\n{done.stderr[-4000:]}")


if __name__ == "__main__":
    try:
        print(f"built {build(all_sets='--all' in sys.argv[1:])}")
    except RuntimeError as error:
        sys.exit(f"jaxrnn's library was not built: {error}")
