"""Benchmarks and the scripts of the docs import names that the package still has."""

import ast
import json
import subprocess
import sys
from importlib.util import find_spec
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
LOOK = """
import importlib, json, sys
for script, module, name in json.load(sys.stdin):
    if not hasattr(importlib.import_module(module), name):
        try:
            importlib.import_module(f'{module}.{name}')
        except ModuleNotFoundError:
            print(f'{script}: {module}.{name}')
"""


def test_scripts_import_what_there_is() -> None:
    for package in ('torch', 'tensorflow', 'ptychodus'):
        if find_spec(package) is None:
            pytest.skip(f'{package} is not installed')
    # In a process of its own: both frameworks and Qt would stay in this one.
    found = subprocess.run(
        [sys.executable, '-c', LOOK], input=json.dumps(IMPORTS), capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    assert not found.stdout
    assert len(IMPORTS) > 100
