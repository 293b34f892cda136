"""Find a learning rate: raise it every epoch, and see where the loss falls and where it diverges.

    python -m experiments.lr_range                       # all three tasks of the course recipe
    python -m experiments.lr_range --tasks seq2vec --series melbourne

Plots loss against learning rate in lr_range.png, writes the numbers to lr_range.json, and suggests a tenth of the
rate at which the loss is lowest.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from rich.progress import Progress
from tyro.conf import arg

from experiments.common import runs
from experiments.common.command import error_message
from experiments.common.config import Settings as ForecastSettings
from experiments.common.config import read_command_line, resolve
from experiments.common.devices import batch_mesh, claim_devices
from experiments.common.pipeline import Forecasting, load
from experiments.common.recipes import TASKS, Task
from experiments.common.report import console, ended_early, fail, say
from jaxrnn.training import LRRangeTest, exponential_rates, lr_range_test

# The lowest rate, and the epochs per factor of ten. These are the lesson's values, so the plots can be compared.
COURSE_RAMPS = {"seq2vec": (1e-7, 20.0), "seq2seq": (1e-7, 30.0), "stateful": (1e-8, 30.0)}
TUNED_RAMP = (1e-5, 20.0)


@dataclass(frozen=True)
class Settings:
    """The tasks and learning rates to test."""

    tasks: Annotated[tuple[Task, ...], arg(help="Which tasks to test.")] = TASKS
    recipe: Annotated[
        Literal["course", "tuned"] | None,
        arg(
            metavar="{course,tuned}",
            help="A recipe of experiments.forecast.",
            help_behavior_hint="(default: course for the course series, tuned for any other)",
        ),
    ] = None
    series: Annotated[str, arg(metavar="NAME|PATH.csv", help="The series to train on.")] = "course"
    column: Annotated[
        str | None,
        arg(
            metavar="NAME",
            help="The column to forecast.",
            help_behavior_hint="(default: that of the named series, or a file's only numeric one)",
        ),
    ] = None
    cell: Annotated[str, arg(metavar="CELL", help="Recurrent cell.")] = "simple_rnn"
    epochs: Annotated[int, arg(metavar="N", help="Rates to try, one epoch each.")] = 100
    lowest: Annotated[
        float | None,
        arg(
            metavar="RATE",
            help="The first rate.",
            help_behavior_hint="(default: course 1e-7 / 1e-7 / 1e-8 by task, tuned 1e-5)",
        ),
    ] = None
    epochs_per_decade: Annotated[
        float | None,
        arg(
            metavar="N",
            help="The number of epochs in which the rate rises tenfold.",
            help_behavior_hint="(default: course 20 / 30 / 30 by task, tuned 20)",
        ),
    ] = None
    seed: Annotated[int, arg(metavar="N", help="Seed of the initial parameters and of the shuffling.")] = 0
    out: Annotated[Path, arg(metavar="DIR", help="The folder for lr_range.png and lr_range.json.")] = Path(
        "runs/lr_range"
    )


def main(arguments: list[str] | None = None) -> int:
    try:
        settings = read_command_line(Settings, "lr_range", __doc__, arguments)
        claim_devices(None)
        run_tests(settings)
    except (ValueError, OSError) as error:
        return fail(error_message(error))
    except KeyboardInterrupt:
        ended_early("interrupted; no results were written")
        return 130
    return 0


def run_tests(settings: Settings) -> None:
    if settings.epochs < 1 or not settings.tasks:
        raise ValueError(
            f"--epochs {settings.epochs} --tasks {' '.join(settings.tasks)}: give at least one epoch and one task"
        )
    runs.make_folder(settings.out)
    found = {task: range_test(settings, task) for task in settings.tasks}
    runs.write_json(settings.out / "lr_range.json", {task: vars(test) for task, test in found.items()})
    from experiments.common import plots

    plots.plot_lr_range(settings.out / "lr_range.png", found)
    for task, test in found.items():
        say(f"{task}: try a learning rate of {test.suggestion:.1e}")
    say(f"the plot and the numbers are in {settings.out}")


def range_test(settings: Settings, task: Task) -> LRRangeTest:
    config = resolve(
        ForecastSettings(
            recipe=settings.recipe,
            task=task,
            series=settings.series,
            column=settings.column,
            cell=settings.cell,
            seed=settings.seed,
        )
    )
    lowest, per_decade = COURSE_RAMPS[task] if config.recipe == "course" else TUNED_RAMP
    lowest = lowest if settings.lowest is None else settings.lowest
    per_decade = per_decade if settings.epochs_per_decade is None else settings.epochs_per_decade
    rates = exponential_rates(lowest, settings.epochs, per_decade)
    forecasting = Forecasting(config, load(config), mesh=batch_mesh(config.batch_size, None))
    state, train_epoch = forecasting.start(forecasting.optimizer(schedule=False))
    quiet = not console.is_terminal
    if quiet:
        print(f"{task}: {settings.epochs} epochs, from a rate of {rates[0]:.1e} to {rates[-1]:.1e}", flush=True)
    with Progress(console=console, transient=True, disable=quiet) as bar:
        line = bar.add_task(task, total=len(rates))
        return lr_range_test(state, train_epoch, rates, on_epoch=lambda rate, loss: bar.advance(line))


if __name__ == "__main__":
    sys.exit(main())
