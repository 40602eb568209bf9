#pragma once
#include <gtest/gtest.h>
#include <torch/autograd.h>
#include <torch/utils.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lram/core/error.h"
#include "lram/model/backbone.h"
#include "tests/lram/model/random_sequence.h"

// What every backbone promises (backbone.h), over random weights, shapes, masks and states. A test
// file hands in a maker and calls the checks.

namespace lram::test {}
namespace lram::model::test {
using namespace lram::test;  // so that test:: means both in a file with others

constexpr std::int64_t kDim = 16;  ///< embed_dim of the backbones under test

/// Draws a small backbone whose parameters are all off their initial values, so that gates, norms
/// and memory matter. Chunks of `chunk_size` make longer sequences take the chunkwise form.
using MakeBackbone = std::function<std::shared_ptr<Backbone>(Draw& draw, torch::ScalarType dtype,
                                                             std::int64_t chunk_size)>;

/// Adds noise to every parameter and moves them to `dtype`.
inline std::shared_ptr<Backbone> perturbed(std::shared_ptr<Backbone> backbone, Draw& draw,
                                           torch::ScalarType dtype) {
  backbone->to(dtype);
  const torch::NoGradGuard no_grad;
  for (torch::Tensor& parameter : backbone->parameters())
    parameter.add_(draw.normal(parameter.sizes(), dtype) * 0.1);
  return backbone;
}

inline Backbone::Output run_in_pieces(Backbone& backbone, const torch::Tensor& x,
                                      BackboneState state, const SequenceMask& mask,
                                      const std::vector<std::int64_t>& sizes) {
  std::vector<torch::Tensor> hidden;
  std::int64_t first = 0;
  for (const std::int64_t size : sizes) {
    auto out = backbone.forward(x.narrow(1, first, size), state, piece(mask, first, size));
    hidden.push_back(out.hidden);
    state = std::move(out.state);
    first += size;
  }
  return {torch::cat(hidden, 1), state};
}

constexpr double kSameSums = 1e-11;  // float64, a row in another batch

/// What a state does: the outputs for tokens that follow. Two states may differ where nobody looks
/// (places of a ring that hold what is out of reach).
inline torch::Tensor future(Backbone& backbone, const BackboneState& state,
                            torch::ScalarType dtype) {
  const torch::NoGradGuard no_grad;
  Draw draw(99);
  const std::int64_t batch = state.tensors[0].size(0);
  const torch::Tensor x = draw.normal({1, 6, kDim}, dtype).expand({batch, 6, kDim});
  return backbone.forward(x, state).hidden;
}

/// Pieces and single steps give what forward() gives; of the outputs relative L2.
inline void check_forms_agree(const MakeBackbone& make, std::uint64_t seeds = 200,
                              double tolerance64 = 1e-9, double tolerance32 = 2e-5) {
  const torch::NoGradGuard no_grad;
  for (std::uint64_t seed = 0; seed < seeds; ++seed) {
    for (const auto dtype : {torch::kDouble, torch::kFloat}) {
      const double tolerance = dtype == torch::kDouble ? tolerance64 : tolerance32;
      Draw draw(seed);
      torch::manual_seed(static_cast<std::int64_t>(seed));
      const auto backbone = make(draw, dtype, draw.integer(1, 16));
      const std::int64_t batch = draw.integer(1, 3), tokens = draw.integer(1, 70);
      const SequenceMask mask = draw.mask(batch, tokens);
      const torch::Tensor x = poison(draw.normal({batch, tokens, kDim}, dtype), mask);
      BackboneState state;
      if (draw.coin()) state = backbone->forward(draw.normal({batch, 5, kDim}, dtype), {}).state;
      const auto whole = backbone->forward(x, state, mask);
      const auto stateless = backbone->forward(x, state, mask, FinalState::kDropped);
      std::vector<std::int64_t> sizes;
      for (std::int64_t left = tokens; left > 0; left -= sizes.back())
        sizes.push_back(draw.integer(1, left));
      const auto pieces = run_in_pieces(*backbone, x, state, mask, sizes);
      const auto steps =
          run_in_pieces(*backbone, x, state, mask,
                        std::vector<std::int64_t>(static_cast<std::size_t>(tokens), 1));
      const std::string name = "seed " + std::to_string(seed) + ", " + torch::toString(dtype);
      EXPECT_LE(relative_error(stateless.hidden, whole.hidden), tolerance) << name << ", dropped";
      EXPECT_LE(relative_error(pieces.hidden, whole.hidden), tolerance) << name << ", pieces";
      EXPECT_LE(relative_error(steps.hidden, whole.hidden), tolerance) << name << ", steps";
      BackboneState advanced = state.empty() ? backbone->initial_state(batch) : state.clone();
      EXPECT_LE(relative_error(backbone->advance(x, advanced, mask), whole.hidden), tolerance)
          << name << ", advance";
      if (dtype != torch::kDouble) continue;
      const torch::Tensor want = future(*backbone, whole.state, dtype);
      EXPECT_LE(relative_error(future(*backbone, pieces.state, dtype), want), tolerance) << name;
      EXPECT_LE(relative_error(future(*backbone, steps.state, dtype), want), tolerance) << name;
      EXPECT_LE(relative_error(future(*backbone, advanced, dtype), want), tolerance) << name;
    }
  }
}

/// Rows of a ragged batch give what each gives alone, without its pads; gradients too, and pads
/// have none.
inline void check_masked_rows_equal_rows_alone(const MakeBackbone& make) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Draw draw(seed);
    const auto backbone = make(draw, torch::kDouble, 8);
    const std::int64_t batch = 4, tokens = draw.integer(2, 40);
    const SequenceMask mask = draw.mask(batch, tokens);
    if (!mask.begin.defined()) continue;
    const torch::Tensor x =
        poison(draw.normal({batch, tokens, kDim}, torch::kDouble), mask).requires_grad_();
    const BackboneState state =
        backbone->forward(draw.normal({batch, 3, kDim}, torch::kDouble), {}).state.detach();
    const torch::Tensor weight = draw.normal({batch, tokens, kDim}, torch::kDouble);

    const auto together = backbone->forward(x, state, mask);
    (together.hidden * weight).sum().backward();
    const torch::Tensor dx = x.grad().clone();
    std::vector<torch::Tensor> gradients;
    for (torch::Tensor& parameter : backbone->parameters()) {
      gradients.push_back(parameter.grad().clone());
      parameter.mutable_grad() = torch::Tensor();
    }
    for (std::int64_t b = 0; b < batch; ++b) {
      const std::int64_t begin = mask.begin[b].item<int>(), end = mask.end[b].item<int>();
      BackboneState row;
      for (const torch::Tensor& tensor : state.tensors)
        row.tensors.push_back(tensor.narrow(0, b, 1));
      EXPECT_EQ(together.hidden[b].narrow(0, 0, begin).abs().sum().item<double>(), 0.0);
      if (begin == end) {
        for (std::size_t i = 0; i < row.tensors.size(); ++i)
          EXPECT_TRUE(torch::equal(together.state.tensors[i].narrow(0, b, 1), row.tensors[i]))
              << "seed " << seed << ", state " << i;
        continue;
      }
      SequenceMask resets;
      if (mask.reset.defined())
        resets.reset = mask.reset.narrow(0, b, 1).narrow(1, begin, end - begin);
      const auto part = [&](const torch::Tensor& y) {
        return y.narrow(0, b, 1).narrow(1, begin, end - begin);
      };
      const auto alone = backbone->forward(part(x.detach()), row, resets);
      EXPECT_LE(relative_error(part(together.hidden), alone.hidden), kSameSums) << "seed " << seed;
      BackboneState after;
      for (const torch::Tensor& tensor : together.state.tensors)
        after.tensors.push_back(tensor.narrow(0, b, 1));
      EXPECT_LE(relative_error(future(*backbone, after, torch::kDouble),
                               future(*backbone, alone.state, torch::kDouble)),
                kSameSums)
          << "seed " << seed;
      (alone.hidden * part(weight)).sum().backward();
    }
    const auto parameters = backbone->parameters();
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      if (!parameters[i].grad().defined()) continue;  // no row has a token
      EXPECT_LE((parameters[i].grad() - gradients[i]).norm().item<double>(),
                1e-10 * (1.0 + gradients[i].norm().item<double>()))
          << "seed " << seed << ", parameter " << i;
    }
    const torch::Tensor silent = counts(mask, batch, tokens).logical_not();
    EXPECT_EQ(dx.index({silent}).abs().sum().item<double>(), 0.0) << "seed " << seed;
  }
}

inline void check_reset_is_a_fresh_start(const MakeBackbone& make) {
  const torch::NoGradGuard no_grad;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Draw draw(seed);
    const auto backbone = make(draw, torch::kDouble, 8);
    const std::int64_t tokens = draw.integer(2, 40), start = draw.integer(0, tokens - 1);
    const torch::Tensor x = draw.normal({2, tokens, kDim}, torch::kDouble);
    const BackboneState state =
        backbone->forward(draw.normal({2, 6, kDim}, torch::kDouble), {}).state;
    SequenceMask mask = {.reset = torch::zeros({2, tokens}, torch::kUInt8)};
    mask.reset.select(1, start).fill_(1);
    const auto with_reset = backbone->forward(x, state, mask);
    const auto fresh =
        backbone->forward(x.narrow(1, start, tokens - start), backbone->initial_state(2));
    EXPECT_LE(relative_error(with_reset.hidden.narrow(1, start, tokens - start), fresh.hidden),
              kSameSums)
        << "seed " << seed;
    EXPECT_LE(relative_error(future(*backbone, with_reset.state, torch::kDouble),
                             future(*backbone, fresh.state, torch::kDouble)),
              kSameSums)
        << "seed " << seed;
  }
}

inline void check_no_token_alters_outputs_before_it(const MakeBackbone& make) {
  const torch::NoGradGuard no_grad;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Draw draw(seed);
    const auto backbone = make(draw, torch::kFloat, 8);
    const std::int64_t tokens = draw.integer(2, 40), changed = draw.integer(1, tokens - 1);
    const torch::Tensor x = draw.normal({2, tokens, kDim}, torch::kFloat);
    torch::Tensor other = x.clone();
    other.select(1, changed).add_(draw.normal({kDim}, torch::kFloat) * 3);
    const torch::Tensor before = backbone->forward(x, {}).hidden,
                        after = backbone->forward(other, {}).hidden;
    EXPECT_TRUE(torch::equal(before.narrow(1, 0, changed), after.narrow(1, 0, changed)))
        << "seed " << seed;
    EXPECT_FALSE(torch::equal(before.select(1, changed), after.select(1, changed)))
        << "seed " << seed;
  }
}

/// step() and forward() leave the given state alone; inactive rows keep theirs and give zeros.
inline void check_step_serves_active_rows_alone(const MakeBackbone& make) {
  const torch::NoGradGuard no_grad;
  Draw draw(7);
  const auto backbone = make(draw, torch::kDouble, 8);
  const BackboneState state =
      backbone->forward(draw.normal({3, 6, kDim}, torch::kDouble), {}).state;
  const BackboneState kept = state.clone();
  const torch::Tensor x = draw.normal({3, kDim}, torch::kDouble);
  const torch::Tensor active = torch::tensor({true, false, true});
  const auto some = backbone->step(x, state, active), all = backbone->step(x, state);
  backbone->forward(draw.normal({3, 20, kDim}, torch::kDouble), state);
  EXPECT_EQ(some.hidden[1].abs().sum().item<double>(), 0.0);
  for (const std::int64_t b : {0, 2}) EXPECT_TRUE(torch::allclose(some.hidden[b], all.hidden[b]));
  for (std::size_t i = 0; i < state.tensors.size(); ++i) {
    EXPECT_TRUE(torch::equal(state.tensors[i], kept.tensors[i]))
        << "the given state was written to";
    EXPECT_TRUE(torch::equal(some.state.tensors[i][1], kept.tensors[i][1]));
    EXPECT_TRUE(torch::allclose(some.state.tensors[i][2], all.state.tensors[i][2]));
  }
}

/// State bytes at step 10 equal those at the last, and outputs stay finite.
inline void check_state_keeps_its_size(Backbone& backbone, std::int64_t dim, int steps = 10'000) {
  const torch::NoGradGuard no_grad;
  BackboneState state = backbone.initial_state(1);
  const torch::Tensor x = torch::randn({1, dim});
  std::int64_t at_ten = 0;
  for (int step = 1; step <= steps; ++step) {
    auto out = backbone.step(x, state);
    state = std::move(out.state);
    if (step == 10) at_ten = state.bytes();
    ASSERT_TRUE(step % 1000 != 0 || out.hidden.isfinite().all().item<bool>()) << step;
  }
  EXPECT_EQ(state.bytes(), at_ten);
  EXPECT_EQ(state.bytes(), backbone.initial_state(1).bytes());
}

inline void check_gradient_flows_through_the_state(const MakeBackbone& make) {
  Draw draw(11);
  const auto backbone = make(draw, torch::kDouble, 8);
  const torch::Tensor x = draw.normal({2, 12, kDim}, torch::kDouble).requires_grad_();
  const torch::Tensor weight = draw.normal({2, 12, kDim}, torch::kDouble);
  const auto gradient = [&](const torch::Tensor& hidden) {
    return torch::autograd::grad({(hidden * weight).sum()}, {x})[0];
  };
  const torch::Tensor whole = gradient(backbone->forward(x, {}).hidden);
  const torch::Tensor pieces = gradient(run_in_pieces(*backbone, x, {}, {}, {5, 4, 3}).hidden);
  EXPECT_LE(relative_error(pieces, whole), 1e-9);
}

/// What the error says that `call` throws; it must be the caller's fault.
inline std::string usage_error(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage) << error.what();
    return error.what();
  }
  return "accepted";
}

/// Each tensor of the state in turn with another batch or width is refused, in forward() and
/// step(), and the text has the shape that was found and the one that was wanted.
inline void check_states_of_other_models_are_refused(const MakeBackbone& make) {
  const torch::NoGradGuard no_grad;
  Draw draw(13);
  const auto backbone = make(draw, torch::kFloat, 8);
  const torch::Tensor x = draw.normal({2, 3, kDim}, torch::kFloat);
  const auto text = [](const torch::Tensor& tensor) { return c10::str(tensor.sizes()); };
  for (std::size_t i = 0; i < backbone->initial_state(2).tensors.size(); ++i) {
    for (const std::int64_t axis : {std::int64_t{0}, std::int64_t{-1}}) {
      BackboneState state = backbone->initial_state(2);
      const std::string wanted = text(state.tensors[i]);
      state.tensors[i] = torch::cat({state.tensors[i], state.tensors[i]}, axis);
      for (const std::string& message :
           {usage_error([&] { backbone->forward(x, state); }),
            usage_error([&] { backbone->step(x.select(1, 0), state); })}) {
        EXPECT_NE(message.find(text(state.tensors[i])), std::string::npos) << message;
        EXPECT_NE(message.find("wanted " + wanted), std::string::npos) << message;
      }
    }
  }
  BackboneState longer = backbone->initial_state(2);
  longer.tensors.push_back(longer.tensors[0]);
  EXPECT_NE(usage_error([&] { backbone->forward(x, longer); }).find("tensors, wanted"),
            std::string::npos);
}

}  // namespace lram::model::test
