// Runs programs of the C++ library forward and backward, with one thread and with several that divide the rows, the
// units, or steps and gradients, for the sanitizers of the compiler to watch, as sanitized.cpp does for the built-in
// cells. The programs are in `programs.inc`, which the test writes. Ends with 1 where the threads change a bit of a
// result.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#if defined(JAXRNN_TILES)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "programs.cpp"
#include "sanitized.h"
#include "team.h"

using namespace jaxrnn;

namespace {

struct Encoded {
  const char* name;
  int hidden, gates, recurrent_gates, saved, derived, sums;
  std::vector<int64_t> carry_slots, summed, shared;
  int registers[2], row_registers[2];  // forward, backward
  std::vector<int64_t> program[2];
  std::vector<double> constants[2];
};

const Encoded kPrograms[] = {
#include "programs.inc"
};

struct Shape {
  int time, batch, in_features;
};

struct Setup {
  const Encoded& cell;
  Shape shape;
  bool masks, inputs, reverse, batch_major;
};

void run(void (*kernel)(const ProgramProblem<float>&, const Division&), ProgramProblem<float>& p, const Encoded& e,
         bool backward, int parts, int step_parts, bool by_units) {
  const auto& program = e.program[backward];
  p.registers = e.registers[backward], p.row_registers = e.row_registers[backward];
  p.code.operand_count = (int)program[0], p.code.instruction_count = (int)program[1];
  p.code.operands = reinterpret_cast<const OperandName*>(program.data() + 2);
  p.code.instructions = reinterpret_cast<const Instruction*>(program.data() + 2 + 2 * program[0]);
  p.code.constants = e.constants[backward].data(), p.code.constant_count = (int)e.constants[backward].size();
  const size_t size = JAXRNN_ISA::program_kernels_f32.workspace(p, backward, parts);
  void* workspace = std::aligned_alloc(64, (size + 63) / 64 * 64);
  std::memset(workspace, 0xff, size);  // NaN, so that a number that nobody wrote is seen in the results
  std::vector<std::thread> threads;
  {
    Team team(parts - 1, [&](auto task) { threads.emplace_back(std::move(task)); });
    const bool apart = !backward && !by_units;
    const auto patience = generator() % 2000;  // drawn in any case, so that what is drawn after it is the same
    if (!apart) team.close(std::chrono::microseconds(patience));
    auto share = [](void* t, int n, Team::Body body, void* c) { static_cast<Team*>(t)->share(n, body, c); };
    auto each = [](void* t, int n, Team::Body body, void* c) { static_cast<Team*>(t)->each(n, body, c); };
    const int running = backward ? step_parts : parts;
    kernel(p, Division{parts, !by_units, running, true, true, workspace, apart ? share : each, &team});
  }
  for (auto& thread : threads) thread.join();
  std::free(workspace);
}

// All results of a setup, forward and backward, one after the other.
std::vector<float> results(const Setup& s, int parts, int step_parts, bool by_units) {
  generator.seed(1);
  const auto [T, B, D] = s.shape;
  const Encoded& e = s.cell;
  const size_t H = e.hidden, steps = (size_t)T * B, state = B * H, width = e.gates * H, rows = e.recurrent_gates * H;
  const int carries = (int)e.carry_slots.size();
  Arrays arrays;
  auto in = [&](size_t size) { return arrays.in(size); };
  auto out = [&](size_t size) { return arrays.out(size); };
  std::vector<const float*> carry, reset, dlast;
  std::vector<float*> last, dcarry, dreset;
  ProgramProblem<float> p{};
  p.time = T, p.batch = B, p.hidden = p.row_units = e.hidden, p.in_features = s.inputs ? D : 0;
  p.reverse = s.reverse, p.batch_major = s.batch_major;
  p.gates = e.gates, p.recurrent_gates = e.recurrent_gates, p.carries = carries, p.saved_count = e.saved;
  p.derived_count = e.derived, p.sum_count = e.sums;
  p.carry_slots = e.carry_slots.data(), p.summed = e.summed.data(), p.shared = e.shared.data();
  if (s.inputs) p.x = in(steps * D), p.kernel = in(D * width), p.bias = in(width);
  if (!s.inputs) p.xw = in(steps * width);
  p.recurrent_kernel = in(H * rows), p.recurrent_bias = in(rows), p.derived = in(e.derived * H);
  const auto valid = mask(steps), resets = mask(steps);
  if (s.masks) p.scale = in(state), p.valid = valid.get(), p.resets = resets.get();
  for (int i = 0; i < carries; i++) {
    carry.push_back(in(state)), reset.push_back(in(state)), dlast.push_back(in(state));
    last.push_back(out(state)), dcarry.push_back(out(state));
    if (s.masks) dreset.push_back(out(state));
  }
  p.carry = carry.data(), p.reset_carry = reset.data(), p.last_carry = last.data();
  p.y = out(steps * H);
  const size_t saved = steps * e.saved * p.pitch();  // not all of it is written
  const Array of_saved = random(saved);
  p.saved = of_saved.get();
  run(JAXRNN_ISA::program_kernels_f32.forward, p, e, false, parts, step_parts, by_units);
  p.dlast_carry = dlast.data(), p.dy = in(steps * H), p.dcarry = dcarry.data(), p.dreset_carry = dreset.data();
  if (s.inputs) p.dx = out(steps * D), p.dkernel = out(D * width), p.dbias = out(width);
  if (!s.inputs) p.dxw = out(steps * width);
  p.drecurrent_kernel = out(H * rows), p.drecurrent_bias = out(rows), p.sums = out(e.sums * H);
  run(JAXRNN_ISA::program_kernels_f32.backward, p, e, true, parts, step_parts, by_units);
  return arrays.results();
}

}  // namespace

int main() {
#if defined(JAXRNN_TILES)
  if (syscall(SYS_arch_prctl, 0x1023, 18)) return 2;  // as find_tiles in instruction_set.h
#endif
  int number = 0, wrong = 0;
  for (const Encoded& cell : kPrograms) {
    for (const Shape& shape : {Shape{5, 7, 3}, Shape{3, 1, 2}, Shape{40, 9, 1}, Shape{300, 1, 2}, Shape{2, 70, 5}}) {
      for (int options = 0; options < 2; options++, number++) {
        const Setup s{cell, shape, number % 3 == 0, number % 5 < 3, number % 4 == 0, number % 7 < 3};
        const std::vector<float> expected = results(s, 1, 1, false);
        if (!std::all_of(expected.begin(), expected.end(), [](float x) { return std::isfinite(x); })) {
          std::printf("%s, hidden %d, setup %d: a result is not finite\n", cell.name, cell.hidden, number);
          wrong++;
        }
        struct Way {
          int parts, step_parts;
          bool by_units;
          const char* name;
        };
        for (const auto [parts, step_parts, by_units, name] :
             {Way{2, 2, false, "rows"}, Way{3, 3, false, "rows"}, Way{2, 2, true, "units"}, Way{3, 3, true, "units"},
              Way{2, 1, false, "steps and gradients"}, Way{3, 1, false, "steps and gradients"}}) {
          if (same_bits(results(s, parts, step_parts, by_units), expected)) continue;
          std::printf("%s, hidden %d, setup %d: %d threads divide the %s and change the bits\n", cell.name, cell.hidden,
                      number, parts, name);
          wrong++;
        }
      }
    }
  }
  std::printf("%d setups\n", number);
  return wrong > 0;
}
