// Cells and block stacks against the published packages (tests/golden/models/README.md): outputs,
// states and gradients, in float64 and float32, in every form.
#include <gtest/gtest.h>
#include <torch/autograd.h>
#include <torch/types.h>

#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "lram/model/mlstm_cell.h"
#include "lram/model/slstm_cell.h"
#include "lram/model/xlstm_backbone.h"
#include "tests/support/golden_reference.h"

namespace lram::model::xlstm_golden_test {
namespace {
using test::GoldenCase;
using Reference = test::GoldenReference;
using torch::Tensor;

std::vector<GoldenCase> cases_of(const std::string& kind,
                                 const std::function<bool(const GoldenCase&)>& wanted) {
  return test::golden_cases("models", kind, wanted);
}

Tensor leaf(const Tensor& x) { return x.defined() ? x.clone().requires_grad_() : x; }

/// sum(x * weight), or nothing where the case has no such gradient.
void add_loss(Tensor& loss, const Tensor& x, const Tensor& weight) {
  if (!weight.defined()) return;
  const Tensor part = (x * weight).sum();
  loss = loss.defined() ? loss + part : part;
}

void check_mlstm(const Reference& golden, const MlstmOptions& options, const std::string& what) {
  const auto tokens_first = [](const Tensor& x) { return x.transpose(1, 2); };
  const Tensor q = leaf(golden.input("in.q")), k = leaf(golden.input("in.k")),
               v = leaf(golden.input("in.v")), i = leaf(golden.input("in.i")),
               f = leaf(golden.input("in.f"));
  const bool has_m = options.input_gate == InputGate::kExp;
  MlstmState initial;
  if (golden.has("in.c0"))
    initial = {leaf(golden.input("in.c0")), leaf(golden.input("in.n0")),
               has_m ? golden.input("in.m0").squeeze(-1) : torch::zeros(q.sizes().slice(0, 2))};
  const MlstmOutput out = mlstm_forward(tokens_first(q), tokens_first(k), tokens_first(v),
                                        tokens_first(i), tokens_first(f), initial, {}, options);
  golden.expect(tokens_first(out.h), "out.h", what);
  if (golden.has("out.h_parallel"))
    golden.expect(tokens_first(out.h), "out.h_parallel", what, /*other_form=*/has_m);
  golden.expect(out.state.c, "out.c_last", what);
  golden.expect(out.state.n, "out.n_last", what);
  if (has_m)
    golden.expect(out.state.m.unsqueeze(-1), "out.m_last", what);
  else
    EXPECT_EQ(out.state.m.abs().max().item<double>(), 0.0) << golden.name() << ", " << what;

  Tensor loss;
  add_loss(loss, tokens_first(out.h), golden.input("in.dh"));
  add_loss(loss, out.state.c, golden.input("in.dc_last"));
  add_loss(loss, out.state.n, golden.input("in.dn_last"));
  loss.backward();
  // Ours hold every m constant. Where that matters, the file has the same.
  const auto expect_gradient = [&](const Tensor& x, const std::string& name) {
    const std::string constant = "grad_mconst." + name;
    golden.expect(x.grad(), golden.has(constant) ? constant : "grad." + name, what);
  };
  expect_gradient(q, "q");
  expect_gradient(k, "k");
  expect_gradient(v, "v");
  expect_gradient(i, "i");
  expect_gradient(f, "f");
  if (initial.fresh()) return;
  expect_gradient(initial.c, "c0");
  expect_gradient(initial.n, "n0");
  if (!has_m) return;
  const Tensor dm = (initial.c * initial.c.grad()).sum(at::IntArrayRef({2, 3})) +
                    (initial.n * initial.n.grad()).sum(-1);
  golden.expect(dm.unsqueeze(-1), "grad.m0", what, /*other_form=*/true);
}

void check_mlstm_forms(const std::string& kind, const std::string& gate, InputGate input_gate) {
  for (const GoldenCase& one : cases_of(kind, [&](const GoldenCase& c) {
         return c.row.at("kind") == "mlstm_cell" && c.config().at("input_gate") == gate;
       })) {
    const Reference golden(one);
    MlstmOptions options = {.input_gate = input_gate,
                            .normalize = golden.config().at("normalize"),
                            .eps = golden.config().at("eps")};
    options.form = MlstmForm::kStep;
    check_mlstm(golden, options, "steps");
    options.form = MlstmForm::kQuadratic;
    check_mlstm(golden, options, "quadratic");
    options.form = MlstmForm::kChunkwise;
    for (const std::int64_t size : {1, 5, 16}) {
      options.chunk_size = size;
      check_mlstm(golden, options, "chunks of " + std::to_string(size));
    }
    golden.expect_all_compared([&](const std::string& tensor) -> std::string {
      const bool constant =
          tensor.starts_with("grad.") && golden.has("grad_mconst." + tensor.substr(5));
      return constant ? "the total derivative, also through m; ours holds m constant" : "";
    });
  }
}

TEST(MlstmExp, EqualsThePublishedCell) {
  LRAM_SKIP_WITHOUT_GOLDEN("models");
  check_mlstm_forms("mlstm_exp", "exp", InputGate::kExp);
}

TEST(MlstmSigmoid, EqualsThePublishedCell) {
  LRAM_SKIP_WITHOUT_GOLDEN("models");
  check_mlstm_forms("mlstm_sig", "sig", InputGate::kSigmoid);
}

using SlstmFunction = decltype(&slstm_forward);

void check_slstm(const Reference& golden, SlstmFunction cell, const std::string& what) {
  const Tensor x = leaf(golden.input("in.x"));
  const Tensor recurrent = leaf(golden.input("param._recurrent_kernel_"));
  const Tensor bias = leaf(golden.input("param._bias_"));
  const auto rows_first = [](const Tensor& state) { return state.transpose(0, 1).contiguous(); };
  Tensor state;
  if (golden.has("in.state0")) state = leaf(rows_first(golden.input("in.state0")));
  const std::int64_t batch = x.size(0), tokens = x.size(1), heads = recurrent.size(0);
  const auto by_head = [&](const Tensor& h) {
    return h.view({batch, tokens, heads, -1}).transpose(1, 2);
  };
  const SlstmOutput out = cell(x, recurrent, bias, state, {});
  golden.expect(by_head(out.h), "out.h", what);
  // Where some rows are fresh, the package's m is that of the whole batch; ours is each row's own.
  const bool per_row = golden.has("out.state_all_per_row");
  if (per_row)
    golden.expect_value(out.state.transpose(0, 1), golden.input("out.state_all_per_row")[-1],
                        "out.state_all_per_row", what);
  else
    golden.expect(out.state.transpose(0, 1), "out.state_last", what);

  Tensor loss;
  add_loss(loss, by_head(out.h), golden.input("in.dh"));
  if (golden.has("in.dstate_last"))
    add_loss(loss, out.state, rows_first(golden.input("in.dstate_last")));
  loss.backward();
  golden.expect(x.grad(), "grad.x", what);
  golden.expect(recurrent.grad(), "grad._recurrent_kernel_", what);
  golden.expect(bias.grad(), "grad._bias_", what);
  if (!golden.has("grad.state0")) return;
  const Tensor gradient = state.grad().clone();
  const auto product = [&](std::int64_t row) {
    return state.select(1, row) * gradient.select(1, row);
  };
  gradient.select(1, 3).copy_((product(1) + product(2)).detach());
  golden.expect(gradient.transpose(0, 1), "grad.state0", what);
}

/// One call per token gives the stored state after every token.
void check_slstm_states(const Reference& golden) {
  const bool per_row = golden.has("out.state_all_per_row");
  const std::string name = per_row ? "out.state_all_per_row" : "out.state_all";
  if (!golden.has(name)) return;
  const Tensor x = golden.input("in.x");
  Tensor state;
  if (golden.has("in.state0")) state = golden.input("in.state0").transpose(0, 1);
  std::vector<Tensor> all;
  for (std::int64_t t = 0; t < x.size(1); ++t) {
    state = slstm_forward(x.narrow(1, t, 1), golden.input("param._recurrent_kernel_"),
                          golden.input("param._bias_"), state)
                .state;
    all.push_back(state.transpose(0, 1));
  }
  golden.expect(torch::stack(all), name, "steps");
}

TEST(Slstm, EqualsThePublishedCell) {
  LRAM_SKIP_WITHOUT_GOLDEN("models");
  for (const GoldenCase& one :
       cases_of("slstm", [](const GoldenCase& c) { return c.row.at("kind") == "slstm_cell"; })) {
    const Reference golden(one);
    check_slstm(golden, &slstm_forward, "CPU loop");
    check_slstm(golden, &slstm_reference, "LibTorch operations");
    check_slstm(golden, &slstm_operations, "fewer operations");
    check_slstm_states(golden);
    golden.expect_all_compared([&](const std::string& tensor) -> std::string {
      const bool whole_batch = (tensor == "out.state_all" || tensor == "out.state_last") &&
                               golden.has("out.state_all_per_row");
      return whole_batch ? "m of a fresh row depends on the other rows; ours is its own" : "";
    });
  }
}

std::vector<XlstmBlockConfig> block_configs(const Reference& golden) {
  const nlohmann::json& config = golden.config();
  std::vector<XlstmBlockConfig> out;
  const std::string map = golden.row().at("block_map");
  const std::int64_t count = config.at("num_blocks");
  for (std::int64_t index = 0; index < count; ++index) {
    XlstmBlockConfig block = {.embed_dim = config.at("embedding_dim"),
                              .cell = {.eps = golden.row().at("cell_eps"), .chunk_size = 5},
                              .index = index,
                              .num_blocks = count};
    if (map.at(static_cast<std::size_t>(2 * index)) == '0') {
      const nlohmann::json& layer = config.at("mlstm_block").at("mlstm");
      block.num_heads = layer.at("num_heads");
      block.conv_kernel = layer.at("conv1d_kernel_size");
      block.qkv_blocksize = layer.at("qkv_proj_blocksize");
      block.proj_factor = layer.at("proj_factor");
      block.bias = layer.at("bias");
    } else {
      const nlohmann::json& layer = config.at("slstm_block").at("slstm");
      const nlohmann::json& ffn = config.at("slstm_block").at("feedforward");
      block.kind = XlstmBlockKind::kSlstm;
      block.num_heads = layer.at("num_heads");
      block.conv_kernel = layer.at("conv1d_kernel_size");
      block.ffn_factor = ffn.is_null() ? 0.0 : ffn.at("proj_factor").get<double>();
      if (!ffn.is_null()) block.bias = ffn.at("bias");
    }
    out.push_back(block);
  }
  return out;
}

/// Our state against the stored one, which scales k by d^-1/2 inside c and n and keeps one input
/// more than a window needs.
void check_stack_state(const Reference& golden, const std::vector<XlstmBlockConfig>& blocks,
                       const BackboneState& state, const std::string& what) {
  std::size_t next = 0;
  for (const XlstmBlockConfig& block : blocks) {
    const std::string prefix = "state.block_" + std::to_string(block.index) + ".";
    if (block.kind == XlstmBlockKind::kMlstm) {
      const Tensor c = state.tensors[next++], n = state.tensors[next++], m = state.tensors[next++];
      const double scale = 1.0 / std::sqrt(static_cast<double>(n.size(2)));
      golden.expect(c * scale, prefix + "mlstm_c", what);
      golden.expect((n * scale).unsqueeze(-1), prefix + "mlstm_n", what);
      golden.expect(m.unsqueeze(-1).unsqueeze(-1), prefix + "mlstm_m", what);
    } else {
      golden.expect(state.tensors[next++].transpose(0, 1), prefix + "slstm", what);
    }
    if (block.conv_kernel == 0) continue;
    const Tensor stored = golden.input(prefix + "conv");
    golden.expect_value(state.tensors[next++], stored.narrow(1, 1, block.conv_kernel - 1),
                        prefix + "conv", what);
  }
  EXPECT_EQ(next, state.tensors.size()) << golden.name();
}

TEST(Stack, EqualsThePublishedPackage) {
  LRAM_SKIP_WITHOUT_GOLDEN("models");
  for (const GoldenCase& one :
       cases_of("stack", [](const GoldenCase& c) { return c.row.at("kind") == "v1_stack"; })) {
    const Reference golden(one);
    const auto blocks = block_configs(golden);
    XlstmBackbone backbone(blocks);
    backbone.to(golden.dtype());
    golden.tensors().load_parameters(backbone);

    const Tensor x = leaf(golden.input("in.x"));
    const Backbone::Output out = backbone.forward(x, {});
    golden.expect(out.hidden, "out.y", "forward", /*other_form=*/true);
    golden.expect(out.hidden, "out.y_step", "forward");
    check_stack_state(golden, blocks, out.state, "forward");
    (out.hidden * golden.input("in.g")).sum().backward();
    golden.expect(x.grad(), "grad.x", "forward", /*other_form=*/true);
    for (const auto& parameter : backbone.named_parameters())
      golden.expect(parameter.value().grad(), "grad_param." + parameter.key(), "forward",
                    /*other_form=*/true);

    const torch::NoGradGuard no_grad;
    BackboneState state = backbone.initial_state(x.size(0));
    std::vector<Tensor> y;
    for (std::int64_t t = 0; t < x.size(1); ++t) {
      Backbone::Output now = backbone.step(x.select(1, t), state);
      y.push_back(now.hidden);
      state = std::move(now.state);
    }
    golden.expect(torch::stack(y, 1), "out.y_step", "steps");
    check_stack_state(golden, blocks, state, "steps");
    golden.expect_all_compared([](const std::string&) { return ""; });
  }
}

}  // namespace
}  // namespace lram::model::xlstm_golden_test
