// Prints the shared memory, in bytes, that each kernel asks for at launch: op, type, columns, bytes, and the bytes for
// each chunk of X that may stay. Part of `make cuda-check`.
#include <cstdio>

#include "rank_counts.cu"
#include "soft_embed.cu"
#include "soft_kl.cu"

using namespace foster::cuda;

template <class S, class Op, int kColumns>
void print(const char* op, const char* type) {
  using M = foster::cuda::Shared<S, Op, kColumns>;
  std::printf("%s %s %d %d %d\n", op, type, kColumns, M::bytes, Op::kProducts * M::panel);
}

template <class S>
void of_type(const char* type) {
  print<S, Kl<S>, 0>("Kl", type);
  print<S, Rank<S>, 0>("Rank", type);
  const auto weighted = [&]<class Op>(const char* op) {
    print<S, Op, 128>(op, type);
    if constexpr (sizeof(S) < 8) print<S, Op, 384>(op, type);
  };
  weighted.template operator()<Embed<S>>("Embed");
  weighted.template operator()<EmbedQ<S>>("EmbedQ");
  weighted.template operator()<EmbedE<S>>("EmbedE");
  weighted.template operator()<KlRows<S, true>>("KlRows.Q");
  weighted.template operator()<KlRows<S, false>>("KlRows.H");
  weighted.template operator()<KlE<S>>("KlE");
}

int main() {
  of_type<bf16>("bf16");
  of_type<float>("float");
  of_type<double>("double");
}
