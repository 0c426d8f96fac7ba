"""Tells what a sentence of technical documentation is about: strings in, names and scores out, no tokeniser beside it.

Python's strings are made of code points and TorchScript's of bytes: len(), indexing, iteration, lower(), split() and
the like differ as soon as a letter is not ASCII (and lower() turns the Kelvin sign into an ASCII k in Python only). So
`words` lets ASCII letters count and takes all else for what lies between words, however many code points or bytes.
"""

from collections import Counter
from typing import Any

import torch
from corpus import SUBJECTS, Pairs, splits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

LABELS = list(SUBJECTS)


def words(text: str) -> list[str]:
    """The runs of ASCII letters, in lower case."""
    found: list[str] = []
    # TorchScript copies a string each time that it is indexed: without the list, a text of 1 MiB takes minutes.
    characters = list(text)
    start = 0
    for at in range(len(characters)):
        code = ord(characters[at])
        if not (65 <= code <= 90 or 97 <= code <= 122):
            if start < at:
                found.append("".join(characters[start:at]).lower())
            start = at + 1
    if start < len(characters):
        found.append("".join(characters[start:]).lower())
    return found


class Topic(nn.Module):
    """The likeliest subject of each text, and scores [texts, subjects] that add up to 1.

    The vocabulary belongs to the weights: `load_state_dict` brings back the one that was trained with.
    """

    number: dict[str, int]

    def __init__(self, vocabulary: list[str], size: int) -> None:
        super().__init__()
        self.labels = LABELS
        self.number = {word: number for number, word in enumerate(vocabulary)}
        self.bag = nn.EmbeddingBag(len(vocabulary), size, mode="mean")
        self.dropout = nn.Dropout(0.5)
        self.linear = nn.Linear(size, len(LABELS))

    def get_extra_state(self) -> Tensor:
        """The vocabulary as ASCII, a word a line."""
        return torch.tensor(list("\n".join(self.number).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        self.number = {word: number for number, word in enumerate(bytes(state.tolist()).decode().split("\n"))}

    def logits(self, text: list[str]) -> Tensor:
        """Unknown words are passed over; a text of no known word has the same logits as every other such text."""
        numbers: list[int] = []
        starts: list[int] = []
        for each in text:
            starts.append(len(numbers))
            # Most parts are in the vocabulary as they stand. Only the others are worth a look at each character, which
            # takes TorchScript four times as long as Python: its interpreter is the slower one, text has no kernels.
            for part in each.split(" "):
                number = self.number.get(part, -1)
                if number >= 0:
                    numbers.append(number)
                    continue
                for word in words(part):
                    number = self.number.get(word, -1)
                    if number >= 0:
                        numbers.append(number)
        device = self.linear.weight.device
        # With no text at all Python would take the empty lists for floating-point numbers.
        content = torch.tensor(numbers, dtype=torch.int64, device=device)
        offsets = torch.tensor(starts, dtype=torch.int64, device=device)
        return self.linear(self.dropout(self.bag(content, offsets)))

    def forward(self, text: list[str]) -> tuple[list[str], Tensor]:
        scores = self.logits(text).softmax(dim=1)
        likeliest: list[int] = scores.argmax(dim=1).tolist()
        return [self.labels[number] for number in likeliest], scores


class Texts(Dataset):
    """Pairs of a text and the number of its subject."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, at: int) -> tuple[str, int]:
        text, subject = self.pairs[at]
        return text, LABELS.index(subject)


def build(params: dict[str, Any]) -> nn.Module:
    """The vocabulary is the most frequent words of the training split, equally frequent ones by the alphabet."""
    training, _ = splits()
    counted = Counter(word for text, _ in training for word in set(words(text)))
    ranked = sorted(counted, key=lambda word: (-counted[word], word))
    return Topic(ranked[: params["words"]], params["size"])


def data(params: dict[str, Any]) -> tuple[Dataset, Dataset]:  # noqa: ARG001
    training, held_out = splits()
    return Texts(training), Texts(held_out)


def optimizer(model: nn.Module, params: dict[str, Any]) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=params["learning_rate"])


def loss(model: nn.Module, batch: tuple[list[str], Tensor]) -> Tensor:
    texts, labels = batch
    return functional.cross_entropy(model.logits(texts), labels)


def evaluate(model: nn.Module, held_out: Texts) -> dict[str, float]:
    """`accuracy` over all texts, and `recall` as the mean over subjects, of which some are rare."""
    answers, _ = model([text for text, _ in held_out.pairs])
    right: dict[str, list[bool]] = {label: [] for label in LABELS}
    for answer, (_, subject) in zip(answers, held_out.pairs, strict=True):
        right[subject].append(answer == subject)
    recalls = [sum(each) / len(each) for each in right.values()]
    return {"accuracy": sum(map(sum, right.values())) / len(held_out), "recall": sum(recalls) / len(recalls)}
