"""`ptychopinn doctor`: what is here, what would run and why, what is missing and how to mend it."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ptychopinn_plugin._version import __version__
from ptychopinn_plugin.backends.selection import ENVIRONMENT_VARIABLE, choose, find_backends
from ptychopinn_plugin.backends.spec import BackendSpec
from ptychopinn_plugin.errors import BackendUnavailableError, UnknownBackendError
from ptychopinn_plugin.packages import is_importable
from ptychopinn_plugin.ptychodus_diagnosis import examine_host, host_rows
from ptychopinn_plugin.text import count

PROBE_TIMEOUT_S = 120.0
"""The first import of a framework from a cold disk can take a minute."""

NVIDIA_DRIVER = Path('/proc/driver/nvidia/version')

PTYCHODUS_WARNING = (
    'Ptychodus silently runs another algorithm where a settings file names one of ours and '
    'this plugin is missing: run `ptychopinn doctor` there before a batch.'
)

# A child imports the framework, so that doctor stays quick to start and survives a crash in it.
_PROBE = """
import importlib, json, sys
framework = importlib.import_module(sys.argv[1])
gpus = []
if sys.argv[1] == 'torch':
    for index in range(framework.cuda.device_count()):
        card = framework.cuda.get_device_properties(index)
        memory_gb = round(card.total_memory / 2**30, 1)
        gpus.append({'device': f'cuda:{index}', 'name': card.name, 'memory_gb': memory_gb})
    if framework.backends.mps.is_available():
        gpus.append({'device': 'mps', 'name': 'Apple GPU', 'memory_gb': None})
if sys.argv[1] == 'tensorflow':
    for index, gpu in enumerate(framework.config.list_physical_devices('GPU')):
        details = framework.config.experimental.get_device_details(gpu)
        name = details.get('device_name', gpu.name)
        gpus.append({'device': f'cuda:{index}', 'name': name, 'memory_gb': None})
sys.stdout.write('\\n' + json.dumps({'gpus': gpus}))
"""


def doctor_command(
    as_json: Annotated[bool, typer.Option('--json', help='Print JSON, for scripts.')] = False,
) -> None:
    """Show what is installed, which backend would run and why, and how to mend what is missing.

    The exit code is 0 if training and reconstruction can run here, else 1.
    """
    report = examine()
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    elif sys.stdout.isatty():
        _show_table(report)
    else:
        typer.echo('\n'.join(f'{name}: {value}' for name, value in _rows(report)))
    raise typer.Exit(0 if report['can_run_main_job'] else 1)


def examine() -> dict[str, Any]:
    """Collect what `doctor` reports, in plain values.

    Returns
    -------
    dict
        'version', 'python', 'platform', 'cpu', 'memory_gb', 'gpus', 'gpu_note', 'backends',
        'choice' (name, source, value), 'missing' (what, command), 'hdf5_filters' (whether
        hdf5plugin is there), 'ptychodus' (see `examine_host`), 'notes', 'can_run_main_job'.
    """
    report: dict[str, Any] = {
        'version': __version__,
        **describe_machine(),
        'backends': [_describe(spec) for spec in find_backends().values()],
    }
    report['gpus'], report['gpu_note'] = _gpus(report['backends'])
    report['choice'], error = _choice()
    broken = [item for item in report['backends'] if item['name'] == report['choice'].get('name')]
    error = error or next((item['problem'] for item in broken if item['problem']), None)
    report['missing'] = _missing(report['backends'], error)
    report['hdf5_filters'] = is_importable('hdf5plugin')
    report['ptychodus'] = examine_host()
    report['notes'] = _notes(report['ptychodus'])
    report['can_run_main_job'] = error is None
    return report


def describe_machine() -> dict[str, Any]:
    """Return what is known of this computer without a framework."""
    return {
        'python': {'version': platform.python_version(), 'executable': sys.executable},
        'platform': platform.platform(),
        'cpu': {'name': _cpu_name(), 'cores': _usable_cores()},
        'memory_gb': _memory_gb(),
    }


def _describe(spec: BackendSpec) -> dict[str, Any]:
    """Return the state of a backend; 'problem' is the reason why it cannot run."""
    problem = spec.problem()
    found: dict[str, Any] = {}
    if problem is None:
        found = _probe(spec.framework)
        problem = found.get('problem')
    return {
        'name': spec.name,
        'framework': spec.framework,
        'installed': spec.is_installed(),
        'version': spec.version() if spec.is_installed() else None,
        'minimum_version': spec.minimum_version,
        'problem': problem,
        'mend': None if problem is None else spec.install_command,
        'gpus': found.get('gpus', []),
        'gpu_note': found.get('note', ''),
    }


def _probe(framework: str) -> dict[str, Any]:
    """Import a framework in a child process and return the GPUs that it finds."""
    # -P: a folder named like the framework in the current directory is not the framework.
    command = [sys.executable, '-P', '-c', _PROBE, framework]
    try:
        child = subprocess.run(
            command, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return {'note': f'{framework} did not answer within {PROBE_TIMEOUT_S:.0f} s'}
    if child.returncode != 0:
        lines = child.stderr.strip().splitlines()
        reason = lines[-1] if lines else f'its process ended with {child.returncode}'
        return {'problem': f'does not import: {reason}'}
    try:
        # Frameworks may print lines of their own before the answer.
        answer = json.loads(child.stdout.splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        return {'note': f'{framework} gave no answer'}
    return dict(answer)


def _gpus(backends: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """Move what the probes found out of the backends' entries into one list and one note."""
    gpus: list[dict[str, Any]] = []
    notes = []
    for item in backends:
        gpus += [{**gpu, 'backend': item['name']} for gpu in item.pop('gpus')]
        note = item.pop('gpu_note')
        notes += [note] if note else []
    if not gpus and not notes:
        notes.append('no GPU that an installed backend can use; the CPU computes')
        if NVIDIA_DRIVER.exists():
            notes.append('an NVIDIA driver is here: is the framework a build for CPUs?')
    return gpus, '; '.join(notes)


def _choice() -> tuple[dict[str, Any], str | None]:
    variable = os.environ.get(ENVIRONMENT_VARIABLE) or None
    try:
        chosen = choose()
    except (UnknownBackendError, BackendUnavailableError) as error:
        source = 'environment' if variable else 'auto'
        return {'name': None, 'source': source, 'value': variable}, str(error)
    value = variable if chosen.source == 'environment' else None
    return {'name': chosen.name, 'source': chosen.source, 'value': value}, None


def _missing(backends: list[dict[str, Any]], error: str | None) -> list[dict[str, str]]:
    """Return what stands in the way, with commands; a backend more is worth nothing if one runs."""
    if error is None:
        return []
    if os.environ.get(ENVIRONMENT_VARIABLE) and any(item['problem'] is None for item in backends):
        return [{'what': error, 'command': f'unset {ENVIRONMENT_VARIABLE}'}]
    wanted = [item for item in backends if item['mend']][:1]
    command = wanted[0]['mend'] if wanted else "pip install 'ptychopinn-plugin[pytorch]'"
    return [{'what': error, 'command': command}]


def _notes(host: dict[str, Any]) -> list[str]:
    return [PTYCHODUS_WARNING] if host['installed'] else []


def _cpu_name() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    except OSError:
        lines = []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()


def _usable_cores() -> int:
    # A batch system may give a process fewer cores than the machine has.
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_gb() -> float | None:
    """Return the memory of the machine in GB, or None where the system has no such figure."""
    try:
        size = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    except (AttributeError, ValueError, OSError):
        return None
    return round(size / 2**30, 1)


def _rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    cpu, choice = report['cpu'], report['choice']
    memory = report['memory_gb']
    rows = [
        ('ptychopinn-plugin', report['version']),
        ('Python', f'{report["python"]["version"]} ({report["python"]["executable"]})'),
        ('platform', report['platform']),
        ('CPU', f'{cpu["name"]}, {count(cpu["cores"], "core")}'),
        ('memory', 'unknown' if memory is None else f'{memory} GB'),
    ]
    rows += [('GPU', _gpu_line(gpu)) for gpu in report['gpus']]
    if report['gpu_note']:
        rows.append(('GPU', report['gpu_note']))
    rows += [(f'backend {item["name"]}', _backend_line(item)) for item in report['backends']]
    rows.append(('would run', _choice_line(choice)))
    rows += [('missing', item['what']) for item in report['missing']]
    rows += [('mend it with', item['command']) for item in report['missing']]
    rows.append(('compressed HDF5', _filters_line(installed=report['hdf5_filters'])))
    rows += host_rows(report['ptychodus'])
    rows += [('note', note) for note in report['notes']]
    can = 'can run here' if report['can_run_main_job'] else 'cannot run here'
    return [*rows, ('verdict', f'training and reconstruction {can}')]


def _gpu_line(gpu: dict[str, Any]) -> str:
    memory = '' if gpu['memory_gb'] is None else f', {gpu["memory_gb"]} GB'
    return f'{gpu["name"]}{memory} ({gpu["device"]}, {gpu["backend"]})'


def _backend_line(item: dict[str, Any]) -> str:
    if item['problem'] is not None:
        return f'{item["problem"]}; {item["mend"]}'
    return f'{item["framework"]} {item["version"] or "of unknown version"}'


def _filters_line(*, installed: bool) -> str:
    if installed:
        return 'hdf5plugin is here: bitshuffle, LZ4, blosc, zstd and others are read'
    return 'gzip alone is read; for the files of Eiger detectors: pip install hdf5plugin'


def _choice_line(choice: dict[str, Any]) -> str:
    if choice['source'] == 'environment':
        why = f'{ENVIRONMENT_VARIABLE}={choice["value"]}'
    else:
        why = 'nothing names one, and it is the first installed'
    return f'{choice["name"]}: {why}' if choice['name'] else f'nothing ({choice["source"]})'


def _show_table(report: dict[str, Any]) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style='bold', no_wrap=True)
    table.add_column(overflow='fold')
    for name, value in _rows(report):
        table.add_row(name, value)
    # Commands hold [extra], which is not markup.
    Console(markup=False, highlight=False).print(table)
