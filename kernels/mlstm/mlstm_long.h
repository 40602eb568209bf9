#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/mlstm/mlstm.h"

/// What the kernels of the long form share. A head's tokens [begin, end) are cut into chunks of 64.
/// One kind of sweep serves the forward and all three gradients: over chunks in either direction,
///   out_r = ri_r x_r Z + sum_c A_rc z_c      A_rc = 2^(row_r + column_c) (x_r . y_c + bias)
///   Z <- decay Z + sum_c u_c y_c z_c^T
/// with x, y, z = q, k, v (h); dh, v, k (dq); v, dh, q (dk, backwards); k, q, dh (dv, backwards).
/// The factors come from the gates alone, so a small kernel writes them first (ChunkGates).
namespace lram::kernels::mlstm_long {

constexpr int kChunk = 64;
/// Chunks between the states that the backward keeps for <C, dC> (kernels.md 2.4): 512 tokens.
constexpr int kChunksPerCheckpoint = 8;

enum class Sweep { kForward, kGradQ, kGradK, kGradV };
template <Sweep kSweep>
inline constexpr bool kIsReverse = kSweep == Sweep::kGradK || kSweep == Sweep::kGradV;

/// One chunk's factors, an array of 64 each, base-2 logarithms; t the later token of a pair, s the
/// earlier one. `kFine` adds the parts that float32 exponents lose.
enum ChunkArray : int {
  kExponentT,  ///< log2(scale / normaliser_t) - M_t
  kExponentS,  ///< i~_s - b_s
  kInterT,     ///< weight of the state before the chunk in token t
  kInterS,     ///< weight of token s in the state after the chunk
  kAuxiliary,  ///< forward: the normaliser's floor; backward: -(dh . h) sign
  kSpan,       ///< int: first token of t's document in the chunk | last one << 8
  kExponentLowT,
  kExponentLowS,
};
template <bool kFine>
inline constexpr int kChunkHeader = kChunk*(kFine ? 8 : 6);
/// Behind the arrays: [0] decay of the state over the chunk, [1] int: tokens that count.
template <bool kFine>
inline constexpr int kChunkFloats = kChunkHeader<kFine> + 16;

struct Sizes {
  int batch, tokens, heads, key_dim, value_dim;
  int chunks;       ///< of the longest sequence
  int checkpoints;  ///< ceil(chunks / kChunksPerCheckpoint)
  std::size_t sequences() const {
    return static_cast<std::size_t>(batch) * static_cast<std::size_t>(heads);
  }
  std::size_t positions() const { return sequences() * static_cast<std::size_t>(chunks) * kChunk; }
};
inline Sizes sizes_of(const MlstmProblem& p) {
  const int chunks = (p.tokens + kChunk - 1) / kChunk;
  return {p.batch,
          p.tokens,
          p.heads,
          p.key_dim,
          p.value_dim,
          chunks,
          (chunks + kChunksPerCheckpoint - 1) / kChunksPerCheckpoint};
}

/// Hands out parts of a buffer, each aligned to 256 bytes; from null it only counts.
class Carver {
 public:
  explicit Carver(void* base) : base_(static_cast<std::byte*>(base)) {}
  template <typename T>
  T* take(std::size_t count) {
    T* part = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += (count * sizeof(T) + 255) / 256 * 256;
    return part;
  }
  std::size_t used() const { return used_; }

 private:
  std::byte* base_;
  std::size_t used_ = 0;
};

/// What the forward leaves; position = chunk * 64 + place in the chunk.
struct Saved {
  float* m_start = nullptr;       ///< [B H, chunks + 1] log2 units; exponential gate only
  float* inverse_norm = nullptr;  ///< [B H, positions] 1 / (max(|b|, floor) + eps), if normalised
  float* norm_sign = nullptr;     ///< [B H, positions] sign of b where |b| > floor, else 0
};
inline Saved carve_saved(const MlstmProblem& p, Carver& carver) {
  const Sizes n = sizes_of(p);
  Saved s;
  if (!p.sigmoid_gate)
    s.m_start = carver.take<float>(n.sequences() * static_cast<std::size_t>(n.chunks + 1));
  if (p.normalize) {
    s.inverse_norm = carver.take<float>(n.positions());
    s.norm_sign = carver.take<float>(n.positions());
  }
  return s;
}

}  // namespace lram::kernels::mlstm_long
