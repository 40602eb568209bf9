// The emulation finds what it says it finds, in kernels that are wrong on purpose.
#include <cuda_bf16.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/common/launch.cuh"
#include "kernels/common/tma.h"
#include "kernels/common/wgmma.cuh"
#include "lram/core/error.h"

namespace lram::kernels {
namespace {
using emulation::Order;

class Emulation : public testing::Test {
 protected:
  void SetUp() override { emulation::set_order(Order::kEarly); }
  void TearDown() override { emulation::set_order(Order::kEarly); }

  /// What the emulation says about `body` run by one block, empty where it finds nothing.
  static std::string finding(Order order, unsigned threads, const std::function<void()>& body) {
    emulation::set_order(order);
    try {
      emulation::run(1, threads, 8 * 1024, body);
    } catch (const Error& error) {
      return error.what();
    }
    return {};
  }
  static void expect_finding(Order order, unsigned threads, const std::string& part,
                             const std::function<void()>& body) {
    const std::string found = finding(order, threads, body);
    EXPECT_NE(found.find(part), std::string::npos) << "found: '" << found << "'";
  }
};

std::uint64_t* barrier_in_shared() {
  return reinterpret_cast<std::uint64_t*>(dynamic_shared() + 4096);
}

TEST_F(Emulation, DeadlockNamesTheBarrier) {
  expect_finding(Order::kEarly, 64, "64 wait for an mbarrier's phase at byte 4096", [] {
    if (threadIdx.x == 0) mbarrier_init(barrier_in_shared(), 1);
    __syncthreads();
    mbarrier_wait(barrier_in_shared(), 0);
  });
  expect_finding(Order::kLate, 64, "32 wait for a named barrier", [] {
    if (threadIdx.x < 32) named_barrier_sync(1, 64);
  });
}

TEST_F(Emulation, BarriersMisused) {
  expect_finding(Order::kEarly, 32, "not initialised",
                 [] { mbarrier_arrive(barrier_in_shared()); });
  expect_finding(Order::kEarly, 32, "one arrival too many", [] {
    if (threadIdx.x != 0) return;
    mbarrier_init(barrier_in_shared(), 1);
    mbarrier_arrive_expect(barrier_in_shared(), 64);
    mbarrier_arrive(barrier_in_shared());
  });
}

TEST_F(Emulation, RegistersAreFinite) {
  expect_finding(Order::kEarly, 384, "wait for registers in setmaxnreg", [] {
    if (threadIdx.x >= 256) {
      set_max_registers_down<72>();
    } else {
      set_max_registers_up<224>();  // 3 x 168 - 72 = 2 x 216
    }
  });
}

TEST_F(Emulation, SharedMemoryEnds) {
  expect_finding(Order::kEarly, 32, "outside of shared memory", [] {
    std::uint32_t out[4];
    ldmatrix_x4(dynamic_shared() + 8 * 1024, out);
  });
}

TEST_F(Emulation, SharedMemoryStartsAsNaN) {
  EXPECT_EQ(finding(Order::kEarly, 1,
                    [] {
                      float x;
                      std::memcpy(&x, dynamic_shared(), 4);
                      if (x == x) emulation::fail("a number");
                    }),
            "");
}

TEST_F(Emulation, StmatrixWantsAFence) {
  const auto body = [](bool fenced) {
    const std::uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    unsigned char* tile = dynamic_shared();
    for (std::uint32_t j = 0; j < 8; j += 2) {
      const std::uint32_t row = 16 * warp + lane % 16, chunk = j + lane / 16;
      stmatrix_x4(tile + row * 128 + ((chunk ^ (row & 7)) << 4), 0, 0, 0, 0);
    }
    if (fenced) fence_proxy_async();
    __syncthreads();
    float d[32] = {};
    wgmma_fence();
    const std::uint64_t operand = wgmma_descriptor(shared_address(tile));
    wgmma_ss<64, Major::kK, Major::kK>(d, operand, operand, true);
    wgmma_commit();
    wgmma_wait<0>();
  };
  for (const Order order : {Order::kEarly, Order::kLate}) {
    expect_finding(order, 128, "before fence.proxy.async", [&] { body(false); });
    EXPECT_EQ(finding(order, 128, [&] { body(true); }), "");
  }
}

TEST_F(Emulation, WgmmaWantsFenceAndWait) {
  const auto product = [](float(&d)[32]) {
    const std::uint64_t operand = wgmma_descriptor(shared_address(dynamic_shared()));
    wgmma_ss<64, Major::kK, Major::kK>(d, operand, operand, true);
    wgmma_commit();
  };
  expect_finding(Order::kEarly, 128, "wgmma before wgmma.fence", [&] {
    float d[32] = {};
    product(d);
  });
  expect_finding(Order::kEarly, 128, "without waiting for its wgmma", [&] {
    float d[32] = {};
    wgmma_fence();
    product(d);
  });
}

// Two runs of a kernel that reads too early differ.
TEST_F(Emulation, OrdersDisagreeWhereNothingWaits) {
  __nv_bfloat16* data = nullptr;
  float* out = nullptr;
  ASSERT_EQ(cudaMalloc(reinterpret_cast<void**>(&data), 64 * 64 * 2), cudaSuccess);
  ASSERT_EQ(cudaMalloc(reinterpret_cast<void**>(&out), 8), cudaSuccess);
  for (int j = 0; j < 64 * 64; ++j) data[j] = 1.0f;
  const CUtensorMap map = head_tensor_map(data, 64, 1, 64, 1, 64, 64, 0, 64);
  const auto read = [&](Order order, bool waits) {
    EXPECT_EQ(finding(order, 32,
                      [&, waits] {
                        if (threadIdx.x != 0) return;
                        std::uint64_t word, *const barrier = &word;
                        mbarrier_init(barrier, 1);
                        mbarrier_arrive_expect(barrier, 64 * 128);
                        tma_load_4d(dynamic_shared(), &map, barrier, 0, 0, 0, 0);
                        if (waits) mbarrier_wait(barrier, 0);
                        __nv_bfloat16 x;
                        std::memcpy(&x, dynamic_shared(), 2);
                        *out = x;
                        if (!waits) mbarrier_wait(barrier, 0);
                      }),
              "");
    return *out;
  };
  EXPECT_EQ(read(Order::kEarly, true), 1.0f);
  EXPECT_EQ(read(Order::kLate, true), 1.0f);
  EXPECT_EQ(read(Order::kEarly, false), 1.0f);
  EXPECT_TRUE(std::isnan(read(Order::kLate, false)));
  cudaFree(data);
  cudaFree(out);
}

}  // namespace
}  // namespace lram::kernels
