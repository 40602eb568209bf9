#pragma once
#include "kernels/common/ptx.cuh"

/// Host version of kernels/common/wgmma_ptx.cuh.
namespace lram::kernels {

enum class Major { kK, kMn };

/// Element (m or n, k) of the operand that a descriptor names: fields and swizzle of PTX ISA 8.0,
/// "Matrix Descriptor". Eight at a time lie side by side.
inline float operand(std::uint64_t descriptor, Major major, std::uint32_t mn, std::uint32_t k) {
  const auto field = [&](int from) {
    return static_cast<std::uint32_t>(descriptor >> from & 0x3fff) << 4;
  };
  const std::uint32_t start = field(0), next_64 = field(16), next_8 = field(32);
  std::uint32_t address =
      start + (major == Major::kK ? mn / 8 * next_8 + mn % 8 * 128 + k * 2
                                  : mn / 64 * next_64 + k / 8 * next_8 + k % 8 * 128 + mn % 64 * 2);
  address ^= (address >> 7 & 7) << 4;
  emulation::check_fenced(address / 16 * 16, 16);
  std::uint16_t half;
  std::memcpy(&half, emulation::at_address(address, 2), 2);
  return low_half(half);
}

/// The lane's part of D (+)= A B; a holds its two rows of A.
template <int kN>
void multiply_rows_of(float* d, const float (&a)[2][16], std::uint64_t b, Major major,
                      bool accumulate) {
  const auto lane = static_cast<std::uint32_t>(emulation::lane());
  for (std::uint32_t j = 0; j < kN / 8; ++j) {
    for (std::uint32_t c = 0; c < 2; ++c) {
      float sum[2] = {0, 0};
      for (std::uint32_t k = 0; k < 16; ++k) {
        const float x = operand(b, major, 8 * j + 2 * (lane % 4) + c, k);
        sum[0] += a[0][k] * x;
        sum[1] += a[1][k] * x;
      }
      for (std::uint32_t r = 0; r < 2; ++r) {
        float& to = d[4 * j + 2 * r + c];
        to = accumulate ? to + sum[r] : sum[r];
      }
    }
  }
}
inline void check_wgmma_fence() {
  if (!emulation::wgmma_is_fenced()) emulation::fail("wgmma before wgmma.fence");
}

template <int kN, Major kMajorA, Major kMajorB>
void wgmma_ss(float (&d)[kN / 2], std::uint64_t a, std::uint64_t b, bool accumulate) {
  check_wgmma_fence();
  emulation::enqueue(emulation::Queue::kWgmma, [&d, a, b, accumulate] {
    const auto lane = static_cast<std::uint32_t>(emulation::lane());
    const std::uint32_t row = 16 * (threadIdx.x / 32 % 4) + lane / 4;
    float rows[2][16];
    for (std::uint32_t k = 0; k < 16; ++k) {
      rows[0][k] = operand(a, kMajorA, row, k);
      rows[1][k] = operand(a, kMajorA, row + 8, k);
    }
    multiply_rows_of<kN>(d, rows, b, kMajorB, accumulate);
  });
}

template <int kN, Major kMajorB>
void wgmma_rs(float (&d)[kN / 2], const std::uint32_t (&a)[4], std::uint64_t b, bool accumulate) {
  check_wgmma_fence();
  struct Rows {
    float x[2][16];
  } rows;
  const auto& words = emulation::exchange({a[0], a[1], a[2], a[3]});
  for (int quad = 0; quad < 4; ++quad) {
    for (int part = 0; part < 4; ++part) {
      const std::uint64_t pair = words[emulation::lane() / 4 * 4 + quad][part];
      float* to = &rows.x[part % 2][8 * (part / 2) + 2 * quad];
      to[0] = low_half(pair);
      to[1] = high_half(pair);
    }
  }
  emulation::enqueue(emulation::Queue::kWgmma, [&d, rows, b, accumulate] {
    multiply_rows_of<kN>(d, rows.x, b, kMajorB, accumulate);
  });
}

}  // namespace lram::kernels
