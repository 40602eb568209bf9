#pragma once
#include "kernels/head_norm_gate/head_norm_gate_tile.cuh"

/// How rows and weights come to the threads of head_norm_gate.cu, and rows from them.
namespace lram::kernels::norm_gate {

/// The head of the thread's group, its first token, and how many it goes through; rounds counts for
/// the whole warp, so that all of it shuffles.
template <typename C>
struct Work {
  int head, b, t, count, rounds;
  __device__ explicit Work(const Arguments<typename C::Tile>& a) {
    const int group = static_cast<int>(threadIdx.x) / C::Tile::kLanes, beside = a.heads_per_block;
    const int slots = C::kGroups / beside, slot = group / beside;
    head = static_cast<int>(blockIdx.y) * beside + group % beside;
    const int total = a.batch * a.tokens, step = static_cast<int>(gridDim.x) * slots;
    const int first = static_cast<int>(blockIdx.x) * slots + slot;
    count = first < total ? (total - first + step - 1) / step : 0;
    b = first / a.tokens, t = first % a.tokens;
    rounds = count;
#pragma unroll
    for (int distance = C::Tile::kLanes; distance < 32; distance *= 2)
      rounds = max(rounds, __shfl_xor_sync(0xffffffffu, rounds, distance));
    rounds = __shfl_sync(0xffffffffu, rounds, 0);  // ptxas sees that it is uniform
    if (C::Tile::kRows == 1) count = rounds;
  }
};

/// The rows that a group goes through. row[k]: the one at hand, zeros past the last.
template <typename C>
struct Rows {
  using Tile = typename C::Tile;
  using T = typename C::T;
  using Vectors = typename Tile::Vector[Tile::kVectors];
  static constexpr int kInputs = (C::kBackward ? 3 : 2) + C::kHasConv;
  static constexpr int kOutputs = C::kBackward ? 2 + C::kHasConv : 1;
  static constexpr int kConvRow = kInputs - 1;
  __device__ static constexpr int input(int k) { return k == 2 && !C::kBackward ? kConv : k; }

  const Arguments<Tile>& a;
  int count, t;
  bool wraps = false, next_wraps = false;  // between the row at hand and the next; after that
  std::uint32_t in[kInputs], out[kOutputs], dot;
  Vectors row[kInputs], next[C::kPlan.ahead ? kInputs : 1];

  __device__ Rows(const Arguments<Tile>& arguments, const Work<C>& work)
      : a(arguments), count(work.count), t(work.t) {
    const auto lane = static_cast<std::uint32_t>(Tile::lane());  // its first vector
#pragma unroll
    for (int k = 0; k < kInputs; ++k)
      in[k] = a.in[input(k)].offset(work.b, work.t, work.head) + lane;
#pragma unroll
    for (int k = 0; k < kOutputs; ++k) out[k] = a.out[k].offset(work.b, work.t, work.head) + lane;
    dot = a.dh_dot_h.offset(work.b, work.t, work.head);
    if constexpr (C::kPlan.ahead) load(next, 0);
  }
  __device__ bool valid(int round) const { return Tile::kRows == 1 || round < count; }
  __device__ T* output(int k) const { return a.out[k].at(out[k]); }
  __device__ float* dot_output() const { return a.dh_dot_h.at(dot); }

  __device__ void load(Vectors (&to)[kInputs], int round) {
    const bool any = round < count;
#pragma unroll
    for (int k = 0; k < kInputs; ++k) {
      const bool here = any && (k != kConvRow || !C::kHasConv || C::with_conv(a));
      const T* from = a.in[input(k)].at(in[k]);
#pragma unroll
      for (int v = 0; v < Tile::kVectors; ++v) {
        if (Tile::kRows > 1 || !Tile::kExact || C::kForm == Form::kAny) to[k][v] = {};
        if (here && Tile::holds(v, a.dim))
          to[k][v] = load_once<C::kHint, typename Tile::Vector>(from + v * Tile::kStride);
      }
    }
    wraps = next_wraps;
    t += a.next_t;
    next_wraps = t >= a.tokens;
    if (next_wraps) t -= a.tokens;
    if constexpr (!C::kPlan.ahead) wraps = next_wraps;
#pragma unroll
    for (int k = 0; k < kInputs; ++k) a.in[input(k)].advance(in[k], next_wraps);
  }
  __device__ void acquire(int round) {
    if constexpr (C::kPlan.ahead) {
#pragma unroll
      for (int k = 0; k < kInputs; ++k)
#pragma unroll
        for (int v = 0; v < Tile::kVectors; ++v) row[k][v] = next[k][v];
      load(next, round + 1);
    } else {
      load(row, round);
    }
  }
  __device__ void release() {
#pragma unroll
    for (int k = 0; k < kOutputs; ++k) a.out[k].advance(out[k], wraps);
    if constexpr (C::kBackward) a.dh_dot_h.advance(dot, wraps);
  }
};

template <typename Tile>
__device__ void store(typename Tile::T* row, int v, const float* x) {
  *reinterpret_cast<typename Tile::Vector*>(row + v * Tile::kStride) = Tile::Vector::of(x);
}

template <int kWidth>
__device__ void load_floats(float* out, const float* x) {  // aligned as d is a multiple of 8
#pragma unroll
  for (int i = 0; i < kWidth; i += 4) {
    const float4 part = __ldg(reinterpret_cast<const float4*>(x + i));
    out[i] = part.x, out[i + 1] = part.y, out[i + 2] = part.z, out[i + 3] = part.w;
  }
}

/// offset + weight and skip of the thread's vector v.
template <typename C>
struct Weights {
  using Tile = typename C::Tile;
  static constexpr int kHeld = C::kPlan.keep ? Tile::kUnits : Tile::kWidth;
  const Arguments<typename C::Tile>& a;
  int first;  ///< of the thread's units; pointers would take registers
  float scale[kHeld], skips[C::kHasConv ? kHeld : 1];

  __device__ Weights(const Arguments<typename C::Tile>& arguments, int head)
      : a(arguments), first(head * Tile::dim(a.dim) + Tile::unit(0)) {
    if constexpr (C::kPlan.keep)
#pragma unroll
      for (int v = 0; v < Tile::kVectors; ++v) load(v, v * Tile::kWidth);
  }
  __device__ void load(int v, int to) {
    load_floats<Tile::kWidth>(scale + to, a.weight + first + v * Tile::kStride);
#pragma unroll
    for (int i = 0; i < Tile::kWidth; ++i) scale[to + i] += a.weight_offset;
    if constexpr (C::kHasConv) {
#pragma unroll
      for (int i = 0; i < Tile::kWidth; ++i) skips[to + i] = 0.0f;
      if (C::with_conv(a))
        load_floats<Tile::kWidth>(skips + to, a.skip + first + v * Tile::kStride);
    }
  }
  /// Where they lie.
  __device__ int of(int v) {
    if constexpr (!C::kPlan.keep) load(v, 0);
    return C::kPlan.keep ? v * Tile::kWidth : 0;
  }
};

}  // namespace lram::kernels::norm_gate
