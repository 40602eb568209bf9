// wgmma.cuh's descriptors and register layouts against plain sums.
#include "kernels/common/wgmma_test.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/common/cuda_check.h"
#include "kernels/common/device.h"

namespace lram::kernels {
namespace {

TEST(Wgmma, EveryLayoutEqualsPlainSums) {
  if (!has_device() || current_device().compute_capability != 90) {
    GTEST_SKIP() << "no GPU of compute capability 9.0";
  }
  std::mt19937 rng(1);
  // Small whole numbers: exact in bf16, sums exact in float32.
  std::uniform_int_distribution<int> draw(-8, 8);
  for (const int n : {32, 64, 128, 192, 256}) {
    std::vector<float> a(64 * 64), b(static_cast<std::size_t>(64 * n));
    for (float& x : a) x = static_cast<float>(draw(rng));
    for (float& x : b) x = static_cast<float>(draw(rng));
    for (int bits = 0; bits < 6; ++bits) {
      const WgmmaLayout layout{n, bits == 2 || bits == 3, bits % 2 == 1, bits >= 4};
      std::vector<std::uint16_t> a_bits(a.size()), b_bits(b.size());
      const auto bf16 = [](float x) {
        std::uint32_t word;
        std::memcpy(&word, &x, 4);
        return static_cast<std::uint16_t>(word >> 16);
      };
      for (std::size_t m = 0; m < 64; ++m) {
        for (std::size_t k = 0; k < 64; ++k) {
          a_bits[layout.a_mn_major ? k * 64 + m : m * 64 + k] = bf16(a[m * 64 + k]);
        }
      }
      const auto columns = static_cast<std::size_t>(n);
      for (std::size_t j = 0; j < columns; ++j) {
        for (std::size_t k = 0; k < 64; ++k) {
          b_bits[layout.b_mn_major ? k * columns + j : j * 64 + k] = bf16(b[j * 64 + k]);
        }
      }
      std::uint16_t *a_device, *b_device;
      float* out_device;
      std::vector<float> out(64 * columns);
      LRAM_CUDA_CHECK(cudaMalloc(reinterpret_cast<void**>(&a_device), a_bits.size() * 2));
      LRAM_CUDA_CHECK(cudaMalloc(reinterpret_cast<void**>(&b_device), b_bits.size() * 2));
      LRAM_CUDA_CHECK(cudaMalloc(reinterpret_cast<void**>(&out_device), out.size() * 4));
      LRAM_CUDA_CHECK(cudaMemcpy(a_device, a_bits.data(), a_bits.size() * 2, cudaMemcpyDefault));
      LRAM_CUDA_CHECK(cudaMemcpy(b_device, b_bits.data(), b_bits.size() * 2, cudaMemcpyDefault));
      LRAM_CUDA_CHECK(cudaMemset(out_device, 0xff, out.size() * 4));
      wgmma_product(layout, a_device, b_device, out_device);
      LRAM_CUDA_CHECK(cudaMemcpy(out.data(), out_device, out.size() * 4, cudaMemcpyDefault));
      int wrong = 0;
      for (std::size_t m = 0; m < 64; ++m) {
        for (std::size_t j = 0; j < columns; ++j) {
          float want = 0;
          for (std::size_t k = 0; k < 64; ++k) want += a[m * 64 + k] * b[j * 64 + k];
          wrong += out[m * columns + j] != want;
        }
      }
      EXPECT_EQ(wrong, 0) << "of " << out.size() << "; n " << n << ", A MN-major "
                          << layout.a_mn_major << ", B MN-major " << layout.b_mn_major
                          << ", A in registers " << layout.a_in_registers;
      cudaFree(a_device);
      cudaFree(b_device);
      cudaFree(out_device);
    }
  }
}

}  // namespace
}  // namespace lram::kernels
