#pragma once
#include <cstdint>

/// wgmma.mma_async of PTX ISA 8.0, bf16 in, float32 out, for each N in use; wgmma.cuh says what the
/// operands look like. d is the lane's part of D, `accumulate` false: D = A B.
namespace lram::kernels {

/// An operand is K-major if its rows run along the summed dimension, MN-major if along M or N.
enum class Major { kK, kMn };

// The lane's N / 2 numbers of D: their places in the instruction, and the operands.
// clang-format off
#define LRAM_PLACES_16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define LRAM_PLACES_32 LRAM_PLACES_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define LRAM_PLACES_48 LRAM_PLACES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define LRAM_PLACES_64 LRAM_PLACES_48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define LRAM_PLACES_80 LRAM_PLACES_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define LRAM_PLACES_96 LRAM_PLACES_80 ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define LRAM_PLACES_112 LRAM_PLACES_96 ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define LRAM_PLACES_128 LRAM_PLACES_112 ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define LRAM_OPERANDS(j) \
  "+f"(d[j]), "+f"(d[j + 1]), "+f"(d[j + 2]), "+f"(d[j + 3]), "+f"(d[j + 4]), "+f"(d[j + 5]), "+f"(d[j + 6]), "+f"(d[j + 7]), \
  "+f"(d[j + 8]), "+f"(d[j + 9]), "+f"(d[j + 10]), "+f"(d[j + 11]), "+f"(d[j + 12]), "+f"(d[j + 13]), "+f"(d[j + 14]), "+f"(d[j + 15])
#define LRAM_OPERANDS_16 LRAM_OPERANDS(0)
#define LRAM_OPERANDS_32 LRAM_OPERANDS_16, LRAM_OPERANDS(16)
#define LRAM_OPERANDS_48 LRAM_OPERANDS_32, LRAM_OPERANDS(32)
#define LRAM_OPERANDS_64 LRAM_OPERANDS_48, LRAM_OPERANDS(48)
#define LRAM_OPERANDS_80 LRAM_OPERANDS_64, LRAM_OPERANDS(64)
#define LRAM_OPERANDS_96 LRAM_OPERANDS_80, LRAM_OPERANDS(80)
#define LRAM_OPERANDS_112 LRAM_OPERANDS_96, LRAM_OPERANDS(96)
#define LRAM_OPERANDS_128 LRAM_OPERANDS_112, LRAM_OPERANDS(112)
// The instruction with D; `inputs` are its other operands, `predicate` the place of `accumulate`.
#define LRAM_WGMMA(n, count, inputs, predicate) \
  "{\n.reg .pred p;\nsetp.ne.b32 p, %" #predicate ", 0;\n" \
  "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" LRAM_PLACES_##count "}, " inputs ";\n}" \
  : LRAM_OPERANDS_##count
// Behind D: a, b, accumulate, whether A and B are transposed.
#define LRAM_WGMMA_SS(n, count, a_at, b_at, p_at, a_mn_at, b_mn_at) \
  if constexpr (kN == n) { \
    asm volatile(LRAM_WGMMA(n, count, "%" #a_at ", %" #b_at ", p, 1, 1, %" #a_mn_at ", %" #b_mn_at, p_at) \
                 : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)), \
                   "n"(static_cast<int>(kMajorA == Major::kMn)), "n"(static_cast<int>(kMajorB == Major::kMn))); \
  }
// Behind D: the four of a, b, accumulate, whether B is transposed.
#define LRAM_WGMMA_RS(n, count, a0_at, a1_at, a2_at, a3_at, b_at, p_at, b_mn_at) \
  if constexpr (kN == n) { \
    asm volatile(LRAM_WGMMA(n, count, "{%" #a0_at ", %" #a1_at ", %" #a2_at ", %" #a3_at "}, %" #b_at \
                            ", p, 1, 1, %" #b_mn_at, p_at) \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)), \
                   "n"(static_cast<int>(kMajorB == Major::kMn))); \
  }
// clang-format on

/// A and B from shared memory.
template <int kN, Major kMajorA, Major kMajorB>
__device__ inline void wgmma_ss(float (&d)[kN / 2], std::uint64_t a, std::uint64_t b,
                                bool accumulate) {
  static_assert(kN == 32 || kN == 64 || kN == 96 || kN == 128 || kN == 160 || kN == 192 ||
                kN == 256);
  LRAM_WGMMA_SS(32, 16, 16, 17, 18, 19, 20)
  LRAM_WGMMA_SS(64, 32, 32, 33, 34, 35, 36)
  LRAM_WGMMA_SS(96, 48, 48, 49, 50, 51, 52)
  LRAM_WGMMA_SS(128, 64, 64, 65, 66, 67, 68)
  LRAM_WGMMA_SS(160, 80, 80, 81, 82, 83, 84)
  LRAM_WGMMA_SS(192, 96, 96, 97, 98, 99, 100)
  LRAM_WGMMA_SS(256, 128, 128, 129, 130, 131, 132)
}
/// A from registers: a[0..3] as in D's layout, two bf16 of a row to a register: rows l / 4, + 8,
/// then the same rows 8 columns on.
template <int kN, Major kMajorB>
__device__ inline void wgmma_rs(float (&d)[kN / 2], const std::uint32_t (&a)[4], std::uint64_t b,
                                bool accumulate) {
  static_assert(kN == 32 || kN == 64 || kN == 96 || kN == 128 || kN == 160 || kN == 192 ||
                kN == 256);
  LRAM_WGMMA_RS(32, 16, 16, 17, 18, 19, 20, 21, 22)
  LRAM_WGMMA_RS(64, 32, 32, 33, 34, 35, 36, 37, 38)
  LRAM_WGMMA_RS(96, 48, 48, 49, 50, 51, 52, 53, 54)
  LRAM_WGMMA_RS(128, 64, 64, 65, 66, 67, 68, 69, 70)
  LRAM_WGMMA_RS(160, 80, 80, 81, 82, 83, 84, 85, 86)
  LRAM_WGMMA_RS(192, 96, 96, 97, 98, 99, 100, 101, 102)
  LRAM_WGMMA_RS(256, 128, 128, 129, 130, 131, 132, 133, 134)
}

#undef LRAM_WGMMA_RS
#undef LRAM_WGMMA_SS
#undef LRAM_WGMMA
#undef LRAM_OPERANDS
}  // namespace lram::kernels
