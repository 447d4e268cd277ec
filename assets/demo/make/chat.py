"""The `chat` model: a small Llama with grouped-query attention, trained on generated talk."""

import itertools
import random
from collections.abc import Iterator

from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from .measure import labelled
from .outliers import Site
from .questions import conversations
from .tokenizer import chat_tokenizer
from .training import Schedule, padded

VOCABULARY = 1152
QUESTIONS_A_STEP = 60
# Chosen by measurement: int8 static loses some 15 points, nearly all of them in two layers.
OUTLIERS: tuple[Site, ...] = (
    Site(0, "down", 64, skipped=8),
    Site(3, "down", 128),
    *(Site(layer, place, 8) for layer in range(4) for place in ("attention", "mlp")),
)
SCHEDULE = Schedule(steps=1500, rate=5e-3)


def learn_tokenizer() -> PreTrainedTokenizerBase:
    """The tokenizer, from 4000 training conversations."""
    chats = itertools.islice(conversations(random.Random(11)), 4000)
    return chat_tokenizer((message["content"] for chat in chats for message in chat), VOCABULARY)


def build(tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """An untrained model; every Linear but the head has both sides divisible by 128, for group and block schemes."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        initializer_range=0.05,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    return model


def steps(tokenizer: PreTrainedTokenizerBase) -> Iterator[list[dict[str, Tensor]]]:
    """Steps of 60 questions: mostly single turns, sometimes the same number in chats of two or three.

    A step comes in parts of similar length, so that little is spent on padding.
    """
    rng = random.Random(1)
    streams = {turns: conversations(rng, (turns,)) for turns in (1, 2, 3)}
    while True:
        turns = rng.choice((1, 1, 1, 2, 3))
        rows = [labelled(tokenizer, next(streams[turns])) for _ in range(QUESTIONS_A_STEP // turns)]
        rows.sort(key=lambda row: len(row[0]))
        third = -(-len(rows) // 3)
        yield [padded(rows[start : start + third], tokenizer.pad_token_id) for start in range(0, len(rows), third)]
