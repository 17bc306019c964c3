"""The documents are true: their Python blocks run and print what they say, and their links lead somewhere."""

import doctest
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
    modules = [path.stem for path in (ROOT / "nplstm").iterdir() if path.suffix == ".py" or path.is_dir()]
    missing = [name for name in modules if name not in described and name not in {"__init__", "__pycache__"}]
    assert not missing
