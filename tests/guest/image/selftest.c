/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Is this a good CPU, and does the kernel on it work? Each test prints
 * "PASS name" or "FAIL name: why"; the last line is "selftest: N passed, M
 * failed" and the exit status says the same. Everything has a known answer, so
 * that it holds natively and under each of Sardine's engines. (QEMU's TCG has
 * no unmasked SIMD exceptions: there, mxcsr-trap fails.)
 */
#include "guest.h"

#include <cpuid.h>
#include <errno.h>
#include <immintrin.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

static char why[200];
#define CHECK(c)                                                               \
	do {                                                                   \
		if (!(c)) {                                                    \
			snprintf(why, sizeof(why), "line %d: %s", __LINE__,    \
				 #c);                                          \
			return 1;                                              \
		}                                                              \
	} while (0)

/* ---- signals ---- */

static volatile sig_atomic_t got_sig;
static volatile uintptr_t got_addr, got_err;
static sigjmp_buf env;

static void on_fault(int sig, siginfo_t *si, void *uc_)
{
	ucontext_t *uc = uc_;

	got_sig = sig;
	got_addr = (uintptr_t)si->si_addr;
	got_err = uc->uc_mcontext.gregs[REG_ERR];
	siglongjmp(env, 1);
}

static void catch (int sig, void (*fn)(int, siginfo_t *, void *))
{
	struct sigaction sa = {.sa_sigaction = fn, .sa_flags = SA_SIGINFO};

	sigaction(sig, &sa, NULL);
}

static int test_sigsegv(void)
{
	char *p =
		mmap(NULL, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	catch (SIGSEGV, on_fault);
	got_sig = 0;
	if (!sigsetjmp(env, 1))
		*(volatile char *)(p + 4097) = 1;
	CHECK(got_sig == SIGSEGV);
	CHECK(got_addr == (uintptr_t)p + 4097);
	CHECK((got_err & 6) == 6); /* write, user */
	munmap(p, 8192);
	got_sig = 0;
	if (!sigsetjmp(env, 1))
		got_err = *(volatile char *)(p + 5);
	CHECK(got_sig == SIGSEGV && got_addr == (uintptr_t)p + 5);
	CHECK((got_err & 7) == 4); /* not there, read, user */
	/* Not canonical: #GP, no address. */
	got_sig = 0;
	if (!sigsetjmp(env, 1))
		*(volatile char *)0x8000000000000000ul = 1;
	CHECK(got_sig == SIGSEGV && got_addr == 0);
	/* Kernel half. */
	got_sig = 0;
	if (!sigsetjmp(env, 1))
		*(volatile char *)0xffffffff81000000ul = 1;
	CHECK(got_sig == SIGSEGV);
	CHECK(got_err & 4);
	return 0;
}

static int test_sigfpe(void)
{
	catch (SIGFPE, on_fault);
	got_sig = 0;
	if (!sigsetjmp(env, 1)) {
		uint32_t lo = 1, hi = 0, d = 0;

		asm volatile("divl %2" : "+a"(lo), "+d"(hi) : "r"(d) : "cc");
	}
	CHECK(got_sig == SIGFPE);
	got_sig = 0;
	if (!sigsetjmp(env, 1)) { /* quotient does not fit */
		uint32_t lo = 0, hi = 5, d = 5;

		asm volatile("divl %2" : "+a"(lo), "+d"(hi) : "r"(d));
	}
	CHECK(got_sig == SIGFPE);
	return 0;
}

static int test_sigill(void)
{
	catch (SIGILL, on_fault);
	got_sig = 0;
	if (!sigsetjmp(env, 1))
		asm volatile("ud2");
	CHECK(got_sig == SIGILL);
	/* Privileged: #GP */
	catch (SIGSEGV, on_fault);
	got_sig = 0;
	if (!sigsetjmp(env, 1))
		asm volatile("hlt");
	CHECK(got_sig == SIGSEGV);
	got_sig = 0;
	if (!sigsetjmp(env, 1))
		asm volatile("mov %%cr3, %%rax" ::: "rax");
	CHECK(got_sig == SIGSEGV);
	got_sig = 0;
	if (!sigsetjmp(env, 1))
		asm volatile("cli");
	CHECK(got_sig == SIGSEGV);
	return 0;
}

static volatile sig_atomic_t traps;
static volatile uintptr_t trap_rip[64];

static void on_trap(int sig, siginfo_t *si, void *uc_)
{
	ucontext_t *uc = uc_;

	if (traps < 64)
		trap_rip[traps] = uc->uc_mcontext.gregs[REG_RIP];
	traps = traps + 1;
	if (sig == SIGTRAP && traps >= 20)
		uc->uc_mcontext.gregs[REG_EFL] &= ~0x100l;
}

static int test_int3_and_step(void)
{
	uintptr_t after;

	catch (SIGTRAP, on_trap);
	traps = 0;
	asm volatile("int3\n1: lea 1b(%%rip), %0" : "=r"(after));
	CHECK(traps == 1 && trap_rip[0] == after);
	/* Single step: each instruction once, until the handler clears TF. */
	traps = 1;
	asm volatile("pushfq\n orq $0x100, (%%rsp)\n popfq\n"
		     ".rept 30\n nop\n .endr\n" ::
			     : "memory", "cc");
	CHECK(traps == 20);
	for (int i = 2; i < 20; i++)
		CHECK(trap_rip[i] == trap_rip[i - 1] + 1);
	return 0;
}

static volatile sig_atomic_t ticks;

static void on_tick(int sig)
{
	ticks = ticks + 1;
}

static int test_timer_signal(void)
{
	struct itimerval it = {{0, 2000}, {0, 2000}}, off = {{0, 0}, {0, 0}};
	double t = now_s();
	volatile uint64_t spin = 0;

	signal(SIGALRM, on_tick);
	ticks = 0;
	setitimer(ITIMER_REAL, &it, NULL);
	while (ticks < 10 && now_s() - t < 20)
		spin = spin + 1;
	setitimer(ITIMER_REAL, &off, NULL);
	CHECK(ticks >= 10);
	CHECK(spin > 0);
	/* A loop without a call or a system call is interrupted too. */
	ticks = 0;
	setitimer(ITIMER_REAL, &it, NULL);
	while (ticks < 3)
		;
	setitimer(ITIMER_REAL, &off, NULL);
	return 0;
}

static int test_altstack(void)
{
	stack_t ss = {.ss_size = 65536}, none = {.ss_flags = SS_DISABLE};
	struct sigaction sa = {.sa_sigaction = on_fault,
			       .sa_flags = SA_SIGINFO | SA_ONSTACK};
	uintptr_t sp;

	ss.ss_sp = malloc(ss.ss_size);
	CHECK(ss.ss_sp);
	sigaltstack(&ss, NULL);
	sigaction(SIGSEGV, &sa, NULL);
	got_sig = 0;
	asm volatile("mov %%rsp, %0" : "=r"(sp));
	if (!sigsetjmp(env, 1)) /* a push with no stack at all */
		asm volatile("mov %%rsp, %%rbx\n mov $16, %%esp\n push %%rax\n"
			     "mov %%rbx, %%rsp" ::
				     : "rbx", "memory");
	CHECK(got_sig == SIGSEGV && got_addr == 8);
	(void)sp;
	sigaltstack(&none, NULL);
	free(ss.ss_sp);
	return 0;
}

/* ---- memory ---- */

static int test_mmap(void)
{
	size_t n = 8 << 20;
	uint8_t *p = mmap(NULL, n, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *q;

	CHECK(p != MAP_FAILED);
	for (size_t i = 0; i < n; i += 4096)
		CHECK(p[i] == 0);
	for (size_t i = 0; i < n; i += 4096)
		p[i] = i >> 12;
	q = mremap(p, n, n * 2, MREMAP_MAYMOVE);
	CHECK(q != MAP_FAILED);
	for (size_t i = 0; i < n; i += 4096)
		CHECK(q[i] == (uint8_t)(i >> 12));
	CHECK(!madvise(q, n, MADV_DONTNEED));
	for (size_t i = 0; i < n; i += 4096)
		CHECK(q[i] == 0);
	CHECK(!mprotect(q, 4096, PROT_NONE));
	catch (SIGSEGV, on_fault);
	got_sig = 0;
	if (!sigsetjmp(env, 1))
		*(volatile uint8_t *)q = 1;
	CHECK(got_sig == SIGSEGV);
	CHECK(!mprotect(q, 4096, PROT_READ | PROT_WRITE));
	*q = 7;
	CHECK(*q == 7);
	munmap(q, n * 2);
	return 0;
}

static int test_cow(void)
{
	volatile uint8_t *p = mmap(NULL, 64 * 4096, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int st, fd[2];
	char c;

	for (int i = 0; i < 64; i++)
		p[i * 4096] = i;
	CHECK(!pipe(fd));
	for (int round = 0; round < 8; round++) {
		pid_t pid = fork();

		CHECK(pid >= 0);
		if (!pid) {
			for (int i = 0; i < 64; i++) {
				if (p[i * 4096] != (uint8_t)(i + round))
					_exit(1);
				p[i * 4096] = 0xff;
			}
			(void)!write(fd[1], "x", 1);
			_exit(0);
		}
		CHECK(read(fd[0], &c, 1) == 1);
		for (int i = 0; i < 64; i++) {
			CHECK(p[i * 4096] == (uint8_t)(i + round));
			p[i * 4096] = i + round + 1;
		}
		CHECK(waitpid(pid, &st, 0) == pid && st == 0);
	}
	close(fd[0]);
	close(fd[1]);
	munmap((void *)p, 64 * 4096);
	return 0;
}

/* Unaligned accesses over a page boundary, of every size. */
static int test_straddle(void)
{
	uint8_t *p = mmap(NULL, 12288, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t v = 0x1122334455667788ull, r;

	for (int o = 4088; o <= 4096; o++) {
		memcpy(p + o, &v, 8);
		memcpy(&r, p + o, 8);
		CHECK(r == v);
		CHECK(*(volatile uint32_t *)(p + o + 2) == 0x33445566);
	}
	munmap(p + 4096, 4096);
	catch (SIGSEGV, on_fault);
	got_sig = 0;
	memset(p + 4088, 0xaa, 8);
	if (!sigsetjmp(env, 1))
		*(volatile uint64_t *)(p + 4092) = v;
	CHECK(got_sig == SIGSEGV && got_addr == (uintptr_t)p + 4096);
	CHECK(p[4092] == 0xaa && p[4095] == 0xaa); /* nothing written */
	munmap(p, 4096);
	munmap(p + 8192, 4096);
	return 0;
}

static int test_strings(void)
{
	uint8_t *p = malloc(3 * 65536), *a = p, *b = p + 65536, *d, *s;
	unsigned long c, same;

	for (int i = 0; i < 65536; i++)
		a[i] = i * 7 + (i >> 8);
	d = b, s = a, c = 65536;
	asm volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(c)::"memory");
	CHECK(d == b + 65536 && s == a + 65536 && c == 0);
	CHECK(!memcmp(a, b, 65536));
	d = b + 65535, s = b + 65527, c = 1000; /* backwards, overlapping */
	asm volatile("std; rep movsb; cld"
		     : "+D"(d), "+S"(s), "+c"(c)::"memory");
	CHECK(!memcmp(b + 65536 - 1000, a + 65536 - 1008, 1000));
	d = b, c = 1000;
	asm volatile("rep stosq"
		     : "+D"(d), "+c"(c)
		     : "a"(0x0102030405060708ull)
		     : "memory");
	CHECK(d == b + 8000 && b[7999] == 1 && b[0] == 8);
	b[5000] = 0x55;
	d = b, c = 8000;
	asm volatile("repne scasb" : "+D"(d), "+c"(c) : "a"(0x55) : "memory");
	CHECK(d == b + 5001 && c == 8000 - 5001);
	memcpy(b, a, 1000);
	b[777] ^= 1;
	d = b, s = a, c = 1000;
	asm volatile("repe cmpsb; sete %b3"
		     : "+D"(d), "+S"(s), "+c"(c), "=&a"(same)::"memory");
	CHECK(d == b + 778 && (same & 1) == 0 && c == 1000 - 778);
	free(p);
	return 0;
}

/* ---- self-modifying code ---- */

static int test_jit(void)
{
	/* mov eax, imm32; ret */
	static const uint8_t code[] = {0xb8, 0, 0, 0, 0, 0xc3};
	uint8_t *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE | PROT_EXEC,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int (*fn)(void) = (int (*)(void))p;

	CHECK(p != MAP_FAILED);
	memcpy(p, code, sizeof(code));
	for (uint32_t i = 0; i < 2000; i++) {
		memcpy(p + 1, &i, 4);
		CHECK(fn() == (int)i);
	}
	/* Across the page boundary, each half changed in turn. */
	fn = (int (*)(void))(p + 4093);
	memcpy(p + 4093, code, sizeof(code));
	for (uint32_t i = 0; i < 500; i++) {
		uint32_t v = i * 0x01010101u;

		memcpy(p + 4094, &v, 4);
		CHECK(fn() == (int)v);
	}
	munmap(p, 8192);
	return 0;
}

/* A write to the very next instruction must be seen (SDM vol. 3, 8.1.3, what
 * processors do). */
static int test_smc_self(void)
{
	/* movb $imm, 1(next); next: mov al, 0; movzx eax, al; ret
	 * 88 0d rel32 = mov [rip+rel], cl */
	static const uint8_t code[] = {0x89, 0xf9, /* mov ecx, edi */
				       0x88, 0x0d, 1,	 0,   0, 0, /* -> imm */
				       0xb0, 0x00, /* mov al, imm */
				       0x0f, 0xb6, 0xc0, 0xc3};
	uint8_t *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int (*fn)(int) = (int (*)(int))p;

	CHECK(p != MAP_FAILED);
	memcpy(p, code, sizeof(code));
	for (int i = 0; i < 600; i++)
		CHECK(fn(i & 255) == (i & 255));
	munmap(p, 4096);
	return 0;
}

/* Code changed through another mapping of the same page. */
static int test_smc_alias(void)
{
	static const uint8_t code[] = {0xb8, 0, 0, 0, 0, 0xc3};
	int fd = memfd_create("jit", 0);
	uint8_t *w, *x;

	CHECK(fd >= 0 && !ftruncate(fd, 4096));
	w = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	x = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	CHECK(w != MAP_FAILED && x != MAP_FAILED);
	memcpy(w, code, sizeof(code));
	for (int i = 0; i < 600; i++) {
		memcpy(w + 1, &i, 4);
		asm volatile("cpuid"
			     : "=a"(*(int[1]){0})
			     : "a"(0)
			     : "ebx", "ecx", "edx", "memory");
		CHECK(((int (*)(void))x)() == i);
	}
	munmap(w, 4096);
	munmap(x, 4096);
	close(fd);
	return 0;
}

/* ---- arithmetic ---- */

static int test_flags(void)
{
	uint64_t f;
	uint8_t c, o;

	asm volatile("mov $0x7fffffff, %%eax; add $1, %%eax; pushfq; pop %0"
		     : "=r"(f)::"eax", "cc");
	CHECK((f & 0x8d5) == 0x894); /* OF SF PF AF */
	asm volatile("mov $0x80, %%al; sub $1, %%al; seto %0; setc %1"
		     : "=r"(o), "=r"(c)::"eax", "cc");
	CHECK(o == 1 && c == 0);
	asm volatile("stc; mov $-1, %%rax; adc $0, %%rax; pushfq; pop %0"
		     : "=r"(f)::"rax", "cc");
	CHECK((f & 0x8d5) == 0x055); /* ZF AF PF CF */
	asm volatile("mov $1, %%eax; mov $33, %%ecx; shl %%cl, %%eax; "
		     "mov %%rax, %0"
		     : "=r"(f)::"eax", "ecx", "cc");
	CHECK(f == 2);
	/* Shift by zero leaves the flags alone. */
	asm volatile("stc; mov $0, %%ecx; shl %%cl, %%rax; setc %0"
		     : "=r"(c)::"rax", "ecx", "cc");
	CHECK(c == 1);
	/* inc keeps CF; lahf/sahf; cmc */
	asm volatile("stc; mov $5, %%eax; inc %%eax; setc %0; cmc; setc %1"
		     : "=r"(c), "=r"(o)::"eax", "cc");
	CHECK(c == 1 && o == 0);
	asm volatile("mov $0xd5, %%ah; sahf; pushfq; pop %0"
		     : "=r"(f)::"rax", "cc");
	CHECK((f & 0xff) == 0xd7);
	/* A system call keeps the flags of the caller. */
	asm volatile("mov $39, %%eax; stc; syscall; setc %0"
		     : "=r"(c)::"rax", "rcx", "r11", "cc");
	CHECK(c == 1);
	return 0;
}

static int test_muldiv(void)
{
	uint64_t x = 0x9e3779b97f4a7c15ull, h = 0, hi, lo, q, r;

	for (int i = 0; i < 10000; i++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		asm("mulq %3" : "=a"(lo), "=d"(hi) : "a"(x), "r"(h | 1));
		asm("divq %4"
		    : "=a"(q), "=d"(r)
		    : "a"(lo), "d"(hi), "r"(h | 1));
		CHECK(q == x && r == 0);
		h = h * 31 + hi + lo;
	}
	CHECK(h == 0x02772c03071193f7ull);
	return 0;
}

static int test_bits(void)
{
	uint64_t b = 0x8000000000010000ull, i, mem[4] = {0};
	uint8_t c;

	asm("bsf %1, %0" : "=r"(i) : "r"(b) : "cc");
	CHECK(i == 16);
	asm("bsr %1, %0" : "=r"(i) : "r"(b) : "cc");
	CHECK(i == 63);
	/* A bit offset in a register reaches outside the operand. */
	i = 130;
	asm volatile("btsq %2, %1; setc %0"
		     : "=r"(c), "+m"(mem)
		     : "r"(i)
		     : "cc");
	CHECK(!c && mem[2] == 4);
	i = -62l;
	asm volatile("btcq %1, %0" : "+m"(mem[3]) : "r"(i) : "cc", "memory");
	CHECK(mem[2] == 0);
	i = 0x0123456789abcdefull;
	asm("bswap %0" : "+r"(i));
	CHECK(i == 0xefcdab8967452301ull);
	asm("shld $12, %1, %0" : "+r"(i) : "r"(0xabc0000000000000ull) : "cc");
	CHECK(i == 0xdab8967452301abcull);
	return 0;
}

static int test_atomics(void)
{
	uint64_t m = 5, old = 5;
	unsigned __int128 w = 1;
	uint64_t *h = (uint64_t *)&w;
	uint8_t z;

	CHECK(__atomic_fetch_add(&m, 3, __ATOMIC_SEQ_CST) == 5 && m == 8);
	CHECK(!__atomic_compare_exchange_n(&m, &old, 9, 0, 5, 5) && old == 8);
	CHECK(__atomic_compare_exchange_n(&m, &old, 9, 0, 5, 5) && m == 9);
	asm volatile("lock cmpxchg16b %1; setz %0"
		     : "=r"(z), "+m"(w)
		     : "a"(1), "d"(0), "b"(7), "c"(8)
		     : "cc", "memory");
	CHECK(z && h[0] == 7 && h[1] == 8);
	asm volatile("lock xaddl %%eax, %0" : "+m"(m) : "a"(1) : "memory");
	CHECK(m == 10);
	return 0;
}

static int test_x87(void)
{
	long double r = 0, pi;
	uint16_t cw, cw2 = 0x0f7f;
	int32_t n;

	asm("fldpi" : "=t"(pi));
	asm("fsin" : "=t"(r) : "0"(pi / 6));
	CHECK(r > 0.4999999999999999L && r < 0.5000000000000001L);
	r = 2;
	asm("fsqrt" : "+t"(r));
	CHECK((double)r == 1.4142135623730951);
	asm volatile("fnstcw %0; fldcw %1" : "=m"(cw) : "m"(cw2));
	asm volatile("fldpi; fistpl %0" : "=m"(n)); /* truncating */
	asm volatile("fldcw %0" ::"m"(cw));
	CHECK(n == 3 && cw == 0x37f);
	return 0;
}

static int test_sse(void)
{
	float out[4];
	double s = 0;
	uint32_t csr;
	int n;

	_mm_storeu_ps(out,
		      _mm_mul_ps(_mm_setr_ps(1, 2, 3, 4), _mm_set1_ps(1.5f)));
	CHECK(out[0] == 1.5f && out[3] == 6.0f);
	for (int i = 1; i <= 100000; i++)
		s += 1.0 / i;
	CHECK(s == 12.090146129863335);
	csr = _mm_getcsr();
	_mm_setcsr((csr & ~0x6000) | 0x4000); /* up */
	asm volatile("cvtsd2si %1, %0" : "=r"(n) : "x"(2.1));
	_mm_setcsr(csr);
	CHECK(n == 3);
	asm volatile("cvtsd2si %1, %0" : "=r"(n) : "x"(2.1));
	CHECK(n == 2);
	return 0;
}

/* An unmasked SIMD exception is a SIGFPE. */
static int test_mxcsr_trap(void)
{
	uint32_t csr = _mm_getcsr();
	volatile double zero = 0;

	catch (SIGFPE, on_fault);
	got_sig = 0;
	if (!sigsetjmp(env, 1)) {
		_mm_setcsr(csr & ~0x200);
		zero = 1.0 / zero;
	}
	_mm_setcsr(csr);
	CHECK(got_sig == SIGFPE);
	return 0;
}

static __attribute__((target("avx2"))) int avx2_body(void)
{
	__m256i a = _mm256_set1_epi32(0), b;
	int32_t o[8];

	for (int i = 0; i < 1000; i++) {
		b = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
				     _mm256_set1_epi32(i));
		a = _mm256_add_epi32(a, _mm256_mullo_epi32(b, b));
		if (i % 100 == 0) /* survives a system call */
			syscall(39);
	}
	_mm256_storeu_si256((__m256i *)o, a);
	CHECK(o[0] == 332833500);
	CHECK(o[7] == 339875500);
	return 0;
}

static uint64_t xgetbv0(void)
{
	uint32_t a, d;

	asm volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
	return a | (uint64_t)d << 32;
}

static int test_avx(void)
{
	if (!__builtin_cpu_supports("avx2"))
		return 0;
	return avx2_body();
}

/* CPUID, XGETBV and leaf 0xd must tell one story. */
static int test_cpuid(void)
{
	uint32_t a, b, c, d, a1, b1, c1, d1, c7, max;
	uint64_t mask, x;

	max = __get_cpuid_max(0, NULL);
	CHECK(max >= 1);
	__cpuid(1, a1, b1, c1, d1);
	CHECK(d1 & 1u && d1 & bit_SSE2 && d1 & bit_CMOV);
	if (!(c1 & bit_OSXSAVE)) {
		CHECK(!__builtin_cpu_supports("avx"));
		return 0;
	}
	CHECK(c1 & bit_XSAVE);
	CHECK(max >= 0xd);
	x = xgetbv0();
	__cpuid_count(0xd, 0, a, b, c, d);
	mask = a | (uint64_t)d << 32;
	CHECK((x & 3) == 3 && (x & ~mask) == 0);
	CHECK(b <= c && b >= 576);
	if (x & 4) {
		uint32_t sz, off, e, f;

		__cpuid_count(0xd, 2, sz, off, e, f);
		CHECK(sz == 256 && off >= 576 && off + sz <= c);
		CHECK(b >= off + sz);
	}
	c7 = 0;
	if (max >= 7) {
		__cpuid_count(7, 0, a, c7, c, d);
		if (!(x & 4))
			CHECK(!(c7 & bit_AVX2) || !(x & 4));
		if ((x & 0xe0) != 0xe0) /* state off: users must not see it */
			CHECK(!__builtin_cpu_supports("avx512f"));
	}
	/* What is told must run. */
	if (c7 & bit_BMI2) {
		uint64_t r;

		asm("pdep %2, %1, %0" : "=r"(r) : "r"(0xful), "r"(0x1111ul));
		CHECK(r == 0x1111);
	}
	if (c1 & bit_POPCNT) {
		uint64_t r;

		asm("popcnt %1, %0" : "=r"(r) : "r"(0xf0f0ul) : "cc");
		CHECK(r == 8);
	}
	return 0;
}

static int test_tsc(void)
{
	uint64_t t0 = __builtin_ia32_rdtsc(), t1, last = t0;
	double w0 = now_s(), w1;

	for (int i = 0; i < 10000; i++) {
		t1 = __builtin_ia32_rdtsc();
		CHECK(t1 >= last);
		last = t1;
	}
	usleep(20000);
	w1 = now_s();
	t1 = __builtin_ia32_rdtsc();
	CHECK(w1 - w0 >= 0.02);
	/* between 0.5 and 10 GHz: the clock and the counter agree roughly */
	CHECK((t1 - t0) / (w1 - w0) > 5e8 && (t1 - t0) / (w1 - w0) < 1e10);
	return 0;
}

static int test_clock(void)
{
	struct timespec a, b;

	clock_gettime(CLOCK_MONOTONIC, &a);
	for (int i = 0; i < 20000; i++) {
		clock_gettime(CLOCK_MONOTONIC, &b);
		CHECK(b.tv_sec > a.tv_sec ||
		      (b.tv_sec == a.tv_sec && b.tv_nsec >= a.tv_nsec));
		a = b;
	}
	return 0;
}

/* ---- control flow ---- */

static int test_longjmp(void)
{
	static jmp_buf jb;
	volatile int n = 0;

	if (setjmp(jb) < 1000) {
		n = n + 1;
		longjmp(jb, n);
	}
	CHECK(n == 1000);
	return 0;
}

static __attribute__((noipa)) int deep(int n)
{
	volatile char pad[256];

	pad[n & 255] = n;
	return n ? deep(n - 1) + pad[n & 255] * 0 + 1 : 0;
}

static int test_deep_stack(void)
{
	CHECK(deep(15000) == 15000);
	return 0;
}

typedef int (*op_fn)(int);
static __attribute__((noipa)) int op0(int x)
{
	return x + 1;
}
static __attribute__((noipa)) int op1(int x)
{
	return x * 3;
}
static __attribute__((noipa)) int op2(int x)
{
	return x ^ 0x55;
}
static __attribute__((noipa)) int op3(int x)
{
	return x - 7;
}

static int test_indirect(void)
{
	static op_fn const ops[] = {op0, op1, op2, op3};
	uint32_t s = 1;
	int x = 0;

	for (int i = 0; i < 200000; i++) {
		s = s * 1103515245 + 12345;
		x = ops[s >> 30](x) & 0xffffff;
		switch (s >> 20 & 7) {
		case 0:
			x += 11;
			break;
		case 1:
			x ^= 0x1234;
			break;
		case 2:
			x -= 3;
			break;
		case 3:
			x |= 1;
			break;
		case 4:
			x += x >> 3;
			break;
		case 5:
			x ^= x << 1;
			break;
		case 6:
			x += 99;
			break;
		default:
			x = ~x & 0xffffff;
			break;
		}
		x &= 0xffffff;
	}
	CHECK(x == 10243879);
	return 0;
}

/* ---- the kernel's services ---- */

static int test_pipe(void)
{
	int fd[2], st;
	char buf[4096];
	long total = 0;
	pid_t pid;
	ssize_t n;
	uint32_t sum = 0;

	CHECK(!pipe(fd));
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		close(fd[0]);
		for (int i = 0; i < 256; i++) {
			memset(buf, i, sizeof(buf));
			if (write(fd[1], buf, sizeof(buf)) != sizeof(buf))
				_exit(1);
		}
		_exit(0);
	}
	close(fd[1]);
	while ((n = read(fd[0], buf, sizeof(buf))) > 0) {
		for (ssize_t i = 0; i < n; i++)
			sum += (uint8_t)buf[i];
		total += n;
	}
	close(fd[0]);
	CHECK(waitpid(pid, &st, 0) == pid && st == 0);
	CHECK(total == 256 * 4096 && sum == 4096u * (255 * 256 / 2));
	return 0;
}

static _Thread_local long tls_sum;
static long total;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void *thread_fn(void *arg)
{
	for (long i = 0; i < 20000; i++) {
		tls_sum += (long)arg;
		if (i % 1000 == 0)
			sched_yield();
	}
	pthread_mutex_lock(&lock);
	total += tls_sum;
	pthread_mutex_unlock(&lock);
	return NULL;
}

static int test_threads(void)
{
	pthread_t t[8];

	total = 0;
	for (long i = 0; i < 8; i++)
		CHECK(!pthread_create(&t[i], NULL, thread_fn, (void *)(i + 1)));
	for (int i = 0; i < 8; i++)
		CHECK(!pthread_join(t[i], NULL));
	CHECK(total == 36 * 20000);
	CHECK(tls_sum == 0);
	return 0;
}

/* Vector and x87 state of processes that preempt each other stays apart. */
static int test_fpu_switch(void)
{
	pid_t pid[3];
	int st, bad = 0;

	for (int k = 0; k < 3; k++) {
		pid[k] = fork();
		CHECK(pid[k] >= 0);
		if (!pid[k]) {
			double t = now_s(), x = k + 1, y;
			long n = 0;

			do {
				asm volatile("movsd %1, %%xmm9\n"
					     "mov $2000, %%ecx\n"
					     "1: dec %%ecx; jnz 1b\n"
					     "movsd %%xmm9, %0"
					     : "=m"(y)
					     : "m"(x)
					     : "xmm9", "ecx");
				if (y != x)
					_exit(1);
				n++;
			} while (now_s() - t < 0.15);
			_exit(n == 0);
		}
	}
	for (int k = 0; k < 3; k++) {
		CHECK(waitpid(pid[k], &st, 0) == pid[k]);
		bad |= st;
	}
	CHECK(!bad);
	return 0;
}

static int test_exec(void)
{
	int st;
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (!pid) {
		execl("/proc/self/exe", "selftest", "--child", NULL);
		_exit(1);
	}
	CHECK(waitpid(pid, &st, 0) == pid);
	CHECK(WIFEXITED(st) && WEXITSTATUS(st) == 42);
	return 0;
}

/* 32-bit system calls (INT 0x80) and segment loads from user space. */
static int test_int80(void)
{
	long r;

	asm volatile("int $0x80"
		     : "=a"(r)
		     : "a"(20) /* getpid */
		     : "memory", "r8", "r9", "r10", "r11");
	CHECK(r == getpid() || r == -ENOSYS);
	return 0;
}

static int test_segments(void)
{
	uint16_t ds, cs, ss;

	asm volatile("mov %%ds, %0; mov %%cs, %1; mov %%ss, %2"
		     : "=r"(ds), "=r"(cs), "=r"(ss));
	CHECK((cs & 3) == 3 && (ss & 3) == 3);
	asm volatile("mov %0, %%es; mov %1, %%es" ::"r"(ss), "r"(ds));
	catch (SIGSEGV, on_fault);
	got_sig = 0;
	if (!sigsetjmp(env, 1))
		asm volatile("mov %0, %%es" ::"r"((uint16_t)0xfff8));
	CHECK(got_sig == SIGSEGV);
	return 0;
}

static const struct {
	const char *name;
	int (*fn)(void);
} tests[] = {
	{"flags", test_flags},
	{"muldiv", test_muldiv},
	{"bits", test_bits},
	{"atomics", test_atomics},
	{"x87", test_x87},
	{"sse", test_sse},
	{"mxcsr-trap", test_mxcsr_trap},
	{"avx", test_avx},
	{"cpuid", test_cpuid},
	{"strings", test_strings},
	{"longjmp", test_longjmp},
	{"deep-stack", test_deep_stack},
	{"indirect", test_indirect},
	{"segments", test_segments},
	{"sigsegv", test_sigsegv},
	{"sigfpe", test_sigfpe},
	{"sigill", test_sigill},
	{"int3-step", test_int3_and_step},
	{"altstack", test_altstack},
	{"timer-signal", test_timer_signal},
	{"mmap", test_mmap},
	{"cow", test_cow},
	{"straddle", test_straddle},
	{"jit", test_jit},
	{"smc-self", test_smc_self},
	{"smc-alias", test_smc_alias},
	{"pipe", test_pipe},
	{"threads", test_threads},
	{"fpu-switch", test_fpu_switch},
	{"exec", test_exec},
	{"int80", test_int80},
	{"tsc", test_tsc},
	{"clock", test_clock},
};

int selftest_main(int argc, char **argv)
{
	unsigned pass = 0, fail = 0;

	if (argc > 1 && !strcmp(argv[1], "--child"))
		return 42;
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (unsigned i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
		if (argc > 1 && strcmp(argv[1], tests[i].name))
			continue;
		why[0] = 0;
		if (tests[i].fn()) {
			printf("FAIL %s: %s\n", tests[i].name, why);
			fail++;
		} else {
			printf("PASS %s\n", tests[i].name);
			pass++;
		}
	}
	printf("selftest: %u passed, %u failed\n", pass, fail);
	return fail || !pass;
}
