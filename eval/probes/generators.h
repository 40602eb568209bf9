#pragma once
#include <cstdint>

#include "eval/probes/task.h"

// The generators behind make_task(), one file per family. Recipes: Beck et al. 2024 (xLSTM, App.
// D.1) and its code for the formal languages, Deletang et al. 2022 (2207.02098) for their rules,
// Arora et al. 2023 (Zoology, 2312.04927) for recall.

namespace lram::eval::probes {

// formal_languages.cpp
Task parity();
Task even_pairs();
Task cycle_navigation(std::int64_t modulus);
Task modular_arithmetic(std::int64_t modulus);
Task modular_arithmetic_brackets(std::int64_t modulus);
Task permutations_of_three();

// recall.cpp
Task recall(const TaskOptions& options);

// real_tasks.cpp
Task nearest_neighbour();
Task tracking();

}  // namespace lram::eval::probes
