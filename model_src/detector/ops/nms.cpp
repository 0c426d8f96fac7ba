// Non-maximum suppression: of boxes that show the same thing, the one with the highest score stays.

#include <algorithm>
#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

namespace {

// Corners in pixels; a box that is turned inside out has no area.
struct Box {
  float left, top, right, bottom;

  float area() const { return std::max(right - left, 0.0F) * std::max(bottom - top, 0.0F); }
};

// Intersection over union; 0 for two boxes without area.
float overlap(const Box& a, const Box& b) {
  const Box both{
      std::max(a.left, b.left), std::max(a.top, b.top), std::min(a.right, b.right), std::min(a.bottom, b.bottom)};
  const float shared = both.area();
  const float whole = a.area() + b.area() - shared;
  return whole > 0.0F ? shared / whole : 0.0F;
}

// Walks through boxes [n, 4] by falling scores [n] and keeps those that overlap no kept one by more than `threshold`.
// Of equal scores the first box goes first. Returns the kept indices INT64 in rising order, so that two boxes with
// almost equal scores cannot change places when a runtime rounds differently.
at::Tensor nms(const at::Tensor& boxes, const at::Tensor& scores, double threshold) {
  TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, "detector::nms: boxes must be [n, 4], got ", boxes.sizes());
  TORCH_CHECK(
      scores.dim() == 1 && scores.size(0) == boxes.size(0),
      "detector::nms: scores must be [", boxes.size(0), "], one for each box, got ", scores.sizes());
  TORCH_CHECK(
      boxes.scalar_type() == at::kFloat && scores.scalar_type() == at::kFloat,
      "detector::nms: boxes and scores must be float32, got ", boxes.scalar_type(), " and ", scores.scalar_type());
  TORCH_CHECK(threshold >= 0 && threshold <= 1, "detector::nms: threshold must be from 0 to 1, got ", threshold);

  const auto corners = boxes.contiguous();
  const auto order = at::argsort(scores, /*stable=*/true, /*dim=*/0, /*descending=*/true);
  const auto* all = reinterpret_cast<const Box*>(corners.const_data_ptr<float>());
  const auto* ranked = order.const_data_ptr<int64_t>();

  std::vector<int64_t> kept;
  for (int64_t rank = 0; rank < boxes.size(0); ++rank) {
    const auto& candidate = all[ranked[rank]];
    const bool covered = std::any_of(
        kept.begin(), kept.end(), [&](int64_t index) { return overlap(all[index], candidate) > threshold; });
    if (!covered) {
      kept.push_back(ranked[rank]);
    }
  }
  std::sort(kept.begin(), kept.end());
  auto result = at::empty({static_cast<int64_t>(kept.size())}, order.options());
  std::copy(kept.begin(), kept.end(), result.mutable_data_ptr<int64_t>());
  return result;
}

}  // namespace

TORCH_LIBRARY(detector, m) {
  m.def("nms(Tensor boxes, Tensor scores, float threshold) -> Tensor");
}

TORCH_LIBRARY_IMPL(detector, CPU, m) {
  m.impl("nms", &nms);
}
