"""A small detector: finds scikit-learn's handwritten digits in scenes, with a non-maximum suppression of its own."""

from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

SIZE = 64
STRIDE = 8
CELLS = SIZE // STRIDE


class Scenes(Dataset):
    """Digits of one split, enlarged to 14 to 24 pixels and pasted where they hide little of each other.

    Items are the image [1, 64, 64] of values 0 to 255 and the objects [n, 5]: left, top, right, bottom and the digit,
    n from 0 to 4.
    """

    def __init__(self, pictures: np.ndarray, labels: np.ndarray, *, count: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.items = [_scene(pictures, labels, random) for _ in range(count)]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.items[index]


def _scene(pictures: np.ndarray, labels: np.ndarray, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    count = int(random.integers(5))
    image = torch.zeros(1, SIZE, SIZE)
    objects = torch.zeros(0, 5)
    while len(objects) < count:
        height, width = random.integers(14, 25, size=2).tolist()
        top, left = int(random.integers(SIZE - height + 1)), int(random.integers(SIZE - width + 1))
        which = int(random.integers(len(labels)))
        placed = torch.tensor([[left, top, left + width, top + height, labels[which]]], dtype=torch.float32)
        if bool((_overlaps(placed, objects) > 0.1).any()):
            continue
        picture = torch.from_numpy(pictures[which]).float()[None, None]
        pasted = functional.interpolate(picture, (height, width), mode="bilinear")[0, 0]
        window = image[0, top : top + height, left : left + width]
        window.copy_(torch.maximum(window, pasted))
        objects = torch.cat([objects, placed])
    noise = torch.from_numpy(random.normal(0, 8, (1, SIZE, SIZE)).astype(np.float32))
    return (image * (255 / 16) + noise).clamp(0, 255), objects


def _overlaps(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of every box of `a` [n, 4 or more] with every one of `b` [m, 4 or more]: [n, m]."""
    corner, other = torch.maximum(a[:, None, :2], b[:, :2]), torch.minimum(a[:, None, 2:4], b[:, 2:4])
    shared = (other - corner).clamp(min=0).prod(dim=2)
    areas = [(boxes[:, 2:4] - boxes[:, :2]).prod(dim=1) for boxes in (a, b)]
    return shared / (areas[0][:, None] + areas[1] - shared)


class Detector(nn.Module):
    """Each cell of an 8 x 8 grid says how near it is to the centre of a digit, where that ends, and which it is."""

    def __init__(self, width: int, threshold: float, overlap: float) -> None:
        super().__init__()
        self.threshold = threshold
        self.overlap = overlap
        # As an attribute, since TorchScript sees no globals.
        self.stride = STRIDE
        self.cells = nn.Sequential(
            *_layer(1, width, stride=2),
            *_layer(width, 2 * width, stride=2),
            *_layer(2 * width, 4 * width, stride=2),
            *_layer(4 * width, 4 * width, stride=1),
            *_layer(4 * width, 4 * width, stride=1),
            nn.Conv2d(4 * width, 1 + 4 + 10, 1),
        )
        middle = torch.arange(CELLS, dtype=torch.float32) * STRIDE + STRIDE / 2
        down, right = torch.meshgrid(middle, middle, indexing="ij")
        self.register_buffer("middles", torch.stack([right, down], dim=2).reshape(-1, 2))

    def predict(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For each cell: nearness as a logit [batch, 64], corners [batch, 64, 4] and logits [batch, 64, 10]."""
        cells = self.cells(image / 127.5 - 1.0).flatten(2).transpose(1, 2)
        reach = functional.softplus(cells[:, :, 1:5]) * self.stride
        corners = torch.cat([self.middles - reach[:, :, :2], self.middles + reach[:, :, 2:]], dim=2)
        return cells[:, :, 0], corners, cells[:, :, 5:]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Boxes [n, 4] in pixels, scores [n] and digits [n] of all images one after the other, and n of each image."""
        nearness, corners, digits = self.predict(image)
        scores, labels = (nearness.sigmoid()[:, :, None] * digits.softmax(dim=2)).max(dim=2)
        boxes = [corners.new_zeros((0, 4))]
        found = [scores.new_zeros((0,))]
        named = [labels.new_zeros((0,))]
        counts = torch.zeros(len(image), dtype=torch.long, device=image.device)
        for index in range(len(image)):
            likely = scores[index] > self.threshold
            candidates, certain = corners[index][likely], scores[index][likely]
            # The operator takes float32, and a model in another precision answers like this one.
            kept = torch.ops.detector.nms(candidates.float(), certain.float(), self.overlap)
            boxes.append(candidates[kept])
            found.append(certain[kept])
            named.append(labels[index][likely][kept])
            counts[index] = len(kept)
        return torch.cat(boxes), torch.cat(found), torch.cat(named), counts


def _layer(before: int, after: int, stride: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(before, after, 3, stride, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()


def build(params: dict[str, Any]) -> nn.Module:
    return Detector(params["width"], params["threshold"], params["overlap"])


def data(params: dict[str, Any]) -> tuple[Dataset, Dataset]:
    """Scenes to train on and scenes held out, made from different digits."""
    digits = load_digits()
    split = train_test_split(digits.images, digits.target, test_size=0.2, stratify=digits.target, random_state=0)
    training, held_out, labels, held_out_labels = split
    return (
        Scenes(training, labels, count=params["scenes"], seed=1),
        Scenes(held_out, held_out_labels, count=params["held_out"], seed=2),
    )


def collate(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, list[Tensor]]:
    """Scenes hold different numbers of objects, so theirs stay a list."""
    return torch.stack([image for image, _ in items]), [objects for _, objects in items]


def optimizer(model: nn.Module, params: dict[str, Any]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=params["learning_rate"])


def loss(model: Detector, batch: tuple[Tensor, list[Tensor]]) -> Tensor:
    """How wrong nearness is everywhere, and corners and digits are in the cells near a centre."""
    images, scenes = batch
    nearness, corners, digits = model.predict(images)
    wanted, owners = (
        torch.stack(each) for each in zip(*(_targets(model.middles, scene) for scene in scenes), strict=True)
    )
    near = wanted > 0.3
    weights, theirs = wanted[near], owners[near]
    misfit = 1 - _matched_overlap(corners[near], theirs)
    wrong = functional.cross_entropy(digits[near], theirs[:, 4].long(), reduction="none")
    unsure = functional.binary_cross_entropy_with_logits(nearness, wanted, reduction="sum")
    return (unsure + (weights * (misfit * 2 + wrong)).sum()) / len(images)


def _targets(middles: Tensor, objects: Tensor) -> tuple[Tensor, Tensor]:
    """For each cell how near it is to the nearest centre, 1 in it and falling as a bell curve, and the object there.

    A score that falls off tells two cells on one digit apart, where a yes or no would leave them a tie to be decided
    by rounding.
    """
    if not len(objects):
        return middles.new_zeros(len(middles)), middles.new_zeros((len(middles), 5))
    centres = (objects[:, :2] + objects[:, 2:4]) / 2
    distance, owner = ((middles[:, None] - centres) ** 2).sum(dim=2).min(dim=1)
    return torch.exp(-distance / (2 * 5.0**2)), objects[owner]


def _matched_overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of each box of `a` with the one at its place in `b`; below 0 where they are apart.

    Source: Rezatofighi and others, Generalized Intersection over Union, 2019, algorithm 1.
    """
    shared = (torch.minimum(a[:, 2:4], b[:, 2:4]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(dim=1)
    areas = [(boxes[:, 2:4] - boxes[:, :2]).prod(dim=1) for boxes in (a, b)]
    whole = areas[0] + areas[1] - shared
    around = (torch.maximum(a[:, 2:4], b[:, 2:4]) - torch.minimum(a[:, :2], b[:, :2])).prod(dim=1)
    return shared / whole - (around - whole) / around


def evaluate(model: Detector, held_out: Scenes) -> dict[str, float]:
    """A found box is right if it overlaps an object of its digit by more than a half; each object counts once."""
    images, scenes = collate(held_out.items)
    right = found = 0
    for batch in range(0, len(images), 100):
        boxes, scores, labels, counts = model(images[batch : batch + 100])
        parts = zip(*(each.split(counts.tolist()) for each in (boxes, scores, labels)), strict=True)
        for objects, (box, score, label) in zip(scenes[batch : batch + 100], parts, strict=True):
            right += _hits(objects, box[score.argsort(descending=True)], label[score.argsort(descending=True)])
            found += len(box)
    there = sum(len(objects) for objects in scenes)
    precision, recall = right / max(found, 1), right / there
    return {"precision": precision, "recall": recall, "f1": 2 * right / (found + there)}


def _hits(objects: Tensor, boxes: Tensor, labels: Tensor) -> int:
    fits = (_overlaps(boxes, objects) > 0.5) & (labels[:, None] == objects[:, 4])
    taken: set[int] = set()
    for row in fits:
        free = [at for at in row.nonzero().flatten().tolist() if at not in taken]
        taken.update(free[:1])
    return len(taken)
