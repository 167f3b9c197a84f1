"""Other engines behind the generator's protocol, against a server on loopback."""

from __future__ import annotations

import pytest

from completions_server import completions_server, serve_folder
from prompt_cases import EXAMPLES, REQUESTS, prompt_case, random_soft_prompt
from sptar.config import AugmentConfig, LanguageModelConfig, PromptConfig
from sptar.errors import ConfigError, ModelError
from sptar.llm.hosted.completions import CompletionsClient
from sptar.llm.hosted.generators import (
    HardPromptGenerator,
    SoftPromptServerGenerator,
    completions_client,
    hard_prompt,
    request_seed,
)
from sptar.llm.vocabulary_export import export_as_vocabulary
from sptar.types import GenerationRequest
from tiny import DOCUMENTS

GREEDY = AugmentConfig(decoding="greedy", max_new_tokens=12)


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def served(request, tiny_models, tmp_path_factory):
    """A prompt, its export, and a generator for a client."""
    case = prompt_case(tiny_models[request.param])
    folder = tmp_path_factory.mktemp("served") / "export"
    export_as_vocabulary(
        case.model,
        case.soft_prompt,
        folder,
        prefix_ids=case.template.prefix_ids(case.examples),
        sample_ids=[case.template.document_ids(document).ids for document in DOCUMENTS[:3]],
    )
    return case, folder


def soft_generator(case, url, export, soft_prompt=None):
    return SoftPromptServerGenerator(
        CompletionsClient(url, "exported"),
        case.model,
        case.template,
        soft_prompt or case.soft_prompt,
        case.examples,
        GREEDY,
        7,
        export,
    )


@pytest.mark.parametrize("by_ids", [True, False], ids=["token ids", "prompt embeddings"])
def test_a_server_with_the_export_writes_what_our_engine_writes(served, by_ids):
    case, folder = served
    ours = case.generate()
    with completions_server(serve_folder(folder)) as (url, seen):
        theirs = soft_generator(case, url, folder if by_ids else None).generate(REQUESTS)
    assert [answer.raw for answer in theirs] == [answer.raw for answer in ours]
    assert [answer.tokens for answer in theirs] == [answer.tokens for answer in ours]
    assert [answer.stopped for answer in theirs] == [answer.stopped for answer in ours]
    assert [answer.cut_tokens for answer in theirs] == [answer.cut_tokens for answer in ours]
    assert theirs[0].log_probability == pytest.approx(-0.5 * theirs[0].tokens)
    assert len(seen) == len(REQUESTS)
    if by_ids:
        assert set(seen[0]["body"]["logit_bias"].values()) == {-100}


def test_the_export_of_another_prompt_is_refused(served):
    case, folder = served
    other = random_soft_prompt(case.model, seed=2)
    with pytest.raises(ModelError, match="another soft prompt"):
        soft_generator(case, "http://127.0.0.1:1/v1", folder, other)


def test_a_hard_prompt_is_text_and_sampling_names_its_seed():
    def answer(path, body):
        assert path == "/v1/completions"
        return {"choices": [{"text": " what is it\nmore", "finish_reason": "stop"}]}

    sampled = AugmentConfig(temperature=0.5)
    requests = [GenerationRequest(DOCUMENTS[0]), GenerationRequest(DOCUMENTS[0], attempt=1)]
    with completions_server(answer) as (url, seen):
        generator = HardPromptGenerator(
            CompletionsClient(url, "m"), PromptConfig(), "sptar", EXAMPLES[:1], sampled, 3
        )
        found = generator.generate(requests)
    assert [item.raw for item in found] == ["what is it", "what is it"]
    assert found[0].log_probability is None
    bodies = sorted((item["body"] for item in seen), key=lambda body: body["seed"])
    assert {body["seed"] for body in bodies} == {request_seed(3, item) for item in requests}
    assert bodies[0]["temperature"] == 0.5
    assert bodies[0]["prompt"] == hard_prompt(PromptConfig(), "sptar", EXAMPLES[:1], DOCUMENTS[0])


@pytest.mark.parametrize("style", ["sptar", "inpars", "inpars_gbq"])
def test_a_hard_prompt_reads_as_the_template_does(served, style):
    """Same text, white space aside, as the ids that the local engine sees."""
    from sptar.llm.template import PromptTemplate

    case, _ = served
    prompt = PromptConfig(examples=1, max_query_tokens=16)
    template = PromptTemplate(case.model, prompt, style, virtual_tokens=0, max_new_tokens=8)
    ids = [*template.prefix_ids(EXAMPLES[:1]), *template.document_ids(DOCUMENTS[8]).ids]
    decoded = case.model.tokenizer.decode(ids, skip_special_tokens=True)
    written = hard_prompt(prompt, style, EXAMPLES[:1], DOCUMENTS[8])
    assert decoded.split() == written.split()


def test_chat_servers_get_a_message():
    def answer(path, body):
        assert path == "/v1/chat/completions"
        assert "prompt" not in body
        assert body["messages"][0]["content"].endswith("on one line.")
        logprobs = {"content": [{"logprob": -1.0}, {"logprob": -0.25}]}
        return {
            "choices": [
                {"message": {"content": "a query"}, "finish_reason": "stop", "logprobs": logprobs}
            ],
            "usage": {"completion_tokens": 2},
        }

    with completions_server(answer) as (url, _):
        client = CompletionsClient(url, "m", interface="chat")
        generator = HardPromptGenerator(
            client, PromptConfig(examples=0), "inpars", (), GREEDY, 3, answer_only=True
        )
        (found,) = generator.generate(REQUESTS[:1])
    assert (found.raw, found.tokens, found.log_probability) == ("a query", 2, -1.25)


def test_a_busy_server_is_asked_again(monkeypatch):
    monkeypatch.setenv("A_KEY", "secret")
    waited = []

    async def wait(seconds):
        waited.append(seconds)

    answers = [(429, b"slow down", {"Retry-After": "7"}), (503, b"", {})]

    def answer(path, body):
        return answers.pop(0) if answers else {"choices": [{"text": "x", "finish_reason": "stop"}]}

    with completions_server(answer) as (url, seen):
        client = CompletionsClient(url, "m", api_key_variable="A_KEY", wait=wait)
        (found,) = client.complete([{"prompt": "p"}])
    assert found.text == "x"
    assert waited == [7.0, 2.0]
    assert seen[0]["headers"]["Authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    ("status", "said", "expected"),
    [
        (401, {"error": {"message": "bad key"}}, "401: bad key"),
        (404, {"error": "no such model"}, "404: no such model"),
        (400, {"message": "too long"}, "400: too long"),
    ],
)
def test_a_refusal_is_one_sentence(status, said, expected):
    with completions_server(lambda path, body: (status, said, {})) as (url, seen):
        with pytest.raises(ModelError, match=expected):
            CompletionsClient(url, "m").complete([{"prompt": "p"}])
        # Whether a 400 is the document's fault, another document shows.
        assert len(seen) == (2 if status == 400 else 1)


def test_a_strange_answer_and_a_missing_server_are_told():
    with (
        completions_server(lambda path, body: {"other": 1}) as (url, _),
        pytest.raises(ModelError, match="another form"),
    ):
        CompletionsClient(url, "m").complete([{"prompt": "p"}])
    waited = []

    async def wait(seconds):
        waited.append(seconds)

    with pytest.raises(ModelError, match="cannot be reached"):
        CompletionsClient(url, "m", wait=wait).complete([{"prompt": "p"}])
    assert len(waited) == 5


def test_settings_that_cannot_be_met_are_refused():
    with pytest.raises(ConfigError, match="needs `llm.base_url`"):
        completions_client(LanguageModelConfig(name="m", backend="openai"), "m")
    with pytest.raises(ModelError, match="no address"):
        CompletionsClient("file:///etc/passwd", "m")
