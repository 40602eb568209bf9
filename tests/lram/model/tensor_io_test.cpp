#include "lram/model/tensor_io.h"

#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>
#include <torch/utils.h>

#include <limits>

#include "lram/core/error.h"
#include "tests/support/temp_folder.h"

namespace lram::model::tensor_io_test {
namespace {

class TensorIo : public testing::Test {
 protected:
  /// What loading the file into a Linear(2, 3) says.
  std::string load_message(const NamedTensors& tensors) {
    save_tensors(path_, tensors);
    torch::nn::Linear linear(2, 3);
    const torch::Tensor before = linear->weight.detach().clone();
    try {
      load_tensors(SafetensorsFile(path_), named_tensors(*linear));
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInput);
      EXPECT_TRUE(torch::equal(linear->weight, before)) << "changed although it failed";
      const std::string text = error.what(), start = path_.string() + ": ";
      EXPECT_EQ(text.find(start), 0u) << text;
      return text.substr(start.size());
    }
    return "loaded";
  }

  test::TempFolder folder_;
  std::filesystem::path path_ = folder_.path() / "model.safetensors";
};

TEST_F(TensorIo, EveryTypeComesBackBitForBit) {
  NamedTensors tensors;
  for (const auto type :
       {torch::kBool, torch::kUInt8, torch::kInt8, torch::kInt16, torch::kInt32, torch::kInt64,
        torch::kFloat16, torch::kBFloat16, torch::kFloat32, torch::kFloat64})
    tensors.emplace_back(torch::toString(type), torch::randn({3, 5}).mul(10).abs().to(type));
  tensors.emplace_back("transposed", torch::randn({4, 2}).t());
  tensors.emplace_back("scalar", torch::tensor(2.5));
  tensors.emplace_back("empty", torch::empty({0, 4}));
  save_tensors(path_, tensors, {{"step", "10"}});
  const SafetensorsFile file(path_);
  EXPECT_EQ(file.metadata().at("step"), "10");
  EXPECT_EQ(file.tensors().size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    const torch::Tensor back = to_tensor(file.at(name));
    EXPECT_EQ(back.scalar_type(), tensor.scalar_type()) << name;
    EXPECT_TRUE(torch::equal(back, tensor)) << name;
  }
}

TEST_F(TensorIo, LoadsIntoAModuleAndConvertsFloats) {
  const torch::Tensor weight = torch::tensor({1.0, 2.0, 3.0, 4.0, 5.0, 6.0}).view({3, 2});
  save_tensors(path_, {{"weight", weight.to(torch::kFloat16)}, {"bias", torch::zeros({3})}});
  torch::nn::Linear linear(2, 3);
  load_tensors(SafetensorsFile(path_), named_tensors(*linear));
  EXPECT_TRUE(torch::equal(linear->weight, weight.to(torch::kFloat32)));
}

TEST_F(TensorIo, WhatDoesNotFitIsNamed) {
  const torch::Tensor weight = torch::zeros({3, 2}), bias = torch::zeros({3});
  EXPECT_EQ(load_message({{"weight", weight}, {"bias", bias}}), "loaded");
  EXPECT_EQ(load_message({{"weight", weight}}), "no tensor 'bias', wanted one of shape [3]");
  EXPECT_EQ(load_message({{"weight", weight.t()}, {"bias", bias}}),
            "tensor 'weight' has shape [2, 3], wanted [3, 2]");
  EXPECT_EQ(load_message({{"weight", weight}, {"bias", bias.to(torch::kInt32)}}),
            "tensor 'bias' is of type I32, wanted F32");
  EXPECT_EQ(load_message({{"weight", weight}, {"bias", bias}, {"scale", bias}}),
            "tensor 'scale' of shape [3] belongs to no part of the model");
  const torch::Tensor broken = weight + std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(load_message({{"weight", broken}, {"bias", bias}}),
            "tensor 'weight' holds a value that is not finite");
}

}  // namespace
}  // namespace lram::model::tensor_io_test
