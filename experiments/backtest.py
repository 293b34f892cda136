"""Judge forecasts of many steps on the past: rolling origins, with a model that has not seen what comes after.

    python -m experiments.backtest --series shops.csv --horizon 24 --season 12 --origins 20

The model is trained on what comes before the first origin, and forecasts from each origin, one step apart. The
run folder gets backtest.csv (a row for each series, origin and step) and metrics.json: MASE, sMAPE, WQL and the
share of the values that lie in both intervals, beside seasonal naive, in all and by step of the horizon.
"""

import sys

from experiments.common.config import read_command_line
from experiments.common.horizon import Settings, run
from experiments.common.report import fail, plain_warnings


def main(arguments: list[str] | None = None) -> int:
    plain_warnings()
    try:
        return run(read_command_line(Settings, "backtest", __doc__, arguments), forecast=False)
    except (ValueError, OSError) as error:
        return fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted")
        return 130


if __name__ == "__main__":
    sys.exit(main())
