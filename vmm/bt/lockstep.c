/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lockstep: every unit is first run by the interpreter, with its writes kept
 * in a log, and then by translated code; the two must agree on registers,
 * flags, vector state and on every byte of memory written. The first
 * difference stops the VM and says what it is.
 *
 * A unit that ends early in translated code (callout, fault, kick) is not
 * compared; nor is one in which the interpreter met a side effect (I/O, time,
 * randomness). Slow, and for testing only.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mm/base/log.h"
#include "vmm/bt/bt_priv.h"
#include "vmm/cpu/interp.h"
#include "vmm/mmu/mem.h"
#include "vmm/vm.h"
#include "vmm/x86/regs.h"

struct lockstep {
	struct mem_log log;
	uint64_t gpr[16], rip, rflags;
	uint8_t fpu[1024];
	bool valid;
};

#define FPU_BYTES 832 /* legacy area, header, AVX */

static size_t fpu_bytes(const struct vcpu *v)
{
	return v->fpu_size < FPU_BYTES ? v->fpu_size : FPU_BYTES;
}

static bool has_rep(struct vcpu *v)
{
	uint8_t b[15];
	unsigned got;

	if (mem_fetch(v, v->rip, b, &got) != CPU_OK)
		return false;
	for (unsigned i = 0; i < got && i < 4; i++)
		if (b[i] == 0xf2 || b[i] == 0xf3)
			return true;
	return false;
}

/* Does the unit go on after the instruction at rip, now that it led to next;
 * or was that an exit in its middle? */
static bool goes_on(struct bt *bt, uint32_t id, uint64_t rip, uint64_t next)
{
	const struct ccf *c = &bt->ccf[id];

	for (unsigned i = 0; i < c->n_recov; i++) {
		uint64_t at = c->rip + bt->recov[c->recov + i].guest;

		if (at > rip)
			return at == next;
	}
	return false;
}

void lockstep_before(struct bt *bt, uint32_t id)
{
	struct vcpu *v = bt->v;
	struct lockstep *l = bt->ls;
	static _Thread_local struct vcpu saved;
	static _Thread_local uint8_t fpu[FPU_BYTES];
	unsigned n = bt->ccf[id].n_insn;
	size_t fb = fpu_bytes(v);
	enum cpu_status st = CPU_OK;

	if (!l)
		l = bt->ls = calloc(1, sizeof(*l));
	memcpy(&saved, v, sizeof(saved));
	memcpy(fpu, v->fpu, fb);
	l->log.n = 0;
	l->log.side_effect = false;
	v->mem_log = &l->log;
	while (n && st == CPU_OK) {
		uint64_t rip = v->rip;

		st = interp_step_raw(v);
		if (st == CPU_OK && v->rip == rip && has_rep(v))
			continue; /* it went part of its way */
		if (--n && st == CPU_OK && !goes_on(bt, id, rip, v->rip))
			break;
	}
	l->valid = st == CPU_OK && !l->log.side_effect;
	memcpy(l->gpr, v->gpr, sizeof(l->gpr));
	l->rip = v->rip;
	l->rflags = v->rflags;
	memcpy(l->fpu, v->fpu, fb);
	saved.requests = v->requests;
	memcpy(v, &saved, sizeof(saved));
	memcpy(v->fpu, fpu, fb);
	v->mem_log = NULL;
}

static bool same_memory(struct bt *bt, char *what, size_t len)
{
	const struct mem_log *log = &bt->ls->log;
	uint8_t now[64];

	/* Later entries overwrite earlier ones: compare the last for a byte. */
	for (unsigned i = 0; i < log->n; i++) {
		const struct mem_log_entry *e = &log->e[i];

		p2m_copy_out(bt->p2m, e->gpa, now, e->len);
		for (unsigned k = 0; k < e->len; k++) {
			bool last = true;

			for (unsigned j = i + 1; j < log->n && last; j++)
				if (e->gpa + k - log->e[j].gpa < log->e[j].len)
					last = false;
			if (last && now[k] != e->bytes[k]) {
				snprintf(what, len,
					 "memory at %#llx is %02x, not %02x",
					 (unsigned long long)e->gpa + k, now[k],
					 e->bytes[k]);
				return false;
			}
		}
	}
	return true;
}

/* After the whole unit ran; v->rip is where it went. */
enum cpu_status lockstep_after(struct bt *bt, uint32_t id)
{
	struct vcpu *v = bt->v;
	struct lockstep *l = bt->ls;
	char what[160] = "";

	if (!l->valid)
		return CPU_OK;
	bt->stats.lockstep_tus++;
	for (int r = 0; r < 16 && !*what; r++)
		if (v->gpr[r] != l->gpr[r])
			snprintf(what, sizeof(what), "r%d is %#llx, not %#llx",
				 r, (unsigned long long)v->gpr[r],
				 (unsigned long long)l->gpr[r]);
	if (!*what && v->rip != l->rip)
		snprintf(what, sizeof(what), "rip is %#llx, not %#llx",
			 (unsigned long long)v->rip,
			 (unsigned long long)l->rip);
	if (!*what && (v->rflags ^ l->rflags) & ~FL_RF)
		snprintf(what, sizeof(what), "rflags is %#llx, not %#llx",
			 (unsigned long long)v->rflags,
			 (unsigned long long)l->rflags);
	if (!*what && memcmp((char *)v->fpu + 160, l->fpu + 160, 256))
		snprintf(what, sizeof(what), "an XMM register differs");
	if (!*what)
		same_memory(bt, what, sizeof(what));
	if (!*what)
		return CPU_OK;
	v->rip = bt->ccf[id].rip;
	return vcpu_stop(v, "lockstep: after the unit at %#llx: %s",
			 (unsigned long long)bt->ccf[id].rip, what);
}
