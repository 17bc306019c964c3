"""``nplstm bench``: its table, its JSON, and engines that are missing."""

import json

import pytest

from nplstm.commands import bench
from nplstm.commands.cli import main
from nplstm.engines.compiled import CompiledEngine


@pytest.fixture
def command(monkeypatch, capsys):
    """Run the command as the command line does, at tiny sizes; return what it prints."""
    monkeypatch.setattr(bench, "_TURN", 1e-4)
    tiny = (("step", 1, 3, 1), ("inference", 2, 3, 5), ("training", 2, 3, 5))
    monkeypatch.setattr(bench.bench, "__defaults__", (tiny,))

    def run(*given):
        assert main(["bench", "--seconds", "0", *given]) == 0
        return capsys.readouterr().out

    return run


def test_bench_prints_a_row_for_each_case(command):
    head, *rows = command().splitlines()
    assert head.split()[:3] == ["B", "H", "T"]
    assert "plain" in head
    assert [row.split()[:4] for row in rows[:3]] == [
        ["step", "1", "3", "1"],
        ["inference", "2", "3", "5"],
        ["training", "2", "3", "5"],
    ]


def test_bench_prints_json(command):
    found = json.loads(command("--json"))
    assert [row["task"] for row in found["rows"]] == ["step", "inference", "training"]
    assert all(row["seconds"]["plain"] > 0 for row in found["rows"])


def test_bench_says_which_engine_is_missing(command, monkeypatch):
    monkeypatch.setattr(CompiledEngine, "unsupported_reason", lambda self, request: "there is no Numba")
    assert "not compiled: there is no Numba" in command()
    found = json.loads(command("--json"))
    assert list(found["missing"]) == ["compiled"]
    assert "compiled" not in found["rows"][0]["seconds"]
