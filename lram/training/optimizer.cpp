#include "lram/training/optimizer.h"

#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>

#include "lram/core/error.h"
#include "lram/model/tensor_io.h"

namespace lram::training {
namespace {
double global_norm(const std::vector<torch::Tensor>& gradients) {
  return at::linalg_vector_norm(at::stack(at::_foreach_norm(gradients))).item<double>();
}

bool ends_with_part(const std::string& name, const std::string& module) {
  const std::string end = module + ".weight";
  return name == end || name.ends_with("." + end);
}
}  // namespace

bool is_decayed(const std::string& name, const torch::Tensor& parameter) {
  // Weights of norms have one dimension; embedding tables are called wpe and wte in LRAM.
  return (name == "weight" || name.ends_with(".weight")) && parameter.dim() >= 2 &&
         !ends_with_part(name, "wpe") && !ends_with_part(name, "wte");
}

Optimizer::Optimizer(const torch::nn::Module& module, const OptimizerConfig& config)
    : config_(config) {
  for (const auto& item : module.named_parameters())
    slots_.push_back({item.key(), item.value(), at::zeros_like(item.value()),
                      at::zeros_like(item.value()), is_decayed(item.key(), item.value())});
  LRAM_CHECK(!slots_.empty(), "the module has no parameters to optimize");
}

void Optimizer::zero_grad() {
  for (Slot& slot : slots_) slot.parameter.mutable_grad().reset();
}

double Optimizer::step(double rate) {
  const torch::NoGradGuard no_grad;
  std::vector<torch::Tensor> gradients;
  for (const Slot& slot : slots_)
    if (slot.parameter.grad().defined()) gradients.push_back(slot.parameter.grad());
  LRAM_CHECK(!gradients.empty(), "no parameter has a gradient");
  const double norm = global_norm(gradients);
  if (!std::isfinite(norm)) return norm;
  const double factor = config_.max_grad_norm / (norm + 1e-6);
  if (config_.max_grad_norm > 0.0 && factor < 1.0) at::_foreach_mul_(gradients, factor);
  ++num_steps_;
  update(true, rate);
  update(false, rate);
  return norm;
}

void Optimizer::update(bool decayed, double rate) {
  std::vector<torch::Tensor> parameters, gradients, exp_avg, exp_avg_sq, steps;
  for (const Slot& slot : slots_) {
    if (slot.decayed != decayed || !slot.parameter.grad().defined()) continue;
    parameters.push_back(slot.parameter);
    gradients.push_back(slot.parameter.grad());
    exp_avg.push_back(slot.exp_avg);
    exp_avg_sq.push_back(slot.exp_avg_sq);
  }
  if (parameters.empty()) return;
  // The kernel wants the count, the new step included, as float32 tensors beside the parameters.
  const auto options = parameters.front().options().dtype(torch::kFloat32).requires_grad(false);
  steps.assign(parameters.size(), torch::full({}, static_cast<double>(num_steps_), options));
  at::_fused_adamw_(parameters, gradients, exp_avg, exp_avg_sq, {}, steps, rate, config_.beta1,
                    config_.beta2, decayed ? config_.weight_decay : 0.0, config_.eps,
                    /*amsgrad=*/false, /*maximize=*/false);
}

const Optimizer::Slot& Optimizer::slot(const std::string& name) const {
  for (const Slot& slot : slots_)
    if (slot.name == name) return slot;
  throw_error(ErrorKind::kUsage, "no parameter is called '{}'", name);
}

const torch::Tensor& Optimizer::exp_avg(const std::string& name) const {
  return slot(name).exp_avg;
}

const torch::Tensor& Optimizer::exp_avg_sq(const std::string& name) const {
  return slot(name).exp_avg_sq;
}

void Optimizer::save(const std::filesystem::path& path) const {
  model::NamedTensors tensors;
  for (const Slot& slot : slots_) {
    tensors.emplace_back("exp_avg." + slot.name, slot.exp_avg);
    tensors.emplace_back("exp_avg_sq." + slot.name, slot.exp_avg_sq);
  }
  tensors.emplace_back("num_steps", torch::tensor(num_steps_));
  model::save_tensors(path, tensors);
}

void Optimizer::load(const std::filesystem::path& path) {
  const torch::NoGradGuard no_grad;
  model::NamedTensors targets;
  torch::Tensor num_steps = torch::zeros({}, torch::kInt64);
  for (const Slot& slot : slots_) {
    targets.emplace_back("exp_avg." + slot.name, slot.exp_avg);
    targets.emplace_back("exp_avg_sq." + slot.name, slot.exp_avg_sq);
  }
  targets.emplace_back("num_steps", num_steps);
  model::load_tensors(SafetensorsFile(path), targets);
  num_steps_ = num_steps.item<std::int64_t>();
}
}  // namespace lram::training
