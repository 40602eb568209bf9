#pragma once
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "kernels/mlstm/mlstm.h"

namespace lram::kernels {

struct Shape {
  int batch = 0, tokens = 0, heads = 0, key_dim = 0, value_dim = 0;
};

/// What one row of `lram bench kernels` is about.
struct CaseOptions {
  Shape shape;
  bool sigmoid = false;
  bool normalize = false;  ///< of the sigmoid gate; the exponential one always does
  DType dtype = DType::kBFloat16;
  int resets = 0;     ///< at random places
  bool norm = false;  ///< dh . h comes from a norm behind
  bool states = false;
  MlstmForm form = MlstmForm::kAuto;
  KernelPath path = KernelPath::kAuto;
  std::uint64_t seed = 1;
};

struct Check {
  std::string name;      ///< of a result or gradient
  double error = 0.0;    ///< against float64
  double allowed = 0.0;  ///< the bar of the kernel's tests, or what `plain` makes of it
  /// Error of a plain run with the same roundings; NaN: none was made.
  double plain = std::numeric_limits<double>::quiet_NaN();
};

/// An operation with its inputs, outputs and workspace on the GPU.
class OpCase {
 public:
  virtual ~OpCase() = default;
  virtual std::string implementation() const = 0;
  virtual void forward() = 0;   ///< enqueues on torch's current stream
  virtual void backward() = 0;  ///< after forward()
  virtual std::vector<Check> check() = 0;

  /// The least that any kernel moves through memory and multiplies.
  struct Work {
    double bytes = 0.0, flops = 0.0;
  };
  virtual Work forward_work() const = 0;
  virtual Work backward_work() const = 0;
  /// Outputs, what is kept for the backward, and the larger workspace, in bytes.
  virtual double memory_bytes() const = 0;
};

std::unique_ptr<OpCase> make_mlstm_case(const CaseOptions& options);
std::unique_ptr<OpCase> make_head_norm_gate_case(const CaseOptions& options);

}  // namespace lram::kernels
