"""The console of every command and run."""

import io

import pytest
from rich.table import Table

from gluonexp.base.text import plain_console


@pytest.mark.parametrize("width", [1, 5, 24, 40, 100])
def test_no_number_of_a_table_is_cut(width):
    table = Table(box=None, pad_edge=False)
    table.add_column("class", overflow="fold")
    table.add_column("precision", justify="right")
    table.add_column("images", justify="right")
    table.add_row("some name", "0.1234", "1,234")
    console = plain_console(file=io.StringIO(), width=width)
    console.print(table)
    assert console.file.getvalue().splitlines() == [
        "class      precision  images",
        "some name     0.1234   1,234",
    ]


def test_a_long_name_is_folded_where_there_is_room_for_a_table():
    table = Table(box=None, pad_edge=False)
    table.add_column("class", overflow="fold")
    table.add_column("precision", justify="right", no_wrap=True)
    table.add_row("n" * 100, "0.1234")
    console = plain_console(file=io.StringIO(), width=20)
    console.print(table)
    lines = console.file.getvalue().splitlines()
    assert {len(line) for line in lines} == {60}
    assert lines[1].endswith("  0.1234")


def test_what_a_notebook_starts_takes_no_file_for_a_terminal(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as kernels set it
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    assert not plain_console(file=io.StringIO()).is_terminal
