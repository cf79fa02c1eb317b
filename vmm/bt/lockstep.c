/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lockstep: every unit is first run by the interpreter, with its writes kept
 * in a log, and then by translated code; the two must agree on registers,
 * flags, vector state and on every byte of memory written. The first
 * difference stops the VM and says what it is.
 *
 * Accessed and dirty bits are written when a walk is made, and who makes one
 * depends on what his TLB holds (the windows, or v->mem_cache): in the entries
 * that either run walked these bits are not compared.
 *
 * A call ends a unit here, as nothing is chained; the return of one that is paired
 * goes on in the middle of the caller's unit, and so does the interpreter.
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
#include "vmm/cpu/xstate.h"
#include "vmm/mmu/mem.h"
#include "vmm/vm.h"
#include "vmm/x86/regs.h"

struct lockstep {
	struct mem_log log;
	struct used_log used;
	uint64_t gpr[16], rip, rflags;
	uint8_t fpu[XS_MAX_BYTES];
	bool valid;
};

/* What an instruction can change in a vcpu: up to its links, and the end. */
#define GUEST_STATE offsetof(struct vcpu, vm)
#define HOT_STATE   (sizeof(struct vcpu) - offsetof(struct vcpu, bt_hot))
#define XSTATE_BV   512 /* the header's first word */
#define MAX_INSNS   100000

static size_t fpu_bytes(const struct vcpu *v)
{
	return v->fpu_size < XS_MAX_BYTES ? v->fpu_size : XS_MAX_BYTES;
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

/* A near return that translated code does. */
static bool is_return(struct bt *bt)
{
	ZydisDecodedInstruction i;
	uint8_t b[15];
	unsigned got;

	return mem_fetch(bt->v, bt->v->rip, b, &got) == CPU_OK &&
	       ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&bt->dec, NULL, b,
							  got, &i)) &&
	       i.mnemonic == ZYDIS_MNEMONIC_RET &&
	       i.meta.branch_type == ZYDIS_BRANCH_TYPE_NEAR;
}

/* The unit that has the pad which a return to rip finds; or 0. left: how many
 * instructions of it follow. */
static uint32_t pad_unit(struct bt *bt, uint64_t rip, unsigned mode,
			 unsigned *left)
{
	uint32_t at = *ret_entry(bt, mode, rip) - (uint64_t)bt->rx;
	uint32_t id = at == TC_RET_STUB ? 0 : tc_find(bt, at);
	const struct ccf *c = &bt->ccf[id];
	unsigned last = rip - c->rip - 1;

	*left = 0;
	for (unsigned i = 0; id && i < c->n_pad; i++) {
		if (c->host + c->pad[i].host != at)
			continue;
		if (c->rip + c->pad[i].next != rip)
			break;
		for (unsigned k = 0; k < c->n_recov; k++) {
			unsigned g = bt->recov[c->recov + k].guest;

			if (g > last && g < c->guest_len) {
				last = g;
				++*left;
			}
		}
		return id;
	}
	return 0;
}

static bool ends_call(const struct ccf *c, uint64_t rip)
{
	for (unsigned i = 0; i < c->n_pad; i++)
		if (c->rip + c->pad[i].next == rip)
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
			return at == next && !ends_call(c, at);
	}
	/* The unit is a loop that it has several times. */
	return next == c->rip;
}

void lockstep_before(struct bt *bt, uint32_t id)
{
	struct vcpu *v = bt->v;
	struct lockstep *l = bt->ls;
	static _Thread_local uint8_t state[GUEST_STATE], hot[HOT_STATE];
	static _Thread_local uint8_t fpu[XS_MAX_BYTES];
	unsigned n = bt->ccf[id].n_insn;
	size_t fb = fpu_bytes(v);
	enum cpu_status st = CPU_OK;

	if (!l)
		l = bt->ls = calloc(1, sizeof(*l));
	memcpy(state, v, GUEST_STATE);
	memcpy(hot, v->bt_hot, HOT_STATE);
	memcpy(fpu, v->fpu, fb);
	l->log.n = 0;
	l->log.side_effect = false;
	l->used.n = 0;
	v->mem_log = &l->log;
	v->used_log = &l->used;
	for (unsigned k = 0; n && st == CPU_OK; k++) {
		uint64_t rip = v->rip;
		bool ret = n == 1 && is_return(bt); /* it ends its unit */

		/* Returns to returns, for ever: a kick stops the other run. */
		l->log.side_effect |= k > MAX_INSNS;
		if (l->log.side_effect)
			break;

		st = interp_step_raw(v);
		if (st == CPU_OK && v->rip == rip && has_rep(v))
			continue; /* it went part of its way */
		n--;
		if (st == CPU_OK && ret && !(bt->ccf[id].flags & CCF_UNPAIRED))
			id = pad_unit(bt, v->rip, bt->ccf[id].mode, &n);
		else if (n && st == CPU_OK && !goes_on(bt, id, rip, v->rip))
			break;
	}
	l->valid = st == CPU_OK && !l->log.side_effect;
	memcpy(l->gpr, v->gpr, sizeof(l->gpr));
	l->rip = v->rip;
	l->rflags = v->rflags;
	memcpy(l->fpu, v->fpu, fb);
	memcpy(v, state, GUEST_STATE);
	memcpy(v->bt_hot, hot, HOT_STATE);
	memcpy(v->fpu, fpu, fb);
	v->mem_log = NULL;
	/* From here the log notes what the translated run does. */
	v->used_log = &l->used;
	if (l->used.n)
		mem_flush(v); /* it believes in bits that were not set */
}

/* The bits of the byte at gpa that a walk may have set in one of the runs. */
static uint8_t used_bits(const struct used_log *u, gpa_t gpa)
{
	unsigned n = u->n < USED_LOG_MAX ? u->n : USED_LOG_MAX;

	for (unsigned i = 0; i < n; i++)
		if (u->at[i] == gpa)
			return PTE_A | PTE_D;
	return u->n > USED_LOG_MAX ? PTE_A | PTE_D : 0;
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
			if (last &&
			    (now[k] ^ e->bytes[k]) &
				    ~used_bits(&bt->ls->used, e->gpa + k)) {
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

/* len bytes at off of XSAVE area a (of size bytes), in which state component
 * comp is kept; zeros when the component is in its initial state, as memory
 * may then hold anything (SDM vol. 1, 13.6). */
static void component(const uint8_t *a, size_t size, unsigned comp, size_t off,
		      size_t len, uint8_t *to)
{
	memset(to, 0, len);
	if (off + len <= size && (a[XSTATE_BV] >> comp & 1))
		memcpy(to, a + off, len);
}

static const char *fpu_difference(const struct vcpu *v, const uint8_t *was)
{
	const struct xstate *xs = xstate();
	const struct {
		unsigned comp;
		size_t off, len;
		const char *what;
	} parts[] = {
		{0, 0, 5, "the x87 control, status or tag word"},
		{0, 32, 128, "an x87 register"},
		{1, 160, 256, "an XMM register"},
		{2, 576, 256, "the upper half of a YMM register"},
		{5, xs->opmask, XS_OPMASK_BYTES, "a mask register"},
		{6, xs->zmm, XS_ZMM_BYTES, "the upper half of a ZMM register"},
		{7, xs->hi16, XS_HI16_BYTES, "a register ZMM16 to 31"},
	};
	size_t size = fpu_bytes(v);
	uint8_t x[XS_HI16_BYTES], y[XS_HI16_BYTES];

	for (unsigned i = 0; i < sizeof(parts) / sizeof(*parts); i++) {
		component(v->fpu, size, parts[i].comp, parts[i].off,
			  parts[i].len, x);
		component(was, size, parts[i].comp, parts[i].off, parts[i].len,
			  y);
		if (parts[i].off == 0 && !(x[0] | x[1]))
			x[0] = 0x7f, x[1] = 3;
		if (parts[i].off == 0 && !(y[0] | y[1]))
			y[0] = 0x7f, y[1] = 3;
		if (memcmp(x, y, parts[i].len))
			return parts[i].what;
	}
	return memcmp((uint8_t *)v->fpu + 24, was + 24, 4) ? "MXCSR" : NULL;
}

/* After the whole unit ran; v->rip is where it went. */
enum cpu_status lockstep_after(struct bt *bt, uint32_t id)
{
	struct vcpu *v = bt->v;
	struct lockstep *l = bt->ls;
	char what[160] = "";

	v->used_log = NULL;
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
	if (!*what && fpu_difference(v, l->fpu))
		snprintf(what, sizeof(what), "%s differs",
			 fpu_difference(v, l->fpu));
	if (!*what)
		same_memory(bt, what, sizeof(what));
	if (!*what)
		return CPU_OK;
	v->rip = bt->ccf[id].rip;
	return vcpu_stop(v, "lockstep: after the unit at %#llx: %s",
			 (unsigned long long)bt->ccf[id].rip, what);
}
