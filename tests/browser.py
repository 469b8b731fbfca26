"""Browser: headless Chromium driven over its debugging pipe, with no package in between.

Messages are JSON ended by a zero byte, on the handles 3 and 4 of the browser
(https://chromedevtools.github.io/devtools-protocol/). ``DIFFBENCH_BROWSER=required`` makes its absence a failure.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE = 60.0
"""Seconds that one answer may take."""
KEYS = {"Enter": ("Enter", "Enter", 13, "\r"), " ": (" ", "Space", 32, " "), "Tab": ("Tab", "Tab", 9, "")}


def find() -> str:
    """The browser's program; without one the test is skipped, or fails where a browser is required."""
    for name in NAMES:
        if found := shutil.which(name):
            return found
    message = "no Chromium on this machine: apt-get install --no-install-recommends chromium"
    if os.environ.get("DIFFBENCH_BROWSER") == "required":
        pytest.fail(message)
    pytest.skip(message)


class Browser:
    """A running browser. Events of its pages are kept until somebody looks at them."""

    def __init__(self, profile: Path) -> None:
        """Start it with a profile folder of its own, without network services of its own."""
        to_read, self._out = os.pipe()
        self._in, to_write = os.pipe()
        handles = [fcntl.fcntl(handle, fcntl.F_DUPFD, 20) for handle in (to_read, to_write)]

        def place() -> None:
            for handle, number in zip(handles, (3, 4), strict=True):
                os.dup2(handle, number, inheritable=True)

        self._process = subprocess.Popen(
            [
                find(),
                *("--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                *("--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking"),
                *("--disable-component-update", "--disable-sync", "--no-default-browser-check"),
                f"--user-data-dir={profile}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=place,
            start_new_session=True,
        )
        for handle in (to_read, to_write, *handles):
            os.close(handle)
        self._last, self._buffer = 0, b""
        self.events: list[dict[str, Any]] = []

    def close(self) -> None:
        """End it, with all its processes."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Send one command and wait for what it answers."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        message |= {"sessionId": session} if session else {}
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        limit = time.monotonic() + PATIENCE
        while True:
            found = self._message(limit)
            if found.get("id") == self._last:
                assert "error" not in found, f"{method}: {found['error']}"
                result: dict[str, Any] = found["result"]
                return result
            self.events.append(found)

    def wait(self, method: str, session: str) -> dict[str, Any]:
        """Wait for an event, also one that has come already; it is taken out of the events."""
        limit = time.monotonic() + PATIENCE
        while True:
            for at, event in enumerate(self.events):
                if event.get("method") == method and event.get("sessionId") == session:
                    return self.events.pop(at)
            self.events.append(self._message(limit))

    def _message(self, limit: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, limit - time.monotonic()))
            assert ready, f"the browser did not answer within {PATIENCE} s"
            data = os.read(self._in, 1 << 20)
            assert data, f"the browser ended with code {self._process.poll()}"
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\0", 1)
        found: dict[str, Any] = json.loads(line)
        return found


class Page:
    """One page of a browser, as wide and as dark as was asked for."""

    def __init__(self, browser: Browser, width: int, height: int, dark: bool, scripts: bool) -> None:
        self._browser = browser
        self._target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = browser.call("Target.attachToTarget", targetId=self._target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A command to this page."""
        return self._browser.call(method, self._session, **params)

    def open(self, path: Path, fragment: str = "") -> None:
        """Load a file and wait until it is there."""
        self.call("Page.navigate", url="about:blank")
        self._browser.wait("Page.loadEventFired", self._session)
        self._browser.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri() + fragment)
        self._browser.wait("Page.loadEventFired", self._session)

    def value(self, script: str) -> Any:
        """What an expression is; works with the page's own scripts off too."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def texts(self, selector: str) -> list[str]:
        """Texts of what a selector finds and is not hidden."""
        script = "[...document.querySelectorAll(%s)].filter(x => x.checkVisibility()).map(x => x.textContent.trim())"
        found: list[str] = self.value(script % json.dumps(selector))
        return found

    def press(self, key: str) -> None:
        """Press a key where the focus is."""
        name, code, number, text = KEYS[key]
        shared = {"key": name, "code": code, "windowsVirtualKeyCode": number}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **shared)
        self.call("Input.dispatchKeyEvent", type="keyUp", **shared)

    def click(self, selector: str) -> None:
        """Click in the middle of the first element that a selector finds."""
        script = (
            "(() => {const e = document.querySelector(%s); e.scrollIntoView({block: 'center', behavior: 'instant'});"
        )
        script += "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]})()"
        x, y = self.value(script % json.dumps(selector))
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def choose(self, selector: str, value: str) -> None:
        """Set a control's value as somebody would who types or chooses it."""
        script = "(() => {const e = document.querySelector(%s); e.value = %s;"
        script += "e.dispatchEvent(new Event('input', {bubbles: true}))})()"
        self.value(script % (json.dumps(selector), json.dumps(value)))

    def screenshot(self, path: Path, whole: bool = False) -> Path:
        """A PNG of what is seen, or of the whole page."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))
        return path

    @property
    def overflow(self) -> int:
        """Pixels by which the page is wider than what is seen of it."""
        found: int = self.value("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        return found

    def complaints(self) -> list[str]:
        """Errors and warnings in the console since the page was opened, refused requests and policy among them."""
        self.value("0")
        found = []
        for event in self._browser.events:
            params = event.get("params", {})
            if event["method"] == "Runtime.exceptionThrown":
                found.append(str(params["exceptionDetails"]))
            elif event["method"] == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                found.append(params["entry"]["text"])
            elif event["method"] == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
                found.append(str(params["args"]))
        return found

    def requests(self) -> list[str]:
        """Addresses that were asked for since the page was opened; what is inlined in it is none."""
        self.value("0")
        sent = (event["params"] for event in self._browser.events if event["method"] == "Network.requestWillBeSent")
        return [each["request"]["url"] for each in sent if not each["request"]["url"].startswith("data:")]

    def close(self) -> None:
        """Close it."""
        self._browser.call("Target.closeTarget", targetId=self._target)
        self._browser.events.clear()


@contextmanager
def running() -> Iterator[Browser]:
    """A browser with a throw-away profile."""
    with tempfile.TemporaryDirectory(prefix="diffbench-browser-", ignore_cleanup_errors=True) as folder:
        browser = Browser(Path(folder))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def page(
    browser: Browser, width: int = 1280, height: int = 900, dark: bool = False, scripts: bool = True
) -> Iterator[Page]:
    """A page of that browser."""
    found = Page(browser, width, height, dark, scripts)
    try:
        yield found
    finally:
        found.close()
