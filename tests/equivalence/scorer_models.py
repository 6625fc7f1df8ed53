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


def tokenizer(bos: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE of 400 entries; with `bos` every text begins with <s>, as Llama's and OPT's do."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    raw.train_from_iterator(
        [f"Question: {q}?\nAnswer: {a}" for q, answers in QUESTIONS for a in answers], trainer
    )
    if bos:
        raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    special = {"bos_token": "<s>"} if bos else {}
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>", pad_token="</s>", **special)


def model(family: str, seed: int = 0, positions: int = 256):
    """A random model of 2 layers; weights spread so that its predictions differ clearly."""
    torch.manual_seed(seed)
    shape = {"vocab_size": 400, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
             "max_position_embeddings": positions, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}  # fmt: skip
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
    rows = {task: [] for task in ("arc_easy", "arc_challenge", "sciq", "webqs", "triviaqa", "piqa", "hellaswag",
                                  "lambada_openai", "winogrande")}  # fmt: skip
    for n, (question, answers) in enumerate(QUESTIONS):
        choices = {"text": answers, "label": ["A", "B", "C", "D"]}
        for task in ("arc_easy", "arc_challenge"):
            rows[task].append(
                {
                    "id": f"{task}-{n}",
                    "question": f"{question}?",
                    "choices": choices,
                    "answerKey": "ABCD"[n % 4],
                }
            )
        rows["sciq"].append({"question": f"{question}?", "correct_answer": answers[0], "support": f"It is {answers[0]}.",
                             "distractor1": answers[1], "distractor2": answers[2], "distractor3": answers[3]})  # fmt: skip
        rows["webqs"].append({"question": f"{question.lower()}?", "answers": answers[:2]})
        rows["triviaqa"].append({"question": f"{question}?", "question_id": str(n),
                                 "answer": {"aliases": answers[:2], "value": answers[0]}})  # fmt: skip
        rows["piqa"].append({"goal": question, "sol1": answers[0], "sol2": answers[1], "label": n % 2})
        rows["hellaswag"].append({"ind": n, "activity_label": "Asking", "ctx_a": f"Someone asks: {question}?",
                                  "ctx_b": "the other", "endings": answers, "label": str(n % 4)})  # fmt: skip
        rows["lambada_openai"].append({"text": f"They asked: {question}? The answer is {answers[0]}"})
        rows["winogrande"].append({"sentence": f"If _ is the answer, the question is: {question}", 
                                   "option1": answers[0], "option2": answers[1], "answer": str(n % 2 + 1)})  # fmt: skip
    for task, items in rows.items():
        (folder / task).mkdir(parents=True)
        (folder / task / "data.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return folder
