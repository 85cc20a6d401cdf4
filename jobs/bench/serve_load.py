"""Requests of all kinds for a server, from a seed, and what their answers must be. For serve-soak.py."""
import csv
import dataclasses
import json
import tempfile
import threading

from serve_client import CHAT, ROOT, TEXT, batch_answers

WORDS = "boat sea wind sail rope harbour island storm anchor map star night crew deck lamp tide gull pier".split()
FOLLOW_UPS = ("Say more about that.", "Why is that so?", "Give me an example.", "Put it into one sentence.",
              "What would a child ask now?", "And what is the opposite?")
SCHEMAS = (
    {"type": "object", "properties": {"name": {"type": "string", "maxLength": 30}, "age": {"type": "integer"}},
     "required": ["name", "age"]},
    {"type": "array", "items": {"type": "string", "maxLength": 20}, "minItems": 2, "maxItems": 4},
    {"enum": ["yes", "no", "perhaps"]},
    {"type": "object", "properties": {"title": {"type": "string", "maxLength": 40}, "points": {
        "type": "array", "items": {"type": "object", "properties": {"text": {"type": "string", "maxLength": 40},
                                                                    "weight": {"type": "number"}},
                                   "required": ["text", "weight"]}, "minItems": 1, "maxItems": 3}},
     "required": ["title", "points"]},
)
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]}}}
# Fields that a batch does not know: only the server's own answers can be compared.
EXTRAS = ({"logprobs": True, "top_logprobs": 3}, {"logit_bias": {"100": 5, "200": -100}}, {"presence_penalty": 0.7},
          {"n": 2, "temperature": 0.9, "seed": 7}, {"ignore_eos": True}, {"outline": True},
          {"tools": [TOOL], "tool_choice": "required"})
PERSON = [{"role": "user", "content": "Hello."}]
# What must be refused: method, path, body, its kind, status.
BAD = (
    ("POST", CHAT, b'{"messages": [', "application/json", 400), ("POST", CHAT, b"[]", "application/json", 400),
    ("POST", CHAT, b"[" * 100000, "application/json", 400), ("POST", CHAT, b"\xff\xfe", "application/json", 400),
    ("POST", CHAT, {"messages": []}, "application/json", 400),
    ("POST", CHAT, {"messages": [{"role": "ghost", "content": "boo"}]}, "application/json", 400),
    ("POST", CHAT, {"messages": PERSON, "temperature": "hot"}, "application/json", 400),
    ("POST", CHAT, {"messages": PERSON, "max_tokens": 0}, "application/json", 400),
    ("POST", CHAT, {"messages": PERSON, "n": 100000}, "application/json", 400),
    ("POST", CHAT, {"messages": PERSON, "grammar": "root ::= root"}, "application/json", 400),
    ("POST", CHAT, {"messages": PERSON, "json_schema": {"type": "string", "pattern": "a+"}}, "application/json", 400),
    ("POST", CHAT, {"messages": PERSON, "model": "another"}, "application/json", 404),
    ("POST", TEXT, {"prompt": "word " * 20000}, "application/json", 400),
    ("POST", TEXT, {"prompt": [10**9]}, "application/json", 400),
    ("POST", CHAT, b"hello", "text/plain", 415), ("GET", CHAT, None, "application/json", 405),
    ("GET", "/nowhere", None, "application/json", 404),
)


@dataclasses.dataclass(frozen=True)
class Request:
    kind: str
    path: str
    text: str  # the body as JSON, without `stream`
    truth: bool = True  # a batch can compute its answer

    def body(self, **more):
        return {**json.loads(self.text), **more}


def make(kind, body, path=CHAT, truth=True):
    return Request(kind, path, json.dumps(body, sort_keys=True), truth)


def sampled(rng):
    fields = {"temperature": rng.choice([0.5, 0.8, 1.1]), "seed": rng.randrange(1 << 31)}
    if rng.random() < 0.5:
        fields["top_k"] = rng.choice([5, 40])
    if rng.random() < 0.5:
        fields["top_p"] = 0.9
    if rng.random() < 0.3:
        fields["repeat_penalty"] = 1.1
    return fields


def words(rng, count):
    return " ".join(rng.choice(WORDS) for _ in range(count))


def request_of(kind, rng, question):
    """A request of a kind about a question."""
    ask = lambda text, **more: {"messages": [{"role": "user", "content": text}], **more}
    if kind == "short":
        return make(kind, ask(question, max_tokens=rng.randint(2, 24)))
    if kind == "long":
        stop = {"stop": ["\n\n"]} if rng.random() < 0.3 else {}
        return make(kind, ask(question, max_tokens=rng.randint(120, 320), **stop))
    if kind == "sampled":
        return make(kind, ask(question, max_tokens=rng.randint(16, 120), **sampled(rng)))
    if kind == "form":
        more = sampled(rng) if rng.random() < 0.5 else {}
        return make(kind, ask(question, max_tokens=160, json_schema=rng.choice(SCHEMAS), **more))
    if kind == "prompt":
        text = f"{words(rng, rng.randint(150, 700))}. {question}"
        return make(kind, ask(text, max_tokens=rng.randint(8, 40)))
    if kind == "text":
        return make(kind, {"prompt": f"{question} The answer is that", "max_tokens": rng.randint(8, 60)}, TEXT)
    extra = rng.choice(EXTRAS)
    return make("extra", ask(question, max_tokens=48, **extra), truth=False)


class Load:
    """Draws what clients ask. The pool is a fixed set of requests; others are new each time, and asked again later."""

    KINDS = ("short", "long", "sampled", "form", "prompt", "text")
    POOL = {"short": 20, "long": 10, "sampled": 14, "form": 12, "prompt": 6, "text": 6}
    NEW_KEPT = 400  # new requests that may come again
    TURNS, TURN_TOKENS = 6, 60

    def __init__(self, rng):
        with open(ROOT / "tests/data/router_vicuna.csv", newline="", encoding="utf-8") as f:
            self.questions = [row["question"] for row in csv.DictReader(f)]
        kinds = [kind for kind, number in self.POOL.items() for _ in range(number)]
        self.pool = [request_of(kind, rng, rng.choice(self.questions)) for kind in kinds]
        self.openings = rng.sample(self.questions, 8)  # of conversations whose answers are known
        self.lock = threading.Lock()
        self.new, self.asked = [], 0

    def fresh_question(self, rng):
        """One that nobody asked before; what precedes it ends what it shares with others in the cache."""
        with self.lock:
            self.asked += 1
            number = self.asked
        return f"Note {number}, {words(rng, rng.randint(1, 30))}. {rng.choice(self.questions)}"

    def fresh(self, rng):
        request = request_of(rng.choice([*self.KINDS, "extra"]), rng, self.fresh_question(rng))
        with self.lock:
            if len(self.new) < self.NEW_KEPT:
                self.new.append(request)
            else:
                self.new[rng.randrange(self.NEW_KEPT)] = request
        return request

    def again(self, rng):
        with self.lock:
            if self.new:
                return rng.choice(self.new)
        return rng.choice(self.pool)

    def opening(self, rng):
        return rng.choice(self.openings) if rng.random() < 0.5 else self.fresh_question(rng)


def turn(messages):
    return make("conversation", {"messages": messages, "max_tokens": Load.TURN_TOKENS})


def next_turn(messages, answer, number):
    """The conversation with its answer and what the user says then."""
    return [*messages, {"role": "assistant", "content": answer},
            {"role": "user", "content": FOLLOW_UPS[number % len(FOLLOW_UPS)]}]


class Truth:
    """What answers must be: those that one rank computed, else the first one that came. From several threads."""

    def __init__(self, model, context):
        self.model, self.options = model, ("-c", context)
        self.known, self.first = {}, {}  # (text, finish reason) by path and body: of one rank; of the server
        self.lock = threading.Lock()

    def compute(self, requests):
        """On one rank; the answers in order."""
        answers = {}
        with tempfile.TemporaryDirectory(prefix="jupiter-soak-") as folder:
            for path, more in ((CHAT, ()), (TEXT, ("--raw",))):
                bodies = {str(i): r.body() for i, r in enumerate(requests) if r.path == path}
                if bodies:
                    options = (*self.options, *more)
                    answers.update(batch_answers("serve-soak", self.model, bodies, folder, options=options)[0])
        return [(answers[str(i)]["text"], answers[str(i)]["finish_reason"]) for i in range(len(requests))]

    def learn(self, requests):
        for request, answer in zip(requests, self.compute(requests)):
            self.known[request.path, request.text] = answer

    def learn_conversations(self, openings):
        talks = [[{"role": "user", "content": text}] for text in openings]
        for number in range(Load.TURNS):
            self.learn([turn(talk) for talk in talks])
            talks = [next_turn(talk, self.of(turn(talk))[0], number) for talk in talks]

    def of(self, request):
        key = request.path, request.text
        return self.known.get(key) or self.first.get(key)

    def check(self, request, answer):
        """What is wrong with a whole answer; empty: nothing. And whether it was compared with anything."""
        got = answer.text, answer.finish
        with self.lock:
            expected = self.of(request)
            if expected is None:
                self.first[request.path, request.text] = got
                return "", False
        return ("" if got == expected else f"expected {expected}, found {got}"), True

    def check_beginning(self, request, answer):
        """The same for one that was cut off."""
        expected = self.of(request)
        right = expected is None or expected[0].startswith(answer.text)
        return "" if right else f"expected the beginning of {expected}, found {answer.text!r}"

    def recheck(self, requests):
        """What is wrong with first answers of the server, by one rank's."""
        mine = [r for r in requests if r.truth and (r.path, r.text) in self.first]
        pairs = zip(mine, self.compute(mine))
        wrong = [f"{r.kind} {r.text}: one rank: {answer}, the server: {self.first[r.path, r.text]}"
                 for r, answer in pairs if answer != self.first[r.path, r.text]]
        return len(mine), wrong
