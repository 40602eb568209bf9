#pragma once
#include <filesystem>
#include <initializer_list>
#include <string_view>

namespace lram {

/// Name of the file that vouches for the others of a folder: size and CRC32C of each.
inline constexpr const char* kManifestName = "MANIFEST.json";

/// Lists every file below `folder` in its MANIFEST.json and fsyncs the files, the folders and the
/// list, so that a rename of the folder afterwards publishes it whole. Throws Error(kResource).
void write_manifest(const std::filesystem::path& folder);

/// Compares the named files (paths relative to `folder`), or all that the list has, with the list.
/// Throws Error(kInput) that names the file, what was found and what was wanted. Any change of a
/// file's bytes or length is noticed, a change of the list itself too.
void verify_manifest(const std::filesystem::path& folder,
                     std::initializer_list<std::string_view> files = {});

}  // namespace lram
