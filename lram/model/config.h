#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "lram/core/options.h"

namespace lram::model {

/// Architecture of a policy. The initializers are the only defaults; a recipe's keys are
/// `model.<field>`, and config.json's "model" object has the same names.
struct PolicyConfig {
  /// xlstm; slstm, lstm, gru, elman (that cell in every block); xlstm_large (the block of
  /// xLSTM-7B); mamba; gpt2 (the Decision Transformer)
  std::string backbone = "xlstm";
  std::int64_t embed_dim = 512;
  std::int64_t num_blocks = 8;
  std::int64_t num_heads = 4;        ///< not mamba
  std::int64_t context_length = 50;  ///< time steps of a training window

  std::string slstm_at;            ///< xlstm: zero-based blocks with an sLSTM, "1,3"; "" = [1:0]
  std::int64_t conv_kernel = 4;    ///< xlstm, slstm, lstm, gru, mamba; slstm, lstm, gru: 0 = none
  std::int64_t qkv_blocksize = 4;  ///< xlstm
  double ffn_factor = 1.3;         ///< feed-forward behind any cell but the mLSTM, 0 = none
  std::string input_gate = "exp";  ///< mLSTM: exp or sigmoid
  bool normalize = true;           ///< mLSTM: false needs sigmoid input gates
  double cell_eps = 1e-6;          ///< mLSTM: added to the normaliser (kernels.md 1.2)
  std::int64_t chunk_size = 64;    ///< mLSTM: tokens per chunk of the chunkwise form

  double qk_dim_factor = 0.5;    ///< xlstm_large: width of queries and keys over D
  double swiglu_factor = 2.667;  ///< xlstm_large: feed-forward width over D, rounded up to 64
  double gate_soft_cap = 15.0;   ///< xlstm_large: bound of the gates' pre-activations, 0 = none

  std::string positions = "learned";  ///< gpt2: learned, or rope
  std::int64_t max_episode_steps =
      0;  ///< gpt2, learned: longest episode trained on; the table of positions holds 3 x 3 of it

  std::int64_t state_dim = 204;  ///< width of the state vector (lram.md 1.6)
  std::int64_t image_size = 0;   ///< height = width of 3-channel images, 0 = no image encoder
  std::string image_encoder = "impala";  ///< impala (LRAM's), vil (Vision-LSTM), vit
  std::int64_t image_dim = 192;          ///< vil, vit: width of the patches' tokens
  std::int64_t image_blocks = 12;        ///< vil, vit: blocks; vil: single scans, not pairs
  std::int64_t image_patch = 8;          ///< vil, vit: height = width of a patch
  std::int64_t image_heads = 3;          ///< vit; a vil block always has 4
  std::int64_t vil_version = 2;          ///< vil: 1 or 2 of the public package
  std::int64_t action_slots = 8;         ///< A
  std::int64_t discrete_ids = 18;
  std::int64_t num_bins = 256;

  std::int64_t num_classes() const { return discrete_ids + num_bins; }
  bool operator==(const PolicyConfig&) const = default;
};

void describe(po::options_description& options, PolicyConfig& config);
void to_json(nlohmann::json& json, const PolicyConfig& config);
/// Throws Error(kInput) that names the field, its value and what was wanted.
void from_json(const nlohmann::json& json, PolicyConfig& config);
/// Throws Error(kUsage) for a config that cannot be built (heads that do not divide, ...), and for
/// a field off its default that the backbone or image encoder does not have.
void validate(const PolicyConfig& config);
/// Sets such fields to their defaults: for a config made out of another backbone's.
void clear_unused(PolicyConfig& config);

/// What validate() is made of. Throw Error(kUsage) that names model.FIELD, its value and what was
/// wanted: `value` outside [low, high], or `part` that does not divide `whole`, described by
/// `what`.
void check_range(const char* field, std::int64_t value, std::int64_t low, std::int64_t high);
void check_range(const char* field, double value, double low, double high);
void check_divides(std::int64_t whole, const std::string& what, const char* field,
                   std::int64_t part);

}  // namespace lram::model
