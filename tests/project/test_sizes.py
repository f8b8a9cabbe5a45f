"""Files and functions are of a size that is read in one go."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ('ptychopinn_plugin', 'tests', 'benchmarks', 'examples')

MAX_LINES = 500
MAX_FUNCTION_LINES = 60
"""A function of the package has at most this number of lines below its docstring."""


def test_no_file_is_long() -> None:
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob('*.py')]
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding='utf-8').splitlines())
        for path in paths
    }
    assert {path: length for path, length in lengths.items() if length > MAX_LINES} == {}
    assert len(lengths) > 500


def test_no_function_of_the_package_is_long() -> None:
    found, count = {}, 0
    for path in (ROOT / 'ptychopinn_plugin').rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.FunctionDef):
                has_text = ast.get_docstring(node) is not None and len(node.body) > 1
                first = node.body[1 if has_text else 0]
                assert node.end_lineno is not None
                lines = node.end_lineno - first.lineno + 1
                count += 1
                if lines > MAX_FUNCTION_LINES:
                    found[f'{path.relative_to(ROOT)}: {node.name}'] = lines
    assert found == {}
    assert count > 2000
