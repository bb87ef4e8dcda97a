"""The unit tests of the pure core and of the API cover every module of the core: a ratchet. ``make check`` runs it.

The other unit tests do not count, because measuring them would double their time. Neither do the property tests, whose
coverage differs from run to run.
"""

import sys
from pathlib import Path

from coverage import Coverage

ROOT = Path(__file__).parents[1]
PURE = ("model", "plan", "actions", "reconcile")
PERCENT_MIN = 95


def main() -> int:
    measured = Coverage(config_file=str(ROOT / "pyproject.toml"), messages=False)
    measured.combine()
    low = []
    for path in sorted(path for package in PURE for path in (ROOT / "src" / "shardwright" / package).rglob("*.py")):
        _, lines, _, missing, which = measured.analysis2(str(path))
        if len(missing) * 100 > len(lines) * (100 - PERCENT_MIN):
            percent = 100 - len(missing) * 100 / len(lines)
            low.append(f"{path.relative_to(ROOT)}: {percent:.1f} %, no unit test runs the lines {which}")
    if low:
        print(f"the unit tests must cover {PERCENT_MIN} % of each of these:", *low, sep="\n  ", file=sys.stderr)
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main())
