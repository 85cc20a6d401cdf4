"""A server (jobs/jupiter-serve) that a script starts, and its clients. For serve-soak.py, serve-speed.py and
serve-failures.py."""
import dataclasses
import http.client
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # jobs
from jupiter_program import BINARY, ROOT, call_jupiter

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
END_S = 60  # that a server gets to end


@dataclasses.dataclass
class Answer:
    """What a client got. `finish` is empty where it got no whole answer; `error` says why the server gave none."""
    status: int = 0
    text: str = ""
    finish: str = ""
    error: str = ""
    events: int = 0         # that had text
    first_s: float = 0.0    # to the first byte of text
    total_s: float = 0.0
    silence_s: float = 0.0  # the longest time between two texts
    tokens: int = 0         # where the server told

    def add(self, choices, now):
        for choice in choices:
            self.finish = choice.get("finish_reason") or self.finish
            piece = choice.get("delta", choice.get("message", choice))
            piece = piece.get("content") or piece.get("text") or ""
            if piece:
                self.silence_s = max(self.silence_s, now - self.total_s) if self.events else 0.0
                self.first_s, self.total_s = self.first_s or now, now
                self.text, self.events = self.text + piece, self.events + 1


class Client:
    """One connection at a time, which may serve several requests."""

    def __init__(self, port, timeout_s=600):
        self.port, self.timeout_s, self.connection = port, timeout_s, None

    def close(self):
        if self.connection is not None:
            self.connection.close()
        self.connection = None

    def send(self, method, path, body=None, kind="application/json"):
        """The response, unread. The server closes a connection that was idle; then a new one takes its place."""
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        used = self.connection is not None
        try:
            if not used:
                self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout_s)
            self.connection.request(method, path, data, {"Content-Type": kind})
            return self.connection.getresponse()
        except ConnectionError:
            self.close()
            if not used:
                raise
            return self.send(method, path, body, kind)

    def read(self, method, path, body=None, kind="application/json"):
        """Status and body."""
        response = self.send(method, path, body, kind)
        return response.status, response.read()

    def get_json(self, path):
        return json.loads(self.read("GET", path)[1])

    def ask(self, path, body, on_text=None):
        """The answer, streamed where the body says so. on_text: called with what there is after each text; False ends
        the connection in the middle."""
        answer, start = Answer(), time.monotonic()
        response = self.send("POST", path, body)
        answer.status = response.status
        if not body.get("stream") or response.status != 200:
            self.take(answer, json.loads(response.read()), start)
            return answer
        done = False
        for line in response:
            done = done or line.strip() == b"data: [DONE]"
            if not line.startswith(b"data: {"):
                continue
            before = answer.events
            self.take(answer, json.loads(line[6:]), start)
            if on_text is not None and answer.events > before and not on_text(answer):
                self.close()
                answer.finish = ""
                return answer
        if not done:
            answer.finish, answer.error = "", answer.error or "the stream ended without [DONE]"
        return answer

    @staticmethod
    def take(answer, message, start):
        answer.error = message.get("error", {}).get("message", answer.error)
        answer.tokens = (message.get("usage") or {}).get("completion_tokens", answer.tokens)
        answer.add(message.get("choices", []), time.monotonic() - start)

    def leave(self, path, body, after_s):
        """Asks, and is gone before the answer is whole."""
        self.close()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout_s)
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        time.sleep(after_s)
        connection.close()


class Server:
    """jobs/jupiter-serve on a free port. options: its own and the gateway's; ranks: those behind `--`."""

    def __init__(self, model, options, ranks=(), errors=None):
        command = [ROOT / "jobs" / "jupiter-serve", "-m", model, "--port", 0, *options, "--", *ranks]
        self.process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=errors,
                                        text=True, env=dict(os.environ, JUPITER=BINARY))
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{' '.join(map(str, command))}: the server did not start")
        self.port = int(line.rsplit(":", 1)[1])

    def __enter__(self):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server and its boards end, too
        return self

    def __exit__(self, *_):
        self.end()

    def client(self):
        return Client(self.port)

    def slots(self):
        return self.client().get_json("/slots")

    def metrics(self):
        text = self.client().read("GET", "/metrics")[1].decode()
        return {name: float(value) for name, value in
                (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))}

    def wait_until(self, what, limit_s=120):
        """Until this is true of /slots, which is returned."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end and self.process.poll() is None:
            slots = self.slots()
            if what(slots):
                return slots
            time.sleep(0.1)
        now = self.slots() if self.process.poll() is None else "it ended"
        sys.exit(f"the server is not ready after {limit_s} s: {now}")

    def wait_until_loaded(self):
        return self.wait_until(lambda slots: slots["loaded"])

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def processes(self):
        """(name, process id) of everything that belongs to it: jupiter-serve, gateway, jupiter-run, mpirun, the ranks
        on this machine as rank0, rank1, ..."""
        found = [("jupiter-serve", self.process.pid)]
        children = {}
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(folder)
            except OSError:
                continue  # it has ended
        wanted = list(children.get(self.process.pid, []))
        while wanted:
            folder = wanted.pop()
            wanted += children.get(int(folder.name), [])
            try:
                found.append((name_of(folder), int(folder.name)))
            except OSError:
                continue
        return found


def name_of(folder):
    """What a process of a server is, by its folder in /proc."""
    words = (folder / "cmdline").read_bytes().split(b"\0")
    if b"gateway" in words[:2]:
        return "gateway"
    if any(word.endswith(b"/jupiter-run") for word in words[:3]):
        return "jupiter-run"
    if words[1:2] == [b"serve"]:
        for word in (folder / "environ").read_bytes().split(b"\0"):
            if word.startswith(b"OMPI_COMM_WORLD_RANK="):
                return "rank" + word.partition(b"=")[2].decode()
    return (folder / "comm").read_text().strip()


def batch_answers(script, model, requests, folder, launcher=(), options=()):
    """Lines of `jupiter batch` for requests (fields of the API, by id), by id; and what it said."""
    source, target = pathlib.Path(folder) / "requests.jsonl", pathlib.Path(folder) / "answers.jsonl"
    source.write_text("".join(json.dumps({**body, "id": i}) + "\n" for i, body in requests.items()))
    target.unlink(missing_ok=True)
    said = call_jupiter(script, launcher, "batch", "-m", model, "-i", source, "-o", target, *options)
    return {line["id"]: line for line in map(json.loads, target.read_text().splitlines())}, said
