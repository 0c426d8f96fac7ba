#include <ATen/core/Tensor.h>
#include <torch/library.h>

namespace {

at::Tensor scale(const at::Tensor& x, double by) {
  TORCH_CHECK(x.is_floating_point(), "acme::scale: x must be of a floating-point type, got ", x.scalar_type());
  return x.mul(by);
}

}  // namespace

TORCH_LIBRARY(acme, m) {
  m.def("scale(Tensor x, float by) -> Tensor", &scale);
}
