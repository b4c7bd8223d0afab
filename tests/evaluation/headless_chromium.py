"""Chromium without a window, spoken to over its DevTools pipe: JSON messages that end in a zero byte, on two pipes."""

import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync --disable-quic "
    "--autoplay-policy=no-user-gesture-required --remote-debugging-pipe"
).split()
PATIENCE = (
    180  # seconds; only a browser that hangs takes this long, even where other work keeps the machine busy
)


def find_chromium() -> str:
    """The browser to test with: $FOVEA_CHROMIUM, or the first that is installed."""
    for name in (os.environ.get("FOVEA_CHROMIUM"), *NAMES):
        if name and (found := shutil.which(name)):
            return found
    raise AssertionError(
        "this test opens the report in Chromium and found none: `apt-get install chromium`, or set FOVEA_CHROMIUM"
    )


class Chromium:
    """A browser with one page; a context manager that ends it.

    Attributes:
        events: everything that the page reported so far: network requests, console messages, exceptions, log.
    """

    def __init__(self, profile: Path) -> None:
        self.events: list[dict[str, Any]] = []
        self._last, self._buffer = 0, b""
        command = [find_chromium(), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        # The browser reads file descriptor 3 and writes 4; out of their way first, for one may be the other's.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_browser, from_browser)]

        def connect() -> None:
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        self._process = subprocess.Popen(
            command,
            preexec_fn=connect,
            pass_fds=(3, 4),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for end in (to_browser, from_browser, *ends):
            os.close(end)
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._read)
        os.close(self._write)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One DevTools command; its result."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        number = self._last
        reply = self._until(lambda got: got.get("id") == number, method)
        assert "error" not in reply, f"{method}: {reply['error']}"
        return reply["result"]

    def open(self, path: Path, *, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Load a file and wait until it is complete."""
        self.view(width=width, height=height, dark=dark)
        self.call("Page.navigate", url=path.resolve().as_uri())
        if not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._until(lambda got: got.get("method") == "Page.loadEventFired", "loading the page")

    def view(self, *, width: int, height: int = 900, dark: bool = False) -> None:
        """Size of the window in CSS pixels, and the reader's colour scheme."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise."""
        got = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in got, f"{expression}: {got['exceptionDetails']}"
        return got["result"].get("value")

    def requests(self) -> list[str]:
        """Addresses that the page asked for."""
        return [
            e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"
        ]

    def complaints(self) -> list[str]:
        """Console messages, exceptions and log entries (policy violations, failed loads among them)."""
        methods = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(event["params"])[:400] for event in self.events if event["method"] in methods]

    def _until(self, wanted: Any, what: str) -> dict[str, Any]:
        """Read messages, keeping events, until one is wanted."""
        deadline = time.monotonic() + PATIENCE
        while True:
            while b"\0" in self._buffer:
                line, _, self._buffer = self._buffer.partition(b"\0")
                message = json.loads(line)
                if "method" in message:
                    self.events.append(message)
                if wanted(message):
                    return message
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{what}: Chromium did not answer within {PATIENCE} s"
            chunk = os.read(self._read, 1 << 20)
            assert chunk, f"{what}: Chromium ended (exit code {self._process.poll()})"
            self._buffer += chunk
