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

/// Either of them as one line: "cpu: AMD EPYC 9R14, cores: 2".
std::string one_line(const std::vector<std::pair<std::string, std::string>>& info);

}  // namespace lram
