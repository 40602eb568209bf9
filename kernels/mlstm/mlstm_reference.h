#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace lram::kernels {
// B batch, T tokens, H heads, K query/key dim per head, V value dim per head.

/// Everything contiguous, in double; an empty vector is an absent part.
struct MlstmReferenceInput {
  int batch = 1, tokens = 1, heads = 1, key_dim = 1, value_dim = 1;
  bool sigmoid_gate = false, normalize = true;
  double eps = 1e-6, gate_soft_cap = 0;
  bool float32 = false;             ///< compute in float32: a plain run with that type's roundings
  std::vector<double> q, k;         ///< [B, T, H, K]
  std::vector<double> v;            ///< [B, T, H, V]
  std::vector<double> i, f;         ///< [B, T, H] pre-activations
  std::vector<std::uint8_t> reset;  ///< [B, T]
  std::vector<std::int32_t> begin, end;  ///< [B]
  std::vector<double> c0, n0, m0;        ///< [B, H, K, V], [B, H, K], [B, H]
};

struct MlstmReferenceOutput {
  std::vector<double> h;        ///< [B, T, H, V]
  std::vector<double> c, n, m;  ///< final state
};

struct MlstmReferenceGradient {
  std::vector<double> dq, dk, dv, di, df, dc0, dn0;
  /// [B, T, H] |di| sigmoid(-f), by which the error of df is floored.
  std::vector<double> df_floor;
};

/// The recurrent form of kernels.md 1.2 to 1.4, one loop per equation: the judge of every kernel.
MlstmReferenceOutput mlstm_reference_forward(const MlstmReferenceInput& input);

/// Gradients of <h, dh> + <c, dc> + <n, dn> with every m constant (kernels.md 2.4). dc, dn may be
/// empty. Without `normalizer_gradient` the normaliser counts as a constant.
/// `dh_dot_h` [B, T, H], may be empty: taken in place of the sum dh . h.
MlstmReferenceGradient mlstm_reference_backward(const MlstmReferenceInput& input,
                                                const std::vector<double>& dh,
                                                const std::vector<double>& dc,
                                                const std::vector<double>& dn,
                                                bool normalizer_gradient = true,
                                                const std::vector<double>& dh_dot_h = {});

}  // namespace lram::kernels
