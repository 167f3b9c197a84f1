"""The exported checkpoint, served by plain transformers, writes what our engine writes."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prompt_cases import EXAMPLES, REQUESTS, PromptCase, language_model, random_soft_prompt
from sptar.errors import ModelError
from sptar.llm.vocabulary_export import EXPORT_FILE, export_as_vocabulary, load_export
from tiny import DOCUMENTS, LANGUAGE_MODEL_SHAPES


@pytest.fixture(scope="module", params=LANGUAGE_MODEL_SHAPES)
def exported(request, tiny_models, tmp_path_factory):
    model = language_model(tiny_models[request.param])
    case = PromptCase(model, random_soft_prompt(model), EXAMPLES[:1])
    template = case.template
    folder = tmp_path_factory.mktemp(request.param) / "export"
    export = export_as_vocabulary(
        model,
        case.soft_prompt,
        folder,
        prefix_ids=template.prefix_ids(case.examples),
        sample_ids=[template.document_ids(document).ids for document in DOCUMENTS[:4]],
    )
    return case, export, folder


def plain_text(case, export, model, document, **settings):
    """Greedy text by the library's own generate, from token ids alone."""
    prompt = [*export.prefix_ids, *case.template.document_ids(document).ids]
    out = model.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=case.max_new_tokens,
        do_sample=False,
        eos_token_id=list(export.stop_token_ids),
        pad_token_id=0,
        **settings,
    )
    return case.template.decode(out[0, len(prompt) :].tolist())


def test_greedy_text_is_that_of_our_engine_for_every_document(exported):
    case, export, folder = exported
    model = AutoModelForCausalLM.from_pretrained(folder).float().eval()
    ours = [answer.raw for answer in case.generator().generate(REQUESTS)]
    assert [plain_text(case, export, model, document) for document in DOCUMENTS] == ours
    assert len(set(ours)) > 3


def test_the_new_words_are_never_the_likeliest(exported):
    """Also without the generation config, for engines that do not read it."""
    case, export, folder = exported
    model = AutoModelForCausalLM.from_pretrained(folder).float().eval()
    assert set(export.virtual_token_ids) <= set(model.generation_config.suppress_tokens)
    prompt = [*export.prefix_ids, *case.template.document_ids(DOCUMENTS[5]).ids]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt])).logits[0, -1]
    new = list(export.virtual_token_ids)
    others = [token_id for token_id in range(len(logits)) if token_id not in new]
    if export.suppressed_by != "generation_config":
        assert logits[new].max() < logits[others].min()
    if export.suppressed_by == "direction":
        assert export.margin >= 20


def test_old_logits_stay_what_they_were(exported):
    case, _, folder = exported
    model = AutoModelForCausalLM.from_pretrained(folder).float().eval()
    ids = torch.tensor([case.template.document_ids(DOCUMENTS[1]).ids])
    with torch.no_grad():
        new = model(input_ids=ids).logits
        old = case.model.model(input_ids=ids).logits
    torch.testing.assert_close(new[..., : old.shape[-1]], old, rtol=0, atol=2e-6)


def test_the_tokenizer_knows_the_virtual_tokens_by_name(exported):
    _, export, folder = exported
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "".join(export.virtual_token_names)
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == list(export.virtual_token_ids)


def test_the_original_is_not_changed_and_the_export_loads_back(exported):
    case, export, folder = exported
    assert load_export(folder) == export
    assert case.model.model.config.vocab_size == len(case.model.model.get_input_embeddings().weight)
    for file in folder.iterdir():
        assert file.suffix in {".json", ".safetensors", ".txt", ".jinja", ".model"}
        if file.suffix == ".json":
            assert str(case.model.config.name) not in file.read_text()


def test_a_folder_with_something_else_is_refused(exported, tmp_path):
    case, _, folder = exported
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(ModelError, match="not empty"):
        export_as_vocabulary(case.model, case.soft_prompt, tmp_path, prefix_ids=[])
    with pytest.raises(ModelError, match="no exported soft prompt"):
        load_export(tmp_path)
    assert (folder / EXPORT_FILE).is_file()


def test_an_export_is_not_exported_again(exported, tmp_path):
    case, _, folder = exported
    model = language_model(folder)
    with pytest.raises(ModelError, match="already has a token"):
        export_as_vocabulary(model, case.soft_prompt, tmp_path / "again", prefix_ids=[])
