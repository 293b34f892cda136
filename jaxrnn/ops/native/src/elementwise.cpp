// The arithmetic of many arrays of different sizes as one call, such as an optimiser's step: XLA compiles a loop or more
// for every array.

#include <algorithm>
#include <vector>

#include "instruction_set.h"
#include "team.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace jaxrnn {
namespace {

constexpr int64_t kPart = 1 << 14;  // elements that one thread takes at once

// Arrays of one size.
template <class T>
struct Group {
  Elementwise<T> work;
  int64_t size;
};

template <class T>
struct Part {
  const Elementwise<T>* of;
  int64_t begin, end;
};

template <class T, class Pool>
void run_all(Pool& pool, const std::vector<Group<T>>& groups) {
  const auto kernel = program_kernels<T>().elementwise;
  int64_t elements = 0;
  for (const auto& group : groups) elements += group.size;
  if (elements < 4 * kPart || pool.num_threads() < 2 || Team::machine_is_busy()) {
    for (const auto& group : groups) kernel(group.work, 0, group.size);
    return;
  }
  std::vector<Part<T>> parts;
  for (const auto& group : groups) {
    for (int64_t at = 0; at < group.size; at += kPart) {
      parts.push_back({&group.work, at, std::min(at + kPart, group.size)});
    }
  }
  auto body = [&](int i) { kernel(*parts[i].of, parts[i].begin, parts[i].end); };
  auto call = [](void* context, int part) { (*static_cast<decltype(body)*>(context))(part); };
  const int64_t threads = std::min<int64_t>(pool.num_threads(), (int64_t)parts.size());
  Team team((int)threads - 1, [&](auto task) { pool.Schedule(std::move(task)); });
  team.share((int)parts.size(), call, &body);
}

using Integers = ffi::Span<const int64_t>;

// What Python passes: the numbers [n] that all elements share, then as many arrays of every group as the program reads.
// Results are as many as it writes, of every group. `sizes` has the number of elements of the arrays of each group.
// jax.vmap adds axes in front of everything.
template <class T>
void run(ffi::ThreadPool& pool, ffi::RemainingArgs& args, ffi::RemainingRets& rets, const Elementwise<T>& work,
         Integers sizes) {
  const size_t groups = sizes.size(), arrays = (args.size() - 1) / groups, results = rets.size() / groups;
  const auto numbers = *args.get<ffi::AnyBuffer>(0);
  const int64_t runs = args.get<ffi::AnyBuffer>(1)->element_count() / sizes[0];
  std::vector<const T*> in;
  std::vector<T*> out;
  std::vector<Group<T>> all;
  in.reserve(runs * (args.size() - 1)), out.reserve(runs * rets.size());  // so that pointers to them stay valid
  for (int64_t run = 0; run < runs; run++) {
    for (size_t g = 0; g < groups; g++) {
      Group<T>& group = all.emplace_back(Group<T>{work, sizes[g]});
      group.work.numbers = numbers.typed_data<T>() + run * (numbers.element_count() / runs);
      group.work.arrays = in.data() + in.size(), group.work.results = out.data() + out.size();
      group.work.result_count = (int)results;
      const int64_t at = run * sizes[g];
      for (size_t i = 0; i < arrays; i++) {
        in.push_back(args.get<ffi::AnyBuffer>(1 + g * arrays + i)->template typed_data<T>() + at);
      }
      for (size_t i = 0; i < results; i++) {
        out.push_back((*rets.get<ffi::AnyBuffer>(g * results + i))->template typed_data<T>() + at);
      }
    }
  }
  run_all(pool, all);
}

ffi::Error elementwise(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, Integers program,
                       ffi::Span<const double> constants, Integers sizes, int64_t registers, int64_t condition,
                       Integers otherwise) {
  const auto dtype = args.get<ffi::AnyBuffer>(0)->element_type();
  bool alike = dtype == ffi::DataType::F32 || dtype == ffi::DataType::F64;
  for (size_t i = 0; i < args.size(); i++) alike = alike && args.get<ffi::AnyBuffer>(i)->element_type() == dtype;
  for (size_t i = 0; i < rets.size(); i++) alike = alike && (*rets.get<ffi::AnyBuffer>(i))->element_type() == dtype;
  if (!alike) return ffi::Error::InvalidArgument("jaxrnn_elementwise takes arrays of one dtype, float32 or float64");
  const ProgramCode code = program_code(program.begin(), constants.begin(), (int)constants.size());
  auto run_in = [&]<class T>(T) {
    run<T>(pool, args, rets, {code, (int)registers, nullptr, nullptr, nullptr, (int)condition, otherwise.begin(), 0}, sizes);
  };
  dtype == ffi::DataType::F64 ? run_in(double()) : run_in(float());
  return ffi::Error::Success();
}

}  // namespace
}  // namespace jaxrnn

#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxrnn_elementwise, jaxrnn::elementwise,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<ffi::Span<const int64_t>>("program")
                                  .Attr<ffi::Span<const double>>("constants")
                                  .Attr<ffi::Span<const int64_t>>("sizes")
                                  .Attr<int64_t>("registers")
                                  .Attr<int64_t>("condition")
                                  .Attr<ffi::Span<const int64_t>>("otherwise"));

#pragma GCC visibility pop
