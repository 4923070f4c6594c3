"""Post events to a web address, for ``skavid watch``."""

from __future__ import annotations

import json
import queue
import threading
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

__all__: list[str] = []  # a part of the command line: nothing here is promised to users

QUEUE_SIZE = 100  # events that wait for a webhook that does not answer


class Webhook:
    """Post events in a separate thread; only the first failure is logged, and none raises."""

    def __init__(self, address: str, *, log: Callable[[str], None], timeout: float = 5.0) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                f"--webhook must be an address such as https://example.org/hook. Got {address!r}."
            )
        self.address = address
        self.shown = f"{parts.scheme}://{parts.hostname}"  # without passwords and keys
        self.log = log
        self.timeout = timeout
        self._failed = False
        self._queue: queue.Queue[bytes | None] = queue.Queue(maxsize=QUEUE_SIZE)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def send(self, record: dict[str, Any]) -> None:
        """Add an event to the queue."""
        try:
            self._queue.put_nowait(json.dumps(record).encode())
        except queue.Full:
            self._fail("it is too slow")

    def close(self) -> None:
        """Wait for the events in the queue, for at most the time of two posts."""
        try:
            self._queue.put(None, timeout=self.timeout)
        except queue.Full:
            return
        self._thread.join(timeout=2 * self.timeout)

    def _run(self) -> None:
        while (body := self._queue.get()) is not None:
            request = urllib.request.Request(
                self.address, data=body, headers={"Content-Type": "application/json"}
            )
            try:
                with urllib.request.urlopen(request, timeout=self.timeout):
                    pass
            except (OSError, HTTPException, ValueError) as error:
                self._fail(str(getattr(error, "reason", None) or error))

    def _fail(self, reason: str) -> None:
        if not self._failed:
            self._failed = True
            self.log(
                f"The webhook {self.shown} did not accept an event ({reason}); watching "
                "continues, and further failures are not reported."
            )
