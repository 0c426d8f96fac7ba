"""Runs in the training image: the topic model in Python and in TorchScript, on any text; and its two splits."""

import random
import sys

import torch

sys.path.append("/torchyard/model")
import corpus
import model as topic

# What lower(), split(), len() and indexing treat otherwise in TorchScript; \u212a becomes an ASCII k in Python.
HARD = ["", "\u212aelvin ma\u212ae", "İstanbul GRAPH", "a\x85b\xa0c\u2003d", "node\0edge", "e\u0301igen", "日本graph語"]


def _texts(count: int) -> list[str]:
    """Random text of ASCII, of what has several bytes, and of known words between them."""
    chosen = random.Random(0)
    planes = ((0, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x10FFFF))
    texts = []
    for _ in range(count):
        parts = [chr(chosen.randint(*chosen.choice(planes))) for _ in range(chosen.randint(0, 30))]
        parts += chosen.choices(["graph", "Matrix", " the ", "DataFrame"], k=3)
        chosen.shuffle(parts)
        texts.append("".join(parts))
    return texts


def _agrees() -> None:
    eager = topic.build({"words": 500, "size": 4}).eval()
    scripted = torch.jit.script(eager)
    with torch.inference_mode():
        for batch in ([], *([text] for text in HARD), HARD, _texts(500)):
            (subjects, scores), (same, equal) = eager(batch), scripted(batch)
            assert subjects == same, batch
            assert torch.equal(scores, equal), batch
            assert scores.shape == (len(batch), 8)
    assert torch.jit.script(topic.words)(HARD[0]) == []
    assert topic.words(HARD[1]) == ["elvin", "ma", "e"]


def _weights_bring_their_vocabulary() -> None:
    large, other = (topic.build({"words": 500, "size": 4}).eval() for _ in range(2))
    other.number = dict.fromkeys(other.number, 0)
    other.load_state_dict(large.state_dict())
    assert other.number == large.number


def _splits_are_apart() -> None:
    training, held_out = corpus.splits()
    assert len(training) > 10_000
    assert len(held_out) > 1_000
    known = {run for text, _ in training for run in corpus._runs(text)}
    assert not [text for text, _ in held_out if not known.isdisjoint(corpus._runs(text))]
    assert {subject for _, subject in training} == {subject for _, subject in held_out} == set(corpus.SUBJECTS)


if __name__ == "__main__":
    _agrees()
    _weights_bring_their_vocabulary()
    _splits_are_apart()
    print("held")
