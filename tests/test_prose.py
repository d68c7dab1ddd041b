"""The language of the whole repository, as far as `prose` can tell, and `prose` itself."""

from pathlib import Path

import pytest

from tests import prose

ROOT = Path(__file__).parents[1]
READ = ("README.md", "CHANGELOG.md", "docs", "configs", "femur_jax", "benchmarks", "tools", "tests")


@pytest.mark.parametrize("name", READ)
def test_descriptions_stand_alone_and_phrases_are_plain(name):
    assert prose.complaints([ROOT / name]) == []


def test_fragments_are_found(tmp_path):
    module = tmp_path / "module.py"
    module.write_text(
        '"""A module."""\n\nA = 1\n"""Of the run."""\n'
        'B = 2\n"""The second of two constants."""\n\n\n'
        'def f(a, b, *c):\n    """Adds.\n\n    Args:\n        a: Of the run.\n'
        "        b: The number of\n            radiographs.\n        c: Words.\n\n"
        '    Returns:\n        sum: of all\n    """\n'
    )
    assert sorted(text for _, text in prose.fragments(module)) == [
        "Of the run.",
        "a: Of the run.",
        "c: Words.",
    ]


@pytest.mark.parametrize(
    ("text", "is_avoided"),
    [
        ("# This is no option.", True),
        ("# There is no option.", False),
        ("# The run goes on.", True),
        ("# The run resumes.", False),
        ('x = "It lies beside the folder."', True),
        ("beside = 1", False),
    ],
)
def test_phrases_are_found(tmp_path, text, is_avoided):
    module = tmp_path / "module.py"
    module.write_text(text + "\n")
    assert bool(prose.complaints([module])) == is_avoided
