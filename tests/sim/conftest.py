"""Restores the product's log after a simulation in this process."""

import logging
from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture
def product_log() -> Iterator[None]:
    """For a test that silences the log."""
    yield
    logging.disable(logging.NOTSET)
    structlog.reset_defaults()
