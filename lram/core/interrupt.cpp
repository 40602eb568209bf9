#include "lram/core/interrupt.h"

#include <atomic>
#include <csignal>

namespace lram {
namespace {
std::atomic<int> received{0};
static_assert(std::atomic<int>::is_always_lock_free);  // a signal handler writes it

void handle(int signal) {
  if (received.exchange(signal) != 0) {
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
}
}  // namespace

void catch_interrupts() {
  struct sigaction action {};
  action.sa_handler = handle;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

int interrupted() { return received.load(std::memory_order_relaxed); }
}  // namespace lram
