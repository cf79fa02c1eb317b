/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Host faults in translated code, and the recovery of the guest's state.
 *
 * A hidden fault (the page was not in the window yet) is mended inside the
 * signal handler, and the host instruction runs again. For all others the
 * handler puts the guest's registers together exactly as they were before the
 * guest instruction, and leaves for bt_exit_fault, so that everything else
 * (guest exceptions, MMIO, self-modifying code) happens outside of signals; but
 * for the guest's page faults, which are delivered at once (pf.c).
 *
 * A fault whose PC is not in the TC is a bug of ours: stop with a dump.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#include <immintrin.h>

#include "mm/base/log.h"
#include "vmm/bt/bt_priv.h"
#include "vmm/x86/regs.h"

struct bt_altstack {
	uint64_t fsbase;
	struct bt *bt;
};

static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};

int bt_fault_init(struct bt *bt)
{
	struct bt_altstack *a;
	uint8_t *p;
	stack_t ss = {.ss_size = BT_ALTSTACK_SIZE - 4096};
	/* No mask: the handler does not return through the kernel. */
	struct sigaction sa = {.sa_flags =
				       SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
	sigset_t all;

	p = mmap(NULL, 2 * BT_ALTSTACK_SIZE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return -ENOMEM;
	bt->altstack = p;
	p = (uint8_t *)(((uintptr_t)p + BT_ALTSTACK_SIZE - 1) &
			-(uintptr_t)BT_ALTSTACK_SIZE);
	a = (struct bt_altstack *)p;
	a->fsbase = _readfsbase_u64();
	a->bt = bt;
	ss.ss_sp = p + 4096;
	if (sigaltstack(&ss, NULL))
		return -errno;
	sa.sa_sigaction = bt_signal_entry;
	for (unsigned i = 0; i < ARRAY_SIZE(signals); i++)
		if (sigaction(signals[i], &sa, NULL))
			return -errno;
	/* Other handlers would run with the guest's FS. */
	sigfillset(&all);
	for (unsigned i = 0; i < ARRAY_SIZE(signals); i++)
		sigdelset(&all, signals[i]);
	sigdelset(&all, SIGABRT);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	return 0;
}

void bt_fault_fini(struct bt *bt)
{
	stack_t ss = {.ss_flags = SS_DISABLE};

	if (!bt->altstack)
		return;
	sigaltstack(&ss, NULL);
	for (unsigned i = 0; i < ARRAY_SIZE(signals); i++)
		signal(signals[i], SIG_DFL);
	munmap(bt->altstack, 2 * BT_ALTSTACK_SIZE);
	bt->altstack = NULL;
}

enum recov_kind bt_recover(struct bt *bt, uint32_t host)
{
	struct vcpu *v = bt->v;
	uint32_t id = tc_find(bt, host);
	const struct recov *r = id ? tc_recov(bt, id, host) : NULL;

	if (!r) {
		log_error("bug: no guest instruction at TC offset %#x", host);
		abort();
	}
	bt->recovered = id;
	v->rip = bt->ccf[id].rip + r->guest;
	switch (r->kind) {
	case RK_BORROW_RSI:
		v->gpr[R_RSI] = v->bt_hot[HOT_TMP0];
		break;
	case RK_RSI_RDI:
		v->gpr[R_RSI] -= v->bt_hot[HOT_TMP1];
		v->gpr[R_RDI] -= v->bt_hot[HOT_TMP0];
		break;
	case RK_RSI:
		v->gpr[R_RSI] -= v->bt_hot[HOT_TMP1];
		break;
	case RK_RDI:
		v->gpr[R_RDI] -= v->bt_hot[HOT_TMP0];
		break;
	case RK_RSP:
		v->gpr[R_RSP] = v->bt_hot[HOT_TMP0];
		break;
	}
	return r->kind;
}

/*
 * An addition to RSP was done on its host form, and what followed has found that
 * nothing is mapped there: the flags of the guest's value. The addition is the last
 * thing before what is marked so, as put_add (translate_rsp.c) emits it. Its flags are written
 * over g's.
 */
static void fix_flags(struct bt *bt, greg_t *g, uint32_t host)
{
	const struct ccf *c = &bt->ccf[bt->recovered];
	const struct recov *r = tc_recov(bt, bt->recovered, host);
	uint64_t now = bt->v->gpr[R_RSP], was, imm, out;
	int32_t imm32;
	const uint8_t *p;

	while (r->kind == RK_MOVED || r->kind == RK_MOVED_TOUCH)
		r--;
	p = bt->rw + c->host + r->host;
	memcpy(&imm32, p + 3, sizeof(imm32));
	imm = p[1] == 0x81 ? imm32 : (int8_t)imm32;
	was = p[2] == 0xc4 ? now - imm : now + imm;
	out = p[2] == 0xc4 ? (was & imm) | ((was | imm) & ~now)
			   : (~was & imm) | ((~was | imm) & now);
	g[REG_EFL] &= ~(greg_t)FL_ARITH;
	g[REG_EFL] |= (out >> 63 ? FL_CF : 0) | (out >> 3 & 1 ? FL_AF : 0) |
		      ((out >> 63 ^ out >> 62) & 1 ? FL_OF : 0) |
		      (now ? 0 : FL_ZF) | (now >> 63 ? FL_SF : 0) |
		      (__builtin_parity(now & 0xff) ? 0 : FL_PF);
}

static enum recov_kind recover_from(struct bt *bt, greg_t *g, uint32_t host)
{
	struct vcpu *v = bt->v;
	enum recov_kind kind;
	static const uint8_t from[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX,
					 REG_RSP, REG_RBP, REG_RSI, REG_RDI,
					 REG_R8,  REG_R9,  REG_R10, REG_R11,
					 REG_R12, REG_R13, REG_R14, REG_R15};

	for (int i = 0; i < 15; i++)
		if (i != R_R10 && i != R_R11 && i != R_RSP)
			v->gpr[i] = g[from[i]];
	v->gpr[R_RSP] = g[REG_RSP] + v->bt_hot[HOT_RSP_NOTD] + 1;
	kind = bt_recover(bt, host);
	if (kind == RK_MOVED || kind == RK_MOVED_TOUCH)
		fix_flags(bt, g, host);
	v->bt_hot[HOT_TMP0] = g[REG_EFL];
	return kind;
}

static _Noreturn void die(int sig, siginfo_t *si, greg_t *g)
{
	log_error("bug: signal %d at pc %#llx, address %p, rsp %#llx, r15 "
		  "%#llx: not in translated code",
		  sig, (long long)g[REG_RIP], si->si_addr,
		  (long long)g[REG_RSP], (long long)g[REG_R15]);
	signal(SIGABRT, SIG_DFL);
	abort();
}

/* A page fault in a window. SIGBUS: see shadow_carpet.c. */
static enum shadow_fill fill_window(struct bt *bt, int sig, uint64_t addr,
				    const greg_t *g)
{
	if (sig == SIGBUS && !shadow_bus(bt->sh, addr))
		return SHADOW_NOMEM;
	return shadow_fill(bt->sh, addr, g[REG_ERR] & 2,
			   !!(bt->mode & MODE_USER));
}

static bool is_page_fault(int sig, const greg_t *g)
{
	return (sig == SIGSEGV || sig == SIGBUS) && g[REG_TRAPNO] == 14;
}

/* A stub's access to guest memory: mend it, or let the stub give up. */
static int stub_fault(struct bt *bt, int sig, siginfo_t *si, greg_t *g)
{
	const struct bt_stub_fault *f = bt_stub_faults;
	uint64_t start = __builtin_ia32_rdtsc();

	while (f->pc && f->pc != (uint64_t)g[REG_RIP])
		f++;
	if (!f->pc)
		die(sig, si, g);
	if (is_page_fault(sig, g) &&
	    fill_window(bt, sig, (uint64_t)si->si_addr, g) == SHADOW_OK) {
		bt->stats.faults_hidden++;
		reason_add(&bt->reasons.fault[FAULT_hidden], start);
	} else {
		g[REG_RIP] = (greg_t)f->fixup;
	}
	return BT_SIG_RETRY;
}

int bt_signal(int sig, siginfo_t *si, void *ucv, void *frame)
{
	struct bt *bt = ((struct bt_altstack *)frame)->bt;
	struct vcpu *v = bt->v;
	ucontext_t *uc = ucv;
	greg_t *g = uc->uc_mcontext.gregs;
	uint64_t pc = g[REG_RIP], addr = (uint64_t)si->si_addr;
	uint32_t host = pc - (uint64_t)bt->rx;
	uint64_t kind = BT_EXIT_FAULT, start = __builtin_ia32_rdtsc();
	enum recov_kind rk;

	if (pc - (uint64_t)bt->rx >= bt->tc_size)
		return stub_fault(bt, sig, si, g);
	bt->last_fill = SHADOW_NOTOURS;
	/* An address that is not canonical is a #GP (13) of the host. */
	bt->fault_is_access = sig == SIGSEGV || sig == SIGBUS;
	if (is_page_fault(sig, g)) {
		if (addr == BT_POLL_BAD || addr == BT_POLL_BAD + BT_IND_OFF) {
			kind = BT_EXIT_POLL;
		} else {
			bt->last_fill = fill_window(bt, sig, addr, g);
			if (bt->last_fill == SHADOW_OK) {
				bt->stats.faults_hidden++;
				reason_add(&bt->reasons.fault[FAULT_hidden],
					   start);
				return BT_SIG_RETRY;
			}
		}
	}
	rk = recover_from(bt, g, host);
	if (bt->last_fill == SHADOW_PF && rk != RK_TOUCH &&
	    rk != RK_MOVED_TOUCH && !bt->lockstep) {
		int how = bt_pf_deliver(bt);

		reason_add(&bt->reasons.fault[FAULT_true], start);
		return how;
	}
	v->bt_hot[HOT_EXIT_KIND] = kind;
	return BT_SIG_LEAVE;
}
