#pragma once
#include "kernels/common/device.h"
#include "kernels/mlstm/mlstm_long_sweep_sm90.cuh"

/// Launching a sweep on Hopper: tiles for the head dims, parts of long sequences and their states,
/// the caller's states to and from the order in which the sweep's threads hold Z.
namespace lram::kernels::mlstm_long {

/// Number `e` of a slice's state as the sweep's threads hold it: row and column of Z.
struct StatePlace {
  int row, column;
};
__device__ inline StatePlace state_place(int e, int half) {
  const int thread = e % 256, block = e / 256 / (half / 2), value = e / 256 % (half / 2);
  const int lane = thread % 32;
  return {64 * block + 16 * (thread % 128 / 32) + lane / 4 + 8 * (value / 2 % 2),
          thread / 128 * half + 8 * (value / 4) + 2 * (lane % 4) + value % 2};
}
/// Between that order and the caller's c, in which row and column of Z have the strides given.
struct ReorderArgs {
  float *ours, *c;
  std::size_t total, part_floats;
  int rows, columns;  ///< of the tile
  int slices, x_dim, z_dim, row_stride, column_stride;
};
template <bool kIn>
__global__ void reorder_state(ReorderArgs a) {
  const std::size_t index = static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= a.total) return;
  const auto numbers = static_cast<std::size_t>(a.rows) * static_cast<std::size_t>(a.columns);
  const std::size_t head_slice = index / numbers;
  const int e = static_cast<int>(index % numbers), slice = static_cast<int>(head_slice % a.slices);
  const StatePlace place = state_place(e, a.columns / 2);
  const int column = slice * a.columns + place.column;
  const bool inside = place.row < a.x_dim && column < a.z_dim;
  float* const here = a.ours + head_slice * a.part_floats + e;
  float* const c = a.c;
  const std::size_t there = head_slice / a.slices * a.x_dim * a.z_dim +
                            static_cast<std::size_t>(place.row) * a.row_stride +
                            static_cast<std::size_t>(column) * a.column_stride;
  if (kIn) {
    *here = inside ? c[there] : 0.0f;
  } else if (inside) {
    c[there] = *here;
  }
}

struct CombineArgs {
  float* part_state;
  const float* part_decay;
  const std::int32_t *begin, *end;
  Sizes sizes;
  int slices, parts, chunks_per_part;
  std::size_t part_floats;
};
/// Each part's state so far knows its predecessor alone: adds what came before, in the sweep's
/// order, one thread to a number.
template <bool kReverse>
__global__ void combine_parts(CombineArgs a) {
  const int heads = a.sizes.batch * a.sizes.heads;
  const std::size_t index = static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const std::size_t stride = static_cast<std::size_t>(heads) * a.slices * a.part_floats;
  if (index >= stride) return;
  const int head = static_cast<int>(index / a.part_floats / a.slices);
  const int chunks = span_of(a.begin, a.end, head / a.sizes.heads, a.sizes.tokens).chunks();
  const int parts = (chunks + a.chunks_per_part - 1) / a.chunks_per_part;
  float* state = a.part_state + index;
  float value = 0;
  for (int step = 1; step < parts; ++step) {
    const int part = kReverse ? parts - 1 - step : step;  // who starts with it
    const int from = kReverse ? part + 1 : part - 1;      // whose chunks it has passed
    const float own = state[static_cast<std::size_t>(part) * stride];
    value = step == 1 ? own : own + a.part_decay[from * heads + head] * value;
    state[static_cast<std::size_t>(part) * stride] = value;
  }
}

/// How a sweep is cut up on this device.
struct SweepPlan {
  int rows = 0, columns = 0;  ///< of the tile
  int slices = 1, parts = 1, chunks_per_part = 1;
  std::size_t part_floats = 0;
};

template <int kRows, int kColumns>
SweepPlan plan_sweep(const Sizes& n, int z_dim) {
  SweepPlan plan;
  plan.rows = kRows;
  plan.columns = kColumns;
  plan.slices = (z_dim + kColumns - 1) / kColumns;
  plan.part_floats = kPartFloats<kRows, kColumns>;
  const int columns = static_cast<int>(n.sequences()) * plan.slices;
  // Cut only where it doubles the CTAs at work; a part is 1024 tokens or more, since each costs a
  // pass over y and z and a state.
  const int wanted = current_device().multiprocessors / columns;
  const int most = n.chunks / (2 * kChunksPerCheckpoint);
  plan.parts = wanted < 2 || most < 2 ? 1 : (wanted < most ? wanted : most);
  plan.chunks_per_part = (n.chunks + plan.parts - 1) / plan.parts;
  plan.parts = (n.chunks + plan.chunks_per_part - 1) / plan.chunks_per_part;
  return plan;
}

/// Floats of part_state, of part_decay and words of the checkpoints that a sweep wants.
struct SweepNeeds {
  SweepPlan plan;
  std::size_t state = 0;  ///< floats of one [B H, slices] of states
  std::size_t part_state = 0, part_decay = 0, checkpoint_words = 0;
};
template <int kRows, int kColumns>
SweepNeeds sweep_needs(const Sizes& n, int z_dim) {
  SweepNeeds needs;
  needs.plan = plan_sweep<kRows, kColumns>(n, z_dim);
  const std::size_t columns = n.sequences() * static_cast<std::size_t>(needs.plan.slices);
  needs.state = columns * needs.plan.part_floats;
  if (needs.plan.parts > 1) {
    needs.part_state = static_cast<std::size_t>(needs.plan.parts) * needs.state;
    needs.part_decay = static_cast<std::size_t>(needs.plan.parts) * n.sequences();
  }
  needs.checkpoint_words =
      columns * static_cast<std::size_t>(n.checkpoints) * kCheckpointWords<kRows, kColumns>;
  return needs;
}

/// The caller's c in and out of a sweep, or null, and room for Z in the threads' order.
struct StateBuffers {
  float *c_in = nullptr, *c_out = nullptr;
  int row_stride = 0, column_stride = 0;
  float *z_in = nullptr, *z_out = nullptr;
  bool keep_z_out = false;  ///< z_out is wanted for itself
};

/// Launches the sweep, before it the pass over the parts' states where there are several.
template <int kRows, int kColumns, Sweep kSweep>
void launch_sweep(const SweepMaps& maps, SweepArgs a, const StateBuffers& states,
                  cudaStream_t stream) {
  using Tiles = SweepTiles<kRows, kColumns, kHasDots<kSweep>>;
  const SweepPlan plan = plan_sweep<kRows, kColumns>(a.sizes, a.z_dim);
  a.slices = plan.slices;
  a.parts = plan.parts;
  a.chunks_per_part = plan.chunks_per_part;
  const auto kernel = sweep_sm90<kRows, kColumns, kSweep>;
  LRAM_CUDA_CHECK(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Tiles::kBytes));
  const int columns = static_cast<int>(a.sizes.sequences()) * plan.slices;
  a.items = columns * plan.parts;
  const int multiprocessors = current_device().multiprocessors;
  const auto blocks = static_cast<unsigned>(a.items < multiprocessors ? a.items : multiprocessors);
  const std::size_t total = static_cast<std::size_t>(columns) * kRows * kColumns;
  const auto reorder_blocks = static_cast<unsigned>((total + 255) / 256);
  a.z_in = states.c_in != nullptr ? states.z_in : nullptr;
  a.z_out = states.c_out != nullptr || states.keep_z_out ? states.z_out : nullptr;
  ReorderArgs reorder{.ours = nullptr,
                      .c = nullptr,
                      .total = total,
                      .part_floats = plan.part_floats,
                      .rows = kRows,
                      .columns = kColumns,
                      .slices = plan.slices,
                      .x_dim = a.x_dim,
                      .z_dim = a.z_dim,
                      .row_stride = states.row_stride,
                      .column_stride = states.column_stride};
  if (states.c_in != nullptr) {
    reorder.ours = states.z_in;
    reorder.c = states.c_in;
    launch_kernel(reorder_state<true>, reorder_blocks, 256, 0, stream, reorder);
    LRAM_CUDA_CHECK_LAUNCH("reorder_state");
  }
  if (plan.parts > 1) {
    a.state_only = true;
    launch_kernel(kernel, blocks, kSweepThreads, Tiles::kBytes, stream, maps, a);
    LRAM_CUDA_CHECK_LAUNCH("sweep_sm90");
    const CombineArgs combine{.part_state = a.part_state,
                              .part_decay = a.part_decay,
                              .begin = a.begin,
                              .end = a.end,
                              .sizes = a.sizes,
                              .slices = plan.slices,
                              .parts = plan.parts,
                              .chunks_per_part = plan.chunks_per_part,
                              .part_floats = plan.part_floats};
    const std::size_t numbers = static_cast<std::size_t>(columns) * plan.part_floats;
    const auto grid = static_cast<unsigned>((numbers + 255) / 256);
    constexpr bool kReverse = kIsReverse<kSweep>;
    launch_kernel(combine_parts<kReverse>, grid, 256, 0, stream, combine);
    LRAM_CUDA_CHECK_LAUNCH("combine_parts");
    a.state_only = false;
  }
  launch_kernel(kernel, blocks, kSweepThreads, Tiles::kBytes, stream, maps, a);
  LRAM_CUDA_CHECK_LAUNCH("sweep_sm90");
  if (states.c_out != nullptr) {
    reorder.ours = states.z_out;
    reorder.c = states.c_out;
    launch_kernel(reorder_state<false>, reorder_blocks, 256, 0, stream, reorder);
    LRAM_CUDA_CHECK_LAUNCH("reorder_state");
  }
}

/// Calls `use` with the tile sizes for these dims as template arguments: use.operator()<R, C>().
/// Rows are the dimension that x and y share. kWide: h and dv, whose z is v's width.
template <bool kWide, typename Use>
auto with_tiles(int x_dim, int z_dim, Use use) {
  if (x_dim <= 64) return use.template operator()<64, 64>();
  if (x_dim <= 128) {
    if constexpr (kWide) {
      if (z_dim > 128) return use.template operator()<128, 256>();
    } else {
      if (z_dim <= 64) return use.template operator()<128, 64>();
    }
    return use.template operator()<128, 128>();
  }
  if constexpr (kWide) {
    if (x_dim <= 192) return use.template operator()<192, 128>();
  }
  if (x_dim <= 256) return use.template operator()<256, 128>();
  if (x_dim <= 320) return use.template operator()<320, 64>();
  if (x_dim <= 384) return use.template operator()<384, 64>();
  if (x_dim <= 512) return use.template operator()<512, 64>();
  return use.template operator()<640, 64>();
}
constexpr int kLargestDim = 640;

inline CUtensorMap map_of(const HeadTensor& t, const MlstmProblem& p, int dim) {
  return head_tensor_map(t.data, dim, p.heads, p.tokens, p.batch, t.stride_h, t.stride_t,
                         t.stride_b, kChunk);
}

inline SweepArgs sweep_args(const MlstmProblem& p, const float* factors) {
  SweepArgs a{};
  a.sizes = sizes_of(p);
  a.begin = p.begin;
  a.end = p.end;
  a.factors = factors;
  a.normalize = p.normalize;
  a.eps = p.eps;
  a.part_stride = static_cast<std::int64_t>(a.sizes.positions());
  return a;
}

/// Z is C or dC: rows of k, columns of v.
inline StateBuffers as_c(SweepArgs& a, const MlstmProblem& p, float* c_in, float* c_out) {
  a.x_dim = p.key_dim;
  a.z_dim = p.value_dim;
  return {.c_in = c_in, .c_out = c_out, .row_stride = p.value_dim, .column_stride = 1};
}
/// Z is the transpose.
inline StateBuffers as_transposed(SweepArgs& a, const MlstmProblem& p, float* c_in) {
  a.x_dim = p.value_dim;
  a.z_dim = p.key_dim;
  return {.c_in = c_in, .row_stride = 1, .column_stride = p.value_dim};
}

}  // namespace lram::kernels::mlstm_long
