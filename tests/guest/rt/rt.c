/* SPDX-License-Identifier: Apache-2.0 */
/* Console, verdict, traps, run(). The contract is in rt.h. */
#include "tests/guest/rt/rt.h"

unsigned failures;
struct gate idt[256] __attribute__((aligned(16)));
struct tss tss __attribute__((aligned(4096)));
void (*handlers[256])(struct regs *r);
volatile u64 irq_count[256];
u8 user_stack[4 * 4096] __attribute__((section(".user.data"), aligned(4096)));
u8 snip_stack[4 * 4096] __attribute__((aligned(4096)));

static u8 ist_stack[4][16384] __attribute__((aligned(16)));
static u8 rsp0_stack[16384] __attribute__((aligned(16)));
static struct regs *running;
static const char *part_name = "start";
static unsigned skipped;

extern char trap_stubs[], user_start[], user_end[];
void run_enter(struct regs *r);
void run_return(void) __attribute__((noreturn));

/* ---- plain C ---- */
void *memset(void *d, int c, size_t n)
{
	void *r = d;

	asm volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(c) : "memory");
	return r;
}

void *memcpy(void *d, const void *s, size_t n)
{
	void *r = d;

	if (!(n & 7)) {
		n >>= 3;
		asm volatile("rep movsq" : "+D"(d), "+S"(s), "+c"(n)::"memory");
	} else {
		asm volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n)::"memory");
	}
	return r;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const u8 *p = a, *q = b;

	for (; n >= 16 && *(u64 *)p == *(u64 *)q &&
	       ((u64 *)p)[1] == ((u64 *)q)[1]; n -= 16, p += 16, q += 16)
		;
	for (; n; n--, p++, q++)
		if (*p != *q)
			return *p - *q;
	return 0;
}

u64 rnd(void)
{
	static u64 x = 0x9e3779b97f4a7c15ull;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return x * 0x2545f4914f6cdd1dull;
}

/* ---- console ---- */
static void putc(char c)
{
	unsigned spins = 100000;

	while (!(inb(0x3fd) & 0x20) && --spins)
		;
	outb(0x3f8, c);
}

static void put_num(u64 v, unsigned base, int width, char pad, bool neg)
{
	char b[24];
	int n = 0;

	do {
		b[n++] = "0123456789abcdef"[v % base];
		v /= base;
	} while (v);
	if (neg)
		b[n++] = '-';
	for (int i = n; i < width; i++)
		putc(pad);
	while (n)
		putc(b[--n]);
}

static void vprintf(const char *f, va_list ap)
{
	for (; *f; f++) {
		int width = 0, lng = 0;
		char pad = ' ';

		if (*f != '%') {
			putc(*f);
			continue;
		}
		if (*++f == '0')
			pad = '0';
		for (; *f >= '0' && *f <= '9'; f++)
			width = width * 10 + *f - '0';
		for (; *f == 'l'; f++)
			lng = 1;
		switch (*f) {
		case 'd': {
			s64 v = lng ? va_arg(ap, s64) : va_arg(ap, int);

			put_num(v < 0 ? -(u64)v : (u64)v, 10, width, pad, v < 0);
			break;
		}
		case 'u':
		case 'x': {
			u64 v = lng ? va_arg(ap, u64) : va_arg(ap, u32);

			put_num(v, *f == 'u' ? 10 : 16, width, pad, false);
			break;
		}
		case 'p':
			put_num(va_arg(ap, u64), 16, 16, '0', false);
			break;
		case 'c':
			putc(va_arg(ap, int));
			break;
		case 's': {
			const char *s = va_arg(ap, const char *);

			for (; *s; s++, width--)
				putc(*s);
			for (; width > 0; width--)
				putc(' ');
			break;
		}
		default:
			putc(*f);
		}
	}
}

void printf(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
}

static void fail_head(const char *file, int line)
{
	if (++failures > 40) {
		printf("too many failures\n");
		finish();
	}
	printf("FAIL %s:%d [%s] ", file, line, part_name);
}

void check_failed(const char *file, int line, const char *cond,
		  const char *fmt, ...)
{
	va_list ap;

	fail_head(file, line);
	printf("%s: ", cond);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
}

void fail_at(const char *file, int line, const char *fmt, ...)
{
	va_list ap;

	fail_head(file, line);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
}

void skip(const char *what)
{
	skipped++;
	printf("skip: %s\n", what);
}

void part(const char *name)
{
	part_name = name;
}

void finish(void)
{
	cli();
	printf("%s: %u failures, %u skipped\n", failures ? "FAILED" : "PASSED",
	       failures, skipped);
	for (;;)
		outb(0xf4, failures ? 0x11 : 0x10);
}

/* ---- registers ---- */
const char *const gpr_names[NR_GPR] = {
	"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
	"r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15",
};

u64 *reg_n(struct regs *r, unsigned n)
{
	static const u8 at[NR_GPR] = {
		offsetof(struct regs, rax), offsetof(struct regs, rcx),
		offsetof(struct regs, rdx), offsetof(struct regs, rbx),
		offsetof(struct regs, rsp), offsetof(struct regs, rbp),
		offsetof(struct regs, rsi), offsetof(struct regs, rdi),
		offsetof(struct regs, r8),  offsetof(struct regs, r9),
		offsetof(struct regs, r10), offsetof(struct regs, r11),
		offsetof(struct regs, r12), offsetof(struct regs, r13),
		offsetof(struct regs, r14), offsetof(struct regs, r15),
	};

	return (u64 *)((u8 *)r + at[n]);
}

static void regs_init(struct regs *r, const void *code)
{
	memset(r, 0, sizeof(*r));
	for (unsigned i = 0; i < NR_GPR; i++)
		*reg_n(r, i) = 0x0101010101010101ull * (0xa0 + i) ^ 0x1234 * i;
	r->rip = (u64)code;
	r->rflags = 2;
}

void regs_kernel(struct regs *r, const void *code)
{
	regs_init(r, code);
	r->cs = KCS;
	r->ss = KDS;
	r->rsp = KSTACK_TOP;
}

void regs_user(struct regs *r, const void *code)
{
	regs_init(r, code);
	r->cs = UCS;
	r->ss = UDS;
	r->rsp = USTACK_TOP;
}

bool same_regs_at(const char *file, int line, const struct regs *a,
		  const struct regs *b, unsigned mask)
{
	bool ok = true;

	for (unsigned i = 0; i < NR_GPR; i++) {
		u64 x = *reg_n((struct regs *)a, i);
		u64 y = *reg_n((struct regs *)b, i);

		if (x == y || (mask >> i & 1))
			continue;
		fail_at(file, line, "%s is %lx, not %lx", gpr_names[i], y, x);
		ok = false;
	}
	return ok;
}

bool expect_fault_at(const char *file, int line, const struct regs *r, u64 vec,
		     u64 err, u64 rip)
{
	if (r->vec == vec && r->err == err && r->rip == rip)
		return true;
	fail_at(file, line, "vector %lu error %lx rip %lx (cr2 %lx), want "
		"%lu %lx %lx", r->vec, r->err, r->rip, r->cr2, vec, err, rip);
	return false;
}

bool expect_pf_at(const char *file, int line, const struct regs *r, u64 err,
		  u64 rip, u64 cr2)
{
	if (!expect_fault_at(file, line, r, 14, err, rip))
		return false;
	if (r->cr2 == cr2)
		return true;
	fail_at(file, line, "cr2 %lx, want %lx", r->cr2, cr2);
	return false;
}

void tcg_ss(struct regs *r)
{
	if (r->vec == 13 && !r->err && is_tcg())
		r->vec = 12;
}

void tcg_rmw(struct regs *r)
{
	if (r->vec == 14 && is_tcg())
		r->err |= PF_W;
}

void run(struct regs *r)
{
	running = r;
	run_enter(r);
}

void trap_default(struct regs *r)
{
	struct regs *to = running;
	u64 cr2 = r->vec == 14 ? read_cr2() : 0;

	if (to) {
		running = NULL;
		memcpy(to, r, offsetof(struct regs, cr2));
		to->cr2 = cr2;
		run_return();
	}
	fail_at("trap", 0, "unexpected vector %lu error %lx rip %lx cr2 %lx "
		"rsp %lx cs %lx", r->vec, r->err, r->rip, cr2, r->rsp, r->cs);
	finish();
}

/* From trap.S, with the frame at r (without cr2). */
void trap(struct regs *r)
{
	irq_count[r->vec]++;
	if (handlers[r->vec])
		handlers[r->vec](r);
	else
		trap_default(r);
}

/* ---- tables ---- */
void set_gate(unsigned vec, void *entry, unsigned dpl, unsigned ist, bool trap)
{
	u64 e = (u64)entry;

	idt[vec] = (struct gate){
		.off0 = e, .sel = KCS, .off1 = e >> 16, .off2 = e >> 32,
		.attr = ist | (trap ? 0x8f00 : 0x8e00) | dpl << 13,
	};
}

void gate_default(unsigned vec)
{
	bool user = vec == 3 || vec == 4 || vec == VEC_DONE;

	set_gate(vec, trap_stubs + vec * 16, user ? 3 : 0,
		 vec == 8 ? 2 : vec == 2 ? 3 : vec < 32 || vec == VEC_DONE,
		 false);
}

void set_ist(unsigned vec, unsigned ist)
{
	idt[vec].attr = (idt[vec].attr & ~7) | ist;
}

static void tables_init(void)
{
	struct {
		u16 limit;
		u64 base;
	} __attribute__((packed)) idtr = { sizeof(idt) - 1, (u64)idt };
	u64 b = (u64)&tss, lim = sizeof(tss) - 1;

	for (unsigned i = 0; i < 256; i++)
		gate_default(i);
	tss.rsp[0] = (u64)rsp0_stack + sizeof(rsp0_stack);
	for (unsigned i = 1; i <= 4; i++)
		tss.ist[i] = (u64)ist_stack[i - 1] + sizeof(ist_stack[0]);
	tss.iomap = offsetof(struct tss, bits);
	memset(tss.bits, 0xff, sizeof(tss.bits));
	gdt[6] = (lim & 0xffff) | (b & 0xffffff) << 16 | 0x89ull << 40 |
		 (lim >> 16) << 48 | (b >> 24 & 0xff) << 56;
	gdt[7] = b >> 32;
	asm volatile("lidt %0" ::"m"(idtr));
	asm volatile("ltr %w0" ::"r"(TSSEL));
}

void memory_init(void);

void rt_main(void)
{
	outb(0x21, 0xff); /* the 8259s stay quiet */
	outb(0xa1, 0xff);
	outb(0x3f9, 0);
	outb(0x3fb, 3);
	tables_init();
	memory_init();
	main();
	finish();
}
