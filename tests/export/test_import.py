"""The formats' packages are loaded when they are needed, and named where they are missing."""

import subprocess
import sys

import pytest
from flax import nnx

import jaxrnn

CODE = """
import sys
import jaxrnn
assert "jaxrnn.export" not in sys.modules
jaxrnn.export.save_safetensors
loaded = sorted({name.split(".")[0] for name in sys.modules} & {"onnx", "onnxruntime", "safetensors"})
assert not loaded, loaded
"""


def test_import_loads_no_format():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("package", "function"), [("safetensors", "save_safetensors"), ("onnx", "to_onnx")])
def test_a_package_that_is_missing_is_named_with_its_extra(package, function, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)  # as Python's documentation says to forbid an import
    layers = jaxrnn.GRU(1, 2, rngs=nnx.Rngs(0))
    with pytest.raises(ImportError, match=rf"{package}, which is not installed: pip install 'jaxrnn\[export\]'"):
        getattr(jaxrnn.export, function)(layers, tmp_path / "file")
