// Runs the layers of the C++ library that only compute outputs, with weights in float32 and int8, in every form, with one
// thread and with several, for the sanitizers of the compiler to watch. Ends with 1 where the threads, or rows of the
// state in another order, change a bit of a result.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "inference.cpp"
#include "layers.cpp"
#include "sanitized.h"

using namespace jaxrnn;

namespace {

struct Shape {
  int time, batch, in_features, hidden;
};

struct Setup {
  Shape shape;
  Cell cell;
  bool quantized, reverse, batch_major, masks, outputs;
};

std::vector<int8_t> integers_of(size_t size) {
  std::vector<int8_t> a(size);
  for (int8_t& v : a) v = (int8_t)(generator() % 255 - 127);
  return a;
}

// The outputs of a setup and its last states, in the order of the batch. `turned`: row b of the batch has row
// batch - 1 - b of a state with one row more than the batch.
std::vector<float> results(const Setup& s, int threads, bool turned) {
  generator.seed(1);
  const auto [time, batch, in_features, hidden] = s.shape;
  const int width = hidden * gates_of(s.cell), rows = batch + turned;
  const bool has_c = s.cell == Cell::kLSTM;
  Arrays arrays;
  std::vector<int8_t> kernel, recurrent;
  Layer l{};
  l.cell = s.cell, l.quantized = s.quantized, l.in_features = in_features, l.hidden = hidden;
  l.bias = arrays.in(width);
  if (s.cell == Cell::kGRU) l.recurrent_bias = arrays.in(width);
  if (s.cell == Cell::kLeaky) l.leak = arrays.in(hidden);
  if (s.quantized) {
    kernel = integers_of((size_t)in_features * width), recurrent = integers_of((size_t)hidden * width);
    l.kernel = kernel.data(), l.recurrent_kernel = recurrent.data();
    l.kernel_scale = arrays.in(width), l.recurrent_scale = arrays.in(width);
  } else {
    l.kernel = arrays.in((size_t)in_features * width), l.recurrent_kernel = arrays.in((size_t)hidden * width);
  }
  Sequences q{};
  q.time = time, q.batch = batch, q.reverse = s.reverse, q.batch_major = s.batch_major;
  const size_t state = (size_t)batch * hidden;
  q.x = arrays.in((size_t)time * batch * in_features);
  const float *c = arrays.in(state), *h = arrays.in(state);
  const auto valid = mask((size_t)time * batch), resets = mask((size_t)time * batch);
  if (s.masks) {
    q.valid = valid.get(), q.resets = resets.get(), q.reset_h = arrays.in(state);
    if (has_c) q.reset_c = arrays.in(state);
  }
  const size_t steps = s.outputs ? (size_t)time * batch * hidden : 0;
  if (s.outputs) q.y = arrays.out(steps);
  std::vector<int32_t> index(batch);
  for (int b = 0; b < batch; b++) index[b] = turned ? batch - 1 - b : b;
  if (turned) q.index = index.data();
  std::vector<float> of_c((size_t)rows * hidden), of_h((size_t)rows * hidden);
  for (int b = 0; b < batch; b++) {
    std::copy_n(c + (size_t)b * hidden, hidden, of_c.data() + (size_t)index[b] * hidden);
    std::copy_n(h + (size_t)b * hidden, hidden, of_h.data() + (size_t)index[b] * hidden);
  }
  q.h = of_h.data();
  if (has_c) q.c = of_c.data();

  const Memory memory = packed(l);
  std::vector<std::thread> helpers;
  if (!memory || !run(l, q, threads, [&](auto task) { helpers.emplace_back(std::move(task)); })) std::abort();
  for (auto& helper : helpers) helper.join();

  std::vector<float> all = arrays.results();
  for (int b = 0; b < batch; b++) {
    for (const auto* part : {&of_c, &of_h}) {
      const float* row = part->data() + (size_t)index[b] * hidden;
      all.insert(all.end(), row, row + hidden);
    }
  }
  return all;
}

// A step by the functions that Python calls, which pack the weights once and start threads of their own.
bool step_of_own_layer(int threads) {
  generator.seed(2);
  constexpr int kBatch = 200, kIn = 3, kHidden = 72, kWidth = 4 * kHidden;
  Arrays arrays;
  void* layer = jaxrnn_layer((int)Cell::kLSTM, 0, kIn, kHidden, arrays.in(kIn * kWidth), nullptr, arrays.in(kWidth),
                             arrays.in(kHidden * kWidth), nullptr, nullptr, nullptr);
  const float* x = arrays.in(kBatch * kIn);
  std::vector<float> found[2];
  for (int i = 0; i < 2; i++) {
    std::vector<float> c(kBatch * kHidden), h(kBatch * kHidden), y(kBatch * kHidden);
    for (int s = 0; s < 3; s++) {
      jaxrnn_layer_step(layer, i ? threads : 1, kBatch, x, c.data(), h.data(), nullptr, y.data());
    }
    found[i] = y;
  }
  jaxrnn_layer_free(layer);
  return same_bits(found[0], found[1]);
}

}  // namespace

int main() {
  int number = 0, wrong = 0;
  const Cell cells[] = {Cell::kTanh, Cell::kRelu, Cell::kSigmoid, Cell::kLSTM, Cell::kGRU, Cell::kLeaky};
  for (const Shape& shape : {Shape{3, 1, 1, 5}, Shape{4, 50, 3, 19}, Shape{2, 13, 5, 40}, Shape{24, 100, 3, 40}}) {
    for (const Cell cell : cells) {
      for (int options = 0; options < 8; options++, number++) {
        const Setup s{shape, cell, bool(options & 1), bool(options & 2), number % 3 > 0, bool(options & 4), number % 5 > 0};
        const std::vector<float> expected = results(s, 1, false);
        for (const auto& [threads, turned] : {std::pair{3, false}, {1, true}}) {
          if (same_bits(results(s, threads, turned), expected)) continue;
          std::printf("setup %d: %d threads%s change the bits\n", number, threads, turned ? " in another order" : "");
          wrong++;
        }
      }
    }
  }
  if (!step_of_own_layer(3)) std::printf("threads of the layer's own change the bits\n"), wrong++;
  std::printf("%d setups\n", number);
  return wrong > 0;
}
