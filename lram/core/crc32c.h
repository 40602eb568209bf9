#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

namespace lram {

/// CRC-32C (Castagnoli, RFC 3720 B.4). Chains: crc32c(b, crc32c(a)) equals that of a followed by b.
std::uint32_t crc32c(std::span<const std::byte> data, std::uint32_t previous = 0);

}  // namespace lram
