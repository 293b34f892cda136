"""The options that say how a CSV file is read as a panel, and the reading."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from tyro.conf import arg

from experiments.common.report import say
from jaxrnn.data import KnownTimes, available_series, column_names, columns_of_names, load_series, read_long
from jaxrnn.forecasting import Columns, OneSeries, continued, describe_panel, read_panel


@dataclass(frozen=True)
class PanelOptions:
    """Which columns of a file are read, and how."""

    column: Annotated[
        str | None,
        arg(metavar="NAME", help="The column to forecast.", help_behavior_hint="(default: y, or the only one)"),
    ] = None
    id_column: Annotated[
        str | None,
        arg(
            metavar="NAME",
            help="The column that names the series of each row.",
            help_behavior_hint="(default: unique_id, if there is one)",
        ),
    ] = None
    time_column: Annotated[
        str | None,
        arg(
            metavar="NAME",
            help="The column of dates or of whole numbers.",
            help_behavior_hint="(default: ds, or the one with dates)",
        ),
    ] = None
    aggregate: Annotated[
        str | None,
        arg(
            metavar="sum|mean|...",
            help="How several rows of one series with one date become one: sum, mean, median, min, max, first or "
            "last.",
            help_behavior_hint="(default: an error that names them)",
        ),
    ] = None
    future_columns: Annotated[
        tuple[str, ...],
        arg(
            metavar="NAME ...",
            help="Columns that are known in advance, as promotions or prices: their values over the horizon stand "
            "in rows without a value to forecast, or in the file of --future.",
        ),
    ] = ()
    past_columns: Annotated[
        tuple[str, ...], arg(metavar="NAME ...", help="Columns that are known up to the last value, as visitors.")
    ] = ()
    static_columns: Annotated[
        tuple[str, ...],
        arg(metavar="NAME ...", help="Columns that do not change along a series, as the region of a shop."),
    ] = ()

    @property
    def columns(self) -> Columns:
        return Columns(self.future_columns, self.past_columns, self.static_columns)


def load_panel(
    name: str,
    options: PanelOptions,
    *,
    known: KnownTimes = KnownTimes(),  # noqa: B008  a named tuple cannot be changed
    texts: Collection[str] = (),
) -> list[OneSeries]:
    """The series of a file, or the one of a name. Says what was done to the rows.

    ``known`` is what is known of the times, and ``texts`` are columns of text, as in
    :func:`jaxrnn.data.read_long`.
    """
    if options.column in options.columns.all:
        raise ValueError(f"--column {options.column} is what is forecast, so it cannot be a further column, too")
    if name in available_series() or not Path(name).is_file():
        panel = [_named_series(name, options)]
    else:
        rows = read_long(
            Path(name),
            unique_id=options.id_column,
            time=options.time_column,
            value=options.column,
            further=options.columns.all,
            known=known,
            texts=texts,
        )
        for note in rows.notes:
            say(f"note: {note}")
        try:
            panel = read_panel(
                rows.columns,
                aggregate=options.aggregate,
                columns=options.columns,
                rows=rows.lines,
                known=known,
            )
            panel = [replace(one, utc_offset=rows.utc_offset) for one in panel]
        except ValueError as error:
            hint = ""
            if "have the same ds" in str(error) and "unique_id" not in rows.columns:
                names = columns_of_names(name, rows.columns["ds"])
                hint = f". If {names[0]!r} names the series of each row: --id-column {names[0]}" if names else ""
            raise ValueError(f"{name}: {error}{hint}") from error
    for note in describe_panel(panel):
        say(f"note: {note}")
    return panel


def names_for(path: Path, of_run: dict[str, Any]) -> dict[str, Any]:
    """The options of a run for another file, without the names of columns that it need not have.

    A file without the column that names the series holds one series, and the column of dates is found.

    Raises:
      ValueError: the file has no column of the name that the run forecasts.
    """
    header = column_names(path)
    missing = {
        name: of_run[name]
        for name in ("id_column", "time_column", "column")
        if of_run.get(name) is not None and of_run[name] not in header
    }
    if "column" in missing:
        raise ValueError(
            f"{path} has no column {missing['column']!r}, which the run forecasts: choose one of its columns with "
            f"--column ({', '.join(header)})"
        )
    if "id_column" in missing:
        say(f"note: {path} has no column {missing['id_column']!r} (--id-column), so it is read as one series")
    if "time_column" in missing:
        say(f"note: {path} has no column {missing['time_column']!r} (--time-column), so its dates are looked for")
    return {name: value for name, value in of_run.items() if name not in missing}


def load_future(path: str, options: PanelOptions, panel: Sequence[OneSeries]) -> list[OneSeries]:
    """The columns of a file that are known in advance, for the steps to forecast, which continue a panel."""
    rows = read_long(
        Path(path),
        unique_id=options.id_column,
        time=options.time_column,
        further=options.future_columns,
        with_values=False,
        known=continued(panel),
        texts=[name for name, values in panel[0].future.items() if values.dtype.kind == "U"],
    )
    for note in rows.notes:
        say(f"note: {path}: {note}")
    try:
        return read_panel(
            rows.columns,
            aggregate=options.aggregate,
            columns=Columns(options.future_columns),
            rows=rows.lines,
            with_values=False,
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _named_series(name: str, options: PanelOptions) -> OneSeries:
    series = load_series(name, column=options.column, split=1)  # an error if there is no such name or file
    if options.columns.all or options.id_column or options.time_column:
        raise ValueError(f"further columns, --id-column and --time-column need a file, not --series {name}")
    columns = {"unique_id": np.full(len(series.values), series.columns[0]), "y": series.values[:, 0]}
    return read_panel(columns)[0]
