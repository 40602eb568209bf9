#pragma once
#include "kernels/head_norm_gate/head_norm_gate.h"

// Between head_norm_gate.cpp, which has checked everything, and the device code: nvcc does not
// parse the errors' format strings.
namespace lram::kernels {

/// Blocks over the tokens of one head: partial sums of the weights' gradients.
int head_norm_gate_blocks(const HeadNormGateProblem& problem);
void launch_head_norm_gate(const HeadNormGateForward& args);
void launch_head_norm_gate(const HeadNormGateBackward& args);

}  // namespace lram::kernels
