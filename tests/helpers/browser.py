"""A headless Chromium, driven by its DevTools protocol over a pipe: no driver, no port."""

import base64
import contextlib
import json
import os
import pathlib
import select
import shutil
import subprocess
import tempfile
import time

FOUND = shutil.which("chromium") or shutil.which("chromium-browser")
_KEYS = {"Enter": (13, "\r"), "Escape": (27, ""), "Tab": (9, ""), "ArrowLeft": (37, "")}


class Browser:
    """A page that is open: `with Browser(width, height) as page: page.open(file)`."""

    def __init__(self, width=1400, height=900, dark=False, mobile=False, seconds=60):
        self.seconds, self.messages, self.number = seconds, [], 0
        self.exits = contextlib.ExitStack()
        self.folder = pathlib.Path(self.exits.enter_context(tempfile.TemporaryDirectory()))
        theirs_in, self.out = os.pipe()
        self.into, theirs_out = os.pipe()
        flags = "--headless=new --no-sandbox --disable-gpu --no-first-run --remote-debugging-pipe"
        command = [FOUND, *flags.split(), f"--user-data-dir={self.folder / 'profile'}"]
        # Chromium reads commands from 3 and answers on 4.
        script = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out} 2>/dev/null'
        self.process = subprocess.Popen(
            ["bash", "-c", script, *command, "about:blank"],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.exits.callback(self._end)
        self.left, self.session = b"", None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if mobile else 1,
            mobile=mobile,
        )
        if mobile:
            self.call("Emulation.setTouchEmulationEnabled", enabled=True)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.downloads = self.folder / "downloads"
        session, self.session = self.session, None
        path = str(self.downloads)
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=path)
        self.session = session

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.exits.close()

    def _end(self):
        os.close(self.out)
        os.close(self.into)
        self.process.terminate()
        self.process.wait(30)
        time.sleep(0.2)  # its children may still write to the profile

    def call(self, method, **parameters):
        """Sends a command and waits for its result; what happens meanwhile goes to `messages`."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + self.seconds
        while True:
            answer = self._read(end)
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.messages.append(answer)

    def _read(self, end):
        while b"\0" not in self.left:
            if not select.select([self.into], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError("Chromium does not answer")
            if not (part := os.read(self.into, 2**20)):
                raise ConnectionError("Chromium has ended")
            self.left += part
        line, self.left = self.left.split(b"\0", 1)
        return json.loads(line)

    def open(self, file):
        """Opens a file and waits until all of it is read."""
        self.call("Page.navigate", url=pathlib.Path(file).absolute().as_uri())
        self.until("location.protocol === 'file:' && document.readyState === 'complete'")

    def run(self, script):
        """Runs JavaScript; returns the value, that of a promise when it is there."""
        found = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"])
        return found["result"].get("value")

    def until(self, condition):
        """Waits until a JavaScript expression is true."""
        end = time.monotonic() + self.seconds
        while not self.run(condition):
            if time.monotonic() > end:
                raise TimeoutError(condition)
            time.sleep(0.02)

    def key(self, key):
        """Presses a key."""
        code, text = _KEYS.get(key, (0, key if len(key) == 1 else ""))
        event = {"key": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **event)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def mouse(self, kind, x, y, **more):
        """Sends `mousePressed`, `mouseMoved`, `mouseReleased` or `mouseWheel`."""
        more = {"button": "left", "clickCount": 1} | more if "deltaY" not in more else more
        held = {"buttons": 1} if kind == "mouseMoved" and more.pop("held", False) else {}
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more, **held)

    def click(self, x, y):
        """Clicks at a place."""
        self.mouse("mousePressed", x, y)
        self.mouse("mouseReleased", x, y)

    def drag(self, *places):
        """Drags from one place over others."""
        self.mouse("mousePressed", *places[0])
        for place in places[1:]:
            self.mouse("mouseMoved", *place, held=True)
        self.mouse("mouseReleased", *places[-1])

    def downloaded(self, name):
        """Returns the text of a file that the page has saved."""
        end = time.monotonic() + self.seconds
        file = self.downloads / name
        while not file.exists():
            if time.monotonic() > end:
                raise TimeoutError(f"no {name}")
            time.sleep(0.02)
        return file.read_text(encoding="utf-8")

    def screenshot(self, file):
        """Writes what is seen as a PNG file."""
        picture = self.call("Page.captureScreenshot", format="png")["data"]
        pathlib.Path(file).write_bytes(base64.b64decode(picture))

    def complaints(self):
        """Returns what the console has said, and exceptions."""
        self.run("1")
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [m["params"] for m in self.messages if m.get("method") in kinds]

    def requests(self):
        """Returns the URLs that were asked for, but for those that hold what they name."""
        sent = [m for m in self.messages if m.get("method") == "Network.requestWillBeSent"]
        urls = [m["params"]["request"]["url"] for m in sent]
        return [url for url in urls if not url.startswith(("data:", "blob:"))]
