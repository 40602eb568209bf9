#include "lram/model/xlstm_block.h"

#include <gtest/gtest.h>
#include <torch/utils.h>

#include <cmath>
#include <string>

#include "lram/core/error.h"

namespace lram::model::xlstm_block_test {
namespace {
using torch::Tensor;

double deviation(const Tensor& x) {
  return x.to(torch::kDouble).pow(2).mean().sqrt().item<double>();
}

TEST(XlstmBlock, InitialValuesOfTheMlstm) {
  torch::manual_seed(1);
  const auto block = make_xlstm_block({.embed_dim = 256, .num_heads = 4, .num_blocks = 3});
  const auto p = block->named_parameters();
  const double small = std::sqrt(2.0 / (5 * 256)), wang = 2.0 / (3 * 16.0);
  // 4,096 draws and more: the deviation is known to 2 %.
  EXPECT_NEAR(deviation(p["xlstm.proj_up.weight"]) / small, 1.0, 0.05);
  EXPECT_NEAR(deviation(p["xlstm.v_proj.weight"]) / small, 1.0, 0.1);
  EXPECT_NEAR(deviation(p["xlstm.proj_down.weight"]) / wang, 1.0, 0.05);
  EXPECT_NEAR(deviation(p["xlstm.conv1d.conv.weight"]) / (0.5 / std::sqrt(3.0)), 1.0, 0.1);
  EXPECT_LE(p["xlstm.conv1d.conv.weight"].abs().max().item<double>(), 0.5);
  EXPECT_EQ(deviation(p["xlstm.mlstm_cell.igate.weight"]), 0.0);
  EXPECT_TRUE(torch::equal(p["xlstm.mlstm_cell.fgate.bias"], torch::tensor({3.f, 4.f, 5.f, 6.f})));
  EXPECT_EQ(deviation(p["xlstm_norm.weight"]), 0.0);
  EXPECT_EQ(p["xlstm.learnable_skip"].min().item<double>(), 1.0);
}

TEST(XlstmBlock, InitialValuesOfTheClassicCells) {
  torch::manual_seed(2);
  for (const auto kind : {XlstmBlockKind::kLstm, XlstmBlockKind::kGru, XlstmBlockKind::kElman}) {
    const auto block = make_xlstm_block({.kind = kind, .embed_dim = 256, .num_heads = 4});
    const auto p = block->named_parameters();
    // torch.nn's LSTM, GRU and RNN: uniform in +-1 / sqrt(units), of a head here.
    for (const char* name : {"xlstm.rnn_cell.R", "xlstm.rnn_cell.b"}) {
      EXPECT_LE(p[name].abs().max().item<double>(), 0.125) << name;
      EXPECT_NEAR(deviation(p[name]) / (0.125 / std::sqrt(3.0)), 1.0, 0.1) << name;
    }
    EXPECT_NEAR(
        deviation(p[kind == XlstmBlockKind::kGru ? "xlstm.ngate.weight" : "xlstm.zgate.weight"]) /
            std::sqrt(2.0 / (5 * 256)),
        1.0, 0.05);
    // Elman has no gate that a convolution could feed.
    EXPECT_EQ(p.contains("xlstm.conv1d.conv.weight"), kind != XlstmBlockKind::kElman);
  }
}

TEST(XlstmBlock, InitialValuesOfTheSlstm) {
  const auto block = make_xlstm_block({.kind = XlstmBlockKind::kSlstm,
                                       .embed_dim = 32,
                                       .num_heads = 2,
                                       .index = 1,
                                       .num_blocks = 3});
  const auto p = block->named_parameters();
  EXPECT_EQ(deviation(p["xlstm.slstm_cell._recurrent_kernel_"]), 0.0);
  const Tensor bias = p["xlstm.slstm_cell._bias_"].view({4, 2, 16});
  EXPECT_EQ(deviation(bias[0]) + deviation(bias[2]) + deviation(bias[3]), 0.0);
  EXPECT_FLOAT_EQ(bias[1][0][0].item<float>(), 5.0f);
  EXPECT_FLOAT_EQ(bias[1][1][15].item<float>(), -7.0f);
  EXPECT_FLOAT_EQ(bias[1][1][3].item<float>(),
                  static_cast<float>(5.0 - 12.0 * std::pow(3.0 / 15.0, 0.3 + 1.3 * 0.5)));
}

TEST(XlstmBlock, RefusesSizesThatDoNotDivide) {
  const auto message = [](const XlstmBlockConfig& config) -> std::string {
    try {
      make_xlstm_block(config);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(message({.embed_dim = 32, .num_heads = 3}),
            "mLSTM block: num_heads is 3, wanted a divisor of its width 64");
  EXPECT_EQ(message({.kind = XlstmBlockKind::kSlstm, .embed_dim = 30, .num_heads = 4}),
            "sLSTM block: num_heads is 4, wanted a divisor of its width 30");
  EXPECT_EQ(message({.embed_dim = 32, .conv_kernel = 0}),
            "mLSTM block: conv_kernel is 0, wanted at least 1");
  EXPECT_EQ(message({.embed_dim = 32, .qkv_blocksize = 5}),
            "mLSTM block: qkv_blocksize is 5, wanted a divisor of its width 64");
  EXPECT_EQ(message({.embed_dim = 32, .cell = {.chunk_size = 0}}),
            "mLSTM block: chunk_size is 0, wanted at least 1");
  EXPECT_EQ(message({.embed_dim = 32, .cell = {.normalize = false}}),
            "mLSTM block: normalize is false with exponential input gates, wanted sigmoid ones");
}

}  // namespace
}  // namespace lram::model::xlstm_block_test
