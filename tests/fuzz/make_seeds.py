"""Seeds and dictionaries of the fuzz targets from real files: models, tokenizers, templates and texts of tests/data, and
what stands as literals in the tests and in the readers themselves.

  make_seeds.py FOLDER    writes FOLDER/seeds/TARGET/* and FOLDER/dictionaries/TARGET.dict; fuzz_seeds adds what only the
                          program can write"""
import hashlib
import json
import pathlib
import re
import struct
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
DATA = ROOT / "tests/data"
LITERAL = re.compile(r'R"(\w*)\((.*?)\)\1"|"((?:[^"\\\n]|\\.)*)"', re.S)
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0"}


def readers():
    """The sources that each target reads with, by target (readers.txt)."""
    lines = (line.split() for line in (HERE / "readers.txt").read_text().splitlines())
    return {words[0]: words[1:] for words in lines if words and words[0] != "#"}


def literals(path):
    """The texts of a C++ source, as the program has them; those that follow each other are one."""
    for match in LITERAL.finditer(path.read_text()):
        if match[3] is None:
            yield match[2]
        else:
            yield re.sub(r"\\(x[0-9a-fA-F]{2}|.)", lambda m: chr(int(m[1][1:], 16)) if m[1][0] == "x" and len(m[1]) > 1
                         else ESCAPES.get(m[1], m[1]), match[3])


class Seeds:
    def __init__(self, folder):
        self.folder = folder / "seeds"

    def put(self, target, content, tail=b""):
        """tail: what the target takes from the end, in the order in which it takes it."""
        content = (content.encode() if isinstance(content, str) else content) + tail[::-1]
        folder = self.folder / target
        folder.mkdir(parents=True, exist_ok=True)
        (folder / hashlib.sha1(content).hexdigest()[:16]).write_bytes(content)


class GgufReader:
    """Walks through a GGUF file's metadata and its list of tensors."""
    SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

    def __init__(self, data):
        self.data, self.at = data, 24
        self.n_tensors, self.n_entries = struct.unpack_from("<QQ", data, 8)
        for _ in range(self.n_entries):
            self.skip(8)
            self.skip(self.number("<I"))
        self.metadata = data[24:self.at]
        self.tensors = {self.text(): self.tensor() for _ in range(self.n_tensors)}
        self.start = (self.at + 31) // 32 * 32

    def number(self, kind):
        value, = struct.unpack_from(kind, self.data, self.at)
        self.at += struct.calcsize(kind)
        return value

    def text(self):
        size = self.number("<Q")
        self.at += size
        return self.data[self.at - size:self.at].decode()

    def skip(self, kind):
        if kind == 8:
            self.text()
        elif kind == 9:
            element, count = self.number("<I"), self.number("<Q")
            for _ in range(count):
                self.skip(element)
        else:
            self.at += self.SIZES[kind]

    def tensor(self):
        shape = [self.number("<Q") for _ in range(self.number("<I"))]
        return shape, self.number("<I"), self.number("<Q")


def small_gguf(data):
    """A file's metadata, a short embedding, which tells the size of the vocabulary, and its rotary factors."""
    file = GgufReader(data)
    tensors = [("token_embd.weight", [32, 1], 2, bytes(18))]
    for name, (shape, kind, offset) in file.tensors.items():
        if name.startswith("rope_"):
            tensors.append((name, shape, kind, data[file.start + offset:][:4 * shape[0]]))
    infos, content = b"", b""
    for name, shape, kind, values in tensors:
        infos += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", len(shape))
        infos += struct.pack(f"<{len(shape)}QIQ", *shape, kind, len(content))
        content += values + bytes(-len(values) % 32)
    head = data[:8] + struct.pack("<QQ", len(tensors), file.n_entries) + file.metadata + infos
    return head + bytes(-len(head) % 32) + content


def small_safetensors(data):
    """The first tensors of a file, with as many bytes as they say."""
    size, = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + size])
    small, end = {}, 0
    for name, entry in list(header.items())[:4]:
        if name == "__metadata__":
            continue
        small[name] = {"dtype": entry["dtype"], "shape": [2, 3],
                       "data_offsets": [end, end + 6 * (4 if entry["dtype"] == "F32" else 2)]}
        end = small[name]["data_offsets"][1]
    text = json.dumps({"__metadata__": {"format": "pt"}, **small}).encode()
    return struct.pack("<Q", len(text)) + text + bytes(end)


def put_models(seeds):
    for path in sorted((DATA / "architectures").glob("*.gguf")):
        seeds.put("gguf", small_gguf(path.read_bytes()))
        seeds.put("model_source", path.read_bytes(), b"\0")
    for folder in sorted(p for p in (DATA / "architectures").iterdir() if p.is_dir()):
        config = (folder / "config.json").read_text()
        seeds.put("hf_config", config, b"\1\0\0")
        seeds.put("hf_config", json.dumps(json.loads(config)), b"\0\0\20")
        weights = (folder / "model.safetensors")
        if not weights.exists():
            continue
        seeds.put("safetensors", small_safetensors(weights.read_bytes()))
        files = [json.dumps(json.loads((folder / name).read_text())) if (folder / name).exists() else ""
                 for name in ("config.json", "tokenizer.json")]
        seeds.put("model_source", "\n".join(files).encode() + b"\n" + weights.read_bytes(), b"\1")


def put_tokenizers(seeds):
    kinds = ["gpt2", "smollm", "llama3", "qwen2", "llama2", "mistral", "gemma"]
    for index, kind in enumerate(kinds):
        folder = DATA / "tokenizers" / kind
        tokenizer = json.dumps(json.loads((folder / "tokenizer.json").read_text()), ensure_ascii=False)
        config = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "add_bos_token": True,
                  "chat_template": [{"name": "default", "template": "{{ messages }}"}]}
        seeds.put("hf_tokenizer", "\n".join([tokenizer, json.dumps(config), json.dumps({"unk_token": "<unk>"}),
                                             json.dumps({"eos_token_id": [2]}), json.dumps({"bos_token_id": 1})]))
        model = json.loads(tokenizer)
        model["model"]["vocab"] = dict(list(model["model"]["vocab"].items())[:12])
        model["model"]["merges"] = model["model"]["merges"][:3]
        seeds.put("hf_tokenizer", json.dumps(model, ensure_ascii=False))
        for case in json.loads((folder / "cases.json").read_text()):
            seeds.put("tokenizer", case["text"], bytes([index, 0, 3, 0, 9, 0]))
    for c in json.loads((DATA / "chat_templates.json").read_text()):
        seeds.put("chat_template", c["eos"] + "\n" + c["template"])


def put_literals(seeds):
    """Texts that the unit tests of a reader hand to it."""
    tests = {"grammar": ("io/grammar_test.cpp", "::=", b""), "json_schema": ("io/json_schema_test.cpp", "{", b""),
             "chat_template": ("io/chat_template_test.cpp", "{%", b""),
             "boards": ("parallel/board_file_test.cpp", "{", b""), "profile": ("parallel/planner_test.cpp", "{", b""),
             "outline": ("parallel/outline_test.cpp", "1", b"\3\0"),
             "requests": ("app/request_file_test.cpp", "{", b"\0"), "api_request": ("app/gateway_test.cpp", "{", b""),
             "lines": ("app/gateway_test.cpp", "{", b"\5\0"), "tool_calls": ("app/tools_test.cpp", "{", b"\0\1\2\3\4"),
             "safetensors": ("io/safetensors_test.cpp", "{", b"")}
    for target, (path, mark, tail) in tests.items():
        for text in literals(ROOT / "tests" / path):
            if mark in text:
                seeds.put(target, text.encode("latin-1", "ignore") if target != "outline" else text, tail)
    for text in literals(ROOT / "tests/app/tools_test.cpp"):
        if "{" in text:
            seeds.put("api_request", text)
    chat = {"messages": [{"role": "user", "content": "x"}]}
    for schema in literals(ROOT / "tests/io/json_schema_test.cpp"):
        if schema.startswith("{"):
            seeds.put("json_schema", schema.encode() + b"\0" + bytes(range(1, 200, 7)))
    for kind, name in enumerate(["smollm2_prompts.jsonl", "smollm2_prompts.jsonl", "smollm2_greedy.jsonl", "choices.jsonl"]):
        for line in (DATA / name).read_text().splitlines()[:3]:
            seeds.put("requests", line, bytes([kind]))
    seeds.put("requests", '{"id":"a","text":"x","generated_token_ids":[1],"model_hash":"0123"}\n'
              '{"id":"b","error":"e","model_hash":"0123"}\n{"id":"c","te', b"\1")
    seeds.put("requests", json.dumps({"kind": "baseline", "model_hash": "0123", "model": {"dim": 1}, "settings": {},
                                      "metrics": {"perplexity": {"value": 1.5, "tolerance": 0.1}}}), b"\4")
    for more in ({"temperature": 0.5, "top_k": 3, "seed": -1, "stop": ["a", "b"], "logit_bias": {"5": 2}, "n": 2},
                 {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}},
                 {"tools": [{"type": "function", "function": {"name": "f", "parameters": {
                     "type": "object", "properties": {"a": {"type": "integer"}}}}}], "tool_choice": "required"},
                 {"stream": True, "stream_options": {"include_usage": True}, "logprobs": True, "top_logprobs": 3}):
        seeds.put("api_request", json.dumps({**chat, **more}))
        seeds.put("api_request", json.dumps({"prompt": [1, 2], **more}))
    for line in ({"type": "request", "id": 1, "prompt": [1, 2], "given": [], "end_tokens": [3], "max_new_tokens": 5,
                  "sampling": {"temperature": 0.5, "seed": 3}, "top_logprobs": 2, "logit_bias": [[1, 0.5]],
                  "grammar": {"text": "root ::= \"a\"", "trigger": "", "at_start": False}},
                 {"type": "token", "id": 1, "token": 7, "logprob": -0.5, "top": [[7, -0.5], [8, -1.5]]},
                 {"type": "end", "id": 1, "stopped": True, "error": "", "logits_hash": "0123", "prompt_tokens": 5,
                  "shared_tokens": 0, "first_token_s": 0.5, "total_s": 1.5, "steps": 3, "drafted": 2, "accepted": 1}):
        seeds.put("lines", json.dumps(line) + "\n", b"\7\0")
    for text in ('Hi <tool_call>\n{"name": "f", "arguments": {"a": [1, "}"]}}\n</tool_call> x',
                 '{"name": "f", "parameters": {"a": 1}}'):
        seeds.put("tool_calls", text, b"\0\1\2\3\4")
        seeds.put("tool_calls", text, b"\1\5\2\3\4")


def quoted(text):
    return "".join(chr(b) if 32 < b < 127 and b not in b'"\\' else f"\\x{b:02x}" for b in text.encode())


def put_dictionaries(folder):
    (folder / "dictionaries").mkdir(parents=True, exist_ok=True)
    for target, sources in readers().items():
        words = {text for name in sources for text in literals(ROOT / name) if 1 < len(text) < 40 and text.count(" ") < 2}
        words |= {"18446744073709551615", "9223372036854775808", "-1", "1e300", "4294967296"}
        lines = (f'"{quoted(word)}"\n' for word in sorted(words))
        (folder / "dictionaries" / f"{target}.dict").write_text("".join(lines))


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: make_seeds.py FOLDER")
    folder = pathlib.Path(sys.argv[1])
    seeds = Seeds(folder)
    put_models(seeds)
    put_tokenizers(seeds)
    put_literals(seeds)
    put_dictionaries(folder)


if __name__ == "__main__":
    main()
