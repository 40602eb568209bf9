#pragma once
#include <string>
#include <utility>
#include <vector>

namespace lram {

/// What this program was built from: commit, compiler, build type, LibTorch, CUDA, HDF5, MuJoCo.
/// Name and version, in the order of `lram --version`; "none" where a part is absent.
std::vector<std::pair<std::string, std::string>> build_info();

/// The machine this runs on: processor name, cores.
std::vector<std::pair<std::string, std::string>> hardware_info();

}  // namespace lram
