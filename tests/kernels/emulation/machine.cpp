#include "tests/kernels/emulation/machine.h"

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "lram/core/error.h"
#include "tests/kernels/emulation/cuda.h"

// Static shared memory, as far as the compiler puts it there (not in templates).
extern "C" __attribute__((weak)) char __start_emulated_shared[], __stop_emulated_shared[];

namespace lram::emulation {
namespace {

constexpr std::size_t kPage = 4096, kStackBytes = 256 * 1024, kMaxShared = 227 * 1024;
constexpr int kRegisterFile = 65536, kMaxThreads = 1024;

std::size_t round_up(std::size_t bytes, std::size_t to) { return (bytes + to - 1) / to * to; }

/// `bytes` that end, but for `align` - 1 bytes at most, where an unreadable page begins.
unsigned char* guarded_memory(std::size_t bytes, std::size_t align) {
  const std::size_t size = round_up(std::max<std::size_t>(bytes, 1), align);
  const std::size_t pages = round_up(size, kPage) + 2 * kPage;
  void* base = mmap(nullptr, pages, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) throw_error(ErrorKind::kResource, "no memory for {} bytes", bytes);
  auto* const first = static_cast<unsigned char*>(base);
  mprotect(first, kPage, PROT_NONE);
  mprotect(first + pages - kPage, kPage, PROT_NONE);
  return first + pages - kPage - size;
}
void free_guarded(unsigned char* data, std::size_t bytes, std::size_t align) {
  const std::size_t size = round_up(std::max<std::size_t>(bytes, 1), align);
  const std::size_t pages = round_up(size, kPage) + 2 * kPage;
  munmap(data + size + kPage - pages, pages);
}

struct Meeting {
  int arrived = 0, threads = 0;
  std::uint64_t generation = 0;
};
bool has_met(const void* meeting, std::uint64_t generation) {
  return static_cast<const Meeting*>(meeting)->generation != generation;
}

struct Warp {
  Meeting meeting;
  WarpWords words[2];
};

struct Work {
  std::function<void()> run;
  int group;
};

struct Thread {
  ucontext_t context;
  jmp_buf jump;
  std::unique_ptr<char[]> stack;
  bool started = false, done = true, fenced = false;
  uint3 index;
  Wait wait;
  std::deque<Work> queues[2];
  int groups[2] = {};
  int registers = 0;
};

void thread_entry();

class Machine {
 public:
  void run(dim3 blocks, dim3 threads, std::size_t bytes, const std::function<void()>& body);
  void wait(const Wait& condition) {
    if (condition.ready(condition.object, condition.value)) return;
    threads_[current_].wait = condition;
    switch_away();
  }
  [[noreturn]] void fail(const std::string& finding) {
    finding_ = "block (" + std::to_string(blockIdx.x) + ", " + std::to_string(blockIdx.y) +
               "), thread " + std::to_string(current_) + ": " + finding;
    _longjmp(main_, 1);
  }
  void meet(Meeting& meeting, int threads, bool stay, const char* what);
  void finish_thread();
  void work_off(Queue queue, int most_pending);

  Order order = Order::kEarly;
  unsigned char* shared = guarded_memory(kMaxShared, 1024);
  std::size_t shared_bytes = 0;
  std::array<Meeting, 16> meetings;
  std::array<Warp, kMaxThreads / 32> warps;
  std::vector<std::function<void()>> loads;
  std::vector<std::uint8_t> written;  // per 16 bytes of shared memory: warp + 1
  std::vector<std::uint32_t> written_by[kMaxThreads / 32];
  int live = 0, free_registers = 0;
  std::function<void()> body;

  Thread& current() { return threads_[current_]; }
  std::size_t index() const { return current_; }

 private:
  void switch_away();
  __attribute__((noinline)) void resume(std::size_t next);
  __attribute__((noinline)) static void prepare(Thread& t);
  __attribute__((noinline)) void leave();
  __attribute__((noinline)) void run_threads();
  std::string who_waits() const;

  std::vector<Thread> threads_ = std::vector<Thread>(kMaxThreads);
  std::size_t current_ = 0, count_ = 0;
  jmp_buf main_;
  unsigned char* const shared_end_ = shared + kMaxShared;
  std::string finding_;
};

Machine& machine() {
  static Machine only;
  return only;
}

void thread_entry() {
  for (;;) {
    machine().body();
    machine().finish_thread();
  }
}

void Machine::resume(std::size_t next) {
  const std::size_t previous = current_;
  threads_[next].wait = {};
  current_ = next;
  threadIdx = threads_[next].index;
  if (next == previous && threads_[next].started) return;
  if (_setjmp(threads_[previous].jump) == 0) {
    if (threads_[next].started) _longjmp(threads_[next].jump, 1);
    threads_[next].started = true;
    setcontext(&threads_[next].context);
  }
}

// The last thread of a block has ended; it goes on from here in the next block.
void Machine::leave() {
  if (_setjmp(current().jump) == 0) _longjmp(main_, 1);
}

// Goes on with the next thread that can run; returns once this one is called again.
void Machine::switch_away() {
  const std::size_t step = order == Order::kEarly ? 1 : count_ - 1;
  for (;;) {
    std::size_t next = current_;
    for (std::size_t n = 0; n < count_; ++n) {
      next = (next + step) % count_;
      const Thread& t = threads_[next];
      if (t.done || (t.wait.ready != nullptr && !t.wait.ready(t.wait.object, t.wait.value)))
        continue;
      return resume(next);
    }
    if (live == 0) return leave();
    if (loads.empty()) fail("no thread can run: " + who_waits());
    const auto copy = std::move(loads.back());
    loads.pop_back();
    copy();
  }
}

std::string Machine::who_waits() const {
  std::map<std::string, int> counts;
  for (std::size_t n = 0; n < count_; ++n) {
    const Thread& t = threads_[n];
    if (t.done) continue;
    std::string what = t.wait.what;
    const auto* object = static_cast<const unsigned char*>(t.wait.object);
    if (object >= shared && object < shared + shared_bytes) {
      what += " at byte " + std::to_string(object - shared) + " of shared memory";
    }
    ++counts[what + " (" + std::to_string(t.wait.value) + ")"];
  }
  std::string out;
  for (const auto& [what, count] : counts) {
    out += (out.empty() ? "" : ", ") + std::to_string(count) + " wait for " + what;
  }
  return out;
}

void Machine::meet(Meeting& meeting, int threads, bool stay, const char* what) {
  if (meeting.arrived > 0 && meeting.threads != threads)
    fail(std::string(what) + ": counts differ");
  meeting.threads = threads;
  const std::uint64_t generation = meeting.generation;
  if (++meeting.arrived == (threads == 0 ? live : threads)) {
    meeting.arrived = 0;
    ++meeting.generation;
  } else if (stay) {
    wait({has_met, &meeting, generation, what});
  }
}

void Machine::finish_thread() {
  Thread& t = current();
  if (!t.queues[0].empty()) fail("ended while bulk stores may still read shared memory");
  if (!t.queues[1].empty()) fail("ended without waiting for its wgmma");
  t.done = true;
  --live;
  Meeting& all = meetings[0];
  if (all.arrived > 0 && all.threads == 0 && all.arrived == live) {
    all.arrived = 0;
    ++all.generation;
  }
  switch_away();
}

void Machine::work_off(Queue queue, int most_pending) {
  Thread& t = current();
  const auto which = static_cast<std::size_t>(queue);
  auto& pending = t.queues[which];
  while (!pending.empty() && pending.front().group < t.groups[which] - most_pending) {
    pending.front().run();
    pending.pop_front();
  }
}

void Machine::prepare(Thread& t) {
  if (t.stack == nullptr) t.stack.reset(new char[kStackBytes]);
  getcontext(&t.context);
  t.context.uc_stack.ss_sp = t.stack.get();
  t.context.uc_stack.ss_size = kStackBytes;
  t.context.uc_link = nullptr;
  makecontext(&t.context, thread_entry, 0);
}

// Returns when all threads have ended or one has failed.
void Machine::run_threads() {
  if (_setjmp(main_) != 0) return;
  current_ = order == Order::kEarly ? 0 : count_ - 1;
  Thread& first = current();
  threadIdx = first.index;
  if (first.started) _longjmp(first.jump, 1);
  first.started = true;
  setcontext(&first.context);
}

void Machine::run(dim3 blocks, dim3 threads, std::size_t bytes, const std::function<void()>& code) {
  count_ = std::size_t{1} * threads.x * threads.y * threads.z;
  LRAM_CHECK(count_ >= 1 && count_ <= kMaxThreads, "a block of ", count_, " threads");
  LRAM_CHECK(blocks.x >= 1 && blocks.y >= 1 && blocks.y <= 65535 && blocks.z == 1, "a grid of ",
             blocks.x, " x ", blocks.y, " x ", blocks.z, " blocks");
  LRAM_CHECK(bytes <= kMaxShared, bytes, " bytes of shared memory");
  body = code;
  blockDim = threads, gridDim = blocks;
  shared_bytes = round_up(bytes, 1024);
  shared = shared_end_ - shared_bytes;
  for (unsigned y = 0; y < blocks.y; ++y) {
    for (unsigned x = 0; x < blocks.x; ++x) {
      blockIdx = {x, y, 0};
      std::memset(shared, 0xff, shared_bytes);
      if (__start_emulated_shared != nullptr) {
        std::memset(__start_emulated_shared, 0xff,
                    static_cast<std::size_t>(__stop_emulated_shared - __start_emulated_shared));
      }
      meetings.fill({});
      for (Warp& w : warps) w.meeting = {};
      loads.clear();
      written.assign(shared_bytes / 16, 0);
      for (auto& list : written_by) list.clear();
      live = static_cast<int>(count_);
      free_registers = 0;
      const int registers = std::min(255, kRegisterFile / live / 8 * 8);
      for (std::size_t n = 0; n < count_; ++n) {
        Thread& t = threads_[n];
        if (!t.started) prepare(t);
        t.done = t.fenced = false;
        const auto i = static_cast<unsigned>(n);
        t.index = {i % threads.x, i / threads.x % threads.y, i / threads.x / threads.y};
        t.wait = {};
        for (auto& queue : t.queues) queue.clear();
        t.groups[0] = t.groups[1] = 0;
        t.registers = registers;
      }
      finding_.clear();
      run_threads();
      if (!finding_.empty()) {
        for (Thread& t : threads_)
          t.started = false;  // in the middle of a body that goes no further
        throw_error(ErrorKind::kInternal, "{}", finding_);
      }
      if (!loads.empty()) {
        throw_error(ErrorKind::kInternal, "the block ended before {} of its loads", loads.size());
      }
    }
  }
}

}  // namespace

void set_order(Order order) { machine().order = order; }
Order order() { return machine().order; }
void run(dim3 blocks, dim3 threads, std::size_t shared_bytes, const std::function<void()>& body) {
  machine().run(blocks, threads, shared_bytes, body);
}
void fail(const std::string& finding) { machine().fail(finding); }
unsigned char* shared_memory() { return machine().shared; }
std::size_t shared_bytes() { return machine().shared_bytes; }

std::uint32_t address_of(const void* pointer) {
  const auto offset = static_cast<const unsigned char*>(pointer) - machine().shared;
  if (offset < 0 || static_cast<std::size_t>(offset) > machine().shared_bytes) {
    fail("the address of something outside of dynamic shared memory");
  }
  return kSharedBase + static_cast<std::uint32_t>(offset);
}
unsigned char* at_address(std::uint32_t address, std::uint32_t bytes) {
  if (address < kSharedBase || address - kSharedBase + bytes > machine().shared_bytes) {
    fail("shared address " + std::to_string(address) + " lies outside of shared memory");
  }
  return machine().shared + (address - kSharedBase);
}

void wait(const Wait& condition) { machine().wait(condition); }
void meet(int id, int threads, bool stay) {
  machine().meet(machine().meetings.at(static_cast<std::size_t>(id)), threads, stay,
                 id == 0 ? "__syncthreads" : "a named barrier");
}
const WarpWords& exchange(const std::uint64_t (&words)[8]) {
  const std::size_t thread = machine().index();
  Warp& warp = machine().warps[thread / 32];
  auto& here = warp.words[warp.meeting.generation % 2];
  std::copy(std::begin(words), std::end(words), here[thread % 32]);
  machine().meet(warp.meeting, 32, true, "the warp's other lanes");
  return here;
}

void start_load(std::function<void()> copy) {
  if (order() == Order::kEarly) return copy();
  machine().loads.push_back(std::move(copy));
}
void enqueue(Queue queue, std::function<void()> work) {
  Thread& t = machine().current();
  const auto which = static_cast<std::size_t>(queue);
  t.queues[which].push_back({std::move(work), t.groups[which]});
  if (order() == Order::kEarly) {
    t.queues[which].back().run();
    t.queues[which].back().run = [] {};
  }
}
void commit(Queue queue) { ++machine().current().groups[static_cast<std::size_t>(queue)]; }
void wait_queue(Queue queue, int most_pending) { machine().work_off(queue, most_pending); }

void mark_written(std::uint32_t address, std::uint32_t bytes) {
  at_address(address, bytes);
  const std::size_t warp = machine().index() / 32;
  const std::uint32_t piece = (address - kSharedBase) / 16;
  std::uint8_t& owner = machine().written[piece];
  if (owner == warp + 1) return;
  owner = static_cast<std::uint8_t>(warp + 1);
  machine().written_by[warp].push_back(piece);
}
void fence() {
  const std::size_t warp = machine().index() / 32;
  for (const std::uint32_t piece : machine().written_by[warp]) {
    std::uint8_t& owner = machine().written[piece];
    if (owner == warp + 1) owner = 0;
  }
  machine().written_by[warp].clear();
}
void check_fenced(std::uint32_t address, std::uint32_t bytes) {
  at_address(address, bytes);
  const std::uint32_t first = (address - kSharedBase) / 16;
  for (std::uint32_t piece = first; piece <= first + (bytes - 1) / 16; ++piece) {
    if (machine().written[piece] != 0) {
      fail("byte " + std::to_string(16 * piece) +
           " of shared memory is read by an asynchronous instruction before fence.proxy.async");
    }
  }
}

void wgmma_fence_seen(bool seen) { machine().current().fenced = seen; }
bool wgmma_is_fenced() { return machine().current().fenced; }
void set_registers(int count) {
  Machine& m = machine();
  Thread& t = m.current();
  const int more = count - t.registers;
  if (more > 0) {
    wait({[](const void* free, std::uint64_t wanted) {
            return *static_cast<const int*>(free) >= static_cast<int>(wanted);
          },
          &m.free_registers, static_cast<std::uint64_t>(more), "registers in setmaxnreg"});
  }
  m.free_registers -= more;
  t.registers = count;
}

}  // namespace lram::emulation

// --- The runtime's functions
namespace {
std::map<unsigned char*, std::size_t>& allocations() {
  static std::map<unsigned char*, std::size_t> all;
  return all;
}
}  // namespace

cudaError_t cudaMalloc(void** out, std::size_t bytes) {
  auto* const data = lram::emulation::guarded_memory(bytes, 256);
  allocations()[data] = bytes;
  *out = data;
  return cudaSuccess;
}
cudaError_t cudaFree(void* data) {
  const auto found = allocations().find(static_cast<unsigned char*>(data));
  if (found == allocations().end()) return data == nullptr ? cudaSuccess : cudaErrorInvalidValue;
  lram::emulation::free_guarded(found->first, found->second, 256);
  allocations().erase(found);
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* out, const void* pointer) {
  auto* const data = static_cast<unsigned char*>(const_cast<void*>(pointer));
  auto next = allocations().upper_bound(data);
  const bool inside =
      next != allocations().begin() && data <= std::prev(next)->first + std::prev(next)->second;
  *out = {inside ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered, 0};
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  using lram::emulation::Order;
  lram::emulation::set_order(lram::emulation::order() == Order::kEarly ? Order::kLate
                                                                       : Order::kEarly);
  return cudaSuccess;
}
cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, int,
                                             cudaDriverEntryPointQueryResult* result) {
  const bool known = std::string_view(name) == "cuTensorMapEncodeTiled";
  *function = known ? reinterpret_cast<void*>(&cuTensorMapEncodeTiled) : nullptr;
  *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}
CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType, std::uint32_t rank,
                                void* data, const std::uint64_t* sizes,
                                const std::uint64_t* stride_bytes, const std::uint32_t* box,
                                const std::uint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                                CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  bool valid = rank >= 1 && rank <= 5 && reinterpret_cast<std::uintptr_t>(data) % 16 == 0 &&
               box[0] * 2 <= 128;
  *map = {};
  map->data = static_cast<unsigned char*>(data);
  map->rank = static_cast<int>(rank);
  for (std::uint32_t d = 0; d < rank && valid; ++d) {
    map->sizes[d] = sizes[d];
    map->box[d] = box[d];
    map->stride_bytes[d] = d == 0 ? 2 : stride_bytes[d - 1];
    valid = sizes[d] >= 1 && sizes[d] <= std::uint64_t{1} << 32 && box[d] >= 1 && box[d] <= 256 &&
            (d == 0 ||
             (map->stride_bytes[d] % 16 == 0 && map->stride_bytes[d] < std::uint64_t{1} << 40));
  }
  return valid ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

// --- Built-in functions
void __syncthreads() { lram::emulation::meet(0, 0); }
void __syncwarp(unsigned) { lram::emulation::meet_warp(); }
unsigned __ballot_sync(unsigned, bool vote) {
  const auto& words = lram::emulation::exchange({vote ? 1u : 0u});
  unsigned out = 0;
  for (int lane = 0; lane < 32; ++lane) out |= static_cast<unsigned>(words[lane][0]) << lane;
  return out;
}
namespace lram::emulation {
int lane() { return static_cast<int>(machine().index() % 32); }
std::uint64_t shuffle(std::uint64_t value, int from) {
  const auto& words = exchange({value});
  return words[from >= 0 && from < 32 ? from : lane()][0];
}
}  // namespace lram::emulation
