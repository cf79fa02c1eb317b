/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SARDINE_VMM_X86_REGS_H
#define SARDINE_VMM_X86_REGS_H
/* Architectural constants, by section of Intel's SDM. Pure. */

/* Vol. 1, 3.4.3 */
#define FL_CF		   (1ull << 0)
#define FL_R1		   (1ull << 1)
#define FL_PF		   (1ull << 2)
#define FL_AF		   (1ull << 4)
#define FL_ZF		   (1ull << 6)
#define FL_SF		   (1ull << 7)
#define FL_TF		   (1ull << 8)
#define FL_IF		   (1ull << 9)
#define FL_DF		   (1ull << 10)
#define FL_OF		   (1ull << 11)
#define FL_IOPL		   (3ull << 12)
#define FL_NT		   (1ull << 14)
#define FL_RF		   (1ull << 16)
#define FL_VM		   (1ull << 17)
#define FL_AC		   (1ull << 18)
#define FL_VIF		   (1ull << 19)
#define FL_VIP		   (1ull << 20)
#define FL_ID		   (1ull << 21)
#define FL_ARITH	   (FL_CF | FL_PF | FL_AF | FL_ZF | FL_SF | FL_OF)
/* Flags that live in the host's RFLAGS while translated code runs. */
#define FL_HOST		   (FL_ARITH | FL_DF)

/* Vol. 3, 2.5 */
#define CR0_PE		   (1ull << 0)
#define CR0_MP		   (1ull << 1)
#define CR0_EM		   (1ull << 2)
#define CR0_TS		   (1ull << 3)
#define CR0_ET		   (1ull << 4)
#define CR0_NE		   (1ull << 5)
#define CR0_WP		   (1ull << 16)
#define CR0_AM		   (1ull << 18)
#define CR0_NW		   (1ull << 29)
#define CR0_CD		   (1ull << 30)
#define CR0_PG		   (1ull << 31)
#define CR3_NOFLUSH	   (1ull << 63)
#define CR3_ADDR	   0x000ffffffffff000ull
#define CR3_PCID	   0xfffull
#define CR4_VME		   (1ull << 0)
#define CR4_PVI		   (1ull << 1)
#define CR4_TSD		   (1ull << 2)
#define CR4_DE		   (1ull << 3)
#define CR4_PSE		   (1ull << 4)
#define CR4_PAE		   (1ull << 5)
#define CR4_MCE		   (1ull << 6)
#define CR4_PGE		   (1ull << 7)
#define CR4_PCE		   (1ull << 8)
#define CR4_OSFXSR	   (1ull << 9)
#define CR4_OSXMMEXCPT	   (1ull << 10)
#define CR4_UMIP	   (1ull << 11)
#define CR4_FSGSBASE	   (1ull << 16)
#define CR4_PCIDE	   (1ull << 17)
#define CR4_OSXSAVE	   (1ull << 18)
#define CR4_SMEP	   (1ull << 20)
#define CR4_SMAP	   (1ull << 21)
#define XCR0_X87	   (1ull << 0)
#define XCR0_SSE	   (1ull << 1)
#define XCR0_AVX	   (1ull << 2)
#define XCR0_AVX512	   (7ull << 5) /* masks, ZMM0-15, ZMM16-31 */
#define XCR0_ALL	   (7ull | XCR0_AVX512)
#define EFER_SCE	   (1ull << 0)
#define EFER_LME	   (1ull << 8)
#define EFER_LMA	   (1ull << 10)
#define EFER_NXE	   (1ull << 11)

/* Vol. 3, 4.5: paging-structure entries */
#define PTE_P		   (1ull << 0)
#define PTE_W		   (1ull << 1)
#define PTE_U		   (1ull << 2)
#define PTE_A		   (1ull << 5)
#define PTE_D		   (1ull << 6)
#define PTE_PS		   (1ull << 7)
#define PTE_G		   (1ull << 8)
#define PTE_NX		   (1ull << 63)
#define PTE_ADDR	   0x000ffffffffff000ull

/* Vol. 3, 17.2: debug registers */
#define DR6_FIXED1	   0xffff0ff0ull
#define DR6_WRITABLE	   0xe00full
#define DR6_BD		   (1ull << 13)
#define DR6_BS		   (1ull << 14)
#define DR7_FIXED1	   0x400ull
#define DR7_GD		   (1ull << 13)
#define DR7_WRITABLE	   0xffff23ffull

/* Vol. 3, 3.5 and 5.8: types of system descriptors (S = 0) */
#define DESC_TSS16_AVL	   0x1
#define DESC_LDT	   0x2
#define DESC_TSS16_BUSY	   0x3
#define DESC_CALL16	   0x4
#define DESC_TASK_GATE	   0x5
#define DESC_INT16	   0x6
#define DESC_TRAP16	   0x7
#define DESC_TSS_AVL	   0x9
#define DESC_TSS_BUSY	   0xb
#define DESC_CALL	   0xc
#define DESC_INT	   0xe
#define DESC_TRAP	   0xf
/* Type bits of code and data descriptors (S = 1) */
#define DESC_ACCESSED	   0x1
#define DESC_WRITABLE	   0x2 /* data */
#define DESC_READABLE	   0x2 /* code */
#define DESC_EXPAND	   0x4 /* data: expand down */
#define DESC_CONFORMING	   0x4 /* code */
#define DESC_CODE	   0x8
/* Selectors */
#define SEL_RPL		   3u
#define SEL_TI		   4u

/* Vol. 4 */
#define MSR_TSC		   0x10
#define MSR_APIC_BASE	   0x1b
#define MSR_TSC_ADJUST	   0x3b
#define MSR_SPEC_CTRL	   0x48
#define MSR_PRED_CMD	   0x49
#define MSR_ARCH_CAPS	   0x10a
#define MSR_SYSENTER_CS	   0x174
#define MSR_SYSENTER_ESP   0x175
#define MSR_SYSENTER_EIP   0x176
#define MSR_MISC_ENABLE	   0x1a0
#define MSR_PAT		   0x277
#define MSR_TSC_DEADLINE   0x6e0
#define MSR_X2APIC_FIRST   0x800
#define MSR_X2APIC_LAST	   0x8ff
#define MSR_EFER	   0xc0000080
#define MSR_STAR	   0xc0000081
#define MSR_LSTAR	   0xc0000082
#define MSR_CSTAR	   0xc0000083
#define MSR_FMASK	   0xc0000084
#define MSR_FS_BASE	   0xc0000100
#define MSR_GS_BASE	   0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102
#define MSR_TSC_AUX	   0xc0000103
#endif
