"""The server: OpenAI's API, bad requests, and answers that go on when ranks are killed."""
import http.client
import json
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

from program import JUPITER, REAL_MODEL, ROOT, ProgramTest

QUESTION = [{"role": "user", "content": "Write a long story about a small boat on a wide river."}]


class Server:
    """jobs/jupiter-serve on a free port."""

    def __init__(self, model, *gateway, ranks=2, rank_options=()):
        command = [ROOT / "jobs" / "jupiter-serve", "-m", model, "-n", ranks, "--port", 0, *gateway, "--", *rank_options]
        self.process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True,
                                        stderr=subprocess.PIPE, env=dict(os.environ, JUPITER=JUPITER))
        self.port = int(self.process.stdout.readline().rsplit(":", 1)[1])
        self.errors = []
        threading.Thread(target=lambda: self.errors.extend(self.process.stderr), daemon=True).start()

    def __enter__(self):
        self.wait_until_healthy()
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.code = self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def wait_until_healthy(self, limit=60):
        end = time.monotonic() + limit
        while self.get("/health")[0] != 200:
            if time.monotonic() > end or self.process.poll() is not None:
                raise AssertionError("not healthy: " + "".join(self.errors))
            time.sleep(0.05)

    def connection(self, timeout=120):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def ask(self, method, path, body=None, headers=None):
        connection = self.connection()
        data = body if isinstance(body, (bytes, str, type(None))) else json.dumps(body)
        connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
        response = connection.getresponse()
        text = response.read()
        connection.close()
        return response.status, text, dict(response.getheaders())

    def get(self, path, **headers):
        return self.ask("GET", path, headers=headers)

    def post(self, path, body, headers=None):
        status, text, _ = self.ask("POST", path, body, headers)
        return status, json.loads(text)

    def open_stream(self, path, body):
        connection = self.connection()
        connection.request("POST", path, json.dumps({**body, "stream": True}), {"Content-Type": "application/json"})
        return connection, connection.getresponse()

    def stream(self, path, body, on_event=None):
        """All events' objects; the stream must end with [DONE]."""
        connection, response = self.open_stream(path, body)
        assert response.status == 200, response.read()
        events, done = [], False
        for line in response:
            if line.startswith(b"data: "):
                assert not done
                done = line.strip() == b"data: [DONE]"
                if not done:
                    events.append(json.loads(line[6:]))
                    if on_event:
                        on_event(len(events))
        connection.close()
        assert done
        return events

    def metric(self, name):
        for line in self.get("/metrics")[1].decode().splitlines():
            if line.startswith("jupiter_" + name + " "):
                return float(line.split()[1])
        raise AssertionError(name)

    def rank_processes(self):
        """Of `jupiter serve`, by rank."""
        found = {}
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                if words[0].decode() != JUPITER or words[1] != b"serve" or str(self.socket_folder()) not in str(words):
                    continue
                for word in (folder / "environ").read_bytes().split(b"\0"):
                    if word.startswith(b"OMPI_COMM_WORLD_RANK="):
                        found[int(word.partition(b"=")[2])] = int(folder.name)
            except (OSError, IndexError):
                continue
        return found

    def socket_folder(self):
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[1]
                if b"gateway" in words and int(parent) == self.process.pid:
                    return pathlib.Path(words[words.index(b"--socket") + 1].decode()).parent
            except (OSError, IndexError):
                continue
        raise AssertionError("no gateway")


def text_of(events):
    return "".join(c.get("text") or c.get("delta", {}).get("content") or "" for e in events for c in e["choices"])


class Tiny(ProgramTest):
    """Shapes and errors, on a model of random weights: its answers are noise, always the same."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server = Server(cls.tiny, "--queue", 4, "--max-body", 1, "--cors", "https://example.org").__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__()
        super().tearDownClass()

    def test_text_completions(self):
        status, j = self.server.post("/v1/completions", {"prompt": "abc", "max_tokens": 8})
        self.assertEqual(status, 200, j)
        self.assertEqual((j["object"], j["choices"][0]["finish_reason"]), ("text_completion", "length"))
        self.assertEqual(j["usage"]["completion_tokens"], 8)
        self.assertTrue(j["system_fingerprint"].startswith("b"))
        alone = self.run_json(self.tiny, "--raw", "-p", "abc", "-n", "8")
        self.assertEqual(j["choices"][0]["text"], alone["text"])

    def test_several_prompts_and_choices(self):
        status, j = self.server.post("/v1/completions", {"prompt": ["abc", "xyz"], "n": 2, "max_tokens": 4, "temperature": 1,
                                                         "seed": 5})
        self.assertEqual(status, 200, j)
        texts = [c["text"] for c in j["choices"]]
        self.assertEqual([c["index"] for c in j["choices"]], [0, 1, 2, 3])
        again = self.server.post("/v1/completions", {"prompt": "abc", "max_tokens": 4, "temperature": 1, "seed": 6})[1]
        self.assertEqual(again["choices"][0]["text"], texts[1], "the second choice is that of the next seed")

    def test_stream_is_the_whole_answer(self):
        body = {"prompt": "abc", "max_tokens": 24, "ignore_eos": True}
        whole = self.server.post("/v1/completions", body)[1]
        events = self.server.stream("/v1/completions", {**body, "stream_options": {"include_usage": True}})
        self.assertEqual(text_of(events), whole["choices"][0]["text"])
        self.assertEqual(events[-1]["usage"]["completion_tokens"], 24)
        self.assertEqual(events[-2]["choices"][0]["finish_reason"], "length")

    def test_stop_string(self):
        body = {"prompt": "abc", "max_tokens": 40, "ignore_eos": True}
        whole = self.server.post("/v1/completions", body)[1]["choices"][0]["text"]
        stop = whole[6:9]
        j = self.server.post("/v1/completions", {**body, "stop": [stop]})[1]
        self.assertEqual(j["choices"][0]["text"], whole[:whole.index(stop)])
        self.assertEqual(j["choices"][0]["finish_reason"], "stop")

    def test_log_probabilities(self):
        body = {"prompt": "abc", "max_tokens": 6, "ignore_eos": True, "logprobs": 3}
        whole = self.server.post("/v1/completions", body)[1]["choices"][0]["logprobs"]
        self.assertEqual([len(whole[k]) for k in ("tokens", "token_logprobs", "top_logprobs", "text_offset")], [6] * 4)
        for logprob, top in zip(whole["token_logprobs"], whole["top_logprobs"]):
            self.assertLess(logprob, 0)
            self.assertEqual(logprob, max(top.values()), "greedy")
        events = self.server.stream("/v1/completions", body)
        streamed = [p for e in events for p in (e["choices"][0]["logprobs"] or {"token_logprobs": []})["token_logprobs"]]
        self.assertEqual(streamed, whole["token_logprobs"])

    def tokens_with(self, **fields):
        """Texts of an answer's tokens."""
        body = {"prompt": "abc", "max_tokens": 12, "ignore_eos": True, "logprobs": 0, **fields}
        return self.server.post("/v1/completions", body)[1]["choices"][0]["logprobs"]["tokens"]

    def test_biases_and_penalties(self):
        word = self.server.post("/tokenize", {"content": "e"})[1]["tokens"]
        self.assertEqual(len(word), 1)
        forced = self.tokens_with(logit_bias={str(word[0]): 100})
        self.assertEqual(forced, ["e"] * 12)
        self.assertNotIn("e", self.tokens_with(logit_bias={str(word[0]): -100}))
        # A bias that wins once loses to what the penalties take away, time after time.
        varied = self.tokens_with(logit_bias={str(word[0]): 3}, presence_penalty=2, frequency_penalty=2)
        self.assertLess(varied.count("e"), self.tokens_with(logit_bias={str(word[0]): 3}).count("e") + 1)

    def test_small_paths(self):
        tokens = self.server.post("/tokenize", {"content": "hello"})[1]["tokens"]
        self.assertEqual(self.server.post("/detokenize", {"tokens": tokens})[1]["content"], "hello")
        self.assertEqual(json.loads(self.server.get("/v1/models")[1])["data"][0]["id"], "tiny")
        self.assertIn("n_ctx", json.loads(self.server.get("/props")[1]))
        self.assertTrue(json.loads(self.server.get("/slots")[1])["connected"])
        self.assertGreaterEqual(self.server.metric("requests_total"), 0)

    def test_ranks_tell_what_they_hold_and_how_busy_they_are(self):
        end = time.monotonic() + 60
        ranks = []
        while not ranks or not all(r["busy"] for r in ranks):  # a status lasts for a second
            self.assertLess(time.monotonic(), end)
            self.server.post("/v1/completions", {"prompt": "abc", "ignore_eos": True, "max_tokens": 200})
            ranks = json.loads(self.server.get("/slots")[1])["now"]["ranks"]
        self.assertEqual([r["rank"] for r in ranks], [0, 1])
        self.assertEqual((ranks[0]["first_layer"], ranks[0]["last_layer"]), (0, ranks[1]["first_layer"]))
        for r in ranks:
            self.assertTrue(0 < r["busy"] <= 1 and r["host"], ranks)
        end = time.monotonic() + 20
        while any(r["busy"] for r in json.loads(self.server.get("/slots")[1])["now"]["ranks"]):
            self.assertLess(time.monotonic(), end, "idle ranks are not busy")
            time.sleep(0.05)
        text = self.server.get("/metrics")[1].decode()
        self.assertRegex(text, r'(?m)^jupiter_rank_busy_ratio\{rank="1",host="[^"]+"\} 0\.0000$')

    def test_bad_requests(self):
        completions, chat = "/v1/completions", "/v1/chat/completions"
        cases = [(completions, b"{", 400, "body"), (completions, b"[1]", 400, "object"), (completions, b"", 400, "body"),
                 (completions, b"\xff\xfe{}", 400, "UTF-8"), (completions, b'{"prompt":' + b"[" * 100000, 400, "nested"),
                 (completions, {}, 400, "prompt"), (completions, {"prompt": ""}, 400, "prompt"),
                 (completions, {"prompt": 7}, 400, "prompt"), (completions, {"prompt": [99999999]}, 400, "tokens below"),
                 (completions, {"prompt": [-1]}, 400, "token"), (completions, {"prompt": "a", "n": 0}, 400, "n:"),
                 (completions, {"prompt": "a", "n": 1000}, 400, "n:"),
                 (completions, {"prompt": "a", "max_tokens": -5}, 400, "max_tokens"),
                 (completions, {"prompt": "a", "max_tokens": "many"}, 400, "max_tokens"),
                 (completions, {"prompt": "a", "temperature": 1e300}, 400, "temperature"),
                 (completions, {"prompt": "a", "top_p": -1}, 400, "top_p"),
                 (completions, {"prompt": "a", "stop": [""]}, 400, "stop"),
                 (completions, {"prompt": "a", "stream": "yes"}, 400, "stream"),
                 (completions, {"prompt": "a", "stream_options": {"include_usage": True}}, 400, "stream_options"),
                 (completions, {"prompt": "a " * 5000}, 400, "context"),
                 (completions, {"prompt": "a", "model": "gpt-5"}, 404, "model"),
                 (completions, {"prompt": "a", "logprobs": 21}, 400, "logprobs"),
                 (completions, {"prompt": "a", "logit_bias": {"x": 1}}, 400, "logit_bias"),
                 (completions, {"prompt": "a", "presence_penalty": 3}, 400, "presence_penalty"),
                 (chat, {"messages": []}, 400, "messages"), (chat, {"messages": "hi"}, 400, "messages"),
                 (chat, {"messages": [{"role": "user"}]}, 400, "content"),
                 (chat, {"messages": [{"role": "wizard", "content": "x"}]}, 400, "role"),
                 ("/tokenize", {}, 400, "content"), ("/detokenize", {"tokens": [10 ** 9]}, 400, "tokens"),
                 ("/v1/nothing", {}, 404, "no such path"), ("/health", {}, 405, "GET")]
        for path, body, expected, word in cases:
            with self.subTest(path=path, body=str(body)[:60]):
                status, j = self.server.post(path, body)
                self.assertEqual(status, expected, j)
                self.assertIn(word, j["error"]["message"])
                self.assertEqual(j["error"]["code"], expected)

    def test_a_body_that_is_too_large(self):
        status, j = self.server.post("/v1/completions", {"prompt": "a" * (2 << 20)})
        self.assertEqual(status, 413, j)

    def test_other_content(self):
        status, j = self.server.post("/v1/completions", "prompt=a", {"Content-Type": "application/x-www-form-urlencoded"})
        self.assertEqual(status, 415, j)

    def test_cors(self):
        status, _, headers = self.server.ask("OPTIONS", "/v1/chat/completions")
        self.assertEqual((status, headers["Access-Control-Allow-Origin"]), (204, "https://example.org"))

    def test_too_many_at_once_and_clients_that_go_away(self):
        body = {"prompt": "abc", "ignore_eos": True}
        streams = [self.server.open_stream("/v1/completions", body) for _ in range(4)]
        for _, response in streams:
            self.assertEqual(response.status, 200)
            response.readline()
        status, text, headers = self.server.ask("POST", "/v1/completions", body)
        self.assertEqual(status, 429, text)
        self.assertIn("Retry-After", headers)
        for connection, _ in streams:
            connection.sock.shutdown(socket.SHUT_RDWR)
            connection.close()
        end = time.monotonic() + 20
        while self.server.metric("requests_open") > 0 and time.monotonic() < end:
            time.sleep(0.02)
        self.assertEqual(self.server.metric("requests_open"), 0)
        self.assertEqual(self.server.post("/v1/completions", {"prompt": "abc", "max_tokens": 3})[0], 200)


class Keys(ProgramTest):
    def test_keys(self):
        keys = self.folder / "keys"
        keys.write_text("first\nsecond\n")
        with Server(self.tiny, "--api-key-file", keys, ranks=1) as server:
            for given, expected in ((None, 401), ("Bearer third", 401), ("Bearer first", 200), ("Bearer second", 200),
                                    ("first", 401), ("Bearer ", 401)):
                headers = {} if given is None else {"Authorization": given}
                status, j = server.post("/v1/completions", {"prompt": "a", "max_tokens": 1}, headers)
                self.assertEqual(status, expected, (given, j))
            self.assertEqual(server.get("/health")[0], 200)

    def test_slow_and_idle_clients_do_not_stop_others(self):
        with Server(self.tiny, "--connections", 8, ranks=1) as server:
            idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(6)]
            for s in idle:
                s.sendall(b"POST /v1/completions HTTP/1.1\r\n")
            self.assertEqual(server.post("/v1/completions", {"prompt": "a", "max_tokens": 1})[0], 200)
            more = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
            time.sleep(0.3)
            refused = sum(s.recv(64, socket.MSG_DONTWAIT).startswith(b"HTTP/1.1 503") for s in more[4:])
            self.assertGreater(refused, 8)
            for s in idle + more:
                s.close()
            time.sleep(0.5)
            self.assertEqual(server.post("/v1/completions", {"prompt": "a", "max_tokens": 1})[0], 200)


@unittest.skipUnless(REAL_MODEL.exists(), "models/smollm2-135m is not there (bash jobs/quickstart.sh makes it)")
class Failures(unittest.TestCase):
    def test_an_answer_outlives_its_ranks(self):
        body = {"messages": QUESTION, "max_tokens": 160}
        for sampling in ({}, {"temperature": 0.9, "seed": 3}):
            with self.subTest(sampling), Server(REAL_MODEL, "-c", 2048, ranks=3) as server:
                undisturbed = text_of(server.stream("/v1/chat/completions", {**body, **sampling}))
                victims = {20: 1, 60: 0, 100: 2}  # rank by the number of the event at which it is killed

                def kill(number):
                    if number in victims:
                        server.wait_until_healthy()
                        os.kill(server.rank_processes()[victims[number]], signal.SIGKILL)

                events = server.stream("/v1/chat/completions", {**body, **sampling}, kill)
                self.assertEqual(text_of(events), undisturbed)
                self.assertGreaterEqual(server.metric("rank_starts_total"), 2)
            self.assertEqual(server.code, 143)

    def test_special_tokens_in_a_message_are_text(self):
        with Server(REAL_MODEL, "-c", 2048, ranks=1) as server:
            prompt = server.post("/apply-template", {"messages": [{"role": "user", "content": "x<|im_end|>"}]})[1]["prompt"]
            self.assertIn("x<|im_end|>", prompt)
            plain = server.post("/v1/chat/completions", {"messages": QUESTION, "max_tokens": 1})[1]["usage"]
            content = QUESTION[0]["content"] + "<|im_end|>"
            marked = server.post("/v1/chat/completions",
                                 {"messages": [{"role": "user", "content": content}], "max_tokens": 1})[1]["usage"]
            self.assertGreater(marked["prompt_tokens"], plain["prompt_tokens"] + 1)

    def test_a_conversation_shares_what_it_has_in_common(self):
        with Server(REAL_MODEL, "-c", 2048, ranks=2) as server:
            first = server.post("/v1/chat/completions", {"messages": QUESTION, "max_tokens": 30})[1]
            turn = [*QUESTION, {"role": "assistant", "content": first["choices"][0]["message"]["content"]},
                    {"role": "user", "content": "And then?"}]
            second = server.post("/v1/chat/completions", {"messages": turn, "max_tokens": 10})[1]
            self.assertGreater(second["usage"]["prompt_tokens_details"]["cached_tokens"], 30)
            with Server(REAL_MODEL, "-c", 2048, ranks=1) as fresh:
                cold = fresh.post("/v1/chat/completions", {"messages": turn, "max_tokens": 10})[1]
            self.assertEqual(cold["usage"]["prompt_tokens_details"]["cached_tokens"], 0)
            self.assertEqual(cold["choices"][0]["message"], second["choices"][0]["message"])


@unittest.skipUnless(REAL_MODEL.exists(), "models/smollm2-135m is not there (bash jobs/quickstart.sh makes it)")
class Outline(ProgramTest):
    """Points that are answers of their own, of the same texts as those of the command line."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server = Server(REAL_MODEL, "-c", 2048, ranks=2).__enter__()
        cls.addClassCleanup(cls.server.__exit__)
        cls.body = {"messages": [{"role": "user", "content": "How can a town save water?"}], "outline": True}

    def test_the_text_is_that_of_the_command_line(self):
        alone = self.run_json(REAL_MODEL, "-c", "2048", "-p", "How can a town save water?", "--outline", "always")
        self.assertTrue(alone["outline"]["used"])
        status, j = self.server.post("/v1/chat/completions", self.body)
        self.assertEqual(status, 200, j)
        self.assertEqual(j["choices"][0]["message"]["content"], alone["text"])
        self.assertEqual(j["choices"][0]["finish_reason"], "stop")
        points = sum(len(p["generated_token_ids"]) for p in alone["outline"]["points"])
        self.assertGreater(j["usage"]["completion_tokens"], points / 2)

    def test_points_grow_at_the_same_time_and_outlive_a_rank(self):
        whole = self.server.post("/v1/chat/completions", self.body)[1]["choices"][0]["message"]["content"]
        killed = []

        def kill(number):
            if number == 30:
                killed.append(self.server.rank_processes()[1])
                os.kill(killed[0], signal.SIGKILL)

        body = {**self.body, "stream_options": {"include_usage": True}}
        events = self.server.stream("/v1/chat/completions", body, kill)
        self.assertTrue(killed)
        deltas = [e["choices"][0]["delta"] for e in events if e["choices"]]
        self.assertEqual(deltas[0]["role"], "assistant")
        told = [(d["outline"]["point"], d["outline"]["title"], d["content"]) for d in deltas if "outline" in d]
        texts, titles = {}, {}
        for number, title, text in told:
            texts[number] = texts.get(number, "") + text
            self.assertEqual(titles.setdefault(number, title), title)
        self.assertEqual("".join(texts[n] for n in sorted(texts)), whole)
        self.assertTrue(all(texts[n].startswith(f"{n}. {titles[n]}:") for n in titles))
        order = [number for number, _, _ in told]
        self.assertNotEqual(order, sorted(order), "points come side by side")
        self.assertGreater(events[-1]["usage"]["completion_tokens"], 0)
        self.assertEqual(self.server.metric("requests_open"), 0)

    def test_where_no_outline_comes_the_answer_is_plain(self):
        long = {"messages": [{"role": "user", "content": "Name a fruit. " + "Please. " * 900}], "max_tokens": 8}
        plain = self.server.post("/v1/chat/completions", long)[1]["choices"][0]
        outlined = self.server.post("/v1/chat/completions", {**long, "outline": True})[1]["choices"][0]
        self.assertEqual(outlined["message"]["content"], plain["message"]["content"])
        self.assertEqual(outlined["finish_reason"], "length")
        events = self.server.stream("/v1/chat/completions", {**long, "outline": True})
        self.assertEqual(text_of(events), plain["message"]["content"])

    def test_earlier_turns_count(self):
        turns = [{"role": "system", "content": "You like fish."}, *self.body["messages"],
                 {"role": "assistant", "content": "By saving rain."}, {"role": "user", "content": "What else helps it?"}]
        with_turns, without = (self.server.post("/v1/chat/completions", {"messages": m, "outline": True})[1]
                               for m in (turns, turns[-1:]))
        self.assertNotEqual(with_turns["choices"], without["choices"])
        self.assertGreater(with_turns["usage"]["prompt_tokens"], without["usage"]["prompt_tokens"])

    def test_what_does_not_go_with_it(self):
        for fields, name in (({"n": 2}, "n"), ({"logprobs": True}, "logprobs"), ({"stop": "x"}, "stop"),
                             ({"tools": [{}]}, "tools"), ({"outline": "yes"}, "outline"),
                             ({"response_format": {"type": "json_object"}}, "response_format")):
            status, j = self.server.post("/v1/chat/completions", {**self.body, **fields})
            self.assertEqual(status, 400, j)
            self.assertIn(name, j["error"]["message"])


@unittest.skipUnless(REAL_MODEL.exists(), "models/smollm2-135m is not there (bash jobs/quickstart.sh makes it)")
class Example(unittest.TestCase):
    def test_the_manual_s_examples(self):
        """As they stand there; and with 1 and 3 ranks instead of 4."""
        lines = [re.split(r"\s+# ", line)[0] for line in (ROOT / "app" / "README.md").read_text().splitlines()]
        start = next(line for line in lines if line.startswith("jobs/jupiter-serve "))
        asked = [line for line in lines if line.startswith("curl http://127.0.0.1:8080")]
        self.assertEqual(len(asked), 3)
        with tempfile.TemporaryDirectory() as folder:
            home = pathlib.Path(folder)
            for name, target in (("jobs", ROOT / "jobs"), ("models/NAME", REAL_MODEL), ("build/jupiter", JUPITER)):
                (home / name).parent.mkdir(exist_ok=True)
                (home / name).symlink_to(target)
            texts = set()
            for command in (start, start.replace("-n 4", "-n 1"), start.replace("-n 4", "-n 3")):
                process = subprocess.Popen(shlex.split(command), cwd=home, stdout=subprocess.PIPE, text=True,
                                           env={**os.environ, "JUPITER": str(home / "build" / "jupiter")})
                try:
                    self.assertEqual(process.stdout.readline(), "http://127.0.0.1:8080\n")
                    told = []
                    for ask in asked:
                        answer = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True, timeout=60)
                        told.append(json.loads(answer.stdout)["choices"][0]["message"]["content"])
                    texts.add(tuple(told))
                finally:
                    process.send_signal(signal.SIGINT)
                    self.assertEqual(process.wait(timeout=60), 130)
                    process.stdout.close()
            self.assertEqual(len(texts), 1, texts)


if __name__ == "__main__":
    unittest.main()
