"""The C++ library under the sanitizers of the compiler: no access past an end, no data race, nothing undefined.

Compiling for the sanitizers takes a minute, so that these tests run only where JAXRNN_SANITIZERS is set, as in CI.
"""

import itertools
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

from jaxrnn.ops.native import build
from jaxrnn.ops.native.encoding import carry_slots, encode, flags
from jaxrnn.ops.program import CellProgram, cell_program
from tests.ops.oracle import CASES, Case
from tests.ops.programs import USERS, shapes

pytestmark = pytest.mark.skipif(
    "JAXRNN_SANITIZERS" not in os.environ, reason="it takes a minute: set JAXRNN_SANITIZERS=1"
)

FOLDER = Path(__file__).parent
TILES = "sanitized_programs.cpp, in tiles"
DRIVERS = {
    "sanitized.cpp": "112 setups\n",
    "sanitized_programs.cpp": "100 setups\n",
    TILES: "100 setups\n",
    "sanitized_linear.cpp": "128 setups\n",
    "sanitized_layers.cpp": "192 setups\n",
    "sanitized_threefry.cpp": "7 setups\n",
    "sanitized_norm.cpp": "14 setups\n",
    "sanitized_orthogonal.cpp": "16 setups\n",
    "sanitized_elementwise.cpp": "20 setups\n",
}
"""The programs to run, and what they print if nothing is wrong."""


def compiled(sanitizer: str, source: Path, folder: Path, isa: str = "base", flags: Iterable[str] = ()) -> Path:
    """The program, or a skip where this compiler has no such sanitizer."""
    try:
        compiler = build.compiler()
    except RuntimeError as error:
        pytest.skip(str(error))
    program = folder / "program"
    options = ["-std=c++20", "-O1", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-pthread"]
    names = [
        *flags,
        f"-DJAXRNN_ISA={isa}",
        "-DJAXRNN_FLOAT32_ONLY",
        "-Wno-maybe-uninitialized",
        "-I",
        str(build.SOURCES),
    ]
    names += ["-I", str(folder), "-isystem", str(build.headers()), "-DJAXRNN_HAS_BASE"]
    names += ['-DJAXRNN_SOURCE_HASH="none"', '-DJAXRNN_BUILD_HASH="nothing"']
    done = subprocess.run(
        [*compiler, *options, *names, str(source), "-o", str(program)], capture_output=True, text=True
    )
    if done.returncode and "sanitize" in done.stderr.split("error:")[-1]:
        pytest.skip(f"this compiler has no -fsanitize={sanitizer}")
    assert done.returncode == 0, done.stderr
    return program


def initializer(case: Case, hidden: int) -> str:
    """The programs of a cell as a ``struct Encoded`` of sanitized_programs.cpp."""
    cell = cell_program(case.pointwise, shapes(case, hidden, dtype=jnp.float32))
    assert isinstance(cell, CellProgram), cell

    def braces(values: Iterable[Any]) -> str:
        return "{" + ", ".join(map(str, values)) + "}"

    encoded = [encode(program) for program in (cell.forward, cell.backward)]
    fields = [
        f'"{case.name}"',
        *[hidden, cell.gates, cell.recurrent_gates, cell.saved, cell.derived, cell.sums],
        braces(carry_slots(cell)),
        braces(flags(cell.summed, cell.gates)),
        braces(flags(cell.shared, cell.recurrent_gates)),
        braces(program.registers for program in (cell.forward, cell.backward)),
        braces(program.row_registers for program in (cell.forward, cell.backward)),
        braces(braces(part.program) for part in encoded),
        braces(braces(map(float, part.constants)).replace("inf", "INFINITY") for part in encoded),
    ]
    return f"Encoded{braces(fields)},\n"


@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
@pytest.mark.parametrize("driver", DRIVERS)
def test_every_cell_with_one_thread_and_with_several(driver, sanitizer, tmp_path):
    users = [case for case in [*CASES, *USERS] if case.name in ("two_part", "minimal_gated_unit")] + USERS[1:]
    sizes = (40, 163) if driver == TILES else (19, 40)  # more units than a tile, so that threads divide the panels
    programs = [initializer(case, hidden) for case, hidden in itertools.product(users, sizes)]
    (tmp_path / "programs.inc").write_text("".join(programs))
    of_isa: Any = ()
    if driver == TILES:
        if not build.wants_tiles("avx512"):
            pytest.skip("this processor or this compiler has no tiles")
        of_isa = "amx", build.X86_TILES
    program = compiled(sanitizer, FOLDER / driver.split(",")[0], tmp_path, *of_isa)
    # What is found is what a call does; whether the process frees all at its end, some containers cannot say.
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=300, env=environment)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("this kernel places memory where the sanitizer of this compiler cannot follow")
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert done.stdout == DRIVERS[driver]


def test_the_sanitizer_finds_a_read_past_an_end(tmp_path):
    source = tmp_path / "past.cpp"
    source.write_text(
        "int main(int n, char**) { int* a = new int[4]; int r = a[3 + n]; delete[] a; return r & 0; }\n"
    )
    program = compiled("address,undefined", source, tmp_path)
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "insufficient space" in done.stderr or "heap-buffer-overflow" in done.stderr
