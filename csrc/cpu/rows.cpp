// Each loop is written once, in a macro over the type. A template would not do: the attribute target_clones, which
// compiles a function for several instruction sets and chooses one at load time, cannot be applied to templates.
#include "rows.h"

#include <cmath>
#include <cstring>
#include <limits>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__gnu_linux__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(FOSTER_NO_CLONES)
#define FOSTER_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOSTER_CLONES
#endif

namespace foster::cpu {
namespace {

// e^x for x up to about 88, 0 below -87, NaN for NaN. The polynomial is that of Cephes; the error is below 2 ulp.
inline float exponential(float x) {
  const float clamped = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
  const float safe = x == x ? clamped : 0.0f;  // the conversion of NaN to an integer is undefined
  const float n = (safe * 1.44269504088896341f + 12582912.0f) - 12582912.0f;  // 1.5 * 2^23 rounds to an integer
  const float r = (safe - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, sizeof scale);
  const float value = x < -87.0f ? 0.0f : p * scale;
  return x == x ? value : x;
}

inline double exponential(double x) { return std::exp(x); }

}  // namespace

#define FOSTER_ROWS(T)                                                                                           \
  FOSTER_CLONES T row_max(const T* x, int64_t n) {                                                               \
    T result = -std::numeric_limits<T>::infinity();                                                              \
    _Pragma("omp simd reduction(max : result)") for (int64_t i = 0; i < n; ++i)                                  \
      result = x[i] > result ? x[i] : result;                                                                    \
    return result;                                                                                               \
  }                                                                                                              \
  FOSTER_CLONES T row_exp(T* x, int64_t n, T max) {                                                              \
    T sum = 0;                                                                                                   \
    _Pragma("omp simd reduction(+ : sum)") for (int64_t i = 0; i < n; ++i) {                                     \
      const T e = exponential(x[i] - max);                                                                       \
      x[i] = e;                                                                                                  \
      sum += e;                                                                                                  \
    }                                                                                                            \
    return sum;                                                                                                  \
  }                                                                                                              \
  FOSTER_CLONES void row_add(T* x, const T* y, int64_t n) {                                                      \
    _Pragma("omp simd") for (int64_t i = 0; i < n; ++i) x[i] += y[i];                                            \
  }                                                                                                              \
  FOSTER_CLONES void row_scale(T* x, int64_t n, T factor) {                                                      \
    _Pragma("omp simd") for (int64_t i = 0; i < n; ++i) x[i] *= factor;                                          \
  }                                                                                                              \
  FOSTER_CLONES void row_softmax_backward(T* dp, const T* p, int64_t n, T delta) {                               \
    _Pragma("omp simd") for (int64_t i = 0; i < n; ++i) dp[i] = p[i] * (dp[i] - delta);                          \
  }                                                                                                              \
  FOSTER_CLONES T row_exp_sum(const T* x, int64_t n, T max) {                                                    \
    T sum = 0;                                                                                                   \
    _Pragma("omp simd reduction(+ : sum)") for (int64_t i = 0; i < n; ++i) sum += exponential(x[i] - max);       \
    return sum;                                                                                                  \
  }                                                                                                              \
  FOSTER_CLONES void row_kl_sums(const T* a, const T* b, int64_t n, T max, T* sum, T* weighted_diff) {           \
    T total = 0, diff = 0;                                                                                       \
    _Pragma("omp simd reduction(+ : total, diff)") for (int64_t i = 0; i < n; ++i) {                             \
      const T e = exponential(a[i] - max);                                                                       \
      total += e;                                                                                                \
      diff += e * (a[i] - b[i]);                                                                                 \
    }                                                                                                            \
    *sum = total;                                                                                                \
    *weighted_diff = diff;                                                                                       \
  }                                                                                                              \
  FOSTER_CLONES void row_recompute_softmax_backward(T* x, T* dp, int64_t n, T lse, T delta) {                    \
    _Pragma("omp simd") for (int64_t i = 0; i < n; ++i) {                                                        \
      const T p = exponential(x[i] - lse);                                                                       \
      x[i] = p;                                                                                                  \
      dp[i] = p * (dp[i] - delta);                                                                               \
    }                                                                                                            \
  }                                                                                                              \
  FOSTER_CLONES void row_kl_backward(T* a, T* b, int64_t n, T lse_a, T lse_b, T mean_diff, T grad) {             \
    _Pragma("omp simd") for (int64_t i = 0; i < n; ++i) {                                                        \
      const T p = exponential(a[i] - lse_a);                                                                     \
      const T q = exponential(b[i] - lse_b);                                                                     \
      const T diff = a[i] - b[i];                                                                                \
      a[i] = grad * p * (diff - mean_diff);                                                                      \
      b[i] = grad * (q - p);                                                                                     \
    }                                                                                                            \
  }                                                                                                              \
  FOSTER_CLONES void row_count(const T* x, int64_t n, T target_score, int64_t* greater, int64_t* equal) {        \
    int64_t n_greater = 0, n_equal = 0;                                                                          \
    _Pragma("omp simd reduction(+ : n_greater, n_equal)") for (int64_t i = 0; i < n; ++i) {                      \
      n_greater += x[i] > target_score;                                                                          \
      n_equal += x[i] == target_score;                                                                           \
    }                                                                                                            \
    *greater += n_greater;                                                                                       \
    *equal += n_equal;                                                                                           \
  }

FOSTER_ROWS(float)
FOSTER_ROWS(double)

}  // namespace foster::cpu
