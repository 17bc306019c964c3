"""The documents are true: their Python blocks run and print what they say, and their links lead somewhere."""

import doctest
import importlib
import operator
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def run_blocks(text, name):
    """Run all ```python blocks of a document in one session; return the number of failures and of examples."""
    blocks = re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, name, name, 0)
    report = []
    result = doctest.DocTestRunner().run(test, out=report.append)
    return result, "".join(report)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_examples_run(path):
    result, report = run_blocks(path.read_text(encoding="utf-8"), path.name)
    assert result.failed == 0, report


def test_a_wrong_example_is_seen():
    result, report = run_blocks("```python\n>>> 1 + 1\n3\n```\n", "wrong")
    assert result.failed == 1
    assert "Got:\n    2" in report


def test_the_examples_are_found():
    assert run_blocks((ROOT / "README.md").read_text(), "README")[0].attempted >= 8


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_links_lead_somewhere(path):
    links = re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8"))
    assert not [link for link in links if not (path.parent / link).exists()]


def test_the_map_names_every_module():
    described = (ROOT / "docs" / "architecture.md").read_text()
    package = ROOT / "nplstm"
    top = [path for path in package.iterdir() if path.suffix == ".py" or path.is_dir()]
    modules = [
        *top,
        *(path for name in ("core", "batch", "layers", "engines") for path in (package / name).iterdir()),
    ]
    missing = [path.name for path in modules if path.name not in described]
    assert set(missing) <= {"__init__.py", "__pycache__", "py.typed"}


def names_in_the_ways(text):
    """Each line of the two ways that names a file, and what it has: (file, name)."""
    return re.findall(r"^.* (\S+/\S+\.py) +([\w.]+)$", text, flags=re.MULTILINE)


def test_the_map_names_what_there_is():
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = text[text.index("## The map") : text.index("Outside the package")]
    for row in table.splitlines():
        cells = row.split("|")
        folders = re.findall(r"`([\w/]+)/`", cells[1]) if len(cells) > 2 else []
        for name in re.findall(r"`([\w/.]+)`", row):
            if name.endswith((".py", "/")):
                places = [ROOT / "nplstm" / name, *(ROOT / "nplstm" / folder / name for folder in folders)]
                assert any(place.exists() for place in places), name
    ways = names_in_the_ways(text)
    assert len(ways) > 15
    for file, name in ways:
        module = importlib.import_module(
            "nplstm." + file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        )
        assert operator.attrgetter(name)(module), name


def test_a_name_that_is_gone_is_seen():
    (found,) = names_in_the_ways("  one step      core/step.py            Step.turn\n")
    assert found == ("core/step.py", "Step.turn")
    with pytest.raises(AttributeError):
        operator.attrgetter(found[1])(importlib.import_module("nplstm.core.step"))
