// What nearly every file with LibTorch includes. Sources still include what they use.
#include <torch/nn/functional/activation.h>
#include <torch/nn/module.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <string>
#include <vector>
