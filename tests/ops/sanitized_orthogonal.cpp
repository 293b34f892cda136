// Makes the columns of matrices of several sizes orthonormal, which end where their memory ends, for the sanitizers of the
// compiler to watch. Ends with 1 where columns are not orthonormal.

#include <cmath>
#include <cstdio>
#include <vector>

#include "orthogonal.cpp"

using namespace jaxrnn;

int main() {
  int setups = 0;
  for (const int64_t rows : {1, 7, 8, 9, 33}) {
    for (const int64_t columns : {1, 2, 7, 9, 33}) {
      if (columns > rows) continue;
      std::vector<float> z, q(rows * columns);
      for (int64_t i = 0; i < rows * columns; i++) z.push_back(std::sin((float)(i * i + 1)));
      orthonormalize(z.data(), q.data(), rows, columns);
      for (int64_t a = 0; a < columns; a++) {
        for (int64_t b = 0; b < columns; b++) {
          double product = 0;
          for (int64_t row = 0; row < rows; row++) product += (double)q[row * columns + a] * q[row * columns + b];
          if (std::abs(product - (a == b)) > 1e-6) return 1;
        }
      }
      setups++;
    }
  }
  std::printf("%d setups\n", setups);
  return 0;
}
