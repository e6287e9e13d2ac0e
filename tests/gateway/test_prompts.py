"""Prompts as people and frameworks write them: what is asked and what is context is told apart."""

from __future__ import annotations

import json
from typing import Any

import pytest
from llama_index.core.chat_engine import condense_plus_context, condense_question
from llama_index.core.evaluation import FaithfulnessEvaluator, RelevancyEvaluator
from llama_index.core.prompts import chat_prompts, default_prompts
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.schema import NodeWithScore, TextNode

from lava_mistral.gateway import LocalGateway
from lava_mistral.gateway.model.prompt import NOTHING
from lava_mistral.gateway.model.reply import reply_to as answer
from llama_index_lava_mistral import ChatLavaMistral

TEXT = (
    "The lighthouse of Skagen is 46 metres high. It was lit in 1858. The keeper Niels Winther painted its door green."
)
QUESTION = "How high is the lighthouse of Skagen?"
RIGHT = "The lighthouse of Skagen is 46 metres high."


def ask(*messages: Any) -> str:
    turns = [message if isinstance(message, tuple) else ("user", message) for message in messages]
    return answer({"messages": [{"role": role, "content": content} for role, content in turns]}).text


RAG = (
    "You are an assistant for question-answering tasks. Use the following pieces of retrieved context to answer the "
    "question. If you don't know the answer, just say that you don't know. Use three sentences maximum and keep the "
    "answer concise.\nQuestion: {question} \nContext: {text} \nAnswer:"
)
STUFFED = (
    "Use the following pieces of context to answer the question at the end. If you don't know the answer, just say "
    "that you don't know, don't try to make up an answer.\n\n{text}\n\nQuestion: {question}\nHelpful Answer:"
)


@pytest.mark.parametrize(
    "prompt",
    [
        RAG,
        STUFFED,
        "Question: {question}\nContext: {text}",
        "Context: {text}\nQuestion: {question}",
        "Context: {text} Question: {question} Answer:",
        "Question: {question}\n{text}",
        "Passages:\n[1] towers.md\n{text}\n\n**Question:** {question}",
        "Context:\n{text}\n\n{question}",
        "Answer based on this context: {text}\n\n{question}",
        "<context>\n{text}\n</context>\n\n<question>{question}</question>",
        "{text} {question}",
    ],
)
def test_a_question_is_found_wherever_it_stands(prompt):
    assert ask(prompt.format(text=TEXT, question=QUESTION)) == RIGHT


@pytest.mark.parametrize(
    "system",
    [
        "Answer from this: {text}",
        "Answer the user's question using this context: {text}",
        "You are helpful. Context: {text}",
        "Answer any questions based solely on the context below:\n\n<context>\n{text}\n</context>",
    ],
)
def test_a_fact_behind_an_instruction_is_kept(system):
    assert ask(("system", system.format(text=TEXT)), QUESTION) == RIGHT


@pytest.mark.parametrize(
    "prompt",
    [
        "Summarize: {text}",
        "Summarize this text: {text}",
        "Please summarise the following text:\n{text}",
        "{text}\nSummarize the above.",
        "TL;DR: {text}",
        "Can you please summarize this? {text}",
        "{text}\n\nGive me a short summary.",
        "{text}\n\nSummary:",
        "Write a concise summary of the following:\n\n\n{text}\n\n\nCONCISE SUMMARY:",
        default_prompts.DEFAULT_SUMMARY_PROMPT_TMPL.replace("{context_str}", "{text}"),
    ],
)
def test_a_summary_is_of_the_text_alone(prompt):
    assert ask(prompt.format(text=TEXT)) == TEXT


def filled(messages: Any, **given: str) -> list[tuple[str, str]]:
    return [(message.role.value, message.content.format(**given)) for message in messages]


def test_llama_index_asks_with_context():
    given = {"context_str": TEXT, "query_str": QUESTION}
    for template in (default_prompts.DEFAULT_TEXT_QA_PROMPT_TMPL, default_prompts.DEFAULT_TREE_SUMMARIZE_TMPL):
        assert ask(template.format(**given)) == RIGHT
    for messages in (chat_prompts.TEXT_QA_PROMPT_TMPL_MSGS, chat_prompts.TREE_SUMMARIZE_PROMPT_TMPL_MSGS):
        assert ask(*filled(messages, **given)) == RIGHT
        assert ask(*filled(messages, context_str=TEXT, query_str="Who won the race?")) == NOTHING
    system = condense_plus_context.DEFAULT_CONTEXT_PROMPT_TEMPLATE.format(context_str=TEXT)
    assert ask(("system", system), QUESTION) == RIGHT


@pytest.mark.parametrize(
    ("question", "before", "after"),
    [
        (QUESTION, "It is a high lighthouse.", RIGHT),
        (QUESTION, NOTHING, RIGHT),
        ("Who won the race?", "Ada won.", "Ada won."),
    ],
)
def test_llama_index_refines_an_answer(question, before, after):
    given = {"context_msg": TEXT, "query_str": question, "existing_answer": before}
    assert after in ask(default_prompts.DEFAULT_REFINE_PROMPT_TMPL.format(**given))
    assert after in ask(*filled(chat_prompts.CHAT_REFINE_PROMPT_TMPL_MSGS, **given))


@pytest.mark.parametrize(
    "template",
    [
        condense_question.DEFAULT_TEMPLATE,
        condense_plus_context.DEFAULT_CONDENSE_PROMPT_TEMPLATE,
        "Rephrase the follow up question to be a standalone question.\n\nChat History:\n{chat_history}\n"
        "Follow Up Input: {question}\nStandalone question:",
    ],
)
def test_a_follow_up_question_stays_a_question(template):
    history = "user: Where is the lighthouse?\nassistant: It is in Skagen."
    assert ask(template.format(chat_history=history, question="How high is it?")) == "How high is it?"


GRADER = (
    "You are a grader assessing relevance of a retrieved document to a user question. \n Here is the retrieved "
    "document: \n\n {text} \n\nHere is the user question: {question} \nIf the document contains keywords related to "
    "the user question, grade it as relevant. \nGive a binary score 'yes' or 'no' to indicate whether the document is "
    "relevant to the question."
)


@pytest.mark.parametrize(
    "score", [{"type": "string"}, {"enum": ["yes", "no"]}, {"type": "string", "enum": ["no", "yes"]}]
)
@pytest.mark.parametrize(("question", "expected"), [(QUESTION, "yes"), ("Who won the race?", "no")])
def test_a_grader_says_yes_or_no(question, expected, score):
    prompt = GRADER.format(text=TEXT, question=question)
    assert ask(prompt) == expected
    schema = {"properties": {"binary_score": score}, "required": ["binary_score"]}
    body: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}]}
    form = {"type": "json_schema", "json_schema": {"name": "grade", "schema": schema}}
    assert json.loads(answer({**body, "response_format": form}).text) == {"binary_score": expected}


@pytest.mark.parametrize(("told", "expected"), [("is lit", "YES"), ("is not lit", "NO"), ("sleeps", "NO")])
def test_a_question_can_ask_for_yes_or_no(told, expected):
    assert ask(f"Context: The lighthouse {told} at night.\n\nIs it lit? Answer with YES or NO.") == expected


@pytest.mark.usefixtures("idle_loop")
def test_a_query_engine_of_llama_index_leaves_out_what_does_not_answer():
    with LocalGateway() as gateway:
        model = ChatLavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url)
        synthesizer = get_response_synthesizer(llm=model, structured_answer_filtering=True)
        nodes = [NodeWithScore(node=TextNode(text=text)) for text in ("The sea is not far.", TEXT)]
        assert str(synthesizer.synthesize(QUESTION, nodes)) == RIGHT
        assert str(synthesizer.synthesize("Who won the race?", nodes)) == "Empty Response"


@pytest.mark.parametrize(
    ("evaluator", "said", "passing"),
    [
        (FaithfulnessEvaluator, RIGHT, True),
        (FaithfulnessEvaluator, "Bananas grow on Mars.", False),
        (RelevancyEvaluator, RIGHT, True),
    ],
)
@pytest.mark.usefixtures("idle_loop")
def test_evaluators_of_llama_index_pass_what_the_context_has(evaluator, said, passing):
    with LocalGateway() as gateway:
        judge = evaluator(llm=ChatLavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url))
        assert judge.evaluate(query=said, response=said, contexts=[TEXT]).passing == passing


def test_a_word_in_a_text_is_no_instruction():
    report = f"# Summary\n\n{TEXT}\n\nAll of this is a summary of the report."
    assert ask(f"{report}\n\n{QUESTION}") == RIGHT
    assert ask(("system", TEXT), "Tell me about the following: how high the lighthouse is.") == RIGHT
    assert ask(("system", TEXT), "I like the text above. Tell me how high the lighthouse is.") == RIGHT
    assert ask(("system", TEXT), f"User: Hello\nAssistant: Hello!\nUser: {QUESTION}\nUser:") == RIGHT


def test_what_only_looks_like_a_label_is_kept():
    facts = ("system", "Contact information: call 555. Opening hours: 9 to 5.")
    assert ask(facts, "What is the contact information?") == "Contact information: call 555."
    assert ask(facts, "What are the opening hours?") == "Opening hours: 9 to 5."
    listed = ("system", "Q: How long do refunds take?\nA: Refunds take five days.\nQ: How much is delivery?\nA: 9 EUR.")
    assert ask(listed, "How long do refunds take?") == "Refunds take five days."


@pytest.mark.parametrize(
    "text",
    [
        "The lighthouse of Skagen\nis 46 metres high. Oslo is a town.",
        "In the north of the country the lighthouse\nSkagen stands, and is 46 metres high. Oslo is a town.",
    ],
)
def test_a_sentence_goes_on_after_the_end_of_a_line(text):
    said = ask(("system", f"Answer from this alone.\n\n{text}"), "How high is the lighthouse of Skagen?")
    assert said == " ".join(text.removesuffix(" Oslo is a town.").split())
