#pragma once

namespace lram::kernels {

/// One of the operand layouts of wgmma.cuh, and N (32, 64, 128, 192 or 256).
struct WgmmaLayout {
  int n = 64;
  bool a_mn_major = false, b_mn_major = false, a_in_registers = false;
};

/// out [64, n] = A [64, 64] B [64, n], bf16 in, float32 out, all on the device. `a` is stored [64,
/// 64] (transposed if a_mn_major), `b` [n, 64], or [64, n] if b_mn_major.
void wgmma_product(const WgmmaLayout& layout, const void* a, const void* b, float* out);

}  // namespace lram::kernels
