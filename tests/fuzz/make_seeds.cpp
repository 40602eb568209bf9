// Writes the seeds of the fuzz target: every bad file of the tests, and a tiny model of each
// format.
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "lram/core/error.h"
#include "lram/weights/convert.h"
#include "tests/support/bad_safetensors.h"
#include "tests/support/random_weights.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
    return 2;
  }
  using namespace lram;
  const std::filesystem::path folder = argv[1];
  std::filesystem::create_directories(folder);
  for (const test::BadFile& bad : test::bad_safetensors())
    if (bad.bytes.size() < 4096) std::ofstream(folder / bad.name, std::ios::binary) << bad.bytes;
  const auto write = [&](const std::string& name, const auto& fill) {
    test::RandomWeights weights(1);
    fill(weights);
    const std::filesystem::path first = folder / (name + ".safetensors");
    std::filesystem::remove(first);
    weights.save(first);
    const weights::TensorFiles files(first);
    const weights::Family family = weights::read_weights(files, "").family;
    for (const weights::WeightFormat& format : weights::weight_formats()) {
      if (format.family != family) continue;
      const std::filesystem::path path =
          folder / fmt::format("{}.{}.safetensors", name, format.name);
      std::filesystem::remove(path);
      weights::ConvertOptions options;
      options.to = format.name;
      try {
        weights::convert(first, path, options);
      } catch (const Error&) {  // a ViL has one of two versions
      }
    }
  };
  write("v1", [](auto& w) { add_xlstm_v1(w, 2, false); });
  write("large", [](auto& w) { add_xlstm_large(w, 1, true); });
  write("gpt2", [](auto& w) { add_gpt2(w, 1); });
  write("mamba", [](auto& w) { add_mamba(w, 1); });
  write("vil1", [](auto& w) { add_vil(w, 1, 1); });
  write("vil2", [](auto& w) { add_vil(w, 1, 2); });
  write("state", [](auto& w) {
    w.add("block_0.mlstm_c", {1, 1, 2, 2});
    w.add("block_0.mlstm_n", {1, 1, 2, 1});
    w.add("block_0.mlstm_m", {1, 1, 1, 1});
    w.add("block_0.conv", {1, 2, 2});
    w.add("block_1.slstm", {4, 1, 2});
  });
  std::ofstream(folder / "index.json")
      << R"({"metadata":{"total_size":8},"weight_map":{"a":"model-00001-of-00002.safetensors"}})";
}
