// What foreign bytes can reach: the reader of safetensors files, the one of shard indexes, and
// every weight format on what the reader lets through. Any outcome but a clean result or an Error
// that blames the input is a finding.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "lram/core/error.h"
#include "lram/weights/formats.h"
#include "lram/weights/statistics.h"
#include "lram/weights/tensor_files.h"

namespace {
using namespace lram;
using namespace lram::weights;

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "fuzz: %s\n", what);
  std::abort();
}

template <typename Action>
bool accepted(const Action& action) {
  try {
    action();
    return true;
  } catch (const Error& error) {
    require(error.kind() == ErrorKind::kInput, error.what());
    require(std::string_view(error.what()).starts_with("input: "), error.what());
    return false;
  }
}

/// The tensors lie one behind the other and fill the file from the header's end.
void check_content(const SafetensorsContent& content, std::span<const std::byte> bytes) {
  const std::byte* at = nullptr;
  std::size_t data_bytes = 0;
  for (const TensorEntry& tensor : content.tensors) {
    require(byte_size(tensor.dtype, tensor.shape) == tensor.data.size(), "size of a tensor");
    require(at == nullptr || tensor.data.data() == at, "tensors are not contiguous");
    at = tensor.data.data() + tensor.data.size();
    data_bytes += tensor.data.size();
    const TensorStatistics statistics = compute_statistics(tensor);
    require(statistics.non_finite <= statistics.count, "count of a tensor");
  }
  require(at == nullptr || at == bytes.data() + bytes.size(), "the last tensor ends elsewhere");
  require(data_bytes + 8 <= bytes.size(), "more data than bytes");
}

void check_formats(const WeightSet& set) {
  detect_format(set);
  for (const WeightFormat& from : weight_formats()) {
    WeightSet family;
    if (!accepted([&] { family = from.read(set, {}, "input"); })) continue;
    for (const WeightFormat& to : weight_formats()) {
      if (to.family != from.family) continue;
      WeightSet written;
      if (!accepted([&] { written = to.write(family, "input"); })) continue;
      for (const auto& [name, tensor] : written)
        require(tensor.bytes().size() == tensor.byte_count(), "bytes of a converted tensor");
    }
  }
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  accepted([&] { parse_shard_index({reinterpret_cast<const char*>(data), size}, "input"); });
  SafetensorsContent content;
  if (!accepted([&] { content = parse_safetensors(bytes, "input"); })) return 0;
  check_content(content, bytes);
  WeightSet set;
  for (const TensorEntry& tensor : content.tensors) set.emplace(tensor.name, WeightTensor(tensor));
  check_formats(set);
  return 0;
}

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max);

/// Half of the time the header alone is changed and its length made to fit, so that more inputs get
/// past the first eight bytes.
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t max, unsigned seed) {
  std::uint64_t header = 0;
  if (size >= 8) std::memcpy(&header, data, 8);
  if (seed % 2 == 0 || size < 9 || header > size - 8 || max < size)
    return LLVMFuzzerMutate(data, size, max);
  const std::size_t rest = size - 8 - header;
  const std::string tail(reinterpret_cast<const char*>(data) + 8 + header, rest);
  const std::size_t changed = LLVMFuzzerMutate(data + 8, header, max - 8 - rest);
  std::memcpy(data + 8 + changed, tail.data(), rest);
  const std::uint64_t length = changed;
  std::memcpy(data, &length, 8);
  return 8 + changed + rest;
}
