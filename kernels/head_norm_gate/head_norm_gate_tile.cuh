#pragma once
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/common/ptx.cuh"

/// What a thread of head_norm_gate.cu holds, and how a launch is shaped.
namespace lram::kernels::norm_gate {

/// Rows by 32-bit offsets in steps of kStep elements; head_norm_gate.cpp refuses what needs more.
/// Unsigned, as an offset past the last row may wrap around.
template <typename T, int kStep>
struct Tensor {
  T* data;
  std::uint32_t stride_b, stride_t, stride_h;
  std::uint32_t next, wrap;  ///< to a group's next token; added where that lies a batch further
  __device__ std::uint32_t offset(int b, int t, int h) const {
    return static_cast<std::uint32_t>(b) * stride_b + static_cast<std::uint32_t>(t) * stride_t +
           static_cast<std::uint32_t>(h) * stride_h;
  }
  __device__ void advance(std::uint32_t& offset, bool wraps) const {
    offset += next;
    if (wraps) offset += wrap;
  }
  __device__ T* at(std::uint32_t offset) const {
    return data + std::int64_t{static_cast<std::int32_t>(offset)} * kStep;
  }
};

enum Input { kH, kZ, kDy, kConv };
enum Output { kDh, kDz, kDconv, kY = kDh };

/// kWidth units that one instruction moves.
template <typename T, int kWidth>
struct alignas(sizeof(T) * kWidth) Vector;
template <int kWidth>
struct alignas(2 * kWidth) Vector<__nv_bfloat16, kWidth> {
  __nv_bfloat162 pair[kWidth / 2];
  __device__ float operator[](int i) const {
    return i % 2 == 0 ? __low2float(pair[i / 2]) : __high2float(pair[i / 2]);
  }
  __device__ static Vector of(const float* x) {
    Vector out;
#pragma unroll
    for (int i = 0; i < kWidth / 2; ++i)
      out.pair[i] = __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
    return out;
  }
};
template <int kWidth>
struct alignas(4 * kWidth) Vector<float, kWidth> {
  float unit[kWidth];
  __device__ float operator[](int i) const { return unit[i]; }
  __device__ static Vector of(const float* x) {
    Vector out;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) out.unit[i] = x[i];
    return out;
  }
};
template <bool kHint, typename Vector, typename T>
__device__ Vector load_once(const T* from) {
  using Word = std::conditional_t<sizeof(Vector) == 16, uint4, uint2>;
  static_assert(sizeof(Vector) == sizeof(Word));
  const Word word = kernels::load_once<kHint>(reinterpret_cast<const Word*>(from));
  Vector out;
  memcpy(&out, &word, sizeof(word));
  return out;
}

/// What the models have, at the dims that kernels are compiled for; and, slower, anything else.
enum class Form { kSiluConv, kSigmoidAlone, kAny };

/// Which units a thread holds. kExact: the group covers d to the unit.
template <typename T_, int kLanes_, int kVectors_, int kWidth_, bool kExact_>
struct Tile {
  using T = T_;
  using Vector = norm_gate::Vector<T, kWidth_>;
  static constexpr int kLanes = kLanes_, kVectors = kVectors_, kWidth = kWidth_;
  static constexpr bool kExact = kExact_;
  static constexpr int kUnits = kVectors * kWidth, kSpan = kLanes * kUnits, kRows = 32 / kLanes;
  static constexpr int kStride = kLanes * kWidth;  ///< from one of a thread's vectors to the next
  static_assert(kLanes <= 32 && sizeof(Vector) <= 16);

  __device__ static int lane() { return static_cast<int>(threadIdx.x) % kLanes; }
  /// First unit of the thread's vector v.
  __device__ static int unit(int v) { return (v * kLanes + lane()) * kWidth; }
  __device__ static bool holds(int v, int dim) { return kExact || unit(v) < dim; }
  __device__ static int dim(int given) { return kExact ? kSpan : given; }
  __device__ static float sum(float x) {
#pragma unroll
    for (int distance = kLanes / 2; distance > 0; distance /= 2)
      x += __shfl_xor_sync(0xffffffffu, x, distance);
    return x;
  }
};

template <typename Tile>
struct Arguments {
  using T = typename Tile::T;
  int batch, tokens, heads, dim;
  int heads_per_block, next_t;  // a group's next token, modulo tokens
  bool silu, with_conv;         // read by Form::kAny alone
  float eps, weight_offset;
  Tensor<const T, Tile::kWidth> in[4];
  Tensor<T, Tile::kWidth> out[3];
  Tensor<float, 1> dh_dot_h;
  const float *weight, *skip;
  float* partial;  // [grid.x, 2, H, d]
};

struct Plan {
  int warps;   ///< of a block
  int blocks;  ///< that a multiprocessor holds at once
  bool keep;   ///< weights stay in registers; else they come from L1 for every row
  bool ahead;  ///< the next row is asked for before this one is worked on
};
/// The fastest of those that spill nothing, by units a thread.
template <typename Tile, bool kBackward>
constexpr Plan plan() {
  constexpr int kUnits = Tile::kUnits;
  if (sizeof(typename Tile::T) == 4)
    return {8, kUnits > 8 || kBackward ? 1 : 2, false, kUnits <= 8};
  if (!Tile::kExact) return {8, kUnits > 8 ? 1 : 2, false, true};
  if (!kBackward)
    return kUnits <= 8    ? Plan{8, 4, false, true}
           : kUnits <= 12 ? Plan{8, 2, true, true}
           : kUnits <= 16 ? Plan{8, 2, false, true}
                          : Plan{12, 1, true, true};
  return kUnits <= 8    ? Plan{8, 2, true, true}
         : kUnits <= 16 ? Plan{12, 1, false, true}
                        : Plan{8, 1, false, true};
}

template <typename Tile_, Form kForm_, bool kBackward_>
struct Config {
  using Tile = Tile_;
  using T = typename Tile::T;
  static constexpr Form kForm = kForm_;
  static constexpr bool kBackward = kBackward_, kHasConv = kForm != Form::kSigmoidAlone;
  static constexpr bool kHint = kBackward || !kHasConv;  ///< of load_once, as measured
  static constexpr Plan kPlan = plan<Tile, kBackward>();
  static constexpr int kThreads = 32 * kPlan.warps, kGroups = kPlan.warps * Tile::kRows;
  __device__ static bool silu(const Arguments<Tile>& a) {
    return kForm == Form::kAny ? a.silu : kForm == Form::kSiluConv;
  }
  __device__ static bool with_conv(const Arguments<Tile>& a) {
    return kForm == Form::kAny ? a.with_conv : kHasConv;
  }
};

}  // namespace lram::kernels::norm_gate
