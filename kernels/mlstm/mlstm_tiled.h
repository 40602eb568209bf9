#pragma once
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "kernels/mlstm/mlstm.h"

/// Parts of the tiled form on sm90: the quadratic form without a limit that the chip sets on T.
/// Scores are made once, as bf16 tiles of 128 x 128 on and under the diagonal, and lie in the
/// workspace for a group of heads at a time, small enough for L2; every output is then a product of
/// those tiles (or their transposes) with q, k, v or dh.
namespace lram::kernels::mlstm_tiled {

constexpr int kTile = 128;  ///< rows and columns of a tile
constexpr int kPair = 256;  ///< columns of scores, or features of an output, of one item at most
constexpr int kMaxTokens = 4096;

/// What depends on the sizes alone.
struct Sizes {
  int tiles = 0, pairs = 0;  ///< of 128 and of 256 tokens
  int rows = 0;              ///< tokens rounded up to 256: the length of per-token arrays
  int heads = 0;             ///< of all batches
  int key_slices = 0, value_slices = 0;  ///< of at most 256 features
  std::int64_t part = 0;                 ///< heads x rows: from one part of a sum to the next
  std::int64_t score_bytes = 0;          ///< one head's tiles
};
Sizes sizes_of(const MlstmProblem& p);
/// A head's tiles, row tile after row tile: blocks of 128 rows x 64 columns.
__host__ __device__ constexpr int block_of(int row_tile) { return row_tile * (row_tile + 1); }

/// Gates of all heads, [heads, rows] each (mlstm_gates.cuh, GateTable).
struct Gates {
  float *column = nullptr, *row_max = nullptr, *floor = nullptr;
  int* start = nullptr;
};

/// Pieces of the caller's workspace.
struct Workspace {
  Gates gates;
  float* beta = nullptr;                   ///< [pairs, heads, rows] row sums of P, forward
  float* dh_dot_h = nullptr;               ///< [value_slices, heads, rows]
  float *q_dq = nullptr, *k_dk = nullptr;  ///< [key_slices, heads, rows]
  void* scores[2] = {};                    ///< a group's P and dS
  int group = 0;                           ///< heads of a group
  std::size_t bytes = 0;
};
/// With `bytes` the group is as large as they allow, else of the size that is asked for.
Workspace carve(const MlstmProblem& p, bool backward, void* workspace, std::size_t bytes);

/// Heads [first, first + count) of all batches' heads.
struct HeadRange {
  int first, count;
};

// mlstm_tiled_gates_sm90.cu
void launch_gates(const MlstmProblem& p, const Sizes& n, const Gates& gates, cudaStream_t stream);
/// di and df from the parts of q . dq and k . dk.
void launch_gate_gradients(const MlstmBackward& b, const Sizes& n, const Workspace& workspace);

/// Score tiles X = (a_t x_t . y_s + b_t) D_ts of a group: P with x, y = q, k, or dS with dh, v.
struct ScoreJob {
  HeadTensor rows, columns;
  int dim;
  bool gradient;  ///< b_t from dh . h
  void* out;
};
struct ScoreCall {
  ScoreJob jobs[2] = {};
  int count = 0;
  float* beta = nullptr;                  ///< parts of P's row sums, or null
  const float2* saved = nullptr;          ///< of the forward; null: a_t is the scale alone
  GateTensor dh_dot_h;                    ///< given
  const float* dh_dot_h_parts = nullptr;  ///< or in value_slices parts
};
void launch_scores(const MlstmProblem& p, const Sizes& n, const Gates& gates, HeadRange heads,
                   const ScoreCall& call, cudaStream_t stream);  // mlstm_tiled_scores_sm90.cu

/// out = A x with a group's tiles A, or A^T x.
struct ProductJob {
  const void* scores;
  bool transposed;
  HeadTensor x;
  int dim;              ///< of x and out
  HeadTensor out;       ///< or none
  HeadTensor dot_with;  ///< rows whose dot products with out's (in float32) go to `dots`, or none
  float* dots;          ///< [slices, heads, rows]
};
struct ProductCall {
  ProductJob jobs[3] = {};
  int count = 0;
  // Forward: rows divided by the normaliser, which is left in `saved` where that is given.
  const float* beta = nullptr;
  float2* saved = nullptr;
};
void launch_products(const MlstmProblem& p, const Sizes& n, const Gates& gates, HeadRange heads,
                     const ProductCall& call, cudaStream_t stream);  // mlstm_tiled_products_sm90.cu

}  // namespace lram::kernels::mlstm_tiled
