// What nearly every file with LibTorch includes. Sources still include what they use. Each header more costs every
// file: GCC instantiates again, at a file's end, what the precompiled header's inline functions use.
#include <fmt/core.h>
#include <torch/nn/module.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>
