// The published packages' own files: fused and transformers' names against the single ones, the
// sLSTM's two layouts, Vision-LSTM's names.
#include <gtest/gtest.h>

#include <optional>

#include "lram/weights/formats.h"
#include "tests/support/golden_case.h"

namespace lram::weights::golden_test {
namespace {
using test::GoldenCase;

std::vector<GoldenCase> cases_of(const std::string& kind,
                                 const std::function<bool(const GoldenCase&)>& wanted) {
  return test::golden_cases("models", kind, wanted);
}

bool is_fused(const GoldenCase& one) {
  return one.row.at("kind") == "xlstm_large" && one.config().value("weight_mode", "") == "fused";
}

/// The tensors "param.NAME" of a file.
class Parameters {
 public:
  explicit Parameters(const GoldenCase& golden) : file_(golden.file()) {
    for (const TensorEntry& entry : file_.tensors())
      if (entry.name.starts_with("param.")) set_.emplace(entry.name.substr(6), WeightTensor(entry));
  }
  const WeightSet& set() const { return set_; }

 private:
  SafetensorsFile file_;
  WeightSet set_;
};

void expect_equal(const WeightSet& got, const WeightSet& want, const std::string& what) {
  EXPECT_EQ(got.size(), want.size()) << what;
  for (const auto& [name, tensor] : want) {
    const auto at = got.find(name);
    ASSERT_NE(at, got.end()) << what << ": no " << name;
    EXPECT_TRUE(at->second == tensor) << what << ": " << name;
  }
}

/// The case with single matrices that holds the same numbers: its output layer is this one's.
std::optional<GoldenCase> single_of(const GoldenCase& one) {
  const Parameters here(one);
  for (const GoldenCase& other : cases_of("large", [](const GoldenCase& c) {
         return c.row.at("kind") == "xlstm_large" && !is_fused(c);
       }))
    if (Parameters(other).set().at("lm_head.weight") == here.set().at("lm_head.weight"))
      return other;
  ADD_FAILURE() << one.file() << ": no case with the same weights under single names";
  return std::nullopt;
}

TEST(Fused, EqualsTheSingleFile) {
  LRAM_SKIP_WITHOUT_GOLDEN("models");
  const WeightFormat& format = weight_format("xlstm_large_fused");
  for (const GoldenCase& one : cases_of("fused", is_fused)) {
    const auto other = single_of(one);
    ASSERT_TRUE(other);
    const std::string name = one.file().string();
    const Parameters fused(one), single(*other);
    EXPECT_EQ(detect_format(fused.set()), &format) << name;
    expect_equal(format.read(fused.set(), {}, name), single.set(), name);
    expect_equal(format.write(single.set(), name), fused.set(), name + ", fused by us");
  }
}

TEST(Transformers, EqualsTheSingleFile) {
  LRAM_SKIP_WITHOUT_GOLDEN("models");
  const WeightFormat& format = weight_format("xlstm_large_hf");
  for (const GoldenCase& one : cases_of("transformers", [](const GoldenCase& c) {
         return c.row.at("kind") == "xlstm_transformers";
       })) {
    const auto other = single_of(one);
    ASSERT_TRUE(other);
    const std::string name = one.file().string();
    const Parameters stored(one), single(*other);
    EXPECT_EQ(detect_format(stored.set()), &format) << name;
    // transformers has no output norm bias: its model is the one with that bias at zero.
    WeightSet want = single.set();
    if (const auto bias = want.find("backbone.out_norm.bias"); bias != want.end())
      bias->second = WeightTensor::zeros(bias->second.dtype, bias->second.shape);
    expect_equal(format.read(stored.set(), {}, name), want, name);
    expect_equal(format.write(want, name), stored.set(), name + ", written by us");
  }
}

// `_ext` is the backend-neutral view, whose flattened numbers are the cuda backend's layout.
TEST(SlstmLayout, OfTheCudaBackendIsTheNeutralOne) {
  LRAM_SKIP_WITHOUT_GOLDEN("models");
  for (const GoldenCase& one :
       cases_of("slstm", [](const GoldenCase& c) { return c.row.at("kind") == "slstm_cell"; })) {
    const Parameters cell(one);
    const WeightTensor& recurrent = cell.set().at("_recurrent_kernel_");
    const std::int64_t heads = recurrent.shape[0], units = recurrent.shape[2];
    const std::string layer = "blocks.0.xlstm.";
    WeightSet vanilla = {
        {layer + "slstm_cell._recurrent_kernel_", recurrent},
        {layer + "slstm_cell._bias_", cell.set().at("_bias_")},
        {"blocks.0.xlstm_norm.weight", WeightTensor::zeros(Dtype::kF32, {heads * units})},
        {layer + "group_norm.weight", WeightTensor::zeros(Dtype::kF32, {heads * units})}};
    for (const char* gate : {"fgate", "igate", "zgate", "ogate"})
      vanilla.emplace(layer + gate + ".weight",
                      WeightTensor::zeros(Dtype::kF32, {heads, units, units}));
    const std::string name = one.file().string();
    const WeightFormat& format = weight_format("xlstm_v1_cuda");
    const WeightSet cuda = format.write(vanilla, name);
    EXPECT_EQ(cuda.at(layer + "slstm_cell._recurrent_kernel_").bytes(),
              cell.set().at("recurrent_kernel_ext").bytes())
        << name;
    EXPECT_EQ(cuda.at(layer + "slstm_cell._bias_").bytes(), cell.set().at("bias_ext").bytes())
        << name;
    expect_equal(format.read(cuda, {}, name), vanilla, name);
  }
}

TEST(SlstmLayout, WholeStacksPassThereAndBack) {
  LRAM_SKIP_WITHOUT_GOLDEN("models");
  for (const GoldenCase& one :
       cases_of("stack", [](const GoldenCase& c) { return c.row.at("kind") == "v1_stack"; })) {
    const Parameters stack(one);
    const std::string name = one.file().string();
    const WeightFormat& vanilla = weight_format("xlstm_v1");
    const WeightFormat& cuda = weight_format("xlstm_v1_cuda");
    EXPECT_EQ(detect_format(stack.set()), &vanilla) << name;
    const WeightSet read = vanilla.read(stack.set(), {}, name);
    expect_equal(read, stack.set(), name);
    expect_equal(cuda.read(cuda.write(read, name), {}, name), stack.set(), name);
  }
}

TEST(HuggingFace, FilesAreKnown) {
  LRAM_SKIP_WITHOUT_GOLDEN("baselines");
  const auto with_class = [](const std::string& text) {
    return test::golden_cases("baselines", text,
                              [&](const GoldenCase& c) { return c.class_has(text); });
  };
  for (const auto& [text, bare, whole] :
       {std::tuple{"GPT2Model", "gpt2", "gpt2_lm"}, {"MambaModel", "mamba", "mamba_lm"}})
    for (const GoldenCase& one : with_class(text)) {
      const Parameters model(one);
      const std::string name = one.file().string();
      const WeightFormat& format = weight_format(bare);
      EXPECT_EQ(detect_format(model.set()), &format) << name;
      const WeightSet read = format.read(model.set(), {}, name);
      expect_equal(read, model.set(), name);
      const WeightFormat& other = weight_format(whole);
      expect_equal(other.read(other.write(read, name), {}, name), model.set(), name);
    }
}

TEST(Vil, NamesPassThereAndBack) {
  LRAM_SKIP_WITHOUT_GOLDEN("baselines");
  for (const GoldenCase& one : test::golden_cases(
           "baselines", "vil", [](const GoldenCase& c) { return c.class_has("VisionLSTM"); })) {
    const Parameters model(one);
    const std::string name = one.file().string();
    const WeightFormat& modules = weight_format("vil");
    EXPECT_EQ(detect_format(model.set()), &modules) << name;
    const WeightSet read = modules.read(model.set(), {}, name);
    const bool pairs = read.contains("blocks.0.rowwise_from_top_left.norm.weight");
    const WeightFormat& hub = weight_format(pairs ? "vil_v2_hub" : "vil_v1_hub");
    const WeightSet written = hub.write(read, name);
    EXPECT_EQ(detect_format(written), &hub) << name;
    expect_equal(hub.read(written, {}, name), model.set(), name);
  }
}

}  // namespace
}  // namespace lram::weights::golden_test
