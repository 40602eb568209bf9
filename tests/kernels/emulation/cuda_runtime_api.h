#pragma once
#include "tests/kernels/emulation/cuda_runtime.h"
