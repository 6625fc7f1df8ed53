"""A headless Chromium over its DevTools protocol: real keys, real layout, every request seen."""

import asyncio
import base64
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--remote-debugging-port=0",
    "--window-size=1280,900",
)
KEYS = {"Tab": 9, "Enter": 13, "Space": 32, "ArrowDown": 40}


def find() -> str | None:
    """The browser's path, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One tab. `requests` holds every URL that the page asked for, `errors` its uncaught exceptions."""

    def __init__(self, executable: str):
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._profile = tempfile.TemporaryDirectory(prefix="chromium-")
        options = [*OPTIONS, f"--user-data-dir={self._profile.name}"]
        self._process = subprocess.Popen(
            [executable, *options, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._number = 0
        self._run(self._connect())

    def _run(self, coroutine):
        return self._loop.run_until_complete(coroutine)

    async def _connect(self) -> None:
        port_file, deadline = Path(self._profile.name, "DevToolsActivePort"), time.monotonic() + 30
        while not (port_file.exists() and port_file.read_text().strip()):
            assert time.monotonic() < deadline and self._process.poll() is None, "the browser did not start"
            await asyncio.sleep(0.1)
        port = port_file.read_text().split()[0]
        self._session = aiohttp.ClientSession()
        async with self._session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            tabs = await answer.json(content_type=None)
        url = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
        self._socket = await self._session.ws_connect(url, max_msg_size=0)
        for domain in ("Page", "Runtime", "Network"):
            await self._call(f"{domain}.enable")

    async def _call(self, method: str, session: str | None = None, **parameters) -> dict | None:
        """The browser's answer; None if the frame that is asked has gone by then."""
        self._number += 1
        of = {"sessionId": session} if session else {}
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters, **of})
        while True:
            message = await self._socket.receive_json(timeout=60)
            self._note(message)
            left = message.get("method") == "Target.detachedFromTarget" and message["params"]["sessionId"]
            if session and left == session:
                return None
            if message.get("id") == self._number:
                if message.get("error", {}).get("message", "").startswith(("No target", "No session")):
                    return None
                assert "error" not in message, message["error"]
                return message["result"]

    def _note(self, message: dict) -> None:
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])
        elif message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(message["params"]["exceptionDetails"]))

    def open(self, path: Path) -> None:
        """Load a file and wait until it is complete."""
        self.requests.clear()
        self.errors.clear()
        self._run(self._call("Page.navigate", url=Path(path).resolve().as_uri()))
        deadline = time.monotonic() + 30
        while self.js("document.readyState") != "complete" or self.js("location.protocol") != "file:":
            assert time.monotonic() < deadline, f"{path} did not load"
            time.sleep(0.05)

    def js(self, expression: str):
        """The value of a JavaScript expression; a promise is awaited."""
        result = self._run(
            self._call(
                "Runtime.evaluate",
                expression=expression,
                returnByValue=True,
                awaitPromise=True,
                userGesture=True,
            )
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def frame_js(self, expression: str):
        """The same inside the page's one frame of another origin; None while there is none."""
        targets = self._run(self._call("Target.getTargets"))["targetInfos"]
        frames = [target["targetId"] for target in targets if target["type"] == "iframe"]
        if len(frames) != 1:
            return None
        attached = self._run(self._call("Target.attachToTarget", targetId=frames[0], flatten=True))
        if attached is None:
            return None
        session = attached["sessionId"]
        options = {"returnByValue": True, "awaitPromise": True, "session": session}
        result = self._run(self._call("Runtime.evaluate", expression=expression, **options))
        if result is None:
            return None
        self._run(self._call("Target.detachFromTarget", sessionId=session))
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait_for(self, expression: str, inside: bool = False, seconds: float = 60):
        """The value of an expression as soon as it is true; in the page's one frame if `inside`."""
        deadline = time.monotonic() + seconds
        while not (value := (self.frame_js if inside else self.js)(expression)):
            assert time.monotonic() < deadline, f"not true after {seconds} s: {expression}"
            time.sleep(0.1)
        return value

    def resize(self, width: int, height: int = 900) -> None:
        """The size of the window's content in pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._run(self._call("Emulation.setDeviceMetricsOverride", **size))

    def print(self) -> bytes:
        """The page as a PDF file."""
        return base64.b64decode(self._run(self._call("Page.printToPDF"))["data"])

    def show_as(self, media: str) -> None:
        """Draw the page for this medium: print, screen."""
        self._run(self._call("Emulation.setEmulatedMedia", media=media))

    def press(self, key: str) -> None:
        """A real key press, as from a keyboard."""
        text = {"Enter": "\r", "Space": " "}.get(key, "")
        named = {"key": " " if key == "Space" else key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        for kind in ("keyDown", "keyUp"):
            typed = {"text": text} if text and kind == "keyDown" else {}
            self._run(self._call("Input.dispatchKeyEvent", type=kind, **named, **typed))

    def write(self, text: str) -> None:
        """Text into whatever has the focus."""
        self._run(self._call("Input.insertText", text=text))

    def close(self) -> None:
        self._run(self._session.close())
        self._process.terminate()
        self._process.wait(timeout=20)
        self._loop.close()
        self._profile.cleanup()
