"""Export the best model of a run, for programs without jaxrnn.

    python -m experiments.forecast --recipe tuned --out runs/first
    python -m experiments.export runs/first --to onnx              # runs/first/model.onnx
    python -m experiments.export runs/first --to stablehlo         # runs/first/model.stablehlo: for JAX alone
    python -m experiments.export runs/first --to safetensors       # runs/first/model.safetensors: the parameters
    python -m experiments.export runs/first --to onnx --int8       # with int8 weights, about a quarter of the size

Of a forecast, the ONNX and StableHLO models read windows [batch, time, features], float32, as the network was
trained on them, and return forecasts in the units of the series. With the course recipe the windows are raw
values, and the outputs are the forecasts themselves. With the tuned recipe the network corrects a forecast without
a network, its baseline, so windows and baseline must be made in Python, where jaxrnn is installed:

    run = experiments.predict.load_run("runs/first")
    run.forecasting.features                  # what the windows are cut from
    run.forecasting.prepared.baseline         # what the outputs are added to
    run.forecasting.prepared.scale            # on a CSV file the outputs are first multiplied by this
    run.forecasting.choose(run.params).share  # and by this, which is printed, too

A stateful network also takes the carry that it begins with, zeros at first, and returns the next one.

Of a run with --horizon, the model is all networks with their calibration. It returns the columns of forecast.csv,
yhat, lo-80 and so on, [batch, horizon, columns], in the units of the series. It reads windows of the series, what
forecasts are differences to, and seasonal naive forecasts, all of which are made where jaxrnn is installed, from a
frame with the columns unique_id, ds and y, and with future= where columns are known in advance:

    networks = jaxrnn.forecasting.CalibratedNetworks(jaxrnn.forecasting.Forecaster.load("runs/shops/model"))
    inputs = networks.inputs(frame)                         # arrays "inputs", "anchors" and "naive"
    session.run(None, inputs)                               # an onnxruntime.InferenceSession
    program.call(inputs.pop("inputs"), **inputs)            # StableHLO

A run with --distribution is not exported, since SciPy computes its quantiles.

Of a classification, the model is the mean of all networks of the run. It reads seq_lengths [batch], int32, beside
the inputs, of which steps beyond a row's length are padding, and returns the probabilities of the classes. How the
inputs are made is in "preparation" in config.json, and in the metadata of the ONNX model:

    texts      the numbers of the words [batch, time], int32: "words" are numbered from 1, 0 is any other word. A
               text in lower case is cut into words by the regular expression "pattern", and after "longest" of
               them. A text without words is one 0.
    sequences  [batch, time, features], float32: (values - "means") / "scales". If "differences", then the change
               of every channel since the step before, 0 at the first step, follows as so many more channels. Then
               each "frame" steps become one, side by side; an incomplete one repeats the last step. The lengths
               count frames.

Of a language model, it reads the numbers of characters [batch, time], int32, and the carry, and returns the logits
of the character that follows each of them and the next carry. The characters of "preparation" in config.json,
"characters" in the metadata, are numbered from 1; 0 is any other one.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from flax import nnx
from tyro.conf import FlagCreatePairsOff, Positional, arg

from experiments.common import runs
from experiments.common.config import read_command_line
from experiments.common.devices import claim_devices
from experiments.common.labelled.mean import MeanOfNetworks, mean_to_onnx
from experiments.common.labelled.sequences import SequencePreparation
from experiments.common.labelled.trained import TrainedClassifier
from experiments.common.many_steps import pipeline, record
from experiments.common.report import fail, plain_warnings, say
from experiments.generate import load_run as load_language_run
from experiments.predict import load_run
from jaxrnn.export import quantize, save_safetensors, to_onnx, to_stablehlo
from jaxrnn.forecasting import CalibratedNetworks, Forecaster


@dataclass(frozen=True)
class Settings:
    """Which run, and which format."""

    run: Annotated[
        Positional[Path],
        arg(metavar="RUN", help="Folder of a run of experiments.forecast, classify or language."),
    ]
    to: Annotated[
        Literal["onnx", "stablehlo", "safetensors"],
        arg(
            metavar="{onnx,stablehlo,safetensors}",
            help="onnx: for ONNX Runtime and others, without Python. stablehlo: one program for JAX, on a CPU, "
            "GPU or TPU. safetensors: the parameters alone, by their names.",
        ),
    ]
    out: Annotated[
        Path | None,
        arg(
            metavar="FILE",
            help="Where to write it; a file that exists is not replaced.",
            help_behavior_hint="(default: model.onnx, model.stablehlo or model.safetensors in RUN; with --int8, "
            "model-int8.onnx and so on)",
        ),
    ] = None
    int8: Annotated[
        FlagCreatePairsOff[bool],
        arg(help="Int8 weights, a scale for each unit of each gate."),
    ] = False


class Exported(NamedTuple):
    """What is exported of a run.

    Attributes:
      model: the best one.
      name: what to call it.
      options: of to_onnx and to_stablehlo.
      reads: what the exported model reads.
      notes: what its user must know.
      metadata: of an ONNX model.
    """

    model: Any
    name: str
    options: dict[str, Any]
    reads: str
    notes: tuple[str, ...] = ()
    metadata: dict[str, str] | None = None


def main(arguments: list[str] | None = None) -> int:
    plain_warnings()
    try:
        settings = read_command_line(Settings, "export", __doc__, arguments)
        export(settings)
    except (ValueError, OSError, ImportError) as error:
        return fail(str(error))
    return 0


def export(settings: Settings) -> None:
    claim_devices(None)
    path = settings.out or settings.run / f"model{'-int8' if settings.int8 else ''}.{settings.to}"
    if path.exists():
        raise ValueError(f"{path} exists already: choose another --out")
    loaders = {
        "experiments.forecast": _forecaster,
        "experiments.classify": _classifier,
        "experiments.language": _language_model,
    }
    many_steps = (settings.run / record.CONFIG).exists() or (settings.run / pipeline.MODEL).exists()
    load = _many_steps if many_steps else loaders[runs.experiment_of(runs.read_record(settings.run))]
    exported = load(settings.run)
    model: nnx.Module = quantize(exported.model) if settings.int8 else exported.model
    if settings.to == "safetensors":
        save_safetensors(model, path)
        say(f"the parameters of {exported.name} are in {path}")
        return
    if settings.to == "stablehlo":
        to_stablehlo(model, path, **exported.options)
    elif isinstance(model, MeanOfNetworks):
        runs.write_file(path, mean_to_onnx(model, exported.metadata or {}))
    else:
        to_onnx(model, path, metadata=exported.metadata, **exported.options)
    say(f"{exported.name} is in {path}; it reads {exported.reads}")
    for note in exported.notes:
        say(note)


def _forecaster(folder: Path) -> Exported:
    run = load_run(folder)
    scale = run.forecasting.prepared.scale
    notes = []
    if not isinstance(scale, np.ndarray):
        run.model.output_scale *= scale  # from the network's units to those of the series
        if run.forecasting.preparation.level_width is not None:
            notes.append("a forecast is its output plus the baseline, as --help explains")
    else:
        share = run.forecasting.choose(run.params).share
        if share == 0:
            notes.append("the run does not use this network: its forecasts are the baseline alone")
        else:
            notes.append(f"a forecast is the baseline plus {share:g} x scale x its output, as --help explains")
    stateful = run.forecasting.stateful
    features = run.forecasting.features.shape[1]
    options = {"initial_carry": stateful, "return_carry": stateful}
    name = f"the model of epoch {run.best_epoch}"
    return Exported(run.model, name, options, f"[batch, time, {features}], float32", tuple(notes))


def _many_steps(folder: Path) -> Exported:
    networks = CalibratedNetworks(Forecaster.load(folder / pipeline.MODEL))
    (window, features), count = networks.input_shape, len(networks.networks)
    name = "the network" if count == 1 else f"the mean of {count} networks"
    further = " and ".join(f"{one} [batch, {sizes[0]}]" for one, sizes in networks.further_inputs.items())
    reads = f"[batch, {window}, {features}], {further}, float32, which --help says how to make"
    note = f"it returns {', '.join(networks.columns)} of every step, in the units of the series"
    return Exported(networks, name, {}, reads, (note,))


def _classifier(folder: Path) -> Exported:
    trained = TrainedClassifier(folder)
    reads = "[batch, time], int32"
    if isinstance(trained.preparation, SequencePreparation):
        reads = f"[batch, time, {trained.preparation.num_features}], float32"
    note = f"it returns the probabilities of the classes in {folder / runs.CONFIG}, in their order"
    mean = MeanOfNetworks(trained.modules())
    metadata = {
        "classes": json.dumps(trained.classes),
        "preparation": json.dumps(trained.preparation.to_json()),
    }
    count = len(trained.networks)
    name = "the network" if count == 1 else f"the mean of {count} networks"
    return Exported(mean, name, {"seq_lengths": True}, f"{reads}, and the lengths", (note,), metadata)


def _language_model(folder: Path) -> Exported:
    run = load_language_run(folder)
    options = {"initial_carry": True, "return_carry": True}
    metadata = {"characters": run.characters}
    return Exported(run.model, "the best model", options, "[batch, time], int32, and the carry", metadata=metadata)


if __name__ == "__main__":
    sys.exit(main())
