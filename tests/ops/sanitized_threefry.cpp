// Encrypts arrays of several sizes, which end where their memory ends, for the sanitizers of the compiler to watch. Ends
// with 1 where a word depends on how many are encrypted with it.

#include <cstdio>
#include <vector>

#include "threefry.cpp"

using namespace jaxrnn;

int main() {
  int setups = 0;
  std::vector<uint32_t> whole[2];
  for (const size_t count : {700, 0, 1, 255, 256, 257, 512}) {
    std::vector<uint32_t> in[4], out[2];
    for (int part = 0; part < 4; part++) {
      for (size_t i = 0; i < count; i++) in[part].push_back(2654435761u * (uint32_t)(4 * i + part + 1));
    }
    for (auto& words : out) words.resize(count);
    encrypt({in[0].data(), in[1].data(), in[2].data(), in[3].data(), out[0].data(), out[1].data()}, count);
    for (int part = 0; part < 2; part++) {
      if (!setups) whole[part] = out[part];
      for (size_t i = 0; i < count; i++) {
        if (out[part][i] != whole[part][i]) return 1;
      }
    }
    // The same of numbers from 0 on, with two keys.
    const uint32_t keys[] = {1, 2, 3, 4};
    std::vector<uint32_t> numbers[2], words[4];
    for (size_t i = 0; i < count; i++) numbers[0].push_back(0), numbers[1].push_back((uint32_t)i);
    for (auto& part : words) part.resize(2 * count);
    encrypt_numbers(keys, 2, count, words[0].data(), words[1].data());
    for (size_t key = 0; key < 2; key++) {
      const std::vector<uint32_t> first(count, keys[2 * key]), second(count, keys[2 * key + 1]);
      encrypt({first.data(), second.data(), numbers[0].data(), numbers[1].data(), words[2].data() + key * count,
               words[3].data() + key * count},
              count);
    }
    if (words[0] != words[2] || words[1] != words[3]) return 1;
    setups++;
  }
  std::printf("%d setups\n", setups);
  return 0;
}
