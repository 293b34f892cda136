// The norm of all numbers of many arrays. XLA compiles up to three loops for every array: of a step of Adam for a small
// model, a third of all its loops. Sums are in double precision: squares of float32 do not overflow there.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "team.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace jaxrnn {
namespace {

constexpr int kLanes = 8;           // partial sums, so that the compiler makes vectors of them
constexpr int64_t kPart = 1 << 16;  // numbers that one thread takes at once

template <class T>
double sum_of_squares(const T* x, int64_t size, double scale) {
  double sums[kLanes] = {}, sum = 0;
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (int lane = 0; lane < kLanes; lane++) {
      const double number = x[i + lane] * scale;
      sums[lane] += number * number;
    }
  }
  for (; i < size; i++) sum += x[i] * scale * (x[i] * scale);
  for (const double lane : sums) sum += lane;
  return sum;
}

template <class T>
struct Part {
  const T* x;
  int64_t size;
};

// The parts do not depend on the number of threads, and neither do the bits of their sum.
template <class T, class Pool>
double sum_of_squares(Pool& pool, const std::vector<Part<T>>& parts, double scale) {
  std::vector<double> sums(parts.size());
  auto body = [&](int part) { sums[part] = sum_of_squares(parts[part].x, parts[part].size, scale); };
  auto call = [](void* context, int part) { (*static_cast<decltype(body)*>(context))(part); };
  const int64_t threads = parts.size() < 4 || Team::machine_is_busy() ? 1 : pool.num_threads();
  Team team((int)std::min<int64_t>(threads, parts.size()) - 1, [&](auto task) { pool.Schedule(std::move(task)); });
  team.share((int)parts.size(), call, &body);
  double sum = 0;
  for (const double part : sums) sum += part;
  return sum;
}

template <class T, class Pool>
double norm_of(Pool& pool, const std::vector<Part<T>>& parts) {
  const double sum = sum_of_squares(pool, parts, 1);
  if (sizeof(T) == 4 || std::isfinite(sum)) return std::sqrt(sum);
  double largest = 0;  // squares of float64 may overflow
  for (const auto& part : parts) {
    for (int64_t i = 0; i < part.size; i++) {
      const double size = std::abs((double)part.x[i]);
      if (!std::isfinite(size)) return size;
      largest = std::max(largest, size);
    }
  }
  return largest * std::sqrt(sum_of_squares(pool, parts, 1 / largest));
}

// jax.vmap adds axes in front of every array, of which the result has no others.
template <class T>
void norms(ffi::ThreadPool& pool, ffi::RemainingArgs arrays, ffi::AnyBuffer& result) {
  const int64_t runs = result.element_count();
  for (int64_t run = 0; run < runs; run++) {
    std::vector<Part<T>> parts;
    for (size_t i = 0; i < arrays.size(); i++) {
      const auto array = *arrays.get<ffi::AnyBuffer>(i);
      const int64_t size = array.element_count() / runs;
      const T* x = array.typed_data<T>() + run * size;
      for (int64_t begin = 0; begin < size; begin += kPart) parts.push_back({x + begin, std::min(kPart, size - begin)});
    }
    result.typed_data<T>()[run] = (T)norm_of(pool, parts);
  }
}

ffi::Error norm(ffi::ThreadPool pool, ffi::RemainingArgs arrays, ffi::Result<ffi::AnyBuffer> result) {
  if (result->element_type() == ffi::DataType::F64) {
    norms<double>(pool, arrays, *result);
  } else {
    norms<float>(pool, arrays, *result);
  }
  return ffi::Error::Success();
}

}  // namespace
}  // namespace jaxrnn

#pragma GCC visibility push(default)

// Any number of arrays of one dtype, float32 or float64, which is also that of the result.
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxrnn_norm, jaxrnn::norm,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().RemainingArgs().Ret<ffi::AnyBuffer>());

#pragma GCC visibility pop
