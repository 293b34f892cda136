// What the programs for the sanitizers share: random arrays, each an allocation of its own of exactly the size that Python
// gives it, so that a read or write past an end is found, a pool of threads, and the comparison of results bit by bit.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <utility>
#include <vector>

using Array = std::unique_ptr<float[]>;

inline std::mt19937 generator(0);

inline Array random(size_t size) {
  Array a(new float[size]);
  std::normal_distribution<float> normal(0, 0.3f);
  for (size_t i = 0; i < size; i++) a[i] = normal(generator);
  return a;
}

inline std::unique_ptr<uint8_t[]> mask(size_t size) {
  std::unique_ptr<uint8_t[]> a(new uint8_t[size]);
  for (size_t i = 0; i < size; i++) a[i] = generator() % 4 == 0;
  return a;
}

// The arrays of a call.
class Arrays {
 public:
  float* in(size_t size) { return given_.emplace_back(random(size)).get(); }

  float* out(size_t size) {
    sizes_.push_back(size);
    return found_.emplace_back(new float[size]).get();
  }

  // Everything that was written, one after the other.
  std::vector<float> results() const {
    std::vector<float> all;
    for (size_t i = 0; i < found_.size(); i++) all.insert(all.end(), found_[i].get(), found_[i].get() + sizes_[i]);
    return all;
  }

 private:
  std::vector<Array> given_, found_;
  std::vector<size_t> sizes_;
};

// In the place of XLA's pool of threads. Its threads must be joined.
struct Threads {
  int number;
  std::vector<std::thread> helpers;

  int64_t num_threads() const { return number; }
  template <class Task>
  void Schedule(Task&& task) {
    helpers.emplace_back(std::forward<Task>(task));
  }
};

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && !std::memcmp(a.data(), b.data(), a.size() * sizeof(float));
}
