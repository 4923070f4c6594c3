"""A headless Chromium, driven through its DevTools protocol over two pipes: no package needed."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import time
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
    "--disable-dev-shm-usage", "--disable-extensions", "--remote-debugging-pipe",
)  # fmt: skip
PATIENCE = 120  # seconds that an answer may take on a busy machine


def find_chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next(filter(None, map(shutil.which, names)), None)


class Browser:
    """One page at a time; ``told`` are the dialogs, console messages and errors of the page."""

    def __init__(self, program: str, profile: Path) -> None:
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # Beyond 3 and 4, which Chromium reads and writes.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (theirs_in, theirs_out)]
        nowhere = os.open(os.devnull, os.O_RDWR)
        moves = [(nowhere, 1), (nowhere, 2), (ends[0], 3), (ends[1], 4)]
        self._pid = os.posix_spawn(
            program,
            [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, *move) for move in moves],
        )
        for end in (theirs_in, theirs_out, *ends, nowhere):
            os.close(end)
        self._unread, self._number, self._session = b"", 0, None
        self.told: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        number = self._number
        while True:
            answer = self._read()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def open(self, path: Path) -> None:
        self.told.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not any(one["method"] == "Page.loadEventFired" for one in self.told):
            self._note(self._read())

    def run(self, script: str) -> Any:
        """Run a script in the page; a promise is waited for."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def press(self, key: str, code: int) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code
            )

    def complaints(self) -> list[dict[str, Any]]:
        """List dialogs, exceptions, console messages, and requests for other than the page."""
        methods = {
            "Page.javascriptDialogOpening", "Runtime.exceptionThrown", "Runtime.consoleAPICalled",
            "Log.entryAdded",
        }  # fmt: skip
        asked = [
            one
            for one in self.told
            if one["method"] == "Network.requestWillBeSent"
            and not one["params"]["request"]["url"].startswith(("file:", "data:"))
        ]
        return [one for one in self.told if one["method"] in methods] + asked

    def close(self) -> None:
        self._session = None
        self.call("Browser.close")
        os.waitpid(self._pid, 0)
        os.close(self._in)
        os.close(self._out)

    def _note(self, message: dict[str, Any]) -> None:
        if "method" not in message:
            return
        self.told.append(message)
        if message["method"] == "Page.javascriptDialogOpening":
            self.call("Page.handleJavaScriptDialog", accept=True)

    def _read(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while b"\0" not in self._unread:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._in], [], [], left)[0]:
                raise TimeoutError(f"Chromium said nothing for {PATIENCE} s")
            more = os.read(self._in, 2**20)
            if not more:
                raise RuntimeError("Chromium ended")
            self._unread += more
        one, self._unread = self._unread.split(b"\0", 1)
        answer: dict[str, Any] = json.loads(one)
        return answer
