#pragma once
#include <cstdint>

#include "tests/kernels/emulation/cuda.h"
#include "tests/kernels/emulation/machine.h"

/// Host version of kernels/common/ptx.cuh: what each instruction does to memory and threads, and
/// checks of what it demands. Built by the tests alone (machine.h).
namespace lram::kernels {

inline std::uint32_t shared_address(const void* pointer) { return emulation::address_of(pointer); }

// --- mbarrier: in its 64 bits arrivals to come (12), arrivals of a phase (12), the phase's parity,
// a mark that it was initialised (7), bytes to come (32, signed).

struct MbarrierWord {
  static constexpr std::uint64_t kMark = 0x2a;
  std::uint64_t pending, arrivals, parity, mark;
  std::int32_t bytes;
  explicit MbarrierWord(std::uint64_t word)
      : pending(word & 0xfff),
        arrivals(word >> 12 & 0xfff),
        parity(word >> 24 & 1),
        mark(word >> 25 & 0x7f),
        bytes(static_cast<std::int32_t>(word >> 32)) {
    if (mark != kMark) emulation::fail("an mbarrier that was not initialised");
  }
  std::uint64_t word() const {
    return pending | arrivals << 12 | parity << 24 | mark << 25 |
           static_cast<std::uint64_t>(static_cast<std::uint32_t>(bytes)) << 32;
  }
};
inline void mbarrier_init(std::uint64_t* barrier, int arrivals) {
  const auto count = static_cast<std::uint64_t>(arrivals);
  *barrier = count | count << 12 | MbarrierWord::kMark << 25;
}
inline void fence_barrier_init() {}
inline void mbarrier_change(std::uint64_t* barrier, int arrivals, std::int32_t bytes) {
  MbarrierWord b(*barrier);
  if (static_cast<int>(b.pending) < arrivals)
    emulation::fail("one arrival too many on an mbarrier");
  b.pending -= static_cast<std::uint64_t>(arrivals);
  b.bytes += bytes;
  if (b.pending == 0 && b.bytes == 0) {
    b.pending = b.arrivals;
    b.parity ^= 1;
  }
  *barrier = b.word();
}
inline void mbarrier_arrive(std::uint64_t* barrier) { mbarrier_change(barrier, 1, 0); }
inline void mbarrier_arrive_expect(std::uint64_t* barrier, std::uint32_t bytes) {
  mbarrier_change(barrier, 1, static_cast<std::int32_t>(bytes));
}
inline void mbarrier_wait(std::uint64_t* barrier, std::uint32_t parity) {
  MbarrierWord check(*barrier);
  emulation::wait({[](const void* object, std::uint64_t phase) {
                     return (*static_cast<const std::uint64_t*>(object) >> 24 & 1) != phase;
                   },
                   barrier, parity, "an mbarrier's phase"});
}

// --- bulk copies

inline void tma_prefetch_map(const void*) {}

/// visit(byte offset in the swizzled box, address in memory or null where it lies outside).
template <typename Visit>
void for_each_of_box(const CUtensorMap& map, const int (&from)[4], const Visit& visit) {
  if (map.rank != 4) emulation::fail("a tensor map of another rank than its copy");
  std::uint32_t row = 0;
  std::uint32_t at[4];
  for (at[3] = 0; at[3] < map.box[3]; ++at[3]) {
    for (at[2] = 0; at[2] < map.box[2]; ++at[2]) {
      for (at[1] = 0; at[1] < map.box[1]; ++at[1], ++row) {
        for (at[0] = 0; at[0] < map.box[0]; ++at[0]) {
          bool inside = true;
          unsigned char* element = map.data;
          for (int d = 0; d < 4; ++d) {
            const std::int64_t index = from[d] + static_cast<std::int64_t>(at[d]);
            inside = inside && index >= 0 && index < static_cast<std::int64_t>(map.sizes[d]);
            element += index * static_cast<std::int64_t>(map.stride_bytes[d]);
          }
          visit(row * 128 + (((at[0] >> 3 ^ row) & 7) << 4) + (at[0] & 7) * 2,
                inside ? element : nullptr);
        }
      }
    }
  }
}
inline std::uint32_t box_bytes(const CUtensorMap& map) {
  return map.box[0] * map.box[1] * map.box[2] * map.box[3] * 2;
}
// By value below: the issuing thread, which holds the map, may end before its copy.
inline void tma_load_4d(void* shared, const void* map_pointer, std::uint64_t* barrier, int x, int y,
                        int z, int w) {
  const CUtensorMap map = *static_cast<const CUtensorMap*>(map_pointer);
  const std::uint32_t address = shared_address(shared), bytes = box_bytes(map);
  if (address % 1024 != 0) emulation::fail("a bulk load to an address that is no multiple of 1024");
  unsigned char* to = emulation::at_address(address, bytes);
  emulation::start_load([=] {
    for_each_of_box(map, {x, y, z, w}, [&](std::uint32_t offset, const unsigned char* element) {
      if (element != nullptr) {
        std::memcpy(to + offset, element, 2);
      } else {
        std::memset(to + offset, 0, 2);
      }
    });
    mbarrier_change(barrier, 0, -static_cast<std::int32_t>(bytes));
  });
}
inline void bulk_load(void* shared, const void* global, std::uint32_t bytes,
                      std::uint64_t* barrier) {
  const std::uint32_t address = shared_address(shared);
  unsigned char* to = emulation::at_address(address, bytes);
  if (reinterpret_cast<std::uintptr_t>(global) % 16 != 0 || address % 16 != 0 || bytes % 16 != 0) {
    emulation::fail("a bulk load of " + std::to_string(bytes) + " bytes that is not aligned to 16");
  }
  emulation::start_load([=] {
    std::memcpy(to, global, bytes);
    mbarrier_change(barrier, 0, -static_cast<std::int32_t>(bytes));
  });
}
inline void tma_store_4d(const void* map_pointer, const void* shared, int x, int y, int z, int w) {
  const CUtensorMap map = *static_cast<const CUtensorMap*>(map_pointer);
  const std::uint32_t address = shared_address(shared), bytes = box_bytes(map);
  if (address % 1024 != 0)
    emulation::fail("a bulk store from an address that is no multiple of 1024");
  emulation::check_fenced(address, bytes);
  const unsigned char* data = emulation::at_address(address, bytes);
  emulation::enqueue(emulation::Queue::kStore, [=] {
    for_each_of_box(map, {x, y, z, w}, [&](std::uint32_t offset, unsigned char* element) {
      if (element != nullptr) std::memcpy(element, data + offset, 2);
    });
  });
}
inline void tma_store_commit() { emulation::commit(emulation::Queue::kStore); }
template <int kPending>
void tma_store_wait_read() {
  emulation::wait_queue(emulation::Queue::kStore, kPending);
}
template <int kPending>
void tma_store_wait() {
  emulation::wait_queue(emulation::Queue::kStore, kPending);
}
inline void fence_proxy_async() { emulation::fence(); }

// --- warps and barriers

inline void named_barrier_sync(int id, int threads) { emulation::meet(id, threads); }
inline void named_barrier_arrive(int id, int threads) { emulation::meet(id, threads, false); }
template <int kRegisters>
void set_max_registers_up() {
  emulation::set_registers(kRegisters);
}
template <int kRegisters>
void set_max_registers_down() {
  emulation::set_registers(kRegisters);
}
inline bool elect_one() {
  return threadIdx.x % 32 == (emulation::order() == emulation::Order::kEarly ? 0u : 31u);
}
inline int read_thread_index() { return static_cast<int>(threadIdx.x); }

// --- matrix fragments

/// Row r of the 8 x 8 matrix j lies where lane 8 j + r says.
inline unsigned char* matrix_row(const emulation::WarpWords& words, int matrix, int row) {
  const auto address = static_cast<std::uint32_t>(words[8 * matrix + row][0]);
  if (address % 16 != 0) emulation::fail("a matrix row that is not aligned to 16 bytes");
  return emulation::at_address(address, 16);
}
inline void stmatrix_x4(void* row, std::uint32_t a, std::uint32_t b, std::uint32_t c,
                        std::uint32_t d) {
  const auto& words = emulation::exchange({shared_address(row)});
  const int lane = emulation::lane();
  const std::uint32_t values[4] = {a, b, c, d};
  for (int j = 0; j < 4; ++j) {
    unsigned char* to = matrix_row(words, j, lane / 4);
    std::memcpy(to + 4 * (lane % 4), &values[j], 4);
    emulation::mark_written(static_cast<std::uint32_t>(words[8 * j + lane / 4][0]), 16);
  }
}
inline void ldmatrix_x4(const void* row, std::uint32_t (&out)[4]) {
  const auto& words = emulation::exchange({shared_address(row)});
  const int lane = emulation::lane();
  for (int j = 0; j < 4; ++j) {
    std::memcpy(&out[j], matrix_row(words, j, lane / 4) + 4 * (lane % 4), 4);
  }
  emulation::meet_warp();
}
inline void ldmatrix_x4_transposed(const void* row, std::uint32_t (&out)[4]) {
  const auto& words = emulation::exchange({shared_address(row)});
  const int lane = emulation::lane();
  for (int j = 0; j < 4; ++j) {
    std::uint16_t pair[2];
    for (int c = 0; c < 2; ++c) {
      std::memcpy(&pair[c], matrix_row(words, j, 2 * (lane % 4) + c) + 2 * (lane / 4), 2);
    }
    out[j] = pair[0] | static_cast<std::uint32_t>(pair[1]) << 16;
  }
  emulation::meet_warp();
}
inline float low_half(std::uint64_t pair) {
  return __uint_as_float(static_cast<unsigned>(pair) << 16);
}
inline float high_half(std::uint64_t pair) {
  return __uint_as_float(static_cast<unsigned>(pair) & 0xffff0000u);
}
inline std::uint32_t pack_bf16(float low, float high) {
  const auto half = [](float x) {
    std::uint32_t word = __float_as_uint(x);
    if (x == x) word += 0x7fff + (word >> 16 & 1);
    return word >> 16;
  };
  return half(low) | half(high) << 16;
}
inline float exp2_fast(float x) { return exp2f(x); }
inline float reciprocal_fast(float x) { return 1.0f / x; }

// --- kernels that overlap: here one has ended before the next begins

inline void launch_dependents() {}
inline void dependency_wait() {}
template <bool, typename Word>
Word load_once(const Word* from) {
  return __ldcs(from);
}

// --- wgmma ordering

inline void wgmma_fence() { emulation::wgmma_fence_seen(true); }
inline void wgmma_commit() { emulation::commit(emulation::Queue::kWgmma); }
/// Behind it the accumulators may have changed: the next wgmma wants a fence.
template <int kPending>
void wgmma_wait() {
  emulation::wait_queue(emulation::Queue::kWgmma, kPending);
  emulation::meet_warp();
  emulation::wgmma_fence_seen(false);
}
inline void keep(float&) {}

}  // namespace lram::kernels
