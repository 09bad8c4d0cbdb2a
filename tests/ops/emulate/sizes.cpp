// Prints for each kernel its op, its type, its columns, the bytes of shared memory that its launch asks for, and the
// bytes that each chunk of X takes if X stays in shared memory. Part of `make cuda-check`.
#include <cstdio>

#include "rank_counts.cu"
#include "soft_embed.cu"
#include "soft_kl.cu"

using namespace foster::cuda;

template <class S, class Op, int kColumns>
void print(const char* op, const char* type) {
  using M = SharedLayout<S, Op, kColumns>;
  std::printf("%s %s %d %d %d\n", op, type, kColumns, M::bytes, Op::kProducts * M::panel);
}

template <class S>
void print_type(const char* type) {
  print<S, KlForward<S>, 0>("KlForward", type);
  print<S, Rank<S>, 0>("Rank", type);
  const auto with_output = [&]<class Op>(const char* op) {
    print<S, Op, 128>(op, type);
    if constexpr (sizeof(S) < 8) print<S, Op, 384>(op, type);
  };
  with_output.template operator()<EmbedForward<S>>("EmbedForward");
  with_output.template operator()<EmbedBackwardQ<S>>("EmbedBackwardQ");
  with_output.template operator()<EmbedBackwardE<S>>("EmbedBackwardE");
  with_output.template operator()<KlBackwardRows<S, true>>("KlBackwardRows.Q");
  with_output.template operator()<KlBackwardRows<S, false>>("KlBackwardRows.H");
  with_output.template operator()<KlBackwardE<S>>("KlBackwardE");
}

int main() {
  print_type<bf16>("bf16");
  print_type<float>("float");
  print_type<double>("double");
}
