// Times the mLSTM's forward and forward+backward from CUDA graphs, L2 flushed before each replay.
//   mlstm_bench
//   [B,T,H,K,V[,sig|exp[,short|tiled|long[,sm90|portable[,normed[,workspace=MIB]]]]]]...
// normed: dh . h is given, as a norm behind does. workspace: at least so much of it.
// Prints medians and p99 in microseconds, and the part of the copy rate that the fewest bytes make.
// Correctness on these paths is mlstm_test's.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/common/cuda_check.h"
#include "kernels/common/device.h"
#include "kernels/mlstm/mlstm.h"
#include "kernels/mlstm/mlstm_implementation.h"
#include "lram/core/error.h"

namespace lram::kernels {
namespace {

class Memory {
 public:
  explicit Memory(std::size_t bytes) {
    LRAM_CUDA_CHECK(cudaMalloc(&data_, std::max<std::size_t>(bytes, 256)));
  }
  Memory(const Memory&) = delete;
  ~Memory() { cudaFree(data_); }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
};

struct Times {
  double median_us, p99_us;
};

/// `work` captured once and replayed; 256 MiB written before each replay.
Times time_graph(cudaStream_t stream, const std::function<void()>& work) {
  static const Memory flush(256u << 20);
  work();
  cudaGraph_t graph;
  cudaGraphExec_t replay;
  LRAM_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  work();
  LRAM_CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
  LRAM_CUDA_CHECK(cudaGraphInstantiate(&replay, graph, 0));
  cudaEvent_t begin, end;
  LRAM_CUDA_CHECK(cudaEventCreate(&begin));
  LRAM_CUDA_CHECK(cudaEventCreate(&end));
  std::vector<double> us;
  for (int n = 0; n < 110; ++n) {
    LRAM_CUDA_CHECK(cudaMemsetAsync(flush.as<void>(), n, 256u << 20, stream));
    LRAM_CUDA_CHECK(cudaEventRecord(begin, stream));
    LRAM_CUDA_CHECK(cudaGraphLaunch(replay, stream));
    LRAM_CUDA_CHECK(cudaEventRecord(end, stream));
    LRAM_CUDA_CHECK(cudaEventSynchronize(end));
    float ms = 0;
    LRAM_CUDA_CHECK(cudaEventElapsedTime(&ms, begin, end));
    if (n >= 10) us.push_back(1e3 * ms);
  }
  LRAM_CUDA_CHECK(cudaGraphExecDestroy(replay));
  LRAM_CUDA_CHECK(cudaGraphDestroy(graph));
  std::sort(us.begin(), us.end());
  return {us[us.size() / 2], us[us.size() * 99 / 100]};
}

std::vector<std::uint16_t> random_bf16(std::size_t count, unsigned seed) {
  std::vector<std::uint16_t> x(count);
  std::uint32_t state = seed * 2654435761u + 1;
  for (auto& value : x) {
    state = state * 1664525u + 1013904223u;
    // Sign, exponents 2^-2 to 2^0, mantissa.
    value = static_cast<std::uint16_t>(((state >> 16) & 0x80ff) | (0x3e80 + ((state >> 8) & 0x80)));
  }
  return x;
}

double copy_rate(cudaStream_t stream) {
  constexpr std::size_t kBytes = 1u << 30;
  const Memory from(kBytes), to(kBytes);
  const Times t = time_graph(stream, [&] {
    LRAM_CUDA_CHECK(
        cudaMemcpyAsync(to.as<void>(), from.as<void>(), kBytes, cudaMemcpyDeviceToDevice, stream));
  });
  return 2.0 * kBytes / t.median_us * 1e-3;  // GB/s
}

void bench(const std::string& text, double rate, cudaStream_t stream) {
  std::vector<std::string> words;
  std::istringstream in(text);
  for (std::string word; std::getline(in, word, ',');) words.push_back(word);
  if (words.size() < 5) {
    throw_error(ErrorKind::kUsage, "shape '{}', wanted B,T,H,K,V and more", text);
  }
  bool normed = false;
  std::size_t least_workspace = 0;
  MlstmProblem p;
  int* const sizes[5] = {&p.batch, &p.tokens, &p.heads, &p.key_dim, &p.value_dim};
  for (std::size_t j = 0; j < 5; ++j) *sizes[j] = std::stoi(words[j]);
  for (std::size_t j = 5; j < words.size(); ++j) {
    if (words[j] == "sig") p.sigmoid_gate = true, p.normalize = false;
    if (words[j] == "short") p.form = MlstmForm::kShort;
    if (words[j] == "tiled") p.form = MlstmForm::kTiled;
    if (words[j] == "long") p.form = MlstmForm::kLong;
    if (words[j] == "normed") normed = true;
    if (words[j].rfind("workspace=", 0) == 0)
      least_workspace = std::stoul(words[j].substr(10)) << 20;
    if (words[j] == "sm90") p.path = KernelPath::kSm90;
    if (words[j] == "portable") p.path = KernelPath::kPortable;
  }
  const std::int64_t heads = p.heads, tokens = p.tokens;
  const auto rows = static_cast<std::size_t>(p.batch * tokens * heads);
  const auto keys = static_cast<std::size_t>(p.key_dim),
             values = static_cast<std::size_t>(p.value_dim);
  const auto tensor = [&](const Memory& memory, std::size_t dim) {
    const auto d = static_cast<std::int64_t>(dim);
    return HeadTensor{memory.as<void>(), tokens * heads * d, heads * d, d};
  };
  const Memory q(rows * keys * 2), k(rows * keys * 2), v(rows * values * 2), h(rows * values * 2);
  const Memory dh(rows * values * 2), dq(rows * keys * 2), dk(rows * keys * 2),
      dv(rows * values * 2);
  const Memory i(rows * 4), f(rows * 4), di(rows * 4), df(rows * 4), dh_dot_h(rows * 4);
  unsigned seed = 1;
  for (const auto& [memory, dim] : {std::pair(&q, keys), {&k, keys}, {&v, values}, {&dh, values}}) {
    const auto host = random_bf16(rows * dim, seed++);
    LRAM_CUDA_CHECK(
        cudaMemcpy(memory->as<void>(), host.data(), host.size() * 2, cudaMemcpyDefault));
  }
  std::vector<float> gate(rows);
  for (std::size_t j = 0; j < rows; ++j) gate[j] = static_cast<float>(j % 7) * 0.3f - 1.0f;
  LRAM_CUDA_CHECK(cudaMemcpy(i.as<void>(), gate.data(), rows * 4, cudaMemcpyDefault));
  for (float& x : gate) x += 4.0f;
  LRAM_CUDA_CHECK(cudaMemcpy(f.as<void>(), gate.data(), rows * 4, cudaMemcpyDefault));
  const auto gates = [&](const Memory& memory) {
    return GateTensor{memory.as<float>(), tokens * heads, heads, 1};
  };
  p.q = tensor(q, keys), p.k = tensor(k, keys), p.v = tensor(v, values);
  p.i = gates(i), p.f = gates(f);

  const Memory saved(mlstm_saved_bytes(p));
  const std::size_t workspace_bytes = std::max(
      {mlstm_forward_workspace_bytes(p), mlstm_backward_workspace_bytes(p), least_workspace});
  const Memory workspace(workspace_bytes);
  MlstmForward forward{
      p, tensor(h, values), {}, saved.as<void>(), workspace.as<void>(), workspace_bytes, stream};
  MlstmBackward backward;
  backward.problem = p;
  backward.h = tensor(h, values), backward.saved = saved.as<void>(),
  backward.dh = tensor(dh, values);
  backward.dq = tensor(dq, keys), backward.dk = tensor(dk, keys), backward.dv = tensor(dv, values);
  backward.di = gates(di), backward.df = gates(df);
  if (normed) {
    LRAM_CUDA_CHECK(cudaMemset(dh_dot_h.as<void>(), 0, rows * 4));
    backward.dh_dot_h = gates(dh_dot_h);
  }
  backward.workspace = workspace.as<void>(), backward.workspace_bytes = workspace_bytes;
  backward.stream = stream;
  const Times one = time_graph(stream, [&] { mlstm_forward(forward); });
  const Times both = time_graph(stream, [&] {
    mlstm_forward(forward);
    mlstm_backward(backward);
  });
  // Fewest bytes: q, k, v in and h out; then q, k, v, h, dh in and dq, dk, dv out.
  const double forward_bytes = 4.0 * static_cast<double>(rows) * static_cast<double>(keys + values);
  const double floor_us = forward_bytes / rate * 1e-3;
  const double both_floor_us = 3 * floor_us;
  std::printf(
      "%-34s %-26s forward %8.1f us (p99 %8.1f) %3.0f %% of copy, +backward %8.1f us (p99 %8.1f) "
      "%3.0f %%\n",
      text.c_str(), mlstm_implementation(p).name, one.median_us, one.p99_us,
      100 * floor_us / one.median_us, both.median_us, both.p99_us,
      100 * both_floor_us / both.median_us);
  std::fflush(stdout);
}

int run(int argc, char** argv) {
  std::vector<std::string> shapes(argv + 1, argv + argc);
  if (shapes.empty()) {
    shapes = {"64,150,4,256,256", "64,150,8,128,128", "64,150,8,64,64",   "64,150,4,384,384",
              "64,150,4,512,512", "64,150,4,640,640", "64,200,4,256,256", "64,150,4,256,256,sig"};
  }
  cudaStream_t stream;
  LRAM_CUDA_CHECK(cudaStreamCreate(&stream));
  const double rate = copy_rate(stream);
  std::printf("copy rate %.0f GB/s\n", rate);
  int failed = 0;
  for (const std::string& shape : shapes) {
    try {
      bench(shape, rate, stream);
    } catch (const std::exception& error) {
      std::printf("%-34s %s\n", shape.c_str(), error.what());
      failed = 1;
    }
  }
  return failed;
}

}  // namespace
}  // namespace lram::kernels

int main(int argc, char** argv) {
  try {
    return lram::kernels::run(argc, argv);
  } catch (const lram::Error& error) {
    std::fprintf(stderr, "mlstm_bench: %s\n", error.what());
    return static_cast<int>(error.kind());
  }
}
