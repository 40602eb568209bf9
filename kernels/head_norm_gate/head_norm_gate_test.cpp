#include "kernels/head_norm_gate/head_norm_gate.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/common/device.h"
#include "kernels/head_norm_gate/head_norm_gate_reference.h"
#include "lram/core/error.h"
#ifdef LRAM_HAVE_KERNELS
#include <cuda_runtime_api.h>

#include "kernels/common/cuda_check.h"
#endif

namespace lram::kernels {
namespace {
using Values = std::vector<double>;

Values normal(std::mt19937_64& engine, std::size_t count, double mean, double spread) {
  std::normal_distribution<double> draw(mean, spread);
  Values out(count);
  for (double& x : out) x = draw(engine);
  return out;
}

HeadNormGateReference random_reference(std::mt19937_64& engine, std::int64_t tokens,
                                       std::int64_t heads, std::int64_t dim, bool silu,
                                       bool with_conv) {
  const auto all = static_cast<std::size_t>(tokens * heads * dim);
  const auto columns = static_cast<std::size_t>(heads * dim);
  HeadNormGateReference out{.tokens = tokens, .heads = heads, .dim = dim, .silu = silu};
  if (!silu) out.eps = 1e-6, out.weight_offset = 0.0;
  out.h = normal(engine, all, 0.1, 1.0);
  out.z = normal(engine, all, 0.0, 2.0);
  out.dy = normal(engine, all, 0.0, 1.0);
  out.weight = normal(engine, columns, silu ? 0.0 : 1.0, 0.3);
  if (with_conv) {
    out.conv = normal(engine, all, 0.0, 1.0);
    out.skip = normal(engine, columns, 1.0, 0.3);
  }
  return out;
}

TEST(HeadNormGateReference, ByHand) {
  // norm((1, 3)) = (-1, 1); (-1 * 2 + 3 * 0.5, 1 * 1 + 3 * 1) = (-0.5, 4); sigmoid(0) = 1/2.
  HeadNormGateReference x{.tokens = 1, .heads = 1, .dim = 2, .silu = false, .eps = 0.0};
  x.h = {1, 3}, x.z = {0, 0}, x.conv = {3, 3}, x.weight = {1, 0}, x.skip = {0.5, 1};
  x.forward();
  EXPECT_DOUBLE_EQ(x.y[0], -0.25);
  EXPECT_DOUBLE_EQ(x.y[1], 2.0);
  x.silu = true;
  x.forward();
  EXPECT_DOUBLE_EQ(x.y[1], 0.0);  // SiLU(0)
}

TEST(HeadNormGateReference, BackwardIsTheDerivative) {
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 engine(seed);
    HeadNormGateReference x = random_reference(engine, 2, 2, 5, seed % 2 == 0, seed % 4 < 2);
    x.eps = 0.1;  // large enough that dh . h is not lost
    x.backward();
    const auto loss = [&] {
      x.forward();
      double sum = 0.0;
      for (std::size_t i = 0; i < x.y.size(); ++i) sum += x.y[i] * x.dy[i];
      return sum;
    };
    const auto check = [&](Values& input, const Values& gradient, const char* name) {
      ASSERT_EQ(input.size(), gradient.size()) << name;
      for (std::size_t i = 0; i < input.size(); ++i) {
        const double here = input[i], step = 1e-5;
        input[i] = here + step;
        const double above = loss();
        input[i] = here - step;
        const double below = loss();
        input[i] = here;
        // Central differences: step^2 times a third derivative of order 1, and rounding / step.
        EXPECT_NEAR((above - below) / (2 * step), gradient[i], 1e-8) << name << "[" << i << "]";
      }
    };
    check(x.h, x.dh, "h");
    check(x.z, x.dz, "z");
    check(x.conv, x.dconv, "conv");
    check(x.weight, x.dweight, "weight");
    check(x.skip, x.dskip, "skip");
  }
}

#ifdef LRAM_HAVE_KERNELS
#define LRAM_SKIP_WITHOUT_GPU() \
  if (!has_device()) GTEST_SKIP() << "no NVIDIA GPU"

std::uint16_t to_bfloat16(double x) {
  const auto bits = std::bit_cast<std::uint32_t>(static_cast<float>(x));
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
double from_bfloat16(std::uint16_t x) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(x) << 16);
}
void round_all(Values& values, DType dtype) {
  for (double& x : values)
    x = dtype == DType::kBFloat16 ? from_bfloat16(to_bfloat16(x))
                                  : static_cast<double>(static_cast<float>(x));
}

/// [batch, tokens, width] on the device, a slice of rows of `pitch` elements that hold NaN around
/// it, with `gap` more after every sequence.
class DeviceArray {
 public:
  DeviceArray(DType dtype, std::int64_t batch, std::int64_t tokens, std::int64_t width,
              std::int64_t pitch, std::int64_t gap = 0)
      : dtype_(dtype),
        batch_(batch),
        tokens_(tokens),
        width_(width),
        pitch_(pitch),
        gap_(gap),
        offset_((pitch - width) / 16 * 8) {
    LRAM_CUDA_CHECK(cudaMalloc(&data_, bytes()));
    poison();
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { cudaFree(data_); }

  void poison() {  // every byte 0xff: NaN in both types
    LRAM_CUDA_CHECK(cudaMemset(data_, 0xff, bytes()));
  }
  void write(const Values& values) {
    std::vector<std::byte> host = read_bytes();
    for (std::int64_t i = 0; i < batch_ * tokens_ * width_; ++i) {
      std::byte* to = host.data() + place(i);
      if (dtype_ == DType::kBFloat16) {
        const std::uint16_t x = to_bfloat16(values[static_cast<std::size_t>(i)]);
        std::memcpy(to, &x, sizeof(x));
      } else {
        const auto x = static_cast<float>(values[static_cast<std::size_t>(i)]);
        std::memcpy(to, &x, sizeof(x));
      }
    }
    LRAM_CUDA_CHECK(cudaMemcpy(data_, host.data(), host.size(), cudaMemcpyHostToDevice));
  }
  Values read() const {
    const std::vector<std::byte> host = read_bytes();
    Values out;
    for (std::int64_t i = 0; i < batch_ * tokens_ * width_; ++i) {
      const std::byte* from = host.data() + place(i);
      if (dtype_ == DType::kBFloat16) {
        std::uint16_t x;
        std::memcpy(&x, from, sizeof(x));
        out.push_back(from_bfloat16(x));
      } else {
        float x;
        std::memcpy(&x, from, sizeof(x));
        out.push_back(x);
      }
    }
    return out;
  }
  std::vector<std::byte> read_bytes() const {
    std::vector<std::byte> host(bytes());
    LRAM_CUDA_CHECK(cudaMemcpy(host.data(), data_, host.size(), cudaMemcpyDeviceToHost));
    return host;
  }
  HeadTensor view(std::int64_t dim) const {
    return {static_cast<std::byte*>(data_) + static_cast<std::size_t>(offset_) * size(),
            tokens_ * pitch_ + gap_, pitch_, dim};
  }
  float* floats() const { return static_cast<float*>(data_); }

 private:
  std::size_t size() const { return dtype_ == DType::kBFloat16 ? 2 : 4; }
  std::size_t bytes() const {
    return static_cast<std::size_t>(batch_ * (tokens_ * pitch_ + gap_)) * size();
  }
  std::size_t place(std::int64_t i) const {
    const std::int64_t row = i / width_;
    return static_cast<std::size_t>(row * pitch_ + row / tokens_ * gap_ + offset_ + i % width_) *
           size();
  }
  DType dtype_;
  std::int64_t batch_, tokens_, width_, pitch_, gap_, offset_;
  void* data_ = nullptr;
};

double relative_error(const Values& got, const Values& want) {
  double error = 0.0, size = 0.0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    error += (got.at(i) - want[i]) * (got.at(i) - want[i]);
    size += want[i] * want[i];
  }
  const double ratio = error == 0.0 ? 0.0 : std::sqrt(error / size);
  return ratio == ratio ? ratio : std::numeric_limits<double>::infinity();
}

struct Shape {
  int batch, tokens, heads, dim;
};

/// One case on the device; every array but the weights is a slice of a wider one.
class Case {
 public:
  Case(Shape shape, DType dtype, bool silu, bool with_conv, std::uint64_t seed)
      : shape_(shape), dtype_(dtype) {
    std::mt19937_64 engine(seed);
    const std::int64_t rows = std::int64_t{shape.batch} * shape.tokens;
    want_ = random_reference(engine, rows, shape.heads, shape.dim, silu, with_conv);
    for (Values* values : {&want_.h, &want_.z, &want_.conv, &want_.dy}) round_all(*values, dtype);
    for (Values* values : {&want_.weight, &want_.skip}) round_all(*values, DType::kFloat32);
    want_.forward();
    want_.backward();
    for (DeviceArray* array : {&h, &z, &conv, &dy})
      array->write(array == &h    ? want_.h
                   : array == &z  ? want_.z
                   : array == &dy ? want_.dy
                   : with_conv    ? want_.conv
                                  : Values(want_.h.size(), 0.0));
    weight.write(want_.weight);
    if (with_conv) skip.write(want_.skip);
    problem = {.batch = shape.batch,
               .tokens = shape.tokens,
               .heads = shape.heads,
               .dim = shape.dim,
               .dtype = dtype,
               .gate = silu ? GateFunction::kSilu : GateFunction::kSigmoid,
               .eps = static_cast<float>(want_.eps),
               .weight_offset = static_cast<float>(want_.weight_offset),
               .h = view(h),
               .z = view(z),
               .weight = weight.floats()};
    if (with_conv) problem.conv = view(conv), problem.skip = skip.floats();
  }

  HeadTensor view(const DeviceArray& x) const { return x.view(shape_.dim); }
  HeadNormGateForward forward() const { return {.problem = problem, .y = view(y)}; }
  HeadNormGateBackward backward() {
    const std::size_t bytes = head_norm_gate_workspace_bytes(problem);
    if (!workspace)
      workspace =
          std::make_unique<DeviceArray>(DType::kFloat32, 1, 1, static_cast<std::int64_t>(bytes / 4),
                                        static_cast<std::int64_t>(bytes / 4));
    HeadNormGateBackward out{
        .problem = problem,
        .dy = view(dy),
        .dh = view(dh),
        .dz = view(dz),
        .dweight = dweight.floats(),
        .dh_dot_h = {dh_dot_h.floats(), std::int64_t{shape_.tokens} * shape_.heads, shape_.heads,
                     1},
        .workspace = workspace->floats(),
        .workspace_bytes = bytes};
    if (problem.skip != nullptr) out.dconv = view(dconv), out.dskip = dskip.floats();
    return out;
  }
  void run() {
    for (DeviceArray* out : {&y, &dh, &dz, &dconv, &dweight, &dskip, &dh_dot_h}) out->poison();
    head_norm_gate_forward(forward());
    head_norm_gate_backward(backward());
    LRAM_CUDA_CHECK(cudaDeviceSynchronize());
  }

  const HeadNormGateReference& want() const { return want_; }

 private:
  Shape shape_;
  DType dtype_;
  HeadNormGateReference want_;
  std::int64_t rows_ = std::int64_t{shape_.batch} * shape_.tokens;
  std::int64_t width_ = std::int64_t{shape_.heads} * shape_.dim;
  DeviceArray make(std::int64_t extra, std::int64_t gap) const {
    return {dtype_, shape_.batch, shape_.tokens, width_, width_ + extra, gap};
  }
  DeviceArray floats(std::int64_t count) const { return {DType::kFloat32, 1, 1, count, count}; }

 public:
  HeadNormGateProblem problem;
  DeviceArray h = make(32, 8), z = make(16, 0), conv = make(0, 24), dy = make(48, 40),
              y = make(16, 8), dh = make(0, 0), dz = make(64, 56), dconv = make(32, 0),
              weight = floats(width_), skip = floats(width_), dweight = floats(width_),
              dskip = floats(width_), dh_dot_h = floats(rows_ * shape_.heads);
  std::unique_ptr<DeviceArray> workspace;
};

TEST(HeadNormGate, EqualsTheReference) {
  LRAM_SKIP_WITHOUT_GPU();
  const Shape shapes[] = {{1, 1, 1, 8},
                          {2, 7, 3, 64},
                          {3, 50, 4, 128},
                          {2, 150, 4, 256},
                          {1, 33, 2, 320},
                          {2, 21, 4, 384},
                          {1, 40, 3, 512},
                          {2, 30, 4, 640},
                          {5, 3, 2, 72},
                          {1, 19, 2, 448},
                          {2, 9, 1, 768},
                          {64, 40, 2, 64},
                          // heads that blocks hold side by side: all, some, one of many
                          {2, 37, 5, 256},
                          {3, 17, 6, 512},
                          {2, 13, 10, 384},
                          {3, 29, 9, 64},
                          {1, 23, 12, 128},
                          {2, 19, 3, 320},
                          {5, 31, 8, 640},
                          {2, 1, 36, 64},
                          {37, 1, 4, 256},
                          {1, 300, 16, 128}};
  std::uint64_t seed = 0;
  for (const Shape& shape : shapes)
    for (const DType dtype : {DType::kBFloat16, DType::kFloat32})
      for (const bool silu : {true, false})
        for (const bool with_conv : {true, false}) {
          SCOPED_TRACE(fmt::format("[{}, {}, {}, {}] {} {}{} seed {}", shape.batch, shape.tokens,
                                   shape.heads, shape.dim,
                                   dtype == DType::kBFloat16 ? "bf16" : "fp32",
                                   silu ? "silu" : "sigmoid", with_conv ? " conv" : "", ++seed));
          Case made(shape, dtype, silu, with_conv, seed);
          made.run();
          // float32 throughout; a bf16 output is rounded once, at most by 2^-9 of its size.
          const double exact = 1e-5, rounded = dtype == DType::kBFloat16 ? 2.5e-3 : exact;
          const HeadNormGateReference& want = made.want();
          EXPECT_LE(relative_error(made.y.read(), want.y), rounded) << "y";
          EXPECT_LE(relative_error(made.dh.read(), want.dh), rounded) << "dh";
          EXPECT_LE(relative_error(made.dz.read(), want.dz), rounded) << "dz";
          EXPECT_LE(relative_error(made.dweight.read(), want.dweight), exact) << "dweight";
          EXPECT_LE(relative_error(made.dh_dot_h.read(), want.dh_dot_h), exact) << "dh_dot_h";
          if (!with_conv) continue;
          EXPECT_LE(relative_error(made.dconv.read(), want.dconv), rounded) << "dconv";
          EXPECT_LE(relative_error(made.dskip.read(), want.dskip), exact) << "dskip";
        }
}

TEST(HeadNormGate, WritesNothingBesideItsOutputs) {
  LRAM_SKIP_WITHOUT_GPU();
  for (const int dim : {72, 320}) {
    Case made({2, 11, 3, dim}, DType::kBFloat16, true, true, 5);
    made.run();
    const auto poisoned = [](const DeviceArray& x) {
      std::size_t count = 0;
      const std::vector<std::byte> bytes = x.read_bytes();
      for (std::size_t i = 0; i < bytes.size(); i += 2)
        count += bytes[i] == std::byte{0xff} && bytes[i + 1] == std::byte{0xff};
      return count;
    };
    EXPECT_EQ(poisoned(made.y), 22u * 16u + 2u * 8u);
    EXPECT_EQ(poisoned(made.dz), 22u * 64u + 2u * 56u);
    EXPECT_EQ(poisoned(made.dconv), 22u * 32u);
  }
}

TEST(HeadNormGate, TwoRunsGiveTheSameBits) {
  LRAM_SKIP_WITHOUT_GPU();
#ifdef LRAM_EMULATED
  const int batch = 2;
#else
  const int batch = 16;
#endif
  Case made({batch, 150, 4, 256}, DType::kBFloat16, true, true, 9);
  made.run();
  const auto dh = made.dh.read_bytes(), dweight = made.dweight.read_bytes(),
             dskip = made.dskip.read_bytes();
  for (int n = 0; n < 5; ++n) {
    made.run();
    EXPECT_EQ(made.dh.read_bytes(), dh);
    EXPECT_EQ(made.dweight.read_bytes(), dweight);
    EXPECT_EQ(made.dskip.read_bytes(), dskip);
  }
}

#ifndef LRAM_EMULATED  // tests/kernels/emulation has no graphs
TEST(HeadNormGate, IsCapturedInAGraph) {
  LRAM_SKIP_WITHOUT_GPU();
  Case made({2, 150, 4, 128}, DType::kBFloat16, true, true, 3);
  made.run();
  const auto y = made.y.read_bytes(), dweight = made.dweight.read_bytes();
  cudaStream_t stream;
  LRAM_CUDA_CHECK(cudaStreamCreate(&stream));
  auto forward = made.forward();
  auto backward = made.backward();
  forward.stream = backward.stream = stream;
  cudaGraph_t graph;
  cudaGraphExec_t replay;
  LRAM_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  head_norm_gate_forward(forward);
  head_norm_gate_backward(backward);
  LRAM_CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
  LRAM_CUDA_CHECK(cudaGraphInstantiate(&replay, graph, 0));
  for (DeviceArray* out : {&made.y, &made.dweight}) out->poison();
  LRAM_CUDA_CHECK(cudaGraphLaunch(replay, stream));
  LRAM_CUDA_CHECK(cudaStreamSynchronize(stream));
  EXPECT_EQ(made.y.read_bytes(), y);
  EXPECT_EQ(made.dweight.read_bytes(), dweight);
  LRAM_CUDA_CHECK(cudaGraphExecDestroy(replay));
  LRAM_CUDA_CHECK(cudaGraphDestroy(graph));
  LRAM_CUDA_CHECK(cudaStreamDestroy(stream));
}
#endif

TEST(HeadNormGate, RefusesWhatItCannotTake) {
  LRAM_SKIP_WITHOUT_GPU();
  Case made({2, 5, 2, 64}, DType::kBFloat16, true, true, 1);
  const HeadNormGateProblem good = made.problem;
  const auto message = [&](const auto& change) -> std::string {
    made.problem = good;
    change(made.problem);
    try {
      head_norm_gate_forward(made.forward());
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      return error.what();
    }
    return "";
  };
  using P = HeadNormGateProblem;
  EXPECT_EQ(message([](P&) {}), "");
  EXPECT_EQ(message([](P& p) { p.tokens = 0; }), "head_norm_gate: tokens is 0, wanted at least 1");
  EXPECT_EQ(message([](P& p) { p.dim = 60; }),
            "head_norm_gate: dim is 60, wanted a multiple of 8 from 8 to 768");
  EXPECT_EQ(message([](P& p) { p.z.stride_t += 1; }),
            "head_norm_gate: z has a stride of 290 bytes over T, wanted a multiple of 16");
  EXPECT_EQ(message([](P& p) { p.h.stride_b = -(std::int64_t{1} << 33); }),
            "head_norm_gate: h has 17179870592 bytes between its first row and its last, wanted at "
            "most 17179869176");
  EXPECT_EQ(message([](P& p) { p.h.data = static_cast<std::byte*>(p.h.data) + 2; }),
            "head_norm_gate: h lies 2 bytes past a multiple of 16, wanted a multiple of 16");
  EXPECT_EQ(message([](P& p) { p.conv.data = nullptr; }),
            "head_norm_gate: conv is null and skip is not, wanted both or none");
  EXPECT_NE(message([](P& p) { p.weight = nullptr; }).find("weight is null"), std::string::npos);
  const float on_host[128] = {};
  EXPECT_NE(message([&](P& p) { p.skip = on_host; }).find("skip is host memory"),
            std::string::npos);
  made.problem = good;
  auto backward = made.backward();
  backward.dh_dot_h.stride_t = std::int64_t{1} << 62;
  EXPECT_THROW(head_norm_gate_backward(backward), Error);
  backward = made.backward();
  backward.workspace_bytes -= 1;
  try {
    head_norm_gate_backward(backward);
    FAIL() << "a small workspace was taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.what(), fmt::format("head_norm_gate: workspace has {} bytes, wanted {}",
                                        backward.workspace_bytes, backward.workspace_bytes + 1));
  }
}
#endif  // LRAM_HAVE_KERNELS
}  // namespace
}  // namespace lram::kernels
