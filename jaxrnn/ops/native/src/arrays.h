// The arrays of a call, as XLA passes them.
//
// jax.vmap over a call adds an axis in front of every array: its size is the number of runs, or 1 for an argument that
// all runs share. Several vmaps add several. The library then runs them all in this one call.

#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace jaxrnn {

// The first write to each new page of memory costs an interrupt, so large pages, which are fewer, are faster.
inline void ask_for_large_pages(void* begin, size_t bytes) {
#if defined(MADV_HUGEPAGE)
  const uintptr_t page = 2 << 20, from = (uintptr_t)begin / page * page;
  const uintptr_t to = ((uintptr_t)begin + bytes + page - 1) / page * page;
  if (begin && bytes > 2 * page) madvise((void*)from, to - from, MADV_HUGEPAGE);
#endif
}

// The arrays of one run; of the first one at the beginning. An empty array means that there is none.
template <class T>
class Arrays {
 public:
  // `result` is the number of a result that has `rank` axes in a call without vmap.
  Arrays(ffi::RemainingArgs args, ffi::RemainingRets rets, size_t result, size_t rank) : args_(args), rets_(rets) {
    const auto sizes = (*rets.get<ffi::AnyBuffer>(result))->dimensions();
    added_.assign(sizes.begin(), sizes.end() - rank);
  }

  int64_t runs() const {
    int64_t count = 1;
    for (const int64_t size : added_) count *= size;
    return count;
  }

  Arrays of_run(int64_t run) const {
    Arrays one = *this;
    one.run_ = run;
    return one;
  }

  const T* in(size_t i) const {
    const auto buffer = *args_.get<ffi::AnyBuffer>(i);
    const Place place = place_in(buffer);
    return place.numbers ? (const T*)((const char*)buffer.untyped_data() + place.begin) : nullptr;
  }

  T* out(size_t i) const {
    auto buffer = *rets_.get<ffi::AnyBuffer>(i);
    const Place place = place_in(*buffer);
    if (!place.numbers) return nullptr;
    char* data = (char*)buffer->untyped_data() + place.begin;
    ask_for_large_pages(data, place.bytes);
    return (T*)data;
  }

  int64_t in_size(size_t i) const { return place_in(*args_.get<ffi::AnyBuffer>(i)).numbers; }
  int64_t out_size(size_t i) const { return place_in(**rets_.get<ffi::AnyBuffer>(i)).numbers; }

 private:
  struct Place {
    int64_t begin, bytes, numbers;  // where the run's part begins, in bytes, and its size
  };

  Place place_in(const ffi::AnyBuffer& buffer) const {
    const auto sizes = buffer.dimensions();
    int64_t place = 0, parts = 1;
    // The last axis changes fastest from run to run.
    for (size_t axis = added_.size(), rest = run_; axis-- > 0; rest /= added_[axis]) {
      if (sizes[axis] > 1) place += parts * (int64_t)(rest % added_[axis]);
      parts *= sizes[axis];
    }
    const int64_t bytes = buffer.size_bytes() / parts;
    return {place * bytes, bytes, (int64_t)buffer.element_count() / parts};
  }

  ffi::RemainingArgs args_;
  ffi::RemainingRets rets_;
  std::vector<int64_t> added_;
  int64_t run_ = 0;
};

}  // namespace jaxrnn
