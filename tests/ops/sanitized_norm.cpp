// Norms of arrays of several sizes, which end where their memory ends, for the sanitizers of the compiler to watch. Ends
// with 1 where a norm is wrong, or threads change a bit of it.

#include <cmath>
#include <cstdio>
#include <vector>

#include "norm.cpp"
#include "sanitized.h"

using namespace jaxrnn;

namespace {

template <class T>
double norm_with(const std::vector<T>& numbers, int threads) {
  std::vector<Part<T>> parts;
  const int64_t size = numbers.size(), step = size / 5 + 1;
  for (int64_t begin = 0; begin < size; begin += step) {
    parts.push_back({numbers.data() + begin, std::min(step, size - begin)});
  }
  Threads pool{threads, {}};
  const double norm = norm_of(pool, parts);
  for (auto& helper : pool.helpers) helper.join();
  return norm;
}

template <class T>
bool right(int64_t size, double scale) {
  const std::vector<T> numbers(size, (T)scale);
  const double one = norm_with(numbers, 1), several = norm_with(numbers, 3), wanted = scale * std::sqrt((double)size);
  return one == several && std::abs(one - wanted) <= 1e-6 * wanted;
}

}  // namespace

int main() {
  int setups = 0;
  for (const int64_t size : {0, 1, 7, 8, 9, 40, 1000}) {
    for (const double scale : {1.0, 1e30}) {
      if (!right<float>(size, scale) || !right<double>(size, scale * scale * scale * scale * scale * scale)) return 1;
      setups++;
    }
  }
  std::printf("%d setups\n", setups);
  return 0;
}
