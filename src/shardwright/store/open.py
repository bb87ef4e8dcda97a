"""Opens the store that the settings name: the one seam between the daemon and the kinds of store.

Called by ``wiring.py`` and ``local/``. Callers know the settings and ``protocol.Store``, never a
backend's own module. A further kind of store is one class of settings, one member of ``StoreSettings`` (``settings.py``) and
one case in each function below. What an etcd needs is imported only where there is one.
"""

from dataclasses import replace
from typing import assert_never

from shardwright.store.endpoints import EndpointBook
from shardwright.store.members import Members
from shardwright.store.protocol import Store
from shardwright.store.settings import POLL_SELDOM_S, EtcdSettings, SqliteSettings, StoreSettings
from shardwright.store.sqlite import SqliteStore


def book_of(settings: StoreSettings) -> EndpointBook | None:
    """What all clients of this store in one process share; None: clients of this kind of store share nothing. Raises
    Permanent ``store_settings_invalid``."""
    match settings:
        case SqliteSettings():
            return None
        case EtcdSettings():
            return EndpointBook(settings)
        case _:
            assert_never(settings)


async def open_store(settings: StoreSettings, book: EndpointBook | None = None) -> Store:
    """Open the store; a missing file is created. ``book``: of the settings; None: this client shares nothing with others.
    Raises StoreUnavailable, StoreReplaced, and Permanent if it is unsuitable or not ours. The caller closes it. It belongs
    to the event loop in which it was opened."""
    match settings:
        case SqliteSettings():
            return await SqliteStore.open(settings.path, poll_s=settings.poll_s)
        case EtcdSettings():
            from shardwright.store.etcd import EtcdStore

            return await EtcdStore.open(settings, book)
        case _:
            assert_never(settings)


def open_members(settings: StoreSettings, book: EndpointBook | None = None) -> Members | None:
    """The members of the store, to list and change them; None: this kind of store has none. Connects to nothing yet.
    ``book``: see ``open_store``. Raises Permanent ``store_settings_invalid``. The caller closes it."""
    match settings:
        case SqliteSettings():
            return None
        case EtcdSettings():
            from shardwright.store.etcd_members import EtcdMembers

            return EtcdMembers(settings, book)
        case _:
            assert_never(settings)


def for_election(settings: StoreSettings) -> StoreSettings:
    """The same store for a candidate: its watcher of the ``leader`` key may wait longer, and costs less."""
    match settings:
        case SqliteSettings():
            return replace(settings, poll_s=POLL_SELDOM_S)
        case EtcdSettings():
            return settings
        case _:
            assert_never(settings)
