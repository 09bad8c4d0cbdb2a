// The schemas of the ops, and the Python module. autograd.cpp has their gradients, foster_cli/ops/ their fake kernels.
#include <Python.h>

#include "ops.h"

TORCH_LIBRARY(foster, m) {
  m.def("soft_embed(Tensor Q, Tensor V, Tensor E, bool save_scores=False) -> (Tensor, Tensor, Tensor)");
  m.def(
      "soft_embed_backward(Tensor grad, Tensor Q, Tensor V, Tensor E, Tensor X, Tensor lse, Tensor saved, bool need_Q, "
      "bool need_E) -> (Tensor, Tensor)");
  m.def(
      "soft_kl(Tensor Q, Tensor V, Tensor H, Tensor E, bool save_scores=False) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "soft_kl_backward(Tensor grad, Tensor Q, Tensor V, Tensor H, Tensor E, Tensor mean_diff, Tensor lse_Q, "
      "Tensor lse_H, Tensor saved, bool need_Q, bool need_H, bool need_E) -> (Tensor, Tensor, Tensor)");
  m.def(
      "softmax_ce(Tensor H, Tensor E, Tensor target, Tensor? correction=None, bool gradients=False) "
      "-> (Tensor, Tensor, Tensor)");
  m.def(
      "rank_counts(Tensor H, Tensor E, Tensor target, Tensor? seen_items=None, Tensor? seen_offsets=None) "
      "-> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(foster, CPU, m) {
  m.impl("soft_embed", &foster::cpu::soft_embed);
  m.impl("soft_embed_backward", &foster::cpu::soft_embed_backward);
  m.impl("soft_kl", &foster::cpu::soft_kl);
  m.impl("soft_kl_backward", &foster::cpu::soft_kl_backward);
  m.impl("softmax_ce", &foster::cpu::softmax_ce);
  m.impl("rank_counts", &foster::cpu::rank_counts);
}

// `import foster_cli._C` loads this library, which defines the ops under torch.ops.foster.
PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
