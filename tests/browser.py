"""A real browser for tests, driven over the Chrome DevTools Protocol: what a person would see and click.

It is whatever Chromium stands on PATH. It can look no name up and reach nothing but this machine.
"""

import asyncio
import itertools
import json
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WITHIN_S = 90.0
_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    # No name can be looked up and no address reached but ours: as on a machine without internet.
    *("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--remote-debugging-port=0"),
)
# What a person does, by what they see: React takes what is typed only through the element's own setter.
_HANDS = """
window.until = async (find, what) => {
  for (let i = 0; i < 600; i++) {
    const found = find();
    if (found) return found;
    await new Promise(go => setTimeout(go, 50));
  }
  throw new Error("not seen: " + what);
};
window.see = (selector, text, inside) => until(
  () => [...(inside || document).querySelectorAll(selector)].find(it => it.textContent.trim().startsWith(text || "")),
  selector + " " + (text || ""));
window.press = async (selector, text, inside) => { (await see(selector, text, inside)).click(); };
window.type = async (selector, text, inside) => {
  const field = await see(selector, "", inside);
  Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(field, text);
  field.dispatchEvent(new Event("input", {bubbles: true}));
};
"""


class Page:
    """One page of a browser, with whatever it complained about."""

    def __init__(self, wire: ClientConnection, session: str) -> None:
        self._wire = wire
        self._session = session
        self._numbers = itertools.count(1000)
        self.complaints: list[str] = []

    async def run(self, script: str) -> Any:
        """Run a script's body in the page, as an async function; return what it returns."""
        wrapped = f"(async () => {{ {_HANDS}\n{script} }})()"
        answer = await self.call("Runtime.evaluate", expression=wrapped, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, (answer["exceptionDetails"], self.complaints)
        return answer["result"].get("value")

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command; collect what the page says meanwhile."""
        number = next(self._numbers)
        command = {"id": number, "sessionId": self._session, "method": method, "params": parameters}
        await self._wire.send(json.dumps(command))
        while True:
            message = json.loads(await self._wire.recv())
            if message.get("id") == number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            if _is_complaint(message):
                self.complaints.append(json.dumps(message["params"]))


def _is_complaint(message: dict[str, Any]) -> bool:
    if message.get("method") == "Log.entryAdded":
        return bool(message["params"]["entry"]["level"] == "error")
    return message.get("method") == "Runtime.exceptionThrown"


@asynccontextmanager
async def browsing(url: str, folder: Path) -> AsyncIterator[Page]:
    """Open a page in a browser of its own, which ends with the block."""
    assert CHROMIUM is not None
    command = (CHROMIUM, *_OPTIONS, f"--user-data-dir={folder}")
    quiet, heard = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
    browser = await asyncio.create_subprocess_exec(*command, stdout=quiet, stderr=heard)
    try:
        async with asyncio.timeout(WITHIN_S), connect(await _door(browser), max_size=None) as wire:
            yield await _opened(wire, url)
    finally:
        if browser.returncode is None:
            browser.kill()
        await browser.communicate()


async def _door(browser: asyncio.subprocess.Process) -> str:
    assert browser.stderr is not None
    while line := (await browser.stderr.readline()).decode():
        if found := re.search(r"DevTools listening on (ws://\S+)", line):
            return found[1]
    raise AssertionError("the browser ended before it listened")


async def _opened(wire: ClientConnection, url: str) -> Page:
    async def ask(number: int, method: str, **parameters: Any) -> dict[str, Any]:
        await wire.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(await wire.recv())
            if message.get("id") == number:
                result: dict[str, Any] = message["result"]
                return result

    target = await ask(1, "Target.createTarget", url="about:blank")
    attached = await ask(2, "Target.attachToTarget", targetId=target["targetId"], flatten=True)
    page = Page(wire, attached["sessionId"])
    for domain in ("Log", "Runtime", "Page"):
        await page.call(f"{domain}.enable")
    await page.call("Page.navigate", url=url)
    return page
