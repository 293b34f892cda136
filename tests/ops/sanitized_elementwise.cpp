// A step of gradient descent with momentum on arrays of several sizes, which end where their memory ends, for the
// sanitizers of the compiler to watch. Ends with 1 where a number is wrong, or threads change a bit of it.

#include <cmath>
#include <cstdio>
#include <vector>

#include "programs.cpp"

// The driver is compiled without the other functions for doubles.
namespace jaxrnn::JAXRNN_ISA {
extern const ProgramKernels<double> program_kernels_f64{nullptr, nullptr, nullptr, elementwise<double>};
}

#include "elementwise.cpp"
#include "sanitized.h"

using namespace jaxrnn;

namespace {

// momentum' = momentum * 0.9 + gradient, then params' = params - rate * momentum'.
enum { kGradient, kMomentum, kParams };
const OperandName kOperands[] = {{Place::kArray, kGradient}, {Place::kArray, kMomentum}, {Place::kArray, kParams},
                                 {Place::kConstant, 0},      {Place::kNumber, 0},        {Place::kRegister, 0},
                                 {Place::kResult, 0},        {Place::kResult, 1}};
constexpr int64_t kSub = 2, kMul = 3, kFma = 10;
const Instruction kInstructions[] = {{kFma, 6, 1, 3, 0, 0}, {kMul, 5, 6, 4, 4, 0}, {kSub, 7, 2, 5, 5, 0}};
const double kConstants[] = {0.9};
const int64_t kOtherwise[] = {kMomentum, kParams};

// Momentum and parameters of all sizes after a step, which may be written over the old ones.
template <class T>
std::vector<T> step(const std::vector<int64_t>& sizes, bool taken, bool in_place, int threads) {
  const ProgramCode code{8, 3, kOperands, kInstructions, kConstants, 1};
  const T numbers[] = {(T)0.1, (T)taken};
  std::vector<std::vector<T>> arrays, results;
  std::vector<const T*> in;
  std::vector<T*> out;
  for (const int64_t size : sizes) {
    for (int i = 0; i < 3; i++) {
      auto& array = arrays.emplace_back(size);
      for (int64_t j = 0; j < size; j++) array[j] = (T)std::sin((double)(j + i));
    }
    for (int i = 0; i < 2; i++) results.emplace_back(size, (T)NAN);
  }
  for (size_t g = 0; g < sizes.size(); g++) {
    for (int i = 0; i < 3; i++) in.push_back(arrays[3 * g + i].data());
    for (int i = 0; i < 2; i++) out.push_back((in_place ? arrays[3 * g + 1 + i] : results[2 * g + i]).data());
  }
  std::vector<Group<T>> groups;
  for (size_t g = 0; g < sizes.size(); g++) {
    groups.push_back({{code, 1, numbers, in.data() + 3 * g, out.data() + 2 * g, 1, kOtherwise, 2}, sizes[g]});
  }
  Threads pool{threads, {}};
  run_all(pool, groups);
  for (auto& helper : pool.helpers) helper.join();
  std::vector<T> all;
  for (size_t g = 0; g < sizes.size(); g++) {
    for (int i = 0; i < 2; i++) all.insert(all.end(), out[2 * g + i], out[2 * g + i] + sizes[g]);
  }
  return all;
}

template <class T>
bool right(const std::vector<int64_t>& sizes, bool taken, bool in_place) {
  const std::vector<T> one = step<T>(sizes, taken, in_place, 1), several = step<T>(sizes, taken, in_place, 3);
  if (one != several) return false;
  size_t at = 0;
  for (const int64_t size : sizes) {
    for (int64_t j = 0; j < size; j++) {
      const double gradient = std::sin((double)j), old = std::sin((double)(j + 1)), params = std::sin((double)(j + 2));
      const double momentum = taken ? 0.9 * old + gradient : old;
      const double wanted[] = {momentum, taken ? params - 0.1 * momentum : params};
      for (int i = 0; i < 2; i++) {
        if (!(std::abs((double)one[at + i * size + j] - wanted[i]) <= 1e-6)) return false;
      }
    }
    at += 2 * size;
  }
  return true;
}

}  // namespace

int main() {
  const std::vector<int64_t> all_sizes[] = {{1}, {3, 16, 512}, {513, 1, 1037}, {20000, 7}, {70001, 300, 5}};
  int setups = 0;
  for (const auto& sizes : all_sizes) {
    for (const bool taken : {true, false}) {
      for (const bool in_place : {true, false}) {
        if (!right<float>(sizes, taken, in_place) || !right<double>(sizes, taken, in_place)) return 1;
        setups++;
      }
    }
  }
  std::printf("%d setups\n", setups);
  return 0;
}
