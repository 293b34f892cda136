// Runs linear recurrences of the C++ library forward and backward, in every form, with one thread and with several, for
// the sanitizers of the compiler to watch. Ends with 1 where the threads, or results that are written past the caches,
// change a bit of a result.

#include <cstdio>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "linear.cpp"
#include "sanitized.h"
#include "team.h"

using namespace jaxrnn;

namespace {

struct Shape {
  int64_t time, rows, channels;
};

struct Setup {
  Shape shape;
  bool is_complex, reverse, batch_major, masks, a_has_time, a_has_rows, of_a;
};

// Parts of the call are run by threads of their own, some of which may come late.
void run(void (*kernel)(const LinearProblem<float>&, const LinearTile&), const LinearProblem<float>& p,
         bool batch_major, int threads) {
  const auto tiles = tiles_of(p.rows, p.width, batch_major, 64 / sizeof(float), threads);
  auto body = [&](int part) { kernel(p, tiles[part]); };
  auto call = [](void* context, int part) { (*static_cast<decltype(body)*>(context))(part); };
  std::vector<std::thread> helpers;
  {
    Team team(threads - 1, [&](auto task) { helpers.emplace_back(std::move(task)); });
    team.share((int)tiles.size(), call, &body);
  }
  for (auto& helper : helpers) helper.join();
}

// All results of a setup, forward and backward, one after the other.
std::vector<float> results(const Setup& s, int threads, bool streams) {
  generator.seed(1);
  const auto [time, rows, channels] = s.shape;
  LinearProblem<float> p{};
  p.time = time, p.rows = rows, p.width = s.is_complex ? 2 * channels : channels;
  p.reverse = s.reverse, p.is_complex = s.is_complex, p.streams = streams;
  p.step = s.batch_major ? p.width : rows * p.width;
  p.row = s.batch_major ? time * p.width : p.width;
  p.a_step = s.a_has_time ? (s.batch_major || !s.a_has_rows ? p.width : rows * p.width) : 0;
  p.a_row = s.a_has_rows ? (s.batch_major && s.a_has_time ? time * p.width : p.width) : 0;
  p.resets_step = s.batch_major ? 1 : rows, p.resets_row = s.batch_major ? time : 1;
  const int64_t steps = time * rows * p.width, state = rows * p.width;
  const int64_t of_a = (s.a_has_time ? time : 1) * (s.a_has_rows ? rows : 1) * p.width;
  Arrays arrays;
  auto in = [&](size_t size) { return arrays.in(size); };
  auto out = [&](size_t size) { return arrays.out(size); };
  p.a = in(of_a), p.b = in(steps), p.initial = in(state), p.dh = in(steps);
  const std::unique_ptr<int32_t[]> lengths(new int32_t[rows]);
  for (int64_t row = 0; row < rows; row++) lengths[row] = (int32_t)(generator() % (time + 1));
  const auto resets = mask(time * rows);
  if (s.masks) p.lengths = lengths.get(), p.resets = resets.get(), p.reset = in(state), p.dreset = out(state);
  p.h = out(steps), p.db = out(steps), p.dinitial = out(state);
  if (s.of_a) p.da = out(s.a_has_time ? steps : state);
  run(base::linear_f32.forward, p, s.batch_major, threads);
  run(base::linear_f32.backward, p, s.batch_major, threads);
  return arrays.results();
}

}  // namespace

int main() {
  int number = 0, wrong = 0;
  for (const Shape& shape : {Shape{9, 3, 21}, Shape{1, 1, 1}, Shape{140, 1, 40}, Shape{2, 2, 2053}}) {
    for (int options = 0; options < 32; options++, number++) {
      const bool masks = options & 8;
      const Setup s{shape, bool(options & 1), bool(options & 2), bool(options & 4), masks, bool(options & 16),
                    number % 3 > 0, number % 5 > 0};
      const std::vector<float> expected = results(s, 1, false);
      for (const auto& [threads, streams] : {std::pair{2, false}, {3, false}, {1, true}}) {
        if (same_bits(results(s, threads, streams), expected)) continue;
        std::printf("setup %d: %d threads%s change the bits\n", number, threads, streams ? " past the caches" : "");
        wrong++;
      }
    }
  }
  std::printf("%d setups\n", number);
  return wrong > 0;
}
