"""What app/gateway/openapi.json cannot say: fields that bear on each other, and texts in a language of their own.
Bodies that are to be accepted are made to keep to that; bodies that are to be refused are sent as they are."""
import json

import schemathesis

SCHEMAS = [{}, True, {"type": "integer", "minimum": 0, "maximum": 9}, {"enum": ["a", "b"]},
           {"type": "object", "properties": {"a": {"type": "string", "maxLength": 5}}, "required": ["a"],
            "additionalProperties": False},
           {"type": "array", "items": {"type": "boolean"}, "maxItems": 2}]
GRAMMARS = ['root ::= "yes" | "no"', "root ::= [a-z]{1,4}", 'root ::= x\nx ::= "0" x | "1"']


def one_of(choices, value):
    """Always the same for the same value."""
    return choices[len(json.dumps(value)) % len(choices)]


def mend_schema(holder, key):
    if holder.get(key) is not None and holder[key] not in SCHEMAS:
        holder[key] = one_of(SCHEMAS, holder[key])


def mend_forms(body):
    """At most one of the fields that give the answer a form. True: there is one."""
    form = body.get("response_format") or {}
    mend_schema(form, "schema")
    mend_schema(form.get("json_schema") or {}, "schema")
    mend_schema(body, "json_schema")
    if body.get("grammar"):
        body["grammar"] = one_of(GRAMMARS, body["grammar"])
    given = [name for name in ("response_format", "json_schema", "grammar")
             if body.get(name) not in (None, "") and not (name == "response_format" and form["type"] == "text")]
    for name in given[1:]:
        del body[name]
    return bool(given)


def is_object_text(text):
    try:
        return text == "" or isinstance(json.loads(text), dict)
    except ValueError:
        return False


def mend_messages(body):
    messages = body["messages"]
    for i, message in enumerate(messages):
        if i > 0 and message["role"] in ("system", "developer"):
            message["role"] = "user"
        for call in message.get("tool_calls") or [] if message["role"] == "assistant" else []:
            arguments = call["function"]["arguments"]
            if isinstance(arguments, str) and not is_object_text(arguments):
                call["function"]["arguments"] = "{}"
    if messages[-1]["role"] not in ("user", "tool"):
        messages.append({"role": "user", "content": "Hello"})


def mend_tools(body):
    """True: the answer may call tools."""
    tools = body["tools"] = (body.get("tools") or [])[:3]  # they all stand in the prompt
    for i, tool in enumerate(tools):
        tool["function"]["name"] = f"f{i}-" + tool["function"]["name"][:40]
        mend_schema(tool["function"], "parameters")
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and tools:
        choice["function"]["name"] = tools[-1]["function"]["name"]
    elif choice == "required" or isinstance(choice, dict):
        body["tool_choice"] = choice = choice if tools else "auto"
    return bool(tools) and choice != "none"


def mend_answer(body):
    has_form = mend_forms(body)
    if "messages" in body:
        if mend_tools(body):
            for name in ("response_format", "json_schema", "grammar"):
                body.pop(name, None)
            has_form = True
        if body.get("outline"):
            for name in ("n", "logprobs", "top_logprobs", "stop", "tools", "tool_choice", "response_format",
                         "json_schema", "grammar"):
                body.pop(name, None)
        if body.get("top_logprobs") is not None:
            body["logprobs"] = True
    else:
        prompt = body["prompt"]
        several = len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1
        body["n"] = max(1, min(body.get("n") or 1, 16 // several))
    if has_form:
        body.pop("ignore_eos", None)
    if body.get("stream_options") is not None:
        body["stream"] = True
    # Long answers would show nothing more, and every request waits for its own.
    lengths = [name for name in ("max_tokens", "max_completion_tokens", "n_predict") if (body.get(name) or 0) > 0]
    for name in lengths or ["max_tokens"]:
        body[name] = min(body.get(name) or 24, 24)


def is_positive(case):
    return case.meta is not None and case.meta.generation.mode.is_positive and isinstance(case.body, dict)


@schemathesis.hook
def filter_case(context, case):
    """Longer prompts may not fit the context; where nothing is in the vocabulary a byte is a token."""
    return not is_positive(case) or len(json.dumps(case.body, ensure_ascii=False).encode(errors="replace")) < 1500


@schemathesis.hook
def map_case(context, case):
    if not is_positive(case):
        return case
    if "messages" in case.body:
        mend_messages(case.body)
        mend_tools(case.body)
    if case.operation.path.endswith("completions"):
        mend_answer(case.body)
    return case
