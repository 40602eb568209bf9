#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "tests/kernels/emulation/cuda_runtime.h"

/// Runs CUDA kernels on the CPU, one block after the other, each CUDA thread a fibre that gives way
/// only where it waits. What the kernels take from kernels/common/ (launch, PTX, wgmma) is replaced
/// by the headers of the same names in this folder; everything else is the kernels' own source.
///
/// Finds, by a thrown Error that says where: threads that wait for ever, misuse of an mbarrier,
/// addresses outside of shared memory or misaligned, stmatrix results that the tensor cores or the
/// copy engine read without fence.proxy.async, wgmma without fence or left without wait, bulk
/// stores left reading, more registers in setmaxnreg than there are. Shared memory starts as NaN in
/// every block. Beyond an allocation lies a page that faults. Not seen: races that both orders
/// below hide, fences after plain stores, bank conflicts, anything of time.
namespace lram::emulation {

/// Two schedules that a correct kernel cannot tell apart. kEarly: threads in rising order,
/// asynchronous work done where it is issued. kLate: falling order, asynchronous work done as late
/// as allowed: loads once nobody else can run, newest first; wgmma and stores in the wait for them.
enum class Order { kEarly, kLate };
void set_order(Order order);  ///< kEarly at first; cudaDeviceSynchronize() changes to the other
Order order();

/// `body` in every thread of every block. Throws Error(kInternal) on a finding.
void run(dim3 blocks, dim3 threads, std::size_t shared_bytes, const std::function<void()>& body);

// The rest is for code inside `body`.

[[noreturn]] void fail(const std::string& finding);
unsigned char* shared_memory();
std::size_t shared_bytes();
/// Address in a block's window, in which dynamic shared memory starts at kSharedBase.
constexpr std::uint32_t kSharedBase = 1024;
std::uint32_t address_of(const void* pointer);
/// `bytes` at an address, checked.
unsigned char* at_address(std::uint32_t address, std::uint32_t bytes);

/// A condition to wait for: ready(object, value).
struct Wait {
  bool (*ready)(const void* object, std::uint64_t value) = nullptr;
  const void* object = nullptr;
  std::uint64_t value = 0;
  const char* what = "";
};
void wait(const Wait& condition);
/// Barrier `id` of 0 to 15 among `threads`; 0 threads: all that still run.
void meet(int id, int threads, bool stay = true);
/// All 32 lanes give 8 words; the other lanes' are valid until the lane's next call.
using WarpWords = std::uint64_t[32][8];
const WarpWords& exchange(const std::uint64_t (&words)[8]);
inline void meet_warp() { exchange({}); }

/// Asynchronous loads. With kLate `copy` is called when no thread can run.
void start_load(std::function<void()> copy);
/// Bulk stores and wgmma of this thread: `work` is done at the latest in the wait that leaves fewer
/// than its group unfinished.
enum class Queue : unsigned char { kStore, kWgmma };
void enqueue(Queue queue, std::function<void()> work);
void commit(Queue queue);
void wait_queue(Queue queue, int most_pending);

/// The bytes were written by ordinary stores of this warp, which the asynchronous proxy sees only
/// after fence().
void mark_written(std::uint32_t address, std::uint32_t bytes);
void fence();
void check_fenced(std::uint32_t address, std::uint32_t bytes);

void wgmma_fence_seen(bool seen);
bool wgmma_is_fenced();
/// Registers a thread of this warpgroup from now on; waits until they are free.
void set_registers(int count);

}  // namespace lram::emulation
