"""One training of one library in a separate process, which benchmarks.training asks for its parts in turn.

Requests are ``{"do": what, ...}``:

    start   library, task, sizes: choose what the following requests are about
    first   build everything and train one epoch; seconds from the start of the process, and of this
    learn   train until the target or ``max_epochs``, with an evaluation after every epoch
    memory  the most bytes that the process has had
    check   losses of the first epochs of a new training without shuffling
    epochs  train ``number`` epochs more; seconds of each
"""

import time
from typing import Any

BEGAN = time.perf_counter()

from benchmarks.common.process import answer, peak_memory  # noqa: E402
from benchmarks.common.rows import OURS  # noqa: E402
from benchmarks.common.tasks import TASKS, Task, data_of, score  # noqa: E402
from benchmarks.libraries import TRAINERS  # noqa: E402
from benchmarks.libraries.base import Trainer  # noqa: E402
from experiments.common.devices import claim_devices  # noqa: E402

CHECKED_EPOCHS = 2


class Session:
    """What a process remembers between requests."""

    library: str
    task: Task
    trainer: Trainer

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        return getattr(self, "_" + request.pop("do"))(**request)

    def _start(self, library: str, task: str, sizes: dict[str, Any]) -> dict[str, Any]:
        self.library, self.task = library, TASKS[task].with_sizes(sizes)
        if library == OURS:  # one device of JAX for every core, before anything of JAX runs
            claim_devices(None)
        return {}

    def _make(self, task: Task, **options: Any) -> Trainer:
        make = TRAINERS[self.library].trainer
        assert make is not None
        return make(task, data_of(task), **options)

    def _first(self) -> dict[str, Any]:
        began = time.perf_counter()
        self.trainer = self._make(self.task)
        self.trainer.epoch()
        now = time.perf_counter()
        return {"seconds": now - began, "with_imports": now - BEGAN}

    def _learn(self) -> dict[str, Any]:
        began, values = time.perf_counter(), []
        wanted = data_of(self.task).valid_targets
        while True:  # the first epoch has been trained
            values.append(score(self.task, self.trainer.predict(), wanted))
            if self.task.reached(values[-1]) or len(values) >= self.task.max_epochs:
                break
            self.trainer.epoch()
        reached = self.task.reached(values[-1])
        return {"seconds": time.perf_counter() - began, "values": values, "reached": reached}

    def _memory(self) -> dict[str, Any]:
        return {"bytes": peak_memory()}

    def _check(self) -> dict[str, Any]:
        trainer = self._make(self.task, shuffle=False)
        return {"losses": [trainer.epoch() for _ in range(CHECKED_EPOCHS)]}

    def _epochs(self, number: int) -> dict[str, Any]:
        found = []
        for _ in range(number):
            began = time.perf_counter()
            self.trainer.epoch()  # returns the loss as a number, so it has waited
            found.append(time.perf_counter() - began)
        return {"seconds": found}


if __name__ == "__main__":
    answer(Session().answer)
