"""Weights of recurrent layers from and to other libraries, none of which needs to be installed.

=========== ================================= ================================== =========================
cell        here                              PyTorch                            Keras
=========== ================================= ================================== =========================
kernels     ``[in, gates * hidden]``          ``[gates * hidden, in]``           as here
LSTM gates  i f g o                           i f g o                            i f c o (c is g)
GRU gates   r z n                             r z n                              z r h (h is n)
biases      one; GRU ``reset_after``: two     two everywhere: added up, but for  one; GRU ``reset_after``:
                                              the GRU                            two, as rows of one array
=========== ================================= ================================== =========================

=========== ================================= =================================== ========================
cell        Flax Linen                        Haiku                               equinox
=========== ================================= =================================== ========================
kernels     one for each gate                 LSTM: ``[in + hidden, 4 * hidden]`` ``[gates * hidden, in]``
LSTM gates  i f g o                           i g f o                             i f g o
biases      LSTM: of h; GRU: of x, and of h   LSTM: 1 is added to f's             GRU: ``bias_n`` of h for
            for n                                                                 n
GRU         as ``reset_after=True``           as ``reset_after=False``, gates     as ``reset_after=True``
                                              z r a (a is n), with 1 - z for z
=========== ================================= =================================== ========================
"""

from jaxrnn.interop.equinox import load_equinox_weights
from jaxrnn.interop.haiku import load_haiku_weights
from jaxrnn.interop.keras import keras_weights, load_keras_weights
from jaxrnn.interop.linen import load_linen_weights
from jaxrnn.interop.pytorch import load_torch_weights, torch_weights
from jaxrnn.interop.xlstm import load_xlstm_weights

__all__ = [
    "keras_weights",
    "load_equinox_weights",
    "load_haiku_weights",
    "load_keras_weights",
    "load_linen_weights",
    "load_torch_weights",
    "load_xlstm_weights",
    "torch_weights",
]
