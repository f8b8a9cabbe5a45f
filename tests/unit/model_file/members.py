"""What is inside a model file, read and changed."""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py

Members = dict[str, bytes]


def members_of(path: Path) -> Members:
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def write_members(path: Path, members: Members) -> None:
    with zipfile.ZipFile(path, 'w') as file:
        for name, data in members.items():
            file.writestr(name, data)


def change_manifest(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    members = members_of(path)
    manifest = json.loads(members['manifest.json'])
    change(manifest)
    write_members(path, {**members, 'manifest.json': json.dumps(manifest).encode()})


def change_weights(path: Path, change: Callable[[h5py.File], object]) -> None:
    """Change weights.h5, and its SHA-256 with it."""
    members = members_of(path)
    buffer = io.BytesIO(members['weights.h5'])
    with h5py.File(buffer, 'r+') as file:
        change(file)
    manifest = json.loads(members['manifest.json'])
    manifest['sha256']['weights.h5'] = hashlib.sha256(buffer.getvalue()).hexdigest()
    members |= {'weights.h5': buffer.getvalue(), 'manifest.json': json.dumps(manifest).encode()}
    write_members(path, members)
