#include <cmath>
#include <limits>
#include <numbers>

#include "eval/probes/generators.h"

namespace lram::eval::probes {
namespace {
struct Point {
  float x, y;
};

Point on_circle(CounterRng& rng) {
  const double angle = 2.0 * std::numbers::pi * rng.uniform();
  return {static_cast<float>(std::cos(angle)), static_cast<float>(std::sin(angle))};
}

// The tracked value: x' = kKeep x + N(0, 1 - kKeep^2), of variance 1, seen through N(0, kSeen^2).
constexpr double kKeep = 0.95, kSeen = 0.7;
// What the expert adds to its estimate: the floor of the error is kShake^2.
constexpr double kShake = 0.2;
}  // namespace

Task nearest_neighbour() {
  // Inputs: point (2), its value, whether this is the reference. Length T: the reference and T
  // pairs.
  return {.summary = "the value of the point nearest to a reference so far (xLSTM, Fig. 2)",
          .input_width = 4,
          .chance = 1.0 / 12.0,
          .generate = [](std::int64_t length, CounterRng& rng) {
            const Point reference = on_circle(rng);
            Sequence out{.inputs = {reference.x, reference.y, 0.0f, 1.0f},
                         .targets = {std::numeric_limits<float>::quiet_NaN()}};
            float nearest = -2.0f, value = 0.0f;  // nearest: cosine to the reference
            for (std::int64_t t = 0; t < length; ++t) {
              const Point point = on_circle(rng);
              const auto y = static_cast<float>(rng.uniform());
              const float cosine = point.x * reference.x + point.y * reference.y;
              if (cosine > nearest) nearest = cosine, value = y;
              out.inputs.insert(out.inputs.end(), {point.x, point.y, y, 0.0f});
              out.targets.push_back(value);
            }
            return out;
          }};
}

Task tracking() {
  constexpr double kDrift = 1.0 - kKeep * kKeep, kNoise = kSeen * kSeen;
  // Variance of the expert's action: that of x less what the settled filter does not know.
  double unknown = 1.0;
  for (int i = 0; i < 1000; ++i) {
    const double before = kKeep * kKeep * unknown + kDrift;
    unknown = before * kNoise / (before + kNoise);
  }
  return {.summary = "the action of an expert that filters noisy observations, ever on",
          .input_width = 1,
          .chance = 1.0 - unknown + kShake * kShake,
          .scored_tail = 32,
          .generate = [](std::int64_t length, CounterRng& rng) {
            Sequence out;
            double x = rng.normal(), estimate = 0.0, variance = 1.0;
            for (std::int64_t t = 0; t < length; ++t) {
              const double seen = x + kSeen * rng.normal();
              const double gain = variance / (variance + kNoise);
              estimate += gain * (seen - estimate);
              variance *= 1.0 - gain;
              out.inputs.push_back(static_cast<float>(seen));
              out.targets.push_back(static_cast<float>(estimate + kShake * rng.normal()));
              x = kKeep * x + std::sqrt(kDrift) * rng.normal();
              estimate *= kKeep;
              variance = kKeep * kKeep * variance + kDrift;
            }
            return out;
          }};
}

}  // namespace lram::eval::probes
