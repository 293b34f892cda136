// Runs every cell of the C++ library forward and backward, with one thread and with several that divide the rows, the
// units, or steps and gradients, for the sanitizers of the compiler to watch. Ends with 1 where the threads change a bit
// of a result.

#include <cstdio>
#include <cstdlib>
#include <thread>
#include <utility>
#include <vector>

#include "recurrence.cpp"
#include "sanitized.h"
#include "team.h"

using namespace jaxrnn;

namespace {

struct Shape {
  int time, batch, in_features, hidden;
};

struct Setup {
  Cell cell;
  Shape shape;
  bool masks, inputs, by_rows, reverse, batch_major;
};

// Stages of the call are run by threads of their own, some of which may come late.
void run(void (*kernel)(const Problem<float>&, const Division&), const Problem<float>& p, bool backward, bool by_rows,
         int parts, int step_parts) {
  const size_t size = base::kernels_f32.workspace(p, backward, parts);
  void* workspace = std::aligned_alloc(64, (size + 63) / 64 * 64);
  std::vector<std::thread> threads;
  {
    const bool apart = by_rows && !backward;
    Team team(parts - 1, [&](auto task) { threads.emplace_back(std::move(task)); });
    if (!apart) team.close(std::chrono::microseconds(generator() % 2000));
    auto share = [](void* t, int n, Team::Body body, void* c) { static_cast<Team*>(t)->share(n, body, c); };
    auto each = [](void* t, int n, Team::Body body, void* c) { static_cast<Team*>(t)->each(n, body, c); };
    const int running = backward ? step_parts : parts;
    kernel(p, Division{parts, by_rows, running, true, true, workspace, apart ? share : each, &team});
  }
  for (auto& thread : threads) thread.join();
  std::free(workspace);
}

// All results of a setup, forward and backward, one after the other.
std::vector<float> results(const Setup& s, int parts, int step_parts) {
  generator.seed(1);
  const auto [T, B, D, H] = s.shape;
  const int gates = gates_of(s.cell), recurrent = s.cell == Cell::kGRUBefore ? 2 : gates;
  const bool has_c = s.cell == Cell::kLSTM;
  const int saved = s.cell == Cell::kLSTM ? 5 : s.cell == Cell::kGRU ? 4 : s.cell == Cell::kGRUBefore ? 3
                    : s.cell == Cell::kLeaky ? 1 : 0;
  const size_t own = s.cell == Cell::kLeaky ? H : s.cell == Cell::kGRUBefore ? (size_t)H * H : 0;
  const size_t steps = (size_t)T * B, state = (size_t)B * H, width = (size_t)gates * H;
  Arrays arrays;
  auto in = [&](size_t size) { return arrays.in(size); };
  auto out = [&](size_t size) { return arrays.out(size); };
  Problem<float> p{};
  p.cell = s.cell, p.time = T, p.batch = B, p.hidden = p.row_units = H, p.in_features = s.inputs ? D : 0;
  p.reverse = s.reverse, p.batch_major = s.batch_major;
  if (s.inputs) p.x = in(steps * D), p.kernel = in(D * width), p.bias = in(width);
  if (!s.inputs) p.xw = in(steps * width);
  p.recurrent_kernel = in((size_t)H * recurrent * H), p.recurrent_bias = in((size_t)recurrent * H);
  if (own) p.cell_param = in(own);
  if (has_c) p.c = in(state);
  p.h = in(state);
  const auto valid = mask(steps), resets = mask(steps);
  if (s.masks) {
    p.scale = in(state), p.valid = valid.get(), p.resets = resets.get(), p.reset_h = in(state);
    if (has_c) p.reset_c = in(state);
  }
  p.y = out(steps * H), p.last_h = out(state);
  if (saved) p.saved = out(steps * saved * H);
  if (has_c) p.last_c = out(state);
  run(base::kernels_f32.forward, p, false, s.by_rows, parts, step_parts);
  p.dlast_h = in(state), p.dy = in(steps * H), p.dh = out(state);
  if (has_c) p.dlast_c = in(state), p.dc = out(state);
  if (s.masks) {
    p.dreset_h = out(state);
    if (has_c) p.dreset_c = out(state);
  }
  if (s.inputs) p.dx = out(steps * D), p.dkernel = out(D * width), p.dbias = out(width);
  if (!s.inputs) p.dxw = out(steps * width);
  p.drecurrent_kernel = out((size_t)H * recurrent * H), p.drecurrent_bias = out((size_t)recurrent * H);
  if (own) p.dcell_param = out(own);
  run(base::kernels_f32.backward, p, true, s.by_rows, parts, step_parts);
  return arrays.results();
}

}  // namespace

int main() {
  int number = 0, wrong = 0;
  for (int cell = 0; cell <= 6; cell++) {
    for (const Shape& shape : {Shape{5, 7, 3, 19}, Shape{3, 1, 2, 37}, Shape{40, 9, 1, 8}, Shape{300, 1, 2, 5}}) {
      for (int options = 0; options < 4; options++, number++) {
        const bool by_rows = options & 1;
        const Setup s{Cell(cell), shape, number % 3 == 0, number % 5 < 3, by_rows, number % 4 == 0, number % 7 < 3};
        const std::vector<float> expected = results(s, 1, 1);
        for (const auto [parts, step_parts] : {std::pair{2, 2}, {3, 3}, {2, 1}, {3, 1}}) {
          if (!by_rows && step_parts < parts) continue;
          if (same_bits(results(s, parts, step_parts), expected)) continue;
          std::printf("cell %d, hidden %d, setup %d: %d threads, %d of them for steps, change the bits\n", cell,
                      shape.hidden, number, parts, step_parts);
          wrong++;
        }
      }
    }
  }
  std::printf("%d setups\n", number);
  return wrong > 0;
}
