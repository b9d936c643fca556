// Special registers: what each one holds, by lane.
#include "decoder.hpp"
#include "machine.hpp"

namespace emu {
namespace {

// Those with .x, .y and .z are `vector`: `a` is the axis.
struct SpecialRegister { const char* name; bool vector; u64 (*value)(const Machine& m, const Warp& w, u32 lane, int a); };
#define VALUE [](const Machine& m, const Warp& w, u32 lane, int a) -> u64
const SpecialRegister kSpecialRegisters[] = {
    {"%tid", true, VALUE {
       u32 t = u32(w.id) * 32 + lane;
       return a == 0 ? t % m.block[0] : a == 1 ? t / m.block[0] % m.block[1] : t / m.block[0] / m.block[1]; }},
    {"%ntid", true, VALUE { return m.block[a]; }},
    {"%ctaid", true, VALUE { return w.cta->index[a]; }},
    {"%nctaid", true, VALUE { return m.grid[a]; }},
    {"%cluster_ctaid", true, VALUE { return w.cta->index[a] % m.cluster_dims[a]; }},
    {"%cluster_nctaid", true, VALUE { return m.cluster_dims[a]; }},
    {"%clusterid", true, VALUE { return w.cta->index[a] / m.cluster_dims[a]; }},
    {"%nclusterid", true, VALUE { return m.grid[a] / m.cluster_dims[a]; }},
    {"dynamic shared", false, VALUE { return m.dynamic_base; }},
    {"%laneid", false, VALUE { return lane; }},
    {"%warpid", false, VALUE { return u64(w.id); }},
    {"%nwarpid", false, VALUE { return m.warps_per_cta; }},
    {"%cluster_ctarank", false, VALUE { return w.cta->rank; }},
    {"%cluster_nctarank", false, VALUE { return m.cluster_dims[0] * m.cluster_dims[1] * m.cluster_dims[2]; }},
    {"%is_explicit_cluster", false, VALUE { return m.cluster_dims[0] * m.cluster_dims[1] * m.cluster_dims[2] > 1; }},
    {"%dynamic_smem_size", false, VALUE { return m.dynamic_shared; }},
    {"%total_smem_size", false, VALUE { return m.dynamic_shared + m.kernel->static_shared; }},
    {"%lanemask_lt", false, VALUE { return (1ull << lane) - 1; }},
    {"%lanemask_le", false, VALUE { return (2ull << lane) - 1; }},
    {"%lanemask_eq", false, VALUE { return 1ull << lane; }},
    {"%lanemask_ge", false, VALUE { return u32(~((1ull << lane) - 1)); }},
    {"%lanemask_gt", false, VALUE { return u32(~((2ull << lane) - 1)); }},
    {"%smid", false, VALUE { return w.cta->cluster->serial; }},
    {"%nsmid", false, VALUE { return m.cluster_count; }},
    // where cooperative groups look for what a barrier of the whole grid needs: upper and lower half of its address
    {"%envreg1", false, VALUE { return m.cooperative ? kGridWorkspace >> 32 : 0; }},
    {"%envreg2", false, VALUE { return m.cooperative ? u32(kGridWorkspace) : 0; }}};
#undef VALUE
const char* const kNoTime[] = {"%gridid", "%clock", "%clock_hi", "%clock64", "%globaltimer", "%globaltimer_lo", "%globaltimer_hi"};
constexpr int kZero = int(sizeof kSpecialRegisters / sizeof *kSpecialRegisters);    // what those stand at

}  // namespace

int special_register(const string& name) {
  for (auto* zero : kNoTime) if (name == zero) return 3 * kZero;
  for (int k = 0; k < kZero; ++k) {
    auto& r = kSpecialRegisters[k];
    for (int axis = 0; axis < (r.vector ? 3 : 1); ++axis)
      if (name == (r.vector ? string(r.name) + "." + "xyz"[axis] : r.name)) return 3 * k + axis;
  }
  return -1;
}

void load_special(Warp& w, const Kernel::Preloaded& s) {
  const int number = int(s.value) / 3, axis = int(s.value) % 3;
  for (int l = 0; l < 32; ++l) {
    const u64 value = number == kZero ? 0 : kSpecialRegisters[number].value(*w.machine, w, u32(l), axis);
    set_bits(w, s.slot, l, s.width == 8, value);
  }
}

}  // namespace emu
