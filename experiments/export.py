"""Export the best model of a run, for programs without jaxrnn.

    python -m experiments.forecast --recipe tuned --out runs/first
    python -m experiments.export runs/first --to onnx              # runs/first/model.onnx
    python -m experiments.export runs/first --to stablehlo         # runs/first/model.stablehlo: for JAX alone
    python -m experiments.export runs/first --to safetensors       # runs/first/model.safetensors: the parameters
    python -m experiments.export runs/first --to stablehlo --int8  # with int8 weights, about a quarter of the size

The ONNX and StableHLO models read windows [batch, time, features], float32, as the network was trained on them,
and return forecasts in the units of the series. With the course recipe the windows are raw values, and the outputs
are the forecasts themselves. The network of the tuned recipe corrects a moving average: load_run, of
experiments.predict, gives the windows (forecasting.features) and the baseline to which the outputs are added
(forecasting.prepared.baseline). On a CSV file the outputs have a unit of their own at each step: multiply them by
forecasting.prepared.scale and by forecasting.choose(params).share before they are added. A stateful network also
takes the carry that it begins with, zeros at first, and returns the next one.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from tyro.conf import FlagCreatePairsOff, Positional, arg

from experiments.common.config import read_command_line
from experiments.common.devices import claim_devices
from experiments.common.report import fail, plain_warnings, say
from experiments.predict import load_run
from jaxrnn.export import quantize, save_safetensors, to_onnx, to_stablehlo


@dataclass(frozen=True)
class Settings:
    """Which run, and which format."""

    run: Annotated[Positional[Path], arg(metavar="RUN", help="Folder of a run of experiments.forecast.")]
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
            "model-int8.stablehlo or model-int8.safetensors)",
        ),
    ] = None
    int8: Annotated[
        FlagCreatePairsOff[bool],
        arg(help="Int8 weights, a scale for each unit of each gate (stablehlo and safetensors)."),
    ] = False


def main(arguments: list[str] | None = None) -> int:
    plain_warnings()
    try:
        settings = read_command_line(Settings, "export", __doc__, arguments)
        export(settings)
    except (ValueError, OSError, ImportError) as error:
        return fail(str(error))
    return 0


def export(settings: Settings) -> None:
    if settings.int8 and settings.to == "onnx":
        raise ValueError(
            "--int8 is not supported with --to onnx, whose recurrent operators have float weights: export without "
            "it, and quantise the file with onnxruntime.quantization.quantize_dynamic"
        )
    claim_devices(None)
    run = load_run(settings.run)
    path = settings.out or settings.run / f"model{'-int8' if settings.int8 else ''}.{settings.to}"
    if path.exists():
        raise ValueError(f"{path} exists already: choose another --out")
    scale, model = run.forecasting.prepared.scale, quantize(run.model) if settings.int8 else run.model
    if settings.to == "safetensors":
        save_safetensors(model, path)
        say(f"the parameters of epoch {run.best_epoch} are in {path}")
        return
    has_one_unit = not isinstance(scale, np.ndarray)
    if has_one_unit:
        model.output_scale *= scale  # from the network's units to those of the series
    write = to_onnx if settings.to == "onnx" else to_stablehlo
    stateful = run.forecasting.stateful
    write(model, path, initial_carry=stateful, return_carry=stateful)
    features = run.forecasting.features.shape[1]
    say(f"the model of epoch {run.best_epoch} is in {path}; it reads [batch, time, {features}], float32")
    if not has_one_unit:
        share = run.forecasting.choose(run.params).share
        if share == 0:
            say("the run does not use this network: its forecasts are the baseline alone")
        say(f"a forecast is the baseline plus {share:g} x scale x its output, as --help explains")
    elif run.forecasting.preparation.level_width is not None:
        say("a forecast is its output plus the baseline, as --help explains")


if __name__ == "__main__":
    sys.exit(main())
