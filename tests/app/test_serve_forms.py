"""The server's answers in a form: JSON Schemas, grammars and tool calls, streamed too, and when a rank is killed."""
import json
import os
import signal
import unittest

from program import REAL_MODEL, ProgramTest
from test_grammar import SCHEMAS, check
from test_serve import Server, text_of

CHAT = "/v1/chat/completions"
WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12},
                                                    "days": {"type": "integer", "minimum": 1, "maximum": 9}},
                   "required": ["city", "days"], "additionalProperties": False}}}
CLOCK = {"type": "function", "function": {"name": "now"}}
ASK = [{"role": "user", "content": "What is the weather in Rome for 3 days?"}]


def schema_format(schema):
    return {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}


def calls_of(events):
    """Tool calls put together from a stream's deltas, as OpenAI's clients do it."""
    calls = []
    for e in events:
        for choice in e["choices"]:
            for delta in choice["delta"].get("tool_calls", []):
                if delta["index"] == len(calls):
                    calls.append({"id": delta["id"], "type": delta["type"],
                                  "function": {"name": delta["function"]["name"], "arguments": ""}})
                calls[delta["index"]]["function"]["arguments"] += delta["function"]["arguments"]
    return calls


@unittest.skipUnless(REAL_MODEL.exists(), "models/smollm2-135m is not there (bash jobs/quickstart.sh makes it)")
class Forms(ProgramTest):
    """At a high temperature answers are random walks."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server = Server(REAL_MODEL, "-c", 2048, ranks=2).__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__()
        super().tearDownClass()

    def test_answers_are_values_of_their_schemas(self):
        whole = 0
        for i, schema in enumerate(SCHEMAS):
            body = {"messages": ASK, "temperature": 1.5, "seed": i, "max_tokens": 80,
                    "response_format": schema_format(schema)}
            status, j = self.server.post(CHAT, body)
            self.assertEqual(status, 200, j)
            choice = j["choices"][0]
            if choice["finish_reason"] == "stop":
                whole += 1
                check(self, schema, choice["message"]["content"])
            if i % 5 == 0:
                self.assertEqual(text_of(self.server.stream(CHAT, body)), choice["message"]["content"])
        self.assertGreaterEqual(whole, 18)

    def test_other_fields(self):
        body = {"prompt": "abc", "max_tokens": 20, "temperature": 1}
        j = self.server.post("/v1/completions", {**body, "grammar": 'root ::= "yes" | "no"'})[1]
        self.assertIn(j["choices"][0]["text"], ("yes", "no"))
        self.assertEqual(j["choices"][0]["finish_reason"], "stop")
        j = self.server.post("/v1/completions", {**body, "json_schema": {"type": "boolean"}, "logprobs": 2})[1]
        self.assertIn(j["choices"][0]["text"], ("true", "false"))
        self.assertTrue(j["choices"][0]["logprobs"]["tokens"])
        j = self.server.post(CHAT, {"messages": ASK, "max_tokens": 5, "response_format": {"type": "json_object"}})[1]
        self.assertTrue(j["choices"][0]["message"]["content"].startswith("{"))

    def test_what_cannot_be_kept_is_refused(self):
        cases = [({"grammar": 'root ::= "a'}, "line 1, column 10"), ({"grammar": "root ::= root"}, "left recursion"),
                 ({"grammar": 7}, "grammar"), ({"response_format": {"type": "xml"}}, "json_object"),
                 ({"response_format": schema_format({"type": "string", "pattern": "a+"})}, "/pattern"),
                 ({"json_schema": {"properties": {"a": {"items": {"not": {}}}}}}, "/properties/a/items/not"),
                 ({"json_schema": {"$ref": "http://example.org"}}, "$ref"),
                 ({"json_schema": {"type": "text"}}, "/type"),
                 ({"grammar": 'root ::= "a"', "ignore_eos": True}, "ignore_eos"),
                 ({"tools": [WEATHER], "grammar": 'root ::= "a"'}, "beside"), ({"tools": [{"type": "x"}]}, "tools[0]"),
                 ({"tools": [WEATHER], "tool_choice": "any"}, "tool_choice"), ({"functions": [1]}, "functions")]
        for fields, words in cases:
            with self.subTest(fields):
                status, j = self.server.post(CHAT, {"messages": ASK, **fields})
                self.assertEqual(status, 400, j)
                self.assertIn(words, j["error"]["message"])
        status, j = self.server.post("/v1/completions", {"prompt": "a", "tools": [WEATHER]})
        self.assertEqual(status, 400, j)

    def test_tools_are_called(self):
        now = {"type": "function", "function": {"name": "now"}}
        for choice, names in (("required", {"get_weather", "now"}), (now, {"now"})):
            for seed in range(4):
                body = {"messages": ASK, "tools": [WEATHER, CLOCK], "tool_choice": choice, "temperature": 1,
                        "seed": seed, "max_tokens": 250, "parallel_tool_calls": False}
                status, j = self.server.post(CHAT, body)
                self.assertEqual(status, 200, j)
                answer = j["choices"][0]
                self.assertEqual(answer["finish_reason"], "tool_calls", answer)
                self.assertIsNone(answer["message"]["content"])
                (call,) = answer["message"]["tool_calls"]
                self.assertIn(call["function"]["name"], names)
                arguments = json.loads(call["function"]["arguments"])
                if call["function"]["name"] == "get_weather":
                    check(self, WEATHER["function"]["parameters"], call["function"]["arguments"])
                else:
                    self.assertEqual(arguments, {})
                events = self.server.stream(CHAT, body)
                self.assertEqual(calls_of(events), [call])
                self.assertEqual(events[-1]["choices"][0]["finish_reason"], "tool_calls")
                self.assertEqual(text_of(events), "")

    def test_results_of_tools_stand_in_the_prompt(self):
        call = {"id": "1", "type": "function",
                "function": {"name": "get_weather", "arguments": '{"city": "Rome", "days": 3}'}}
        messages = [*ASK, {"role": "assistant", "content": None, "tool_calls": [call]},
                    {"role": "tool", "tool_call_id": "1", "content": "sunny"}]
        prompt = self.server.post("/apply-template", {"messages": messages, "tools": [WEATHER]})[1]["prompt"]
        for part in ("get_weather", "<tool_call>", "<tool_response>\nsunny\n</tool_response>"):
            self.assertIn(part, prompt)
        status, j = self.server.post(CHAT, {"messages": messages, "tools": [WEATHER], "max_tokens": 3})
        self.assertEqual(status, 200, j)
        self.assertEqual(j["choices"][0]["finish_reason"], "length")


@unittest.skipUnless(REAL_MODEL.exists(), "models/smollm2-135m is not there (bash jobs/quickstart.sh makes it)")
class Conversations(unittest.TestCase):
    def test_an_answer_in_a_form_outlives_its_ranks(self):
        schema = {"type": "object", "properties": {"title": {"type": "string"},
                                                   "chapters": {"type": "array", "minItems": 5, "maxItems": 5,
                                                                "items": {"type": "string", "minLength": 30}}},
                  "required": ["title", "chapters"], "additionalProperties": False}
        ask = [{"role": "user", "content": "Invent a book about a small boat, as JSON."}]
        body = {"messages": ask, "max_tokens": 400, "response_format": schema_format(schema)}
        for sampling in ({}, {"temperature": 0.8, "seed": 5}):
            with self.subTest(sampling), Server(REAL_MODEL, "-c", 2048, ranks=3) as server:
                undisturbed = text_of(server.stream(CHAT, {**body, **sampling}))
                victims = {15: 2, 40: 0}  # rank by the number of the event at which it is killed

                def kill(number):
                    if number in victims:
                        server.wait_until_healthy()
                        os.kill(server.rank_processes()[victims[number]], signal.SIGKILL)

                events = server.stream(CHAT, {**body, **sampling}, kill)
                self.assertEqual(text_of(events), undisturbed)
                self.assertGreaterEqual(server.metric("rank_starts_total"), 2)
                if events[-1]["choices"][0]["finish_reason"] == "stop":
                    check(self, schema, undisturbed)

    def test_tools(self):
        with Server(REAL_MODEL, "-c", 2048, ranks=2) as server:
            body = {"messages": ASK, "tools": [WEATHER, CLOCK], "max_tokens": 120, "parallel_tool_calls": False}
            for choice in ("auto", "required"):
                status, j = server.post(CHAT, {**body, "tool_choice": choice})
                self.assertEqual(status, 200, j)
                answer = j["choices"][0]
                self.assertEqual(calls_of(server.stream(CHAT, {**body, "tool_choice": choice})),
                                 answer["message"].get("tool_calls", []))
                if choice == "required":
                    self.assertEqual(answer["finish_reason"], "tool_calls")
            none = server.post(CHAT, {**body, "tool_choice": "none"})[1]
            plain = server.post(CHAT, {"messages": ASK, "max_tokens": 120})[1]
            self.assertEqual(none["choices"][0]["message"], plain["choices"][0]["message"])


if __name__ == "__main__":
    unittest.main()
