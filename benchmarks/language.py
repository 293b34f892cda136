"""The training of the character language model of ``experiments.language``, beside PyTorch's LSTM of its size.

    pip install -e '.[applications]' torch
    python -m benchmarks.language                        # the times of 60 updates each; a minute or two
    python -m benchmarks.language --train                # also the whole training of both, and their bits

Both libraries start from the same weights, read the same windows of the text in the same order with a carried
state and the same resets, and update with Adam, the same schedule and the same clipping. Each has a process of its
own, and they take turns of some updates. CPU seconds are those of all threads of a process. ``--threads`` is the
number of threads of each; with one thread, CPU seconds depend least on what else a machine does. PyTorch adds
up two biases, which Adam moves together twice as far as our one.
"""

import math
import os
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich import print_json

from benchmarks.common.command import RecordOptions, command, known
from benchmarks.common.process import Process
from experiments.common.language import (
    ROWS_OF_EVALUATION,
    STEPS_OF_EVALUATION,
    Modelling,
)
from experiments.common.language_config import LanguageConfig
from experiments.common.text import load_text
from jaxrnn import interop

LIBRARIES = ("jaxrnn", "torch")


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
    environment = {
        "OMP_NUM_THREADS": str(options.threads),
        "JAXRNN_BENCHMARK_CORES": str(options.threads),
    }
    modules = {name: Process("benchmarks.language", environment) for name in options.libraries}
    timed: dict[str, list[dict[str, float]]] = {name: [] for name in modules}
    found: dict[str, Any] = {
        "text": options.text,
        "threads": options.threads,
        "updates_in_a_turn": options.updates,
    }
    try:
        for name, process in modules.items():
            total = process.ask({"start": name, "text": options.text})["updates"]
            process.ask({"updates": 2})  # compiles, and warms up
        for _ in range(options.rounds):
            for name, process in modules.items():
                timed[name].append(process.ask({"updates": options.updates}))
        for name, turns in timed.items():
            found[name] = {
                f"{kind}_milliseconds_per_update": 1000
                * float(np.median([t[kind] for t in turns]))
                / options.updates
                for kind in ("cpu", "wall")
            }
        if len(modules) == len(LIBRARIES):
            found["torch_divided_by_jaxrnn"] = {
                kind: sorted(round(b[kind] / a[kind], 3) for a, b in zip(timed["jaxrnn"], timed["torch"]))
                for kind in ("cpu", "wall")
            }
        if options.train:
            done = 2 + options.rounds * options.updates
            for name, process in modules.items():
                found[name] |= process.ask({"updates": total - done})  # pyright: ignore[reportPossiblyUnbound]
                found[name] |= process.ask({"test": True})
    finally:
        for process in modules.values():
            process.__exit__()
    print_json(data=found)
    options.write("language", ("jax", "flax", "torch"), found)


class Ours:
    """The training of the experiment, in parts."""

    def __init__(self, modelling: Modelling):
        self.modelling = modelling
        self.state, self.epoch = modelling.start()

    def update(self, number: int) -> None:
        import jax

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
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        self.torch, self.modelling, config = torch, modelling, modelling.config
        ours = modelling.make_model()
        vocabulary = modelling.text.vocabulary_size

        class Model(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.embedding = torch.nn.Embedding(vocabulary, config.embedding)
                self.lstm = torch.nn.LSTM(config.embedding, config.hidden[0], len(config.hidden), batch_first=True)
                self.head = torch.nn.Linear(config.hidden[-1], vocabulary)

            def forward(self, tokens: Any, carry: Any) -> Any:
                hidden, carry = self.lstm(self.embedding(tokens), carry)
                return self.head(hidden), carry

        self.model = Model()
        with torch.no_grad():
            self.model.embedding.weight.copy_(torch.tensor(np.array(ours.embedding.embedding[...])))
            assert ours.head is not None
            self.model.head.weight.copy_(torch.tensor(np.array(ours.head.kernel[...]).T))
            self.model.head.bias.zero_()
        state = interop.torch_weights(ours.layers)
        self.model.lstm.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1.0)
        self.rates = modelling.learning_rates()
        self.starts = modelling.starts[: modelling.updates // config.passes]
        self.tokens = torch.tensor(modelling.text.tokens.astype(np.int64))
        self.step, self.carry = 0, self._zeros(config.batch_size)

    def _zeros(self, rows: int) -> Any:
        shape = (len(self.modelling.config.hidden), rows, self.modelling.config.hidden[0])
        return self.torch.zeros(shape), self.torch.zeros(shape)

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
            logits, carry = self.model(self.tokens[places], self.carry)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), self.tokens[places + 1].flatten())
            self.optimizer.zero_grad()
            loss.backward()
            if config.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
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
                logits, carry = self.model(self.tokens[rows[:, part]], carry)
                wanted = self.tokens[rows[:, part] + 1].flatten()
                losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted, reduction="none")
                total += float((losses * weights.reshape(rows.shape)[:, part].flatten()).sum())
        return total / length / math.log(2)


LEARNERS = {"jaxrnn": Ours, "torch": Torch}


class Session:
    """What a process remembers between requests."""

    learner: Ours | Torch

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        match request:
            case {"start": name, "text": text}:
                if name == "jaxrnn" and hasattr(os, "sched_setaffinity"):
                    cores = sorted(os.sched_getaffinity(0))[-int(os.environ["JAXRNN_BENCHMARK_CORES"]) :]
                    os.sched_setaffinity(0, cores)  # before JAX counts them
                config = replace(LanguageConfig(), text=text)
                modelling = Modelling(config, load_text(text))
                self.learner = LEARNERS[name](modelling)
                return {"updates": modelling.updates}
            case {"updates": number}:
                wall, cpu = time.perf_counter(), time.process_time()
                self.learner.update(number)
                return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
            case {"test": True}:
                return {"bits_per_character": self.learner.test()}
        raise ValueError(f"unknown request: {request}")


main = command(LanguageOptions, run, "language", __doc__, Session().answer)

if __name__ == "__main__":
    raise SystemExit(main())
