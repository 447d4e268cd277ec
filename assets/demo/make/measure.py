"""Exact match by greedy generation, and perplexity of the expected answers."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from .training import IGNORED

Message = dict[str, str]


@torch.inference_mode()
def answers(model: Any, tokenizer: PreTrainedTokenizerBase, prompts: list[list[Message]], batch: int = 100) -> list[str]:
    """What the model says to each prompt, greedily, stripped."""
    said: list[str] = []
    for start in range(0, len(prompts), batch):
        inputs = tokenizer.apply_chat_template(
            prompts[start : start + batch],
            add_generation_prompt=True,
            padding=True,
            return_tensors="pt",
            return_dict=True,
        )
        out = model.generate(**inputs, do_sample=False, max_new_tokens=32)
        said += tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in said]


def exact_match(model: Any, tokenizer: PreTrainedTokenizerBase, chats: list[list[Message]]) -> float:
    """The share of chats whose last message the model says word for word."""
    said = answers(model, tokenizer, [chat[:-1] for chat in chats])
    return sum(text == chat[-1]["content"] for text, chat in zip(said, chats, strict=True)) / len(chats)


def labelled(tokenizer: PreTrainedTokenizerBase, chat: list[Message]) -> tuple[list[int], list[int]]:
    """Token ids of a chat, and the same ids as labels where the assistant speaks (its end token included).

    The ids are those of the chat template; written out here because a training step needs a hundred of them.
    """
    ids: list[int] = [tokenizer.bos_token_id]
    labels: list[int] = [IGNORED]
    for asked, said in zip(chat[::2], chat[1::2], strict=True):
        before = tokenizer.encode(f"<|user|>{asked['content']}<|end|><|assistant|>", add_special_tokens=False)
        answer = tokenizer.encode(f"{said['content']}<|end|>", add_special_tokens=False)
        ids += before + answer
        labels += [IGNORED] * len(before) + answer
    return ids, labels


@torch.inference_mode()
def perplexity(model: nn.Module, tokenizer: PreTrainedTokenizerBase, chats: list[list[Message]]) -> float:
    """exp of the mean negative log likelihood of the answer tokens."""
    total, count = 0.0, 0
    for chat in chats:
        ids, labels = labelled(tokenizer, chat)
        logits: Tensor = model(input_ids=torch.tensor([ids])).logits
        target = torch.tensor(labels[1:])
        total += nn.functional.cross_entropy(logits[0, :-1].float(), target, ignore_index=IGNORED, reduction="sum").item()
        count += int((target != IGNORED).sum())
    return math.exp(total / count)
