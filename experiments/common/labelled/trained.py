"""The networks of a run that has ended, which classify new examples without the data that they learned from."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from experiments.common import runs
from experiments.common.config import given
from experiments.common.labelled.datasets import read
from experiments.common.labelled.evaluation import write_predictions
from experiments.common.labelled.options import Settings
from experiments.common.labelled.pipeline import (
    Preparation,
    features_of,
    make_model,
    make_optimizer_of,
    probabilities_of,
)
from experiments.common.labelled.recipes import Config
from experiments.common.labelled.sequences import SequencePreparation
from experiments.common.labelled.texts import TextPreparation
from experiments.common.options import option
from experiments.common.report import say
from jaxrnn.data import bucket_by_length
from jaxrnn.models import SequenceClassifier
from jaxrnn.training import CheckpointStore, Run, TrainState, bucketed_outputs, make_initializer, pure_apply


def parsed(folder: Path, record: dict[str, Any]) -> tuple[Config, Preparation]:
    """The configuration and the preparation in config.json."""
    runs.check_experiment(folder, record, "experiments.classify")
    try:
        kind = TextPreparation if record["series"]["is_text"] else SequencePreparation
        return Config.from_json(record["config"]), kind.from_json(record["preparation"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / runs.CONFIG} is damaged ({type(error).__name__}: {error})") from error


def member_folder(folder: Path, member: int) -> Path:
    return folder / runs.CHECKPOINTS / f"network-{member + 1}"


class TrainedClassifier:
    """The networks of a run, as they are in its folder.

    Raises:
      FileNotFoundError: there is no run.
      ValueError: it is damaged, a network that it was evaluated with is missing, or none has finished an epoch.
    """

    def __init__(self, folder: Path):
        record = runs.read_record(folder)
        self.config, self.preparation = parsed(folder, record)
        self.classes: list[str] = record["series"]["classes"]
        self.is_text: bool = record["series"]["is_text"]
        self.make_model = partial(make_model, self.config, self.preparation, len(self.classes))
        optimizer = make_optimizer_of(self.config, 1)  # how many steps it was for has no part in its state
        params = make_initializer(self.make_model)(jax.random.key(0))
        state = TrainState.create(params, optimizer, average=self.config.average > 0)
        template = Run.create(state)
        found = [template.resumed(CheckpointStore(member_folder(folder, n))) for n in range(self.config.members)]
        self.networks = [run.best_params for run in found if run.stopping.best_epoch]
        if not self.networks:
            raise ValueError(f"{folder} holds no network that has finished an epoch: continue it with --resume")
        evaluated = _evaluated(folder)
        if len(self.networks) < evaluated:
            missing = [member_folder(folder, n).name for n, r in enumerate(found) if not r.stopping.best_epoch]
            raise ValueError(
                f"{folder} was evaluated with {evaluated} networks, but has {len(self.networks)}: look for "
                f"{', '.join(missing)} in {folder / runs.CHECKPOINTS}"
            )

    def modules(self) -> list[SequenceClassifier]:
        """The networks themselves, without dropout."""
        made = []
        for params in self.networks:
            model = self.make_model(0)
            nnx.update(model, params)
            model.eval()
            made.append(model)
        return made

    def probabilities(self, inputs: tuple[Any, ...]) -> np.ndarray:
        """The mean probabilities of the networks, float64 ``[examples, classes]``."""
        features = [features_of(self.preparation, one) for one in inputs]
        config = self.config
        size = min(config.batch_size, len(features))
        buckets = bucket_by_length(features, batch_size=size, num_buckets=config.buckets)
        apply, _ = pure_apply(nnx.eval_shape(partial(self.make_model, 0)))
        logits = [bucketed_outputs(apply, params, buckets) for params in self.networks]
        return np.mean([probabilities_of(one) for one in logits], axis=0)


def _evaluated(folder: Path) -> int:
    """With how many networks the run was evaluated; 0 before that."""
    path = folder / "metrics.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))["networks"] if path.exists() else 0
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}): remove it") from error


def classify_with(folder: Path, settings: Settings) -> None:
    """Classify the examples of a file with the networks of a run, and write predictions.csv."""
    unused = [option(name) for name in given(settings) if name not in ("data", "text_column", "label_column")]
    if settings.resume:
        unused.append("--resume")
    if unused:
        raise ValueError(f"--run trains nothing, so it does not take {', '.join(unused)}")
    if settings.data is None or settings.out is None:
        raise ValueError("--run needs --data, the file to classify, and --out, the folder for predictions.csv")
    path = settings.out / "predictions.csv"
    if path.exists():
        raise ValueError(f"{path} exists already: choose another --out")
    trained = TrainedClassifier(folder)
    config, classes = trained.config, trained.classes
    label_column = settings.label_column or config.label_column
    # The labels of a file are compared with if it has them; a column that was asked for must be there.
    inputs, labels = read(
        Path(settings.data),
        settings.text_column or config.text_column,
        label_column,
        may_lack_labels=settings.label_column is None,
    )
    if isinstance(inputs[0], str) != trained.is_text:
        kinds = ("texts", "sequences") if trained.is_text else ("sequences", "texts")
        raise ValueError(f"the run was trained on {kinds[0]}, but {settings.data} holds {kinds[1]}")
    probabilities = trained.probabilities(inputs)
    runs.make_folder(settings.out)
    write_predictions(path, classes, probabilities)
    right = [classes[p] == one for p, one in zip(probabilities.argmax(axis=1), labels) if one in classes]
    if right:
        say(f"{100 * np.mean(right):.1f} % of the {len(right)} examples with a known label are right")
    if unknown := sorted({str(one) for one in labels if one and one not in classes}):
        say(
            f"{len(unknown)} labels of the file, such as {unknown[0]!r}, are none of the run's, so their examples "
            f"were not compared; the run knows {', '.join(map(str, classes))}"
        )
    count = len(trained.networks)
    mean = "one network says" if count == 1 else f"the mean of {count} networks says"
    if count < config.members:
        say(f"{config.members - count} of the {config.members} networks of the run have not finished an epoch")
    say(f"what {mean} of {len(inputs)} examples is in {path}")
