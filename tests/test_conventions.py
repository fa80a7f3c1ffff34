"""Conventions that are tests: layers, the README's tree, small files, docstrings, a light import, the public names."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import monosemy

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "monosemy"
MODULES = sorted(PACKAGE.rglob("*.py"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").rglob("*.md")])

# Lower layers first. A module imports from lower layers, or from its own folder.
LAYERS = [
    {"runtime"},
    {"files", "figure"},
    {"draft"},
    {"artifact"},
    {"data", "kernels"},
    {"models", "dictionaries"},
    {"metrics"},
    {"training", "analysis", "explain"},
    {"report"},
    {"app"},
    {"studies"},
    {"terminal", "commands", "world_commands", "lab_commands", "across_commands", "index_commands", "cli"},
]
FORBIDDEN = {"training": {"models"}}  # it sees an iterator of rows and cannot tell where they come from
HEAVY = {"transformers", "sklearn", "scipy", "matplotlib", "plotly", "starlette", "datasets", "rich"}


def layer_of(name: str) -> int:
    return next(rank for rank, names in enumerate(LAYERS) if name in names)


def imports(path: Path) -> list[str]:
    """Every module imported anywhere in the file, by its dotted name; relative imports are not used here."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            home = node.module or ""
            found += [f"monosemy.{alias.name}" for alias in node.names] if home == "monosemy" else [home]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_import_only_from_lower_layers_or_their_own_folder(path: Path) -> None:
    home = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if home == "__init__":
        return  # the public names, from every layer
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "monosemy" or len(parts) == 1:
            continue
        target = parts[1]
        own_kind = target in LAYERS[-1] and home in LAYERS[-1]  # the command line, in several files
        assert target == home or own_kind or layer_of(target) < layer_of(home), f"{path} imports {name}"
        assert target not in FORBIDDEN.get(home, set()), f"{path} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_are_small_and_say_what_they_are(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 250
    assert ast.get_docstring(ast.parse(text)), f"{path} has no header docstring"


def test_public_functions_and_classes_have_docstrings() -> None:
    bare = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in MODULES
        for node in _definitions(ast.parse(path.read_text()))
        if not node.name.startswith("_") and ast.get_docstring(node) is None
    ]
    assert not bare


def _definitions(scope: ast.Module | ast.ClassDef) -> list[ast.FunctionDef | ast.ClassDef]:
    """Functions and classes of a module, and of its public classes; what is inside a function is private to it."""
    own = [node for node in scope.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    classes = [node for node in own if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    return own + [inner for node in classes for inner in _definitions(node)]


def test_the_readmes_tree_is_the_folder() -> None:
    """Each line of the tree names a file or folder that is there, and none is missing."""
    block = re.search(r"```tree\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    told, folder = set(), ""
    for line in block[1].splitlines()[1:]:
        indent, name = len(line) - len(line.lstrip()), line.split()[0]
        folder = folder if indent == 4 else ""
        told.add(folder + name)
        if name.endswith("/"):
            folder = name
    real = {str(path.relative_to(PACKAGE)) for path in MODULES if path.name != "__init__.py"}
    real |= {f"{path.parent.name}/" for path in MODULES if path.parent != PACKAGE} | {"__init__.py"}
    assert real == told


def test_importing_is_light() -> None:
    """No heavy package is imported by `import monosemy` and its public training and metric names."""
    program = (
        "import sys; import monosemy as ms; [getattr(ms, name) for name in ms.__all__];"
        f"print(sorted({HEAVY!r} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_exist() -> None:
    for name in monosemy.__all__:
        assert getattr(monosemy, name).__doc__
    assert sorted(monosemy.__all__) == sorted(monosemy._HOME)
    with pytest.raises(AttributeError, match="nothing"):
        _ = monosemy.nothing


def test_no_pickle() -> None:
    for path in MODULES:
        text = path.read_text()
        assert "pickle" not in {name.split(".")[0] for name in imports(path)}
        assert "torch.save(" not in text
        assert "torch.load(" not in text


LINK = re.compile(r"\]\(([^()\s]+)\)")  # of Markdown, pictures too


def text_of(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)


def links(page: Path) -> list[str]:
    """The relative links of a Markdown file."""
    return [link for link in LINK.findall(text_of(page)) if not re.match(r"[a-z]+:", link)]


def places(page: Path) -> set[str]:
    """What comes after # in a link to one of its headings."""
    headings = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_nothing_is_left_to_fill_in() -> None:
    assert not [f"{page.name}: {mark}" for page in PAGES for mark in ("@@", "TODO") if mark in page.read_text()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        path, _, place = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not place or place in places(target), link


def test_there_are_links_to_be_looked_at() -> None:
    assert "docs/lab.md" in links(ROOT / "README.md")
    assert "figures/lab-runs.png" in links(ROOT / "docs" / "lab.md")
    assert "#every-question-as-a-command" in links(ROOT / "docs" / "lab.md")
