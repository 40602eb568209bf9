#pragma once
#include <torch/nn/module.h>
#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace lram::training {

struct OptimizerConfig {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0.01;   ///< decoupled (AdamW)
  double max_grad_norm = 0.25;  ///< global norm above which gradients are scaled down, 0 = never
};

/// Whether LRAM decays a parameter: weights of Linear, Conv1d, GPT-2 Conv1D and head-wise linear
/// modules, gates too; not biases, norms, learnable_skip, the recurrent kernel and embeddings
/// (golden/policy/README.md).
bool is_decayed(const std::string& name, const torch::Tensor& parameter);

/// AdamW (Loshchilov and Hutter 2019) over all parameters of a module, which outlives it.
class Optimizer {
 public:
  Optimizer(const torch::nn::Module& module, const OptimizerConfig& config);

  void zero_grad();
  /// Clips the gradients by their global norm, factor min(1, max_grad_norm / (norm + 1e-6)), and
  /// updates with learning rate `rate`. Parameters without a gradient stay as they are. Returns the
  /// norm before clipping; when that is not finite, nothing was changed.
  double step(double rate);
  /// Steps taken.
  std::int64_t num_steps() const;

  /// From here on the steps are counted in a tensor beside the parameters, for step_on_device().
  void count_on_device();
  /// step() in which the host reads nothing, so that a CUDA graph can hold it: `rate` is a float32
  /// scalar beside the parameters, and so is the norm that comes back. When that is not finite,
  /// parameters, moments and count are unchanged. Equal to step() up to rounding.
  torch::Tensor step_on_device(const torch::Tensor& rate);

  /// Copies of parameters, moments and count.
  struct Snapshot {
    std::vector<torch::Tensor> tensors;
    std::int64_t num_steps = 0;
  };
  Snapshot snapshot() const;
  void restore(const Snapshot& snapshot);

  /// Moments as exp_avg.NAME and exp_avg_sq.NAME in a safetensors file, with the count of steps.
  void save(const std::filesystem::path& path) const;
  /// Throws Error(kInput) that names the file, the tensor, what was found and wanted.
  void load(const std::filesystem::path& path);

  /// For moments from elsewhere, written into the tensors that follow: the steps that they stand
  /// for.
  void set_num_steps(std::int64_t num_steps);
  /// First and second moment of a parameter. Throws Error(kUsage) for an unknown name.
  const torch::Tensor& exp_avg(const std::string& name) const;
  const torch::Tensor& exp_avg_sq(const std::string& name) const;

 private:
  struct Slot {
    std::string name;
    torch::Tensor parameter, exp_avg, exp_avg_sq;
    bool decayed;
  };
  const Slot& slot(const std::string& name) const;
  std::vector<torch::Tensor> gradients() const;
  torch::TensorOptions count_options() const;
  template <typename Rate>  // a number, or a tensor
  void update(const Rate& rate, const torch::Tensor& steps, const torch::Tensor& found_inf = {});

  OptimizerConfig config_;
  std::vector<Slot> slots_;
  std::int64_t num_steps_ = 0;
  torch::Tensor steps_on_device_;  // float32 scalar that counts instead; undefined: num_steps_ does
};

}  // namespace lram::training
