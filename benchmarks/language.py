"""The training of the character language model of ``experiments.language``, beside PyTorch's LSTM of its size.

    pip install -e '.[applications]' torch
    python -m benchmarks.language                        # the times of 60 updates each; a minute or two
    python -m benchmarks.language --train                # also the whole training of each, and its bits

Each library computes in float32 and in bfloat16 (PyTorch by its autocast), with parameters in float32. All
start from the same weights, read the same windows of the text in the same order with a carried state and the
same resets, and update with Adam, the same schedule and the same clipping. Each has a process of its own, and
they take turns of some updates. CPU seconds are those of all threads of a process. ``--threads`` is the number
of threads of each; with one thread, CPU seconds depend least on what else a machine does. PyTorch adds up two
biases, which Adam moves together twice as far as our one.
"""

import importlib
import math
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np

from benchmarks.common.command import RecordOptions, command, known
from benchmarks.common.process import Process
from experiments.common.language import ROWS_OF_EVALUATION, STEPS_OF_EVALUATION, Modelling
from experiments.common.language_config import LanguageConfig
from experiments.common.text import load_text
from jaxrnn import interop

BFLOAT16 = "-bfloat16"
LIBRARIES = ("jaxrnn", "torch", f"jaxrnn{BFLOAT16}", f"torch{BFLOAT16}")
CLOCKS = {"cpu": time.process_time, "wall": time.perf_counter}


@dataclass(frozen=True)
class LanguageOptions(RecordOptions):
    """What to train, and how long."""

    text: str = "kjv"
    """As of experiments.language."""

    train: bool = False
    """Train to the end, too, and test both models."""

    threads: int = 1
    """Threads of each library."""

    rounds: int = 6
    """How many turns are timed."""

    updates: int = 10
    """Updates in a turn."""

    libraries: tuple[str, ...] = LIBRARIES
    """Which to run."""


def run(options: LanguageOptions) -> None:
    known("library", options.libraries, LIBRARIES)
    environment = {"OMP_NUM_THREADS": str(options.threads)}
    found: dict[str, Any] = {
        "text": options.text,
        "threads": options.threads,
        "updates_in_a_turn": options.updates,
    }
    with ExitStack() as stack:
        processes = {name: stack.enter_context(Process(environment)) for name in options.libraries}
        timed: dict[str, list[dict[str, float]]] = {name: [] for name in processes}
        for name, process in processes.items():
            total = process.ask(start, name, options.text, options.threads)
            process.ask(update, 2)  # compiles, and warms up
        for _ in range(options.rounds):
            for name, process in processes.items():
                timed[name].append(process.ask(update, options.updates))
        for name, turns in timed.items():
            medians = {kind: float(np.median([turn[kind] for turn in turns])) for kind in CLOCKS}
            each = {f"{kind}_milliseconds_per_update": 1e3 * m / options.updates for kind, m in medians.items()}
            found[name] = each
        for name in processes if "torch" in processes else ():
            pairs = list(zip(timed[name], timed["torch"]))
            ratios = {kind: sorted(round(b[kind] / a[kind], 3) for a, b in pairs) for kind in CLOCKS}
            found[name]["torch_divided_by_this"] = ratios
        if options.train:
            for name, process in processes.items():
                found[name] |= process.ask(update, total - 2 - options.rounds * options.updates)
                found[name] |= {"bits_per_character": process.ask(bits)}
    options.write("language", ("jax", "flax", "torch"), found)


class Ours:
    """The training of the experiment, in parts."""

    def __init__(self, modelling: Modelling):
        self.modelling = modelling
        self.state, self.epoch = modelling.start()

    def update(self, number: int) -> None:
        while number:
            before = int(self.state.step)
            self.state, _ = self.epoch.advance(self.state, number)
            number -= int(jax.block_until_ready(self.state.step)) - before

    def test(self) -> float:
        text = self.modelling.text
        return self.modelling.bits(self.state.params, text.test, len(text.tokens))


class Torch:
    """The same in PyTorch, with ``torch.nn.LSTM``, which runs in oneDNN."""

    def __init__(self, modelling: Modelling):
        torch = self.torch = importlib.import_module("torch")
        self.modelling, config = modelling, modelling.config
        ours, width = modelling.make_model(), modelling.text.vocabulary_size
        assert ours.head is not None
        self.lstm = torch.nn.LSTM(config.embedding, config.hidden[0], len(config.hidden), batch_first=True)
        self.embedding = torch.nn.Embedding(width, config.embedding)
        self.head = torch.nn.Linear(config.hidden[-1], width)
        for module, state in (
            (self.lstm, interop.torch_weights(ours.layers)),
            (self.embedding, {"weight": np.array(ours.embedding.embedding[...])}),
            (self.head, {"weight": np.array(ours.head.kernel[...]).T, "bias": np.zeros(width, np.float32)}),
        ):
            module.load_state_dict({name: torch.tensor(array) for name, array in state.items()})
        self.parameters = [p for module in (self.embedding, self.lstm, self.head) for p in module.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, lr=1.0)
        self.rates = modelling.learning_rates()
        self.starts = modelling.starts[: modelling.updates // config.passes]
        self.tokens = torch.tensor(modelling.text.tokens.astype(np.int64))
        self.step, self.carry = 0, self._zeros(config.batch_size)

    def _zeros(self, rows: int) -> Any:
        shape = (len(self.modelling.config.hidden), rows, self.modelling.config.hidden[0])
        return self.torch.zeros(shape), self.torch.zeros(shape)

    def _losses(self, places: Any, carry: Any, reduction: str) -> tuple[Any, Any]:
        """Of the tokens after these places, and the carry."""
        narrow = self.modelling.config.dtype == "bfloat16"
        with self.torch.autocast("cpu", self.torch.bfloat16, enabled=narrow):
            hidden, carry = self.lstm(self.embedding(self.tokens[places]), carry)
            logits, wanted = self.head(hidden).flatten(0, 1).float(), self.tokens[places + 1].flatten()
        return self.torch.nn.functional.cross_entropy(logits, wanted, reduction=reduction), carry

    def update(self, number: int) -> None:
        torch, config = self.torch, self.modelling.config
        for _ in range(number):
            batch = self.step % len(self.starts)
            if batch == 0:
                self.carry = self._zeros(config.batch_size)
            places = torch.tensor(self.starts[batch])[:, None] + torch.arange(config.window)
            kept = torch.tensor(~self.modelling.resets[batch], dtype=torch.float32)[None, :, None]
            self.carry = tuple(part * kept for part in self.carry)
            for group in self.optimizer.param_groups:
                group["lr"] = np.asarray(self.rates(self.step)).item()
            loss, carry = self._losses(places, self.carry, "mean")
            self.optimizer.zero_grad()
            loss.backward()
            if config.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(self.parameters, config.clip_norm)
            self.optimizer.step()
            self.carry = tuple(part.detach() for part in carry)
            self.step += 1

    def test(self) -> float:
        """As :meth:`experiments.common.language.Modelling.bits` divides the part."""
        torch, text = self.torch, self.modelling.text
        length = len(text.tokens) - text.test
        windows = -(-length // (ROWS_OF_EVALUATION * STEPS_OF_EVALUATION))
        places = text.test - 1 + np.arange(ROWS_OF_EVALUATION * windows * STEPS_OF_EVALUATION)
        weights = torch.tensor(places < len(text.tokens) - 1)
        rows = torch.tensor(np.minimum(places, len(text.tokens) - 2)).reshape(ROWS_OF_EVALUATION, -1)
        carry, total = self._zeros(ROWS_OF_EVALUATION), 0.0
        with torch.no_grad():
            for number in range(windows):
                part = slice(number * STEPS_OF_EVALUATION, (number + 1) * STEPS_OF_EVALUATION)
                losses, carry = self._losses(rows[:, part], carry, "none")
                total += float((losses * weights.reshape(rows.shape)[:, part].flatten()).sum())
        return total / length / math.log(2)


LEARNERS = {"jaxrnn": Ours, "torch": Torch}

now: Any = SimpleNamespace(learner=None)
"""What a process remembers between calls."""


def start(name: str, text: str, threads: int) -> int:
    """Make the model; returns how many updates the whole training has."""
    library, dtype = name.removesuffix(BFLOAT16), "bfloat16" if name.endswith(BFLOAT16) else "float32"
    if library == "torch":
        importlib.import_module("torch").set_num_threads(threads)
    elif hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])  # before JAX counts them
    modelling = Modelling(replace(LanguageConfig(), text=text, dtype=dtype), load_text(text))
    now.learner = LEARNERS[library](modelling)
    return modelling.updates


def update(number: int) -> dict[str, float]:
    """Seconds of so many updates, by clock."""
    began = {kind: clock() for kind, clock in CLOCKS.items()}
    now.learner.update(number)
    return {kind: clock() - began[kind] for kind, clock in CLOCKS.items()}


def bits() -> float:
    return now.learner.test()


main = command(LanguageOptions, run, "language", __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
