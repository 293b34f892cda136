"""PyTorch: ``nn.RNN``, ``nn.LSTM`` and ``nn.GRU`` as they are used, eagerly; on CUDA they run on cuDNN.

A forward pass runs in inference mode. In trainings PyTorch's RNN has a second bias that is only ever added to the
first: it stays at zero, since two of them would learn twice as fast.
"""

import importlib
from typing import Any

import jax
import numpy as np

from benchmarks.common.tasks import Data, Task
from benchmarks.libraries import classifiers
from benchmarks.libraries.base import Contestant, Library, PeerCell, Steps, Trainer, Weights
from benchmarks.libraries.ours import head_weights, initial_model
from jaxrnn.interop import torch_weights


def _torch() -> Any:
    return importlib.import_module("torch")


def _weights(w: Weights) -> dict[str, np.ndarray]:
    return {
        "weight_ih_l0": w.kernel.T,
        "weight_hh_l0": w.recurrent_kernel.T,
        "bias_ih_l0": w.bias,
        "bias_hh_l0": np.zeros_like(w.bias) if w.recurrent_bias is None else w.recurrent_bias,
    }


def _cell(name: str) -> PeerCell:
    return PeerCell(
        lambda inputs, hidden: getattr(_torch().nn, name)(inputs, hidden, batch_first=True),
        lambda w: {name: _torch().tensor(np.ascontiguousarray(a)) for name, a in _weights(w).items()},
    )


CELLS = {"simple_rnn": _cell("RNN"), "lstm": _cell("LSTM"), "gru": _cell("GRU"), "gru_one_bias": _cell("GRU")}


def layer(
    cell: PeerCell, weights: Weights, inputs: Any, *, time_major: bool = False, calls: int = 1
) -> Contestant:
    """On the device and in the dtype of the inputs: a JAX array may lie on a GPU, where float32 means TF32.

    Each function makes that many ``calls`` before it waits for the device.
    """
    torch = _torch()
    x = torch.from_dlpack(inputs) if isinstance(inputs, jax.Array) else torch.tensor(inputs)
    made = cell.make(*weights.sizes)
    made.load_state_dict(cell.weights(weights))
    made.batch_first = not time_major
    if x.is_cuda:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
        made = made.to(x.device, x.dtype)
        made.flatten_parameters()
    params = list(made.parameters())

    def waited(results: Any) -> Any:
        if x.is_cuda:
            torch.cuda.synchronize()
        return results

    def forward() -> Any:
        with torch.inference_mode():
            return waited([made(x)[0] for _ in range(calls)][-1])

    def train_once() -> tuple[Any, Any]:
        loss = made(x)[0].float().square().mean()
        # In float16 the gradients of a mean over many numbers would be zero.
        scale = 2.0**16 if x.dtype == torch.float16 else 1
        gradients = torch.autograd.grad(loss * scale, params)
        return loss.detach(), gradients if scale == 1 else [g.float() / scale for g in gradients]

    def train() -> tuple[Any, Any]:
        return waited([train_once() for _ in range(calls)][-1])

    return Contestant(forward, train)


def cudnn_is_missing() -> str | None:
    """Why cuDNN cannot be measured, or None."""
    if TORCH.missing() == f"not installed (pip install {TORCH.packages['torch']})":
        return "PyTorch is not installed"
    return None if _torch().cuda.is_available() else "PyTorch finds no CUDA"


def steps(cell: PeerCell, weights: Weights, inputs: np.ndarray, *, threads: int = 1) -> Steps:
    """On one thread unless the batch is large: otherwise a second one has nothing to do, and waiting for it takes
    time."""
    torch = _torch()
    torch.set_num_threads(threads)
    made = getattr(torch.nn, f"{type(cell.make(*weights.sizes)).__name__}Cell")(*weights.sizes)
    made.load_state_dict({name.removesuffix("_l0"): value for name, value in cell.weights(weights).items()})
    x, carry = torch.tensor(inputs), None

    def take(number: int) -> Any:
        nonlocal carry
        with torch.inference_mode():
            for _ in range(number):
                carry = made(x, carry)
        return carry[0] if isinstance(carry, tuple) else carry

    return take


def trainer(task: Task, data: Data, *, shuffle: bool = True) -> Trainer:
    """The usual loop over a ``DataLoader``."""
    torch = _torch()
    nn = torch.nn

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            make = {"simple_rnn": nn.RNN, "gru": nn.GRU}[task.cell]
            self.layers = make(1, task.hidden[0], num_layers=len(task.hidden), batch_first=True)
            self.head = nn.Linear(task.hidden[-1], task.outputs)

        def forward(self, inputs, carry=None):
            hidden, carry = self.layers(inputs, carry)
            return self.head(hidden if task.every_step else hidden[:, -1]) * task.output_scale, carry

    model, start = Model(), initial_model(task)
    model.layers.load_state_dict({n: torch.tensor(v) for n, v in torch_weights(start.layers).items()})
    kernel, bias = head_weights(start)
    model.head.load_state_dict({"weight": torch.tensor(kernel.T.copy()), "bias": torch.tensor(bias)})
    if task.cell == "simple_rnn":
        for name, parameter in model.layers.named_parameters():
            parameter.requires_grad = not name.startswith("bias_hh")
    make, options = {"sgd": (torch.optim.SGD, {"momentum": 0.9}), "adam": (torch.optim.Adam, {})}[task.optimizer]
    optimizer = make(model.parameters(), task.learning_rate, **options)
    loss_of = nn.CrossEntropyLoss() if task.classifies else nn.HuberLoss()
    windows = torch.utils.data.TensorDataset(*map(torch.tensor, data.windows(task)))
    loader = torch.utils.data.DataLoader(windows, batch_size=task.batch, shuffle=shuffle and not task.stateful)
    valid = torch.tensor(data.valid_inputs)

    def epoch() -> float:
        total, carry = 0.0, None
        for inputs, targets in loader:
            optimizer.zero_grad()
            outputs, carry = model(inputs, carry)
            loss = loss_of(outputs, targets)
            loss.backward()
            optimizer.step()
            carry = carry.detach() if task.stateful else None
            total += loss.item() * len(inputs)
        return total / len(windows)

    def predict() -> np.ndarray:
        with torch.inference_mode():
            return data.judged(task, model(valid)[0].numpy())

    return Trainer(epoch, predict)


TORCH = Library("PyTorch", {"torch": "torch"}, CELLS, layer, steps, trainer, classifiers.torch, in_jax=False)
