"""Judge forecasts of many steps on the past: rolling origins, with a model that has not seen what comes after.

    python -m experiments.backtest --series shops.csv --horizon 24 --season 12 --origins 20

The model is trained on what comes before the first origin, and forecasts from each origin, one step apart. The
run folder gets backtest.csv (a row for each series, origin and step) and metrics.json: MASE, sMAPE, WQL and the
share of the values that lie in both intervals, beside seasonal naive, naive and an autoregression, in all and by
step of the horizon. Ctrl-C stops the training; the same command with --resume continues it.
"""

import signal

if __name__ == "__main__":
    # During the imports Ctrl-C ends the process without a traceback. main() installs a handler with a message.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from experiments.common.command import end_at_once, run_command
from experiments.common.config import read_command_line
from experiments.common.many_steps.pipeline import Settings, run
from experiments.common.signals import CtrlC, answered


def main(arguments: list[str] | None = None) -> int:
    ctrl_c = CtrlC()

    def backtest() -> int:
        settings = read_command_line(Settings, "backtest", __doc__, arguments)
        with answered():
            return run(settings, ctrl_c, forecast=False)

    return run_command(ctrl_c, backtest)


if __name__ == "__main__":
    end_at_once(main())
