// The short form's states on sm90: what comes before and after its kernels where a state goes in or
// out. Plain kernels: a state is K V numbers a head, read or written once.
#include <cuda_bf16.h>

#include <algorithm>

#include "kernels/common/cuda_check.h"
#include "kernels/common/launch.cuh"
#include "kernels/common/tma.h"
#include "kernels/mlstm/mlstm_gates.cuh"
#include "kernels/mlstm/mlstm_implementation.h"
#include "kernels/mlstm/mlstm_short.h"

namespace lram::kernels::mlstm_short {
namespace {
constexpr int kMaxTokens = 256;

__global__ void round_kernel(const float* from, __nv_bfloat16* to, std::int64_t count) {
  for (std::int64_t j = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; j < count;
       j += std::int64_t{gridDim.x} * blockDim.x) {
    to[j] = __float2bfloat16(from[j]);
  }
}

struct Rows {
  const __nv_bfloat16* data;
  std::int64_t stride_b, stride_t, stride_h;

  __device__ const __nv_bfloat16* at(int batch, int t, int head) const {
    return data + batch * stride_b + t * stride_t + head * stride_h;
  }
};
Rows rows_of(const HeadTensor& x) {
  return {static_cast<const __nv_bfloat16*>(x.data), x.stride_b, x.stride_t, x.stride_h};
}

__device__ float warp_sum(float x) {
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

// out[b, h, t] = x_t . y_t or, without y's rows, x_t . vector[b, h]. One warp a row.
__global__ void row_dot_kernel(Rows x, Rows y, const float* vector, int batch, int tokens,
                               int heads, int dim, float* out) {
  const int row = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
  if (row >= batch * tokens * heads) return;
  const int t = row % tokens, unit = row / tokens;
  const __nv_bfloat16* a = x.at(unit / heads, t, unit % heads);
  const __nv_bfloat16* b = vector == nullptr ? y.at(unit / heads, t, unit % heads) : nullptr;
  float sum = 0;
  for (int j = lane; j < dim; j += 32) {
    const float other = vector != nullptr ? vector[std::int64_t{unit} * dim + j] : float(b[j]);
    sum += float(a[j]) * other;
  }
  sum = warp_sum(sum);
  if (lane == 0) out[row] = sum;
}

// out[b, h] = <a, b> over the state. One CTA a head, in a fixed order.
__global__ void state_dot_kernel(const float* a, const float* b, int count, const float* c,
                                 const float* d, int count_n, float* out) {
  __shared__ float partial[32];
  float sum = 0;
  const std::int64_t at = std::int64_t{blockIdx.x} * count;
  for (int j = threadIdx.x; j < count; j += blockDim.x) sum += a[at + j] * b[at + j];
  if (c != nullptr && d != nullptr) {
    const std::int64_t at_n = std::int64_t{blockIdx.x} * count_n;
    for (int j = threadIdx.x; j < count_n; j += blockDim.x) sum += c[at_n + j] * d[at_n + j];
  }
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x < 32) {
    const float total = warp_sum(threadIdx.x < blockDim.x / 32 ? partial[threadIdx.x] : 0.0f);
    if (threadIdx.x == 0) out[blockIdx.x] = total;
  }
}

struct OuterArgs {
  GateArgs gates;
  bool backward;  // weights s b_t / (N + eps) of q and dh, not those of k and v in the last state
  float scale;
  Rows left, right;  // [B, T, H, K] and [B, T, H, V]
  int key_dim, value_dim;
  const float2* saved;  // [B, H, T], backward
  const float* dbeta;   // [B, H, T], backward
  const float *c_in, *n_in, *m_in;
  float *c_out, *n_out, *m_out;
};

// C_out = g C_in + sum_t w_t left_t right_t^T for 32 rows of C, n_out likewise with weights of its
// own. Final state: w = D of the last row, g its weight of the initial state. Gradient of the
// initial state: w = s b_t / (N + eps) (for n: s b_t dbeta), g as before.
constexpr int kOuterRows = 16, kOuterThreads = 256;
__global__ void __launch_bounds__(kOuterThreads) outer_kernel(const OuterArgs a) {
  __shared__ float column[kMaxTokens], row_max[kMaxTokens], floor[kMaxTokens], inter[kMaxTokens],
      weight[kMaxTokens], weight_n[kMaxTokens];
  __shared__ int start[kMaxTokens];
  __shared__ float left[32][kOuterRows];
  __shared__ float final_m;
  const int heads = a.gates.heads, tokens = a.gates.tokens;
  const int unit = blockIdx.y, batch = unit / heads, head = unit % heads;
  const int begin = a.gates.begin != nullptr ? a.gates.begin[batch] : 0;
  const int end = a.gates.end != nullptr ? a.gates.end[batch] : tokens;
  if (threadIdx.x < 32) {
    const GateTotals totals =
        scan_gates<kMaxTokens / 32>(a.gates, batch, head, {column, row_max, floor, inter, start});
    if (threadIdx.x == 0) final_m = totals.m;
  }
  __syncthreads();
  for (int t = threadIdx.x; t < tokens; t += kOuterThreads) {
    float w = 0, w_n = 0;
    if (t >= begin && t < end) {
      if (a.backward) {
        const std::int64_t token = std::int64_t{unit} * tokens + t;
        w = a.scale * inter[t] * a.saved[token].x;
        w_n = a.scale * inter[t] * a.dbeta[token];
      } else {
        w = t >= start[end - 1] ? exp2f(column[t] - row_max[end - 1]) : 0.0f;
        w_n = w;
      }
    }
    weight[t] = w;
    weight_n[t] = w_n;
  }
  const float keep = end > begin ? inter[end - 1] : 1.0f;
  if (a.m_out != nullptr && blockIdx.x == 0 && threadIdx.x == 0) a.m_out[unit] = final_m;
  const int first = blockIdx.x * kOuterRows;
  for (int v = threadIdx.x; v < (a.value_dim + kOuterThreads - 1) / kOuterThreads * kOuterThreads;
       v += kOuterThreads) {
    float sum[kOuterRows] = {};
    for (int base = begin / 32 * 32; base < end; base += 32) {
      __syncthreads();
      for (int j = threadIdx.x; j < 32 * kOuterRows; j += kOuterThreads) {
        const int t = base + j / kOuterRows, key = first + j % kOuterRows;
        const bool counts = t >= begin && t < end && key < a.key_dim;
        left[j / kOuterRows][j % kOuterRows] =
            counts ? weight[t] * float(a.left.at(batch, t, head)[key]) : 0.0f;
      }
      __syncthreads();
      for (int t = max(base, begin); v < a.value_dim && t < min(base + 32, end); ++t) {
        const float x = float(a.right.at(batch, t, head)[v]);
#pragma unroll
        for (int r = 0; r < kOuterRows; ++r) sum[r] += left[t - base][r] * x;
      }
    }
#pragma unroll
    for (int r = 0; r < kOuterRows; ++r) {
      if (v >= a.value_dim || first + r >= a.key_dim) continue;
      const std::int64_t at = (std::int64_t{unit} * a.key_dim + first + r) * a.value_dim + v;
      a.c_out[at] = sum[r] + (a.c_in != nullptr ? keep * a.c_in[at] : 0.0f);
    }
  }
  const int key = first + static_cast<int>(threadIdx.x);
  if (a.n_out != nullptr && threadIdx.x < kOuterRows && key < a.key_dim) {
    float sum = 0;
    for (int t = begin; t < end; ++t) sum += weight_n[t] * float(a.left.at(batch, t, head)[key]);
    const std::int64_t at = std::int64_t{unit} * a.key_dim + key;
    a.n_out[at] = sum + (a.n_in != nullptr ? keep * a.n_in[at] : 0.0f);
  }
}

void launch_outer(const OuterArgs& args, int units, cudaStream_t stream) {
  const dim3 grid((args.key_dim + kOuterRows - 1) / kOuterRows, units);
  launch_kernel(outer_kernel, grid, kOuterThreads, 0, stream, args);
  LRAM_CUDA_CHECK_LAUNCH("mlstm_short states");
}

void round_state(const MlstmProblem& p, const float* from, void* to, cudaStream_t stream) {
  const std::int64_t count = std::int64_t{1} * p.batch * p.heads * p.key_dim * p.value_dim;
  const int blocks = static_cast<int>(std::min<std::int64_t>((count + 255) / 256, 132 * 16));
  launch_kernel(round_kernel, blocks, 256, 0, stream, from, static_cast<__nv_bfloat16*>(to), count);
  LRAM_CUDA_CHECK_LAUNCH("mlstm_short state rounding");
}

void row_dots(const MlstmProblem& p, const HeadTensor& x, const HeadTensor& y, const float* vector,
              int dim, float* out, cudaStream_t stream) {
  const int rows = p.batch * p.heads * p.tokens;
  launch_kernel(row_dot_kernel, (rows + 7) / 8, 256, 0, stream, rows_of(x), rows_of(y), vector,
                p.batch, p.tokens, p.heads, dim, out);
  LRAM_CUDA_CHECK_LAUNCH("mlstm_short row dots");
}

class Carver {
 public:
  explicit Carver(void* base) : base_(static_cast<std::byte*>(base)) {}
  template <typename T>
  T* take(std::int64_t bytes) {
    void* piece = base_ != nullptr ? base_ + used_ : nullptr;
    used_ += (static_cast<std::size_t>(bytes) + 255) / 256 * 256;
    return static_cast<T*>(piece);
  }
  std::size_t used() const { return used_; }

 private:
  std::byte* base_;
  std::size_t used_ = 0;
};

}  // namespace

StateWorkspace carve_forward(const MlstmProblem& p, void* workspace) {
  StateWorkspace out;
  if (p.initial.c == nullptr) return out;
  Carver carver(workspace);
  const std::int64_t units = std::int64_t{1} * p.batch * p.heads;
  out.c0 = carver.take<void>(units * p.key_dim * p.value_dim * 2);
  out.q_dot_n0 = carver.take<float>(units * p.tokens * 4);
  out.bytes = carver.used();
  return out;
}

StateWorkspace carve_backward(const MlstmProblem& p, void* workspace) {
  // Whether a gradient of the final state will come is not known here.
  StateWorkspace out;
  Carver carver(workspace);
  const std::int64_t units = std::int64_t{1} * p.batch * p.heads;
  out.dc = carver.take<void>(units * p.key_dim * p.value_dim * 2);
  if (p.initial.c != nullptr) {
    out.c0 = carver.take<void>(units * p.key_dim * p.value_dim * 2);
    out.dh_dot_h = carver.take<float>(units * p.tokens * 4);
    out.dbeta = carver.take<float>(units * p.tokens * 4);
    out.carried = carver.take<float>(units * 4);
  }
  out.bytes = carver.used();
  return out;
}

CUtensorMap state_map(const MlstmProblem& p, const void* state) {
  const std::int64_t head = std::int64_t{1} * p.key_dim * p.value_dim;
  return head_tensor_map(state, p.value_dim, p.heads, p.key_dim, p.batch, head, p.value_dim,
                         head * p.heads, 64);
}

void prepare_initial(const MlstmProblem& p, const StateWorkspace& workspace, cudaStream_t stream) {
  round_state(p, p.initial.c, workspace.c0, stream);
  if (p.normalize) row_dots(p, p.q, p.q, p.initial.n, p.key_dim, workspace.q_dot_n0, stream);
}

void final_state(const MlstmForward& f, cudaStream_t stream) {
  const MlstmProblem& p = f.problem;
  launch_outer(
      {gate_args(p), false, 1.0f, rows_of(p.k), rows_of(p.v), p.key_dim, p.value_dim, nullptr,
       nullptr, p.initial.c, p.initial.n, p.initial.m, f.final.c, f.final.n, f.final.m},
      p.batch * p.heads, stream);
}

void prepare_backward(const MlstmBackward& b, const StateWorkspace& workspace,
                      cudaStream_t stream) {
  const MlstmProblem& p = b.problem;
  if (b.dfinal.c != nullptr) round_state(p, b.dfinal.c, workspace.dc, stream);
  if (p.initial.c == nullptr) return;
  round_state(p, p.initial.c, workspace.c0, stream);
  if (p.normalize && b.dh_dot_h.data == nullptr) {
    row_dots(p, b.h, b.dh, nullptr, p.value_dim, workspace.dh_dot_h, stream);
  }
  if (b.dfinal.c != nullptr) {
    launch_kernel(state_dot_kernel, p.batch * p.heads, 256, 0, stream, p.initial.c, b.dfinal.c,
                  p.key_dim * p.value_dim, p.initial.n, b.dfinal.n, p.key_dim, workspace.carried);
    LRAM_CUDA_CHECK_LAUNCH("mlstm_short state products");
  }
}

void initial_gradient(const MlstmBackward& b, const StateWorkspace& workspace,
                      cudaStream_t stream) {
  const MlstmProblem& p = b.problem;
  launch_outer(
      {gate_args(p), true, 1 / sqrtf(static_cast<float>(p.key_dim)), rows_of(p.q), rows_of(b.dh),
       p.key_dim, p.value_dim, static_cast<const float2*>(b.saved), workspace.dbeta, b.dfinal.c,
       b.dfinal.n, nullptr, b.dinitial.c, b.dinitial.n, nullptr},
      p.batch * p.heads, stream);
}

}  // namespace lram::kernels::mlstm_short

namespace lram::kernels {

const MlstmImplementation kMlstmShortSm90 = {
    "the short form on sm90",
    [](const MlstmProblem& p) -> const char* {
      if (p.dtype != DType::kBFloat16) return "bfloat16";
      return p.tokens <= mlstm_short::kMaxTokens ? nullptr : "at most 256 tokens";
    },
    [](const MlstmProblem& p) {
      return sizeof(float2) * static_cast<std::size_t>(p.batch) *
             static_cast<std::size_t>(p.heads) * static_cast<std::size_t>(p.tokens);
    },
    [](const MlstmProblem& p) { return mlstm_short::carve_forward(p, nullptr).bytes; },
    [](const MlstmProblem& p) { return mlstm_short::carve_backward(p, nullptr).bytes; },
    mlstm_short::forward_sm90,
    mlstm_short::backward_sm90,
};

}  // namespace lram::kernels
