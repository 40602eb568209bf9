#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "kernels/mlstm/mlstm_reference.h"

/// By what the mLSTM kernels' errors are judged: bars, and what a plain run loses with the same
/// roundings. Shared by mlstm_test and `lram bench kernels --check`.
namespace lram::kernels {

struct MlstmPlainRun {
  MlstmReferenceOutput out;
  MlstmReferenceGradient gradient;  ///< without df_floor
};

/// The quadratic form (kernels.md 2.1, 2.4), straight loops over pairs of tokens. With `rounded` in
/// float32 and with bf16 wherever tensor cores make it inevitable: results, and what enters a
/// product (P, P / N, dS, the states, what their sums weigh); dh . h is taken from the rounded h.
/// Without: in double, equal to mlstm_reference_* (mlstm_plain_test holds it). Inputs are taken as
/// they are, m is the gates' running maximum in double.
MlstmPlainRun mlstm_plain_run(const MlstmReferenceInput& input, const std::vector<double>& dh,
                              const std::vector<double>& dc, const std::vector<double>& dn,
                              const std::vector<double>& dh_dot_h, bool rounded);

/// The plain run that kernels of a type are compared with: rounded for bf16, else mlstm_reference_*
/// in float32.
MlstmPlainRun mlstm_plain_run_of(const MlstmReferenceInput& input, const std::vector<double>& dh,
                                 const std::vector<double>& dc, const std::vector<double>& dn,
                                 const std::vector<double>& dh_dot_h, bool bf16);

/// ||got - want|| / max(||want||, least); NaN where sizes differ.
double mlstm_relative_error(const std::vector<double>& got, const std::vector<double>& want,
                            double least = 0);

/// What an error may be: of h, C, n, m, dq, dk, dv, di, df, dC0, dn0 in bfloat16 or float32.
double mlstm_bar(std::string_view name, bool bf16);
/// The bar, or 1.5 times the plain run's error where that is larger.
double mlstm_allowed(std::string_view name, bool bf16, double plain);

/// One result of an implementation beside the exact one.
struct MlstmErrorTerm {
  std::string name;
  const std::vector<double>* want;
  double least;  ///< what the error is at least relative to: the norm of the gradient without the
                 ///< normaliser's part; of df also 1e-2 ||di sigmoid(-f)||
};

/// Exact results in the order h, [C, n, m], dq, dk, dv, di, df, [dC0, dn0], as far as there are
/// any: `final` asks for the state, `exact` and `dropped` are mlstm_reference_backward with and
/// without the normaliser's part.
std::vector<MlstmErrorTerm> mlstm_error_terms(const MlstmReferenceInput& input, bool final,
                                              const MlstmReferenceOutput& out,
                                              const MlstmReferenceGradient& exact,
                                              const MlstmReferenceGradient& dropped);
/// The result called `name` among these.
const std::vector<double>& mlstm_result(std::string_view name, const MlstmReferenceOutput& out,
                                        const MlstmReferenceGradient& gradient);

}  // namespace lram::kernels
