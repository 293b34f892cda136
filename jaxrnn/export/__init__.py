"""Models for other programs: ONNX models, StableHLO programs, parameters in safetensors files; and models with
int8 weights.

What is needed besides JAX is installed by the extra ``export``: ``pip install 'jaxrnn[export]'``.
"""

from jaxrnn.export.int8 import quantize
from jaxrnn.export.onnx_model import to_onnx
from jaxrnn.export.parameters import load_safetensors, save_safetensors
from jaxrnn.export.stablehlo import to_stablehlo

__all__ = ["load_safetensors", "quantize", "save_safetensors", "to_onnx", "to_stablehlo"]
