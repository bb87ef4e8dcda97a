"""What the environment of the package needs and holds, for its control file. Called by build-deb only.

inventory.py python        the dependency on the Python that the environment is bound to
inventory.py libc VENV     the dependency on the C library, from the symbols that its binaries use
inventory.py bundled VENV  the Python packages inside, with their licenses
"""

import re
import sys
from importlib import metadata
from pathlib import Path

SYMBOL = re.compile(rb"GLIBC_(\d+)\.(\d+)")


def python() -> str:
    """The environment's packages lie in a directory named after this minor version."""
    major, minor = sys.version_info[:2]
    return f"python3 (>= {major}.{minor}~), python3 (<< {major}.{minor + 1}~)"


def libc(venv: Path) -> str:
    """The newest version of the C library that a binary asks for."""
    found = {(2, 17)}
    for path in venv.rglob("*"):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            if content[:4] == b"\x7fELF":
                found |= {(int(a), int(b)) for a, b in SYMBOL.findall(content)}
    major, minor = max(found)
    return f"libc6 (>= {major}.{minor})"


def bundled(venv: Path) -> str:
    """A line for each package, in alphabetical order."""
    (packages,) = venv.glob("lib/python3*/site-packages")
    lines = []
    for distribution in metadata.distributions(path=[str(packages)]):
        said = distribution.metadata
        license_ = said["License-Expression"] or (said["License"] or "").split("\n")[0]
        classifiers = [c.rpartition(" :: ")[2] for c in said.get_all("Classifier", []) if c.startswith("License ::")]
        lines.append(f"{said['Name']} {distribution.version}: {license_ or ', '.join(classifiers) or 'see its files'}")
    return "\n".join(sorted(lines, key=str.lower))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["python"]:
            print(python())
        case ["libc", directory]:
            print(libc(Path(directory)))
        case ["bundled", directory]:
            print(bundled(Path(directory)))
        case _:
            sys.exit(__doc__)
