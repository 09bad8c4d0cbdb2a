// What is done to one row of a tile of scores: plain loops, in rows.cpp, that the compiler vectorises. `shift` is the
// largest score seen so far, so that no exponential overflows. NaN in a row comes out as NaN.
#pragma once

#include <cstdint>

namespace foster::cpu {

// The largest of x (n); NaN is passed over.
float row_max(const float* x, int64_t n);
double row_max(const double* x, int64_t n);

// x <- exp(x - shift); returns the sum.
float row_exp(float* x, int64_t n, float shift);
double row_exp(double* x, int64_t n, double shift);

// x <- factor x.
void row_scale(float* x, int64_t n, float factor);
void row_scale(double* x, int64_t n, double factor);

// slope <- p (slope - centre).
void row_weigh(float* slope, const float* p, int64_t n, float centre);
void row_weigh(double* slope, const double* p, int64_t n, double centre);

// sum exp(x - shift).
float row_exp_sum(const float* x, int64_t n, float shift);
double row_exp_sum(const double* x, int64_t n, double shift);

// z = sum exp(a - shift), difference = sum exp(a - shift) (a - b).
void row_divergence(const float* a, const float* b, int64_t n, float shift, float* z, float* difference);
void row_divergence(const double* a, const double* b, int64_t n, double shift, double* z, double* difference);

// The gradient of softmax: p = exp(x - lse), x <- p, slope <- p (slope - centre).
void row_softmax_gradient(float* x, float* slope, int64_t n, float lse, float centre);
void row_softmax_gradient(double* x, double* slope, int64_t n, double lse, double centre);

// The gradients of KL to its scores: p = exp(a - lse_a), q = exp(b - lse_b), a <- grad p (a - b - centre),
// b <- grad (q - p).
void row_divergence_gradient(float* a, float* b, int64_t n, float lse_a, float lse_b, float centre, float grad);
void row_divergence_gradient(double* a, double* b, int64_t n, double lse_a, double lse_b, double centre, double grad);

// Adds to `greater` and `equal` how many of x (n) are above and equal to `goal`.
void row_count(const float* x, int64_t n, float goal, int64_t* greater, int64_t* equal);
void row_count(const double* x, int64_t n, double goal, int64_t* greater, int64_t* equal);

}  // namespace foster::cpu
