/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MOV CR3 that is done without a callout (bt/cr3.c): whichever way it is done, what
 * the kernel and user code find behind it is what the new space has there, in the
 * view that they have: memory, the bases of FS and GS, code, and what the interpreter
 * finds in memory. Spaces come and go at random under few PCIDs, and their pages
 * change, with the flushes that this takes.
 */
#include "tests/unit/bt_fixture.h"

#include "vmm/cpu/protection.h"

#define SPACES	 6
#define PCIDS	 4
#define POOL	 24 /* pages of data */
#define CODES	 2

/* In the kernel's half, global. */
#define KERNEL	 0xffffa00000000000ul
#define KHANDLER (KERNEL + 0x1000)
#define KSTACK	 (KERNEL + 0x3000)
#define KGDT	 (KERNEL + 0x4000)
#define KIDT	 (KERNEL + 0x5000)
#define KDATA	 (KERNEL + 0x6000)
#define KTSS	 (KERNEL + 0x8000)
/* And of each space. */
enum { U_CODE, U_DATA, U_FS, U_GS, U_LOW, NR_U };
/* In other places of the ITLB than the kernel. */
#define ASIDE	(5ul << 30 | 0x55000)
#define LOW	0x400000ul
#define U_VA(k) ((k) == U_LOW ? LOW : (40ul + (k)) << 39 | ASIDE)
#define U_STACK (U_VA(U_DATA) + PAGE_SIZE - 8)

static struct fix *f;
static struct bt *bt;
static struct space_of_test {
	uint64_t root;
	unsigned page[NR_U]; /* of the pool; U_CODE: which code */
	unsigned pcid;	     /* the last one, or 0 */
} sp[SPACES];
static int owner[PCIDS + 1];
static unsigned now;
static uint64_t seed = 20261201;

/* mov r15, [rsi] ; stc */
static const uint8_t kernel_begin[] = {0x4c, 0x8b, 0x3e, 0xf9};
/* mov cr3, rax, r10, r11 */
static const enum gpr source[] = {R_RAX, R_R10, R_R11};
static const uint8_t mov_cr3[][4] = {{0x0f, 0x22, 0xd8, 0x90},
				     {0x41, 0x0f, 0x22, 0xda},
				     {0x41, 0x0f, 0x22, 0xdb}};
/* push rax ; pop r12 ; adc r12, 0 ; mov rbx, [rsi] ; mov rdx, fs:[0] ; mov r8, gs:[0] */
static const uint8_t kernel_look[] = {0x50, 0x41, 0x5c, 0x49, 0x83, 0xd4, 0x00,
				      0x48, 0x8b, 0x1e, 0x64, 0x48, 0x8b, 0x14,
				      0x25, 0,	  0,	0,    0,    0x65, 0x4c,
				      0x8b, 0x04, 0x25, 0,    0,    0,	  0};
/* lar r13d, [rsi], by the interpreter; or nothing */
static const uint8_t lar[][4] = {{0x44, 0x0f, 0x02, 0x2e},
				 {0x90, 0x90, 0x90, 0x90}};
/* swapgs ; mov r11d, 2 ; sysretq */
static const uint8_t kernel_end[] = {0x0f, 0x01, 0xf8, 0x41, 0xbb, 2,
				     0,	   0,	 0,    0x48, 0x0f, 0x07};
#define WAYS (ARRAY_SIZE(source) * ARRAY_SIZE(lar))

/* mov eax, imm32 ; mov rbp, [rsi] ; mov r9, fs:[0] ; mov r10, gs:[0] ; jmp rdi */
static const uint8_t user_code[] = {0xb8, 0,	0,    0,    0,	  0x48, 0x8b,
				    0x2e, 0x64, 0x4c, 0x8b, 0x0c, 0x25, 0,
				    0,	  0,	0,    0x65, 0x4c, 0x8b, 0x14,
				    0x25, 0,	0,    0,    0,	  0xff, 0xe7};

/* mov r14d, imm32 ; ud2 */
static const uint8_t user_end[] = {0x41, 0xbe, 0, 0, 0, 0, 0x0f, 0x0b};

/* mov rsp, rdi ; sub rsp, 20h ; mov cr3, rax ; mov rbx, [rsp + 400010h] ; hlt */
static const uint8_t wrap_code[] = {0x48, 0x89, 0xfc, 0x48, 0x83, 0xec, 0x20,
				    0x0f, 0x22, 0xd8, 0x48, 0x8b, 0x9c, 0x24,
				    0x10, 0,	0x40, 0,    0xf4};
#define WRAP 0x800

/* mov cr3, rax ; jmp rcx */
static const uint8_t jump_code[] = {0x0f, 0x22, 0xd8, 0xff, 0xe1};
#define JUMP 0x900

static unsigned pick(unsigned n)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (seed >> 33) % n;
}

static gpa_t data_page(unsigned n)
{
	return 0x600000 + n * PAGE_SIZE;
}

static gpa_t code_page(unsigned n)
{
	return 0x700000 + n * PAGE_SIZE;
}

/* Its low 16 bits are a selector, for LAR. */
static uint64_t content(unsigned n)
{
	static const uint16_t sel[] = {S_CODE64, S_DATA, S_UCODE64, S_CODE32,
				       S_CONF64, S_TSS,	 S_NPDATA};

	return (0xda7a000000ull + n) << 16 | sel[n % ARRAY_SIZE(sel)];
}

/* But for the accessed bit, which may be set meanwhile. */
static uint64_t access_rights(uint64_t sel)
{
	return peek64(f, GDT + (sel & 0xfff8)) >> 32 & 0xf0fe00;
}

static void map_in(unsigned i, unsigned k, unsigned n)
{
	uint64_t cr3 = f->v->cr3;

	f->v->cr3 = sp[i].root;
	map_page(f, U_VA(k), k == U_CODE ? code_page(n) : data_page(n),
		 PTE_P | PTE_U | (k == U_CODE ? 0 : PTE_W));
	f->v->cr3 = cr3;
	sp[i].page[k] = n;
}

static void make_kernel(void)
{
	struct vcpu *v = f->v;
	static const struct {
		gva_t va;
		gpa_t pa;
	} page[] = {{KERNEL, 0x100000},
		    {KHANDLER, 0x101000},
		    {KSTACK - PAGE_SIZE, 0x102000},
		    {KGDT, GDT},
		    {KIDT, IDT},
		    {KDATA, 0x103000},
		    {KTSS, TSS},
		    {KTSS + 0x1000, TSS + 0x1000},
		    {KTSS + 0x2000, TSS + 0x2000}};

	for (unsigned k = 0; k < ARRAY_SIZE(page); k++)
		map_page(f, page[k].va, page[k].pa, PTE_P | PTE_W | PTE_G);
	for (unsigned n = 0; n < WAYS; n++) {
		gpa_t at = 0x100000 + 256 * n;

		poke(f, at, kernel_begin, sizeof(kernel_begin));
		at += sizeof(kernel_begin);
		poke(f, at, mov_cr3[n / 2], sizeof(mov_cr3[0]));
		at += sizeof(mov_cr3[0]);
		poke(f, at, kernel_look, sizeof(kernel_look));
		at += sizeof(kernel_look);
		poke(f, at, lar[n % 2], sizeof(lar[0]));
		poke(f, at + sizeof(lar[0]), kernel_end, sizeof(kernel_end));
	}
	poke(f, 0x100000 + WRAP, wrap_code, sizeof(wrap_code));
	poke(f, 0x100000 + JUMP, jump_code, sizeof(jump_code));
	poke(f, 0x101000, "\xf4", 1);
	poke64(f, 0x103000, 0x6b65726e656cull);
	set_gate(f, EXC_UD, S_CODE64, KHANDLER, 0x8e, 0);
	set_gate(f, EXC_GP, S_CODE64, KHANDLER, 0x8e, 0);
	poke64(f, TSS + 4, KSTACK);
	v->gdtr.base = KGDT;
	v->idtr.base = KIDT;
	v->tr.base = KTSS;
	v->star = 0x1bull << 48 | 8ull << 32;
	v->cr4 |= CR4_PCIDE;
	v->seg[SEG_FS].base = U_VA(U_FS);
}

static int setup(void **state)
{
	bt = bt_setup(&f, (struct vm_config){0});
	make_kernel();
	for (unsigned n = 0; n < POOL; n++)
		poke64(f, data_page(n), content(n));
	for (unsigned n = 0; n < CODES; n++) {
		poke(f, code_page(n), user_code, sizeof(user_code));
		poke32(f, code_page(n) + 1, 1000 + n);
		poke(f, code_page(n) + 0x80, user_end, sizeof(user_end));
		poke32(f, code_page(n) + 0x82, 2000 + n);
	}
	memset(owner, -1, sizeof(owner));
	for (unsigned i = 0; i < SPACES; i++) {
		sp[i] = (struct space_of_test){.root = f->next_table};
		f->next_table += PAGE_SIZE;
		for (unsigned k = 256; k < 512; k++)
			poke64(f, sp[i].root + 8 * k,
			       peek64(f, (f->v->cr3 & CR3_ADDR) + 8 * k));
		map_in(i, U_CODE, i % CODES);
		for (unsigned k = U_DATA; k < NR_U; k++)
			map_in(i, k, pick(POOL));
	}
	now = 0;
	f->v->cr3 = sp[0].root;
	f->v->ops->mode_changed(f->v);
	return 0;
}

static int teardown(void **state)
{
	bt_teardown(&f);
	return 0;
}

/* Another page at a place of a space, and the flush for that, of each PCID that it ran
 * under: now, or when it runs the next time. */
static void change(void)
{
	struct vcpu *v = f->v;
	unsigned i = pick(SPACES), k = pick(NR_U), how = pick(3);

	map_in(i, k, pick(k == U_CODE ? CODES : POOL));
	if (i == now)
		v->ops->tlb_flush(v, TLB_FLUSH_PAGE, 0, U_VA(k));
	for (unsigned p = 1; p <= PCIDS; p++) {
		if (owner[p] != (int)i || (i == now && p == cpu_pcid(v)))
			continue;
		if (how == 0)
			v->ops->tlb_flush(v, TLB_FLUSH_PCID, p, 0);
		else if (how == 1)
			v->ops->tlb_flush(v, TLB_FLUSH_PAGE_PCID, p, U_VA(k));
		else
			owner[p] = -1;
	}
}

/* The value for CR3 that space i goes on with: without a flush only under a PCID that
 * has nothing old, which is mostly its last one. */
static uint64_t cr3_of(unsigned i)
{
	unsigned p = sp[i].pcid;

	if (!p || !pick(8))
		p = 1 + pick(PCIDS);
	sp[i].pcid = p;
	if (owner[p] == (int)i && pick(16))
		return sp[i].root | p | CR3_NOFLUSH;
	owner[p] = i;
	return sp[i].root | p;
}

static void go_kernel(uint64_t rip)
{
	struct vcpu *v = f->v;

	v->cpl = 0;
	v->seg[SEG_CS] = seg_of(S_CODE64, ~0u, 0xa9b);
	v->seg[SEG_SS] = seg_of(S_DATA, ~0u, 0xc93);
	v->seg[SEG_GS].base = KDATA;
	v->kernel_gs_base = U_VA(U_GS);
	v->rip = rip;
	v->rflags = FL_R1;
	for (unsigned k = 0; k < 16; k++)
		v->gpr[k] = ~0ull - k;
	v->gpr[R_RSP] = KSTACK;
}

/* Go to space i, on the kernel's stack or on one of the space. Answers whether that
 * was a callout. */
static bool go(unsigned i, bool own_stack)
{
	const struct reason *r = &bt->reasons.callout[CALLOUT_mov_cr];
	uint64_t out = r->count, in = bt->stats.cr3s, val = cr3_of(i), old;
	unsigned n = pick(WAYS), from = source[n / 2];
	struct vcpu *v = f->v;

	go_kernel(KERNEL + 256 * n);
	if (own_stack)
		v->gpr[R_RSP] = U_STACK;
	v->gpr[R_RAX] = 0x5eed;
	v->gpr[from] = val;
	v->gpr[R_RSI] = U_VA(U_DATA);
	v->gpr[R_RCX] = U_VA(U_CODE);
	v->gpr[R_RDI] = U_VA(U_CODE) + 0x80;
	old = content(sp[now].page[U_DATA]);
	run_to_halt(&engine_bt, v);
	now = i;
	assert_int_equal(v->rip, KHANDLER + 1);
	assert_int_equal(v->cr3, val & ~CR3_NOFLUSH);
	assert_int_equal(v->gpr[R_R15], old);
	val = from == R_RAX ? val : 0x5eed;
	assert_int_equal(v->gpr[R_R12], val + 1);
	if (own_stack)
		assert_int_equal(peek64(f, data_page(sp[i].page[U_DATA]) +
						   PAGE_SIZE - 16),
				 val);
	assert_int_equal(v->gpr[R_RBX], content(sp[i].page[U_DATA]));
	assert_int_equal(v->gpr[R_RBP], content(sp[i].page[U_DATA]));
	assert_int_equal(v->gpr[R_RDX], content(sp[i].page[U_FS]));
	assert_int_equal(v->gpr[R_R9], content(sp[i].page[U_FS]));
	assert_int_equal(v->gpr[R_R8], 0x6b65726e656cull);
	assert_int_equal(v->gpr[R_R10], content(sp[i].page[U_GS]));
	if (n % 2 == 0)
		assert_int_equal(v->gpr[R_R13] & 0xf0fe00,
				 access_rights(content(sp[i].page[U_DATA])));
	assert_int_equal(v->gpr[R_RAX], 1000 + sp[i].page[U_CODE]);
	assert_int_equal(v->gpr[R_R14], 2000 + sp[i].page[U_CODE]);
	assert_int_equal(v->seg[SEG_FS].base, U_VA(U_FS));
	assert_int_equal(r->count - out + bt->stats.cr3s - in, 1);
	return r->count != out;
}

static void test_turns(void **state)
{
	unsigned out = 0;

	for (unsigned n = 0; n < 40; n++)
		go(n % 2, false);
	for (unsigned n = 0; n < 1000; n++)
		out += go(n % 2, false);
	/* Some are with a flush or another PCID, and the next may have to look. */
	assert_in_range(out, 50, 600);
	assert_int_equal(tc_audit(bt), 0);
}

static void test_random(void **state)
{
	unsigned out = 0;

	for (unsigned n = 0; n < 20000; n++) {
		if (pick(4) == 0)
			change();
		out += go(pick(SPACES), pick(3) == 0);
		if (n % 1000 == 0)
			assert_int_equal(tc_audit(bt), 0);
	}
	assert_in_range(out, 1000, 16000);
}

/* RSP has been moved out of the space's half before the write, without a touch, and an
 * access off it is in that half. */
static void test_wrapped_stack(void **state)
{
	struct vcpu *v = f->v;

	for (unsigned n = 0; n < 200; n++) {
		unsigned i = pick(SPACES);

		go_kernel(KERNEL + WRAP);
		v->gpr[R_RAX] = cr3_of(i);
		v->gpr[R_RDI] = 0x10;
		run_to_halt(&engine_bt, v);
		now = i;
		assert_int_equal(v->gpr[R_RBX], content(sp[i].page[U_LOW]));
	}
	assert_in_range(bt->stats.cr3s, 50, 199);
}

/* The kernel's own code in the half of the spaces: what is there now is run. */
static void test_low_code(void **state)
{
	struct vcpu *v = f->v;

	for (unsigned n = 0; n < 500; n++) {
		unsigned i = pick(SPACES);

		go_kernel(KERNEL + JUMP);
		v->gpr[R_RAX] = cr3_of(i);
		v->gpr[R_RCX] = U_VA(U_CODE);
		v->gpr[R_RSI] = U_VA(U_DATA);
		v->gpr[R_RDI] = U_VA(U_CODE) + 0x80;
		v->seg[SEG_GS].base = U_VA(U_GS);
		run_to_halt(&engine_bt, v);
		now = i;
		assert_int_equal(v->gpr[R_RAX], 1000 + sp[i].page[U_CODE]);
		assert_int_equal(v->gpr[R_R14], 2000 + sp[i].page[U_CODE]);
		assert_int_equal(v->gpr[R_R10], content(sp[i].page[U_GS]));
		if (n % 3 == 0)
			go(pick(SPACES), false);
	}
}

/* Of a value that is none, #GP is the interpreter's. */
static void test_bad_value(void **state)
{
	struct vcpu *v = f->v;
	uint64_t in, cr3;

	for (unsigned n = 0; n < 10; n++)
		go(n % 2, false);
	in = bt->stats.cr3s;
	cr3 = v->cr3;
	go_kernel(KERNEL);
	v->gpr[R_RSI] = U_VA(U_DATA);
	v->gpr[R_RAX] = cr3 | CR3_NOFLUSH | 1ull << 60;
	run_to_halt(&engine_bt, v);
	assert_int_equal(v->rip, KHANDLER + 1);
	assert_int_equal(peek64(f, 0x102000 + PAGE_SIZE - 40),
			 KERNEL + sizeof(kernel_begin));
	assert_int_equal(v->cr3, cr3);
	assert_int_equal(bt->stats.cr3s, in);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_turns),	  T(test_random),    T(test_wrapped_stack),
		T(test_low_code), T(test_bad_value),
	};

	return cmocka_run_group_tests_name("bt_cr3", tests, NULL, NULL);
}
