// The tiled form's outputs on Hopper (mlstm_tiled.h), from a group's score tiles:
//
//   h = P v / (max(|beta|, floor) + eps)      dq = dS k      dv = P^T dh      dk = dS^T q
//
// An item is 128 tokens by 256 features (128 where no more are left): of one row of tiles, or of
// one column of them for the transposed products. Where asked, the rows of the float32 result are
// dotted with those of another tensor, which comes through the ring behind the operands: q . dq,
// k . dk, and dh . h, for which nothing is stored. Tokens that do not count may hold NaN in x:
// their rows are cleared where the tiles' zeros meet them.
#include <algorithm>

#include "kernels/common/cuda_check.h"
#include "kernels/common/launch.cuh"
#include "kernels/mlstm/mlstm_tiled_sm90.cuh"

namespace lram::kernels::mlstm_tiled {
namespace {

struct ProductArgs {
  HeadRange range;
  int items;
  int heads, tokens, tiles, rows, jobs, slices;  // heads of one batch, slices of all jobs
  std::int64_t part;
  bool transposed[3], stores[3];
  int job_slices[3], dim[3];
  float* dots[3];
  const std::int32_t *begin, *end;
  // Forward.
  const int* start;
  const float *floor, *beta;
  float2* saved;
  float eps;
  bool normalize;
};
struct ProductMaps {
  CUtensorMap scores[3], x[3], dot_with[3], out[3];
};

struct Item {
  int job, local_head, head, tile, slice;
  int from, to;    // steps of 64 tokens
  int begin, end;  // tokens that count
  int features;    // of the slice
  __device__ bool wide() const { return features > kTile; }
};
__device__ inline Item item_at(const ProductArgs& a, int index) {
  Item item;
  const int of_head = a.tiles * a.slices;
  // The last heads' tiles are the likeliest to be in L2 yet.
  item.local_head = a.range.count - 1 - index / of_head;
  item.head = a.range.first + item.local_head;
  index %= of_head;
  const int rank = index / a.slices;  // longest first
  item.slice = index % a.slices;
  item.job = 0;
  while (item.slice >= a.job_slices[item.job]) item.slice -= a.job_slices[item.job++];
  item.features = min(kPair, a.dim[item.job] - kPair * item.slice);
  const int batch = item.head / a.heads, steps = (a.tokens + 63) / 64;
  item.begin = a.begin != nullptr ? a.begin[batch] : 0;
  item.end = a.end != nullptr ? a.end[batch] : a.tokens;
  const bool transposed = a.transposed[item.job];
  item.tile = transposed ? rank : a.tiles - 1 - rank;
  item.from = max(transposed ? 2 * item.tile : 0, item.begin / 64);
  item.to = min(transposed ? steps : min(steps, 2 * item.tile + 2), (item.end + 63) / 64);
  if (item.end <= item.begin) item.to = item.from;
  return item;
}

__device__ void load(const ProductArgs& a, const ProductMaps& maps, Shared& shared) {
  Ring ring = ring_of(shared);
  for (int index = blockIdx.x; index < a.items; index += gridDim.x) {
    const Item item = item_at(a, index);
    const int head = item.head % a.heads, batch = item.head / a.heads, j = item.job;
    const int blocks = item.wide() ? 4 : 2;  // of 64 features
    for (int step = item.from; step < item.to; ++step) {
      ring.wait_empty();
      std::uint64_t* full = &ring.full[ring.slot];
      unsigned char* slot = ring.data();
      mbarrier_arrive_expect(full, kLeftBytes + blocks * kTileBytes);
      // The two warpgroups' 64 x 64 scores: one below the other, or side by side.
      const int row = a.transposed[j] ? (block_of(step / 2) + 2 * item.tile) * kTile + step % 2 * 64
                                      : (block_of(item.tile) + step) * kTile;
      const int next = a.transposed[j] ? kTile : 64;
      tma_load_4d(slot, &maps.scores[j], full, 0, 0, row, item.local_head);
      tma_load_4d(slot + kTileBytes, &maps.scores[j], full, 0, 0, row + next, item.local_head);
      for (int c = 0; c < blocks; ++c) {
        tma_load_4d(slot + kLeftBytes + c * kTileBytes, &maps.x[j], full,
                    kPair * item.slice + 64 * c, head, 64 * step, batch);
      }
      ring.advance();
    }
    for (int c = 0; a.dots[j] != nullptr && c < blocks; c += 2) {
      ring.wait_empty();
      std::uint64_t* full = &ring.full[ring.slot];
      mbarrier_arrive_expect(full, 2 * kLeftBytes);
      for (int side = 0; side < 2; ++side) {
        tma_load_4d(ring.data() + side * kLeftBytes, &maps.dot_with[j], full,
                    kPair * item.slice + 64 * (c + side), head, kTile * item.tile, batch);
      }
      ring.advance();
    }
  }
}

// Zeroes the right operand's rows of tokens outside [begin, end). Both warpgroups do it, each
// before it reads: equal zeros from both.
__device__ inline void clear_outside(unsigned char* slot, int blocks, int first, const Item& item) {
  if (first >= item.begin && first + 64 <= item.end) return;
  const int thread = static_cast<int>(threadIdx.x % 128);
  for (int row = thread / 8; row < 64; row += 16) {
    if (first + row >= item.begin && first + row < item.end) continue;
    for (int c = 0; c < blocks; ++c) {
      *reinterpret_cast<uint4*>(slot + kLeftBytes + c * kTileBytes + row * 128 + thread % 8 * 16) =
          uint4{0, 0, 0, 0};
    }
  }
  fence_proxy_async();
  named_barrier_sync(1 + static_cast<int>(threadIdx.x / 128), 128);
}

// sum[r] += x . d over 64 features.
__device__ inline void add_row_dots(float (&sum)[2], const float* d, const unsigned char* rows) {
  const auto row = static_cast<std::uint32_t>(lane_row()), lane = threadIdx.x % 32;
#pragma unroll
  for (std::uint32_t j = 0; j < 8; ++j) {
#pragma unroll
    for (std::uint32_t r = 0; r < 2; ++r) {
      const std::uint32_t pair = *reinterpret_cast<const std::uint32_t*>(
          rows + swizzle_128(row + 8 * r, 8 * j + 2 * (lane % 4)));
      sum[r] += __uint_as_float(pair << 16) * d[4 * j + 2 * r] +
                __uint_as_float(pair & 0xffff0000u) * d[4 * j + 2 * r + 1];
    }
  }
}

// 1 / (N + eps) of a row of h, which also goes to `saved`.
__device__ inline float inverse_of_row(const ProductArgs& a, const Item& item, int t) {
  const std::int64_t at = static_cast<std::int64_t>(item.head) * a.rows + t;
  float beta = 0;
#pragma unroll 1
  for (int pair = 0; pair <= item.tile / 2; ++pair) beta += a.beta[pair * a.part + at];
  const bool counts = a.start[at] != kNoToken;
  const float floor = a.floor[at], size = fabsf(beta);
  const float inverse = !counts       ? 0.0f
                        : a.normalize ? __fdividef(1.0f, fmaxf(size, floor) + a.eps)
                                      : 1.0f;
  if (a.saved != nullptr && item.slice == 0 && t < a.tokens && threadIdx.x % 4 == 0) {
    const bool differentiable = a.normalize && counts && size > floor;
    a.saved[static_cast<std::int64_t>(item.head) * a.tokens + t] = {
        inverse, differentiable ? copysignf(1.0f, beta) : 0.0f};
  }
  return inverse;
}

template <int kN>
__device__ void consume_item(const ProductArgs& a, const ProductMaps& maps, Shared& shared,
                             Ring& ring, const Item& item) {
  const int group = static_cast<int>(threadIdx.x / 128);
  const int row = kTile * item.tile + 64 * group + lane_row(), j = item.job;
  float inverse[2] = {1, 1};
  if (a.beta != nullptr) {
    for (int r = 0; r < 2; ++r) inverse[r] = inverse_of_row(a, item, row + 8 * r);
  }
  float d[kN / 2] = {};  // zeros, not wgmma's own start: undefined registers would be copied about
  const auto clear = [&](unsigned char* slot, int step) {
    clear_outside(slot, kN / 64, 64 * (item.from + step), item);
  };
  const int steps = max(0, item.to - item.from);
  if (a.transposed[j]) {
    multiply<kN, Major::kMn, Major::kMn>(d, ring, steps, clear);
  } else {
    multiply<kN, Major::kK, Major::kMn>(d, ring, steps, clear);
  }
  if (a.dots[j] != nullptr) {
    float sum[2] = {0, 0};
#pragma unroll
    for (int c = 0; c < kN / 64; ++c) {
      if (c % 2 == 0) ring.wait_full();
      add_row_dots(sum, &d[32 * c], ring.data() + c % 2 * kLeftBytes + group * kTileBytes);
      if (c % 2 == 1) {
        __syncwarp();
        release(ring, ring.slot);
        ring.advance();
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      sum[r] = sum_of_row(sum[r]);
      if (threadIdx.x % 4 == 0) {
        a.dots[j][item.slice * a.part + static_cast<std::int64_t>(item.head) * a.rows + row +
                  8 * r] = sum[r];
      }
    }
  }
  if (!a.stores[j]) return;
  if (a.beta != nullptr) {
#pragma unroll
    for (int e = 0; e < kN / 2; ++e) d[e] *= inverse[e / 2 % 2];
  }
  store_rows<kN>(shared, d, (item.features + 63) / 64, [&](unsigned char* tile, int c) {
    tma_store_4d(&maps.out[j], tile, kPair * item.slice + 64 * c, item.head % a.heads,
                 kTile * item.tile + 64 * group, item.head / a.heads);
  });
}

__global__ void __launch_bounds__(kThreads, 1)
    products_kernel(const __grid_constant__ ProductArgs args,
                    const __grid_constant__ ProductMaps maps) {
  Shared& shared = start_block();
  if (threadIdx.x >= kConsumers) {
    set_max_registers_down<kProducerRegisters>();
    if (threadIdx.x / 32 == kConsumers / 32 && elect_one()) load(args, maps, shared);
    return;
  }
  set_max_registers_up<kConsumerRegisters>();
  Ring ring = ring_of(shared);
  for (int index = blockIdx.x; index < args.items; index += gridDim.x) {
    const Item item = item_at(args, index);
    if (item.wide()) {
      consume_item<kPair>(args, maps, shared, ring, item);
    } else {
      consume_item<kTile>(args, maps, shared, ring, item);
    }
  }
  if (threadIdx.x % 128 == 0) tma_store_wait<0>();
}

}  // namespace

void launch_products(const MlstmProblem& p, const Sizes& n, const Gates& gates, HeadRange range,
                     const ProductCall& call, cudaStream_t stream) {
  ProductArgs args{};
  args.range = range;
  args.heads = p.heads, args.tokens = p.tokens;
  args.tiles = n.tiles, args.rows = n.rows, args.part = n.part;
  args.jobs = call.count;
  args.begin = p.begin, args.end = p.end;
  args.start = gates.start, args.floor = gates.floor;
  args.beta = call.beta, args.saved = call.saved;
  args.eps = p.eps, args.normalize = p.normalize;
  ProductMaps maps{};
  for (int j = 0; j < call.count; ++j) {
    const ProductJob& job = call.jobs[j];
    args.transposed[j] = job.transposed;
    args.stores[j] = job.out.data != nullptr;
    args.dots[j] = job.dots;
    args.dim[j] = job.dim;
    args.job_slices[j] = (job.dim + kPair - 1) / kPair;
    args.slices += args.job_slices[j];
    maps.scores[j] = score_map(n, job.scores, range.count);
    maps.x[j] = tile_map(p, job.x, job.dim, 64);
    if (job.dots != nullptr) maps.dot_with[j] = tile_map(p, job.dot_with, job.dim, kTile);
    if (args.stores[j]) maps.out[j] = tile_map(p, job.out, job.dim, 64);
  }
  args.items = range.count * n.tiles * args.slices;
  LRAM_CUDA_CHECK(cudaFuncSetAttribute(products_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       sizeof(Shared)));
  launch_kernel(products_kernel, std::min(args.items, current_device().multiprocessors), kThreads,
                sizeof(Shared), stream, args, maps);
  LRAM_CUDA_CHECK_LAUNCH("mlstm_tiled products");
}

}  // namespace lram::kernels::mlstm_tiled
