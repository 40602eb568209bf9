#include "lram/model/block_linear.h"

#include <vector>

#include "lram/core/error.h"

namespace lram::model {
using torch::Tensor;

Tensor block_linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const std::int64_t groups = weight.size(0), out = weight.size(1), in = weight.size(2);
  LRAM_CHECK(x.size(-1) == groups * in, "block_linear: x is ", x.sizes().vec(), ", weight ",
             weight.sizes().vec(), ", wanted a last size of ", groups * in);
  std::vector<std::int64_t> shape = x.sizes().vec();
  shape.back() = groups * out;
  const Tensor by_group = x.reshape({-1, groups, in}).transpose(0, 1);
  const Tensor y = at::matmul(by_group, weight.transpose(1, 2)).transpose(0, 1).reshape(shape);
  return bias.defined() ? y + bias : y;
}

}  // namespace lram::model
