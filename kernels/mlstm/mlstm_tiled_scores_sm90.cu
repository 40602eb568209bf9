// The tiled form's scores on Hopper (mlstm_tiled.h): X_ts = (a_t x_t . y_s + b_t) D_ts as bf16.
//
//   forward   P   a = s                 b = 0                     and row sums of P in float32
//   backward  P   a = s / (N + eps)     b = 0
//             dS  a = s / (N + eps)     b = s dbeta, dbeta = -dh.h / (N + eps) where |beta| counts
//
// An item is 128 rows by 256 columns, 128 where the other half lies above the diagonal. D_ts =
// exp2(column[s] - row_max[t]) for start[t] <= s <= t. Where an item lies under the diagonal and
// inside one segment it is a product of a column's and a row's factor, both at most 1.
#include <algorithm>

#include "kernels/common/cuda_check.h"
#include "kernels/common/launch.cuh"
#include "kernels/mlstm/mlstm_tiled_sm90.cuh"

namespace lram::kernels::mlstm_tiled {
namespace {

struct ScoreArgs {
  HeadRange range;
  int items;
  int heads, tokens, tiles, rows, jobs;  // heads of one batch
  std::int64_t part;
  int steps[2];
  bool gradient[2];
  Gates gates;
  float scale;
  float* beta;
  const float2* saved;
  GateTensor dh_dot_h;
  const float* dh_dot_h_parts;
  int parts;
  bool normalize;
};
struct ScoreMaps {
  CUtensorMap rows[2], columns[2], out[2];
};

struct Item {
  int job, local_head, head;  // head of the group, and of all
  int tile, pair;             // row tile, pair of column tiles
  __device__ bool wide() const { return 2 * pair + 1 <= tile; }
};
__host__ __device__ constexpr int items_of_head(int tiles) {
  return (tiles / 2 + 1) * ((tiles + 1) / 2);
}
__device__ inline Item item_at(const ScoreArgs& a, int index) {
  const int of_head = items_of_head(a.tiles);
  Item item;
  item.job = index % a.jobs;
  index /= a.jobs;
  item.local_head = index / of_head;
  item.head = a.range.first + item.local_head;
  index %= of_head;
  item.tile = 0;
  while (index > item.tile / 2) index -= item.tile++ / 2 + 1;
  item.pair = index;
  return item;
}

__device__ void load(const ScoreArgs& a, const ScoreMaps& maps, Shared& shared) {
  Ring ring = ring_of(shared);
  for (int index = blockIdx.x; index < a.items; index += gridDim.x) {
    const Item item = item_at(a, index);
    const int head = item.head % a.heads, batch = item.head / a.heads;
    const CUtensorMap *rows = &maps.rows[item.job], *columns = &maps.columns[item.job];
    for (int step = 0; step < a.steps[item.job]; ++step) {
      ring.wait_empty();
      std::uint64_t* full = &ring.full[ring.slot];
      unsigned char* slot = ring.data();
      mbarrier_arrive_expect(full, kLeftBytes * (item.wide() ? 3 : 2));
      tma_load_4d(slot, rows, full, 64 * step, head, kTile * item.tile, batch);
      tma_load_4d(slot + kLeftBytes, columns, full, 64 * step, head, kPair * item.pair, batch);
      if (item.wide()) {
        tma_load_4d(slot + 2 * kLeftBytes, columns, full, 64 * step, head,
                    kPair * item.pair + kTile, batch);
      }
      ring.advance();
    }
  }
}

// A row's a_t and b_t.
struct RowFactors {
  float times, plus;
};
__device__ inline RowFactors row_factors(const ScoreArgs& a, const Item& item, int t, int start) {
  if (start == kNoToken) return {0, 0};
  if (a.saved == nullptr) return {a.scale, 0};
  const float2 saved = a.saved[static_cast<std::int64_t>(item.head) * a.tokens + t];
  RowFactors out{a.scale * saved.x, 0};
  if (!a.gradient[item.job] || !a.normalize) return out;
  float dot = 0;
  if (a.dh_dot_h.data != nullptr) {
    const GateTensor& g = a.dh_dot_h;
    dot = g.data[item.head / a.heads * g.stride_b + t * g.stride_t +
                 item.head % a.heads * g.stride_h];
  } else {
#pragma unroll 1
    for (int part = 0; part < a.parts; ++part) {
      dot += a.dh_dot_h_parts[part * a.part + static_cast<std::int64_t>(item.head) * a.rows + t];
    }
  }
  out.plus = -out.times * saved.y * dot;
  return out;
}

template <int kN>
__device__ void consume_item(const ScoreArgs& a, const ScoreMaps& maps, Shared& shared, Ring& ring,
                             const Item& item) {
  const int group = static_cast<int>(threadIdx.x / 128), lane = static_cast<int>(threadIdx.x % 32);
  const int row = kTile * item.tile + 64 * group + lane_row(), first = kPair * item.pair;
  const std::int64_t base = static_cast<std::int64_t>(item.head) * a.rows;
  int start[2];
  float row_max[2], sum[2] = {0, 0};
  RowFactors factors[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    start[r] = a.gates.start[base + row + 8 * r];
    row_max[r] = a.gates.row_max[base + row + 8 * r];
    factors[r] = row_factors(a, item, row + 8 * r, start[r]);
  }
  float d[kN / 2] = {};  // zeros, not wgmma's own start: undefined registers would be copied about
  multiply<kN, Major::kK, Major::kK>(d, ring, a.steps[item.job], [](unsigned char*, int) {});

  const float* columns = a.gates.column + base + first + 2 * (lane % 4);
  if (max(start[0], start[1]) <= first && first + kN - 1 <= row) {
    // The columns' maximum up to the item's last one, which no row's is below.
    const float top = a.gates.row_max[base + first + kN - 1];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float weight = exp2_fast(top - row_max[r]);
      factors[r].times *= weight;
      factors[r].plus *= weight;
    }
#pragma unroll
    for (int j = 0; j < kN / 8; ++j) {
      const float2 gate = *reinterpret_cast<const float2*>(columns + 8 * j);
      const float weight[2] = {exp2_fast(gate.x - top), exp2_fast(gate.y - top)};
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const RowFactors& f = factors[e / 2];
        d[4 * j + e] = (d[4 * j + e] * f.times + f.plus) * weight[e % 2];
      }
    }
  } else {
    // start <= column <= row as one comparison; where there is none, its right side is 0 and its
    // left side is not.
    unsigned offset[2], length[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const bool counts = start[r] != kNoToken;
      offset[r] = static_cast<unsigned>(first + 2 * (lane % 4) - start[r]);
      length[r] = counts ? static_cast<unsigned>(row + 8 * r - start[r]) : 0u;
    }
#pragma unroll
    for (int j = 0; j < kN / 8; ++j) {
      const float2 gate = *reinterpret_cast<const float2*>(columns + 8 * j);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int r = e / 2, c = e % 2;
        const float weight = exp2_fast((c == 0 ? gate.x : gate.y) - row_max[r]);
        const float value = (d[4 * j + e] * factors[r].times + factors[r].plus) * weight;
        d[4 * j + e] = offset[r] + static_cast<unsigned>(8 * j + c) <= length[r] ? value : 0.0f;
      }
    }
  }
  if (a.beta != nullptr) {
#pragma unroll
    for (int j = 0; j < kN / 2; ++j) sum[j / 2 % 2] += d[j];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      sum[r] = sum_of_row(sum[r]);
      if (lane % 4 == 0) a.beta[item.pair * a.part + base + row + 8 * r] = sum[r];
    }
  }
  const int block = block_of(item.tile) + 4 * item.pair;
  store_rows<kN>(shared, d, kN / 64, [&](unsigned char* tile, int c) {
    tma_store_4d(&maps.out[item.job], tile, 0, 0, (block + c) * kTile + 64 * group,
                 item.local_head);
  });
}

__global__ void __launch_bounds__(kThreads, 1)
    scores_kernel(const __grid_constant__ ScoreArgs args, const __grid_constant__ ScoreMaps maps) {
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
      consume_item<2 * kTile>(args, maps, shared, ring, item);
    } else {
      consume_item<kTile>(args, maps, shared, ring, item);
    }
  }
  if (threadIdx.x % 128 == 0) tma_store_wait<0>();
}

}  // namespace

void launch_scores(const MlstmProblem& p, const Sizes& n, const Gates& gates, HeadRange range,
                   const ScoreCall& call, cudaStream_t stream) {
  ScoreArgs args{range,
                 call.count * range.count * items_of_head(n.tiles),
                 p.heads,
                 p.tokens,
                 n.tiles,
                 n.rows,
                 call.count,
                 n.part,
                 {},
                 {},
                 gates,
                 1 / sqrtf(static_cast<float>(p.key_dim)),
                 call.beta,
                 call.saved,
                 call.dh_dot_h,
                 call.dh_dot_h_parts,
                 n.value_slices,
                 p.normalize};
  ScoreMaps maps{};
  for (int j = 0; j < call.count; ++j) {
    const ScoreJob& job = call.jobs[j];
    args.steps[j] = (job.dim + 63) / 64;
    args.gradient[j] = job.gradient;
    maps.rows[j] = tile_map(p, job.rows, job.dim, kTile);
    maps.columns[j] = tile_map(p, job.columns, job.dim, kTile);
    maps.out[j] = score_map(n, job.out, range.count);
  }
  LRAM_CUDA_CHECK(cudaFuncSetAttribute(scores_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       sizeof(Shared)));
  launch_kernel(scores_kernel, std::min(args.items, current_device().multiprocessors), kThreads,
                sizeof(Shared), stream, args, maps);
  LRAM_CUDA_CHECK_LAUNCH("mlstm_tiled scores");
}

}  // namespace lram::kernels::mlstm_tiled
