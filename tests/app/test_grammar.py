"""Grammars and schemas: what the program answers is what they allow, with the same bits however it is computed. At a high
temperature answers are random walks through the grammars. Random models have no token that ends an answer, so most of
this needs a real one."""
import json
import unittest

from program import REAL_MODEL, ProgramTest, jupiter

try:
    import jsonschema
except ImportError:
    jsonschema = None

NAME = {"type": "string", "minLength": 1, "maxLength": 6}
NODE = {"type": "object", "properties": {"v": {"enum": [1, 2]},
                                         "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}},
        "required": ["v", "next"], "additionalProperties": False}
SCHEMAS = [
    {"type": "boolean"},
    {"type": "integer", "minimum": -7, "maximum": 1203},
    {"type": "integer", "exclusiveMinimum": 9, "exclusiveMaximum": 12},
    {"type": "number", "minimum": 0, "maximum": 1},
    {"type": "number", "exclusiveMinimum": -3, "exclusiveMaximum": 3},
    {"type": ["string", "null"], "maxLength": 5},
    {"enum": ["red", "green", 5, None, {"a": [1]}]},
    {"const": "a \"quoted\" \\ text\n"},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "time"},
    {"type": "string", "format": "date-time"},
    {"type": "string", "format": "uuid"},
    {"type": "string", "format": "ipv4"},
    {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "minItems": 2, "maxItems": 4},
    {"type": "array", "prefixItems": [NAME, {"type": "null"}], "items": {"type": "boolean"}, "maxItems": 4},
    {"type": "object", "properties": {"name": NAME, "age": {"type": "integer", "minimum": 0, "maximum": 150}},
     "required": ["name", "age"], "additionalProperties": False},
    {"type": "object", "properties": {"a": {"type": "null"}, "b": {"type": "null"}, "c": {"type": "null"}},
     "required": ["b"], "additionalProperties": False},
    {"type": "object", "properties": {"ab": {"const": 1}}, "required": ["ab"],
     "additionalProperties": {"type": "boolean"}},
    {"type": "object", "properties": {"k": {"enum": ["x", "y"]}, "a": {"type": "null"}, "b": {"type": "null"}},
     "required": ["k"], "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
    {"allOf": [{"$ref": "#/$defs/base"}, {"properties": {"b": {"maximum": 20}}, "required": ["b"]}],
     "$defs": {"base": {"type": "object", "properties": {"a": {"type": "null"}, "b": {"type": "integer", "minimum": 3}},
                        "required": ["a"]}}},
    {"$defs": {"node": NODE}, "$ref": "#/$defs/node"},
    {"oneOf": [{"type": "object", "properties": {"t": {"const": "circle"},
                                                 "r": {"type": "integer", "minimum": 0, "maximum": 9}},
                "required": ["t", "r"]},
               {"type": "object", "properties": {"t": {"const": "point"}}, "required": ["t"]}]},
    {"type": "object", "required": ["ä\"b"], "properties": {"ä\"b": {"type": "array", "maxItems": 2, "items": {
        "type": "object", "properties": {"x": {"const": 1.5}}, "required": ["x"]}}}},
]


def check(test, schema, text):
    """The text is JSON, and a value of the schema where that can be asked."""
    value = json.loads(text)
    if jsonschema:
        draft = jsonschema.Draft202012Validator
        checker = draft(schema, format_checker=draft.FORMAT_CHECKER)
        test.assertEqual([e.message for e in checker.iter_errors(value)], [], (schema, text))


@unittest.skipUnless(REAL_MODEL.exists(), "models/smollm2-135m is not there (jobs/test.sh makes it)")
class Schemas(ProgramTest):
    def answers(self, requests, *arguments, ranks=1):
        source, out = self.folder / "in.jsonl", self.folder / "out.jsonl"
        source.write_text("".join(json.dumps(r) + "\n" for r in requests))
        out.unlink(missing_ok=True)
        result = jupiter("batch", "-m", REAL_MODEL, "-i", source, "-o", out, "--raw", *arguments, ranks=ranks)
        self.assertEqual(result.returncode, 0, result.stderr)
        return {a["id"]: a for a in map(json.loads, out.read_text().splitlines())}

    def test_random_answers_are_values_of_their_schemas(self):
        requests = [{"id": f"{i} {seed}", "prompt": f"value {seed}", "max_tokens": 60,
                     "temperature": [0, 1, 3][seed % 3], "top_k": 0, "top_p": 1, "min_p": 0, "seed": seed,
                     "json_schema": schema}
                    for i, schema in enumerate(SCHEMAS) for seed in range(3)]
        plain = self.answers(requests, "--decode", "plain")
        whole = 0
        for r in requests:
            answer = plain[r["id"]]
            if answer["finish_reason"] == "stop":
                whole += 1
                check(self, r["json_schema"], answer["text"])
        self.assertGreater(whole, len(requests) // 2)
        hashes = {i: (a["text"], a["logits_hash"]) for i, a in plain.items()}
        for ranks, extra in ((1, ("--spec-mode", "lap")), (2, ()), (3, ("--cache-tokens", "512", "-c", "256")),
                             (4, ("--decode", "plain"))):
            got = self.answers(requests, *extra, ranks=ranks)
            self.assertEqual({i: (a["text"], a["logits_hash"]) for i, a in got.items()}, hashes, (ranks, extra))
        for r, answer in zip(requests, self.answers(requests, "--accept", "typical").values()):
            if answer["finish_reason"] == "stop":
                json.loads(answer["text"])

    def test_grammars_of_requests(self):
        requests = [{"id": 1, "prompt": "a", "grammar": 'root ::= "yes" | "no"', "max_tokens": 9},
                    {"id": 2, "prompt": "a", "response_format": {"type": "json_object"}, "max_tokens": 3},
                    {"id": 3, "prompt": "a", "grammar": 'root ::= [a-c]{3} "ä" "😀"{2}', "max_tokens": 30}]
        got = self.answers(requests, ranks=2)
        self.assertIn(got[1]["text"], ("yes", "no"))
        self.assertTrue(got[2]["text"].startswith("{"))
        self.assertRegex(got[3]["text"], "^[a-c]{3}ä😀😀$")


class Errors(ProgramTest):
    def test_what_is_wrong_is_said(self):
        grammar, schema = self.folder / "g.gbnf", self.folder / "s.json"
        grammar.write_text('root ::= "a"\nroot ::= "b"\n')
        run = ("run", "-m", self.tiny, "-p", "a", "--raw")
        self.assert_fails(jupiter(*run, "--grammar-file", grammar), 2, grammar, "line 2")
        schema.write_text('{"properties": {"a": {"pattern": "x"}}}')
        self.assert_fails(jupiter(*run, "--json-schema-file", schema), 3, schema, "/properties/a/pattern")
        schema.write_text("{")
        self.assert_fails(jupiter(*run, "--json-schema-file", schema), 3, schema)
        for extra in (("--grammar-file", grammar), ("--ignore-eos",), ("--outline", "always")):
            self.assert_fails(jupiter(*run[:-1], "--json-schema-file", schema, *extra), 2, "expected")

    def test_wrong_lines_of_a_batch(self):
        source, out = self.folder / "wrong.jsonl", self.folder / "wrong-out.jsonl"
        source.write_text('{"id": 1, "prompt": "a", "grammar": "root ::= x"}\n'
                          '{"id": 2, "prompt": "a", "max_tokens": 2}\n')
        result = jupiter("batch", "-m", self.tiny, "-i", source, "-o", out, "--raw", ranks=2)
        self.assertEqual(result.returncode, 1)
        self.assertIn("line 1: grammar: line 1, column 10", result.stderr)
        self.assertEqual(len(out.read_text().splitlines()), 2)

    def test_a_model_without_an_end_cannot_follow_a_grammar(self):
        grammar = self.folder / "g.gbnf"
        grammar.write_text('root ::= "a"')
        self.assert_fails(jupiter("run", "-m", self.tiny, "--raw", "-p", "a", "--grammar-file", grammar, ranks=2), 2,
                          "tokens that end the answer")


@unittest.skipUnless(REAL_MODEL.exists(), "models/smollm2-135m is not there (jobs/test.sh makes it)")
class RealModel(ProgramTest):
    def test_drafts_change_nothing(self):
        schema = self.folder / "person.json"
        schema.write_text(json.dumps(
            {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"},
                                              "hobbies": {"type": "array", "items": {"type": "string"}, "maxItems": 3}},
             "required": ["name", "age", "hobbies"]}))
        common = ("-p", "Describe Anna, a sailor, as JSON.", "-n", 80, "--json-schema-file", schema)
        for sampling in ((), ("--temp", "0.8", "--seed", "3")):
            first = self.run_json(REAL_MODEL, *common, *sampling, "--decode", "plain")
            check(self, json.loads(schema.read_text()), first["text"])
            for ranks, extra in ((1, ()), (2, ("--spec-mode", "lap")), (3, ("--draft", "lookup")), (4, ())):
                j = self.run_json(REAL_MODEL, *common, *sampling, *extra, ranks=ranks)
                self.assertEqual((j["logits_hash"], j["text"]), (first["logits_hash"], first["text"]), (ranks, extra))
        typical = self.run_json(REAL_MODEL, *common, "--accept", "typical", ranks=2)
        check(self, json.loads(schema.read_text()), typical["text"])


if __name__ == "__main__":
    unittest.main()
