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
  std::int64_t num_steps() const { return num_steps_; }

  /// Moments as exp_avg.NAME and exp_avg_sq.NAME in a safetensors file, with the count of steps.
  void save(const std::filesystem::path& path) const;
  /// Throws Error(kInput) that names the file, the tensor, what was found and wanted.
  void load(const std::filesystem::path& path);

  /// For moments from elsewhere, written into the tensors that follow: the steps that they stand for.
  void set_num_steps(std::int64_t num_steps) { num_steps_ = num_steps; }
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
  void update(bool decayed, double rate);

  OptimizerConfig config_;
  std::vector<Slot> slots_;
  std::int64_t num_steps_ = 0;
};

}  // namespace lram::training
