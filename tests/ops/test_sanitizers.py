"""The C++ library under the sanitizers of the compiler: no access past an end, no data race, nothing undefined.

Compiling for the sanitizers takes a minute, so that these tests run only where JAXRNN_SANITIZERS is set, as in CI.
"""

import os
import subprocess
from pathlib import Path

import pytest

from jaxrnn.ops.native import build

pytestmark = pytest.mark.skipif(
    "JAXRNN_SANITIZERS" not in os.environ, reason="it takes a minute: set JAXRNN_SANITIZERS=1"
)

DRIVER = Path(__file__).with_name("sanitized.cpp")


def compiled(sanitizer: str, source: Path, folder: Path) -> Path:
    """The program, or a skip where this compiler has no such sanitizer."""
    try:
        compiler = build.compiler()
    except RuntimeError as error:
        pytest.skip(str(error))
    program = folder / "program"
    options = ["-std=c++20", "-O1", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-pthread"]
    names = ["-DJAXRNN_ISA=base", "-DJAXRNN_FLOAT32_ONLY", "-Wno-maybe-uninitialized", "-I", str(build.SOURCES)]
    done = subprocess.run(
        [*compiler, *options, *names, str(source), "-o", str(program)], capture_output=True, text=True
    )
    if done.returncode and "sanitize" in done.stderr.split("error:")[-1]:
        pytest.skip(f"this compiler has no -fsanitize={sanitizer}")
    assert done.returncode == 0, done.stderr
    return program


@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_every_cell_with_one_thread_and_with_several(sanitizer, tmp_path):
    program = compiled(sanitizer, DRIVER, tmp_path)
    # What is found is what a call does; whether the process frees all at its end, some containers cannot say.
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=300, env=environment)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("this kernel places memory where the sanitizer of this compiler cannot follow")
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert done.stdout == "84 setups\n"


def test_the_sanitizer_finds_a_read_past_an_end(tmp_path):
    source = tmp_path / "past.cpp"
    source.write_text(
        "int main(int n, char**) { int* a = new int[4]; int r = a[3 + n]; delete[] a; return r & 0; }\n"
    )
    program = compiled("address,undefined", source, tmp_path)
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "insufficient space" in done.stderr or "heap-buffer-overflow" in done.stderr
