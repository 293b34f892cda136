"""Models for other programs: parameters in safetensors files.

What is needed besides JAX is installed by the extra ``export``: ``pip install 'jaxrnn[export]'``.
"""

from jaxrnn.export.parameters import load_safetensors, save_safetensors

__all__ = ["load_safetensors", "save_safetensors"]
