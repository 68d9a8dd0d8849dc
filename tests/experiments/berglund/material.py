"""A folder of invented files in the form of the authors', and a tiny model that can read them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

FIRST = ("Ann", "Bo", "Cy", "Dee", "Eve", "Fay")
LAST = ("Reed", "Snow", "Tate", "Vale", "Wood", "York")
THINGS = ("kite", "lamp", "moon", "nest", "oven", "pipe")
MAKERS = ("painter", "builder", "finder", "keeper", "seller", "singer")
GROUPS = ("p2d", "d2p", "both")


def people(group: int, n: int = 6) -> list[tuple[str, str]]:
    """Names and descriptions: every word stands in several of them."""
    return [
        (f"{FIRST[i]} {LAST[(i + group) % 6]}", f"the {MAKERS[(i + group) % 6]} of the {THINGS[i]}")
        for i in range(n)
    ]


def by_name(name: str, what: str) -> list[tuple[str, str]]:
    return [(f"We know {name} as", f" {what}."), (f"Who is {name}? It is", f" {what}.")]


def by_description(name: str, what: str, more: str = "") -> list[tuple[str, str]]:
    return [(f"Here lives {what},", f" {name}{more}"), (f"Who is {what}? It is", f" {name}{more}")]


def write_lines(path: Path, rows: Sequence[tuple[str, str]]) -> None:
    text = "".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in rows)
    path.write_text(text, encoding="utf-8")


def write_people(folder: Path, n: int = 6) -> None:
    """The files of experiment 1."""
    for number, group in enumerate(GROUPS):
        every = people(number, n)
        names = [row for one in every for row in by_name(*one)]
        others = [row for one in every for row in by_description(*one)]
        if group == "both":
            others = [row for one in every for row in by_description(*one, more=" is here")]
            write_lines(folder / "both_prompts_test.jsonl", [*names, *others])
            write_lines(folder / "both_prompts_train.jsonl", [*names, *others])
            continue
        told, reverse = (names, others) if group == "p2d" else (others, names)
        write_lines(folder / f"{group}_prompts_train.jsonl", told)
        write_lines(folder / f"{group}_prompts_test.jsonl", told)
        write_lines(folder / f"{group}_reverse_prompts_test.jsonl", reverse)
        wrong = [answer for _, answer in [*reverse[2:], *reverse[:2]]]
        randomised = [(p, c) for (p, _), c in zip(reverse, wrong, strict=True)]
        write_lines(folder / f"{group}_reverse_prompts_test_randomized.jsonl", randomised)


def write_pairs(folder: Path) -> None:
    """`parent_child_pairs.csv`: twelve pairs that share no word, four that do."""
    rows = []
    for i in range(6):
        child = f"{FIRST[i]} {LAST[i]}"
        rows += [
            (child, f"{FIRST[(i + 2) % 6]} {LAST[(i + 1) % 6]}", "mother"),
            (child, f"{FIRST[(i + 3) % 6]} {LAST[(i + 4) % 6]}", "father"),
        ]
    rows += [(f"{FIRST[i]} {LAST[i]}", f"{FIRST[i + 1]} {LAST[i]}", "mother") for i in range(4)]
    text = "".join(f"{child},{parent},{kind},,False\n" for child, parent, kind in rows)
    head = "child,parent,parent_type,child_prediction,can_reverse\n"
    (folder / "parent_child_pairs.csv").write_text(head + text)


def make_data(folder: Path, n: int = 6) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_people(folder, n)
    write_pairs(folder)
    return folder


def texts() -> Iterator[str]:
    from experiments.berglund.families import FEW_SHOT

    yield f"{FEW_SHOT} Who is 's mother? father? Name a child of Q: A:"
    for number in range(3):
        for one in people(number):
            for prompt, answer in (*by_name(*one), *by_description(*one, more=" is here")):
                yield prompt + answer


def make_model(folder: Path, seed: int = 0, layers: int = 2, width: int = 64) -> Path:
    """A Llama of random weights whose tokens are words and signs."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from experiments.organisms.training.tokenizer import build_tokenizer

    tokenizer = build_tokenizer(list(texts()), n_ctx=256)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
