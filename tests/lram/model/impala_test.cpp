#include "lram/model/impala.h"

#include <gtest/gtest.h>

#include "tests/support/golden_tensors.h"

namespace lram::model::impala_test {
namespace {

TEST(Golden, FeaturesAndGradientsAreThoseOfTheReference) {
  LRAM_SKIP_WITHOUT_GOLDEN("baselines");
  const auto cases = test::golden_cases("baselines", "impala", [](const auto& one) {
    return one.has_tensor("pixels") && one.has_tensor("param.cnn.0.conv.weight");
  });
  for (const auto& one : cases) {
    const test::GoldenTensors golden(one);
    const torch::Tensor pixels = golden["pixels"];
    for (const auto type : {torch::kFloat64, torch::kFloat32}) {
      const std::string name = type == torch::kFloat64 ? "float64" : "float32";
      SCOPED_TRACE(one.name() + " " + name);
      const auto tolerance = one.tolerance(name);
      ImpalaEncoder encoder(pixels.size(1), pixels.size(2), pixels.size(3),
                            one.config().at("features"),
                            one.config().at("widths").get<std::vector<std::int64_t>>());
      encoder.to(type);
      golden.load_parameters(encoder);
      const torch::Tensor out = encoder.forward(pixels);
      (out * golden["probe"].to(type)).sum().backward();
      golden.expect(encoder.stages(pixels), "stage_2", tolerance, "last stage");
      golden.expect(out, "out", tolerance, "features");
      test::expect_gradients(encoder, golden, tolerance, "loss");
    }
    EXPECT_EQ(golden.unread(), std::vector<std::string>());
  }
}

}  // namespace
}  // namespace lram::model::impala_test
