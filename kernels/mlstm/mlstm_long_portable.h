#pragma once
#include "kernels/mlstm/mlstm_long.h"

namespace lram::kernels::mlstm_long {

/// mlstm_long_backward_portable.cu, for the table in mlstm_long_forward_portable.cu.
std::size_t portable_backward_bytes(const MlstmProblem& problem);
void portable_backward(const MlstmBackward& args);

}  // namespace lram::kernels::mlstm_long
