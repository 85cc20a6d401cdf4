"""The official Python client against the server: what it gets is what its types promise."""
import asyncio
import json
import time

import openai
import pytest
from pydantic import BaseModel

from conftest import KEY

QUESTION = [{"role": "user", "content": "Name the capital of France."}]
WEATHER = {"type": "function", "function": {
    "name": "weather", "description": "The weather of a town",
    "parameters": {"type": "object", "properties": {"town": {"type": "string", "maxLength": 20}}, "required": ["town"],
                   "additionalProperties": False}}}


class Town(BaseModel):
    name: str
    is_capital: bool


@pytest.fixture(scope="module")
def client(base_url):
    return openai.OpenAI(base_url=base_url + "/v1", api_key=KEY, max_retries=0)


def chat(client, **fields):
    return client.chat.completions.create(**{"model": "smollm2", "messages": QUESTION, "max_tokens": 24, **fields})


def test_chat(client):
    answer = chat(client)
    choice = answer.choices[0]
    assert "Paris" in choice.message.content
    assert (choice.message.role, choice.finish_reason, answer.model) == ("assistant", "stop", "smollm2")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens_details.cached_tokens >= 0


def test_streams_have_the_text_of_the_whole_answer(client):
    whole = chat(client)
    with chat(client, stream=True, stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(c.choices[0].delta.role is None for c in chunks[1:-1])
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens) == ([], whole.usage.completion_tokens)
    assert len({c.id for c in chunks}) == 1


def test_the_stream_helper_builds_the_completion(client):
    with client.chat.completions.stream(model="smollm2", messages=QUESTION, max_tokens=24) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.content == chat(client).choices[0].message.content


def test_several_choices(client):
    answer = chat(client, n=3, temperature=1, seed=1)
    assert [c.index for c in answer.choices] == [0, 1, 2]
    again = chat(client, n=3, temperature=1, seed=1)
    assert [c.message.content for c in again.choices] == [c.message.content for c in answer.choices]


def test_a_seed_that_is_negative_is_a_random_one(client):
    texts = {chat(client, temperature=2, seed=-1, max_tokens=12).choices[0].message.content for _ in range(4)}
    assert len(texts) > 1


def test_tools_that_must_be_called(client):
    for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
        answer = chat(client, tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False, max_tokens=64)
        (call,) = answer.choices[0].message.tool_calls
        assert (call.type, call.function.name, answer.choices[0].finish_reason) == ("function", "weather", "tool_calls")
        assert set(json.loads(call.function.arguments)) == {"town"}
        assert answer.choices[0].message.content is None


def test_tools_in_a_stream_and_their_results(client):
    fields = {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 64}
    (whole,) = chat(client, **fields).choices[0].message.tool_calls
    with client.chat.completions.stream(model="smollm2", messages=QUESTION, **fields) as stream:
        for _ in stream:
            pass
        message = stream.get_final_completion().choices[0].message
    (call,) = message.tool_calls
    assert (call.id, call.function.name, call.function.arguments) == (whole.id, whole.function.name,
                                                                       whole.function.arguments)
    turn = [*QUESTION, message.model_dump(include={"role", "content", "tool_calls"}),
            {"role": "tool", "tool_call_id": call.id, "content": "It rains."}]
    assert chat(client, messages=turn, tools=[WEATHER], tool_choice="none").choices[0].message.content


def test_answers_in_a_form_are_parsed(client):
    answer = client.chat.completions.parse(model="smollm2", messages=QUESTION, response_format=Town, max_tokens=100)
    assert isinstance(answer.choices[0].message.parsed, Town)
    answer = chat(client, response_format={"type": "json_object"}, max_tokens=200, stop=["}"])
    assert answer.choices[0].message.content.startswith("{")


def test_an_answer_in_a_form_that_was_cut_off_is_told(client):
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(model="smollm2", messages=QUESTION, response_format=Town, max_tokens=2)


def test_log_probabilities(client):
    choice = chat(client, logprobs=True, top_logprobs=3).choices[0]
    tokens = choice.logprobs.content
    assert "".join(t.token for t in tokens) == choice.message.content
    for t in tokens:
        assert t.logprob <= 0 and bytes(t.bytes).decode() == t.token
        assert [c.logprob for c in t.top_logprobs] == sorted((c.logprob for c in t.top_logprobs), reverse=True)
        assert t.top_logprobs[0].token == t.token, "greedy"
    with chat(client, logprobs=True, top_logprobs=3, stream=True) as stream:
        told = [chunk.choices[0].logprobs for chunk in stream]
    streamed = [t for logprobs in told if logprobs for t in logprobs.content]
    assert streamed == tokens


def test_text_completions(client):
    fields = {"model": "smollm2", "prompt": "One, two, three,", "max_tokens": 6}
    answer = client.completions.create(**fields, echo=True, logprobs=2)
    assert answer.choices[0].text.startswith("One, two, three, four")
    assert len(answer.choices[0].logprobs.tokens) == 6
    assert all(len(top) == 2 for top in answer.choices[0].logprobs.top_logprobs)
    with client.completions.create(**fields, stream=True) as stream:
        text = "".join(chunk.choices[0].text for chunk in stream)
    assert "One, two, three," + text == answer.choices[0].text
    several = client.completions.create(**{**fields, "prompt": ["a", "b"]}, n=2)
    assert [c.index for c in several.choices] == [0, 1, 2, 3]


def test_models(client):
    (model,) = client.models.list()
    assert (model.id, model.object, model.owned_by) == ("smollm2", "model", "jupiter")
    assert model.aliases == ["smollm2", "a-second-name"]
    assert chat(client, model="a-second-name").model == "a-second-name"


def test_errors_have_types(client, base_url):
    cases = [(openai.BadRequestError, {"temperature": -1}, "temperature"),
             (openai.BadRequestError, {"messages": []}, "messages"),
             (openai.BadRequestError, {"messages": [{"role": "user", "content": "a " * 4000}]}, "2048"),
             (openai.NotFoundError, {"model": "gpt-5"}, "gpt-5"),
             (openai.BadRequestError, {"stream_options": {"include_usage": True}}, "stream")]
    for kind, fields, word in cases:
        with pytest.raises(kind, match=word) as raised:
            chat(client, **fields)
        assert raised.value.body["type"].endswith("_error")
        assert raised.value.body["code"] == raised.value.status_code
    with pytest.raises(openai.AuthenticationError):
        chat(openai.OpenAI(base_url=base_url + "/v1", api_key="another", max_retries=0))
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="smollm2", input="a")


def test_a_prompt_that_is_too_long_tells_the_figures(client):
    with pytest.raises(openai.BadRequestError) as raised:
        chat(client, messages=[{"role": "user", "content": "a " * 4000}])
    body = raised.value.body
    assert (body["type"], body["n_ctx"]) == ("exceed_context_size_error", 2048)
    assert body["n_prompt_tokens"] > 4000


@pytest.mark.asyncio
async def test_many_at_once(base_url):
    async with openai.AsyncOpenAI(base_url=base_url + "/v1", api_key=KEY) as many:
        answers = await asyncio.gather(*(chat(many) for _ in range(8)))
    assert len({a.choices[0].message.content for a in answers}) == 1


def test_a_client_that_closes_a_stream_frees_its_place(client, server):
    with chat(client, messages=[{"role": "user", "content": "Write a long story."}], max_tokens=1500, stream=True) as s:
        next(iter(s))
    end = time.monotonic() + 20
    while float(metric(server, "requests_open")) > 0:
        assert time.monotonic() < end
        time.sleep(0.05)


def metric(server, name):
    text = server.get("/metrics", Authorization=f"Bearer {KEY}")[1].decode()
    return next(line.split()[1] for line in text.splitlines() if line.startswith(f"jupiter_{name} "))
