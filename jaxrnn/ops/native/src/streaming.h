// A layer that takes one step at a time.

#pragma once

namespace jaxrnn {

class Stream {
 public:
  virtual ~Stream() = default;
  // A step from a carry to a new one, which must not overlap it. The parts of a carry, [batch, hidden] each, follow each
  // other, the hidden state last. After the new carry comes the output, unless it is the hidden state.
  virtual void step(const void* x, const void* carry, void* new_carry) = 0;
};

}  // namespace jaxrnn
