"""A headless Chromium driven over its debugging pipe, for tests: no package and no port needed."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any


def binary() -> str | None:
    """Chromium on the PATH, or None."""
    return next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)


class Page:
    """One page; `problems` collects console errors, exceptions and refused requests."""

    def __init__(self, profile: Path, width: int = 1280, height: int = 900) -> None:
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        self.problems: list[str] = []
        self._last, self._buffer = 0, b""
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-pipe",
                 f"--user-data-dir={profile}", f"--window-size={width},{height}"]

        def hand_over() -> None:  # the browser reads at 3 and writes at 4
            read_end, write_end = os.dup(to_browser), os.dup(from_browser)
            os.dup2(read_end, 3)
            os.dup2(write_end, 4)

        self._process = subprocess.Popen([binary() or "", *flags, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                         close_fds=False, preexec_fn=hand_over)
        os.close(to_browser)
        os.close(from_browser)
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable", here=True)

    def call(self, method: str, *, here: bool = False, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; events on the way are noted."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if here:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._last:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._in, 1 << 16)
            assert part, "the browser has ended"
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        event = dict(json.loads(line))
        told = event.get("params", {})
        if event.get("method") == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.problems.append(told["entry"]["text"])
        if event.get("method") == "Runtime.exceptionThrown" or (event.get("method") == "Runtime.consoleAPICalled" and told["type"] == "error"):
            self.problems.append(json.dumps(told)[:300])
        if event.get("method") == "Network.requestWillBeSent" and not told["request"]["url"].startswith(("data:", "file:")):
            self.problems.append(f"asked for {told['request']['url'][:100]}")
        self.seen = event.get("method", "")
        return event

    def open(self, path: Path) -> None:
        """Load a file and wait until all is there."""
        self.call("Page.navigate", here=True, url=path.resolve().as_uri())
        while self._receive().get("method") != "Page.loadEventFired":
            pass

    def value(self, expression: str) -> Any:
        """What a script's expression gives."""
        found = self.call("Runtime.evaluate", here=True, expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def picture(self, out: Path) -> None:
        """Save what the window shows as PNG."""
        out.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", here=True, format="png")["data"]))

    def close(self) -> None:
        """End the browser."""
        self.call("Browser.close")
        self._process.wait(30)
        os.close(self._out)
        os.close(self._in)
