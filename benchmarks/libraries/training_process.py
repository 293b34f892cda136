"""One training of one library in a separate process, which benchmarks.training asks for its parts in turn.

Requests are ``{"do": what, ...}``:

    start   library, task, sizes: choose what the following requests are about, and prepare for it
    first   build everything and train one epoch; its seconds
    learn   train until the target or ``max_epochs``, with an evaluation after every epoch
    memory  the most bytes that the process has had
    check   losses of the first epochs of a new training without shuffling
    epochs  train ``number`` epochs more; seconds of each
"""

import importlib
import time
from typing import Any

from benchmarks.common.process import answer, memory
from benchmarks.common.rows import OURS
from benchmarks.common.tasks import TASKS, Task, data_of, score
from benchmarks.common.timing import seconds_of
from benchmarks.libraries import TRAINERS, classifiers, ours
from benchmarks.libraries.base import Trainer
from experiments.common.devices import claim_devices

CHECKED_EPOCHS = 2


class Session:
    """What a process remembers between requests."""

    library: str
    task: Task
    trainer: Trainer

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        began = time.perf_counter()
        match request:
            case {"do": "start", "library": library, "task": task, "sizes": sizes}:
                self.library, self.task = library, TASKS[task].with_sizes(sizes)
                if library == OURS:  # one device of JAX for every core, before anything of JAX runs
                    claim_devices(None)
                if not library.startswith(OURS):
                    self._prepare()
                return {}
            case {"do": "first"}:
                self.trainer = self._make()
                self.trainer.epoch()
                return {"seconds": time.perf_counter() - began}
            case {"do": "learn"}:  # the first epoch has been trained
                wanted, reached = data_of(self.task).valid_targets, self.task.reached
                values = [score(self.task, self.trainer.predict(), wanted)]
                while not reached(values[-1]) and len(values) < self.task.max_epochs:
                    self.trainer.epoch()
                    values.append(score(self.task, self.trainer.predict(), wanted))
                seconds = time.perf_counter() - began
                return {"seconds": seconds, "values": values, "reached": reached(values[-1])}
            case {"do": "memory"}:
                return {"bytes": memory()}
            case {"do": "check"}:
                trainer = self._make(shuffle=False)
                return {"losses": [trainer.epoch() for _ in range(CHECKED_EPOCHS)]}
            case {"do": "epochs", "number": number}:
                return {"seconds": [seconds_of(self.trainer.epoch) for _ in range(number)]}
        raise ValueError(f"unknown request: {request}")

    def _prepare(self) -> None:
        """Import the library, as ours is by now, and compile what makes the weights that all start from.

        JAX makes those weights, which is no part of another library's training.
        """
        for package in TRAINERS[self.library].packages:
            importlib.import_module(package)
        if self.task.lengths:
            classifiers.make_model(self.task, data_of(self.task))
        else:
            ours.initial_model(self.task)

    def _make(self, **options: Any) -> Trainer:
        library = TRAINERS[self.library]
        make = library.sequence_trainer if self.task.lengths else library.trainer
        assert make is not None
        return make(self.task, data_of(self.task), **options)


if __name__ == "__main__":
    answer(Session().answer)
