"""A progress bar over the epochs of a training."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from jaxrnn.training.run import Run


@contextmanager
def epoch_progress(
    epochs: int, monitor: str, *, done: int = 0, console: Any = None
) -> Iterator[Callable[[Run], None]]:
    """Show a progress bar with the losses and the time left. Yields the function to call after every epoch.

    Args:
      epochs: how many epochs there are in all.
      monitor: the metric to show beside the loss, with its best value.
      done: how many of the epochs a resumed run has done already.
      console: a ``rich.console.Console``; standard error by default.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = console if console is not None else Console(stderr=True)
    columns = (TextColumn("epoch"), MofNCompleteColumn(), BarColumn(bar_width=20), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.description}", markup=False), console=console) as bar:
        task = bar.add_task("compiling the first epoch", total=epochs, completed=done)

        def show(run: Run) -> None:
            row = run.history[-1]
            text = f"loss {row['loss']:.4g}"
            if monitor != "loss":
                text += f", {monitor} {row[monitor]:.4g}"
            best = f"best {run.stopping.best:.4g} in epoch {run.stopping.best_epoch}"
            bar.update(task, completed=run.epochs_run, description=f"{text}, {best}")

        yield show
