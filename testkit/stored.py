"""Everything in the store of a local cluster, read from its file.

Read-only and without the product's store, so that neither a frozen daemon's lock nor a defect of the store matters.
"""

import sqlite3
from pathlib import Path

from shardwright.local.access import sealing_of
from shardwright.local.layout import layout_of


def stored(directory: Path, prefixes: str | tuple[str, ...] = "") -> dict[str, bytes]:
    """The values in clear of all keys with these prefixes, in the order of the keys. Raises sqlite3.Error if the file cannot
    be read now, Permanent if a value cannot be opened."""
    layout = layout_of(directory)
    connection = sqlite3.connect(f"file:{layout.store}?mode=ro", uri=True, timeout=5)
    try:
        rows = connection.execute("SELECT key, value FROM items ORDER BY key").fetchall()
    finally:
        connection.close()
    sealing = sealing_of(layout)
    return {key: sealing.open(key, value) for key, value in rows if key.startswith(prefixes)}
