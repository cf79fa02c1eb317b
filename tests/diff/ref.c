/* SPDX-License-Identifier: Apache-2.0 */
/*
 * No trampoline: a signal handler exchanges the whole context. SIGUSR1 puts
 * the guest's registers into the frame that the kernel is about to restore;
 * the exception's signal takes them out again and puts our own ones back. For
 * 32-bit code the frame's CS is that of compatibility mode; DS and ES, which are
 * null in a 64-bit process, are loaded before.
 */
#include "tests/diff/ref.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ucontext.h>
#include <unistd.h>

#include "tests/diff/wide.h"

static const int greg_of[16] = {
	REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
	REG_R8,	 REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
#define USER32_CS 0x23 /* Linux's selectors */
#define USER_DS	  0x2b
static const struct gen_state *enter;
static unsigned enter_code32;
static struct gen_state *leave;
static gregset_t own_gregs;
static uint8_t own_fpu[GEN_FPU_BYTES], own_wide[GEN_WIDE_BYTES];
static volatile sig_atomic_t inside;

static void fpu_in(ucontext_t *u, const uint8_t *image, const uint8_t *wide)
{
	uint8_t *f = (uint8_t *)u->uc_mcontext.fpregs;
	uint8_t keep[48];
	uint64_t bv;

	memcpy(keep, f + 464, 48); /* the kernel's words */
	memcpy(f, image, 416);
	memcpy(f + 464, keep, 48);
	memcpy(f + 576, image + 576, 256);
	memcpy(&bv, f + 512, 8);
	bv |= 7;
	memcpy(f + 512, &bv, 8);
	wide_in(f, wide);
}

static void fpu_out(const ucontext_t *u, uint8_t *image, uint8_t *wide)
{
	const uint8_t *f = (const uint8_t *)u->uc_mcontext.fpregs;
	uint64_t bv;

	memcpy(image, f, GEN_FPU_BYTES);
	memcpy(&bv, f + 512, 8);
	if (!(bv & 1)) { /* in its initial state: the bytes mean nothing */
		memset(image, 0, 24);
		image[0] = 0x7f;
		image[1] = 3;
		memset(image + 32, 0, 128);
	}
	if (!(bv & 2))
		memset(image + 160, 0, 256);
	if (!(bv & 4))
		memset(image + 576, 0, 256);
	wide_out(f, wide);
}

static void on_enter(int sig, siginfo_t *si, void *uc)
{
	ucontext_t *u = uc;
	greg_t *g = u->uc_mcontext.gregs;

	memcpy(own_gregs, g, sizeof(own_gregs));
	fpu_out(u, own_fpu, own_wide);
	for (int k = 0; k < 16; k++)
		g[greg_of[k]] = enter->gpr[k];
	g[REG_RIP] = enter->rip;
	g[REG_EFL] = enter->rflags;
	if (enter_code32)
		g[REG_CSGSFS] = (g[REG_CSGSFS] & ~0xffffll) | USER32_CS;
	fpu_in(u, enter->fpu, enter->wide);
	inside = 1;
}

static void on_exception(int sig, siginfo_t *si, void *uc)
{
	ucontext_t *u = uc;
	greg_t *g = u->uc_mcontext.gregs;

	if (!inside) {
		signal(sig, SIG_DFL);
		return;
	}
	inside = 0;
	for (int k = 0; k < 16; k++)
		leave->gpr[k] = g[greg_of[k]];
	leave->rip = g[REG_RIP];
	leave->rflags = g[REG_EFL];
	leave->vector = g[REG_TRAPNO];
	leave->cr2 = leave->vector == 14 ? g[REG_CR2] : 0;
	fpu_out(u, leave->fpu, leave->wide);
	memcpy(g, own_gregs, sizeof(own_gregs));
	fpu_in(u, own_fpu, own_wide);
}

/* Each time anew: test frameworks put their own handlers in between. */
static void install(void)
{
	const int sigs[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
	struct sigaction sa = {.sa_flags = SA_SIGINFO | SA_ONSTACK};

	sigfillset(&sa.sa_mask);
	sa.sa_sigaction = on_exception;
	for (unsigned k = 0; k < sizeof(sigs) / sizeof(*sigs); k++)
		sigaction(sigs[k], &sa, NULL);
	sa.sa_sigaction = on_enter;
	sigaction(SIGUSR1, &sa, NULL);
}

int ref_init(void)
{
	static uint8_t stack[65536];
	stack_t ss = {.ss_sp = stack, .ss_size = sizeof(stack)};
	int fl = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;

	if (mmap((void *)GEN_CODE, GEN_CODE_SIZE,
		 PROT_READ | PROT_WRITE | PROT_EXEC, fl, -1, 0) == MAP_FAILED ||
	    mmap((void *)GEN_ARENA, GEN_ARENA_SIZE, PROT_READ | PROT_WRITE, fl,
		 -1, 0) == MAP_FAILED ||
	    sigaltstack(&ss, NULL))
		return -errno;
	return 0;
}

static void set_data_segments(uint16_t sel)
{
	asm volatile("mov %0, %%ds\n\tmov %0, %%es" ::"r"((uint32_t)sel));
}

void ref_run(const struct gen_code *c, const struct gen_state *in,
	     struct gen_state *out)
{
	memcpy((void *)GEN_CODE, c->bytes, c->len);
	memcpy((void *)GEN_ARENA, in->arena, GEN_ARENA_SIZE);
	enter = in;
	leave = out;
	enter_code32 = c->code32;
	install();
	set_data_segments(c->code32 ? USER_DS : 0);
	raise(SIGUSR1);
	set_data_segments(0);
	memcpy(out->arena, (void *)GEN_ARENA, GEN_ARENA_SIZE);
}
