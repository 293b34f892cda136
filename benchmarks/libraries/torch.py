"""PyTorch: ``nn.RNN``, ``nn.LSTM`` and ``nn.GRU`` as they are used, eagerly; on CUDA they run on cuDNN.

A forward pass runs in inference mode. In trainings PyTorch's RNN has a second bias that is only ever added to the
first: it stays at zero, since two of them would learn twice as fast.
"""

import importlib
from typing import Any

import jax
import numpy as np

import jaxrnn
from benchmarks.common.tasks import Task
from benchmarks.libraries.base import Contestant, Library, Steps, Trainer
from benchmarks.libraries.ours import first_weights
from jaxrnn.interop import torch_weights


def _torch() -> Any:
    return importlib.import_module("torch")


CELLS = {"simple_rnn": "RNN", "lstm": "LSTM", "gru": "GRU", "gru_one_bias": "GRU"}


def _state(layers: Any) -> dict[str, Any]:
    """Our weights, as float32."""
    return {name: _torch().tensor(np.asarray(a, np.float32)) for name, a in torch_weights(layers).items()}


def recurrent_layer(name: str, cell: jaxrnn.RecurrentCell, *, batch_first: bool = True) -> Any:
    """PyTorch's layer with our weights."""
    make = getattr(_torch().nn, CELLS[name])
    made = make(cell.in_features, cell.hidden_features, batch_first=batch_first)
    made.load_state_dict(_state(jaxrnn.RNN(cell)))
    return made


def layer(
    name: str, cell: jaxrnn.RecurrentCell, inputs: Any, *, time_major: bool = False, calls: int = 1
) -> Contestant:
    """On the device and in the dtype of the inputs: a JAX array may lie on a GPU, where float32 means TF32."""
    torch = _torch()
    x = torch.from_dlpack(inputs) if isinstance(inputs, jax.Array) else torch.tensor(inputs)
    made = recurrent_layer(name, cell, batch_first=not time_major)
    if x.is_cuda:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
        made = made.to(x.device, x.dtype)
        made.flatten_parameters()
    return contestant(lambda x: made(x)[0], list(made.parameters()), x, calls)


def contestant(apply: Any, params: list[Any], x: Any, calls: int = 1) -> Contestant:
    """Each function makes that many ``calls`` of a module before it waits for the device."""
    torch = _torch()

    def waited(call: Any) -> Any:
        results = [call() for _ in range(calls)][-1]
        if x.is_cuda:
            torch.cuda.synchronize()
        return results

    def forward() -> Any:
        with torch.inference_mode():
            return waited(lambda: apply(x))

    def train() -> tuple[Any, Any]:
        loss = apply(x).float().square().mean()
        # In float16 the gradients of a mean over many numbers would be zero.
        scale = 2.0**16 if x.dtype == torch.float16 else 1
        gradients = torch.autograd.grad(loss * scale, params)
        return loss.detach(), gradients if scale == 1 else [g.float() / scale for g in gradients]

    return Contestant(forward, lambda: waited(train))


def cudnn_is_missing() -> str | None:
    """Why cuDNN cannot be measured, or None."""
    if TORCH.missing() == f"not installed (pip install {TORCH.packages['torch']})":
        return "PyTorch is not installed"
    return None if _torch().cuda.is_available() else "PyTorch finds no CUDA"


def steps(name: str, cell: jaxrnn.RecurrentCell, inputs: np.ndarray, *, threads: int = 1) -> Steps:
    """On one thread unless the batch is large: otherwise a second one has nothing to do, and waiting for it takes
    time."""
    torch = _torch()
    torch.set_num_threads(threads)
    made = getattr(torch.nn, f"{CELLS[name]}Cell")(cell.in_features, cell.hidden_features)
    made.load_state_dict({n.removesuffix("_l0"): value for n, value in _state(jaxrnn.RNN(cell)).items()})
    x, carry = torch.tensor(inputs), None

    def take(number: int) -> Any:
        nonlocal carry
        with torch.inference_mode():
            for _ in range(number):
                carry = made(x, carry)
        return carry[0] if isinstance(carry, tuple) else carry

    return take


def trainer(task: Task, data: Any, *, shuffle: bool = True, seed: int = 0) -> Trainer:
    """The usual loop over a ``DataLoader``. Batches of sequences of many lengths are packed."""
    torch = _torch()
    torch.manual_seed(seed)
    nn, packing = torch.nn, torch.nn.utils.rnn
    stack, (kernel, bias) = first_weights(task, data)
    sizes = {"num_layers": len(task.hidden), "bidirectional": task.lengths}
    layers = getattr(nn, CELLS[task.cell])(stack.cells[0].in_features, task.hidden[0], batch_first=True, **sizes)
    layers.load_state_dict(_state(stack))
    head = nn.Linear(*kernel.shape)
    head.load_state_dict({"weight": torch.tensor(kernel.T.copy()), "bias": torch.tensor(bias)})
    if task.cell == "simple_rnn":
        for name, parameter in layers.named_parameters():
            parameter.requires_grad = not name.startswith("bias_hh")

    def model(inputs: Any, carry: Any = None) -> tuple[Any, Any]:
        hidden, carry = layers(inputs, carry)
        if task.lengths:
            hidden, lengths = packing.pad_packed_sequence(hidden, batch_first=True)  # padding is zero
            return head(hidden.sum(1) / lengths[:, None]), carry
        return head(hidden if task.every_step else hidden[:, -1]) * task.output_scale, carry

    def packed(rows: Any) -> Any:
        inputs, targets = zip(*rows)
        return packing.pack_sequence(inputs, enforce_sorted=False), torch.stack(targets)

    make, options = {"sgd": (torch.optim.SGD, {"momentum": 0.9}), "adam": (torch.optim.Adam, {})}[task.optimizer]
    optimizer = make([*layers.parameters(), *head.parameters()], task.learning_rate, **options)
    loss_of = nn.CrossEntropyLoss() if task.classifies else nn.HuberLoss()
    if task.lengths:
        windows = list(zip(map(torch.tensor, data.inputs), torch.tensor(data.targets)))
        valid = packing.pack_sequence([torch.tensor(one) for one in data.valid_inputs], enforce_sorted=False)
    else:
        windows = torch.utils.data.TensorDataset(*map(torch.tensor, data.windows(task)))
        valid = torch.tensor(data.valid_inputs)
    options = {"shuffle": shuffle and not task.stateful, "collate_fn": packed if task.lengths else None}
    loader = torch.utils.data.DataLoader(windows, batch_size=task.batch, **options)

    def epoch() -> float:
        total, carry = 0.0, None
        for inputs, targets in loader:
            optimizer.zero_grad()
            outputs, carry = model(inputs, carry)
            loss = loss_of(outputs, targets)
            loss.backward()
            optimizer.step()
            carry = carry.detach() if task.stateful else None
            total += loss.item() * len(targets)
        return total / len(windows)

    def predict() -> np.ndarray:
        with torch.inference_mode():
            return data.judged(task, model(valid)[0].numpy())

    return Trainer(epoch, predict)


TORCH = Library("PyTorch", {"torch": "torch"}, CELLS, layer, steps, trainer, in_jax=False)
