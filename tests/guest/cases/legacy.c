/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 32-bit and 16-bit protected mode, real mode, 32-bit paging: what
 * legacy_asm.S found before long mode; then compatibility mode from here.
 */
#include "tests/guest/rt/enc.h"

extern volatile u32 leg[256];
extern char code16[];
#define NONE 0xffffffffu
#define AC(al, f) ((al) | (f) << 16)

static void check32(void)
{
	static const struct {
		u16 n;
		u32 want;
	} t[] = {
		{ 0, 0xcafe0001 }, { 1, 0x77 },
		{ 2, 13 }, { 3, 0 }, { 4, 0 },		/* limit */
		{ 5, 13 }, { 6, 0 }, { 7, 0 },
		{ 8, NONE }, { 11, 13 },
		{ 14, 13 }, { 17, NONE },		/* expand-down */
		{ 20, NONE }, { 23, 13 }, { 24, 0 },	/* read-only */
		{ 26, 13 }, { 29, 0x01020304 }, { 30, 13 },
		{ 33, 11 }, { 34, 0x50 }, { 36, 13 }, { 37, 0x48 },
		{ 39, 13 }, { 40, 0x200 }, { 42, 13 }, { 43, 0 },
		{ 45, 12 }, { 46, 0x50 }, { 48, 13 }, { 49, 0x10 },
		{ 51, 13 }, { 52, 0x58 },
		{ 54, 0x4321 }, { 55, 0x1000 }, { 57, 0x10 },
		{ 60, AC(1, 0x11) }, { 61, 0x45 }, { 62, AC(0x10, 0x10) },
		{ 63, AC(0x7b, 0x11) }, { 64, AC(0x88, 0x11) },
		{ 65, AC(0x36, 0x10) }, { 66, AC(0x0601, 0x11) },
		{ 67, 0x0509 }, { 68, AC(0x0109, 0x11) }, { 69, 0x0204 },
		{ 70, AC(0x0603, 0x04) }, { 71, AC(0x3f, 0x04) },
		{ 72, 0x0f0f }, { 73, 0 }, { 75, 0 },
		{ 76, 0x1d }, { 77, 0x55550077 }, { 78, 0x7fffffff },
		{ 79, 0x01020304 }, { 80, 0x10 }, { 81, NONE }, { 84, 5 },
		{ 86, 0 }, { 87, 4 }, { 89, 1 }, { 90, NONE }, { 93, 0x13 },
		{ 94, 0xff }, { 95, 0x105 }, { 96, 13 }, { 97, 0x382 },
		{ 98, 0 }, { 99, 8 }, { 100, 0xfc }, { 101, 0xfc },
		{ 102, 0xabcd5678 }, { 103, 0xabcd5678 }, { 104, 0x9100 },
		{ 105, 1 }, { 106, 0x30000 }, { 107, 0x01020304 },
		{ 108, 0x33 }, { 109, 2 }, { 110, 0x5b }, { 111, 0x1357 },
		{ 112, 0x5b }, { 113, 0x63 }, { 114, -20 },
		/* real mode: leg[120 + (a - 9200) / 4] */
		{ 120, 0x5678 }, { 121, 0x1234 }, { 122, 1 },
		{ 123, 0xabcd5678 }, { 124, 0xabcd5678 }, { 125, 0x800 },
		{ 126, 0x1110 }, { 127, 0xabcd5678 }, { 128, 0xabcd5678 },
		{ 130, 0xd }, { 131, 0xd1 }, { 132, 0x64726153 },
		{ 133, 0x77 }, { 134, 0 }, { 135, 0 }, { 136, 1 },
		{ 137, 0xf }, { 138, 0x78563412 }, { 139, 0xe00 },
		{ 140, 0x01020304 },
		/* paging */
		{ 171, 0xabcd5678 }, { 172, 14 }, { 173, 3 }, { 174, 0 },
		{ 175, 0x401100 }, { 176, 14 }, { 177, 0 }, { 179, 0x402000 },
		{ 180, 14 }, { 181, 0 }, { 183, 0x20 }, { 184, 0x60 },
		{ 185, 0x60 }, { 199, 0x600d },
	};

	part("before long mode");
	for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		u32 got = leg[t[i].n], want = t[i].want;

		/* TCG knows no limits and no segment rights */
		if (is_tcg() && ((t[i].n >= 2 && t[i].n <= 16) ||
				 (t[i].n >= 23 && t[i].n <= 32 &&
				  t[i].n != 29) ||
				 t[i].n == 130 || t[i].n == 131))
			continue;
		/* 16-bit stores leave the upper half of a cell alone */
		if (t[i].n >= 120 && t[i].n < 170 && want < 0x10000 &&
		    t[i].n != 130 && t[i].n != 131)
			got &= 0xffff;
		if (got != want)
			fail_at("legacy", t[i].n, "step %u: %x, want %x",
				t[i].n, got, want);
	}
	CHECK_EQ(leg[170], *(u32 *)code16);
}

/* ---- compatibility mode: 32- and 16-bit code under long mode ---- */
static u64 low = 0x50000000;
static u8 *cpage;

static void compat(void)
{
	struct regs r, a;
	u8 *p;

	part("compat");
	cpage = map_page(low, NULL, URW);
	/* what IRET to CPL 3 does not take away */
	asm volatile("mov %0, %%ds\n mov %0, %%es" ::"r"(UDS));
	for (unsigned user = 0; user < 2; user++) {
		/* 40: inc eax; 48: dec eax; 05 imm32; 8b 03: mov eax,[ebx] */
		static const u8 c[] = {
			0x40, 0x40, 0x48, 0x8b, 0x0b, 0x50, 0x5a,
			0x67, 0x8b, 0x37,	/* mov esi, [bx] */
			0x60, 0x61,		/* pusha; popa */
			0x2f,			/* das */
			0xcd, VEC_DONE,
		};

		memcpy(cpage, c, sizeof(c));
		*(u32 *)(cpage + 0x100) = 0x89abcdef;
		if (user)
			regs_user(&r, (void *)low);
		else
			regs_kernel(&r, (void *)low);
		r.cs = user ? UCS32 : KCS32;
		r.rsp = low + 0x800;
		r.rax = 0x99;
		r.rbx = low + 0x100;
		a = r;
		/* [bx] with bx = 0100 is page 0: not mapped */
		run(&r);
		expect_pf(&r, user ? PF_U : 0, low + 7, 0x100);
		CHECK_EQ(r.rax, 0x9a);
		CHECK_EQ(r.rcx, 0x89abcdef);
		CHECK_EQ(r.rdx, 0x9a);
		CHECK_EQ(r.cs, a.cs);
		memset(cpage + 7, 0x90, 3);
		r = a;
		r.rip = low;
		run_ok(&r);
		CHECK_EQ((u32)r.rax, 0x34); /* 9a, DAS: 9a-6-60 = 34 */
		CHECK_EQ((u32)r.rsp, low + 0x800);
		/* 64-bit registers are not touched by their 32-bit halves
		 * beyond what long mode leaves undefined: r8.. are kept */
		CHECK_EQ(r.r10, a.r10);
		CHECK_EQ(r.r15, a.r15);
	}
	/* 32-bit addresses wrap in compatibility mode */
	p = cpage;
	static const u8 w[] = { 0x8b, 0x81, 0, 0, 0, 0x90, 0xcd, VEC_DONE };

	memcpy(p, w, sizeof(w)); /* mov eax, [ecx - 0x70000000] */
	*(u32 *)(cpage + 0x100) = 0x1234;
	regs_user(&r, (void *)low);
	r.cs = UCS32;
	r.rsp = low + 0x800;
	r.rcx = (u32)(low + 0x100 + 0x70000000);
	run_ok(&r);
	CHECK_EQ((u32)r.rax, 0x1234);
	/* a segment base counts here */
	gdt[FREESEL / 8] = 0x00cff3000000ffff | (low & 0xffffff) << 16 |
			   (low >> 24) << 56;
	static const u8 s[] = { 0x8e, 0xd9, 0xa1, 0, 1, 0, 0, 0xb9, UDS, 0, 0, 0,
				0x8e, 0xd9, 0xcd, VEC_DONE };

	memcpy(p, s, sizeof(s)); /* mov ds, ecx; mov eax, [100]; ds back */
	regs_user(&r, (void *)low);
	r.cs = UCS32;
	r.rsp = low + 0x800;
	r.rcx = FREESEL | 3;
	run_ok(&r);
	CHECK_EQ((u32)r.rax, 0x1234);
	/* a limit, too */
	gdt[FREESEL / 8] = 0x0040f300000000ff | (low & 0xffffff) << 16 |
			   (low >> 24) << 56;
	regs_user(&r, (void *)low);
	r.cs = UCS32;
	r.rsp = low + 0x800;
	r.rcx = FREESEL | 3;
	run(&r);
	if (is_tcg() && r.vec == VEC_DONE)
		skip("limits in compatibility mode (TCG)");
	else
		expect_fault(&r, 13, 0, low + 2);
	asm volatile("mov %0, %%ds" ::"r"(KDS));
	/* far jump from compatibility to 64-bit code and back, 2000 times */
	p = cpage;
	static const u8 f[] = {
		/* 00 */ 0xea, 0x20, 0, 0, 0, UCS, 0, /* ljmp UCS:20 */
		/* 07 */ 0x49, /* dec ecx */
		/* 08 */ 0x75, 0xf6, /* jnz 0 */
		/* 0a */ 0xcd, VEC_DONE,
	};
	static const u8 g[] = {
		/* 20 */ 0x48, 0xff, 0xc3, /* inc rbx */
		/* 23 */ 0xff, 0x2d, 0, 0, 0, 0, /* ljmp [rip] */
		/* 29 */ 0x07, 0, 0, 0, UCS32, 0,
	};

	memset(cpage, 0, 0x40);
	memcpy(cpage, f, sizeof(f));
	memcpy(cpage + 0x20, g, sizeof(g));
	*(u32 *)(cpage + 1) = low + 0x20;
	*(u32 *)(cpage + 0x29) = low + 7;
	regs_user(&r, (void *)low);
	r.cs = UCS32;
	r.rsp = low + 0x800;
	r.rbx = 0;
	r.rcx = 2000;
	run_ok(&r);
	CHECK_EQ(r.rbx, 2000);
	/* 16-bit code */
	static const u8 h[] = { 0xb8, 0x34, 0x12, /* mov ax, 1234 */
				0x66, 0x05, 1, 0, 1, 0, /* add eax, 10001 */
				0xcd, VEC_DONE };

	gdt[FREESEL / 8 + 1] = 0x00009b000000ffff | (low & 0xffffff) << 16 |
			       (low >> 24) << 56;
	memcpy(cpage + 0x300, h, sizeof(h));
	regs_kernel(&r, (void *)0x300);
	r.cs = FREESEL + 8;
	r.rax = 0xaaaa0000;
	run(&r);
	CHECK_EQ(r.vec, VEC_DONE);
	CHECK_EQ((u32)r.rax, 0xaaab1235);
	CHECK_EQ(r.rip, 0x300 + sizeof(h));
	unmap_page(low);
}

int main(void)
{
	check32();
	compat();
	return 0;
}
