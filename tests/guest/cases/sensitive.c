/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instructions that tell about, or touch, privileged state: what CPL 3 may and
 * may not, what they answer at CPL 0, and that what they answer is the guest's
 * state and not the host's. CPUID and what it promises must agree.
 */
#include "tests/guest/rt/enc.h"

/* ---- CPL 3 ---- */
#define U(n, body) USNIP(n, "inc %r9\n.globl " #n "_at\n" #n "_at: " body);   \
	extern char n##_at[]
U(p_cli, "cli");
U(p_sti, "sti");
U(p_hlt, "hlt");
U(p_in, "in $0x60, %al");
U(p_out, "out %al, $0x80");
U(p_indx, "mov $0x3f8, %edx\n in %dx, %eax");
U(p_ins, "insb");
U(p_outs, "rep outsb");
U(p_rdmsr, "rdmsr");
U(p_wrmsr, "wrmsr");
U(p_rcr0, "mov %cr0, %rax");
U(p_wcr0, "mov %rax, %cr0");
U(p_rcr3, "mov %cr3, %rbx");
U(p_wcr3, "mov %rax, %cr3");
U(p_wcr4, "mov %rax, %cr4");
U(p_rcr8, "mov %cr8, %rax");
U(p_rdr, "mov %dr7, %rax");
U(p_wdr, "mov %rax, %dr7");
U(p_lgdt, "lgdt (%rdi)");
U(p_lidt, "lidt (%rdi)");
U(p_lldt, "lldt %ax");
U(p_ltr, "ltr %ax");
U(p_lmsw, "lmsw %ax");
U(p_clts, "clts");
U(p_invd, "invd");
U(p_wbinvd, "wbinvd");
U(p_invlpg, "invlpg (%rdi)");
U(p_swapgs, "swapgs");
U(p_xsetbv, "xsetbv");
U(p_rdpmc, "rdpmc");
U(p_iret, "pushq $0x10\n push %rsp\n pushfq\n pushq $8\n push $0\n iretq");

static void privileged(void)
{
	static const struct {
		const char *name, *code, *at;
	} t[] = {
#define E(n) { #n, n, n##_at }
		E(p_cli), E(p_sti), E(p_hlt), E(p_in), E(p_out), E(p_ins),
		E(p_outs), E(p_rdmsr), E(p_wrmsr), E(p_rcr0), E(p_wcr0),
		E(p_rcr3), E(p_wcr3), E(p_wcr4), E(p_rcr8), E(p_rdr), E(p_wdr),
		E(p_lgdt), E(p_lidt), E(p_lldt), E(p_ltr), E(p_lmsw),
		E(p_clts), E(p_invd), E(p_wbinvd), E(p_invlpg), E(p_swapgs),
		E(p_xsetbv), E(p_rdpmc),
	};
	struct regs r, a;

	part("privileged");
	xsave_enable();
	for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		if (is_tcg() && t[i].code == p_rdpmc)
			continue;
		if (!has_xsave() && t[i].code == p_xsetbv)
			continue;
		for (unsigned iopl = 0; iopl < 3; iopl += 2) {
			regs_user(&r, t[i].code);
			r.rdi = USTACK_TOP - 256;
			r.rsi = USTACK_TOP - 256;
			r.rcx = 0xc0000080;
			r.rflags |= iopl << 12; /* below 3: no more rights */
			a = r;
			a.r9++;
			run(&r);
			if (r.vec != 13 || r.err || r.rip != (u64)t[i].at)
				fail_at(t[i].name, iopl, "vec %lu err %lx rip "
					"%lx", r.vec, r.err, r.rip);
			same_regs_at(t[i].name, iopl, &a, &r, 0);
		}
	}
	regs_user(&r, p_iret); /* to CPL 0 */
	run(&r);
	CHECK_EQ(r.vec, 13);
	CHECK_EQ(r.cs, UCS);
	/* IOPL 3: these are allowed */
	regs_user(&r, p_cli);
	r.rflags |= FL_IOPL | FL_IF;
	run_ok(&r);
	CHECK_EQ(r.rflags & FL_IF, 0);
	regs_user(&r, p_sti);
	r.rflags |= FL_IOPL;
	run_ok(&r);
	CHECK_EQ(r.rflags & FL_IF, FL_IF);
	regs_user(&r, p_out);
	r.rflags |= FL_IOPL;
	run_ok(&r);
	/* the TSS' I/O bitmap */
	regs_user(&r, p_indx);
	run(&r);
	CHECK_EQ(r.vec, 13);
	tss.bits[0x3f8 / 8] &= ~0x0f;
	regs_user(&r, p_indx);
	run_ok(&r);
	tss.bits[0x3f8 / 8] |= 0x08; /* one of the four bytes */
	regs_user(&r, p_indx);
	run(&r);
	CHECK_EQ(r.vec, 13);
	tss.bits[0x3f8 / 8] = 0xff;
}

/* ---- POPF, PUSHF at CPL 3 ---- */
USNIP(u_popf, "push %rax\n popfq\n pushfq\n pop %rbx\n pushw $0\n popfw\n"
	      "pushfq\n pop %rcx");
static void popf(void)
{
	struct regs r;

	part("popf");
	for (unsigned i = 0; i < 16; i++) {
		u64 in = 2 | (i & 1 ? FL_IF : 0) | (i & 2 ? FL_IOPL : 0);
		u64 v = FL_ARITH | FL_DF | FL_NT | FL_AC | FL_ID |
			(i & 4 ? FL_IF : 0) | (i & 8 ? FL_IOPL : 0);
		u64 want;

		regs_user(&r, u_popf);
		r.rflags = in;
		r.rax = v;
		run_ok(&r);
		/* IOPL never changes; IF only if IOPL is 3 */
		want = 2 | (v & ~(FL_IF | FL_IOPL)) | (in & FL_IOPL) |
		       (i & 2 ? v & FL_IF : in & FL_IF);
		CHECK_EQ(r.rbx, want);
		CHECK_EQ(r.rcx & (FL_ARITH | FL_DF | FL_NT), 0);
		CHECK_EQ(r.rcx & (FL_AC | FL_ID | FL_IOPL),
			 FL_AC | FL_ID | (in & FL_IOPL));
		CHECK_EQ(r.rcx & FL_IF, i & 2 ? 0 : in & FL_IF);
	}
}

/* ---- descriptor table registers ---- */
struct dt {
	u16 limit;
	u64 base;
} __attribute__((packed));
U(q_sgdt, "sgdt (%rdi)");
U(q_sidt, "sidt (%rdi)");
U(q_sldt, "sldt %eax");
U(q_str, "str %eax");
U(q_smsw, "smsw %eax");
U(q_sldtm, "sldt (%rdi)");
U(q_smswm, "smsw (%rdi)");
SNIP(k_store, "sgdt (%rdi)\n sidt 16(%rdi)\n sldt %eax\n str %ecx\n smsw %rdx\n"
	      "sldt 32(%rdi)\n str 34(%rdi)\n smsw 36(%rdi)\n str %r10w\n"
	      "smsw %r11d\n smsw %r12w");

static void tables(void)
{
	static const struct {
		const char *code, *at;
	} t[] = { { q_sgdt, q_sgdt_at }, { q_sidt, q_sidt_at },
		  { q_sldt, q_sldt_at }, { q_str, q_str_at },
		  { q_smsw, q_smsw_at }, { q_sldtm, q_sldtm_at },
		  { q_smswm, q_smswm_at } };
	static u8 buf[64] USER_DATA = { 1 };
	struct regs r, a;
	struct dt *d;

	part("tables");
	memset(buf, 0xee, 64);
	regs_kernel(&r, k_store);
	r.rdi = (u64)buf;
	a = r;
	run_ok(&r);
	d = (struct dt *)buf;
	CHECK_EQ(d->base, (u64)gdt);
	d = (struct dt *)(buf + 16);
	CHECK_EQ(d->base, (u64)idt);
	CHECK_EQ(d->limit, 4095);
	CHECK_EQ(buf[10], 0xee);
	CHECK_EQ(r.rax, 0);
	CHECK_EQ(r.rcx, TSSEL);
	CHECK_EQ(r.rdx, read_cr0());
	CHECK_EQ(*(u16 *)(buf + 32), 0);
	CHECK_EQ(*(u16 *)(buf + 34), TSSEL);
	CHECK_EQ(*(u16 *)(buf + 36), (u16)read_cr0());
	CHECK_EQ(buf[38], 0xee);
	CHECK_EQ(r.r10, (a.r10 & ~0xffffull) | TSSEL);
	CHECK_EQ(r.r11, (u32)read_cr0());
	CHECK_EQ(r.r12, (a.r12 & ~0xffffull) | (u16)read_cr0());
	/* at CPL 3 without UMIP: the guest's values */
	write_cr4(read_cr4() & ~CR4_UMIP);
	for (unsigned i = 0; i < 7; i++) {
		memset(buf, 0xee, 64);
		regs_user(&r, t[i].code);
		r.rdi = (u64)buf;
		run_ok(&r);
		if (i == 0)
			CHECK_EQ(*(u64 *)(buf + 2), (u64)gdt);
		if (i == 1)
			CHECK_EQ(*(u64 *)(buf + 2), (u64)idt);
		if (i == 2)
			CHECK_EQ(r.rax, 0);
		if (i == 3)
			CHECK_EQ(r.rax, TSSEL);
		if (i == 4)
			CHECK_EQ(r.rax, (u32)read_cr0());
		if (i == 6)
			CHECK_EQ(*(u16 *)buf, (u16)read_cr0());
	}
	if (!has_umip())
		return skip("UMIP");
	write_cr4(read_cr4() | CR4_UMIP);
	for (unsigned i = 0; i < 7; i++) {
		memset(buf, 0xee, 64);
		regs_user(&r, t[i].code);
		r.rdi = (u64)buf;
		a = r;
		a.r9++;
		run(&r);
		expect_fault(&r, 13, 0, t[i].at);
		same_regs(&a, &r, 0);
		CHECK_EQ(buf[0], 0xee);
	}
	regs_kernel(&r, k_store);
	r.rdi = (u64)buf;
	run_ok(&r);
	CHECK_EQ(r.rcx, TSSEL);
	write_cr4(read_cr4() & ~CR4_UMIP);
}

/* ---- LSL, LAR, VERR, VERW ---- */
U(q_lsl, "lsl %ecx, %eax\n setz %bl\n lar %ecx, %edx\n setz %bh\n"
	 "verr %cx\n setz %sil\n verw %cx\n setz %dil\n lsl %rcx, %r10\n"
	 "lar %cx, %r11w");
SNIP(k_lsl, "lsl %ecx, %eax\n setz %bl\n lar %ecx, %edx\n setz %bh\n"
	    "verr %cx\n setz %sil\n verw %cx\n setz %dil\n lsl %rcx, %r10\n"
	    "lar %cx, %r11w");
static void lsl_lar(void)
{
	static const struct {
		u16 sel;
		bool ok, user_ok, r, w, ur, uw;
		u32 limit, lar;
	} t[] = {
		{ 0, 0, 0, 0, 0, 0, 0, 0, 0 },
		{ KCS, 1, 0, 1, 0, 0, 0, 0xffffffff, 0xaf9b00 },
		{ KDS, 1, 0, 1, 1, 0, 0, 0xffffffff, 0xcf9300 },
		{ UDS, 1, 1, 1, 1, 1, 1, 0xffffffff, 0xcff300 },
		{ UCS, 1, 1, 1, 0, 1, 0, 0xffffffff, 0xaffb00 },
		{ KDS | 3, 0, 0, 0, 0, 0, 0, 0, 0 },
		{ TSSEL, 1, 0, 0, 0, 0, 0, sizeof(struct tss) - 1, 0x008b00 },
		{ 0xfff8, 0, 0, 0, 0, 0, 0, 0, 0 },
		{ 0x000c, 0, 0, 0, 0, 0, 0, 0, 0 }, /* in the (null) LDT */
		/* byte-granular, read-only data, not present is still fine */
		{ FREESEL | 3, 1, 1, 0, 0, 0, 0, 0x12345, 0x017000 },
		{ FREESEL + 8 + 3, 1, 1, 1, 0, 1, 0, 0x00012345, 0x01f100 },
		/* execute-only code; expand-down */
		{ FREESEL + 16 + 3, 1, 1, 0, 0, 0, 0, 0x00012fff, 0x80f900 },
		{ FREESEL + 24, 0, 0, 0, 0, 0, 0, 0, 0 }, /* interrupt gate */
	};

	part("lsl lar");
	gdt[FREESEL / 8] = 0x0001700000002345;
	gdt[FREESEL / 8 + 1] = 0x0001f10000002345;
	gdt[FREESEL / 8 + 2] = 0x0080f90000000012;
	gdt[FREESEL / 8 + 3] = 0x0000ee0000000000;
	for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++)
		for (unsigned user = 0; user < 2; user++) {
			bool ok = user ? t[i].user_ok : t[i].ok;
			struct regs r, a;

			if (is_tcg() && t[i].sel == 0xc)
				continue; /* TCG reads through a null LDT */
			if (user)
				regs_user(&r, q_lsl);
			else
				regs_kernel(&r, k_lsl);
			r.rcx = t[i].sel;
			if (user && (t[i].sel & 3) == 0 && t[i].sel == 0)
				ok = false;
			a = r;
			run_ok(&r);
			if ((r.rbx & 0xff) != ok || (r.rbx >> 8 & 0xff) != ok)
				fail_at("lsl", t[i].sel, "user %u: zf %lx", user,
					r.rbx & 0xffff);
			if (ok) {
				CHECK_EQ(r.rax, t[i].limit);
				CHECK_EQ(r.rdx & ~0xf0000ull,
					 t[i].lar & ~0xf0000);
				CHECK_EQ(r.r10, t[i].limit);
				CHECK_EQ(r.r11, (a.r11 & ~0xffffull) |
						(t[i].lar & 0xff00));
			} else {
				CHECK_EQ(r.rax, a.rax);
				CHECK_EQ(r.rdx, a.rdx);
				CHECK_EQ(r.r10, a.r10);
			}
			/* an absent segment: VERR has its own view (P is not
			 * looked at by the SDM's text, CPUs differ) */
			if (t[i].sel == (FREESEL | 3))
				continue;
			CHECK_EQ(r.rsi & 0xff, user ? t[i].ur : t[i].r);
			CHECK_EQ(r.rdi & 0xff, user ? t[i].uw : t[i].w);
		}
}

/* ---- segment registers ---- */
U(q_seg, "mov %ds, %eax\n mov %es, %ecx\n mov %cs, %edx\n mov %ss, %esi\n"
	 "mov %cs, %r10w\n mov %ss, %r11\n mov %ebx, %ds\n mov %ebx, %es\n"
	 "mov %ds, %edi");
U(q_badseg, "mov %eax, %ds");
static void segments(void)
{
	struct regs r, a;

	part("segments");
	regs_user(&r, q_seg);
	r.rbx = UDS;
	a = r;
	run_ok(&r);
	CHECK_EQ(r.rdx, UCS);
	CHECK_EQ(r.rsi, UDS);
	CHECK_EQ(r.r10, (a.r10 & ~0xffffull) | UCS);
	CHECK_EQ(r.r11, UDS);
	CHECK_EQ(r.rdi, UDS);
	/* a null selector and UDS go; kernel data, a TSS, beyond: #GP */
	static const struct {
		u16 sel, vec;
	} t[] = { { 0, VEC_DONE }, { 3, VEC_DONE }, { UDS, VEC_DONE },
		  { KDS, 13 }, { KDS | 3, 13 }, { TSSEL, 13 }, { 0xfff8, 13 },
		  { UCS, VEC_DONE } };

	for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		regs_user(&r, q_badseg);
		r.rax = t[i].sel;
		run(&r);
		if (r.vec != t[i].vec ||
		    (r.vec == 13 && (r.err != (t[i].sel & ~3u) ||
				     r.rip != (u64)q_badseg_at)))
			fail_at("mov ds", t[i].sel, "vec %lu err %lx", r.vec,
				r.err);
	}
	/* returning to CPL 3 clears segment registers above its rights */
	asm volatile("mov %0, %%ds\n mov %0, %%es" ::"r"(KDS));
	regs_user(&r, q_seg);
	r.rbx = UDS;
	run_ok(&r);
	CHECK_EQ(r.rax, 0);
	CHECK_EQ(r.rcx, 0);
	asm volatile("mov %0, %%ds\n mov %0, %%es" ::"r"(KDS));
}

/* ---- CPUID against what works ---- */
SNIP(xgetbv0, "xor %ecx, %ecx\n xgetbv");
SNIP(rdtscp_s, "rdtscp");
SNIP(rdpid_s, "rdpid %rax");
SNIP(rdtsc_s, "rdtsc");
SNIP(xset, "xsetbv");
USNIP(u_rdtsc, "rdtsc");
USNIP(u_rdtscp, "rdtscp");
SNIP(cpu_id, "cpuid");
SNIP(f_bmi2, "rorx $3, %rax, %rbx");
SNIP(f_bmi1, "andn %rax, %rbx, %rcx");
SNIP(f_avx, "vxorps %xmm1, %xmm1, %xmm2");
SNIP(f_avx2, "vpaddd %ymm1, %ymm1, %ymm2");
SNIP(f_adx, "adcx %rax, %rbx");
SNIP(f_movbe, "movbe %rax, (%rsp)");
SNIP(f_popcnt, "popcnt %rax, %rbx");
SNIP(f_rdrand, "rdrand %rax");
SNIP(f_rdseed, "rdseed %rax");
SNIP(f_crc, "crc32 %rax, %rbx");
SNIP(f_aes, "aesenc %xmm1, %xmm2");
SNIP(f_pclmul, "pclmulqdq $0, %xmm1, %xmm2");
SNIP(f_sha, "sha1msg1 %xmm1, %xmm2");
SNIP(f_fma, "vfmadd132ps %xmm1, %xmm2, %xmm3");
SNIP(f_f16c, "vcvtph2ps %xmm1, %xmm2");
SNIP(f_gfni, "gf2p8mulb %xmm1, %xmm2");
SNIP(f_avx512, "vpaddd %zmm1, %zmm1, %zmm2");
SNIP(f_avx512vl, "vpaddd %xmm17, %xmm1, %xmm2");
SNIP(f_avx512dq, "vpmullq %zmm1, %zmm2, %zmm3");
SNIP(f_avx512bw, "kmovq %rax, %k1");
SNIP(f_avx512cd, "vplzcntd %zmm1, %zmm2");
SNIP(f_ifma, "vpmadd52luq %zmm1, %zmm2, %zmm3");
SNIP(f_vbmi, "vpermb %zmm1, %zmm2, %zmm3");
SNIP(f_vbmi2, "vpcompressb %zmm1, %zmm2");
SNIP(f_vnni, "vpdpbusd %zmm1, %zmm2, %zmm3");
SNIP(f_bitalg, "vpopcntb %zmm1, %zmm2");
SNIP(f_vpopcnt, "vpopcntd %zmm1, %zmm2");
SNIP(f_vp2i, "vp2intersectd %zmm1, %zmm2, %k2");
SNIP(f_fp16, ".byte 0x62, 0xf5, 0x6c, 0x48, 0x58, 0xd9"); /* vaddph */
SNIP(f_bf16, "vcvtneps2bf16 %zmm1, %ymm2");
SNIP(f_avxvnni, "{vex} vpdpbusd %ymm1, %ymm2, %ymm3");
SNIP(f_cx16, "and $-16, %rsp\n cmpxchg16b (%rsp)");
SNIP(f_ssse3, "pshufb %xmm1, %xmm2");
SNIP(f_sse41, "pminsd %xmm1, %xmm2");
SNIP(f_clflushopt, "clflushopt (%rsp)");
SNIP(f_clwb, "clwb (%rsp)");
SNIP(f_stac, "stac\n clac");
SNIP(f_fsgs, "rdfsbase %rax");
SNIP(f_xsavec, "lea -4096(%rsp), %rdi\n and $-64, %rdi\n mov $3, %eax\n"
	       "xor %edx, %edx\n xsavec (%rdi)");
SNIP(f_xsaveopt, "lea -4096(%rsp), %rdi\n and $-64, %rdi\n mov $3, %eax\n"
		 "xor %edx, %edx\n xsaveopt (%rdi)");
SNIP(f_serialize, ".byte 0x0f, 0x01, 0xe8");
SNIP(f_vmx, "vmxoff");
SNIP(f_svm, "clgi");
SNIP(f_rtm, "xend");
SNIP(f_invpcid, "lea -64(%rsp), %rdi\n movq $0, (%rdi)\n movq $0, 8(%rdi)\n"
		"mov $2, %eax\n invpcid (%rdi), %rax");
SNIP(f_lzcnt, "lzcnt %rax, %rbx");
SNIP(f_umwait, ".byte 0xf2, 0x0f, 0xae, 0xf0"); /* umwait %eax */
SNIP(f_rdpru, ".byte 0x0f, 0x01, 0xfd");

static void promises(void)
{
	/* leaf 1 c, 7 b, 7 c, 8..1 c, d */
	enum { C1, B7, C7, C81, A13, D7, B88, A71 };
	static const struct {
		const char *name, *code;
		u8 word, bit;
		bool soft; /* without the bit, anything may happen */
	} t[] = {
		{ "sse3", f_ssse3, C1, 9, 0 }, { "sse41", f_sse41, C1, 19, 0 },
		{ "crc32", f_crc, C1, 20, 0 }, { "movbe", f_movbe, C1, 22, 0 },
		{ "popcnt", f_popcnt, C1, 23, 0 }, { "aes", f_aes, C1, 25, 0 },
		{ "avx", f_avx, C1, 28, 0 }, { "f16c", f_f16c, C1, 29, 0 },
		{ "rdrand", f_rdrand, C1, 30, 0 }, { "fma", f_fma, C1, 12, 0 },
		{ "cx16", f_cx16, C1, 13, 0 }, { "pclmul", f_pclmul, C1, 1, 0 },
		{ "vmx", f_vmx, C1, 5, 0 },
		{ "bmi1", f_bmi1, B7, 3, 0 }, { "avx2", f_avx2, B7, 5, 0 },
		{ "bmi2", f_bmi2, B7, 8, 0 }, { "rtm", f_rtm, B7, 11, 0 },
		{ "rdseed", f_rdseed, B7, 18, 0 }, { "adx", f_adx, B7, 19, 0 },
		{ "smap", f_stac, B7, 20, 0 },
		{ "clflushopt", f_clflushopt, B7, 23, 0 },
		{ "clwb", f_clwb, B7, 24, 0 }, { "sha", f_sha, B7, 29, 0 },
		{ "invpcid", f_invpcid, B7, 10, 0 },
		{ "avx512f", f_avx512, B7, 16, 0 },
		{ "avx512vl", f_avx512vl, B7, 31, 0 },
		{ "avx512dq", f_avx512dq, B7, 17, 0 },
		{ "avx512bw", f_avx512bw, B7, 30, 0 },
		{ "avx512cd", f_avx512cd, B7, 28, 0 },
		{ "ifma", f_ifma, B7, 21, 0 }, { "vbmi", f_vbmi, C7, 1, 0 },
		{ "vbmi2", f_vbmi2, C7, 6, 0 }, { "vnni", f_vnni, C7, 11, 0 },
		{ "bitalg", f_bitalg, C7, 12, 0 },
		{ "vpopcntdq", f_vpopcnt, C7, 14, 0 },
		{ "vp2intersect", f_vp2i, D7, 8, 0 },
		{ "fp16", f_fp16, D7, 23, 0 }, { "bf16", f_bf16, A71, 5, 0 },
		{ "avx-vnni", f_avxvnni, A71, 4, 0 },
		{ "fsgsbase", f_fsgs, B7, 0, 0 },
		{ "gfni", f_gfni, C7, 8, 0 }, { "rdpid", rdpid_s, C7, 22, 0 },
		{ "waitpkg", f_umwait, C7, 5, 0 },
		{ "serialize", f_serialize, D7, 14, 0 },
		{ "svm", f_svm, C81, 2, 0 }, { "lzcnt", f_lzcnt, C81, 5, 1 },
		{ "xsavec", f_xsavec, A13, 1, 0 },
		{ "xsaveopt", f_xsaveopt, A13, 0, 0 },
		{ "rdpru", f_rdpru, B88, 4, 0 },
	};
	u32 w[8] = { cpuid(1, 0).c, cpuid(7, 0).b, cpuid(7, 0).c,
		     cpuid(0x80000001, 0).c, cpuid(13, 1).a, cpuid(7, 0).d,
		     cpuid(0x80000008, 0).b,
		     cpuid(7, 0).a ? cpuid(7, 1).a : 0 };

	part("promises");
	xsave_enable();
	if (has_fsgsbase())
		write_cr4(read_cr4() | CR4_FSGSBASE);
	for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		bool has = w[t[i].word] >> t[i].bit & 1, works;
		struct regs r;

		if (is_tcg() && (t[i].code == f_svm || t[i].code == f_lzcnt ||
				 t[i].code == f_rdseed || t[i].code == f_umwait))
			continue;
		regs_kernel(&r, t[i].code);
		r.rax = 0;
		run(&r);
		works = r.vec == VEC_DONE;
		if (r.vec != VEC_DONE && r.vec != 6 &&
		    !(r.vec == 13 && has && t[i].code == f_rtm))
			fail_at(t[i].name, i, "vec %lu", r.vec);
		if (t[i].code == f_rtm && r.vec == 13)
			works = true;
		if (works != has && !t[i].soft)
			fail_at(t[i].name, i, "CPUID says %d, it %s", has,
				works ? "works" : "is #UD");
	}
}

static void cpuid_xsave(void)
{
	struct cpuid c = cpuid(1, 0), d;
	struct regs r;
	u64 xcr0;

	part("cpuid");
	/* EAX..EDX are zero-extended; ECX in is used */
	regs_kernel(&r, cpu_id);
	r.rax = 0xffffffff00000001, r.rcx = 0;
	run_ok(&r);
	CHECK_EQ(r.rax, c.a);
	CHECK_EQ(r.rbx, c.b);
	CHECK_EQ(r.rcx, c.c);
	CHECK_EQ(r.rdx, c.d);
	CHECK(c.d >> 26 & 1 && c.d >> 25 & 1 && c.d >> 24 & 1 && c.d >> 15 & 1 &&
	      c.d >> 9 & 1 && c.d >> 6 & 1 && c.d >> 5 & 1, "leaf 1 edx %x",
	      c.d);
	if (!has_xsave())
		return skip("XSAVE");
	/* OSXSAVE in CPUID follows CR4 */
	write_cr4(read_cr4() & ~CR4_OSXSAVE);
	CHECK_EQ(cpuid(1, 0).c >> 27 & 1, 0);
	regs_kernel(&r, xgetbv0);
	run(&r);
	CHECK_EQ(r.vec, 6);
	write_cr4(read_cr4() | CR4_OSXSAVE);
	CHECK_EQ(cpuid(1, 0).c >> 27 & 1, 1);
	xsave_enable();
	regs_kernel(&r, xgetbv0);
	run_ok(&r);
	xcr0 = r.rax | r.rdx << 32;
	CHECK_EQ(xcr0, has_avx512() ? 0xe7 : has_avx() ? 7 : 3);
	d = cpuid(13, 0);
	CHECK_EQ(xcr0 & ~(d.a | (u64)d.d << 32), 0);
	CHECK_EQ(d.b, has_avx512() ? cpuid(13, 7).a + cpuid(13, 7).b
			: has_avx() ? 832
				    : 576);
	CHECK(d.c >= d.b);
	if (has_avx()) {
		struct cpuid y = cpuid(13, 2);

		CHECK_EQ(y.a, 256);
		CHECK_EQ(y.b, 576);
		/* size follows XCR0 */
		asm volatile("xsetbv" ::"a"(3), "d"(0), "c"(0));
		CHECK_EQ(cpuid(13, 0).b, 576);
		regs_kernel(&r, f_avx);
		run(&r);
		CHECK_EQ(r.vec, 6);
		xsave_enable();
		regs_kernel(&r, f_avx);
		run_ok(&r);
	}
	/* every component that is offered can be set; nothing else can */
	static const u32 bad[] = { 0, 2, 5, 4, 0x80000003 };

	for (unsigned i = 0; i < 5; i++) {
		regs_kernel(&r, xset);
		r.rax = bad[i], r.rdx = 0, r.rcx = 0;
		run(&r);
		expect_fault(&r, 13, 0, xset);
	}
	for (unsigned b = 2; b < 20; b++) {
		u32 m = 3 | 1u << b | (b > 2 ? 4 : 0);
		bool offered = (d.a & m) == m;

		if (b >= 3 && b <= 7)
			m |= b >= 5 ? 0xe4 : b == 3 || b == 4 ? 0x18 : 0;
		if (b >= 5 && b <= 7)
			offered = (d.a & m) == m;
		if (b == 17 || b == 18)
			continue;
		regs_kernel(&r, xset);
		r.rax = m, r.rdx = 0, r.rcx = 0;
		run(&r);
		if (is_tcg())
			break;
		CHECK((r.vec == VEC_DONE) == ((d.a & m) == m),
		      "xcr0 %x: vec %lu, offered %d (mask %x)", m, r.vec,
		      offered, d.a);
	}
	xsave_enable();
	regs_kernel(&r, xset);
	r.rax = 3, r.rdx = 0, r.rcx = 1;
	run(&r);
	expect_fault(&r, 13, 0, xset);
}

static void tsc(void)
{
	struct regs r;

	part("tsc");
	regs_user(&r, u_rdtsc);
	run_ok(&r);
	CHECK(!(r.rax >> 32) && !(r.rdx >> 32));
	write_cr4(read_cr4() | CR4_TSD);
	regs_user(&r, u_rdtsc);
	run(&r);
	expect_fault(&r, 13, 0, u_rdtsc);
	regs_kernel(&r, rdtsc_s);
	run_ok(&r);
	if (has_rdtscp()) {
		regs_user(&r, u_rdtscp);
		run(&r);
		expect_fault(&r, 13, 0, u_rdtscp);
		write_cr4(read_cr4() & ~CR4_TSD);
		for (unsigned i = 0; i < 4; i++) {
			wrmsr(0xc0000103, 0x1234 + i);
			regs_kernel(&r, rdtscp_s);
			run_ok(&r);
			CHECK_EQ(r.rcx, 0x1234 + i);
			regs_user(&r, u_rdtscp);
			run_ok(&r);
			CHECK_EQ(r.rcx, 0x1234 + i);
			if (has_rdpid()) {
				regs_kernel(&r, rdpid_s);
				run_ok(&r);
				CHECK_EQ(r.rax, 0x1234 + i);
			}
		}
	}
	write_cr4(read_cr4() & ~CR4_TSD);
}

/* ---- CPL 0: control registers and MSRs read back, bad values fault ---- */
SNIP(wcr0, "mov %rax, %cr0");
SNIP(wcr4, "mov %rax, %cr4");
SNIP(wcr8, "mov %rax, %cr8");
SNIP(wcr3, "mov %rax, %cr3");
SNIP(rcr1, ".byte 0x0f, 0x20, 0xc8");
SNIP(wefer, "wrmsr");
static void control(void)
{
	u64 cr0 = read_cr0(), cr4 = read_cr4();
	struct regs r;
	struct {
		const char *code;
		u64 v;
	} bad[] = {
		{ wcr0, cr0 & ~1ull },		  /* PG without PE */
		{ wcr0, cr0 & ~(1ull << 31) },	  /* PG off in 64-bit code */
		{ wcr0, cr0 | 1ull << 32 },
		{ wcr0, (cr0 | 1ull << 29) & ~(1ull << 30) }, /* NW, not CD */
		{ wcr4, cr4 & ~0x20ull },	  /* PAE off in long mode */
		{ wcr4, cr4 | 1ull << 31 },
		{ wcr4, cr4 | 1ull << 63 },
		{ wcr8, 16 },
		{ wcr8, 1ull << 63 },
		{ wcr3, 1ull << 52 },
	};

	part("control registers");
	CHECK_EQ(cr0 & 0x80010001, 0x80010001);
	regs_kernel(&r, rcr1);
	run(&r);
	expect_fault(&r, 6, 0, rcr1);
	/* a selector of #NM, CLTS */
	write_cr0(cr0 | CR0_TS);
	CHECK_EQ(read_cr0() & CR0_TS, CR0_TS);
	asm volatile("clts");
	CHECK_EQ(read_cr0(), cr0);
	/* LMSW sets PE MP EM TS, never clears PE */
	asm volatile("lmsw %w0" ::"r"(0x8));
	CHECK_EQ(read_cr0() & 0xf, 0x9);
	write_cr0(cr0);
	CHECK_EQ(read_cr0(), cr0);
	for (u64 i = 0; i < 16; i++) {
		write_cr8(i);
		CHECK_EQ(read_cr8(), i);
	}
	write_cr8(0);
	write_cr2(0x123456789abc);
	CHECK_EQ(read_cr2(), 0x123456789abc);
	if (is_tcg())
		return skip("reserved bits (TCG checks few)");
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		regs_kernel(&r, bad[i].code);
		r.rax = bad[i].v;
		run(&r);
		if (r.vec != 13 || r.err || r.rip != (u64)bad[i].code)
			fail_at("control", i, "%lx: vec %lu", bad[i].v, r.vec);
	}
	CHECK_EQ(read_cr0(), cr0);
	CHECK_EQ(read_cr4(), cr4);
	/* EFER: LME may not change while paging; reserved bits */
	regs_kernel(&r, wefer);
	r.rcx = MSR_EFER, r.rax = (u32)rdmsr(MSR_EFER) & ~0x100, r.rdx = 0;
	run(&r);
	expect_fault(&r, 13, 0, wefer);
	regs_kernel(&r, wefer);
	r.rcx = MSR_EFER, r.rax = (u32)rdmsr(MSR_EFER) | 2, r.rdx = 0;
	run(&r);
	expect_fault(&r, 13, 0, wefer);
	/* PAT: a bad type */
	regs_kernel(&r, wefer);
	r.rcx = 0x277, r.rax = 0x02020202, r.rdx = 0;
	run(&r);
	expect_fault(&r, 13, 0, wefer);
	wrmsr(0x277, 0x0007040600070406);
	CHECK_EQ(rdmsr(0x277), 0x0007040600070406);
}

int main(void)
{
	privileged();
	popf();
	tables();
	lsl_lar();
	segments();
	cpuid_xsave();
	promises();
	tsc();
	control();
	return 0;
}
