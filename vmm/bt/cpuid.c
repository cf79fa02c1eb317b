/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CPUID without leaving translated code.
 *
 * The dynamic linker asks some 60 times as each program starts. The model of the
 * CPU does not change (cpu/cpuid.c), so an answer is kept when the interpreter has
 * given it, and bt_do_cpuid (stubs.S) looks here first. cpu_cpuid_keeps says
 * which leaves depend on nothing but what the key has: leaf, subleaf, XCR0.
 *
 * One answer a place; what shares one takes turns, and is called out for. Not
 * under lockstep, which compares whole instructions. All code in the TC is 64-bit
 * code, so leaf 80000001h has one answer here.
 *
 * Built with -mgeneral-regs-only: bt_cpuid runs with the guest's vector registers
 * in place.
 */
#include "vmm/bt/bt_priv.h"
#include "vmm/cpu/sys.h"

static struct cpuid_kept *place(struct bt *bt, uint32_t leaf, uint32_t sub)
{
	uint32_t h = leaf * 0x9e3779b1u + sub * 0x85ebca6bu;

	return &bt->cpuid[h >> (32 - CPUID_BITS)];
}

const struct cpuid_regs *bt_cpuid(struct vcpu *v, uint32_t leaf, uint32_t sub)
{
	struct bt *bt = (struct bt *)v->bt;
	const struct cpuid_kept *k;

	sub = cpu_cpuid_sub(leaf, sub);
	k = place(bt, leaf, sub);
	if (!k->there || k->leaf != leaf || k->sub != sub || k->xcr0 != v->xcr0)
		return NULL;
	bt->stats.cpuids++;
	return &k->r;
}

void bt_cpuid_keep(struct bt *bt)
{
	struct vcpu *v = bt->v;
	uint32_t leaf = v->gpr[R_RAX];
	uint32_t sub = cpu_cpuid_sub(leaf, v->gpr[R_RCX]);
	struct cpuid_kept *k = place(bt, leaf, sub);

	if (!cpu_cpuid_keeps(leaf))
		return;
	*k = (struct cpuid_kept){
		.there = true, .leaf = leaf, .sub = sub, .xcr0 = v->xcr0};
	cpu_cpuid(v, leaf, sub, &k->r);
}
