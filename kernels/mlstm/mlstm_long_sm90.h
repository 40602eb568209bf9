#pragma once
#include "kernels/mlstm/mlstm_long.h"

namespace lram::kernels::mlstm_long {

/// mlstm_long_backward_sm90.cu, for the table in mlstm_long_forward_sm90.cu.
std::size_t sm90_backward_bytes(const MlstmProblem& problem);
void sm90_backward(const MlstmBackward& args);

}  // namespace lram::kernels::mlstm_long
