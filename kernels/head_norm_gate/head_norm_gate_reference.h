#pragma once
#include <cstdint>
#include <vector>

namespace lram::kernels {
// N tokens (of all rows), H heads, d units per head; every array contiguous.

/// What head_norm_gate.h computes, in float64 and in plain loops. Fields left empty where the op
/// has no such tensor.
struct HeadNormGateReference {
  std::int64_t tokens = 0, heads = 0, dim = 0;
  bool silu = true;  ///< else sigmoid
  double eps = 1e-5, weight_offset = 1.0;
  std::vector<double> h = {}, z = {}, conv = {}, dy = {};  ///< in, [N, H, d]
  std::vector<double> weight = {}, skip = {};              ///< in, [H, d]

  std::vector<double> y = {}, dh = {}, dz = {}, dconv = {};  ///< out, [N, H, d]
  std::vector<double> dweight = {}, dskip = {};              ///< out, [H, d]
  std::vector<double> dh_dot_h = {};                         ///< out, [N, H]

  void forward();
  void backward();  ///< wants dy; leaves y alone
};

}  // namespace lram::kernels
