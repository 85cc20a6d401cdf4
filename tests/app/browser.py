"""Chromium without a window, spoken to by WebDriver's own protocol through chromedriver."""
import base64
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of WebDriver's element references
ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"]
KEYS = {"enter": "\ue007", "escape": "\ue00c", "shift": "\ue008"}


def missing():
    """Why there is no browser here; empty where there is one."""
    names = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"not installed: {', '.join(names)} (Debian's chromium and chromium-driver)" if names else ""


class Browser:
    def __init__(self, width=1280, height=800):
        self.driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                       text=True)
        for line in self.driver.stdout:
            if found := re.search(r"successfully on port (\d+)", line):
                break
        self.base = f"http://127.0.0.1:{found[1]}/session"
        options = {"args": [*ARGUMENTS, f"--window-size={width},{height}"], "binary": shutil.which("chromium")}
        capabilities = {"browserName": "chrome", "goog:chromeOptions": options,
                        "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        self.base += "/" + self.send("POST", "", {"capabilities": {"alwaysMatch": capabilities}})["sessionId"]
        self.size(width, height)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.send("DELETE", "")
        finally:
            self.driver.terminate()
            self.driver.wait(timeout=30)
            self.driver.stdout.close()

    def send(self, method, path, body=None):
        data = json.dumps(body or {}).encode() if method == "POST" else None
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return json.loads(response.read())["value"]
        except urllib.error.HTTPError as e:
            raise AssertionError(json.loads(e.read())["value"]["message"]) from None

    def open(self, url):
        self.send("POST", "/url", {"url": url})

    def reload(self):
        self.send("POST", "/refresh")

    def run(self, script, *arguments):
        """What the body of a function returns; its arguments are arguments[0], ..."""
        return self.send("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def protocol(self, command, **parameters):
        """A command of Chromium's own protocol."""
        return self.send("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def size(self, width, height, mobile=False):
        self.protocol("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)

    def prefer(self, scheme):
        """light or dark, as the system would say."""
        self.protocol("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def element(self, selector):
        return "/element/" + self.send("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT]

    def click(self, selector):
        self.send("POST", self.element(selector) + "/click")

    def type(self, selector, *texts):
        self.send("POST", self.element(selector) + "/value", {"text": "".join(texts)})

    def key(self, name):
        press = [{"type": kind, "value": KEYS[name]} for kind in ("keyDown", "keyUp")]
        self.send("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": press}]})

    def accept(self):
        """The question that the page asks now."""
        self.send("POST", "/alert/accept")

    def text(self, selector):
        return self.run("return document.querySelector(arguments[0])?.textContent ?? null", selector)

    def wait(self, script, *arguments, limit=60):
        """Until the script returns something, which is the result."""
        end = time.monotonic() + limit
        while not (result := self.run(script, *arguments)):
            assert time.monotonic() < end, f"not within {limit} s: {script}"
            time.sleep(0.02)
        return result

    def problems(self):
        """What the browser wrote to its console, errors and violations of the page's policy among it."""
        return [entry for entry in self.send("POST", "/se/log", {"type": "browser"}) if entry["level"] != "INFO"]

    def requests(self):
        """Addresses that were asked for since the last call."""
        events = [json.loads(e["message"])["message"] for e in self.send("POST", "/se/log", {"type": "performance"})]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]

    def picture(self):
        """The page as a PNG."""
        return base64.b64decode(self.send("GET", "/screenshot"))
