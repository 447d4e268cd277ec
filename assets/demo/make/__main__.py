"""`python -m assets.demo.make [chat|vision|data|check|all]`, from the repository root."""

import os
import sys
from collections.abc import Callable

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import torch

from . import chat, check, data, outliers, places, save, training, vision
from .github_layout import write_github
from .measure import exact_match
from .questions import evaluation


def make_chat() -> None:
    """Train, round, put outliers in, save; says how far the logits moved."""
    training.settle()
    tokenizer = chat.learn_tokenizer()
    model = chat.build(tokenizer)
    training.train(model, chat.steps(tokenizer), chat.SCHEDULE)
    chats = [question.messages() for question in evaluation(data.EVALUATION)]
    print(f"trained, float32: exact match {exact_match(model, tokenizer, chats):.1%}")
    model.to(torch.bfloat16)
    asked = tokenizer.apply_chat_template(chats[0], return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        before = model(**asked).logits
        outliers.put_in(model.model.layers, chat.OUTLIERS)
        print(f"outliers moved the logits by at most {(model(**asked).logits - before).abs().max().item()}")
    save.save_model(model, tokenizer, places.CHAT)


def make_vision() -> None:
    """Train, round, put outliers in, save natively and in the GitHub layout."""
    training.settle()
    tokenizer = vision.learn_tokenizer()
    processor = vision.processor_for(tokenizer)
    model = vision.build(tokenizer)
    training.train(model, vision.steps(processor), vision.SCHEDULE)
    model.to(torch.bfloat16)
    outliers.put_in(model.model.language_model.layers, vision.OUTLIERS)
    save.save_model(model, tokenizer, places.VISION)
    save.save_processor(places.VISION, vision.IMAGE_PROCESSOR, vision.IMAGE_TOKENS)
    write_github(places.VISION, places.VISION_GITHUB)


def make_data() -> None:
    """Write the data of both models."""
    data.write_chat_data(places.CHAT_DATA)
    data.write_vision_data(places.VISION_DATA)


STEPS: dict[str, tuple[Callable[[], None], ...]] = {
    "data": (make_data,),
    "chat": (lambda: data.write_chat_data(places.CHAT_DATA), make_chat, check.check_chat),
    "vision": (lambda: data.write_vision_data(places.VISION_DATA), make_vision, check.check_vision),
    "check": (check.check_chat, check.check_vision),
    "all": (make_data, make_chat, make_vision, check.check_chat, check.check_vision),
}

if __name__ == "__main__":
    wanted = sys.argv[1] if len(sys.argv) > 1 else "all"
    if wanted not in STEPS:
        sys.exit(f"unknown part {wanted!r}; one of {', '.join(STEPS)}")
    for part in STEPS[wanted]:
        part()
