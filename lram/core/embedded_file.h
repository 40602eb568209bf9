#pragma once
#include <span>

namespace lram {

/// A file that the build put into the program (lram_embed in cmake/targets.cmake). Tables of them
/// end with a null name.
struct EmbeddedFile {
  const char* name;
  std::span<const unsigned char> bytes;
};

}  // namespace lram
