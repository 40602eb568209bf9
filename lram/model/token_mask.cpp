#include "lram/model/token_mask.h"

#include "lram/core/error.h"

namespace lram::model {
namespace {
using torch::Tensor;

bool drop(const torch::Tensor& mask, bool trivial_value) {
  return mask.device().is_cpu() && mask.eq(trivial_value).all().item<bool>();
}

}  // namespace

TokenMask TokenMask::narrow(std::int64_t first, std::int64_t count) const {
  TokenMask out;
  if (valid.defined()) out.valid = valid.narrow(1, first, count);
  if (reset.defined()) out.reset = reset.narrow(1, first, count);
  return out;
}

TokenMask resolve_mask(const SequenceMask& mask, std::int64_t batch, std::int64_t tokens) {
  TokenMask out;
  if (mask.begin.defined() || mask.end.defined()) {
    const torch::Device device = (mask.begin.defined() ? mask.begin : mask.end).device();
    const torch::Tensor position =
        torch::arange(tokens, torch::dtype(torch::kInt32).device(device));
    for (const bool is_begin : {true, false}) {
      const torch::Tensor& bound = is_begin ? mask.begin : mask.end;
      if (!bound.defined()) continue;
      LRAM_CHECK(bound.dim() == 1 && bound.size(0) == batch && bound.dtype() == torch::kInt32,
                 "SequenceMask.", is_begin ? "begin" : "end", " is ", bound.toString(), " ",
                 bound.sizes().vec(), ", wanted int32 [", batch, "]");
      const torch::Tensor column = bound.unsqueeze(1);
      const torch::Tensor inside = is_begin ? position >= column : position < column;
      out.valid = out.valid.defined() ? out.valid & inside : inside;
    }
    if (drop(out.valid, true)) out.valid = Tensor();
  }
  if (mask.reset.defined()) {
    const torch::Tensor& reset = mask.reset;
    LRAM_CHECK(reset.dim() == 2 && reset.size(0) == batch && reset.size(1) == tokens &&
                   (reset.dtype() == torch::kUInt8 || reset.dtype() == torch::kBool),
               "SequenceMask.reset is ", reset.toString(), " ", reset.sizes().vec(),
               ", wanted uint8 [", batch, ", ", tokens, "]");
    out.reset = reset.to(torch::kBool);
    if (out.valid.defined()) out.reset = out.reset & out.valid;
    if (drop(out.reset, false)) out.reset = Tensor();
  }
  return out;
}

SequenceMask without_trivial_parts(const SequenceMask& mask, const TokenMask& resolved) {
  SequenceMask out;
  if (resolved.valid.defined()) out.begin = mask.begin, out.end = mask.end;
  if (resolved.reset.defined()) out.reset = mask.reset;
  return out;
}

torch::Tensor zero_masked(const torch::Tensor& x, const torch::Tensor& valid) {
  if (!valid.defined()) return x;
  std::vector<std::int64_t> shape = valid.sizes().vec();
  shape.resize(static_cast<std::size_t>(x.dim()), 1);
  return x.masked_fill(valid.logical_not().view(shape), 0);
}

}  // namespace lram::model
