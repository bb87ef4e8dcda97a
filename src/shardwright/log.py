"""Logging of every long-running process: one JSON object a line, in files that rotate. Called once, by entry points.

Secrets never come here: records hide theirs from ``repr`` and callers log names, never values.
"""

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

import structlog

FILE_BYTES_MAX = 10 * 1024 * 1024
FILES_KEPT = 4
"""Rotated files beside the current one: at most 50 MiB a process."""


def configure_logging(path: Path | None, *, level: int = logging.INFO) -> None:
    """Log to ``path`` (made with mode 0600), or to standard error when it is None. A second call replaces the first."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )
    handler = _handler(path)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(level)
    # One line per request of every HTTP client and server tells nothing that the events do not.
    for noisy in ("httpx", "httpcore", "uvicorn.access", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _handler(path: Path | None) -> logging.Handler:
    if path is None:
        return logging.StreamHandler()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.touch(mode=0o600, exist_ok=True)
    return _PrivateRotatingFileHandler(path, maxBytes=FILE_BYTES_MAX, backupCount=FILES_KEPT, encoding="utf-8")


class _PrivateRotatingFileHandler(RotatingFileHandler):
    """Also the files made by a rotation are readable by their owner alone."""

    def doRollover(self) -> None:
        super().doRollover()
        Path(self.baseFilename).chmod(0o600)
