"""Runs in the training image: holds detector::nms in /ops.so to a plain reading of its promise, and to torchvision."""

import torch
from torch import Tensor
from torchvision.ops import nms as torchvisions

torch.ops.load_library("/ops.so")
ours = torch.ops.detector.nms


def plain(boxes: Tensor, scores: Tensor, threshold: float) -> list[int]:
    """The kept indices in rising order, box by box."""
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda index: (-float(scores[index]), index)):
        if all(_overlap(boxes[index].tolist(), boxes[other].tolist()) <= threshold for other in kept):
            kept.append(index)
    return sorted(kept)


def _overlap(a: list[float], b: list[float]) -> float:
    across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(across, 0) * max(down, 0)
    whole = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / whole if whole > 0 else 0.0


def agree(boxes: Tensor, scores: Tensor, threshold: float) -> None:
    got = ours(boxes, scores, threshold)
    assert got.dtype == torch.int64
    assert got.tolist() == plain(boxes, scores, threshold), (boxes, scores, threshold)
    assert got.tolist() == sorted(torchvisions(boxes, scores, threshold).tolist()), (boxes, scores, threshold)


def refused(boxes: Tensor, scores: Tensor, threshold: float, told: str) -> None:
    said = ""
    try:
        ours(boxes, scores, threshold)
    except RuntimeError as error:
        said = str(error)
    assert told in said, f"it should have said {told!r}, not {said!r}"


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    for count in (0, 1, 2, 5, 40, 120):
        for threshold in (0.0, 0.25, 0.5, 1.0):
            for _ in range(5):
                # Whole numbers: overlaps of exactly the threshold, boxes without area, and equal scores come up.
                corner = torch.randint(0, 12, (count, 2), generator=generator).float()
                size = torch.randint(0, 9, (count, 2), generator=generator).float()
                boxes = torch.cat([corner, corner + size], dim=1)
                scores = torch.randint(0, 20, (count,), generator=generator).float() / 20
                agree(boxes, scores, threshold)
                agree(boxes.repeat(1, 2)[:, 2:6], scores, threshold)
    boxes, scores = torch.tensor([[0.0, 0, 4, 4]]).repeat(3, 1), torch.ones(3)
    assert ours(boxes, scores, 0.5).tolist() == [0]
    with torch.inference_mode():
        assert ours(boxes, scores, 1.0).tolist() == [0, 1, 2]
    refused(boxes[:, :3], scores, 0.5, "boxes must be [n, 4], got [3, 3]")
    refused(boxes, scores[:2], 0.5, "scores must be [3], one for each box, got [2]")
    refused(boxes, scores[:, None], 0.5, "scores must be [3], one for each box, got [3, 1]")
    refused(boxes.double(), scores, 0.5, "must be float32, got Double and Float")
    refused(boxes, scores, 1.5, "threshold must be from 0 to 1, got 1.5")
    refused(boxes, scores, float("nan"), "threshold must be from 0 to 1, got nan")
    print("agreed")


if __name__ == "__main__":
    main()
