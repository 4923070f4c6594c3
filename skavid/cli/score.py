"""``skavid score``: write one row with a score per image."""

from __future__ import annotations

import argparse
from contextlib import ExitStack

from skavid.cli.console import Console, CtrlC, irregular
from skavid.cli.models import open_model_and_sources
from skavid.cli.outputs import TABLES, check_file, check_table, table
from skavid.cli.scoring import COLUMNS, Scorer, Totals, exit_code, score_sources, table_rows
from skavid.wording import counted

__all__: list[str] = []  # a part of the command line: nothing here is promised to users


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Score images, and write a table."""
    output = arguments.output
    check_file("--output", output, *TABLES)
    if output is not None:
        check_table(output)
    detector, reading, found, _ = open_model_and_sources(arguments, console, {"--output": output})
    totals = Totals()
    scorer = Scorer(detector, average_frames=arguments.average_frames)
    with CtrlC() as stop:
        with ExitStack() as exits:
            write = None
            for batch, maps, _ in score_sources(
                found, scorer, reading, console, stop, display=False
            ):
                if write is None:  # the first images could be read: now the table may begin
                    write = exits.enter_context(table(output, COLUMNS, as_json=console.as_json))
                write(table_rows(batch, maps))
                totals.add(batch, maps)
        summary = irregular(totals.n_irregular, totals.n, reading.unit, totals.reasons)
        where = "" if output is None else f"; the scores are in {output}"
        text = "\n".join([f"{summary}{where}.", *totals.lines()])
        if output is None:  # the table is on the standard output
            console.log(text)
        elif console.as_json or not stop.stopped:
            console.print_result(totals.facts() | {"output": str(output)}, text)
        where = "were written" if output is None else f"are in {output}"
        done = counted(totals.n, reading.unit)
        return exit_code(stop, console, done, f"the scores so far {where}")
