"""Wheels of other versions than that of these sources, and their installation over an older one.

A version of the past is built from its commit. One that is newer is built from a copy of these sources with other numbers:
nothing else of it is new. Must not change the sources.
"""

import os
import re
import shutil
import subprocess
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from testkit.machines.commands import MachinesFailed, check
from testkit.machines.installation import SOURCES, build, copy_sources, interpreter
from testkit.machines.spec import ROOT

_PROJECT = ("pyproject.toml", r'^version = ".*"$', 'version = "{}"')
_PROGRAM = ("src/shardwright/__init__.py", r'^__version__ = ".*"$', '__version__ = "{}"')
_RECORDS = ("src/shardwright/model/version.py", r"^CLUSTER_VERSION = .*$", "CLUSTER_VERSION = {}")


@dataclass(frozen=True, slots=True)
class Release:
    """A version of the product."""

    version: str
    cluster_version: int | None = None
    """The version of its records; None: as in its sources."""
    commit: str | None = None
    """Its sources; None: these, as they are now."""


def has_commit(commit: str) -> bool:
    """Whether this repository has it: a shallow copy does not."""
    words = ["git", "-C", str(ROOT), "cat-file", "-e", f"{commit}^{{commit}}"]
    return shutil.which("git") is not None and subprocess.run(words, capture_output=True, check=False).returncode == 0


def build_release(release: Release, directory: Path) -> Path:
    """Its wheel, built in the directory, which is made. Raises MachinesFailed."""
    source = directory / "source"
    if release.commit is None:
        copy_sources(source)
    else:
        source.mkdir(parents=True)
        packed = directory / "source.tar"
        check(["git", "-C", str(ROOT), "archive", f"--output={packed}", release.commit, *SOURCES])
        check(["tar", "--extract", f"--file={packed}", f"--directory={source}"])
        packed.unlink()
    for place in (_PROJECT, _PROGRAM):
        _number(source, place, release.version)
    if release.cluster_version is not None:
        _number(source, _RECORDS, release.cluster_version)
    return build(source, directory)


def _number(source: Path, place: tuple[str, str, str], number: object) -> None:
    name, line, new = place
    text, count = re.subn(line, new.format(number), (source / name).read_text(), flags=re.MULTILINE)
    if count != 1:
        raise MachinesFailed(f"{name} has {count} lines like {line}")
    (source / name).write_text(text)


def install_over(venv: Path, wheel: Path) -> None:
    """Replace the product in an environment that is in use, as dpkg does: file by file, each at once; then what the new
    version does not have goes, and the rest is compiled. Running processes keep the modules that they have. Raises
    MachinesFailed."""
    packages = _packages(venv)
    old = {path for top in packages.glob("shardwright*") for path in top.rglob("*") if path.is_file()}
    with tempfile.TemporaryDirectory(dir=packages.parent) as unpacked, zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
        found = sorted(Path(unpacked).rglob("*"))
        new = {packages / path.relative_to(unpacked) for path in found}
        for path in found:
            target = packages / path.relative_to(unpacked)
            if path.is_dir():
                target.mkdir(exist_ok=True)
            else:
                os.replace(path, target)
    for path in old - new:
        path.unlink()
    for directory in packages.glob("shardwright-*.dist-info"):
        if not any(directory.iterdir()):
            directory.rmdir()
    check([interpreter(), "-m", "compileall", "-q", str(packages / "shardwright")])


def _packages(venv: Path) -> Path:
    (found,) = (venv / "lib").glob("python3*/site-packages")
    return found
