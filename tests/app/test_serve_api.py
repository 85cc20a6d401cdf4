"""The server's API where clients differ: methods, bodies that nobody reads, names and fields of llama-server, templates
that are not known, and the time when it ends."""
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import unittest

from program import ROOT, ProgramTest, jupiter
from test_serve import Server

CHATML = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' "
          "+ '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


def model_with_template(folder, template):
    """A tiny model from a Hugging Face folder, with this chat template or, where it is None, without one."""
    source, target = folder / "hf", folder / "model"
    for path in (source, target):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(ROOT / "tests" / "data" / "architectures" / "llama3", source)
    file = source / "tokenizer_config.json"
    config = json.loads(file.read_text())
    config.pop("chat_template", None)
    if template is not None:
        config["chat_template"] = template
    file.write_text(json.dumps(config))
    result = jupiter("convert", source, "-o", target)
    assert result.returncode == 0, result.stderr
    return target


class Requests(ProgramTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        model = model_with_template(cls.folder, CHATML)
        cls.server = Server(model, "--api-key", "k", "--alias", "one,two", ranks=1).__enter__()
        cls.addClassCleanup(cls.server.__exit__)

    def ask(self, method, path, body=None, **headers):
        status, text, headers = self.server.ask(method, path, body, {"Authorization": "Bearer k", **headers})
        return status, json.loads(text) if text and "json" in headers["Content-Type"] else text, headers

    def post(self, path, body):
        status, j, _ = self.ask("POST", path, body)
        self.assertEqual(status, 200, j)
        return j

    def test_methods_that_a_path_does_not_have(self):
        for path, allowed in (("/v1/models", "GET, HEAD, OPTIONS"), ("/v1/completions", "POST, OPTIONS")):
            for method in ("PUT", "DELETE", "PATCH", "TRACE", "QUERY", "POST" if "GET" in allowed else "GET"):
                with self.subTest(path=path, method=method):
                    status, j, headers = self.ask(method, path, b"{}" if method in ("PUT", "PATCH", "POST") else None)
                    self.assertEqual((status, headers["Allow"]), (405, allowed), j)
                    self.assertIn(method, j["error"]["message"])
            self.assertEqual(self.ask("OPTIONS", path)[2]["Allow"], allowed)
        self.assertEqual(self.ask("HEAD", "/v1/models")[:2], (200, b""))
        self.assertEqual(self.ask("PUT", "/v1/nothing", b"{}")[0], 404)

    def test_a_body_that_nobody_reads_is_no_request(self):
        smuggled = b"GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\n\r\n"
        for method in (b"GET", b"OPTIONS", b"QUERY"):
            with self.subTest(method), socket.create_connection(("127.0.0.1", self.server.port), timeout=20) as s:
                head = b" /health HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(smuggled)
                s.sendall(method + head + smuggled)
                answer = b""
                while piece := s.recv(65536):
                    answer += piece
                self.assertEqual(answer.count(b"HTTP/1.1 "), 1, answer)
                self.assertIn(b"Connection: close", answer)

    def test_keys_as_llama_server_takes_them(self):
        for key, expected in (("k", 200), ("Bearer k", 401), ("", 401)):
            self.assertEqual(self.server.ask("GET", "/props", headers={"X-Api-Key": key})[0], expected, key)

    def test_names_of_the_model(self):
        body = {"prompt": "a", "max_tokens": 1}
        for name, told in (("one", "one"), ("two", "two"), ("", "one")):
            self.assertEqual(self.post("/v1/completions", {**body, "model": name})["model"], told)
        self.assertEqual(self.ask("POST", "/v1/completions", {**body, "model": "three"})[0], 404)
        self.assertEqual(self.ask("GET", "/v1/models")[1]["data"][0]["aliases"], ["one", "two"])

    def test_whole_numbers_may_be_written_as_others_are(self):
        body = {"prompt": "a", "max_tokens": 3.0, "n": 2.0, "seed": 5.0, "temperature": 1}
        self.assertEqual(self.post("/v1/completions", body)["choices"],
                         self.post("/v1/completions", {**body, "max_tokens": 3, "n": 2, "seed": 5})["choices"])
        for field in ({"n": 1.5}, {"n": -1.0}, {"seed": -2}, {"max_tokens": 1e300}):
            self.assertEqual(self.ask("POST", "/v1/completions", {**body, **field})[0], 400, field)

    def test_lengths_as_llama_server_names_them(self):
        body = {"prompt": "a", "ignore_eos": True}
        self.assertEqual(self.post("/v1/completions", {**body, "n_predict": 3})["usage"]["completion_tokens"], 3)
        whole = self.post("/v1/completions", {**body, "n_predict": -1})
        self.assertEqual(whole["usage"], self.post("/v1/completions", body)["usage"])
        self.assertEqual(self.ask("POST", "/v1/completions", {**body, "n_predict": 0})[0], 400)

    def test_a_prompt_that_is_too_long_tells_the_figures(self):
        status, j, _ = self.ask("POST", "/v1/completions", {"prompt": "a b " * 2000})
        self.assertEqual((status, j["error"]["type"]), (400, "exceed_context_size_error"))
        self.assertGreaterEqual(j["error"]["n_prompt_tokens"], j["error"]["n_ctx"])

    def test_prompts_of_conversations(self):
        messages = [{"role": "system", "content": "a"}, {"role": "developer", "content": "b"},
                    {"role": "user", "content": "c"}]
        prompt = self.post("/apply-template", {"messages": messages})["prompt"]
        self.assertEqual(prompt.count("<|im_start|>"), 3, "several system messages are one")
        self.assertIn("a\n\nb", prompt)
        closed = self.post("/apply-template", {"messages": messages, "add_generation_prompt": False})["prompt"]
        self.assertEqual(prompt, closed + "<|im_start|>assistant\n")
        counted = self.post("/v1/chat/completions/input_tokens", {"messages": messages})["input_tokens"]
        answer = self.post("/v1/chat/completions", {"messages": messages, "max_tokens": 1})
        self.assertEqual(counted, answer["usage"]["prompt_tokens"])
        later = [messages[2], messages[0], messages[2]]
        self.assertEqual(self.ask("POST", "/apply-template", {"messages": later})[0], 400)

    def test_the_description(self):
        status, document, _ = self.server.ask("GET", "/openapi.json")
        document = json.loads(document)
        self.assertEqual((status, document["openapi"], document["security"]), (200, "3.1.0", [{"key": []}]))


class Templates(ProgramTest):
    def start(self, template, *options):
        model = model_with_template(self.folder, template)
        command = [sys.executable, ROOT / "jobs" / "jupiter-serve", "-m", model, "--port", "0", *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def test_one_that_is_not_known_is_an_error_before_anything_is_served(self):
        odd = "{% for m in messages %}[[{{ m.role | upper }}]] {{ m.content }}{% endfor %}[[REPLY]]"
        for template in (odd, CHATML + "{{ raise_exception('never') }}<think>", "{{ broken"):
            with self.subTest(template):
                result = self.start(template)
                self.assertEqual((result.returncode, result.stdout), (2, ""), result.stderr)
                self.assert_fails(result, 2, "chat template is unknown", "--chat-template NAME", "--raw")
        self.assert_fails(jupiter("run", "-m", self.folder / "model", "-p", "a"), 2, "chat template is unknown")

    def test_another_or_none_may_be_asked_for(self):
        model = model_with_template(self.folder, "{{ odd }}")
        chat = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
        for options, expected in ((["--chat-template", "chatml"], 200), (["--raw"], 400)):
            with Server(model, *options, ranks=1) as server:
                self.assertEqual(server.post("/v1/chat/completions", chat)[0], expected)
                self.assertEqual(server.post("/v1/completions", {"prompt": "a", "max_tokens": 1})[0], 200)
        with Server(model_with_template(self.folder, None), ranks=1) as server:
            self.assertEqual(server.post("/v1/chat/completions", chat)[0], 400)


class TheEnd(ProgramTest):
    """After SIGTERM: answers under way may end, others are told to go elsewhere."""

    def begin(self, grace):
        server = Server(self.tiny, "--grace", grace, ranks=1)
        server.wait_until_healthy()
        # The client reads slowly, so the answer is open for as long as the test wants.
        connection, response = server.open_stream("/v1/completions", {"prompt": "abc", "ignore_eos": True, "n": 4})
        self.assertEqual(response.status, 200)
        response.readline()
        server.process.send_signal(signal.SIGTERM)
        return server, connection, response

    def test_new_requests_get_503(self):
        server, connection, response = self.begin(60)
        end = time.monotonic() + 20
        while server.get("/health")[0] == 200:
            self.assertLess(time.monotonic(), end)
        for path, body in (("/v1/completions", {"prompt": "a"}), ("/health", None)):
            status, text, headers = server.ask("POST" if body else "GET", path, body)
            self.assertEqual((status, json.loads(text)["error"]["code"]), (503, 503), text)
            self.assertIn("Retry-After", headers)
            self.assertIn("end", json.loads(text)["error"]["message"])
        self.assertTrue(response.read().endswith(b"data: [DONE]\n\n"), "what was under way ended in good order")
        connection.close()
        self.assertEqual(server.process.wait(timeout=60), 143)

    def test_answers_that_take_longer_than_the_grace_are_ended(self):
        server, connection, response = self.begin(0)
        text = response.read()
        self.assertIn(b"about to end", text)
        self.assertTrue(text.endswith(b"data: [DONE]\n\n"))
        connection.close()
        self.assertEqual(server.process.wait(timeout=60), 143)


if __name__ == "__main__":
    unittest.main()
