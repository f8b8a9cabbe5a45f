"""Benchmarks and the scripts of the docs import names that the package still has."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted([*ROOT.glob('benchmarks/*.py'), *ROOT.glob('docs/*.py')])
IMPORTS = sorted(
    {
        (script.relative_to(ROOT).as_posix(), node.module, name.name)
        for script in SCRIPTS
        for node in ast.walk(ast.parse(script.read_text(encoding='utf-8')))
        if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('ptychopinn_plugin')
        for name in node.names
    }
)


def test_scripts_import_what_there_is() -> None:
    pytest.importorskip('torch')
    pytest.importorskip('tensorflow')
    missing = []
    for script, module, name in IMPORTS:
        found = importlib.import_module(module)
        if not hasattr(found, name):
            try:
                importlib.import_module(f'{module}.{name}')
            except ModuleNotFoundError:
                missing.append(f'{script}: {module}.{name}')
    assert not missing
    assert len(IMPORTS) > 100
