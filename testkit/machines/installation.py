"""The environment that machines have at the package's place: the locked requirements, and a wheel of the product.

The requirements are installed once into ``build/machines``, and again when the lock file or the interpreter is another one.
Needs the network, or pip's cache, for that first time only. Must not change the sources: a build happens in a copy.
``releases.py`` has wheels of other versions.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from testkit.machines.commands import MachinesFailed, check
from testkit.machines.spec import ROOT, VENV

PYTHON = "MACHINES_PYTHON"
"""Environment variable: the interpreter of the machines' environment."""
_USUAL_PYTHON = "/usr/bin/python3"
SOURCES = ("src", "pyproject.toml", "README.md", "LICENSE")
_INSTALL_S = 1800.0


def interpreter() -> str:
    """The system's own interpreter, which every user may run; otherwise the one that runs this."""
    if (named := os.environ.get(PYTHON)) is not None:
        return named
    usual = Path(_USUAL_PYTHON)
    is_new_enough = "import sys; sys.exit(sys.version_info < (3, 11))"
    if usual.exists() and subprocess.run([usual, "-c", is_new_enough], check=False).returncode == 0:
        return str(usual)
    return sys.executable


@contextlib.contextmanager
def installed() -> Iterator[Path]:
    """An environment with the product as it is now, for as long as the context lasts. Its programs name ``VENV``. Raises
    MachinesFailed."""
    with workshop() as directory:
        yield install(directory / "venv", build_wheel(directory))


@contextlib.contextmanager
def workshop() -> Iterator[Path]:
    """A directory for environments, for as long as the context lasts."""
    # Beside the requirements, because files are linked; a run that was killed leaves it, and ``make clean`` removes it.
    parent = ROOT / "build"
    parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="machines-", dir=parent) as directory:
        yield Path(directory)


def install(venv: Path, wheel: Path) -> Path:
    """Make an environment with the requirements and this wheel; returns it. Raises MachinesFailed."""
    # Links take no time and no space; pip replaces files, and does not change them.
    shutil.copytree(_requirements(interpreter()), venv, symlinks=True, copy_function=os.link)
    _pip(venv, "--no-index", "--no-deps", str(wheel))
    for program in (venv / "bin").glob("shardwright*"):
        lines = program.read_bytes().split(b"\n", 1)
        program.write_bytes(b"\n".join([f"#!{VENV}/bin/python3".encode(), lines[1]]))
    return venv


def build_wheel(directory: Path) -> Path:
    """The wheel of these sources, built in the directory. Raises MachinesFailed."""
    source = copy_sources(directory / "source")
    return build(source, directory)


def copy_sources(target: Path) -> Path:
    """A copy of what the wheel is built from; returns it."""
    target.mkdir(parents=True)
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, target / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(path, target / name)
    return target


def build(source: Path, directory: Path) -> Path:
    """The wheel of a copy of sources, which is deleted. Raises MachinesFailed."""
    options = ["-q", "--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    check([sys.executable, "-m", "pip", "wheel", *options, "-w", str(directory), str(source)])
    shutil.rmtree(source)
    return next(directory.glob("shardwright-*.whl"))


def _requirements(python: str) -> Path:
    """The environment with the requirements alone; made if there is none for this lock file and interpreter."""
    locked = ROOT / "requirements.txt"
    version = check([python, "-c", "import sys; print(sys.version, sys.executable)"])
    key = hashlib.sha256(locked.read_bytes() + version.encode()).hexdigest()[:16]
    parent = ROOT / "build" / "machines"
    made = parent / key
    with _alone(ROOT / "build" / "machines.lock"):
        if made.exists():
            return made
        shutil.rmtree(parent, ignore_errors=True)
        parent.mkdir(parents=True)
        unfinished = parent / f"{key}.unfinished"
        check([python, "-m", "venv", "--without-pip", "--symlinks", str(unfinished)])
        _pip(unfinished, "--require-hashes", "--only-binary", ":all:", "-r", str(locked))
        unfinished.rename(made)
    return made


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Keep other processes of the same tests out; wait for the one that is inside. A process that ends lets go."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _pip(venv: Path, *arguments: str) -> None:
    options = ["-q", "--no-input", "--disable-pip-version-check"]
    python = ["--python", str(venv / "bin" / "python3")]
    words = [sys.executable, "-m", "pip", *options, *python, "install", "--no-warn-script-location", *arguments]
    done = subprocess.run(words, capture_output=True, text=True, timeout=_INSTALL_S, check=False)
    if done.returncode != 0:
        raise MachinesFailed(f"the environment of the machines could not be installed: {done.stderr.strip()[-2000:]}")
