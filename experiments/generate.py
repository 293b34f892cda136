"""Let the best model of a run of experiments.language write.

    python -m experiments.generate RUN --prompt "In the " --temperature 0.8
    python -m experiments.generate RUN --prompt "In the " --number 64 --length 1000 --top-k 20 --top-p 0.95

A low temperature makes the text more likely and more monotonous; 0 always takes the likeliest character.
``--top-k`` draws from the likeliest k characters, ``--top-p`` from the likeliest that together have this
probability.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from tyro.conf import Positional, arg

from experiments.common import runs
from experiments.common.config import read_command_line
from experiments.common.language import load_best, write_text
from experiments.common.language_config import LanguageConfig
from experiments.common.report import fail, plain_warnings, say
from experiments.common.text import prompt_numbers
from jaxrnn.models import LanguageModel

DEFAULT_PROMPT = "In the "


@dataclass(frozen=True)
class Settings:
    """Which model writes, and how."""

    run: Positional[Annotated[Path, arg(metavar="RUN", help="The folder of the run.")]]
    prompt: Annotated[
        str | None,
        arg(
            metavar="TEXT",
            help="What to go on from.",
            help_behavior_hint=f"(default: {DEFAULT_PROMPT!r}, or a space if the text of the run lacks a letter)",
        ),
    ] = None
    temperature: Annotated[float, arg(metavar="T", help="What the logits are divided by.")] = 0.8
    top_k: Annotated[
        int | None,
        arg(metavar="K", help="Draw from the K likeliest characters.", help_behavior_hint="(default: from all)"),
    ] = None
    top_p: Annotated[
        float | None,
        arg(
            metavar="P",
            help="Draw from the likeliest characters that together have this probability.",
            help_behavior_hint="(default: from all)",
        ),
    ] = None
    length: Annotated[int, arg(metavar="N", help="Characters to write.")] = 500
    number: Annotated[int, arg(metavar="N", help="How many texts to write, together.")] = 1
    seed: Annotated[int, arg(metavar="N", help="Seed of the draws.")] = 0


class LoadedLanguageRun(NamedTuple):
    """A run's best model, and the characters that its tokens stand for."""

    model: LanguageModel
    characters: str


def load_run(folder: Path | str) -> LoadedLanguageRun:
    """Load the best model of a run of experiments.language; the text itself is not needed.

    Raises:
      FileNotFoundError: there is no run in this folder.
      ValueError: the run is damaged, or is of another experiment.
    """
    folder = Path(folder)
    record = runs.read_record(folder)
    runs.check_experiment(folder, record, "experiments.language")
    config, characters = LanguageConfig.from_json(record["config"]), record["preparation"]["characters"]
    model = load_best(folder / runs.CHECKPOINTS, config, len(characters) + 1)
    return LoadedLanguageRun(model, characters)


def main(arguments: list[str] | None = None) -> int:
    plain_warnings()
    try:
        settings = read_command_line(Settings, "generate", __doc__, arguments)
        write(settings)
    except (ValueError, OSError) as error:
        return fail(str(error))
    return 0


def write(settings: Settings) -> None:
    for name, least in (("number", 1), ("seed", 0)):
        if getattr(settings, name) < least:
            raise ValueError(f"--{name} must be at least {least}, not {getattr(settings, name)}")
    run = load_run(settings.run)
    prompt = settings.prompt
    if prompt is None:
        usual = (DEFAULT_PROMPT, " ", run.characters[0])
        prompt = next(text for text in usual if set(text) <= set(run.characters))
    prompts: list[Any] = [prompt_numbers(prompt, run.characters)] * settings.number
    began = time.perf_counter()
    texts = write_text(
        run.model,
        run.characters,
        prompts,
        settings.length,
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        seed=settings.seed,
    )
    seconds = time.perf_counter() - began
    for text in texts:
        say(prompt + text)
        say("")
    print(f"{settings.number * settings.length / seconds:,.0f} characters a second", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
