// What the tch crate does not bind of libtorch. Every function returns 0, or 1 after leaving words in
// `failure`: no exception may cross into Rust.
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/dot.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/autograd.h>

#include <dlfcn.h>

#include <string>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

using at::Tensor;

namespace {
thread_local std::string failure;

template <class Body>
int guarded(Body body) {
  try {
    body();
    return 0;
  } catch (const c10::Error& error) {
    failure = error.what_without_backtrace();
  } catch (const std::exception& error) {
    failure = error.what();
  } catch (...) {
    failure = "an unknown C++ exception";
  }
  return 1;
}

// Elements that are worked on together where a temporary is needed: few enough for the cache of a CPU.
int64_t stretch(const Tensor& x) { return x.is_cuda() ? int64_t{1} << 26 : int64_t{1} << 18; }

Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor* mask, bool causal, double scale) {
  auto seen = mask ? std::optional<Tensor>(*mask) : std::nullopt;
  return at::scaled_dot_product_attention(q, k, v, seen, 0.0, causal, scale, /*enable_gqa=*/true);
}

Tensor leaf(const Tensor* x) { return x->detach().requires_grad_(true); }
}  // namespace

extern "C" {
const char* spo_failure() { return failure.c_str(); }

int spo_deterministic() {
  return guarded([] { at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/true); });
}

// Loads libtorch's CUDA parts from beside its CPU parts. To be called before anything asks whether there is a
// GPU: libtorch remembers the answer.
int spo_load_cuda() {
  return guarded([] {
    Dl_info self;
    if (!dladdr(reinterpret_cast<void*>(static_cast<at::Context& (*)()>(&at::globalContext)), &self))
      throw std::runtime_error("libtorch does not say where it is");
    const std::string path(self.dli_fname), folder = path.substr(0, path.rfind('/') + 1);
    for (const auto name : {"libc10_cuda.so", "libtorch_cuda.so"})
      if (!dlopen((folder + name).c_str(), RTLD_LAZY)) throw std::runtime_error(dlerror());
  });
}

// glibc returns every large buffer to the system when it is freed, and each next one is paid for page by
// page: a training step allocates the same buffers over and over, so let it keep them.
void spo_keep_memory() {
#if defined(__GLIBC__)
  mallopt(M_ARENA_MAX, 1);
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 512 << 20);
#endif
}

// into <- into + a x
int spo_axpy(Tensor* into, double a, const Tensor* x) {
  return guarded([&] { into->add_(*x, a); });
}

// into <- into + scale a b
int spo_add_product(Tensor* into, double scale, const Tensor* a, const Tensor* b) {
  return guarded([&] { into->addmm_(*a, *b, 1.0, scale); });
}

// <x, y> of two flat tensors: stretches in their own type, their sum in f64.
int spo_dot(const Tensor* x, const Tensor* y, double* out) {
  return guarded([&] {
    auto sum = at::scalar_tensor(0.0, x->options().dtype(at::kDouble));
    const int64_t length = x->numel(), step = stretch(*x);
    for (int64_t first = 0; first < length; first += step) {
      const int64_t count = std::min(step, length - first);
      auto products = x->narrow(0, first, count) * y->narrow(0, first, count);
      const int64_t whole = count / 256 * 256;
      sum += products.narrow(0, 0, whole).view({-1, 256}).sum(1).sum(0, false, at::kDouble);
      sum += products.narrow(0, whole, count - whole).sum(0, false, at::kDouble);
    }
    *out = sum.item<double>();
  });
}

// AdamW on flat tensors. The fused kernel would write a scaled gradient back, so a scaled one is a copy.
int spo_adamw(Tensor* into, const Tensor* gradient, Tensor* first, Tensor* second, double lr, double beta1,
              double beta2, double epsilon, double weight_decay, double gradient_scale, double count) {
  return guarded([&] {
    const auto steps = at::scalar_tensor(count, into->options());
    const int64_t length = into->numel(), step = gradient_scale == 1.0 ? length : stretch(*into);
    for (int64_t from = 0; from < length; from += step) {
      const auto part = [&](const Tensor& x) { return x.narrow(0, from, std::min(step, length - from)); };
      const auto scaled = gradient_scale == 1.0 ? part(*gradient) : part(*gradient) * gradient_scale;
      at::_fused_adamw_({part(*into)}, {scaled}, {part(*first)}, {part(*second)}, {}, {steps}, lr, beta1, beta2,
                        weight_decay, epsilon, /*amsgrad=*/false, /*maximize=*/false);
    }
  });
}

// softmax(scale q k^T) v, each [1, heads, rows, dim]; `mask` may be null.
int spo_attention(const Tensor* q, const Tensor* k, const Tensor* v, const Tensor* mask, int causal, double scale,
                  Tensor** out) {
  return guarded([&] { *out = new Tensor(attend(*q, *k, *v, mask, causal, scale)); });
}

// Its vector-Jacobian product, by autograd over this one operation.
int spo_attention_backward(const Tensor* q, const Tensor* k, const Tensor* v, const Tensor* mask, int causal,
                           double scale, const Tensor* upstream, Tensor** out) {
  return guarded([&] {
    at::AutoGradMode recording(true);
    const auto q0 = leaf(q), k0 = leaf(k), v0 = leaf(v);
    const auto y = attend(q0, k0, v0, mask, causal, scale);
    const auto found = torch::autograd::grad({y}, {q0, k0, v0}, {*upstream});
    for (int i = 0; i < 3; ++i) out[i] = new Tensor(found[i]);
  });
}

// Begins to record what is made of a tensor, or forgets what it was made of.
int spo_watch(Tensor* x, int watched) {
  return guarded([&] {
    if (!watched && x->grad_fn()) x->detach_();
    x->requires_grad_(watched);
  });
}

// Gradients of sum_i <outputs[i], seeds[i]> with respect to the inputs.
int spo_pull_back(Tensor* const* outputs, Tensor* const* seeds, size_t n, Tensor* const* inputs, size_t m,
                  Tensor** out) {
  return guarded([&] {
    torch::autograd::variable_list of, along, with_respect_to;
    for (size_t i = 0; i < n; ++i) {
      // One that was never written to depends on nothing.
      if (!outputs[i]->requires_grad()) continue;
      of.push_back(*outputs[i]);
      along.push_back(*seeds[i]);
    }
    for (size_t i = 0; i < m; ++i) with_respect_to.push_back(*inputs[i]);
    const auto found = of.empty() ? torch::autograd::variable_list(m)
                                  : torch::autograd::grad(of, with_respect_to, along, /*retain_graph=*/false,
                                                          /*create_graph=*/false, /*allow_unused=*/true);
    for (size_t i = 0; i < m; ++i)
      out[i] = new Tensor(found[i].defined() ? found[i] : at::zeros_like(inputs[i]->detach()));
  });
}
}
