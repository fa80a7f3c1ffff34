"""`monosemy serve` in a process of its own, which can be killed and come back; waiting for what a page will show."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import IO, Any

from selenium.common.exceptions import JavascriptException
from selenium.webdriver import Chrome
from selenium.webdriver.support.ui import WebDriverWait

WAIT_S = 120.0  # two cores may be shared with others; what comes is not waited for so long
SLOWLY = {**os.environ, "OMP_NUM_THREADS": "1"}  # the browser needs a core as well
TEXT = "Once upon a time there was a little girl"
LOADED = """
return document.readyState === "complete"
  && [...document.querySelectorAll(".chart")].every((chart) => chart.querySelector(".main-svg"))
  && (!document.getElementById("lab") || document.querySelector(".lab-actions"))
  && (!document.getElementById("neighbours") || document.querySelector("#neighbours :is(table, .note)"));
"""


class Server:
    """The command, from its address on its first line to its end."""

    def __init__(self, run: Path) -> None:
        self.run, self.address, self.log = run, "", run.parent / "server.log"
        self._process: subprocess.Popen[str] | None = None

    def start(self, port: int = 0) -> None:
        """Serve, on a free port or on this one."""
        monosemy = str(Path(sys.executable).with_name("monosemy"))
        command = [monosemy, "serve", str(self.run), "--port", str(port)]
        with self.log.open("a") as errors:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=SLOWLY)
        self.address = self._output().readline().strip().rstrip("/")
        assert self.address.startswith("http://127.0.0.1:"), self.log.read_text()

    def kill(self) -> None:
        """As a crash or a power cut would."""
        assert self._process is not None
        self._process.kill()
        assert self._process.wait(WAIT_S) == -signal.SIGKILL
        self._output().close()

    def back(self) -> None:
        """Start again where it was."""
        self.start(int(self.address.rsplit(":", 1)[1]))

    def json(self, path: str, given: Any = None, method: str | None = None) -> Any:
        """What it answers; with `given`, to a POST of that."""
        body = None if given is None else json.dumps(given).encode()
        request = urllib.request.Request(self.address + path, body, {"content-type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            return json.loads(answer.read())

    @property
    def features(self) -> list[int]:
        """The features of the first index, the densest first."""
        return [row["id"] for row in self.json("/features.json?sort=density&desc=1")["rows"]]

    def text(self, path: str) -> str:
        """What it answers, as text."""
        with urllib.request.urlopen(self.address + path, timeout=WAIT_S) as answer:
            found: bytes = answer.read()
            return found.decode()

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(WAIT_S)
        self._output().close()
        assert not self.log.read_text(), self.log.read_text()

    def _output(self) -> IO[str]:
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout


def until(browser: Chrome, script: str, *arguments: Any) -> Any:
    """What a script returns, as soon as that is true."""

    def found(_: Chrome) -> Any:
        try:
            return browser.execute_script(script, *arguments)
        except JavascriptException:  # what it reads is not there yet
            return None

    return WebDriverWait(browser, WAIT_S, poll_frequency=0.03).until(found, f"never true: {script}")


def visit(browser: Chrome, address: str) -> None:
    """Open a page, and wait until all of it is drawn."""
    browser.get(address)
    until(browser, LOADED)
