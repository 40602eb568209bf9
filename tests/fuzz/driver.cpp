// Runs a fuzz target without libFuzzer: random changes of the seeds, without coverage.
//   fuzz_safetensors CORPUS [SECONDS] [SEED]
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t max, unsigned seed);

namespace {
std::mt19937_64 generator;

std::size_t below(std::size_t n) {
  return n == 0 ? 0 : std::uniform_int_distribution<std::size_t>(0, n - 1)(generator);
}

const char* const kWords[] = {"\"dtype\"",
                              "\"shape\"",
                              "\"data_offsets\"",
                              "\"F32\"",
                              "\"U8\"",
                              "[",
                              "]",
                              "{",
                              "}",
                              ",",
                              ":",
                              "0",
                              "-1",
                              "1e9",
                              "4294967296",
                              "18446744073709551615",
                              "9223372036854775807",
                              "null",
                              "\"",
                              "__metadata__",
                              "\\u0000",
                              "weight_map",
                              ".safetensors"};
}  // namespace

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max) {
  std::string text(reinterpret_cast<const char*>(data), size);
  for (std::size_t changes = 1 + below(4); changes > 0; --changes) {
    const std::size_t at = below(text.size() + 1);
    switch (below(6)) {
      case 0:
        if (at < text.size()) text[at] = static_cast<char>(text[at] ^ (1 << below(8)));
        break;
      case 1:
        if (at < text.size()) text[at] = static_cast<char>(below(256));
        break;
      case 2:
        text.erase(at, below(16));
        break;
      case 3:
        text.insert(at, kWords[below(std::size(kWords))]);
        break;
      case 4:
        text.insert(at, text.substr(below(text.size() + 1), below(64)));
        break;
      default:
        text.insert(at, 1, static_cast<char>(below(256)));
    }
  }
  text.resize(std::min(text.size(), max));
  std::memcpy(data, text.data(), text.size());
  return text.size();
}

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s CORPUS [SECONDS] [SEED]\n", argv[0]);
    return 2;
  }
  const double seconds = argc > 2 ? std::atof(argv[2]) : 1.0;
  generator.seed(argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 1);
  std::vector<std::vector<std::uint8_t>> corpus;
  for (const auto& item : std::filesystem::directory_iterator(argv[1])) {
    std::ifstream in(item.path(), std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
    LLVMFuzzerTestOneInput(corpus.back().data(), corpus.back().size());
  }
  if (corpus.empty()) {
    std::fprintf(stderr, "%s: no seeds\n", argv[1]);
    return 3;
  }
  const auto begin = std::chrono::steady_clock::now();
  const auto elapsed = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  std::uint64_t runs = 0;
  for (; elapsed() < seconds; ++runs) {
    std::vector<std::uint8_t> input = corpus[below(corpus.size())];
    const std::size_t size = input.size();
    input.resize(size + 4096);
    input.resize(LLVMFuzzerCustomMutator(input.data(), size, input.size(),
                                         static_cast<unsigned>(below(1u << 30))));
    // What fails is in this file, also when a sanitizer ends the program.
    if (const char* keep = std::getenv("FUZZ_LAST_INPUT"))
      std::ofstream(keep, std::ios::binary)
          .write(reinterpret_cast<const char*>(input.data()),
                 static_cast<std::streamsize>(input.size()));
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  std::printf("%llu runs from %zu seeds in %.0f s, nothing found\n",
              static_cast<unsigned long long>(runs), corpus.size(), elapsed());
}
