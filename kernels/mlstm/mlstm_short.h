#pragma once
#include <cuda.h>

#include "kernels/mlstm/mlstm.h"

/// Parts of the short form on sm90, and what it needs where states come in or go out
/// (mlstm_short_states_sm90.cu).
namespace lram::kernels::mlstm_short {

void forward_sm90(const MlstmForward& f);
void backward_sm90(const MlstmBackward& b);

/// Pieces of the caller's workspace; null where the problem does not need them.
struct StateWorkspace {
  void* c0 = nullptr;         ///< [B, H, K, V] the initial C as bf16
  void* dc = nullptr;         ///< [B, H, K, V] the final C's gradient as bf16
  float* q_dot_n0 = nullptr;  ///< [B, H, T]
  float* dh_dot_h = nullptr;  ///< [B, H, T]
  float* dbeta = nullptr;     ///< [B, H, T]
  float* carried = nullptr;   ///< [B, H] <C_0, dC_T> + <n_0, dn_T>
  std::size_t bytes = 0;
};
StateWorkspace carve_forward(const MlstmProblem& p, void* workspace);
StateWorkspace carve_backward(const MlstmProblem& p, void* workspace);

CUtensorMap state_map(const MlstmProblem& p, const void* state);

/// Fills c0 and q_dot_n0.
void prepare_initial(const MlstmProblem& p, const StateWorkspace& workspace, cudaStream_t stream);
/// C_T, n_T and m_T of a forward.
void final_state(const MlstmForward& f, cudaStream_t stream);
/// Fills c0, dc, dh_dot_h and carried, as far as the problem has them.
void prepare_backward(const MlstmBackward& b, const StateWorkspace& workspace, cudaStream_t stream);
/// dC_0 and dn_0, after the backward has left dbeta.
void initial_gradient(const MlstmBackward& b, const StateWorkspace& workspace, cudaStream_t stream);

}  // namespace lram::kernels::mlstm_short
