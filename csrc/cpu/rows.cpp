// In: rows of scores. Each loop stands once, as a macro over the type, because clones for several instruction sets
// (chosen when the library is loaded) cannot be made of templates.
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

// e^x for x up to about 88; 0 below -87; NaN stays NaN. Cephes' polynomial, error below 2 ulp.
inline float exponential(float x) {
  const float clamped = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
  const float safe = x == x ? clamped : 0.0f;  // an integer made of NaN would be undefined
  const float n = (safe * 1.44269504088896341f + 12582912.0f) - 12582912.0f;  // 1.5 * 2^23: to the nearest integer
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

#define FOSTER_ROWS(T)                                                                                            \
  FOSTER_CLONES T row_max(const T* x, int64_t n) {                                                                \
    T most = -std::numeric_limits<T>::infinity();                                                                 \
    _Pragma("omp simd reduction(max : most)") for (int64_t i = 0; i < n; ++i) most = x[i] > most ? x[i] : most;   \
    return most;                                                                                                  \
  }                                                                                                               \
  FOSTER_CLONES T row_exp(T* x, int64_t n, T shift) {                                                             \
    T sum = 0;                                                                                                    \
    _Pragma("omp simd reduction(+ : sum)") for (int64_t i = 0; i < n; ++i) {                                      \
      const T e = exponential(x[i] - shift);                                                                      \
      x[i] = e;                                                                                                   \
      sum += e;                                                                                                   \
    }                                                                                                             \
    return sum;                                                                                                   \
  }                                                                                                               \
  FOSTER_CLONES void row_scale(T* x, int64_t n, T factor) {                                                        \
    _Pragma("omp simd") for (int64_t i = 0; i < n; ++i) x[i] *= factor;                                            \
  }                                                                                                                \
  FOSTER_CLONES void row_weigh(T* slope, const T* p, int64_t n, T centre) {                                        \
    _Pragma("omp simd") for (int64_t i = 0; i < n; ++i) slope[i] = p[i] * (slope[i] - centre);                     \
  }                                                                                                                \
  FOSTER_CLONES T row_exp_sum(const T* x, int64_t n, T shift) {                                                   \
    T sum = 0;                                                                                                    \
    _Pragma("omp simd reduction(+ : sum)") for (int64_t i = 0; i < n; ++i) sum += exponential(x[i] - shift);      \
    return sum;                                                                                                   \
  }                                                                                                               \
  FOSTER_CLONES void row_divergence(const T* a, const T* b, int64_t n, T shift, T* z, T* difference) {            \
    T sum = 0, apart = 0;                                                                                         \
    _Pragma("omp simd reduction(+ : sum, apart)") for (int64_t i = 0; i < n; ++i) {                               \
      const T e = exponential(a[i] - shift);                                                                      \
      sum += e;                                                                                                   \
      apart += e * (a[i] - b[i]);                                                                                 \
    }                                                                                                             \
    *z = sum;                                                                                                     \
    *difference = apart;                                                                                          \
  }                                                                                                               \
  FOSTER_CLONES void row_softmax_gradient(T* x, T* slope, int64_t n, T lse, T centre) {                           \
    _Pragma("omp simd") for (int64_t i = 0; i < n; ++i) {                                                         \
      const T p = exponential(x[i] - lse);                                                                        \
      x[i] = p;                                                                                                   \
      slope[i] = p * (slope[i] - centre);                                                                         \
    }                                                                                                             \
  }                                                                                                               \
  FOSTER_CLONES void row_divergence_gradient(T* a, T* b, int64_t n, T lse_a, T lse_b, T centre, T grad) {         \
    _Pragma("omp simd") for (int64_t i = 0; i < n; ++i) {                                                         \
      const T p = exponential(a[i] - lse_a);                                                                      \
      const T q = exponential(b[i] - lse_b);                                                                      \
      const T apart = a[i] - b[i];                                                                                \
      a[i] = grad * p * (apart - centre);                                                                         \
      b[i] = grad * (q - p);                                                                                      \
    }                                                                                                             \
  }                                                                                                               \
  FOSTER_CLONES void row_count(const T* x, int64_t n, T goal, int64_t* greater, int64_t* equal) {                 \
    int64_t above = 0, same = 0;                                                                                  \
    _Pragma("omp simd reduction(+ : above, same)") for (int64_t i = 0; i < n; ++i) {                              \
      above += x[i] > goal;                                                                                       \
      same += x[i] == goal;                                                                                       \
    }                                                                                                             \
    *greater += above;                                                                                            \
    *equal += same;                                                                                               \
  }

FOSTER_ROWS(float)
FOSTER_ROWS(double)

}  // namespace foster::cpu
