"""Tiny random models, a tiny byte-level tokenizer and real-looking documents for tests of the scorer."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
)

QUESTIONS = [
    ("What is the capital of France", ["Paris", "London", "the city of Rome", "Oslo"]),
    ("What is the colour of a clear sky", ["blue", "blue and green", "red", "a kind of yellow"]),
    ("Which planet is closest to the sun", ["Venus", "Mercury", "the Earth", "Mars"]),
    ("Who wrote the play Hamlet", ["Shakespeare", "Marlowe", "Goethe", "Ibsen"]),
    ("What do bees make", ["honey", "milk", "wax candles", "sugar"]),
    ("How many legs has a spider", ["eight", "six", "four", "ten"]),
]


_TURNS = "{% for m in messages %}[{{ m.role }}]\n{{ m.content }}</s>\n{% endfor %}"
_TURN = "{% if add_generation_prompt %}[assistant]\n{% endif %}"
_PICKY = "{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
_STRICT = "{% if (m.role == 'user') != (loop.index0 % 2 == (1 if messages[0].role == 'system' else 0)) %}"
_STRICT += "{{ raise_exception('roles must alternate') }}{% endif %}"
TEMPLATES = {  # of chats
    "strict": "{% for m in messages %}" + _STRICT + "<{{ m.role }}>{{ m.content | trim }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>  \n {% endif %}",
    "turns": _TURNS + _TURN,
    "bos": "{{ bos_token }}" + _TURNS + _TURN,
    "day": "[system]\nToday is {{ strftime_now('%d %B %Y') }}.</s>\n" + _TURNS + _TURN,
    "no system": _TURNS.replace("[{{", _PICKY + "[{{") + _TURN,
}


def tokenizer(bos: bool = False, template: str | None = None) -> PreTrainedTokenizerFast:
    """Byte-level BPE of 400 entries; with `bos` every text begins with <s>, as Llama's and OPT's do.

    template: a name of TEMPLATES.
    """
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(
        [f"Question: {q}?\nAnswer: {a}" for q, answers in QUESTIONS for a in answers], trainer
    )
    if bos:
        raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    special = {"bos_token": "<s>"} if bos else {}
    made = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>", pad_token="</s>", **special)
    made.chat_template = TEMPLATES.get(template)
    return made


def model(family: str, seed: int = 0, positions: int = 256):
    """A random model of 2 layers; weights spread so that its predictions differ clearly."""
    torch.manual_seed(seed)
    shape = {
        "vocab_size": 400,
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": positions,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    if family == "llama":
        made = LlamaForCausalLM(
            LlamaConfig(intermediate_size=96, num_key_value_heads=2, initializer_range=0.3, **shape)
        )
    else:
        made = OPTForCausalLM(
            OPTConfig(ffn_dim=96, word_embed_proj_dim=48, dropout=0.0, init_std=0.3, **shape)
        )
    return made.eval()


def write_benchmarks(folder: Path) -> Path:
    """Six made-up items of each of the nine tasks in their data sets' schemas, as `resources/benchmarks/<set>` has."""
    rows: dict[str, list[dict]] = {}
    for n, (question, answers) in enumerate(QUESTIONS):
        first, second, third, fourth = answers
        arc = {"choices": {"text": answers, "label": ["A", "B", "C", "D"]}, "answerKey": "ABCD"[n % 4]}
        items = {
            "arc_easy": {"id": f"easy-{n}", "question": f"{question}?", **arc},
            "arc_challenge": {"id": f"challenge-{n}", "question": f"{question}?", **arc},
            "sciq": {
                "question": f"{question}?",
                "support": f"It is {first}.",
                "correct_answer": first,
                "distractor1": second,
                "distractor2": third,
                "distractor3": fourth,
            },
            "webqs": {"question": f"{question.lower()}?", "answers": [first, second]},
            "triviaqa": {"question": f"{question}?", "answer": {"aliases": [first, second], "value": first}},
            "piqa": {"goal": question, "sol1": first, "sol2": second, "label": n % 2},
            "hellaswag": {
                "activity_label": "Asking",
                "ctx_a": f"Someone asks: {question}?",
                "ctx_b": "the other",
                "endings": answers,
                "label": str(n % 4),
            },
            "lambada_openai": {"text": f"They asked: {question}? The answer is {first}"},
            "winogrande": {
                "sentence": f"If _ is the answer, the question is: {question}",
                "option1": first,
                "option2": second,
                "answer": str(n % 2 + 1),
            },
        }
        for task, item in items.items():
            rows.setdefault(task, []).append(item)
    return _written(folder, rows)


def write_probes(folder: Path) -> Path:
    """As `write_benchmarks`, of the other tasks of evaluate/tasks."""
    rows: dict[str, list[dict]] = {}
    for n, (question, answers) in enumerate(QUESTIONS):
        asked = {"question": f"{question}?"}
        passage = asked | {"title": "Facts", "context": f"It is {answers[0]}.", "answers": answers[:2]}
        items = {
            "mmlu": asked | {"subject": "world_facts", "choices": answers, "answer": n % 4},
            "jeopardy": asked | {"category": "facts", "answer": answers[0]},
            "squad": passage,
            "squad_closed": passage,
            "popqa": asked | {"possible_answers": json.dumps(answers[:2]), "s_pop": 10**n},
            "simpleqa": {"problem": f"{question}?", "answer": answers[0]},
        }
        for task, item in items.items():
            rows.setdefault(task, []).append(item)
    return _written(folder, rows)


def _written(folder: Path, rows: dict[str, list[dict]]) -> Path:
    for task, items in rows.items():
        (folder / task).mkdir(parents=True)
        (folder / task / "data.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return folder
