// Loops over one row of a tile of scores (rows.cpp), which the compiler vectorises. `max` is the running maximum of the
// row; it is subtracted before every exponential, so that none overflows. NaN in a row gives NaN.
#pragma once

#include <cstdint>

namespace foster::cpu {

// The maximum of x (n), NaN ignored.
float row_max(const float* x, int64_t n);
double row_max(const double* x, int64_t n);

// x <- exp(x - max); returns the sum.
float row_exp(float* x, int64_t n, float max);
double row_exp(double* x, int64_t n, double max);

// x <- x + y.
void row_add(float* x, const float* y, int64_t n);
void row_add(double* x, const double* y, int64_t n);

// x <- factor x.
void row_scale(float* x, int64_t n, float factor);
void row_scale(double* x, int64_t n, double factor);

// The backward of softmax, in place: dp <- p (dp - delta).
void row_softmax_backward(float* dp, const float* p, int64_t n, float delta);
void row_softmax_backward(double* dp, const double* p, int64_t n, double delta);

// sum exp(x - max).
float row_exp_sum(const float* x, int64_t n, float max);
double row_exp_sum(const double* x, int64_t n, double max);

// sum = sum exp(a - max), weighted_diff = sum exp(a - max) (a - b).
void row_kl_sums(const float* a, const float* b, int64_t n, float max, float* sum, float* weighted_diff);
void row_kl_sums(const double* a, const double* b, int64_t n, double max, double* sum, double* weighted_diff);

// The backward of softmax from its scores x: p = exp(x - lse), x <- p, dp <- p (dp - delta).
void row_recompute_softmax_backward(float* x, float* dp, int64_t n, float lse, float delta);
void row_recompute_softmax_backward(double* x, double* dp, int64_t n, double lse, double delta);

// The gradients of KL to its scores, in place: with p = exp(a - lse_a) and q = exp(b - lse_b),
// a <- grad p (a - b - mean_diff) and b <- grad (q - p).
void row_kl_backward(float* a, float* b, int64_t n, float lse_a, float lse_b, float mean_diff, float grad);
void row_kl_backward(double* a, double* b, int64_t n, double lse_a, double lse_b, double mean_diff, double grad);

// Adds to `greater` and `equal` how many of x (n) are above, and equal to, `target_score`.
void row_count(const float* x, int64_t n, float target_score, int64_t* greater, int64_t* equal);
void row_count(const double* x, int64_t n, double target_score, int64_t* greater, int64_t* equal);

}  // namespace foster::cpu
