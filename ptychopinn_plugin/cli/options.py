"""Command-line options made from settings, whose help, limits and defaults are written once."""

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ptychopinn_plugin.config import Validated, photons_setting, setting
from ptychopinn_plugin.orientation import OPTIONS, Orientation

Given = dict[str, dict[str, Any]]
"""It holds the settings that the user gave, and no others, by the name of their section."""

Output = Annotated[
    Path,
    typer.Option(
        '--output', '-o', metavar='DIR', help='Folder for the results; created where missing.'
    ),
]
BackendName = Annotated[
    str | None,
    typer.Option(
        '--backend',
        metavar='NAME',
        help='Framework that computes (default: PTYCHOPINN_BACKEND, else what is installed).',
    ),
]
AsJson = Annotated[bool, typer.Option('--json', help='Print JSON and nothing else, for scripts.')]


@dataclass(frozen=True)
class ScanReading(Orientation):
    """How scan files are read, and turned."""

    domain: Literal['counts', 'amplitudes'] | None = setting(
        None,
        'what the patterns hold; where not given, as the file states, or inferred and reported',
    )
    reader: str | None = setting(
        None, 'file reader of an installed Ptychodus, for formats that are not our own'
    )
    product: Path | None = setting(
        None, 'a product.h5 with positions and probe, where it is not beside the patterns'
    )
    positions: Path | None = setting(None, 'a file of positions, for --reader')
    positions_reader: str | None = setting(
        None, 'reader of that file, where its name and that of --reader leave it open'
    )
    probe_from: Path | None = setting(
        None, 'take the probe from this scan, product, reconstruction (also .ptyr) or NPY file'
    )
    probe_from_patterns: bool = setting(
        False, 'leave out the probe of the file, a wrong guess, and make one of the patterns'
    )
    probe_modes: int | None = setting(
        None,
        'the probe gets this number of modes; the iterations correct those that are added',
        minimum=1,
        maximum=16,
    )
    scan_step_m: float | None = setting(
        None,
        'step of the raster of an electron microscope, where the file lacks it or in place of it',
        minimum=1e-12,
        unit='m',
    )
    scan_shape: str | None = setting(
        None, 'ROWS,COLUMNS of the raster in a file of an electron camera, likewise'
    )
    photon_energy_eV: float | None = setting(
        None, 'photon energy, in place of what the file holds', minimum=0.1, unit='eV'
    )
    electron_energy_eV: float | None = setting(
        None,
        'energy of electrons, in place of that of photons; the wavelength follows relativistically',
        minimum=100.0,
        maximum=1e7,
        unit='eV',
    )
    detector_distance_m: float | None = setting(
        None, 'distance from sample to detector, likewise', minimum=1e-6, unit='m'
    )
    detector_pixel_m: float | None = setting(
        None, "size of the detector's pixels, likewise", minimum=1e-9, maximum=1.0, unit='m'
    )
    near_field: bool | None = setting(
        None, 'patterns are images in the near field of the sample; where not given, as in the file'
    )
    focus_distance_m: float | None = setting(
        None,
        'in the near field: where the focus of the beam lies behind the sample, likewise; negative '
        'for one before it',
        unit='m',
    )
    frame_margin_px: int | None = setting(
        None,
        'in the near field: pad frames on each side, for light that comes in from outside of them',
        minimum=1,
        maximum=4096,
        unit='px',
    )
    beam_center: str | None = setting(
        None, 'ROW,COLUMN of the frames where the beam meets the detector, if not in their middle'
    )
    mask: Path | None = setting(
        None,
        'NPY, TIFF, HDF5 or MATLAB file of the bad pixels, not 0 in it; FILE:DATASET names one',
    )
    mask_hot: bool = setting(False, 'find hot pixels and leave them out')
    single_shot: bool = setting(
        False, 'patterns share nothing: reconstruct each alone, and put the patches side by side'
    )
    photons: float | None = photons_setting('; else what the file holds are counts')
    allow_links: bool = setting(
        False, 'follow links of HDF5 to files outside the folder of the scan; trust the file first'
    )
    max_gib: float | None = setting(
        None,
        'how large an array of the file may be; where not given, 500 times its file',
        minimum=0.001,
        maximum=1e6,
        unit='GiB',
    )
    max_memory_gib: float | None = setting(
        None,
        'what patterns and their roots may take in memory, half of what is free where not given; '
        'larger ones lie in a temporary file (TMPDIR chooses its folder)',
        minimum=0.0,
        maximum=1e6,
        unit='GiB',
    )

    def orientation(self) -> Orientation:
        """Return how patterns and positions are turned."""
        return Orientation(**{name: getattr(self, name) for name in ORIENTING})


ORIENTING = tuple(item.name for item in dataclasses.fields(Orientation))
"""These settings of reading turn patterns and positions."""


@dataclass(frozen=True)
class Section:
    """Some settings that a command takes.

    Attributes
    ----------
    name : str
        Key in `Given`; for a part of `Config`, its section in `config.toml`.
    settings : type
        A dataclass whose fields are declared with `config.setting`.
    panel : str
        Heading in the help.
    options : mapping of str to str
        Name of the option for a field, where it is not the field's own.
    panels : mapping of str to tuple of str
        More headings, with the fields below them.
    """

    name: str
    settings: type[Validated]
    panel: str
    options: Mapping[str, str] = field(default_factory=dict)
    panels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def panel_of(self, name: str) -> str:
        """Return the heading under which a field is shown."""
        return next((panel for panel, names in self.panels.items() if name in names), self.panel)


READING = Section(
    'reading',
    ScanReading,
    'Reading scans',
    {
        'scan_step_m': 'scan-step',
        'max_memory_gib': 'max-memory',
        'photon_energy_eV': 'photon-energy',
        'electron_energy_eV': 'electron-energy',
        'detector_distance_m': 'detector-distance',
        'detector_pixel_m': 'detector-pixel',
        'focus_distance_m': 'focus-distance',
        'frame_margin_px': 'frame-margin',
        **OPTIONS,
    },
    panels={'Orientation (ptychopinn check finds it)': ORIENTING},
)


def takes_settings(
    *sections: Section,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each setting; it receives as `given` what the user set.

    Parameters
    ----------
    *sections : Section

    Returns
    -------
    callable
        A decorator for a function with a keyword-only parameter `given`.
    """
    options = {
        f'{section.name}_{item.name}': (section, item)
        for section in sections
        for item in dataclasses.fields(section.settings)  # type: ignore[arg-type]
    }

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def command(**values: Any) -> None:
            given: Given = {section.name: {} for section in sections}
            for key, (section, item) in options.items():
                value = values.pop(key)
                if value is not None:
                    given[section.name][item.name] = value
            function(**values, given=given)

        own = inspect.signature(function, eval_str=True).parameters.values()
        parameters = [parameter for parameter in own if parameter.name != 'given']
        parameters += [_parameter(key, *option) for key, option in options.items()]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        # typer reads these; functools.wraps alone would show the function's own.
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return command

    return decorate


def joined_lines(text: str) -> str:
    """Return a docstring as help: a line for each paragraph, examples (after a \\b) as they are."""
    paragraphs = inspect.cleandoc(text).split('\n\n')
    return '\n\n'.join(
        part if part.startswith('\b') else ' '.join(part.split()) for part in paragraphs
    )


def _parameter(key: str, section: Section, item: dataclasses.Field[Any]) -> inspect.Parameter:
    kind, choices = _kind(typing.get_type_hints(section.settings)[item.name])
    name = section.options.get(item.name, item.name.replace('_', '-'))
    option = typer.Option(
        f'--{name}/--no-{name}' if kind is bool else f'--{name}',
        help=_help(item, kind, choices),
        metavar=None if kind is bool else _metavar(kind, choices),
        rich_help_panel=section.panel_of(item.name),
        show_default=False,
    )
    # An option that is not given is None, so that a file's or a model's value can stand.
    annotation = Annotated[kind | None, option]  # type: ignore[valid-type]
    return inspect.Parameter(
        key, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


def _kind(hint: Any) -> tuple[type, tuple[str, ...]]:
    """Return the plain type of a setting, and its choices where it has some."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is Literal:
        # It is no choice of typer's own: `Validated` refuses a wrong one, in one line.
        return str, typing.get_args(hint)
    return hint, ()


def _metavar(kind: type, choices: tuple[str, ...]) -> str:
    if choices:
        return 'CHOICE'
    return {int: 'INTEGER', float: 'NUMBER', Path: 'FILE'}.get(kind, 'TEXT')


def _help(item: dataclasses.Field[Any], kind: type, choices: tuple[str, ...]) -> str:
    text, unit = item.metadata['help'], item.metadata.get('unit') or ''
    notes = []
    if choices and not all(choice in text for choice in choices):
        notes.append('one of ' + ', '.join(choices))
    if kind is bool:
        notes.append(f'default {"on" if item.default else "off"}')
    elif item.default is not None:
        notes.append(f'default {_plain(item.default)} {unit}'.rstrip())
    notes += _limits(item, '' if item.default is not None else unit)
    first = text.split()[0]
    # A word that is typed as it stands keeps its small letter.
    if not first.endswith(':') and first.rstrip(',') not in (*choices, item.default):
        text = text[0].upper() + text[1:]
    return f'{text} ({"; ".join(notes)}).' if notes else f'{text}.'


def _limits(item: dataclasses.Field[Any], unit: str) -> list[str]:
    low, high = item.metadata.get('minimum'), item.metadata.get('maximum')
    if low is not None and high is not None:
        return [f'{_plain(low)} to {_plain(high)} {unit}'.rstrip()]
    if low is not None:
        return [f'at least {_plain(low)} {unit}'.rstrip()]
    return [] if high is None else [f'at most {_plain(high)} {unit}'.rstrip()]


def _plain(value: Any) -> str:
    return f'{value:g}' if isinstance(value, float) else str(value)
