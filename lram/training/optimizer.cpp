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
constexpr double kNormEps = 1e-6;  // torch.nn.utils.clip_grad_norm_'s

torch::Tensor global_norm(const std::vector<torch::Tensor>& gradients) {
  return at::linalg_vector_norm(at::stack(at::_foreach_norm(gradients)));
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

std::vector<torch::Tensor> Optimizer::gradients() const {
  std::vector<torch::Tensor> out;
  for (const Slot& slot : slots_)
    if (slot.parameter.grad().defined()) out.push_back(slot.parameter.grad());
  LRAM_CHECK(!out.empty(), "no parameter has a gradient");
  return out;
}

double Optimizer::step(double rate) {
  const torch::NoGradGuard no_grad;
  const std::vector<torch::Tensor> all = gradients();
  const double norm = global_norm(all).item<double>();
  if (!std::isfinite(norm)) return norm;
  const double factor = config_.max_grad_norm / (norm + kNormEps);
  if (config_.max_grad_norm > 0.0 && factor < 1.0) at::_foreach_mul_(all, factor);
  set_num_steps(num_steps() + 1);
  update(rate, torch::full({}, static_cast<double>(num_steps()), count_options()));
  return norm;
}

torch::Tensor Optimizer::step_on_device(const torch::Tensor& rate) {
  const torch::NoGradGuard no_grad;
  LRAM_CHECK(steps_on_device_.defined(), "step_on_device() wants count_on_device() before");
  const std::vector<torch::Tensor> all = gradients();
  const torch::Tensor norm = global_norm(all);
  if (config_.max_grad_norm > 0.0)
    at::_foreach_mul_(all, (config_.max_grad_norm / (norm + kNormEps)).clamp_max(1.0));
  const torch::Tensor finite = norm.isfinite();
  steps_on_device_.add_(finite);
  update(rate, steps_on_device_, finite.logical_not().to(torch::kFloat32));
  return norm;
}

template <typename Rate>
void Optimizer::update(const Rate& rate, const torch::Tensor& steps,
                       const torch::Tensor& found_inf) {
  for (const bool decayed : {true, false}) {
    std::vector<torch::Tensor> parameters, gradients, exp_avg, exp_avg_sq;
    for (const Slot& slot : slots_) {
      if (slot.decayed != decayed || !slot.parameter.grad().defined()) continue;
      parameters.push_back(slot.parameter);
      gradients.push_back(slot.parameter.grad());
      exp_avg.push_back(slot.exp_avg);
      exp_avg_sq.push_back(slot.exp_avg_sq);
    }
    if (parameters.empty()) continue;
    at::_fused_adamw_(parameters, gradients, exp_avg, exp_avg_sq, {},
                      std::vector<torch::Tensor>(parameters.size(), steps), rate, config_.beta1,
                      config_.beta2, decayed ? config_.weight_decay : 0.0, config_.eps,
                      /*amsgrad=*/false, /*maximize=*/false, /*grad_scale=*/{},
                      found_inf.defined() ? std::optional(found_inf) : std::nullopt);
  }
}

torch::TensorOptions Optimizer::count_options() const {
  // The kernel wants the count, the new step included, as float32 beside the parameters.
  return slots_.front().parameter.options().dtype(torch::kFloat32).requires_grad(false);
}

std::int64_t Optimizer::num_steps() const {
  if (!steps_on_device_.defined()) return num_steps_;
  return std::llround(steps_on_device_.item<double>());
}

void Optimizer::set_num_steps(std::int64_t num_steps) {
  num_steps_ = num_steps;
  if (steps_on_device_.defined()) steps_on_device_.fill_(static_cast<double>(num_steps));
}

void Optimizer::count_on_device() {
  if (steps_on_device_.defined()) return;
  steps_on_device_ = torch::full({}, static_cast<double>(num_steps_), count_options());
}

Optimizer::Snapshot Optimizer::snapshot() const {
  Snapshot out{.tensors = {}, .num_steps = num_steps()};
  for (const Slot& slot : slots_)
    for (const torch::Tensor* x : {&slot.parameter, &slot.exp_avg, &slot.exp_avg_sq})
      out.tensors.push_back(x->detach().clone());
  return out;
}

void Optimizer::restore(const Snapshot& snapshot) {
  const torch::NoGradGuard no_grad;
  LRAM_CHECK(snapshot.tensors.size() == 3 * slots_.size(), "a snapshot of another optimizer");
  auto from = snapshot.tensors.begin();
  for (Slot& slot : slots_)
    for (torch::Tensor* x : {&slot.parameter, &slot.exp_avg, &slot.exp_avg_sq}) x->copy_(*from++);
  set_num_steps(snapshot.num_steps);
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
  tensors.emplace_back("num_steps", torch::tensor(num_steps()));
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
  set_num_steps(num_steps.item<std::int64_t>());
}
}  // namespace lram::training
