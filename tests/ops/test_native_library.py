"""The file of the C++ library: when it is built, and what happens where it is missing, damaged or another."""

import builtins
import contextlib
import platform
import shutil
import subprocess
from pathlib import Path

import jax.numpy as jnp
import pytest

from jaxrnn.ops import recurrence
from jaxrnn.ops.native import build, library
from tests.ops.test_native import TANH, reason


@pytest.fixture
def other_library(tmp_path, monkeypatch):
    """The path of a library to try instead of the real one."""
    path = tmp_path / "libjaxrnn.so"
    remembered = library.why_not_loaded, library._register
    monkeypatch.setattr(library, "LIBRARY", path)
    for function in remembered:
        function.cache_clear()
    yield path
    monkeypatch.undo()
    for function in remembered:
        function.cache_clear()


def test_without_the_library_everything_runs_and_says_so_once(other_library):
    with pytest.warns(RuntimeWarning, match=r"lax\.scan, which is slower: .*jaxrnn\.ops\.native\.build"):
        assert "was not built" in reason()
    assert jnp.isfinite(recurrence(TANH, jnp.eye(3), jnp.ones((4, 2, 3)), jnp.zeros((2, 3)))[1]).all()


def test_a_damaged_library_is_not_used(other_library):
    other_library.write_bytes(b"not a library")
    with pytest.warns(RuntimeWarning, match=r"libjaxrnn\.so cannot be loaded.*native\.build"):
        assert "cannot be loaded" in reason()


@pytest.mark.parametrize("source", ["", 'extern "C" const char* jaxrnn_source_hash() { return "another"; }'])
def test_a_library_of_other_sources_is_not_used(other_library, source):
    compiler = build.compiler()
    file = other_library.with_suffix(".cpp")
    file.write_text(source)
    subprocess.run([*compiler, "-shared", "-fPIC", str(file), "-o", str(other_library)], check=True)
    with pytest.warns(RuntimeWarning, match=r"built from other sources .*python -m jaxrnn\.ops\.native\.build"):
        assert "built from other sources" in reason()
    assert jnp.isfinite(recurrence(TANH, jnp.eye(3), jnp.ones((4, 2, 3)), jnp.zeros((2, 3)))[1]).all()


def test_the_hash_knows_every_source(tmp_path, monkeypatch):
    before = build.source_hash()
    shutil.copytree(build.SOURCES, tmp_path / "src")
    monkeypatch.setattr(build, "SOURCES", tmp_path / "src")
    assert build.source_hash() == before
    for path in sorted((tmp_path / "src").iterdir()):
        text = path.read_text()
        path.write_text(text + "// more")
        assert build.source_hash() != before, path
        path.write_text(text)


def test_a_missing_or_failing_compiler_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RuntimeError, match="no C\\+\\+ compiler: \\$CXX is 'no-such-compiler'"):
        build.build(tmp_path / "libjaxrnn.so")
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(RuntimeError, match="failed"):
        build.build(tmp_path / "libjaxrnn.so")
    assert not (tmp_path / "libjaxrnn.so").exists()


def test_a_library_is_made_again_only_of_something_else(tmp_path, monkeypatch):
    commands, path = [], tmp_path / "libjaxrnn.so"

    def compile_nothing(command: list[str]) -> None:
        commands.append(command)
        # A library is what its command defines, which is all that is looked for.
        defined = {word for command in commands for word in command if "BUILD_HASH" in word}
        Path(command[-1]).write_text(" ".join(defined))

    several_sets = build.best_set() is not None and platform.machine().lower() in ("x86_64", "amd64")
    monkeypatch.delenv("JAXRNN_ALL_INSTRUCTION_SETS", raising=False)
    monkeypatch.setattr(build, "_run", compile_nothing)
    monkeypatch.setattr(build, "ThreadPoolExecutor", lambda workers: contextlib.nullcontext(builtins))
    for changed, force, expected in (
        (lambda: None, False, True),
        (lambda: None, False, False),
        (lambda: None, True, True),
        (lambda: monkeypatch.setattr(build, "FLAGS", [*build.FLAGS, "-g"]), False, True),
        (lambda: monkeypatch.setenv("JAXRNN_ALL_INSTRUCTION_SETS", "1"), False, several_sets),
        (lambda: path.write_bytes(path.read_bytes()[:20]), False, True),
    ):
        changed()
        commands.clear()
        assert build.build(path, force=force) == path
        assert bool(commands) == expected
