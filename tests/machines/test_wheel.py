"""The wheel alone, in an environment of its own, as pipx installs it: it holds every file, and its commands run."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from shardwright import __version__

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.proof


def run(*line: str | Path, cwd: Path) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    ran = subprocess.run(line, cwd=cwd, env=clean, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, f"{line}: {ran.stdout}{ran.stderr}"
    return ran.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources, because a build leaves files beside them."""
    source = tmp_path_factory.mktemp("source")
    for name in ("src", "pyproject.toml", "README.md", "LICENSE"):
        run("cp", "-r", ROOT / name, source, cwd=source)
    run("find", source, "-name", "*.egg-info", "-prune", "-exec", "rm", "-r", "{}", "+", cwd=source)
    build = ("-m", "pip", "-q", "wheel", "--no-index", "--no-deps", "--no-build-isolation", "-w", "dist", ".")
    run(sys.executable, *build, cwd=source)
    (found,) = (source / "dist").iterdir()
    return found


def test_the_wheel_holds_every_module_and_file(wheel: Path) -> None:
    package = ROOT / "src" / "shardwright"
    sources = {
        str(path.relative_to(ROOT / "src"))
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert archive.testzip() is None
    assert names == sources


def test_its_commands_run_in_a_new_environment(wheel: Path, tmp_path: Path) -> None:
    """What it depends on is taken from the running environment, so that the test needs no network; nothing else is."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "pip", "-q", "--python", python, "install", "--no-index", "--no-deps", wheel, cwd=tmp_path)
    (packages,) = (tmp_path / "venv" / "lib").glob("python3*/site-packages")
    # Not a .pth file: that would also bring the installed sources of this project.
    own = {path.name for path in packages.iterdir()}
    for place in (Path(p) for p in sys.path if p.endswith("site-packages")):
        for path in place.iterdir():
            if path.suffix != ".pth" and path.name not in own and "shardwright" not in path.name:
                (packages / path.name).symlink_to(path)
                own.add(path.name)
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert "shardwright" in scripts
    for name in scripts:
        assert "Usage" in run(tmp_path / "venv" / "bin" / name, "--help", cwd=tmp_path) or name != "shardwright"
    assert run(tmp_path / "venv" / "bin" / "shardwright", "--version", cwd=tmp_path).strip() == __version__
    where = run(python, "-c", "import shardwright.wiring as w; print(w.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(packages)
