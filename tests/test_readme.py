"""README's promises that a machine can check."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_space_runs_the_required_gradio() -> None:
    version = re.search(r"^sdk_version: (\S+)$", README, re.MULTILINE)[1]
    assert f"gradio=={version}" in (ROOT / "requirements.txt").read_text()


def test_files_that_readme_names_exist() -> None:
    named = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    named += re.findall(r"`((?:fracture|models|docs|examples)/[\w./-]+)`", README)
    named += [re.search(r"^app_file: (\S+)$", README, re.MULTILINE)[1]]
    missing = [name for name in named if not (ROOT / name).exists()]
    assert named and not missing


def test_python_in_readme_parses() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        ast.parse(block)


def test_ci_runs_the_readme_command() -> None:
    commands = re.findall(r"^python3 .*$", README, re.MULTILINE)
    assert len([c for c in commands if c.endswith("-m pytest")]) == 1
    assert len([c for c in commands if c.endswith("app.py")]) == 1
    assert "grep -m1 -E '^python3 .* -m pytest' README.md" in (ROOT / ".ci" / "run").read_text()


def test_package_layers() -> None:
    """The package knows nothing of Gradio, the app nothing of torch."""
    for path in (ROOT / "fracture").rglob("*.py"):
        assert not re.search(r"^\s*(import|from) gradio[ .]", path.read_text(), re.MULTILINE), path
    assert not re.search(r"^\s*(import|from) torch", (ROOT / "app.py").read_text(), re.MULTILINE)
