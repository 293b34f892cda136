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

from benchmarks.common.process import answer, memory  # noqa: E402
from benchmarks.common.rows import OURS  # noqa: E402
from benchmarks.common.tasks import TASKS, Task, data_of, score  # noqa: E402
from benchmarks.common.timing import seconds_of  # noqa: E402
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
        began = time.perf_counter()
        match request:
            case {"do": "start", "library": library, "task": task, "sizes": sizes}:
                self.library, self.task = library, TASKS[task].with_sizes(sizes)
                if library == OURS:  # one device of JAX for every core, before anything of JAX runs
                    claim_devices(None)
                return {}
            case {"do": "first"}:
                self.trainer = self._make()
                self.trainer.epoch()
                now = time.perf_counter()
                return {"seconds": now - began, "with_imports": now - BEGAN}
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

    def _make(self, **options: Any) -> Trainer:
        library = TRAINERS[self.library]
        make = library.sequence_trainer if self.task.lengths else library.trainer
        assert make is not None
        return make(self.task, data_of(self.task), **options)


if __name__ == "__main__":
    answer(Session().answer)
